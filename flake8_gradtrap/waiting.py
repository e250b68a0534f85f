"""What rules share whose findings wait: a suspicion stands until no path has proved its place innocent.

One path shows what may go wrong at a place. Where another path shows the same place at its right work, a condition
decides which of the two happens, and the first path may not exist. So such a rule does not report at once: it says
which place it suspects, on whatever path, and which places it has seen innocent. Both belong to the rule, not to a
path. What nobody has acquitted is told when the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import ClassVar

from flake8_gradtrap.events import FileEnded, RunEnded
from flake8_gradtrap.rule import Rule, Watch, on

Tell = Callable[[Watch], None]
"""What reports a finding: a method of the rule, with all that it needs."""


class Suspecting(Rule):
    """Base of both kinds.

    A place is what the rule takes for one: a syntax node, or a tuple of several, with what connects them. Such a tuple
    is innocent if any part of it is. A run that is given up over budget leaves no suspicion behind (`waits`); what it
    has proved innocent is innocent.
    """

    waits: ClassVar[tuple[str, ...]] = ("suspects",)

    def __init__(self) -> None:
        self.suspects: dict[Hashable, Tell] = {}
        self.innocent: set[Hashable] = set()

    def suspect(self, place: Hashable, tell: Tell) -> None:
        """Keep a finding; the first of a place stands."""
        self.suspects.setdefault(place, tell)

    def acquit(self, *places: Hashable) -> None:
        """A path has shown that all is well at these places."""
        self.innocent.update(places)

    def acquitted(self, place: Hashable) -> bool:
        return place in self.innocent or (isinstance(place, tuple) and not self.innocent.isdisjoint(place))

    def judge(self, watch: Watch) -> None:
        """Tell what nobody has acquitted."""
        for place, tell in self.suspects.items():
            if not self.acquitted(place):
                tell(watch)
        self.suspects.clear()


class Waiting(Suspecting):
    """Base of rules whose findings wait for the end of the run."""

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        self.judge(watch)


class WaitingForFile(Suspecting):
    """Base of rules whose findings wait for the end of the file."""

    @on(FileEnded)
    def known(self, event: FileEnded, watch: Watch) -> None:
        self.judge(watch)
