"""A training loop retains the graph of each backward, and nothing uses it again.

## What it does

Reports `backward(retain_graph=True)` in a loop in which an optimizer steps, if no other backward goes through that
graph, no `autograd.grad` does, and no code that cannot be seen gets a tensor of it.

## Why it is a trap

A backward frees what its graph has saved for it: all activations of the model. With `retain_graph=True` they stay
until the last reference to the loss is gone, as a rule until the next iteration has computed its own: at the peak, two
graphs are in memory instead of one (in the demo, each step leaves the activations behind that the fixed one has freed).
It also hides mistakes: a state that is carried on with its history no longer raises, and grows in silence.

## Known limits

False positives: a second backward through a graph that a module has kept for itself, out of sight.

False negatives: an inner loop of which only the last backward need not retain; losses next to each other that come out
of code which cannot be seen, and may share a graph; a `retain_graph` that is a setting; a function that the loop calls,
where neither what it returns nor another name or attribute is seen to hold the graph: it is gone when the function
returns.

There is no fix: if the step raises without it, something carries a graph on, which is the mistake to look for.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward(retain_graph=True)
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field

from flake8_gradtrap.events import (
    Backpropagated,
    Differentiated,
    Escaped,
    FileEnded,
    FunctionLeft,
    IterationStarted,
    RunEnded,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import InLoops, forget, frame, graph_of, quoted, tagged
from flake8_gradtrap.rule import Watch, on

LOGS = re.compile(r"log|print|info|write|add_scalar|update|append|set_postfix|step$|save", re.IGNORECASE)


@dataclass
class Retained:
    """A backward that retains its graph, as all paths have seen it. `used`: something may go through it again.
    `outlives`: it stands in the function of the loop, or something holds the graph when its own function has returned.
    """

    site: Site
    loss: str
    loop: Hashable
    loop_site: Site
    tensors: set[Hashable] = field(default_factory=set)
    partial: bool = False
    used: bool = False
    outlives: bool = False


class GraphRetainedInLoop(InLoops):
    """Whether a graph is used again is asked on all paths: the rule keeps it on itself, by the place."""

    code = "GTR404"
    name = "graph-retained-in-loop"
    summary = "A training loop retains the graph of each backward, and nothing uses it again"
    words = ("retain_graph",)
    waits = ("retained",)

    def __init__(self) -> None:
        self.retained: dict[Hashable, Retained] = {}
        self.partial: dict[Hashable, set[Hashable]] = {}
        """For each loop, the backwards in it of which the graph may go on out of sight."""
        self.trains: dict[Hashable, Site] = {}
        """Loops in which an optimizer steps."""

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        graph = graph_of(event) - (event.begins - {event.loss.key})
        place = event.site.node
        self.use(graph, place)
        if place in self.retained and not graph.isdisjoint(watch.get(("walked", place), frozenset())):
            self.retained[place].used = True  # on this path, in an earlier iteration
        loops = tagged(watch, "active")
        for (_, loop), _ in loops if event.partial else ():
            self.partial.setdefault(loop, set()).add(place)
        if loops and event.asked:
            (_, loop), mark = loops[-1]
            new = Retained(event.site, quoted(event.loss, "the loss"), loop, mark.site)
            known = self.retained.setdefault(place, new)
            known.tensors |= graph
            known.partial = known.partial or event.partial
            known.used = known.used or known.loop != loop
            known.outlives = known.outlives or event.outlives or frame(event.site) == frame(mark.site)
            watch.put(("walked", place), graph)
            watch.put(("open", place), True)

    @on(Differentiated)
    def differentiated(self, event: Differentiated, watch: Watch) -> None:
        self.use(event.reaches)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        self.use(frozenset(thing.key for thing in event.things))
        if not LOGS.search(event.to):
            for key, _ in tagged(watch, "open"):  # its graph may be shared: a penalty of the same outputs
                self.retained[key[1]].used = True

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        forget(watch, "open")

    @on(FunctionLeft)
    def returned(self, event: FunctionLeft, watch: Watch) -> None:
        values = frozenset(thing.key for thing in event.values)
        if not tagged(watch, "active"):  # out of sight; in a loop, its caller is seen
            self.use(values)
        for retained in self.retained.values():
            retained.outlives = retained.outlives or not retained.tensors.isdisjoint(values)

    def use(self, tensors: frozenset[Hashable], but: Hashable = None) -> None:
        """Something goes through these; `but`: a backward at this place, which other paths have at the same tensors."""
        for place, retained in self.retained.items():
            retained.used = retained.used or (place != but and not retained.tensors.isdisjoint(tensors))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        for (_, loop), _ in tagged(watch, "active"):
            self.trains.setdefault(loop, event.site)

    @on(RunEnded)
    def over(self, event: RunEnded, watch: Watch) -> None:
        for retained in self.retained.values():
            retained.tensors.clear()  # another run may name its own tensors alike

    @on(FileEnded)
    def ended(self, event: FileEnded, watch: Watch) -> None:
        for place, retained in self.retained.items():
            step = self.trains.get(retained.loop)
            shared = retained.partial and self.partial.get(retained.loop, set()) - {place}
            if step is None or retained.used or shared or not retained.outlives:
                continue
            watch.report(
                retained.site,
                f"the graph of {retained.loss} is retained in each iteration, and nothing goes through it again: its "
                "activations stay in memory next to those of the following step; drop `retain_graph=True`",
                trace=[
                    ("this loop trains", retained.loop_site),
                    ("the graph is retained here", retained.site),
                    ("the optimizer steps here, and the graph is of no use any more", step),
                ],
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    freed = 0
    for _ in range(5):
        optimizer.zero_grad()
        output = model(x)
        loss = nn.functional.mse_loss(output, y)
        loss.backward(retain_graph=True)
        optimizer.step()
        tanh = output.grad_fn.next_functions[1][0]
        try:
            tanh._saved_result.numel()
        except RuntimeError:  # … after they have already been freed
            freed += 1
    return {"steps taken": 5.0, "steps after which the activations were freed": float(freed)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    freed = 0
    for _ in range(5):
        optimizer.zero_grad()
        output = model(x)
        loss = nn.functional.mse_loss(output, y)
        loss.backward()
        optimizer.step()
        tanh = output.grad_fn.next_functions[1][0]
        try:
            tanh._saved_result.numel()
        except RuntimeError:  # … after they have already been freed
            freed += 1
    return {"steps taken": 5.0, "steps after which the activations were freed": float(freed)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps after which the activations were freed"] == 0, "each step leaves its activations in memory"
    assert fixed["steps after which the activations were freed"] == fixed["steps taken"] == 5
