"""The gradient of a computed tensor is read: it is None, torch keeps gradients of leaves only.

## What it does

Reports where `.grad` is read of a tensor that was computed from something that requires a gradient, and on which
`retain_grad()` is never called. Silent where the program asks first (`x.grad is None`, `x.is_leaf`), where a hook hangs
on the tensor or `backward(inputs=…)` names it, and where it was handed to code that cannot be seen.

## Why it is a trap

`backward()` computes the gradient of each intermediate value, hands it on and throws it away. `.grad` stays None, torch
says so in a warning only. An attack, a saliency map or a hand-written update that goes on with it raises, or, where
None is skipped, does nothing.

## Known limits

False positives: `retain_grad()` called on another view of the same tensor.

False negatives: what a model out of sight returns in parts; a tensor that is only moved (GTR206 speaks of a new leaf
that was); a parameter that a hand-written update replaced by a computed value.

## Trap

```python
from torch import nn


def saliency(model, ids, target):
    embedding = nn.Embedding(5000, 64)
    embedded = embedding(ids)
    score = model(embedded)[:, target].sum()
    score.backward()
    return embedded.grad.norm(dim=-1)  # None: embedded is computed
```

## Fixed

```python
from torch import nn


def saliency(model, ids, target):
    embedding = nn.Embedding(5000, 64)
    embedded = embedding(ids)
    embedded.retain_grad()
    score = model(embedded)[:, target].sum()
    score.backward()
    return embedded.grad.norm(dim=-1)
```

## References

- [torch.Tensor.retain_grad](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.retain_grad.html)
- [torch.Tensor.grad](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.grad.html)
"""

from __future__ import annotations

from collections.abc import Hashable

from flake8_gradtrap.events import Escaped, FileEnded, NonLeafKnown, UsedAsLeaf
from flake8_gradtrap.rule import Rule, Watch, on


class GradientOfNonLeaf(Rule):
    code = "GTR205"
    name = "gradient-of-non-leaf"
    summary = "`.grad` is read of a computed tensor: it is None"
    words = ("grad",)
    roots = ("backward",)

    def __init__(self) -> None:
        self.spared: set[Hashable] = set()
        """Tensors, and where they are made, that may keep their gradients, or of which the program knows better."""
        self.reads: dict[Hashable, UsedAsLeaf] = {}
        """Reads, by their place, which wait until all paths were seen."""

    @on(NonLeafKnown)
    def knows(self, event: NonLeafKnown, watch: Watch) -> None:
        self.spared |= {event.tensor.key, event.made.node}

    @on(Escaped)
    def escapes(self, event: Escaped, watch: Watch) -> None:
        self.spared |= {thing.key for thing in event.things}

    @on(UsedAsLeaf)
    def used(self, event: UsedAsLeaf, watch: Watch) -> None:
        if event.by == ".grad" and event.lost is None and not event.updated:
            self.reads.setdefault(event.site.node, event)

    @on(FileEnded)
    def ended(self, event: FileEnded, watch: Watch) -> None:
        for read in self.reads.values():
            if self.spared.isdisjoint({read.tensor.key, read.made.node}):
                name = read.tensor.label or "this tensor"
                watch.report(
                    read.site,
                    f"`{name}.grad` is None: `{name}` is computed, at line {watch.line(read.made)}, and `backward()` "
                    f"keeps the gradients of leaves only; call `{name}.retain_grad()` before it",
                    trace=[("computed here", read.made), ("its gradient is read here", read.site)],
                )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    embedding = nn.Embedding(10, 8).to(device)
    head = nn.Linear(8, 2).to(device)
    ids = torch.randint(0, 10, (4, 6), device=device)

    embedded = embedding(ids)
    head(embedded.mean(1))[:, 1].sum().backward()
    gradient = embedded.grad
    return {"saliency": 0.0 if gradient is None else gradient.norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    embedding = nn.Embedding(10, 8).to(device)
    head = nn.Linear(8, 2).to(device)
    ids = torch.randint(0, 10, (4, 6), device=device)

    embedded = embedding(ids)
    embedded.retain_grad()
    head(embedded.mean(1))[:, 1].sum().backward()
    gradient = embedded.grad
    return {"saliency": 0.0 if gradient is None else gradient.norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["saliency"] == 0.0
    assert fixed["saliency"] > 0.01
