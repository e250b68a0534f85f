"""Gradients are cleared between the backward that made them and the step that should use them.

## What it does

Reports `zero_grad()` (of the optimizer or the module) after `backward()`, where the optimizer's next step follows
with no other backward in between.

## Why it is a trap

The step finds no gradients. Since `zero_grad` sets them to None, SGD and Adam skip every parameter: the model stays
as it was initialised, and nothing says so. With `zero_grad(set_to_none=False)`, an Adam that has a history goes on
moving by it.

## Known limits

False positives: gradients written by hand in a way that cannot be seen.

False negatives: a clearing under a condition, which may be meant (gradients that are not finite); gradients whose
owner is unknown while there are several optimizers; a clearing of only a part of what the optimizer owns; anything
handed to code that cannot be seen between clearing and step.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
- [torch.optim: taking an optimization step](https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step)
- [Zeroing out gradients](https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    GradientUsed,
    LoopStarted,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import (
    ACT,
    InLoops,
    Mark,
    MeetsOptimizers,
    by_hand,
    common,
    concerns,
    forget,
    forget_touched,
    graph_of,
    meet,
    overlap,
    quoted,
    settle,
    tagged,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

ACTS = re.compile(rf"{ACT.pattern}|train|fit|run|engine", re.IGNORECASE)
"""What a function is called that may go backward whatever it is given."""


@dataclass(frozen=True, slots=True)
class Wiped:
    """Gradients that were cleared before any step used them."""

    cleared: Site = field(compare=False)
    backward: Site = field(compare=False)
    optimizer: Hashable
    walked: frozenset[Hashable] = field(default=frozenset(), compare=False)
    scaler: Thing | None = None
    certain: bool = True
    """Whether the gradients of that backward were the ones that were cleared. If not, it may have filled others; that
    the optimizer then steps with none is as wrong, unless anything goes backward in between.
    """
    used: bool = False
    """Whether they were read for more than their norm before: an attack needs no step, a copy may be put back."""


class GradientsClearedBeforeStep(MeetsOptimizers, Waiting, InLoops):
    """In memory, by owners: "filled" gradients, that no step has used yet, and "wiped" ones.

    Acquitted: a backward and a step that uses its gradients on another path: a condition decides (`if not finite:
    optimizer.zero_grad()`), and the clearing is meant. A backward whose gradients the program itself has used.
    """

    code = "GTR502"
    name = "gradients-cleared-before-step"
    summary = "Gradients are cleared between the backward and the step"
    words = ("backward",)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "filled", "wiped")
            return
        settle(watch, event.owners, "wiped")
        for key, wiped in tagged(watch, "wiped"):
            if not wiped.certain:
                watch.drop(key)
        watch.put(("filled", event.owners), Mark(event.site, graph_of(event), loops=self.running(watch)))

    @on(GradientUsed)
    def taken(self, event: GradientUsed, watch: Watch) -> None:
        for key, mark in tagged(watch, "filled"):
            if overlap(key[1], event.owners) is not False:
                watch.put(key, replace(mark, flag=True))

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        for key, mark in tagged(watch, "filled"):
            if event.loop in mark.loops:  # left over from when the loop ran last
                watch.drop(key)

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        optimizer = event.optimizer.key if event.optimizer is not None else None
        known = owners is not None or optimizer is not None
        for key, mark in tagged(watch, "filled"):
            certain = known and concerns(watch, key[1], owners)
            if certain or (optimizer is not None and overlap(key[1], owners) is None):
                wiped = Wiped(event.site, mark.site, optimizer, mark.walked, certain=certain, used=mark.flag)
                watch.put(("wiped", common(key[1], owners), event.site), wiped)
        settle(watch, owners, "filled")

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if by_hand(event):
            settle(watch, event.owners, "wiped")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "filled")
        acts = ACTS.search(event.to) is not None
        for key, wiped in tagged(watch, "wiped"):
            if any(thing.key not in wiped.walked and (acts or not thing.harmless) for thing in event.things):
                watch.drop(key)  # who gets more than data may fill them again

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        used = [mark for key, mark in tagged(watch, "filled") if overlap(key[1], owners) is not False]
        self.acquit(*((mark.site.node, event.site.node) for mark in used))
        for key, wiped in tagged(watch, "wiped"):
            theirs = wiped.optimizer == event.optimizer.key
            if not theirs and not (wiped.certain and concerns(watch, key[1], owners)):
                continue
            watch.drop(key)
            if wiped.used:
                self.acquit((wiped.backward.node, event.site.node))
            elif not used and not event.closure:
                self.suspect((wiped.backward.node, event.site.node), partial(self.tell, wiped, event))
        settle(watch, owners, "filled", "wiped")

    def tell(self, wiped: Wiped, event: Stepped, watch: Watch) -> None:
        watch.report(
            wiped.cleared,
            f"this clears the gradients of line {watch.line(wiped.backward)} before "
            f"{quoted(event.optimizer, 'the optimizer')} steps at line {watch.line(event.site)}: the step finds none, "
            "and nothing is learned; clear them before the backward, or after the step",
            trace=[
                ("the gradients are computed here", wiped.backward),
                ("cleared here", wiped.cleared),
                ("and the step that should use them finds none", event.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(model.parameters()).detach().clone()
    for _ in range(10):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm()
    return {"distance moved": moved.item(), "parameters with optimizer state": float(len(optimizer.state))}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(model.parameters()).detach().clone()
    for _ in range(10):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm()
    return {"distance moved": moved.item(), "parameters with optimizer state": float(len(optimizer.state))}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["distance moved"] == 0.0, "ten steps, and not one weight has moved"
    assert trapped["parameters with optimizer state"] == 0
    assert fixed["distance moved"] > 0.0
    assert fixed["parameters with optimizer state"] == 4
