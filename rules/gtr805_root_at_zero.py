"""The square root of a sum of squares, or of a variance, has an infinite slope where all of them are zero.

## What it does

Reports `sqrt(x)` and `x ** 0.5` that a gradient goes through, where x is a sum or a mean of squares, or a variance, and
nothing was added to it or clamped.

## Why it is a trap

At zero the slope of the square root is infinite, that of a square is zero, and their product is NaN: one row of
padding, a pair of equal points, a constant feature, and every parameter is NaN after the step. `torch.linalg.norm`,
`torch.cdist` and `torch.std` know the case, and give a gradient of zero (measured with torch 2.13). Use them, or add a
small number under the root.

## Known limits

False positives: sums that are never exactly zero: noise, a weight's norm. This is why the rule is a preview.

False negatives: sums that were computed out of sight; roots of anything but squares.

## Trap

```python
import torch
from torch import nn


def train(loader):
    embed = nn.Linear(16, 8)
    optimizer = torch.optim.Adam(embed.parameters(), lr=1e-3)
    for left, right, target in loader:
        distance = torch.sqrt((embed(left) - embed(right)).pow(2).sum(-1))  # NaN gradient for a pair of equal inputs
        loss = (distance - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(loader):
    embed = nn.Linear(16, 8)
    optimizer = torch.optim.Adam(embed.parameters(), lr=1e-3)
    for left, right, target in loader:
        distance = torch.linalg.norm(embed(left) - embed(right), dim=-1)
        loss = (distance - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.linalg.norm](https://docs.pytorch.org/docs/stable/generated/torch.linalg.norm.html)
- [torch.cdist](https://docs.pytorch.org/docs/stable/generated/torch.cdist.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import RootTaken
from flake8_gradtrap.rule import Rule, Watch, on


class RootAtZero(Rule):
    code = "GTR805"
    name = "root-at-zero"
    summary = "The square root of squares or of a variance has an infinite slope at zero"
    default = False
    words = ("sqrt", "sqrt_", "pow", "square", "var", "backward")
    roots = ("sqrt", "sqrt_", "backward")

    @on(RootTaken)
    def taken(self, event: RootTaken, watch: Watch) -> None:
        if event.trains:
            watch.report(
                event.site,
                f"{event.how} makes the gradient NaN where it is zero; use `torch.linalg.norm` (or `std`), or add a "
                "small number under the root",
                trace=[("the root is taken here", event.site)],
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    embed = nn.Linear(16, 8).to(device)
    optimizer = torch.optim.SGD(embed.parameters(), lr=0.1)
    left = torch.randn(32, 16, device=device)
    right = torch.randn(32, 16, device=device)
    right[0] = left[0]
    distance = torch.sqrt((embed(left) - embed(right)).pow(2).sum(-1))
    loss = (distance - 1).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "parameters that are NaN after the step": float(embed.weight.isnan().sum())}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    embed = nn.Linear(16, 8).to(device)
    optimizer = torch.optim.SGD(embed.parameters(), lr=0.1)
    left = torch.randn(32, 16, device=device)
    right = torch.randn(32, 16, device=device)
    right[0] = left[0]
    distance = torch.linalg.norm(embed(left) - embed(right), dim=-1)
    loss = (distance - 1).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "parameters that are NaN after the step": float(embed.weight.isnan().sum())}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert abs(trapped["loss"] - fixed["loss"]) < 1e-4
    assert trapped["parameters that are NaN after the step"] > 0
    assert fixed["parameters that are NaN after the step"] == 0
