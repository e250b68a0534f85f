"""The losses of all samples reach backward() unreduced: it raises.

## What it does

Reports `backward()` on what a loss function with `reduction="none"` returns, if nothing reduces it on the way and no
gradient is given. Weights, sums and views of it do not help.

## Why it is a trap

`backward()` starts from one number. Of a tensor of losses it raises "grad can be implicitly created only for scalar
outputs", as soon as the batch has more than one element; with a batch of one, in a quick test, all is well.

## Known limits

False positives: a loop whose batches have one element each.

False negatives: losses that are computed out of sight; a loss that is reduced under a condition which does not hold.

## Trap

```python
import torch
from torch import nn


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss(reduction="none")
    for x, y, weight in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y) * weight
        loss.backward()  # raises
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss(reduction="none")
    for x, y, weight in loader:
        optimizer.zero_grad()
        loss = (criterion(model(x), y) * weight).mean()
        loss.backward()
        optimizer.step()
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
- [torch.nn.CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import UnreducedBackpropagated
from flake8_gradtrap.rule import Rule, Watch, on


class BackwardOnNonScalar(Rule):
    code = "GTR207"
    name = "backward-on-non-scalar"
    summary = "The losses of all samples are back-propagated unreduced: backward() raises"
    severity = "info"
    words = ("reduction", "reduce", "backward")
    roots = ("backward",)

    @on(UnreducedBackpropagated)
    def backpropagated(self, event: UnreducedBackpropagated, watch: Watch) -> None:
        name = event.loss.label or "loss"
        watch.report(
            event.site,
            f'`backward()` raises: `{name}` holds a loss for each sample, made with reduction="none" at line '
            f"{watch.line(event.computed)}; take the mean of it first",
            trace=[("a loss for each sample is computed here", event.computed), ("back-propagated here", event.site)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 3).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(16, 8, device=device), torch.randint(0, 3, (16,), device=device)
    start = model.weight.detach().clone()
    raised = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y, reduction="none")
        try:
            loss.backward()
        except RuntimeError:
            raised += 1.0
        optimizer.step()
    return {"raised": raised, "change of the weights": (model.weight.detach() - start).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 3).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(16, 8, device=device), torch.randint(0, 3, (16,), device=device)
    start = model.weight.detach().clone()
    raised = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y, reduction="none").mean()
        try:
            loss.backward()
        except RuntimeError:
            raised += 1.0
        optimizer.step()
    return {"raised": raised, "change of the weights": (model.weight.detach() - start).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["raised"] == 3.0
    assert trapped["change of the weights"] == 0.0
    assert fixed["raised"] == 0.0
    assert fixed["change of the weights"] > 0.01
