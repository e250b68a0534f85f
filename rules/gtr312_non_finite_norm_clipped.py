"""One gradient that is inf or NaN makes the clip spoil all of them, and nobody looks.

## What it does

Reports a call of `clip_grad_norm_` whose result is dropped and which is not told `error_if_nonfinite=True`, where the
optimizer then steps by itself, and nothing in the run asks whether anything is finite.

## Why it is a trap

The clip multiplies all gradients by `max_norm / norm`. Where one element of them is inf, so is the norm, the factor is
0, and every gradient becomes 0, that element NaN. Where one is NaN, all become NaN. The step applies this: parameters
and the moments of Adam are NaN for ever, and what was one bad batch is the end of the run. Without the clip only the
parameters of that element would have been hit. The norm that the clip returns says so for nothing: test it, or let
torch raise. The demo looks at parameters that are
lost although their own gradients were finite.

A `GradScaler` that makes the step looks for inf and NaN itself (also for those that the clip leaves), and skips it.

## Known limits

It is in preview: nothing happens as long as all gradients are finite, and many loops live with the risk knowingly.

False positives: a test of the gradients or of the loss in code out of sight; an optimizer that skips such steps itself.

False negatives: a norm that is kept, and only printed; losses that are tested, when only a gradient is not finite;
clips and steps that other libraries make.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
```

## References

- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
- [torch.amp.GradScaler.step](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling): skips what is not finite
"""

from __future__ import annotations

import math
import re
from functools import partial

from flake8_gradtrap.events import (
    AnomalyDetectionSet,
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    FiniteAsked,
    RunEnded,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import (
    Mark,
    MeetsOptimizers,
    concerns,
    forget,
    forget_touched,
    graph_of,
    meet,
    overlap,
    tagged,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

LOOKS = re.compile(r"(^|[._])(nans?|infs?|is_?nan|is_?inf)([._(]|$)|finite|overflow|anomal", re.IGNORECASE)
"""What a function out of sight is called that looks for values that are not finite."""


class NonFiniteNormClipped(MeetsOptimizers, Waiting):
    """In memory: "made" gradients and "clipped" ones, by owners.

    Acquitted: a clip after which a scaler steps on some path. Where anything is tested in a run, it knows what it does.
    """

    code = "GTR312"
    name = "non-finite-norm-clipped"
    summary = "The norm of a clip is dropped: one gradient that is not finite spoils all of them"
    words = ("clip_grad_norm_", "clip_grad_norm")
    default = False

    def __init__(self) -> None:
        super().__init__()
        self.tested = False
        """Whether something is tested in the run, on whatever path."""

    @on(FiniteAsked)
    def asked(self, event: FiniteAsked, watch: Watch) -> None:
        self.tested = True

    @on(AnomalyDetectionSet)
    def detects(self, event: AnomalyDetectionSet, watch: Watch) -> None:
        self.tested = self.tested or event.enabled is not False

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        forget(watch, "clipped")
        if not event.opaque and event.through is None:
            watch.put(("made", event.owners), Mark(event.site, graph_of(event), event.scaler))

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if not (event.own and event.dropped) or event.checks or event.measures_only or "norm" not in event.by:
            return
        if "master_params" in event.target.label:
            return  # apex steps only if they are finite
        for key, mark in tagged(watch, "made"):
            if concerns(watch, key[1], event.owners):
                watch.put(("clipped", key[1]), Mark(event.site, mark.walked, mark.scaler))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, _ in tagged(watch, "made", "clipped"):
            if overlap(key[1], owners) is not False:
                watch.drop(key)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        self.tested = self.tested or LOOKS.search(event.to) is not None
        forget_touched(watch, event, "made", "clipped")

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, mark in tagged(watch, "clipped"):
            if not concerns(watch, key[1], owners):
                continue
            watch.drop(key)
            if event.scaler is not None:
                self.acquit(mark.site.node)
            else:
                self.suspect(mark.site.node, partial(self.tell, mark.site, event.site))

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        if self.tested:
            self.suspects.clear()
        self.tested = False
        super().ended(event, watch)

    @staticmethod
    def tell(clip: Site, step: Site, watch: Watch) -> None:
        watch.report(
            clip,
            "where one gradient is inf or NaN, this clip makes all of them 0 or NaN, nobody looks at the norm that it "
            f"returns, and the step at line {watch.line(step)} applies them; skip the step if the norm is not finite, "
            "or pass `error_if_nonfinite=True`",
            trace=[("the norm that this returns is dropped", clip), ("and this step applies what it leaves", step)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    main, side = nn.Linear(8, 1).to(device), nn.Linear(8, 1, bias=False).to(device)
    parameters = [*main.parameters(), *side.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        x, y = torch.randn(4, 8, device=device), torch.randn(1, 8, device=device)
        if step == 1:
            y = y * 0  # one bad sample: the gradient of the root is not finite there
        loss = main(x).square().mean() + side(y).square().sum().sqrt()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return {"norm of the parameters whose own gradients were always finite": main.weight.detach().norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    main, side = nn.Linear(8, 1).to(device), nn.Linear(8, 1, bias=False).to(device)
    parameters = [*main.parameters(), *side.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        x, y = torch.randn(4, 8, device=device), torch.randn(1, 8, device=device)
        if step == 1:
            y = y * 0  # one bad sample: the gradient of the root is not finite there
        loss = main(x).square().mean() + side(y).square().sum().sqrt()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            optimizer.step()
    return {"norm of the parameters whose own gradients were always finite": main.weight.detach().norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    norm = "norm of the parameters whose own gradients were always finite"
    assert math.isnan(trapped[norm]), "the clip has multiplied their gradients by one that was not"
    assert math.isfinite(fixed[norm])
