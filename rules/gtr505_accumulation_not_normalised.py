"""The gradients of several micro-batches are added up, and nothing divides by their number.

## What it does

Reports the backward of a loss that is a mean over its micro-batch, in a loop whose optimizer steps only every k of them
(`if (i + 1) % k == 0`, `if i % k: continue`, a counter that is set back, an inner loop `for micro in range(k)`), where
nothing on the way divides by k: neither the loss, nor a weight in it, nor the gradients afterwards.

## Why it is a trap

`backward()` adds to `.grad`. The sum of k means is k times the mean over all their samples, so with SGD each step is k
times as long as the one that it replaces: the learning rate was multiplied by k and nothing says so. A gradient clip
limits a norm that is k times too large. The demo compares the gradient of a window with the gradient of the same
samples in one batch.

Adam and its like divide by the size of the gradients. Thirty steps of Adam, AdamW, RMSprop or Adagrad on sums and on
means of eight differ by less than 0.01 % in torch 2.13, those of Adam with a `weight_decay` (which is added to the
gradient) by 60 %. So beside such an optimizer, or one that is made out of sight, without such a decay and without a
clip, the finding is a preview.

## Known limits

False positives: a learning rate that was chosen for the sum; a loss whose function, out of sight, divides by the size
of the window, or sums; a window whose micro-batches are parts of one loss over all their samples (cached contrastive
losses); an optimizer that normalises its gradients.

False negatives: a loss that anything unknown multiplies or divides as a whole; a loss of which it cannot be told that
it is a mean, such as one of several results of code out of sight (`loss, output = model(x)`); windows of other forms
than those above; inner loops whose number is not called after what it is (`accum`, `micro`, …); a model or an optimizer
that is handed to code out of sight between backward and step. Accelerate, when it was told
`gradient_accumulation_steps`, and DeepSpeed divide by themselves.

## Trap

```python
import torch


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y)
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
```

## Fixed

```python
import torch


def train(model, loader, criterion, accumulation_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html): it accumulates
- [Gradient accumulation, in the AMP examples](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation)
- [Gradient accumulation in Accelerate](https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation)
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

from flake8_gradtrap.events import Cleared, OptimizerMade, RunEnded, Stepped
from flake8_gradtrap.gradients import adaptive
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.windows import ACCUMULATES, Filled, InWindows, Window


class AccumulationNotNormalised(InWindows):
    """Acquitted: a backward of what is divided, or always cleared before the step, in a window; one whose gradients
    are divided by hand.
    """

    code = "GTR505"
    name = "accumulation-not-normalised"
    summary = "The gradients of several micro-batches are added up, and nothing divides by their number"
    words = ("backward",)

    def __init__(self) -> None:
        super().__init__()
        self.plain: set[Hashable] = set()
        """Optimizers that are seen to step as far as the gradients are long."""
        self.adaptive: set[Hashable] = set()
        """Optimizers that divide by the size of the gradients themselves."""
        self.clipped: set[Hashable] = set()
        """Backwards whose gradients were clipped before a step used them, on whatever path."""
        self.added: set[Hashable] = set()
        """Backwards to whose gradients those of a later iteration were added, on whatever path."""
        self.wipes: dict[Hashable, Hashable] = {}
        """What is acquitted of a backward whose gradients were cleared before the step, if they always are."""

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        super().made(event, watch)
        if adaptive(event):
            self.adaptive.add(event.optimizer.key)
        else:
            self.plain.add(event.optimizer.key)

    def stepped(self, filled: Filled, event: Stepped, running: frozenset[Hashable]) -> None:
        if filled.clip is not None:
            self.clipped.add(filled.place)

    def kept(self, filled: Filled, windows: frozenset[Window], watch: Watch) -> None:
        for window in windows if filled.weights.seen else ():
            story = (filled.place, window)
            if window.test == window.loop and not ACCUMULATES.search(window.every.label):
                continue
            if self.normalised(filled, window):
                self.acquit(story)
            else:
                self.open.setdefault(story, partial(self.tell, filled, window))

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        self.wipes |= {(filled.place, window): filled.place for window in filled.short}
        if filled.ended and filled.loops <= self.running(watch):
            self.wipes[filled.place] = filled.place  # each iteration begins with it

    def adds(self, filled: Filled) -> None:
        self.added.add(filled.place)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        self.acquit(*(what for what, place in self.wipes.items() if place not in self.added))
        super().ended(event, watch)

    def rescaled(self, filled: Filled) -> None:
        self.acquit(filled.place)

    @staticmethod
    def normalised(filled: Filled, window: Window) -> bool:
        """Whether the loss may have been divided by the size of the window."""
        share = filled.weights.share
        if share is None or window.every.key in filled.weights.by:
            return True
        if window.size is None:
            return share < 1
        return abs(share * window.size - 1) < 0.01

    def tell(self, filled: Filled, window: Window, step: Stepped, watch: Watch) -> None:
        size = window.spoken()
        key, clipped = step.optimizer.key, filled.place in self.clipped
        effect = f"each step is {size} times as long as for their mean"
        if clipped:
            effect = f"what is clipped is {size} times as large as their mean"
        elif key in self.adaptive:
            effect = f"their sum is {size} times their mean, which this optimizer undoes as long as nothing is clipped"
        elif key not in self.plain:
            effect = f"their sum is {size} times their mean, and so is the step, unless the optimizer is one like Adam"
        tested = window.test != window.loop
        watch.report(
            filled.backward,
            f"{size} of these gradients are added up before the step at line {watch.line(step.site)}, and nothing "
            f"divides by {size}: {effect}; divide the loss by {size}",
            trace=[
                ("the mean of a micro-batch goes backward here", filled.backward),
                ("the window is full here" if tested else "over so many micro-batches", window.site),
                ("and the sum of their gradients is applied here", step.site),
            ],
            preview=not clipped and key not in self.plain,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    whole = torch.autograd.grad(nn.functional.mse_loss(model(x), y), model.weight)[0].norm().item()
    used = 0.0
    for i, (part, target) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        loss = nn.functional.mse_loss(model(part), target)
        loss.backward()
        if (i + 1) % 4 == 0:
            assert model.weight.grad is not None
            used = model.weight.grad.norm().item()
            optimizer.step()
            optimizer.zero_grad()
    return {"norm that the step used": used, "norm of the same samples in one batch": whole}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    whole = torch.autograd.grad(nn.functional.mse_loss(model(x), y), model.weight)[0].norm().item()
    used = 0.0
    for i, (part, target) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            assert model.weight.grad is not None
            used = model.weight.grad.norm().item()
            optimizer.step()
            optimizer.zero_grad()
    return {"norm that the step used": used, "norm of the same samples in one batch": whole}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    def ratio(measured: dict[str, float]) -> float:
        return measured["norm that the step used"] / measured["norm of the same samples in one batch"]

    assert abs(ratio(trapped) - 4) < 1e-3, "the sum of four means"
    assert abs(ratio(fixed) - 1) < 1e-3
