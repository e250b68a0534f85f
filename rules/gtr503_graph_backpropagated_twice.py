"""A second backward goes through a graph whose saved tensors the first one freed; or a loss is its own weight.

## What it does

Reports a `backward()` that reaches operations through which an earlier backward went without `retain_graph=True`: two
losses that share a forward, or one graph used in every iteration. Also `loss.backward(loss)`.

## Why it is a trap

The first is loud: `Trying to backward through the graph a second time`. The second is silent: the argument of
`backward` is the weight of the loss, so that `loss.backward(loss)` multiplies every gradient by the loss. The
learning rate then falls as the loss does.

## Known limits

False positives: paths that exclude each other in a way that cannot be seen. A graph that was freed in an earlier
iteration is reported in preview only: it raises in the second step of every training, and who has run the code once
has no such graph.

False negatives: a graph that code which cannot be seen has walked; operations of which it is not known that they save
tensors (a sum saves none, and can be walked twice).

There is no fix: adding the losses and going backward once is cheaper than `retain_graph=True`, and is the same only
if nothing happens in between.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        output = model(x).tanh()
        loss = criterion(output, y)
        penalty = output.pow(2).mean()
        loss.backward()
        penalty.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        output = model(x).tanh()
        loss = criterion(output, y)
        penalty = output.pow(2).mean()
        (loss + penalty).backward()
        optimizer.step()
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
- [torch.autograd.backward](https://docs.pytorch.org/docs/stable/generated/torch.autograd.backward.html)
- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from flake8_gradtrap.events import Backpropagated, Differentiated, IterationStarted, Site
from flake8_gradtrap.gradients import quoted, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.saved import SavedTensors
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Turn:
    """How many iterations of loops have begun on a path, which makes no difference between two."""

    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Freed:
    """The backward that freed an operation, and when."""

    site: Site = field(compare=False)
    turn: Turn


class GraphBackpropagatedTwice(Waiting, SavedTensors):
    """In memory: "freed", by operation; "turn", the number of the iteration.

    Acquitted: a backward after another one that has just freed a graph, and of which it needs nothing on some path
    on which its graph is known.

    A graph that was freed in an earlier iteration is a preview: it raises in the second step of every training. In code
    that somebody has run, it is mostly one that is made anew in a way that was not seen.
    """

    code = "GTR503"
    name = "graph-backpropagated-twice"
    summary = "A second backward goes through a graph that the first one freed"
    words = ("backward",)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        loss = quoted(event.loss, "the loss")
        if event.weight is not None and event.weight.key == event.loss.key:
            watch.report(
                event.site,
                f"{loss} is handed to its own `backward`, as its weight: every gradient is multiplied by the loss; "
                "call `backward()` without an argument",
                trace=[("the gradient of the loss is multiplied by the loss here", event.site)],
            )
        first = self.freed(event, watch)
        if first is not None and self.spoilt(event, watch) is None:  # else GTR706: to retain the graph would not help
            earlier = first.turn.number != self.turn(watch).number
            place, tell = (first.site.node, event.site.node), partial(self.tell, first, earlier, event, loss)
            if earlier:
                self.suspect(place, tell)
            else:
                self.suspects[place] = tell  # whatever another path has shown
        self.free(event, watch)

    @staticmethod
    def tell(first: Freed, earlier: bool, event: Backpropagated, loss: str, watch: Watch) -> None:
        where = "in an earlier iteration" if earlier else f"at line {watch.line(first.site)}"
        watch.report(
            event.site,
            f"{loss} goes backward through a graph that was already freed {where}: this raises `RuntimeError`; add "
            "the losses and go backward once, run it again, detach what is shared, or retain the graph",
            trace=[
                ("this backward frees what its graph has saved", first.site),
                ("this one needs a part of it again", event.site),
            ],
            preview=earlier,
        )

    @on(IterationStarted)
    def another(self, event: IterationStarted, watch: Watch) -> None:
        super().another(event, watch)
        watch.put(("turn",), Turn(self.turn(watch).number + 1))

    @staticmethod
    def turn(watch: Watch) -> Turn:
        now: Turn = watch.get(("turn",), Turn())
        return now

    @on(Differentiated)
    def differentiated(self, event: Differentiated, watch: Watch) -> None:
        self.free(event, watch)

    def freed(self, event: Backpropagated, watch: Watch) -> Freed | None:
        """The backward that freed an operation which this one needs; of a state that is carried on, GTR405 speaks."""
        carried = frozenset().union(*(state.needs for state in event.carried))
        marks = [mark for operation in event.frees - carried if (mark := watch.get(("freed", operation))) is not None]
        needed = {mark.site.node for mark in marks}
        known = len(event.frees) > 1 or not event.partial  # else it is a loss of which nothing is known
        for _, mark in tagged(watch, "freed") if known else ():
            if mark.turn.number == self.turn(watch).number and mark.site.node not in needed:
                self.acquit((mark.site.node, event.site.node))
        return max(marks, key=lambda mark: mark.turn.number, default=None)

    def free(self, event: Backpropagated | Differentiated, watch: Watch) -> None:
        if event.retains is False:
            for operation in event.frees:
                if watch.get(("freed", operation)) is None:
                    watch.put(("freed", operation), Freed(event.site, self.turn(watch)))


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    for _ in range(5):
        optimizer.zero_grad()
        output = model(x)
        loss = nn.functional.mse_loss(output, y)
        penalty = output.pow(2).mean()
        try:
            loss.backward()
            penalty.backward()
        except RuntimeError:  # Trying to backward through the graph a second time
            raised += 1
            continue
        optimizer.step()
        steps += 1
    return {"steps taken": float(steps), "errors raised": float(raised)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    for _ in range(5):
        optimizer.zero_grad()
        output = model(x)
        loss = nn.functional.mse_loss(output, y)
        penalty = output.pow(2).mean()
        try:
            (loss + penalty).backward()
        except RuntimeError:  # Trying to backward through the graph a second time
            raised += 1
            continue
        optimizer.step()
        steps += 1
    return {"steps taken": float(steps), "errors raised": float(raised)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["errors raised"] == 5
    assert trapped["steps taken"] == 0
    assert fixed["errors raised"] == 0
    assert fixed["steps taken"] == 5
