"""Accumulation windows, and schedulers of the learning rate."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Thing


@dataclass(frozen=True, slots=True)
class WindowTested(Event):
    """A loop asked whether its accumulation window is full: `(i + 1) % k == 0`, or a counter that it resets.

    `loop`: the innermost one that is running. `every`: the k, `size`: its number where that is known. `full`: the
    answer on this path.
    """

    loop: Hashable
    every: Thing
    size: float | None
    full: bool


@dataclass(frozen=True, slots=True)
class SchedulerMade(Event):
    """A scheduler of torch was made for an optimizer. `span`: over how many of its steps it runs, where it says so.

    `resumed`: it is told where it goes on (`last_epoch`).
    """

    scheduler: Thing
    optimizer: Thing | None
    by: str
    span: Thing | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class SchedulerStepped(Event):
    """`scheduler.step(…)`. `optimizer`: whose learning rate it sets. `by`: the API that made it, "" where that is not
    known. `given`: it was given a metric or an epoch.
    """

    scheduler: Thing
    optimizer: Thing | None = None
    by: str = ""
    given: bool = False
