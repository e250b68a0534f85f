"""A tensor is stored with its graph in something that outlives the training step.

## What it does

Reports `append`, `extend`, `insert`, an item assignment or a `yield` of a loss, an output or a hidden state that
still has its history, into a container that lives on after the iteration, where nothing of that container is ever
back-propagated.

## Why it is a trap

Each stored tensor holds the graph that it was computed by. After `backward()` the saved tensors of that graph are
freed, and its nodes stay: memory grows with every step. In a loop without a backward and with gradients on, all
activations stay. A `deque(maxlen=…)` only bounds the leak.

## Known limits

False positives: a container that is emptied by code that cannot be seen.

False negatives: whatever may be meant to be back-propagated later (rollouts, inner losses): a container of which any
tensor is, on any path; and in a loop without a backward, a container that is returned or handed on.

The fix is `.detach()` on what is stored. For logging, `.item()` stores a plain number.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        history.append(loss)
    return history
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return history
```

## References

- [Frequently asked questions: my model reports "out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory)
- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
"""

from __future__ import annotations

from flake8_gradtrap.events import Accumulated, Stored
from flake8_gradtrap.gradients import quoted
from flake8_gradtrap.keeping import KeepsGraph, Kept, detach, place_of
from flake8_gradtrap.rule import Watch, on


class RawTensorStored(KeepsGraph):
    code = "GTR402"
    name = "raw-tensor-stored"
    summary = "A tensor is stored with its graph, beyond the step that made it"
    fix = "safe"
    words = ("backward",)

    @on(Stored)
    def stored(self, event: Stored, watch: Watch) -> None:
        if not event.made_by:  # GTR403 speaks where it was returned
            self.keep(event, watch)

    @on(Accumulated)
    def accumulated(self, event: Accumulated, watch: Watch) -> None:
        self.extend(event, watch)

    def tell(self, kept: Kept, trained: bool, watch: Watch) -> None:
        place = place_of(kept)
        tensor = quoted(kept.tensor, "a tensor")
        container = quoted(kept.holder, "a container")
        where = f" at line {watch.line(kept.backward)}" if kept.backward is not None else ""
        if trained:
            pile = "pile up until it is emptied" if kept.windowed else "pile up (a slow leak)"
            pile = "stay, as many as it holds" if kept.bounded else pile
            what = (
                f"{container} keeps {tensor} with its graph: backward{where} frees the buffers, the nodes of every "
                f"iteration {pile}"
            )
        else:
            what = (
                f"{container} keeps {tensor} with its graph, and with no backward in this loop all activations of "
                "every iteration, until memory runs out"
            )
        watch.report(
            place,
            f"{what}; store `.detach()`",
            trace=[
                *([("the graph is back-propagated here", kept.backward)] if kept.backward is not None else []),
                ("and kept alive by what is stored here", place),
            ],
            remedy=detach(kept),
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    history = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        history.append(loss)

    nodes, found = set(), {loss.grad_fn for loss in history}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the list holds": float(len(nodes - {None})), "losses stored": float(len(history))}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    history = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        history.append(loss.detach())

    nodes, found = set(), {loss.grad_fn for loss in history}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the list holds": float(len(nodes - {None})), "losses stored": float(len(history))}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["losses stored"] == fixed["losses stored"] == 10
    assert trapped["graph nodes that the list holds"] >= 10 * 5, "the list holds the graph of each of the ten steps"
    assert fixed["graph nodes that the list holds"] == 0
