"""What rules about logarithms share: one through which nothing goes backward, as in a metric, trains nothing."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from flake8_gradtrap.events import Backpropagated, LogarithmTaken, Produced, Site
from flake8_gradtrap.rule import Rule, Watch, on


class TellsOfLogarithms(Rule):
    """Base of rules that keep a logarithm by its result, and tell of it when a backward arrives there."""

    waits: ClassVar[tuple[str, ...]] = ("taken_at",)

    def __init__(self) -> None:
        self.taken_at: dict[Hashable, LogarithmTaken] = {}

    @on(Backpropagated, Produced)
    def arrived(self, event: Backpropagated | Produced, watch: Watch) -> None:
        for key in self.taken_at.keys() & event.reaches:
            self.tell(self.taken_at[key], watch)

    def tell(self, event: LogarithmTaken, watch: Watch) -> None:
        raise NotImplementedError


def steps(event: LogarithmTaken) -> list[tuple[str, Site]]:
    """The trace: where the probability was made, if that is in sight, and where its logarithm is taken."""
    made = event.activation
    first = [(f"{made.kind} is applied here", made.site)] if made.site is not None else []
    return [*first, ("and the logarithm is taken here", event.site)]
