"""`torch.set_grad_enabled(False)` is never undone, and the training that follows has no gradients.

## What it does

Reports a `torch.set_grad_enabled(False)` that stands as a statement, where a loss is later computed with gradients
still off, and back-propagated.

## Why it is a trap

As a statement it acts until the next `set_grad_enabled`, beyond the end of the function that calls it. The evaluation
that switches gradients off for itself has then switched them off for the next epoch. `backward()` raises, hours into
the run, or goes unnoticed where something else puts a gradient on the loss.

## Known limits

False positives: code out of sight that turns gradients on again.

False negatives: losses that are computed out of sight; evaluation in code that cannot be seen.

There is no fix: the switch may be meant for more than one place. `with torch.no_grad():` around what needs it, or the
decorator, cannot be left on.

## Trap

```python
import torch


def evaluate(model, loader, criterion):
    torch.set_grad_enabled(False)
    return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, evaluate(model, held_out, criterion))
```

## Fixed

```python
import torch


def evaluate(model, loader, criterion):
    with torch.no_grad():
        return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, evaluate(model, held_out, criterion))
```

## References

- [torch.set_grad_enabled](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.set_grad_enabled.html)
- [Autograd mechanics: locally disabling gradient computation](https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated, GradientModeSet
from flake8_gradtrap.gradients import Mark, quoted
from flake8_gradtrap.rule import Rule, Watch, on


class GradientsLeftOff(Rule):
    """In memory: "off": where gradients were switched off."""

    code = "GTR604"
    name = "gradients-left-off"
    summary = "Gradients are switched off by a statement, and the training goes on without them"
    words = ("set_grad_enabled", "backward")
    roots = ("backward",)

    @on(GradientModeSet)
    def switch(self, event: GradientModeSet, watch: Watch) -> None:
        watch.drop(("off",))
        if event.enabled is False:
            watch.put(("off",), Mark(event.site))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        off: Mark | None = watch.get(("off",))
        if off is None or event.recorded is not False:
            return
        watch.report(
            off.site,
            f"gradients stay off from here on: {quoted(event.loss, 'the loss')} is computed without a graph before "
            f"line {watch.line(event.site)}, and `backward()` trains nothing; use `with torch.no_grad():` instead",
            trace=[("gradients are switched off here", off.site), ("a loss without a graph goes backward", event.site)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    try:
        for _ in range(5):
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            try:
                loss.backward()
            except RuntimeError:  # element 0 of tensors does not require grad
                raised += 1
                continue
            optimizer.step()
            steps += 1
            torch.set_grad_enabled(False)
            model(x)
    finally:
        torch.set_grad_enabled(True)
    return {"steps taken": float(steps), "errors raised": float(raised)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    for _ in range(5):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        try:
            loss.backward()
        except RuntimeError:  # element 0 of tensors does not require grad
            raised += 1
            continue
        optimizer.step()
        steps += 1
        with torch.no_grad():
            model(x)
    return {"steps taken": float(steps), "errors raised": float(raised)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps taken"] == 1
    assert trapped["errors raised"] == 4
    assert fixed["steps taken"] == 5
    assert fixed["errors raised"] == 0
