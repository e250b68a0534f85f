"""An evaluation runs the model in training mode: dropout is on, and the validation data move the running statistics.

## What it does

Reports the call of a module in a function that evaluates by its name, with gradients off, after `train()` and with no
`eval()` since.

## Why it is a trap

Under `no_grad` the evaluation trains nothing, but the mode is still that of the training: dropout makes the score
noisy and too low, batch normalisation normalises with the validation batch, so that the score depends on the batch
size, and updates its running statistics from data that the model must not see.

## Known limits

False positives: dropout that is left on to measure the uncertainty; statistics that are estimated anew.

False negatives: models whose mode nobody in sight has set; evaluation under another name.

There is no fix: `eval()` needs its `train()` afterwards, and where that belongs depends on the loop.

## Trap

```python
import torch


@torch.no_grad()
def evaluate(model, loader, criterion):
    return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        print(epoch, evaluate(model, held_out, criterion))
```

## Fixed

```python
import torch


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        print(epoch, evaluate(model, held_out, criterion))
```

## References

- [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
- [torch.nn.BatchNorm1d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html)
- [Autograd mechanics: evaluation mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval)
"""

from __future__ import annotations

from flake8_gradtrap.events import Escaped, Forwarded, ModeSet
from flake8_gradtrap.gradients import tagged
from flake8_gradtrap.modes import EVALUATES, Evaluating, InModes
from flake8_gradtrap.rule import Watch, on


class EvaluationInTrainMode(InModes):
    """In memory: "train", by module: where it was put into training mode."""

    code = "GTR603"
    name = "evaluation-in-train-mode"
    summary = "A model is evaluated in training mode"
    default = False
    words = ("train", "no_grad", "inference_mode", "set_grad_enabled", "backward")
    roots = ("backward",)

    @on(ModeSet)
    def mode(self, event: ModeSet, watch: Watch) -> None:
        for key, value in tagged(watch, "train"):
            if self.concerns(event, value):
                watch.drop(key)
        if event.training and event.parts and not event.setup:
            watch.put(("train", event.module.key), Evaluating(event.site, event.module, event.parts, event.holders))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        for key, value in tagged(watch, "train"):
            if any(thing.key in value.parts for thing in event.things):
                watch.drop(key)

    @on(Forwarded)
    def forward(self, event: Forwarded, watch: Watch) -> None:
        if event.recorded is not False or not EVALUATES.search(event.function):
            return
        mark: Evaluating
        for _, mark in tagged(watch, "train"):
            if event.module.key in mark.parts or not mark.parts.isdisjoint(event.holders):
                name = f"`{event.module.label}`" if event.module.label else "the model"
                watch.report(
                    event.site,
                    f"{name} is evaluated in training mode: dropout is on, and batch normalisation learns from these "
                    "data; call `eval()` before, and `train()` after it",
                    trace=[("put into training mode here", mark.site), ("evaluated in that mode here", event.site)],
                )
                return


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    held_out = torch.randn(64, 8, device=device)

    def evaluate() -> float:
        with torch.no_grad():
            return float((model(held_out) - model(held_out)).abs().max())

    spread = 0.0
    for _ in range(4):
        model.train()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        spread = evaluate()
    updates = dict(model.named_buffers())["1.num_batches_tracked"].item()
    return {"two evaluations differ by": spread, "updates of the running statistics": float(updates)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    held_out = torch.randn(64, 8, device=device)

    def evaluate() -> float:
        model.eval()
        with torch.no_grad():
            return float((model(held_out) - model(held_out)).abs().max())

    spread = 0.0
    for _ in range(4):
        model.train()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        spread = evaluate()
    updates = dict(model.named_buffers())["1.num_batches_tracked"].item()
    return {"two evaluations differ by": spread, "updates of the running statistics": float(updates)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["two evaluations differ by"] > 0
    assert trapped["updates of the running statistics"] == 12
    assert fixed["two evaluations differ by"] == 0
    assert fixed["updates of the running statistics"] == 4
