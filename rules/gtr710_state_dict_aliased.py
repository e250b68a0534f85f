"""A state dict is kept while training goes on, and changes with the model.

## What it does

Reports `model.state_dict()` (or a dict that is made of its tensors without a copy) that is kept, while the model is
trained on, and that is loaded, saved or returned afterwards.

## Why it is a trap

`state_dict()` returns a dict of the parameters themselves, not of their values: the optimizer writes into the same
memory. What was kept as the best state is the last one by the end, `load_state_dict` of it does nothing, and the
checkpoint called `best` is the last epoch. `dict(…)`, `.copy()` and `v.detach()` share the memory, too, and so does
`v.cpu()` of a model on the CPU; of one on a GPU it makes a copy.

## Known limits

False positives: a state dict that is kept as a view of the current parameters, on purpose.

False negatives: training that happens in code out of sight; a state that is kept in one method and loaded in another.

## Trap

```python
import torch


def train(model, loader, criterion, validate, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lowest, best = float("inf"), None
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        error = validate(model)
        if error < lowest:
            lowest, best = error, model.state_dict()  # these tensors are trained on
    model.load_state_dict(best)
```

## Fixed

```python
import copy

import torch


def train(model, loader, criterion, validate, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lowest, best = float("inf"), None
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        error = validate(model)
        if error < lowest:
            lowest, best = error, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
```

## References

- [Saving and loading models](https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html)
- [torch.nn.Module.state_dict](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.state_dict)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import Backpropagated, IterationStarted, LoopLeft, Site, StateTaken, StateUsed, Stepped
from flake8_gradtrap.gradients import overlap
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on

_LOOP = "in a loop"


@dataclass(frozen=True, slots=True)
class Taken:
    """A state that was taken: whether its module was trained since, and where it stepped first."""

    event: StateTaken = field(compare=False)
    looped: bool = False
    reached: bool = False
    stale: bool = False
    stepped: Site | None = field(default=None, compare=False)


class StateDictAliased(Rule):
    code = "GTR710"
    name = "state-dict-aliased"
    summary = "A state dict is kept while training goes on, and changes with the model"
    words = ("state_dict",)
    roots = ("backward", "manual_backward")
    fix = "safe"

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        loops = watch.get(_LOOP, ())
        if event.loop not in loops:
            watch.put(_LOOP, (*loops, event.loop))

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        loops = tuple(loop for loop in watch.get(_LOOP, ()) if loop != event.loop)
        if loops:
            watch.put(_LOOP, loops)
        else:
            watch.drop(_LOOP)

    @on(StateTaken)
    def taken(self, event: StateTaken, watch: Watch) -> None:
        watch.put(event.state.key, Taken(event, bool(watch.get(_LOOP))))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        owners = event.sure if event.owners is None else event.owners
        for key, taken in list(watch.items()):
            if isinstance(taken, Taken) and not taken.reached and overlap(owners, taken.event.owners):
                watch.put(key, replace(taken, reached=True))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        for key, taken in list(watch.items()):
            waits = isinstance(taken, Taken) and taken.reached and not taken.stale
            if waits and overlap(event.owners, taken.event.owners) is not False:
                watch.put(key, replace(taken, stale=True, stepped=event.site))

    @on(StateUsed)
    def used(self, event: StateUsed, watch: Watch) -> None:
        taken = watch.get(event.state.key)
        if not isinstance(taken, Taken) or not taken.stale or taken.stepped is None:
            return
        if event.how != "load" and not taken.looped:
            return  # taken once before the loop: perhaps as a view of what is trained
        state, does = taken.event, {"load": "loaded", "save": "saved", "return": "returned"}[event.how]
        moved = " (of a model on the CPU)" if state.moved else ""
        watch.report(
            state.site,
            f"this state shares the memory of the parameters{moved}: training goes on, and what is {does} as "
            "the kept state is the last one; keep `copy.deepcopy(model.state_dict())`",
            trace=[
                ("the state is taken here", state.site),
                ("the optimizer changes it here", taken.stepped),
                (f"{does} here", event.site),
            ],
            remedy=remedy(state),
        )


def remedy(event: StateTaken) -> Remedy | None:
    """Copy the state where it is taken."""
    if event.moved or not event.state.label:
        return None
    if event.copier:
        change = Change("wrap", event.site, f"{event.copier}(", ")")
        return Remedy(f"Copy the state with `{event.copier}`", (change,))
    change = Change("wrap", event.site, "{key: value.clone() for key, value in ", ".items()}")
    return Remedy("Copy the tensors of the state", (change,))


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    best, at_best = None, model.weight.detach().clone()
    for epoch in range(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        if epoch == 1:
            best = model.state_dict()
            at_best = model.weight.detach().clone()
    assert best is not None
    model.load_state_dict(best)
    return {"distance of the restored model from the best": (model.weight.detach() - at_best).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import copy

    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    best, at_best = None, model.weight.detach().clone()
    for epoch in range(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        if epoch == 1:
            best = copy.deepcopy(model.state_dict())
            at_best = model.weight.detach().clone()
    assert best is not None
    model.load_state_dict(best)
    return {"distance of the restored model from the best": (model.weight.detach() - at_best).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["distance of the restored model from the best"] > 1e-3
    assert fixed["distance of the restored model from the best"] == 0.0
