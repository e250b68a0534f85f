"""What the probes in a program's source call: `__gradtrap__`, a name among the builtins while the program runs.

Each probe is told its number and a value, and returns the value itself (numbers that are read out of a tensor, in
places that a finding names, come back as floats that remember it).
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, TypeVar

from flake8_gradtrap.events import Site, Thing, WindowTested
from flake8_gradtrap.runtime.confirm.backward import Backwards
from flake8_gradtrap.runtime.confirm.iterators import Iterators
from flake8_gradtrap.runtime.confirm.keeping import Keeping
from flake8_gradtrap.runtime.confirm.leaving import Leaving
from flake8_gradtrap.runtime.confirm.modules import Modules
from flake8_gradtrap.runtime.confirm.rewriting import Spot
from flake8_gradtrap.runtime.confirm.tracer import Tracer

HITS = 5
"""So often a probe speaks, whether the run is recorded or not."""

T = TypeVar("T")


class Probes:
    def __init__(self, tracer: Tracer, spots: list[Spot], backwards: Backwards, modules: Modules) -> None:
        self.tracer = tracer
        self.spots = spots
        self.backwards = backwards
        self.modules = modules
        self.keeping = Keeping(tracer, backwards)
        self.leaving = Leaving(tracer, backwards)
        self.iterators = Iterators(tracer)
        self.visits: Counter[int] = Counter()
        self.left: defaultdict[int, int] = defaultdict(lambda: HITS)
        """How often a probe still speaks, whether the run is recorded or not."""
        self._every: dict[int, Any] = {}
        tracer_listeners = modules.gradients.listeners
        tracer_listeners.append(lambda owners: setattr(self.leaving, "recent", None))

    def _awake(self, number: int) -> bool:
        """Whether a probe is to speak: while the run is recorded, and where it has run a few times only."""
        tracer = self.tracer
        if not tracer.here:
            return False
        left = self.left
        if left[number]:
            left[number] -= 1
            if not tracer.active:
                tracer.surprise()
        return tracer.active

    def _site(self, number: int) -> Site | None:
        """The site of a probe; its own frames are those of whoever called this method's caller."""
        return self.tracer.site(sys._getframe(2), self.spots[number].place) if self._awake(number) else None

    # -- loops --------------------------------------------------------------------------------------------------------

    def hit(self, number: int) -> None:
        if self.tracer.here:
            self.visits[number] += 1
            if self.left[number]:
                self._awake(number)

    def loop(self, number: int, over: T) -> T:
        if self.tracer.here:
            spot = self.spots[number]
            frame = sys._getframe(1)
            count = None
            if self._awake(number):
                if isinstance(over, range) and over.start == 0 and over.step == 1 and spot.what:
                    count = Thing(("number", len(over)), spot.what)
                if isinstance(over, Iterator):
                    site = self.tracer.site(frame, spot.place)
                    if site is not None:
                        self.iterators.used(site, spot.label, "the loop", over)
            self.tracer.loop_started(frame, spot.place, count)
        return over

    def enter(self, number: int) -> None:
        if self.tracer.here:
            self._awake(number)
            self.tracer.loop_started(sys._getframe(1), self.spots[number].place, None)

    def turn(self, number: int) -> None:
        if self.tracer.active and self.tracer.here:
            self.tracer.iteration(sys._getframe(1), self.spots[number].place)

    def left_loop(self, number: int) -> None:
        if self.tracer.loops and self.tracer.here:
            self.tracer.loop_left(sys._getframe(1), self.spots[number].place)

    # -- windows ------------------------------------------------------------------------------------------------------

    def every(self, number: int, value: T) -> T:
        self._every[number] = value
        return value

    def window(self, number: int, value: T) -> T:
        size = self._every.pop(number, None)
        if self.tracer.active and isinstance(size, int) and self.tracer.loops:
            site = self._site(number)
            if site is not None and self.tracer.loops:
                spot = self.spots[number]
                thing = Thing(("number", size), spot.label)
                loop = self.tracer.loops[-1].place
                self.tracer.emit(WindowTested(site, loop, thing, float(size), bool(value) is spot.flag))
        return value

    # -- iterators ----------------------------------------------------------------------------------------------------

    def made(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.iterators.made(site, spot.label, spot.what, spot.flag, value)
        return value

    def used(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.iterators.used(site, self.spots[number].label, self.spots[number].what, value)
        return value

    # -- graphs that are kept -----------------------------------------------------------------------------------------

    def term(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.keeping.term(number, site, self.spots[number].what, value)
        return value

    def total(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and self._awake(number):
            self.keeping.total(number, self.spots[number].label, value)
        return value

    def holder(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and self._awake(number):
            self.keeping.holder(number, value, self.spots[number].what)
        return value

    def stored(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.keeping.stored(number, site, spot.label, spot.what, "append", value)
        return value

    def returned(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.keeping.returned(site, value)
        return value

    def state(self, number: int, value: Any) -> None:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            for tensor in _tensors(value)[:4]:
                if tensor.grad_fn is not None:
                    self.backwards.carry(site, self.spots[number].label, tensor)
            self.tracer.measure("GTR405", site, False, "its history stayed within its iteration")

    # -- values that leave the graph ----------------------------------------------------------------------------------

    def source(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and self._awake(number):
            self.leaving.source(number, value)
        return value

    def number(self, number: int, value: Any) -> Any:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            return self.leaving.number(number, site, self.spots[number].label, value)
        return value

    def copied(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.leaving.copied(number, site, spot.label, spot.flag, value)
        return value

    def cut(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.leaving.cut(number, site, self.spots[number].label, value)
        return value

    def forced(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.leaving.forced(site, self.spots[number].label, value)
        return value

    def force(self, number: int, value: Any) -> None:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            self.leaving.forced(site, self.spots[number].what, value)

    def part(self, number: int, value: T, place: int, inner: int = -1) -> T:
        if (self.tracer.active or self.left[number]) and self._awake(number):
            self.leaving.part(number, place, value, inner)
        return value

    def follow(self, number: int, value: Any) -> None:
        if self.tracer.active:
            self.leaving.followed(number, value)

    def joined(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.leaving.joined(number, site, spot.what == "+", value, True)
        return value

    # -- modules ------------------------------------------------------------------------------------------------------

    def callee(self, number: int, value: T) -> T:
        if (self.tracer.active or self.left[number]) and self._awake(number):
            self.modules.callee(number, value)
        return value

    def output(self, number: int, value: T) -> T:
        if self.tracer.active and self.modules.waiting(number) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.modules.output(number, site, spot.label, spot.function, spot.definition, value)
        return value

    def state_taken(self, number: int, value: T) -> T:
        if self.tracer.here and (site := self.tracer.site(sys._getframe(1), self.spots[number].place)) is not None:
            if not self.tracer.active:
                self.tracer.surprise()  # the rule has to hear of the steps that change what was taken
            self.modules.state_taken(site, self.spots[number].label, value)
        return value

    def attribute(self, number: int, holder: Any) -> None:
        if (self.tracer.active or self.left[number]) and (site := self._site(number)) is not None:
            spot = self.spots[number]
            self.modules.attribute(site, spot.label, spot.what, holder)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if hasattr(value, "grad_fn") else []
