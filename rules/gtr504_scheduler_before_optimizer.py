"""The scheduler steps before the optimizer does, or once a batch though it was built for epochs.

## What it does

Reports `scheduler.step()` in a loop whose optimizer steps only after it: the first step of the optimizer then uses the
second learning rate of the schedule. Also reports `scheduler.step()` in the loop over batches where the scheduler was
built for as many steps as there are epochs (`CosineAnnealingLR(optimizer, T_max=epochs)`).

## Why it is a trap

A scheduler sets the first learning rate when it is made. If it steps before the optimizer has used it, the schedule
is shifted: its first value is never used, a warm-up starts one step up, a decay comes one epoch early. torch says so
once, in a warning that is easily lost. A schedule for epochs that advances with each batch is over after as many of
them: a cosine goes to zero and up again, every few batches of a run that should have seen it once. The demo compares
the learning rates that the optimizer uses with those of the schedule.

## Known limits

False positives: a schedule that was written with this order in mind. A scheduler of which it is not known where it was
made may be one of somebody's own, which sets the learning rate of the step to come: it is reported in preview.

False negatives: a scheduler that is given an epoch or a metric; an order that depends on a condition; an optimizer of
which it is not known that it is the scheduler's; schedules for epochs that say so in another way than by their number.

## Trap

```python
import torch


def train(model, loader, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    for epoch in range(epochs):
        scheduler.step()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        scheduler.step()
```

## References

- [How to adjust learning rate](https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate)
- [torch.optim.lr_scheduler.CosineAnnealingLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Escaped,
    IterationStarted,
    LoopStarted,
    OptimizerMade,
    SchedulerMade,
    SchedulerStepped,
    Stepped,
)
from flake8_gradtrap.gradients import InLoops, Mark, forget, quoted, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

LEAVES_ALONE = re.compile(r"(^|[._])(unscale|clip)[^.]*$")
"""What functions are called that change the gradients of an optimizer, and do not step."""


@dataclass(frozen=True, slots=True)
class Early:
    """A step of a scheduler before one of its optimizer. `loop`: the innermost that was running."""

    event: SchedulerStepped = field(compare=False)
    place: Hashable
    optimizer: Hashable
    loop: Hashable


@dataclass(frozen=True, slots=True)
class Used:
    """An optimizer has stepped, in these loops. A path that stands for one that has and one that has not has, too."""

    loops: frozenset[Hashable]

    def meet(self, other: Used | None) -> Used:
        return self if other is None else Used(self.loops & other.loops)


class SchedulerBeforeOptimizer(Waiting, InLoops):
    """In memory: "fresh" optimizers (made, not yet used), "used" ones with the loops of their last step, those that
    were "handed" to code that may have stepped them, "begun" schedulers, places "passed", "early" steps, what
    schedulers "span", what loops are "counted", and whether gradients are "pending".

    Acquitted: places where a scheduler steps first, and on some path its optimizer has stepped before, or may have.
    That a path which was merged by force knows nothing of the optimizer is no such path.
    """

    code = "GTR504"
    name = "scheduler-before-optimizer"
    summary = "The scheduler steps before the optimizer, or once a batch though it was built for epochs"
    words = ("backward",)
    torch = "1.1"  # before, this was the order

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        watch.put(("fresh", event.optimizer.key), True)

    @on(SchedulerMade)
    def scheduler(self, event: SchedulerMade, watch: Watch) -> None:
        if event.span is not None:
            watch.put(("span", event.scheduler.key), Mark(event.site, scaler=event.span))

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        if event.count is not None:
            watch.put(("counted", event.loop), event.count)

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        forget(watch, "pending")
        for key, early in tagged(watch, "early"):
            if early.optimizer is None:
                watch.drop(key)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            for key, _ in tagged(watch, "fresh"):
                watch.put(("handed", key[1]), Used(frozenset()))
            forget(watch, "fresh", "early", "pending")
        else:
            watch.put(("pending",), Mark(event.site))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if LEAVES_ALONE.search(event.to):
            return
        for thing in event.things:
            if watch.get(("fresh", thing.key)) is not None:
                watch.drop(("fresh", thing.key))
                watch.put(("handed", thing.key), Used(frozenset()))
            watch.drop(("early", thing.key))
            for key, early in tagged(watch, "early"):
                if early.optimizer == thing.key:
                    watch.drop(key)

    @on(SchedulerStepped)
    def advance(self, event: SchedulerStepped, watch: Watch) -> None:
        loops = [key[1] for key, _ in tagged(watch, "active")]
        if event.given or not loops:
            watch.put(("begun", event.scheduler.key), True)
            return
        optimizer = event.optimizer.key if event.optimizer is not None else None
        first = watch.get(("begun", event.scheduler.key)) is None
        watch.put(("begun", event.scheduler.key), True)
        again = watch.get(("passed", event.site.node)) is not None  # also where a merged path forgot what began
        watch.put(("passed", event.site.node), Used(frozenset()))
        early = Early(event, event.site.node, optimizer, loops[-1])
        if optimizer is None:
            if watch.get(("pending",)) is not None:
                watch.put(("early", event.scheduler.key), early)
            elif not watch.lossy:
                self.acquit(event.site.node)
        elif first and watch.get(("fresh", optimizer)) is not None:
            watch.put(("early", event.scheduler.key), early)
        elif first and not again and any(watch.get((tag, optimizer)) is not None for tag in ("used", "handed")):
            self.acquit(event.site.node)
        self.each_batch(event, watch)

    def each_batch(self, event: SchedulerStepped, watch: Watch) -> None:
        """A schedule as long as a loop is that goes on with each iteration of a loop within."""
        span: Mark | None = watch.get(("span", event.scheduler.key))
        used: Used | None = watch.get(("used", event.optimizer.key)) if event.optimizer is not None else None
        loops = [key[1] for key, _ in tagged(watch, "active")]
        if span is None or span.scaler is None or used != Used(frozenset(loops)):
            return
        for loop in loops[:-1]:
            count = watch.get(("counted", loop))
            if count is not None and count.key == span.scaler.key:
                watch.report(
                    event.site,
                    f"{quoted(event.scheduler, 'the scheduler')} was built for {count.label or 'the epochs'}, and "
                    "steps once a batch: its schedule is over after as many of them; step it once an epoch",
                    trace=[
                        ("the schedule is as long as the loop over epochs", span.site),
                        ("and goes on with each batch here", event.site),
                    ],
                )
                return

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        watch.drop(("fresh", event.optimizer.key))
        watch.drop(("pending",))
        running = self.running(watch)
        watch.put(("used", event.optimizer.key), Used(running))
        for key, early in tagged(watch, "early"):
            if early.optimizer in (None, event.optimizer.key):
                watch.drop(key)
                if early.loop in running:
                    self.suspect(early.place, partial(self.tell, early.event, event))

    @staticmethod
    def tell(event: SchedulerStepped, step: Stepped, watch: Watch) -> None:
        watch.report(
            event.site,
            f"{quoted(event.scheduler, 'the scheduler')} steps before {quoted(step.optimizer, 'the optimizer')} does "
            f"at line {watch.line(step.site)}: the first learning rate of the schedule is never used, and all others "
            "come one step early; step it after the optimizer",
            trace=[
                ("the learning rate is set for the next step here", event.site),
                ("before the optimizer has used the last one here", step.site),
            ],
            preview=not event.by,  # one of somebody's own may set the rate of the step to come
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import warnings

    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    x, y = torch.randn(8, 4, device=device), torch.randn(8, 1, device=device)
    used = []
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step()
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return {"first learning rate used": used[0], "first of the schedule": 1.0, "last one used": used[-1]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    x, y = torch.randn(8, 4, device=device), torch.randn(8, 1, device=device)
    used = []
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"first learning rate used": used[0], "first of the schedule": 1.0, "last one used": used[-1]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["first learning rate used"] == 0.5, "the second of the schedule"
    assert trapped["last one used"] == 0.5 * fixed["last one used"]
    assert fixed["first learning rate used"] == fixed["first of the schedule"]
