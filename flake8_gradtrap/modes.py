"""What rules share that watch the modes: which modules are in evaluation mode, and where that began."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from flake8_gradtrap.events import Forwarded, ModeSet, Site, Thing
from flake8_gradtrap.gradients import InLoops, tagged
from flake8_gradtrap.levels import Level
from flake8_gradtrap.rule import Watch, on

EVALUATES = re.compile(
    r"(^|_)(eval|evaluate|evaluation|valid|validate|validation|val|infer|inference|predict)(_|$)|(^|_)test$",
    re.IGNORECASE,
)
"""What a function is called that evaluates."""


@dataclass(frozen=True, slots=True)
class Evaluating:
    """A module that was put into evaluation mode, its parts, and the loops that were running."""

    site: Site = field(compare=False)
    module: Thing = field(compare=False)
    parts: frozenset[Hashable]
    holders: tuple[Hashable, ...] = ()
    loops: frozenset[Hashable] = frozenset()
    used: bool = False
    """Something was evaluated since."""
    over: bool = False
    """And that evaluation is behind: its loop has ended. Only rules that ask what comes after it say so."""
    meets: ClassVar[Level] = Level.FIRM

    def meet(self, other: Evaluating | None) -> Evaluating | None:
        """Where a path is in the other mode, or evaluates something else, nothing is known; unless that is over: then
        no condition that is forgotten says what happens in this mode.
        """
        if other is None:
            return self if self.over else None
        return replace(self, loops=self.loops & other.loops) if self.over and other.over else NotImplemented


class InModes(InLoops):
    """Base of rules that ask which modules are in evaluation mode. In memory: "eval", by module."""

    @on(ModeSet)
    def mode(self, event: ModeSet, watch: Watch) -> None:
        if event.training is not False:
            for key, value in tagged(watch, "eval"):
                if self.concerns(event, value):
                    watch.drop(key)
        elif event.parts and not event.setup:
            loops = self.running(watch)
            watch.put(
                ("eval", event.module.key), Evaluating(event.site, event.module, event.parts, event.holders, loops)
            )

    @staticmethod
    def concerns(event: ModeSet, value: Evaluating) -> bool:
        """Whether a module that is set to training may be the one, hold it, or be a part of it."""
        return (
            not event.parts
            or not event.parts.isdisjoint(value.parts)
            or event.module.key in value.holders
            or value.module.key in event.holders
        )

    @staticmethod
    def evaluating(event: Forwarded, watch: Watch) -> Evaluating | None:
        """The `eval()` by which a called module is in evaluation mode."""
        for _, value in tagged(watch, "eval"):
            mark: Evaluating = value
            if event.module.key in mark.parts or not mark.parts.isdisjoint(event.holders):
                return mark
        return None

    @staticmethod
    def innermost(watch: Watch) -> Hashable:
        """The loop that started last; None where none runs."""
        active = tagged(watch, "active")
        return active[-1][0][1] if active else None

    @staticmethod
    def use(mark: Evaluating, watch: Watch) -> None:
        """Remember that something was evaluated in this mode."""
        if not mark.used:
            watch.put(("eval", mark.module.key), replace(mark, used=True))
