"""A loss is added to a running total with its graph, and the total is never back-propagated.

## What it does

Reports `total += loss` (and `total = total + loss`, and a meter that can be seen to do it) in a loop, where the loss
still has its history and nothing ever goes backward through the total.

## Why it is a trap

The total holds the graph of every iteration. There are two strengths, and the message says which:

* In a training loop, `loss.backward()` has freed the saved tensors, and the nodes of the graph pile up: a slow leak,
  seven nodes an iteration in the demo.
* In a loop without a backward and with gradients on (an evaluation), nothing is freed: every activation of every
  batch stays until the total goes away. That runs out of memory.

## Known limits

False positives: a total of a few terms that dies with its function, when it is read out there.

False negatives: in a loop without a backward, a total that is returned or handed to code that cannot be seen; a total
of something else than what was back-propagated in a training loop.

The fix is `.detach()` on what is added. The value of the total stays the same.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss
    print(total.item() / len(loader))
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    print(total.item() / len(loader))
```

## References

- [Frequently asked questions: my model reports "out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory)
- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
"""

from __future__ import annotations

from flake8_gradtrap.events import Accumulated
from flake8_gradtrap.gradients import quoted
from flake8_gradtrap.keeping import KeepsGraph, Kept, detach, place_of
from flake8_gradtrap.rule import Watch, on


class RawLossSummed(KeepsGraph):
    code = "GTR401"
    name = "raw-loss-summed"
    summary = "A loss is summed with its graph, which the total keeps alive"
    fix = "safe"
    words = ("backward", "loss", "losses", "criterion")

    @on(Accumulated)
    def accumulated(self, event: Accumulated, watch: Watch) -> None:
        if event.made_by:  # GTR403 speaks where it was returned
            self.extend(event, watch)
        else:
            self.keep(event, watch)

    def tell(self, kept: Kept, trained: bool, watch: Watch) -> None:
        place = place_of(kept)
        total = quoted(kept.holder, "this total")
        where = f" at line {watch.line(kept.backward)}" if kept.backward is not None else ""
        if trained:
            pile = "pile up until it is set back" if kept.windowed else "pile up (a slow leak)"
            what = f"{total} keeps the graph of every iteration: backward{where} frees its buffers, its nodes {pile}"
        else:
            what = (
                f"{total} keeps the graph of every iteration, and with no backward in this loop all activations with "
                "it, until memory runs out"
            )
        watch.report(
            place,
            f"{what}; add the value only: `.detach()`",
            trace=[
                *([("the graph is back-propagated here", kept.backward)] if kept.backward is not None else []),
                ("and kept alive by this total", place),
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
    total = torch.zeros((), device=device)
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss

    nodes, found = set(), {total.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the total holds": float(len(nodes - {None})), "mean loss": total.item() / 10}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    total = torch.zeros((), device=device)
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()

    nodes, found = set(), {total.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the total holds": float(len(nodes - {None})), "mean loss": total.item() / 10}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["graph nodes that the total holds"] >= 10 * 5, "the total holds the graph of each of the ten steps"
    assert fixed["graph nodes that the total holds"] == 0
    assert trapped["mean loss"] == fixed["mean loss"], "the value is the same"
