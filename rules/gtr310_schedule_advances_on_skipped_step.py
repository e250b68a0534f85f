"""The scheduler goes on where the scaler has skipped the step of the optimizer.

## What it does

Reports `scheduler.step()` after `scaler.step(optimizer)` in the same iteration of a training loop, where nothing in the
run asks whether the scaler took the step: neither the scale is read (`scaler.get_scale()` before and after
`scaler.update()`) nor what the scaler has found.

## Why it is a trap

Where a gradient is inf or NaN, `scaler.step` does nothing, and `scaler.update()` halves the scale. A new scaler begins
at 65536, so as a rule the first steps of a run are skipped, which are those of the warm-up. `scheduler.step()` counts
them all the same: the learning rate is higher than it should be when the training really begins, and the schedule ends
before the training has had its steps. Where the very first step is skipped, torch warns that the scheduler was called
before the optimizer, which sends people after the wrong mistake; where a later one is, it says nothing (measured in
torch 2.13). The demo counts the steps of both.

## Known limits

It is in preview: a few steps of many thousands make little difference, and much good code lives with it.

False positives: a scaler that never skips, because its scale is small or its range that of bfloat16; a schedule that
shall follow the batches, not the updates.

False negatives: a scale that is read only for a log; schedulers that are stepped by a helper out of sight, or are given
a metric or an epoch. Accelerate's schedulers and Lightning look after it themselves; a schedule by epochs is not meant.

## Trap

```python
import torch


def train(model, loader, criterion, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # else the step was skipped
            scheduler.step()
```

## References

- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling): steps that are skipped
- [Detected call of lr_scheduler.step() before optimizer.step()](https://discuss.pytorch.org/t/optimizer-step-before-lr-scheduler-step-error-using-gradscaler/92930)
"""

from __future__ import annotations

from functools import partial

from flake8_gradtrap.events import (
    Escaped,
    IterationStarted,
    RunEnded,
    ScaleRead,
    SchedulerStepped,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import InLoops, Mark, forget, quoted, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting


class ScheduleAdvancesOnSkippedStep(Waiting, InLoops):
    """In memory: optimizers that were "stepped" by a scaler in this iteration, by their keys.

    Where a run asks for the scale, on whatever path, it knows what was skipped.
    """

    code = "GTR310"
    name = "schedule-advances-on-skipped-step"
    summary = "The scheduler goes on where the scaler has skipped the optimizer's step"
    words = ("scaler", "GradScaler", "unscale_", "grad_scaler")
    default = False

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        """Whether the scale is read in the run, on whatever path."""

    @on(ScaleRead)
    def reads(self, event: ScaleRead, watch: Watch) -> None:
        self.asked = True

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        forget(watch, "stepped")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        keys = {thing.key for thing in event.things}
        for key, mark in tagged(watch, "stepped"):
            if mark.scaler.key in keys:
                watch.drop(key)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        key = ("stepped", event.optimizer.key)
        if event.scaler is None:
            watch.drop(key)
        else:
            watch.put(key, Mark(event.site, scaler=event.scaler, loops=self.running(watch)))

    @on(SchedulerStepped)
    def advance(self, event: SchedulerStepped, watch: Watch) -> None:
        if event.given:
            return
        loops = self.running(watch)
        steps = {key[1]: mark for key, mark in tagged(watch, "stepped")}
        if event.optimizer is not None:
            mark = steps.get(event.optimizer.key)
        else:
            mark = next(iter(steps.values())) if len(steps) == 1 else None
        if mark is not None and mark.loops == loops and mark.scaler is not None:
            tell = partial(self.tell, event, mark.site, quoted(mark.scaler, "the scaler"))
            self.suspect(event.site.node, tell)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        if self.asked:
            self.suspects.clear()
        self.asked = False
        super().ended(event, watch)

    @staticmethod
    def tell(event: SchedulerStepped, step: Site, scaler: str, watch: Watch) -> None:
        watch.report(
            event.site,
            f"{quoted(event.scheduler, 'the scheduler')} goes on also where {scaler} has skipped the step at line "
            f"{watch.line(step)}, as it does when a run begins: the learning rate runs ahead of the updates; compare "
            "`get_scale()` before and after `update()`, and step the scheduler only if it has not shrunk",
            trace=[
                ("this step is skipped if a gradient is not finite", step),
                ("the schedule goes on all the same", event.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=8)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**127)
    start, updates = model.weight.detach().clone(), 0
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(torch.ones(4, 8, device=device)) * 8).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        updates += int(not torch.equal(model.weight, start))
        start = model.weight.detach().clone()
        scheduler.step()
    return {"updates": float(updates), "steps of the schedule": float(scheduler.last_epoch)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=8)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**127)
    start, updates = model.weight.detach().clone(), 0
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(torch.ones(4, 8, device=device)) * 8).mean()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        updates += int(not torch.equal(model.weight, start))
        start = model.weight.detach().clone()
        if scaler.get_scale() >= scale:
            scheduler.step()
    return {"updates": float(updates), "steps of the schedule": float(scheduler.last_epoch)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps of the schedule"] == 8.0 > trapped["updates"] > 0.0, "some steps were skipped"
    assert fixed["steps of the schedule"] == fixed["updates"] > 0.0
