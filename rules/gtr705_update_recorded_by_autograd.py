"""Parameters are updated by hand while autograd records.

## What it does

Reports a hand-written update of a Parameter, `p -= lr * p.grad` or `p.sub_(lr * p.grad)`, with gradients on, and
`w = w - lr * w.grad` in a loop that asks the new `w` for its gradient again.

## Why it is a trap

The update is no part of the loss. In place, torch refuses it: `a leaf Variable that requires grad is being used in an
in-place operation`. With `w = w - lr * w.grad` there is no error yet: the name is given another tensor, which is the
result of an operation and no leaf. The next backward leaves its gradient in the old leaf, which nobody looks at; the
`.grad` of the new `w` is None, and the graphs of all steps hang together.

## Known limits

False positives: none known.

False negatives: functions that update whatever they are handed, where no caller is in sight.

There is no fix: an update belongs under `torch.no_grad()`, together with what clears the gradient.

## Trap

```python
import torch


def fit(x, y, steps, lr):
    w = torch.zeros(8, requires_grad=True)
    for _ in range(steps):
        loss = (x @ w - y).pow(2).mean()
        loss.backward()
        w = w - lr * w.grad  # another tensor, and no leaf
```

## Fixed

```python
import torch


def fit(x, y, steps, lr):
    w = torch.zeros(8, requires_grad=True)
    for _ in range(steps):
        loss = (x @ w - y).pow(2).mean()
        loss.backward()
        with torch.no_grad():
            w -= lr * w.grad
            w.grad.zero_()
```

## References

- [Autograd mechanics: locally disabling gradient computation](https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation)
- [torch.Tensor.is_leaf](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.is_leaf.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated, Differentiated, Overwritten, Rebound
from flake8_gradtrap.gradients import Mark
from flake8_gradtrap.rule import Rule, Watch, on

_WALKED = ("walked",)


class UpdateRecordedByAutograd(Rule):
    """In memory: "walked": a backward that ran; "lost", by tensor: where a name was given it in place of its leaf."""

    code = "GTR705"
    name = "update-recorded-by-autograd"
    summary = "Parameters are updated by hand while autograd records"
    words = ("grad",)
    roots = ("backward",)

    @on(Backpropagated, Differentiated)
    def walk(self, event: Backpropagated | Differentiated, watch: Watch) -> None:
        watch.put(_WALKED, Mark(event.site))

    @on(Overwritten)
    def overwritten(self, event: Overwritten, watch: Watch) -> None:
        walked: Mark | None = watch.get(_WALKED)
        if walked is None or not event.leaf or not event.by_gradient or event.through_data or not event.recorded:
            return
        name = event.tensor.label or "the parameter"
        watch.report(
            event.site,
            f"`{name}` is updated in place while autograd records: this raises `RuntimeError` (a leaf that requires "
            "grad); put the update under `torch.no_grad()`",
            trace=[("the gradients are made here", walked.site), ("and applied here, with gradients on", event.site)],
        )

    @on(Rebound)
    def rebound(self, event: Rebound, watch: Watch) -> None:
        lost: Mark | None = watch.get(("lost", event.tensor.key))
        if lost is not None:
            name = event.tensor.label
            watch.report(
                lost.site,
                f"`{name}` is another tensor from here on, and no leaf: its gradient goes to the old one, and "
                f"`{name}.grad` is None in the next step; update it in place, under `torch.no_grad()`",
                trace=[("the leaf is lost here", lost.site), ("its gradient is asked for here", event.site)],
            )
        elif event.leaf:
            watch.put(("lost", event.result.key), Mark(event.site))


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    x = torch.randn(64, 4, device=device)
    y = x @ torch.ones(4, device=device)
    w = torch.zeros(4, device=device, requires_grad=True)
    first, steps = w, 0
    for _ in range(20):
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        if not w.is_leaf:
            break  # its gradient went to the first one
        steps += 1
        assert w.grad is not None
        w = w - 0.1 * w.grad
    return {"steps with a gradient": float(steps), "still the leaf": float(w is first)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    x = torch.randn(64, 4, device=device)
    y = x @ torch.ones(4, device=device)
    w = torch.zeros(4, device=device, requires_grad=True)
    first, steps = w, 0
    for _ in range(20):
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        if not w.is_leaf:
            break  # its gradient went to the first one
        steps += 1
        assert w.grad is not None
        with torch.no_grad():
            w -= 0.1 * w.grad
            w.grad.zero_()
    return {"steps with a gradient": float(steps), "still the leaf": float(w is first)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps with a gradient"] == 1.0
    assert trapped["still the leaf"] == 0.0
    assert fixed["steps with a gradient"] == 20.0
    assert fixed["still the leaf"] == 1.0
