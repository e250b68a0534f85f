"""`backward(create_graph=True)` leaves gradients that hold their own graph, and nothing lets go of them.

## What it does

Reports a `backward(create_graph=True)` after which the gradients are not cleared before the next one, or at all.

## Why it is a trap

The gradients in `.grad` then have a graph, which leads to the parameters, which hold the gradients: a circle that
Python's collector cannot see. Parameters, gradients and every saved activation stay until `.grad` is set to None. If it
is not cleared, each step adds its graph to that of the last. `torch.autograd.grad(…, create_graph=True)` hands the
gradients over without the circle.

## Known limits

False positives: gradients that code out of sight clears.

False negatives: gradients that are cleared on one path only.

There is no fix: `torch.autograd.grad` returns the gradients, and what reads `.grad` has to be changed with it.

## Trap

```python
import torch


def train(model, loader, criterion):
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward(create_graph=True)
        penalty = sum(p.grad.pow(2).sum() for p in model.parameters())
        print(loss.item(), penalty.item())
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    for x, y in loader:
        loss = criterion(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        penalty = sum(g.pow(2).sum() for g in gradients)
        print(loss.item(), penalty.item())
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
- [torch.autograd.grad](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad.html)
- [The warning, and why it is given](https://github.com/pytorch/pytorch/pull/59412)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated, Cleared, Escaped, RunEnded
from flake8_gradtrap.gradients import Mark, forget, forget_touched, settle, tagged
from flake8_gradtrap.rule import Rule, Watch, on


class CreateGraphLeak(Rule):
    """In memory: "held", owners: gradients that hold their graph."""

    code = "GTR902"
    name = "create-graph-leak"
    summary = "`backward(create_graph=True)` leaves gradients that hold their own graph"
    default = False
    words = ("create_graph",)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.creates:
            self.tell(watch)
            watch.put(("held", event.owners), Mark(event.site))

    @on(Cleared)
    def cleared(self, event: Cleared, watch: Watch) -> None:
        if event.owners is None:
            forget(watch, "held")
        settle(watch, event.owners, "held")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "held")

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        if not watch.lossy:
            self.tell(watch)

    def tell(self, watch: Watch) -> None:
        for key, mark in tagged(watch, "held"):
            watch.drop(key)
            watch.report(
                mark.site,
                "these gradients hold the graph that made them, with every activation, until `.grad` is cleared; "
                "use `torch.autograd.grad(…, create_graph=True)`",
                trace=[("gradients with a graph of their own are left in `.grad`", mark.site)],
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import gc
    import weakref

    import torch
    from torch import nn

    torch.manual_seed(0)
    kept = []
    for _ in range(5):
        weight = nn.Parameter(torch.randn(16, 16, device=device))
        x = torch.randn(4, 16, device=device)
        loss = torch.tanh(x @ weight).pow(2).mean()
        loss.backward(create_graph=True)
        kept.append(weakref.ref(weight))
    del weight, loss
    gc.collect()
    return {"parameters that stay behind": float(sum(reference() is not None for reference in kept))}


def fixed(device: str = "cpu") -> dict[str, float]:
    import gc
    import weakref

    import torch
    from torch import nn

    torch.manual_seed(0)
    kept = []
    for _ in range(5):
        weight = nn.Parameter(torch.randn(16, 16, device=device))
        x = torch.randn(4, 16, device=device)
        loss = torch.tanh(x @ weight).pow(2).mean()
        (gradient,) = torch.autograd.grad(loss, [weight], create_graph=True)
        kept.append(weakref.ref(weight))
    del weight, loss, gradient
    gc.collect()
    return {"parameters that stay behind": float(sum(reference() is not None for reference in kept))}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that stay behind"] == 5
    assert fixed["parameters that stay behind"] == 0
