"""Gradients are cleared for each micro-batch, but the optimizer steps only every k of them.

## What it does

Reports `zero_grad()` (of the optimizer or the module) that runs for every micro-batch of a window, while the step waits
until the window is full: `if (i + 1) % k == 0: optimizer.step()`, or a step after an inner loop over micro-batches.

## Why it is a trap

Nothing accumulates. Of k micro-batches the gradients of k - 1 are computed and thrown away; the step applies those of
the last one. The run costs as much as with large batches and learns from small ones, k times fewer of them. Where the
loss is divided by k, as it should be, the step is k times too short on top. The demo measures how much of the window's
gradient the step uses.

## Known limits

False positives: a loop that discards gradients on purpose, such as an actor that learns from every k-th update only.

False negatives: a clearing under a condition that asks whether a window is full, though another one than that of the
step; windows that are not seen as such; gradients whose owner is unknown while there are several optimizers; a model or
an optimizer that is handed to code out of sight between backward and clearing. `optimizer.zero_grad()` inside
Accelerate's `accumulate` waits by itself, and is no trap.

## Trap

```python
import torch


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss = criterion(model(x), y) / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
```

## References

- [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
- [Gradient accumulation, in the AMP examples](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial

from flake8_gradtrap.events import Backpropagated, Cleared, Escaped, GradientUsed, RunEnded, Site, Stepped, Thing
from flake8_gradtrap.gradients import overlap, quoted, tagged, touches
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.windows import Filled, InWindows, Story

COLLECTS = re.compile(r"grad|accum|aggregat|collect", re.IGNORECASE)
"""What a function is called that takes over the gradients of a micro-batch."""


@dataclass(frozen=True, slots=True)
class Wiped:
    """Gradients that were to be kept until their window is full, and were cleared in the next iteration."""

    filled: Filled = field(compare=False)
    event: Cleared = field(compare=False)


class AccumulationClearedEachMicroBatch(InWindows):
    """In memory: "wiped" gradients, by place and window, until a backward follows: else the loop goes on to the next
    batch, and this one was left out.

    Acquitted: a backward that adds to what it made before: a condition decides whether gradients are cleared (a loss
    that is not finite). One whose gradients are read for more than their norm: they are kept, and put back later.
    """

    code = "GTR506"
    name = "accumulation-cleared-each-micro-batch"
    summary = "Gradients are cleared for each micro-batch, but the optimizer steps only every k of them"
    words = ("backward",)
    waits = (*InWindows.waits, "inner", "outside")

    def __init__(self) -> None:
        super().__init__()
        self.inner: dict[tuple[Hashable, Hashable], Callable[[Stepped, Watch], None]] = {}
        """Clearings, in an inner loop, of what its last iteration left, by backward and loop."""
        self.outside: dict[tuple[Hashable, Hashable], Stepped] = {}
        """Steps after such a loop."""

    def adds(self, filled: Filled) -> None:
        self.acquit(filled.place)

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        if self.guarded(watch):
            return
        for window in filled.short:
            if window.loop in filled.ended:
                watch.put(("wiped", filled.place, window), Wiped(filled, event))
            else:
                self.early((filled.place, window), filled, event)
        if not filled.loops <= self.running(watch):
            return  # left over from when a loop ran last
        for (_, loop), mark in tagged(watch, "active"):
            if loop in filled.ended:
                over = ("over these micro-batches", mark.site)
                self.inner.setdefault((filled.place, loop), partial(self.tell, filled, event, None, over))

    def early(self, story: Story, filled: Filled, event: Cleared) -> None:
        full = ("the window is full here", story[1].site)
        self.open.setdefault(story, partial(self.tell, filled, event, story[1].every, full))

    @on(GradientUsed)
    def used(self, event: GradientUsed, watch: Watch) -> None:
        """Those of each micro-batch have done their work, or are put back later."""
        if self.guarded(watch):
            return  # only those of the last one
        for _, filled in tagged(watch, "filled"):
            if overlap(filled.owners, event.owners) is not False:
                self.acquit(filled.place)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        """An optimizer of one's own that collects the gradients of each micro-batch, on this path."""
        if COLLECTS.search(event.to.rpartition(".")[2]):
            for _, filled in tagged(watch, "filled"):
                if touches(watch, event, filled.owners, filled.walked):
                    self.acquit(filled.place)
        super().escape(event, watch)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        super().backward(event, watch)
        for key, wiped in tagged(watch, "wiped"):
            if key[1] == event.site.node:
                self.early((key[1], key[2]), wiped.filled, wiped.event)

    def over(self, loop: Hashable, watch: Watch) -> None:
        super().over(loop, watch)
        for key, _ in tagged(watch, "wiped"):
            if key[2].loop == loop:
                watch.drop(key)

    def stepped(self, filled: Filled, event: Stepped, running: frozenset[Hashable]) -> None:
        for loop in filled.loops - running:
            self.outside.setdefault((filled.place, loop), event)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for place, tell in self.inner.items():
            if place in self.outside:
                self.suspect(place, partial(tell, self.outside[place]))
        self.inner.clear()
        self.outside.clear()
        super().ended(event, watch)

    @staticmethod
    def tell(
        filled: Filled, cleared: Cleared, every: Thing | None, window: tuple[str, Site], step: Stepped, watch: Watch
    ) -> None:
        count = quoted(every, "several")
        what = quoted(step.optimizer, "the optimizer")
        watch.report(
            cleared.site,
            f"this clears the gradients of each micro-batch, but {what} steps only after {count} of them, at line "
            f"{watch.line(step.site)}: those of the last one are applied, the others are lost; clear after the step",
            trace=[
                ("the gradients of a micro-batch are computed here", filled.backward),
                ("and cleared here, before any step", cleared.site),
                window,
                ("and the step finds those of the last one here", step.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    whole = torch.autograd.grad(nn.functional.mse_loss(model(x), y), model.weight)[0]
    distance = 0.0
    for i, (part, target) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            assert model.weight.grad is not None
            distance = (model.weight.grad - whole).norm().item()
            optimizer.step()
    return {"distance of the gradient used from that of the window": distance, "its norm": whole.norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    whole = torch.autograd.grad(nn.functional.mse_loss(model(x), y), model.weight)[0]
    distance = 0.0
    for i, (part, target) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            assert model.weight.grad is not None
            distance = (model.weight.grad - whole).norm().item()
            optimizer.step()
            optimizer.zero_grad()
    return {"distance of the gradient used from that of the window": distance, "its norm": whole.norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    distance = "distance of the gradient used from that of the window"
    assert trapped[distance] > 0.5 * trapped["its norm"], "three quarters of the window are missing"
    assert fixed[distance] < 1e-4 * fixed["its norm"]
