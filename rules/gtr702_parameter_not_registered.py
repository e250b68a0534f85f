"""What a module keeps was computed from a new Parameter, and is a plain tensor that nothing trains.

## What it does

Reports an attribute of a `Module` that is given what an operation makes of a new Parameter:
`nn.Parameter(…).to(device)`, `.cuda()`, `nn.Parameter(…) * 0.1`, a view of it. The Parameter itself is kept nowhere.

## Why it is a trap

`Module.__setattr__` registers Parameters. `.to(device)` on a Parameter returns the same object only if it is there
already; else it returns a plain tensor with a history. So on the CPU the model trains it, and on a GPU it does not:
`parameters()` leaves it out, no optimizer has it, `state_dict()` does not save it, `to()` does not move it. What was
computed in the constructor keeps its one graph, too: the second `backward()` through it raises, if it saved anything.

## Known limits

False positives: a constant that is written as a Parameter.

An attribute that holds a Parameter already is not reported: torch raises where a plain tensor is to take its place.

False negatives: conversions of which it is not known whether they return the same object (`.float()`, `.to(dtype)`);
Parameters that are made in code out of sight.

There is no automatic fix: what belongs inside of `nn.Parameter(…)` depends on what is meant to be trained.

## Trap

```python
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self, width, device):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width)).to(device)  # on a GPU: a plain tensor

    def forward(self, x):
        return self.linear(x) * self.scale
```

## Fixed

```python
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self, width, device):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width, device=device))

    def forward(self, x):
        return self.linear(x) * self.scale
```

## References

- [torch.nn.parameter.Parameter](https://docs.pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html)
- [torch.Tensor.to](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.to.html)
"""

from __future__ import annotations

from collections.abc import Hashable

from flake8_gradtrap.events import AttributeSet, FileEnded
from flake8_gradtrap.gradients import InRegistry
from flake8_gradtrap.rule import Watch, on, spoken
from flake8_gradtrap.traits import COMPUTES_PARAMETER


class ParameterNotRegistered(InRegistry):
    code = "GTR702"
    name = "parameter-not-registered"
    summary = "An attribute of a module is computed from a new Parameter, and is a plain tensor"
    words = (COMPUTES_PARAMETER,)
    waits = ("suspects",)

    def __init__(self) -> None:
        super().__init__()
        self.suspects: dict[tuple[Hashable, str], AttributeSet] = {}
        """By holder and name, the first value that is no Parameter and was computed from one."""
        self.held: set[tuple[Hashable, str]] = set()
        """Holders and names that are given a Parameter or a module, too: torch lets nothing else take its place."""

    @on(AttributeSet)
    def assigned(self, event: AttributeSet, watch: Watch) -> None:
        key = (event.holder.key, event.attribute.name)
        if event.computed is not None:
            self.suspects.setdefault(key, event)
        elif event.attribute.kind in ("parameter", "module"):
            self.held.add(key)
            self.remember(event.attribute.parts)

    @on(FileEnded)
    def judge(self, event: FileEnded, watch: Watch) -> None:
        for key, kept in self.suspects.items():
            computed = kept.computed
            assert computed is not None
            if (
                key in self.held
                or computed.parameter.key in self.registered
                or computed.made is None
                or computed.site is None
            ):
                continue
            if computed.made.node not in self.registered:
                name = f"{kept.holder.label or 'self'}.{kept.attribute.name}"
                watch.report(
                    kept.site,
                    f"`{name}` is what {spoken(computed.how)} makes of a Parameter, a plain tensor"
                    f"{where(computed.how)}: it is not in `parameters()`, and is never trained or saved; "
                    "put the Parameter around the result",
                    trace=[
                        ("a Parameter is made here", computed.made),
                        ("another tensor is computed from it here", computed.site),
                        (f"and kept as `{name}`", kept.site),
                    ],
                )


def where(how: str) -> str:
    """Under which condition a conversion makes another tensor."""
    return " unless it was there already" if how.startswith((".to(", ".cuda(")) else ""


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 1)
            self.scale = nn.Parameter(torch.ones(8)) * 0.5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x * self.scale.to(x.device))  # type: ignore[no-any-return]

    return _train(Scaled(), device)


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 1)
            self.scale = nn.Parameter(torch.ones(8) * 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x * self.scale)  # type: ignore[no-any-return]

    return _train(Scaled(), device)


def _train(model: object, device: str) -> dict[str, float]:
    import torch
    from torch import nn

    assert isinstance(model, nn.Module)
    torch.manual_seed(0)
    model.to(device)
    assert isinstance(model.scale, torch.Tensor)
    before = model.scale.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward(retain_graph=True)
        optimizer.step()
    return {
        "parameters that the model names": float(sum(1 for _ in model.parameters())),
        "change of the scale": (model.scale.detach() - before).norm().item(),
    }


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that the model names"] == 2
    assert fixed["parameters that the model names"] == 3
    assert trapped["change of the scale"] == 0.0
    assert fixed["change of the scale"] > 1e-4
