"""Events of training loops, spelt shortly, and rules that hear them by hand."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from fake_watch import Report, drive

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    Event,
    FileEnded,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    OptimizerMade,
    Owners,
    RunEnded,
    ScalerUpdated,
    Site,
    Stepped,
    Thing,
    Unscaled,
)
from flake8_gradtrap.rule import all_rules

A, B = frozenset({"model a"}), frozenset({"model b"})
BOTH = A | B
OPT_A, OPT_B = Thing("optimizer a", "opt_a"), Thing("optimizer b", "opt_b")
SCALER, OTHER = Thing("scaler", "scaler"), Thing("other scaler", "other")
LOSS = Thing("loss", "loss")
END = RunEnded(Site(99))
FILE = FileEnded(Site(99))
AGAIN = RunEnded(Site(99), again=True)
START, LEFT = LoopStarted(Site(1), "loop"), LoopLeft(Site(9), "loop")


def run(code: str, *events: Event) -> list[Report]:
    return drive(all_rules()[code], events)


def kinds(value: object) -> str:
    """A name for a case that is the same in each process: events hold sets, which are written in any order."""
    if isinstance(value, list | tuple):
        return "-".join(map(kinds, value))
    return type(value).__name__ if isinstance(value, Event) else str(value)


def lines(reports: list[Report]) -> list[Hashable]:
    return [report.site.node for report in reports]


def found(code: str, *events: Event) -> list[Hashable]:
    return lines(run(code, *events))


def made(line: int, optimizer: Thing = OPT_A, owners: Owners = A) -> OptimizerMade:
    return OptimizerMade(Site(line), optimizer, owners)


def back(line: int, owners: Owners = A, loss: Thing = LOSS, **more: Any) -> Backpropagated:
    return Backpropagated(Site(line), loss, owners=owners, **more)


def scaled(line: int, owners: Owners = A, scaler: Thing | None = SCALER) -> Backpropagated:
    return back(line, owners, scaler=scaler, scaled=True)


def clip(line: int, owners: Owners = A, **more: Any) -> Clipped:
    return Clipped(Site(line), Thing("target", "model.parameters()"), "clip_grad_norm_", owners, **more)


def unscale(line: int, optimizer: Thing | None = OPT_A, owners: Owners = A, scaler: Thing = SCALER) -> Unscaled:
    return Unscaled(Site(line), scaler, optimizer, owners)


def step(line: int, optimizer: Thing = OPT_A, owners: Owners = A, closure: bool = False) -> Stepped:
    return Stepped(Site(line), optimizer, owners, closure=closure)


def through(line: int, optimizer: Thing = OPT_A, owners: Owners = A, scaler: Thing = SCALER) -> Stepped:
    return Stepped(Site(line), optimizer, owners, scaler)


def update(line: int, scaler: Thing = SCALER, explicit: bool = False) -> ScalerUpdated:
    return ScalerUpdated(Site(line), scaler, explicit)


def clear(line: int, optimizer: Thing | None = OPT_A, owners: Owners = A) -> Cleared:
    return Cleared(Site(line), optimizer, owners)


def escape(line: int, *keys: str, to: str = "helper") -> Escaped:
    return Escaped(Site(line), tuple(Thing(key, key) for key in keys), to)


def twice(*body: Event, loop: str = "loop") -> list[Event]:
    """A loop whose body runs twice."""
    return [
        LoopStarted(Site(1), loop),
        IterationStarted(Site(1), loop, 0),
        *body,
        IterationStarted(Site(1), loop, 1),
        *body,
        LoopLeft(Site(1), loop),
    ]


def turn(index: int) -> IterationStarted:
    return IterationStarted(Site(1), "loop", index)
