"""Modules or Parameters are kept in a plain list, tuple or dict, where torch does not see them.

## What it does

Reports an attribute of a `Module` that is a plain list, tuple or dict of modules or Parameters that are made in sight,
and are registered in no other way: not by an attribute of their own, `add_module`, `setattr`, a `Sequential` that is
made of them, a `ModuleList` that is made of the list later.

## Why it is a trap

`Module.__setattr__` registers modules and Parameters, and looks into no container. What is in a plain list is not in
`parameters()`: the optimizer does not train it, `to()` and `cuda()` leave it where it is, `state_dict()` does not save
it, `train()`, `eval()` and `zero_grad()` do not reach it. The forward works, and the loss falls as far as the rest of
the model can bring it.

## Known limits

False positives: a network that is kept out of the model on purpose. A list of one, a name that says so (`teacher`,
`target`, `frozen`, …) and parameters that are visibly frozen are silent, as is a class that names its parameters itself
(`parameters`, `state_dict`, `to`, …).

False negatives: modules of which it cannot be seen that they have parameters; modules that come in as arguments; a
container that code out of sight is given.

## Trap

```python
import torch
from torch import nn


class Tower(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.layers = [nn.Linear(width, width) for _ in range(depth)]  # in no optimizer
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)
```

## Fixed

```python
import torch
from torch import nn


class Tower(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)
```

## References

- [torch.nn.ModuleList](https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleList.html)
- [torch.nn.ModuleDict](https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleDict.html)
- [torch.nn.ParameterList](https://docs.pytorch.org/docs/stable/generated/torch.nn.ParameterList.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from flake8_gradtrap.events import (
    Attribute,
    AttributeSet,
    ClassEnded,
    Constructed,
    FileEnded,
)
from flake8_gradtrap.gradients import APART, InRegistry
from flake8_gradtrap.rule import Change, Remedy, Watch, on
from flake8_gradtrap.traits import KEEPS_SEVERAL, REGISTERS


@dataclass(frozen=True, slots=True)
class Kept:
    """An attribute as it was assigned last."""

    event: AttributeSet = field(compare=False)


class ModulesInPlainContainer(InRegistry):
    code = "GTR701"
    name = "modules-in-plain-container"
    summary = "Modules or Parameters are kept in a plain list, tuple or dict, where torch does not see them"
    words = (KEEPS_SEVERAL, REGISTERS)
    roots = (KEEPS_SEVERAL,)
    fix = "safe"
    waits = ("hidden",)

    def __init__(self) -> None:
        super().__init__()
        self.classes: list[tuple[frozenset[str], list[tuple[AttributeSet, Attribute]]]] = []
        """For each class, what it says itself of its parts, and its attributes that hide some."""
        self.hidden: dict[Hashable, tuple[AttributeSet, Attribute]] = {}

    @on(AttributeSet)
    def assigned(self, event: AttributeSet, watch: Watch) -> None:
        if event.attribute.kind in ("module", "parameter"):
            self.remember(event.attribute.parts)
        elif event.attribute.kind in ("list", "tuple", "dict"):
            watch.put((event.holder.key, event.attribute.name), Kept(event))

    @on(Constructed)
    def constructed(self, event: Constructed, watch: Watch) -> None:
        for attribute in event.attributes:
            kept = watch.get((event.holder.key, attribute.name))
            if kept is not None and attribute.kind in ("list", "tuple", "dict") and hides(attribute):
                self.hidden.setdefault(kept.event.site.node, (kept.event, attribute))

    @on(ClassEnded)
    def ended(self, event: ClassEnded, watch: Watch) -> None:
        if self.hidden:
            self.classes.append((event.collecting, list(self.hidden.values())))
            self.hidden = {}

    @on(FileEnded)
    def judge(self, event: FileEnded, watch: Watch) -> None:
        for collecting, hidden in self.classes:
            for kept, attribute in hidden:
                known = any(
                    part.thing.key in self.registered or (part.site is not None and part.site.node in self.registered)
                    for part in attribute.parts
                )
                if not known and attribute.name not in collecting:
                    self.tell(kept, attribute, watch)

    def tell(self, event: AttributeSet, attribute: Attribute, watch: Watch) -> None:
        inside = next(part for part in attribute.parts if part.trains)
        holder = f"{event.holder.label or 'self'}.{attribute.name}"
        trace = [(f"`{holder}` is a plain {attribute.kind}", event.site)]
        if inside.site is not None:
            trace.append((f"a `{inside.thing.label}` that it holds is made here", inside.site))
        watch.report(
            event.site,
            f"`{holder}` is a plain {attribute.kind}: the `{inside.thing.label}` in it is not in `parameters()`, "
            f"and is never trained, moved or saved; use `nn.{registry(attribute)}`",
            trace=trace,
            remedy=remedy(event, attribute),
        )


def hides(attribute: Attribute) -> bool:
    """Whether a container hides something that ought to be trained."""
    if not any(part.trains for part in attribute.parts) or any(part.frozen for part in attribute.parts):
        return False
    return attribute.count != 1 and not APART.search(attribute.name)


def registry(attribute: Attribute) -> str:
    """The container that registers what it holds."""
    kind = "Parameter" if all(part.kind == "parameter" for part in attribute.parts) else "Module"
    return kind + ("Dict" if attribute.kind == "dict" else "List")


def remedy(event: AttributeSet, attribute: Attribute) -> Remedy | None:
    """Put the right container around the value, where it can hold all that is in the plain one."""
    kinds = {part.kind for part in attribute.parts}
    later = not event.made_here and len(event.attribute.parts) != len(attribute.parts)
    if event.value is None or not attribute.whole or len(kinds) != 1 or later or not event.ready:
        return None
    if attribute.kind == "dict" and not attribute.named:
        return None
    name = registry(attribute)
    namespace, missing = (event.namespace, "") if event.namespace else ("torch.nn", "torch")
    change = Change("wrap", event.value, f"{namespace}.{name}(", ")", imports=missing)
    return Remedy(f"Register what it holds with `{namespace}.{name}`", (change,), attribute.kind != "dict")


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(8, 8).to(device) for _ in range(3)]
            self.head = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)  # type: ignore[no-any-return]

    return _train(Tower(), device)


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
            self.head = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)  # type: ignore[no-any-return]

    return _train(Tower(), device)


def _train(model: object, device: str) -> dict[str, float]:
    import torch
    from torch import nn

    assert isinstance(model, nn.Module)
    torch.manual_seed(0)
    model.to(device)
    layer = model.layers[0]  # type: ignore[index]
    assert isinstance(layer, nn.Linear)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    return {
        "parameters that the model names": float(sum(1 for _ in model.parameters())),
        "change of the first layer": (layer.weight.detach() - before).norm().item(),
    }


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that the model names"] == 2
    assert fixed["parameters that the model names"] == 8
    assert trapped["change of the first layer"] == 0.0
    assert fixed["change of the first layer"] > 1e-4
