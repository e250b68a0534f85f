"""A tensor made with requires_grad=True is moved or computed with before it is kept: the leaf is lost.

## What it does

Reports where a new leaf (`torch.randn(…, requires_grad=True)`, `Variable(…, requires_grad=True)`) is moved, cast or
computed with in the same breath, so that only the result has a name, and the result is then used like a leaf: it is
given to an optimizer, or its `.grad` is read. Moves that return the leaf itself (`.cpu()` of a tensor made there,
`.float()` of a tensor that is one) are silent, and so is a tensor of which only `torch.autograd.grad` is asked.

## Why it is a trap

`.to(device)` and `* 0.01` are operations: what they return is computed from the leaf, and the leaf, which nobody can
reach any more, is what gets the gradient. `.grad` of the result is None. An optimizer raises "can't optimize a non-leaf
Tensor". A move is a trap that waits: on a machine without a GPU it returns the leaf itself, and all is well.

## Known limits

False positives: a leaf that was where it is moved to already, in a way that does not show here.

False negatives: a result that is used like a leaf in code out of sight only; a leaf that is lost under `no_grad`, where
the result is a leaf without a gradient; a hand-written update that takes its gradient from `torch.autograd.grad`.

## Trap

```python
import torch


def invert(generator, target, device):
    latent = torch.randn(1, 64, requires_grad=True).to(device)  # the leaf stays on the CPU, and is lost
    optimizer = torch.optim.Adam([latent], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (generator(latent) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
    return latent.detach()
```

## Fixed

```python
import torch


def invert(generator, target, device):
    latent = torch.randn(1, 64, requires_grad=True, device=device)
    optimizer = torch.optim.Adam([latent], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (generator(latent) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
    return latent.detach()
```

## References

- [torch.Tensor.is_leaf](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.is_leaf.html)
- [torch.Tensor.to](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.to.html)
"""

from __future__ import annotations

from collections.abc import Hashable

from flake8_gradtrap.events import FileEnded, LostLeaf, NonLeafKnown, UsedAsLeaf
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on, spoken
from flake8_gradtrap.traits import COMPUTES_LEAF


class LeafLost(Rule):
    code = "GTR206"
    name = "leaf-lost"
    summary = "A new leaf is moved or computed with before it is kept, and the result is used like a leaf"
    fix = "safe"
    words = (COMPUTES_LEAF,)

    def __init__(self) -> None:
        self.known: set[Hashable] = set()
        """Where tensors are made of which the program knows that they are no leaves."""
        self.reads: dict[Hashable, UsedAsLeaf] = {}
        """Reads of a gradient, which wait until all paths were seen."""

    @on(NonLeafKnown)
    def knows(self, event: NonLeafKnown, watch: Watch) -> None:
        self.known.add(event.made.node)

    @on(UsedAsLeaf)
    def used(self, event: UsedAsLeaf, watch: Watch) -> None:
        if event.lost is not None and event.by == "optimizer":
            self.tell(event, event.lost, watch)
        elif event.lost is not None:
            self.reads.setdefault(event.lost.at.node, event)

    @on(FileEnded)
    def ended(self, event: FileEnded, watch: Watch) -> None:
        for read in self.reads.values():
            if read.made.node not in self.known and read.lost is not None:
                self.tell(read, read.lost, watch)

    def tell(self, event: UsedAsLeaf, lost: LostLeaf, watch: Watch) -> None:
        condition = " (unless it was there already)" if lost.moves else ""
        if event.by == "optimizer":
            harm, step = "the optimizer raises, it cannot train this", "given to an optimizer here"
        else:
            name = event.tensor.label
            harm, step = f"`{name}.grad` is None" if name else "its `.grad` is None", "its gradient is read here"
        watch.report(
            lost.at,
            f"{harm}: {spoken(lost.how)} makes another tensor of the new leaf, which is lost{condition}; "
            "make it as it has to be, and call `requires_grad_()` last",
            trace=[
                ("a leaf is made here", lost.made),
                ("another tensor is computed from it here", lost.at),
                (step, event.site),
            ],
            remedy=remedy(lost),
        )


def remedy(lost: LostLeaf) -> Remedy | None:
    if lost.argument is None or lost.whole is None:
        return None
    return Remedy(
        "Ask for a gradient last",
        (Change("delete-argument", lost.argument), Change("wrap", lost.whole, "", ".requires_grad_()")),
    )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    target = torch.full((16,), 0.5, device=device)
    prompt = torch.randn(16, device=device, requires_grad=True) * 0.01
    for _ in range(20):
        loss = (prompt - target).pow(2).sum()
        loss.backward()
        gradient = prompt.grad
        if gradient is None:
            break
        with torch.no_grad():
            prompt -= 0.1 * gradient
            gradient.zero_()
    return {"distance": (prompt - target).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    target = torch.full((16,), 0.5, device=device)
    prompt = (torch.randn(16, device=device) * 0.01).requires_grad_()
    for _ in range(20):
        loss = (prompt - target).pow(2).sum()
        loss.backward()
        gradient = prompt.grad
        if gradient is None:
            break
        with torch.no_grad():
            prompt -= 0.1 * gradient
            gradient.zero_()
    return {"distance": (prompt - target).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["distance"] > 1.5
    assert fixed["distance"] < 0.1
