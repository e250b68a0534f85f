"""A `torch.where` picks the defined elements of a value, and the others still make the gradient NaN.

## What it does

Reports `torch.where(ok, f(x), y)` (in either branch, and `f(x).masked_fill(~ok, y)`), where `ok` compares x, and f is a
logarithm, a square root, a quotient, a reciprocal or a fractional power that has no finite gradient at the zero that
`ok` excludes, if a gradient goes through f.

## Why it is a trap

Both branches are computed, and both get a gradient: what was not picked gets zero, times the slope of f at that
element. At zero the slope of `log`, `sqrt` and `1 / x` is infinite, and zero times infinity is NaN. The loss is finite
and looks right; the gradient of x is NaN, and after the step so is every parameter below. It happens only in a batch in
which an element is exactly zero.

Make the argument safe before, and choose afterwards: `torch.where(ok, torch.log(torch.where(ok, x, 1.0)), y)`.

## Known limits

False positives: elements that cannot be exactly zero, although they are compared with it.

False negatives: what comes out of a `relu` or a `clamp`, which lets no NaN through where it is flat; conditions that
were computed elsewhere; functions with a border that is not at zero (`acos`, `log1p`).

There is no automatic fix: which value is safe is the program's business.

## Trap

```python
import torch
from torch import nn


def train(loader):
    project = nn.Linear(8, 3, bias=False)
    optimizer = torch.optim.Adam(project.parameters(), lr=1e-3)
    for padded in loader:
        squares = project(padded).pow(2).sum(-1)
        lengths = torch.where(squares > 0, squares.sqrt(), 0.0)  # NaN gradient for the padding, where it is 0
        loss = (lengths - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(loader):
    project = nn.Linear(8, 3, bias=False)
    optimizer = torch.optim.Adam(project.parameters(), lr=1e-3)
    for padded in loader:
        squares = project(padded).pow(2).sum(-1)
        safe = torch.where(squares > 0, squares, 1.0)
        lengths = torch.where(squares > 0, safe.sqrt(), 0.0)
        loss = (lengths - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.where](https://docs.pytorch.org/docs/stable/generated/torch.where.html)
- [torch.where and NaN gradients (issue 68425)](https://github.com/pytorch/pytorch/issues/68425)
"""

from __future__ import annotations

from flake8_gradtrap.events import BorderHidden
from flake8_gradtrap.rule import Rule, Watch, on


class WhereHidesNan(Rule):
    code = "GTR804"
    name = "where-hides-nan"
    summary = "A `torch.where` hides undefined elements from the value, and not from the gradient"
    words = ("where", "masked_fill", "masked_fill_", "backward")
    roots = ("where", "masked_fill", "masked_fill_")

    @on(BorderHidden)
    def hidden(self, event: BorderHidden, watch: Watch) -> None:
        if event.trains:
            watch.report(
                event.site,
                f"the elements that are left out here make the gradient NaN: {event.operation} has no finite slope "
                "where its argument is zero; make the argument safe before, choose afterwards",
                trace=[
                    (f"{event.operation} is computed for all elements here", event.at),
                    ("and those where it is undefined are left out here", event.site),
                ],
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    project = nn.Linear(8, 3, bias=False).to(device)
    optimizer = torch.optim.SGD(project.parameters(), lr=0.1)
    padded = torch.randn(32, 8, device=device)
    padded[-4:] = 0.0
    squares = project(padded).pow(2).sum(-1)
    lengths = torch.where(squares > 0, squares.sqrt(), 0.0)
    loss = (lengths - 1).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "parameters that are NaN after the step": float(project.weight.isnan().sum())}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    project = nn.Linear(8, 3, bias=False).to(device)
    optimizer = torch.optim.SGD(project.parameters(), lr=0.1)
    padded = torch.randn(32, 8, device=device)
    padded[-4:] = 0.0
    squares = project(padded).pow(2).sum(-1)
    safe = torch.where(squares > 0, squares, 1.0)
    lengths = torch.where(squares > 0, safe.sqrt(), 0.0)
    loss = (lengths - 1).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "parameters that are NaN after the step": float(project.weight.isnan().sum())}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["loss"] == fixed["loss"]
    assert trapped["parameters that are NaN after the step"] > 0
    assert fixed["parameters that are NaN after the step"] == 0
