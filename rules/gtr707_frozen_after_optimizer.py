"""Parameters are frozen, and their optimizer moves them on.

## What it does

Reports parameters whose `requires_grad` is taken away after an optimizer with momentum, moments or a weight decay was
built for them and has had gradients of them, if the gradients are then cleared to zeros instead of None
(`zero_grad(set_to_none=False)`, `p.grad.zero_()`), and the optimizer steps.

## Why it is a trap

`requires_grad` stops the backward, and the optimizer does not ask for it. It passes over parameters whose gradient is
None. A gradient of zero is one: momentum goes on for many steps in the old direction, Adam divides what is left of its
first moment by what is left of its second, and a weight decay shrinks the layer without end. So the layer that was
frozen at its best drifts away. `zero_grad()` leaves None by default (since torch 2.0), and then nothing moves.

## Known limits

False positives: none are known.

False negatives: parameters that are frozen in another function than they are trained in; gradients that are never
cleared, which is GTR501.

There is no fix: let `zero_grad` leave None, or build the optimizer again for what is left to train.

## Trap

```python
import torch


def train(encoder, head, loader, criterion, epochs):
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        if epoch == 5:
            for parameter in encoder.parameters():
                parameter.requires_grad = False
        for x, y in loader:
            optimizer.zero_grad(set_to_none=False)  # zeros: momentum goes on
            criterion(head(encoder(x)), y).backward()
            optimizer.step()
```

## Fixed

```python
import torch


def train(encoder, head, loader, criterion, epochs):
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        if epoch == 5:
            for parameter in encoder.parameters():
                parameter.requires_grad = False
        for x, y in loader:
            optimizer.zero_grad()
            criterion(head(encoder(x)), y).backward()
            optimizer.step()
```

## References

- [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
- [Autograd mechanics: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Escaped,
    OptimizerMade,
    Owners,
    ParametersFrozen,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import overlap, quoted, tagged
from flake8_gradtrap.rule import Rule, Watch, on

_MOMENTS = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax"})
"""Optimizers that move a parameter by earlier gradients (measured: RMSprop and Adagrad do not)."""


@dataclass(frozen=True, slots=True)
class Moves:
    """An optimizer that moves parameters whose gradients are zero. `filled`: it has had gradients."""

    site: Site = field(compare=False)
    owners: Owners
    why: str
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    """Parameters that were frozen when they had a gradient. `zeros`: where that was set to zero since."""

    event: ParametersFrozen = field(compare=False)
    owners: Owners
    zeros: bool = False
    cleared: Site | None = field(default=None, compare=False)


class FrozenAfterOptimizer(Rule):
    """In memory: "moves", by optimizer; "frozen", by place."""

    code = "GTR707"
    name = "frozen-after-optimizer"
    summary = "Parameters are frozen, and momentum or weight decay moves them on"
    default = False
    words = ("requires_grad", "requires_grad_", "backward", "manual_backward")
    roots = ("backward", "manual_backward")

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        momentum = event.by in _MOMENTS or (event.by == "SGD" and event.stateful)
        why = " and ".join(["momentum"] * momentum + ["weight decay"] * (event.decays or event.by == "AdamW"))
        for key, frozen in tagged(watch, "frozen"):
            if overlap(event.owners, frozen.owners) is not False:
                watch.drop(key)  # built again, for what is left to train
        if why and event.owners:
            watch.put(("moves", event.optimizer.key), Moves(event.site, event.owners, why))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        for key, moves in tagged(watch, "moves"):
            if overlap(event.owners, moves.owners) and not moves.filled:
                watch.put(key, replace(moves, filled=True))

    @on(ParametersFrozen)
    def freeze(self, event: ParametersFrozen, watch: Watch) -> None:
        key = ("frozen", event.site.node)
        for other, frozen in tagged(watch, "frozen"):
            if event.frozen is not True and overlap(event.owners, frozen.owners) is not False:
                watch.drop(other)
        had = any(moves.filled and overlap(moves.owners, event.owners) for _, moves in tagged(watch, "moves"))
        if event.frozen and had:
            watch.put(key, Frozen(event, event.owners))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        if event.zeros:
            for key, frozen in tagged(watch, "frozen"):
                if overlap(event.owners, frozen.owners):
                    watch.put(key, replace(frozen, zeros=True, cleared=event.site))
            return
        for key, found in tagged(watch, "frozen", "moves"):
            if overlap(event.owners, found.owners) is not False:
                if isinstance(found, Frozen):
                    watch.drop(key)
                elif found.filled:
                    watch.put(key, replace(found, filled=False))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        keys = {thing.key for thing in event.things}
        for key, moves in tagged(watch, "moves"):
            if key[1] in keys or (moves.owners is not None and not moves.owners.isdisjoint(keys)):
                watch.drop(key)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        moves: Moves | None = watch.get(("moves", event.optimizer.key))
        for _, frozen in tagged(watch, "frozen"):
            if moves is None or not frozen.zeros or frozen.cleared is None or not overlap(moves.owners, frozen.owners):
                continue
            what = quoted(event.optimizer, "the optimizer")
            watch.report(
                frozen.event.site,
                f"these parameters are frozen, and {what} moves them on by {moves.why}: their gradients are set to "
                f"zero at line {watch.line(frozen.cleared)}; use `zero_grad()`, which sets None, or build "
                "the optimizer again without them",
                trace=[
                    ("the optimizer is given the parameters here", moves.site),
                    ("some are frozen here", frozen.event.site),
                    ("their gradients are set to zero", frozen.cleared),
                    ("and the optimizer steps", event.site),
                ],
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    backbone, head = nn.Linear(8, 8).to(device), nn.Linear(8, 1).to(device)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    at_freeze = backbone.weight.detach().clone()
    for step in range(10):
        if step == 5:
            backbone.requires_grad_(False)
            at_freeze = backbone.weight.detach().clone()
        optimizer.zero_grad(set_to_none=False)
        nn.functional.mse_loss(head(torch.tanh(backbone(inputs))), targets).backward()
        optimizer.step()
    return {"change of the frozen layer": (backbone.weight.detach() - at_freeze).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    backbone, head = nn.Linear(8, 8).to(device), nn.Linear(8, 1).to(device)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    at_freeze = backbone.weight.detach().clone()
    for step in range(10):
        if step == 5:
            backbone.requires_grad_(False)
            at_freeze = backbone.weight.detach().clone()
        optimizer.zero_grad()
        nn.functional.mse_loss(head(torch.tanh(backbone(inputs))), targets).backward()
        optimizer.step()
    return {"change of the frozen layer": (backbone.weight.detach() - at_freeze).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of the frozen layer"] > 1e-2
    assert fixed["change of the frozen layer"] == 0.0
