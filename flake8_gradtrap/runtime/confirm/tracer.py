"""The record of a real run: its events, its loops, its measurements, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

from flake8_gradtrap.events import Event, IterationStarted, LoopLeft, LoopStarted, Site, Thing
from flake8_gradtrap.runtime.confirm.evidence import Measure
from flake8_gradtrap.runtime.confirm.identity import Identities, Key
from flake8_gradtrap.runtime.confirm.places import Place, Where, callers, statement_of

EVENTS = 200_000
"""So many events are kept: then rules hear no more, and what they would have said is not known."""

FULL, EVERY, SAMPLE, NEWS = 20, 200, 4, 8
"""The first `FULL` steps are recorded, then `SAMPLE` of every `EVERY`, and `NEWS` after the program has come to a place
where it had not been."""

_LOOPS = 50
"""So many loops may seem to run before it is looked which of them do."""

_CALLERS = 8
"""In so many hits of a place its callers are noted."""

E = TypeVar("E", bound=Event)


class RunIsOver(BaseException):
    """Ends the program: it has taken all the steps that were asked for, or its time is up."""


@dataclass(slots=True)
class Loop:
    """A loop that is running, and its activation."""

    place: Place
    frame: int
    code: CodeType
    index: int = -1
    trains: bool = False
    """A backward has run in it."""
    told: bool = True
    """The monitors know of it: it began while the run was recorded."""


@dataclass(slots=True)
class Pace:
    """Which steps are recorded: until which one, when it begins again, and how many were."""

    until: int = FULL
    wakes: int = 0
    recorded: int = 0


class Tracer:
    """Everything that hooks and probes share. All of it belongs to the main thread of the main process."""

    def __init__(
        self,
        where: Where,
        steps: int,
        codes: frozenset[str],
        findings: frozenset[tuple[str, tuple[str, int, int]]] = frozenset(),
    ) -> None:
        self.where = where
        self.limit = steps
        self.codes = codes
        """The rules that are asked about."""
        self.findings = findings
        self.found = frozenset(code for code, _ in findings)
        """The findings of the abstract run: rule and statement."""
        self.names = Identities(self._fired)
        self.events: list[Event] = []
        self.fired: set[Key] = set()
        """Marked operations that the backward which is running has gone through."""
        self.loops: list[Loop] = []
        self.steps = 0
        self.full = False
        self.pace = Pace()
        self.active = True
        """The run is being recorded now, in the main thread of the main process."""
        self.open = True
        """It is, or will be again."""
        self.over = ""
        self.measures: dict[tuple[str, Place], Measure] = {}
        self.pauses: list[Callable[[], None]] = []
        """Called when the recording pauses."""
        self.surprises: list[Callable[[], None]] = []
        """Called when it begins again in the midst of a step."""
        self.consumed: set[tuple[str, int, int]] = set()
        """Statements whose iterators are looked at where they are used."""
        self._thread = threading.get_ident()

    # -- who speaks ---------------------------------------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """Whether this is watched: forked workers and other threads are not."""
        return self.open and threading.get_ident() == self._thread

    def switch_off(self) -> None:
        self.active = self.open = False

    def end(self, why: str) -> None:
        """Stop the program."""
        self.over = self.over or why
        raise RunIsOver(why)

    # -- pace ---------------------------------------------------------------------------------------------------------

    def stepped(self, steps: int) -> bool:
        """An optimizer has taken its so many-th step: go on recording, or stop, or begin again; True: it has."""
        ahead = steps > self.steps
        self.steps = max(self.steps, steps)
        pace = self.pace
        if self.active:
            pace.recorded += ahead
            if self.steps >= pace.until:
                self.active = False
                pace.wakes = self.steps + EVERY - SAMPLE
                for listener in self.pauses:
                    listener()
            return False
        if self.steps < pace.wakes:
            return False
        self.wake(SAMPLE)
        return True

    def surprise(self) -> bool:
        """The program has come to a new place: begin to record again, in the midst of a step."""
        if not self.here:
            return False
        self.wake(NEWS)
        for listener in self.surprises:
            listener()
        return True

    def wake(self, steps: int) -> None:
        self.active = True
        self.pace.until = self.steps + steps
        for loop in self.loops:
            if not loop.told:
                loop.told = True
                self.emit(LoopStarted(Site(loop.place), loop.place, None))

    # -- places -------------------------------------------------------------------------------------------------------

    def site(self, frame: FrameType | None, place: Place | None = None) -> Site | None:
        """The site of a frame (or of what called it from the project); loops that it is no longer in are left."""
        frames = self.where.frames(frame)
        if self.loops:
            self._leave(frames)
        return self.where.site(frames, place)

    def thing(self, value: Any, label: str = "") -> Thing:
        return Thing(self.names.of(value), label)

    def emit(self, event: Event) -> None:
        if len(self.events) < EVENTS:
            self.events.append(event)
        else:
            self.full = True

    def _fired(self, key: Key) -> None:
        self.fired.add(key)

    # -- loops --------------------------------------------------------------------------------------------------------

    def _leave(self, frames: list[FrameType]) -> None:
        """Leave the loops of activations that are over (by `return`, or an error)."""
        running = {id(frame): frame.f_code for frame in frames}
        while self.loops and running.get(self.loops[-1].frame) is not self.loops[-1].code:
            self._pop()

    def _pop(self) -> None:
        loop = self.loops.pop()
        if loop.told:
            self.emit(LoopLeft(Site(loop.place), loop.place))

    def loop_started(self, frame: FrameType, place: Place, count: Thing | None) -> None:
        if not self.active:
            if len(self.loops) > _LOOPS:
                self._leave(self.where.frames(frame))
            self.loops.append(Loop(place, id(frame), frame.f_code, told=False))
            return
        site = self.site(frame, place)
        if site is None:
            return
        while any(loop.place == place and loop.frame == id(frame) for loop in self.loops):
            self._pop()
        self.loops.append(Loop(place, id(frame), frame.f_code))
        self.emit(LoopStarted(site, place, count))

    def iteration(self, frame: FrameType, place: Place) -> Loop | None:
        number = id(frame)
        loops = self.loops
        if not loops or loops[-1].place is not place or loops[-1].frame != number:
            if not any(loop.place == place and loop.frame == number for loop in loops):
                return None
            while loops[-1].place != place or loops[-1].frame != number:
                self._pop()  # left by `continue` of an outer loop
        loop = loops[-1]
        loop.index += 1
        self.emit(IterationStarted(Site(place), place, loop.index))
        return loop

    def loop_left(self, frame: FrameType, place: Place) -> None:
        if any(loop.place == place and loop.frame == id(frame) for loop in self.loops):
            while True:
                last = self.loops[-1]
                self._pop()
                if last.place == place and last.frame == id(frame):
                    return

    def iterations(self) -> tuple[tuple[Hashable, int], ...]:
        """Where in its loops the run is."""
        return tuple((loop.place, loop.index) for loop in self.loops)

    def trained(self) -> None:
        """A backward runs: in all the loops that are running."""
        for loop in self.loops:
            loop.trains = True

    def training_loop(self) -> Place | None:
        """The innermost loop that trains, else the innermost one."""
        for loop in reversed(self.loops):
            if loop.trains:
                return loop.place
        return self.loops[-1].place if self.loops else None

    # -- measurements -------------------------------------------------------------------------------------------------

    def measure(
        self,
        code: str,
        site: Site | None,
        trapped: bool,
        said: str = "",
        value: float | None = None,
        unit: str = "",
        counted: bool = False,
    ) -> None:
        """Note whether the mechanism of a rule's trap was there, at a site; `said`: its number in words.

        `counted`: the hit was noted when it happened, and only now it is seen what became of it.
        """
        if site is None or not isinstance(site.node, Place):
            return
        known = self._measure(code, site.node)
        known.hits += not counted
        if known.hits <= _CALLERS and site.caller is not None:
            known.callers += [place for place in callers(site) if place not in known.callers]
        if trapped:
            known.trapped = min(known.trapped + 1, known.hits)
            if known.trapped == 1 or said:
                known.said, known.value, known.unit = said, value, unit
        elif not known.trapped and said:
            known.said, known.value, known.unit = said, value, unit

    def unknown(self, code: str, site: Site | None, why: str) -> None:
        """Note that the mechanism could not be seen at a site."""
        if site is not None and isinstance(site.node, Place):
            self._measure(code, site.node).unknown = why

    def confirmed_late(self, code: str, site: Site, hits: int) -> None:
        """Hits that were noted without the trap had it, as is known only now."""
        if isinstance(site.node, Place):
            known = self._measure(code, site.node)
            known.trapped = min(known.trapped + hits, known.hits)

    def curious(self, code: str, site: Site | None, often: int = 3) -> bool:
        """Whether a number is still worth its cost at a site: for the first hits only."""
        if site is None or code not in self.codes or not isinstance(site.node, Place):
            return False
        known = self.measures.get((code, site.node))
        return known is None or known.hits < often

    def asked(self, code: str, site: Site) -> bool:
        """Whether there is a finding of a rule in the statement of a site, or of a call that led to it."""
        at: Site | None = site if code in self.found else None
        while at is not None:
            place = at.node
            if isinstance(place, Place) and (code, statement_of(place.file, place.row)) in self.findings:
                return True
            at = at.caller
        return False

    def _measure(self, code: str, place: Place) -> Measure:
        known = self.measures.get((code, place))
        if known is None:
            known = self.measures[code, place] = Measure(code, place.file, place.row)
        return known


def by_statement(measures: dict[tuple[str, Place], Measure]) -> list[Measure]:
    """The measurements with one entry a statement."""
    merged: dict[tuple[str, tuple[str, int, int]], Measure] = {}
    for (code, place), measure in measures.items():
        key = (code, statement_of(place.file, place.row))
        known = merged.get(key)
        if known is None:
            merged[key] = measure
            continue
        if measure.trapped and not known.trapped:
            known.said, known.value, known.unit = measure.said, measure.value, measure.unit
        known.hits += measure.hits
        known.trapped += measure.trapped
        known.unknown = known.unknown or measure.unknown
        known.callers += [place for place in measure.callers if place not in known.callers]
    return list(merged.values())
