"""Gradients are clipped after each micro-batch, not when their window is full.

## What it does

Reports a clip (of norm or of values, torch's or a visible one of your own) that runs for every micro-batch of a window,
while the step waits until the window is full: `if (i + 1) % k == 0: optimizer.step()`, or a step after an inner loop
over micro-batches.

## Why it is a trap

The clip sees a running total: what is left of the micro-batches so far, and the new one at its full length. Where it
limits at all, early samples are shrunk again and again, late ones once: the step follows the last micro-batch, as if
the window were short. In the demo, each of four micro-batches has a weight of its own, and their gradients are equally
long; it compares what the step applies for the first with what it applies for the last.

## Known limits

False positives: clipping each part on purpose, without clearing in between.

False negatives: a clip whose gradients cannot be related to those of the backward; windows that are not seen as such; a
model or an optimizer that is handed to code out of sight between backward and step. Clips of per-sample gradients that
are copied and cleared (differential privacy) are silent, as is `accelerator.clip_grad_norm_`.

## Trap

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / accumulation_steps
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
```

## Fixed

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
```

## References

- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
- [Gradient clipping and accumulation, in the AMP examples](https://docs.pytorch.org/docs/stable/notes/amp_examples.html)
"""

from __future__ import annotations

from functools import partial

from flake8_gradtrap.events import Cleared, Site, Stepped
from flake8_gradtrap.gradients import TORCH_CLIPS
from flake8_gradtrap.rule import Watch
from flake8_gradtrap.windows import Filled, InWindows, Window


class ClipEachMicroBatch(InWindows):
    """Acquitted: a backward whose gradients are cleared before the step, so that each is clipped by itself."""

    code = "GTR303"
    name = "clip-each-micro-batch"
    summary = "Gradients are clipped after each micro-batch, not when their window is full"
    words = tuple(sorted(TORCH_CLIPS))

    def kept(self, filled: Filled, windows: frozenset[Window], watch: Watch) -> None:
        if filled.clip is not None:
            for window in windows:
                if window.loop in filled.clipped_in:
                    self.open.setdefault((filled.place, window), partial(self.tell, filled, filled.clip, window))

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        if filled.short or (filled.ended and filled.loops <= self.running(watch)):
            self.acquit(filled.place)

    @staticmethod
    def tell(filled: Filled, clip: Site, window: Window, step: Stepped, watch: Watch) -> None:
        tested = window.test != window.loop
        watch.report(
            clip,
            "this clips the gradients after each micro-batch, but they are applied only after "
            f"{window.spoken('several')} of them, at line {watch.line(step.site)}: early samples are shrunk again "
            "and again, and the step follows the last ones; clip once, right before the step",
            trace=[
                ("the gradients of a micro-batch are added here", filled.backward),
                ("what there is until now is clipped here", clip),
                ("the window is full here" if tested else "over so many micro-batches", window.site),
                ("and all are applied here", step.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_

    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).to(device)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.eye(4, device=device), torch.ones(4, 1, device=device)
    used = [0.0] * 4
    for i, (part, target) in enumerate(zip(x.split(1), y.split(1), strict=True)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.1)
        if (i + 1) % 4 == 0:
            assert model.weight.grad is not None
            used = model.weight.grad.abs().flatten().tolist()
            optimizer.step()
            optimizer.zero_grad()
    return {"applied of the first micro-batch": used[0], "applied of the last": used[-1]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_

    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).to(device)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.eye(4, device=device), torch.ones(4, 1, device=device)
    used = [0.0] * 4
    for i, (part, target) in enumerate(zip(x.split(1), y.split(1), strict=True)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            clip_grad_norm_(model.parameters(), 0.1)
            assert model.weight.grad is not None
            used = model.weight.grad.abs().flatten().tolist()
            optimizer.step()
            optimizer.zero_grad()
    return {"applied of the first micro-batch": used[0], "applied of the last": used[-1]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    def share(measured: dict[str, float]) -> float:
        return measured["applied of the first micro-batch"] / measured["applied of the last"]

    assert share(trapped) < 0.1, "it was clipped four times"
    assert abs(share(fixed) - 1) < 1e-3
