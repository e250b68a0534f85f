"""An optimizer, a scheduler or a scaler is made anew for each batch.

## What it does

Reports an optimizer that is constructed within the loop over batches, for parameters that were there before, and that
steps once before the next iteration makes another one; a scheduler or a gradient scaler that is made and stepped in the
same way. In preview, also an optimizer that is made anew in each epoch.

## Why it is a trap

What an optimizer knows is lost with each batch. Momentum never builds up: SGD with momentum is plain SGD. Adam is
worse: with a first moment and a second moment of one gradient each, its bias correction makes every update the sign of
the gradient, times the learning rate, however small the gradient is. A scheduler starts its schedule again with every
batch, a scaler its search for a scale. The demo compares the shortest update with the learning rate.

## Known limits

False positives: a fresh start on purpose, for example before an adaptation of a single step.

False negatives: an optimizer that is made under a condition (after some epochs, when layers are unfrozen), or for what
is made or loaded in the same iteration; SGD without momentum, which has nothing to lose; a class of optimizers that is
not known.

## Trap

```python
import torch


def train(model, loader, criterion):
    for x, y in loader:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## References

- [torch.optim.Adam](https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html)
- [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from flake8_gradtrap.events import (
    Escaped,
    IterationStarted,
    OptimizerMade,
    Owners,
    ScalerMade,
    ScalerUpdated,
    SchedulerMade,
    SchedulerStepped,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import InLoops, forget, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

LOST = {
    "optimizer": "its moments and momentum are",
    "scheduler": "its place in the schedule is",
    "scaler": "the scale that it has found is",
}

SETS_BACK = re.compile(r"reset|restore|load|init|copy|clone|configure|setup|build|make", re.IGNORECASE)
"""What functions are called after which a model may start anew."""


@dataclass(frozen=True, slots=True)
class Made:
    """Something with a state. `loop`: the innermost that was running; `again`: an earlier iteration of it made one,
    too; `over`: the iteration is over.
    """

    site: Site = field(compare=False)
    what: str
    by: str
    loop: Hashable
    loop_site: Site = field(compare=False)
    again: bool = False
    over: bool = False


class OptimizerRebuiltInLoop(Waiting, InLoops):
    """In memory: what was "made", by its identity, "here", by the place where it is made (the loop, and whose
    parameters an optimizer has), and what code out of sight has "reset" in this iteration.

    Acquitted: places that do not always make another one: on another path, one that an earlier iteration has made is
    still in use.
    """

    code = "GTR508"
    name = "optimizer-rebuilt-in-loop"
    summary = "An optimizer, scheduler or scaler is made anew for each batch, and its state is lost"
    words = ("backward",)

    def keep(self, thing: Thing, what: str, by: str, site: Site, watch: Watch, owners: Owners = None) -> None:
        loops = tagged(watch, "active")
        if loops:
            (_, loop), mark = loops[-1]
            again = watch.get(("here", site.node)) == (loop, owners)
            watch.put(("made", thing.key), Made(site, what, by, loop, mark.site, again))
            watch.put(("here", site.node), (loop, owners))

    @on(OptimizerMade)
    def optimizer(self, event: OptimizerMade, watch: Watch) -> None:
        if not event.outlived or not event.stateful:
            return
        if event.owners is None and tagged(watch, "reset"):
            return  # it may be what was set back
        if any(watch.get(("reset", owner)) is not None for owner in event.owners or ()):
            return  # what it is made for was set back before: a start of its own
        self.keep(event.optimizer, "optimizer", event.by, event.site, watch, event.owners or event.source)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if SETS_BACK.search(event.to):
            for thing in event.things:
                watch.put(("reset", thing.key), True)

    @on(ScalerMade)
    def scaler(self, event: ScalerMade, watch: Watch) -> None:
        self.keep(event.scaler, "scaler", "GradScaler", event.site, watch)

    @on(SchedulerMade)
    def scheduler(self, event: SchedulerMade, watch: Watch) -> None:
        made: Made | None = watch.get(("made", event.optimizer.key)) if event.optimizer is not None else None
        if made is None or made.over:  # else the optimizer is the finding
            self.keep(event.scheduler, "scheduler", event.by.rpartition(".")[2], event.site, watch)

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        forget(watch, "reset")
        for key, made in tagged(watch, "made"):
            if made.loop == event.loop and not made.over:
                watch.put(key, replace(made, over=True))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        self.use(event.optimizer, event.site, watch)

    @on(SchedulerStepped)
    def advance(self, event: SchedulerStepped, watch: Watch) -> None:
        self.use(event.scheduler, event.site, watch)

    @on(ScalerUpdated)
    def update(self, event: ScalerUpdated, watch: Watch) -> None:
        self.use(event.scaler, event.site, watch)

    def use(self, thing: Thing, site: Site, watch: Watch) -> None:
        made: Made | None = watch.get(("made", thing.key))
        if made is None:
            return
        loops = [key[1] for key, _ in tagged(watch, "active")]
        if made.over or made.loop not in loops:
            self.acquit(made.site.node)
        elif made.again:
            inner = loops[-1] != made.loop
            tell = partial(self.tell, made, site, inner)
            if not inner:
                self.suspect(made.site.node, tell)
            elif made.what == "optimizer":
                self.suspects[made.site.node] = tell  # an inner loop says that this one runs over epochs
            else:
                self.acquit(made.site.node)

    @staticmethod
    def tell(made: Made, step: Site, inner: bool, watch: Watch) -> None:
        article = "An" if made.what == "optimizer" else "A"
        again = "each epoch" if inner else "each iteration"
        watch.report(
            made.site,
            f"`{made.by}` is made anew for {again}: {LOST[made.what]} lost every time; make the {made.what} once, "
            "before the loop",
            trace=[
                ("this loop runs for each of them", made.loop_site),
                (f"{article.lower()} {made.what} is made here", made.site),
                ("used here, and lost with the next iteration", step),
            ],
            preview=inner,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    shortest = float("inf")
    for _ in range(50):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        (1e-3 * nn.functional.mse_loss(model(x), y)).backward()
        optimizer.step()
        moved = (parameters_to_vector(model.parameters()).detach() - before).abs().mean().item()
        shortest = min(shortest, moved)
    return {"shortest mean update": shortest, "learning rate": 0.01}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    shortest = float("inf")
    for _ in range(50):
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        (1e-3 * nn.functional.mse_loss(model(x), y)).backward()
        optimizer.step()
        moved = (parameters_to_vector(model.parameters()).detach() - before).abs().mean().item()
        shortest = min(shortest, moved)
    return {"shortest mean update": shortest, "learning rate": 0.01}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["shortest mean update"] > 0.95 * trapped["learning rate"], "each update is the sign of the gradient"
    assert fixed["shortest mean update"] < 0.9 * fixed["learning rate"]
