"""Each micro-batch of an accumulation window counts the same, however many tokens it has.

## What it does

Reports the backward of a loss that is a mean over a number that differs from batch to batch (`ignore_index=…`,
`(losses * mask).sum() / mask.sum()`), and that is then divided by k, in a loop whose optimizer steps every k
micro-batches.

## Why it is a trap

The mean of k means is not the mean over all their tokens. A token in a micro-batch with few others weighs more than one
in a full micro-batch: with 4 and 400 tokens, a hundred times as much. So the gradient changes with the way in which the
same samples are cut into micro-batches, and what looks like a larger batch trains something else: short answers, rare
pixels. Nothing says so; the loss differs a little. The demo compares the gradient of a window with that of the same
tokens in one batch.

## Known limits

It is in preview: with micro-batches that are all about as full, it makes little difference, and to let each sample
count the same is a choice that some make knowingly.

False positives: batches in which nothing is ever ignored; batches that are packed to one length.

False negatives: labels of -100, which are ignored without a word; losses that a model out of sight computes; windows of
Accelerate, and the mean over processes; a mean that anything unknown weighs, beside the size of the window.

## Trap

```python
import torch
from torch.nn import functional as F


def train(model, loader, pad, accumulation_steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for i, (tokens, labels) in enumerate(loader):
        logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad)
        (loss / accumulation_steps).backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
```

## Fixed

```python
import torch
from torch.nn import functional as F


def train(model, windows, pad):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for window in windows:
        count = sum((labels != pad).sum() for _, labels in window)
        for tokens, labels in window:
            logits = model(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad, reduction="sum")
            (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
```

## References

- [torch.nn.functional.cross_entropy](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html):
  the mean is over the targets that are not ignored
- [Fixing gradient accumulation](https://huggingface.co/blog/gradient_accumulation)
"""

from __future__ import annotations

from functools import partial

from flake8_gradtrap.events import Cleared, Stepped
from flake8_gradtrap.rule import Watch
from flake8_gradtrap.windows import ACCUMULATES, Filled, InWindows, Window


class MeanOfMeans(InWindows):
    """Acquitted: a backward of what something else weighs, or that is cleared before the step, in a window; one whose
    gradients are divided by hand.
    """

    code = "GTR510"
    name = "mean-of-means"
    summary = "Each micro-batch of a window counts the same, however many tokens it has"
    words = ("backward",)
    default = False

    def kept(self, filled: Filled, windows: frozenset[Window], watch: Watch) -> None:
        for window in windows if filled.weights.seen else ():
            story = (filled.place, window)
            if window.test == window.loop and not ACCUMULATES.search(window.every.label):
                continue
            if self.shared_evenly(filled, window):
                self.open.setdefault(story, partial(self.tell, filled, window))
            else:
                self.acquit(story)

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        self.acquit(*((filled.place, window) for window in filled.short))

    def rescaled(self, filled: Filled) -> None:
        self.acquit(filled.place)

    @staticmethod
    def shared_evenly(filled: Filled, window: Window) -> bool:
        """Whether the size of the window is all that weighs an uneven mean."""
        weights, size = filled.weights, window.every.key
        if size not in weights.by and (weights.share is None or weights.share >= 1):
            return False  # nothing divides it, which is another trap (GTR505)
        return any(by <= {size} for by in weights.uneven)

    @staticmethod
    def tell(filled: Filled, window: Window, step: Stepped, watch: Watch) -> None:
        tested = window.test != window.loop
        watch.report(
            filled.backward,
            f"each of the {window.spoken()} micro-batches before the step at line {watch.line(step.site)} counts the "
            "same, however many of its targets are ignored: a token of a short one weighs more; divide the sum of the "
            "losses by the number of tokens in the whole window",
            trace=[
                ("the mean over the targets of one micro-batch goes backward here", filled.backward),
                ("the window is full here" if tested else "over so many micro-batches", window.site),
                ("and the mean of their means is applied here", step.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = nn.Linear(8, 5).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(2, 32, 8, device=device), torch.randint(1, 5, (2, 32), device=device)
    y[1, 2:] = 0  # of the second micro-batch only two targets are left
    whole = torch.autograd.grad(F.cross_entropy(model(x.flatten(0, 1)), y.flatten(), ignore_index=0), model.weight)[0]
    distance = 0.0
    for i, (part, target) in enumerate(zip(x, y, strict=True)):
        loss = F.cross_entropy(model(part), target, ignore_index=0) / 2
        loss.backward()
        if (i + 1) % 2 == 0:
            assert model.weight.grad is not None
            distance = ((model.weight.grad - whole).norm() / whole.norm()).item()
            optimizer.step()
            optimizer.zero_grad()
    return {"distance from the gradient of one batch, relative": distance}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = nn.Linear(8, 5).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(2, 32, 8, device=device), torch.randint(1, 5, (2, 32), device=device)
    y[1, 2:] = 0  # of the second micro-batch only two targets are left
    whole = torch.autograd.grad(F.cross_entropy(model(x.flatten(0, 1)), y.flatten(), ignore_index=0), model.weight)[0]
    distance = 0.0
    count = (y != 0).sum()
    for i, (part, target) in enumerate(zip(x, y, strict=True)):
        loss = F.cross_entropy(model(part), target, ignore_index=0, reduction="sum") / count
        loss.backward()
        if (i + 1) % 2 == 0:
            assert model.weight.grad is not None
            distance = ((model.weight.grad - whole).norm() / whole.norm()).item()
            optimizer.step()
            optimizer.zero_grad()
    return {"distance from the gradient of one batch, relative": distance}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    distance = "distance from the gradient of one batch, relative"
    assert trapped[distance] > 0.2, "two tokens weigh as much as thirty-two"
    assert fixed[distance] < 1e-4
