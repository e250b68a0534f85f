"""The state of one step enters the next with its history, and the next backward goes through both.

## What it does

Reports the place where a hidden state, a memory, a previous output or a running value is kept for the next iteration
with its graph, if each iteration goes backward by itself: the backward of the next step then walks into the graph of
this one. Two strengths, and the message says which: the backward of this step has freed that graph, or it was retained.

## Why it is a trap

Where the graph was freed, the second step raises `Trying to backward through the graph a second time`. The usual answer
is `retain_graph=True`, and then each step goes backward through all steps before it: the graph, the memory and the time
of a step grow with every step (by 16 nodes a step in the demo, a single GRU cell), until the memory is full, or until
autograd finds that the optimizer has changed a weight that an old step has saved: `one of the variables needed for
gradient computation has been modified by an inplace operation`.

Truncated back-propagation cuts the state between two windows: it keeps the value of the state and drops its history.

## Known limits

False positives: a state that is cut by code which cannot be seen.

False negatives: a model that is not visible, and returns several things: it may have cut the state by itself. A state
that is kept by an object whose method is called for each step, from code that cannot be seen. A retained graph without
a step of an optimizer in between: the gradients are right, only slow.

There is no fix: where the state is cut decides how far gradients flow.

## Trap

```python
import torch
from torch import nn


def train(stream, window):
    rnn, head = nn.LSTM(16, 32), nn.Linear(32, 16)
    optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
    hidden = None
    for start in range(0, len(stream) - window, window):
        x, y = stream[start : start + window], stream[start + 1 : start + window + 1]
        output, hidden = rnn(x, hidden)
        loss = nn.functional.mse_loss(head(output), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(stream, window):
    rnn, head = nn.LSTM(16, 32), nn.Linear(32, 16)
    optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
    hidden = None
    for start in range(0, len(stream) - window, window):
        x, y = stream[start : start + window], stream[start + 1 : start + window + 1]
        output, hidden = rnn(x, hidden)
        hidden = tuple(part.detach() for part in hidden)
        loss = nn.functional.mse_loss(head(output), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [Frequently asked questions: don't accumulate history across your training loop](https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory)
"""

from __future__ import annotations

import re
from collections.abc import Hashable

from flake8_gradtrap.events import Backpropagated, Carried, Differentiated, Escaped, Site, Stepped
from flake8_gradtrap.gradients import Mark, lift, tagged
from flake8_gradtrap.rule import Rule, Watch, on

CUTS = re.compile(r"detach|repackag|truncat|reset|stop_?grad|init", re.IGNORECASE)
"""What a function is called that may cut a state which it is given."""


class StateCarriedWithHistory(Rule):
    """In memory, by operation: "freed" by a backward, "kept" by one that retained its graph, and "held" beyond a step
    of an optimizer after that.
    """

    code = "GTR405"
    name = "state-carried-with-history"
    summary = "A state enters the next step with its history, and the next backward goes through both"
    words = ("backward", "detach", "detach_", "hidden", "hx", "rnn", "lstm", "gru", "mems")
    roots = ("backward",)

    def __init__(self) -> None:
        self.told: set[Hashable] = set()
        """Backwards of which was told what enters them: a state of several parts is one finding."""

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        places = sorted(((watch.line(place(state, event)), state) for state in event.carried), key=lambda pair: pair[0])
        for _, state in places:
            for tag in ("freed", "held"):
                first = next((mark for op in state.needs if (mark := watch.get((tag, op))) is not None), None)
                if first is not None and event.site.node not in self.told:
                    self.told.add(event.site.node)
                    self.tell(state, first, event, tag == "held", watch)
        self.walk(event, watch)

    @on(Differentiated)
    def differentiated(self, event: Differentiated, watch: Watch) -> None:
        self.walk(event, watch)

    def walk(self, event: Backpropagated | Differentiated, watch: Watch) -> None:
        tag = {False: "freed", True: "kept"}.get(event.retains) if event.retains is not None else None
        for operation in event.frees if tag is not None else ():
            if watch.get((tag, operation)) is None:
                watch.put((tag, operation), Mark(event.site))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        for (_, operation), mark in tagged(watch, "kept"):
            watch.put(("held", operation), mark)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if CUTS.search(event.to):
            for key, _ in tagged(watch, "freed", "kept", "held"):
                watch.drop(key)

    def tell(self, state: Carried, first: Mark, event: Backpropagated, held: bool, watch: Watch) -> None:
        site = place(state, event)
        label = f"`{state.tensor.label}`" if state.tensor.label else "a state"
        line = watch.line(event.site)
        if held:
            what = (
                f"each backward (line {line}) goes through all steps before it; the retained graph grows with every "
                "step, until memory is full or autograd finds a weight changed"
            )
        else:
            what = (
                f"the next backward (line {line}) needs the graph that this step's has freed, and raises `RuntimeError`"
            )
        watch.report(
            site,
            f"{label} takes its history into the next iteration: {what}; carry its value only: `.detach()`",
            trace=[
                ("the state is kept for the next iteration, with its graph", site),
                ("this backward walks that graph", first.site),
                ("and in the next iteration, this one needs it again", event.site),
            ],
        )


def place(state: Carried, event: Backpropagated) -> Site:
    """Where the state is kept, or, if nothing was seen to keep it, the call that made it."""
    if state.tensor.label:
        return state.site
    return lift(state.site, event.site) or state.site


def nodes_behind(loss: object) -> int:
    """How many nodes the graph of a loss has."""
    nodes, found = set(), {loss.grad_fn}  # type: ignore[attr-defined]
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return len(nodes - {None})


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    cell, head = nn.GRUCell(4, 8).to(device), nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.01)
    hidden = torch.zeros(16, 8, device=device)
    sizes, raised = [], 0
    for _ in range(6):
        x, y = torch.randn(16, 4, device=device), torch.randn(16, 1, device=device)
        hidden = cell(x, hidden)
        loss = nn.functional.mse_loss(head(hidden), y)
        sizes.append(nodes_behind(loss))
        optimizer.zero_grad()
        try:
            loss.backward()
        except RuntimeError:  # Trying to backward through the graph a second time
            raised += 1
            continue
        optimizer.step()
    return {"steps that raised": float(raised), "nodes, step 1": float(sizes[0]), "nodes, step 6": float(sizes[-1])}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    cell, head = nn.GRUCell(4, 8).to(device), nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.01)
    hidden = torch.zeros(16, 8, device=device)
    sizes, raised = [], 0
    for _ in range(6):
        x, y = torch.randn(16, 4, device=device), torch.randn(16, 1, device=device)
        hidden = cell(x, hidden.detach())
        loss = nn.functional.mse_loss(head(hidden), y)
        sizes.append(nodes_behind(loss))
        optimizer.zero_grad()
        try:
            loss.backward()
        except RuntimeError:  # Trying to backward through the graph a second time
            raised += 1
            continue
        optimizer.step()
    return {"steps that raised": float(raised), "nodes, step 1": float(sizes[0]), "nodes, step 6": float(sizes[-1])}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps that raised"] == 5, "all steps but the first go into a graph that is freed"
    assert trapped["nodes, step 6"] > 3 * trapped["nodes, step 1"], "and the graph has grown by every step"
    assert fixed["steps that raised"] == 0
    assert fixed["nodes, step 6"] == fixed["nodes, step 1"]
