"""The last accumulation window of an epoch is not full, and nothing applies it.

## What it does

Reports the test of an accumulation window (`if (i + 1) % k == 0`) where the gradients of the last, shorter window are
neither applied in the loop nor after it: the next epoch clears them, or the training ends.

## Why it is a trap

With n batches and windows of k, the last n % k batches of each epoch are computed and thrown away. With few batches and
large windows that is much of the data; where k is greater than n, no step is ever taken. Without a clearing at the
start of the epoch they are not lost, but join the first window of the next one. The demo counts the samples that take
part in a step.

## Known limits

It is in preview: many loops drop the rest knowingly, and a loader whose length is a multiple of k has none.

False positives: a length that is known to be a multiple of the window; a loop without end.

False negatives: a loop that is left by `break`; a test that also asks in another way whether the batch is the last;
what is handed to code out of sight.

## Trap

```python
import torch


def train(model, loader, criterion, epochs, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / accumulation_steps
            loss.backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
                optimizer.zero_grad()
```

## Fixed

```python
import torch


def train(model, loader, criterion, epochs, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / accumulation_steps
            loss.backward()
            if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
```

## References

- [Gradient accumulation in Accelerate](https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation)
- [torch.utils.data.DataLoader](https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from flake8_gradtrap.events import Cleared, LoopLeft, RunEnded, Stepped
from flake8_gradtrap.gradients import tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.windows import Filled, InWindows, Story, Window


class LastWindowDropped(InWindows):
    """In memory: "left" gradients of a window that was not full when its loop ended, by place.

    Acquitted: backwards whose gradients a step uses after their loop.
    """

    code = "GTR507"
    name = "last-window-dropped"
    summary = "The last, shorter accumulation window of an epoch is never applied"
    words = ("backward",)
    default = False
    waits = (*InWindows.waits, "last")

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[Story, Callable[[Stepped, Watch], None]] = {}
        """Windows whose rest may still be left when the run ends."""

    def leftover(self, filled: Filled, windows: frozenset[Window], event: LoopLeft, watch: Watch) -> None:
        if not event.surprised:
            for window in windows:
                watch.put(("left", filled.place, window), filled)
                self.last.setdefault((filled.place, window), partial(self.tell, filled, window, None))

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        for key, left in tagged(watch, "left"):
            if key[1] == filled.place:
                watch.drop(key)
                self.open.setdefault((key[1], key[2]), partial(self.tell, left, key[2], event))

    def stepped(self, filled: Filled, event: Stepped, running: frozenset[Hashable]) -> None:
        if not filled.loops <= running:
            self.acquit(filled.place)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        if not event.again:
            self.open = self.last | self.open
        self.last.clear()
        super().ended(event, watch)

    @staticmethod
    def tell(filled: Filled, window: Window, cleared: Cleared | None, step: Stepped, watch: Watch) -> None:
        lost = f"line {watch.line(cleared.site)} clears them" if cleared is not None else "the training ends"
        trace = [
            ("the gradients of the last batches are computed here", filled.backward),
            ("their window is not full here, when the loop ends", window.site),
        ]
        if cleared is not None:
            trace.append(("and they are cleared here, before any step", cleared.site))
        watch.report(
            window.site,
            f"the batches after the last full window of {window.spoken()} are not applied: the step at line "
            f"{watch.line(step.site)} waits for more, and {lost}; step at the last batch, too",
            trace=trace,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(28, 8, device=device), torch.randn(28, 1, device=device)
    applied = pending = 0
    for _ in range(2):
        optimizer.zero_grad()
        pending = 0
        for i, (part, target) in enumerate(zip(x.split(4), y.split(4), strict=True)):
            loss = nn.functional.mse_loss(model(part), target) / 4
            loss.backward()
            pending += len(part)
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
                applied, pending = applied + pending, 0
    return {"samples that took part in a step": float(applied), "samples": 56.0}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(28, 8, device=device), torch.randn(28, 1, device=device)
    applied = pending = 0
    batches = list(zip(x.split(4), y.split(4), strict=True))
    for _ in range(2):
        optimizer.zero_grad()
        pending = 0
        for i, (part, target) in enumerate(batches):
            loss = nn.functional.mse_loss(model(part), target) / 4
            loss.backward()
            pending += len(part)
            if (i + 1) % 4 == 0 or i + 1 == len(batches):
                optimizer.step()
                optimizer.zero_grad()
                applied, pending = applied + pending, 0
    return {"samples that took part in a step": float(applied), "samples": 56.0}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["samples that took part in a step"] == 32.0, "three of seven batches are left out in each epoch"
    assert fixed["samples that took part in a step"] == fixed["samples"]
