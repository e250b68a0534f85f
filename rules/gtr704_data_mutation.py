"""What a graph still needs is changed through `.data`, between its forward and its backward.

## What it does

Reports a write through `.data`, between a forward and its backward, to a tensor that the backward needs. As a preview:
other writes through the `.data` of Parameters that are trained: a hand-written update (`p.data -= lr * p.grad`), moving
averages, the clipping of weights.

## Why it is a trap

`x.data` shares the memory of `x`, but not its version counter. A write between forward and backward changes what the
backward multiplies with: torch would refuse it, but does not see it here, and the gradients are wrong without a word.
A write after the backward does what it says today, and hides the mistake when somebody moves it: hence the preview.
`.data` dates from before `torch.no_grad()`, under which the same line is checked.

## Known limits

False positives: none known; in the preview, weights that are perturbed and put back.

False negatives: Parameters that are handed to a function whose callers are not in sight.

There is no fix: the block that belongs under `torch.no_grad()` is for its author to choose.

## Trap

```python
import torch


def train(model, loader, optimizer):
    for x, y in loader:
        error = model(x) - y
        loss = error.pow(2).mean()
        error.data.clamp_(-1, 1)  # the backward of `pow` reads what is written here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, optimizer):
    for x, y in loader:
        error = (model(x) - y).clamp(-1, 1)
        loss = error.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [Autograd mechanics: in-place correctness checks](https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks)
- [torch.no_grad](https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html)
"""

from __future__ import annotations

import re

from flake8_gradtrap.events import Backpropagated, LoopLeft, LoopStarted, Overwritten
from flake8_gradtrap.gradients import Mark, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.saved import SavedTensors
from flake8_gradtrap.traits import WRITES_DATA

_WALKED = ("walked",)
_PERTURBS = re.compile(
    r"attack|perturb|adv|noise|ascen|hessian|finite_diff|restore|recover|init|reset|prune|mask", re.IGNORECASE
)
"""Functions that change Parameters for other reasons than to train them are called so."""


class DataMutation(SavedTensors):
    """In memory: "walked": a backward that ran; "in a loop": the loops that run; "spoilt", see `SavedTensors`."""

    code = "GTR704"
    name = "data-mutation"
    summary = "What a graph still needs is changed through `.data`"
    words = (WRITES_DATA,)
    roots = ("backward", "manual_backward")

    @on(LoopStarted)
    def started(self, event: LoopStarted, watch: Watch) -> None:
        watch.put(("in a loop", event.loop), True)

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        watch.drop(("in a loop", event.loop))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        watch.put(_WALKED, Mark(event.site))
        mark = self.spoilt(event, watch, through_data=True)
        if mark is not None:
            watch.report(
                mark.site,
                f"`{mark.label or 'this'}` is changed through `.data`, and the backward at line "
                f"{watch.line(event.site)} needs what it held: autograd does not notice, and the gradients are wrong; "
                "change it after the backward, or change a copy",
                trace=[("it is changed here", mark.site), ("this backward needs what was there", event.site)],
            )

    @on(Overwritten)
    def update(self, event: Overwritten, watch: Watch) -> None:
        walked: Mark | None = watch.get(_WALKED)
        if walked is None or not event.leaf or not event.through_data:
            return
        name = event.tensor.label or "the parameter"
        trace = [("the training goes backward here", walked.site), ("and writes the parameter here", event.site)]
        if event.by_gradient and not _PERTURBS.search(event.function):
            watch.report(
                event.site,
                f"`{name}` is updated by hand through `.data`, where autograd cannot see that a graph still needs it; "
                "update it under `torch.no_grad()` instead",
                trace=trace,
                preview=True,
            )
        elif tagged(watch, "in a loop") and not _PERTURBS.search(event.function):
            watch.report(
                event.site,
                f"`{name}` is written through `.data` while it is trained, where autograd cannot see that a graph "
                "still needs it; write it under `torch.no_grad()` instead",
                trace=trace,
                preview=True,
                severity="info",
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    weight = torch.ones(4, device=device, requires_grad=True)
    x = torch.rand(16, 4, device=device)
    error = x @ weight - 1.0
    loss = error.pow(2).mean()
    right = (2 * error.detach() / len(x)) @ x
    error.data.clamp_(-0.1, 0.1)
    loss.backward()
    assert weight.grad is not None
    return {"error of the gradient": (weight.grad - right).norm().item() / right.norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    weight = torch.ones(4, device=device, requires_grad=True)
    x = torch.rand(16, 4, device=device)
    error = x @ weight - 1.0
    loss = error.pow(2).mean()
    right = (2 * error.detach() / len(x)) @ x
    loss.backward()
    error.data.clamp_(-0.1, 0.1)
    assert weight.grad is not None
    return {"error of the gradient": (weight.grad - right).norm().item() / right.norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["error of the gradient"] > 0.5
    assert fixed["error of the gradient"] < 1e-5
