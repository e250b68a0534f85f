"""One-shot iterators in a real run. Whether one is used up is seen from outside: nothing is taken from it."""

from __future__ import annotations

import gc
import inspect
import operator
from collections.abc import Hashable, Iterator
from types import GeneratorType
from typing import Any

from flake8_gradtrap.events import Iterated, IteratorMade, Site, Thing
from flake8_gradtrap.runtime.confirm.numbers import many
from flake8_gradtrap.runtime.confirm.places import Place
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_LAZY = frozenset({"filter", "map", "zip", "enumerate", "chain", "islice", "takewhile", "dropwhile", "starmap"})


def exhausted(value: Any, depth: int = 6) -> bool | None:
    """Whether an iterator has nothing left; None where that cannot be seen."""
    if isinstance(value, GeneratorType):
        return inspect.getgeneratorstate(value) == inspect.GEN_CLOSED
    name = type(value).__name__
    if name in _LAZY and depth:
        states = [exhausted(one, depth - 1) for one in sources(value)]
        if name == "chain":
            return all(states) if None not in states else None
        return True if True in states else None if None in states or not states else False
    if name.endswith("iterator"):
        return operator.length_hint(value, 1) == 0
    return None


def sources(value: Any) -> list[Iterator[Any]]:
    """The iterators that a lazy one takes from."""
    if type(value).__name__ not in _LAZY:
        return []
    return [
        one
        for held in gc.get_referents(value)
        for one in (held if isinstance(held, tuple) else (held,))
        if isinstance(one, Iterator)
    ]


class Iterators:
    """Tells the monitors of iterators: by what is seen of their state, not by what was seen to happen to them."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self._known: dict[int, tuple[Hashable, bool, Site, str, bool]] = {}
        """By identity: a key, whether the monitors know that it is used up, its last use, and who that was."""
        self._made = 0

    def made(self, site: Site, label: str, kind: str, of_parameters: bool, value: Any) -> None:
        if isinstance(value, Iterator):
            self._meet(site, value, label, kind, of_parameters)

    def _meet(self, site: Site, value: Any, label: str, kind: str, of_parameters: bool) -> Hashable:
        self._made += 1
        key = ("iterator", self._made)
        self._known[id(value)] = (key, False, site, "", of_parameters)
        self.tracer.emit(IteratorMade(site, Thing(key, label), kind, of_parameters))
        return key

    def used(self, site: Site, label: str, by: str, value: Any) -> None:
        """An iterator is handed to what iterates it."""
        if not isinstance(value, Iterator):
            self.tracer.measure("GTR101", site, False, "not a one-shot iterator")
            return
        gone = exhausted(value)
        known = self._known.get(id(value))
        if gone and known is None:  # `zip(…, params)`: it is made anew, what it takes from is used up
            for source in sources(value):
                if id(source) in self._known and exhausted(source):
                    value, known = source, self._known[id(source)]
                    break
        if known is None or (known[1] and not gone):  # another object where one has been
            self._meet(site, value, label, f"`{label}`" if label else "an iterator", False)
            known = self._known[id(value)]
        key, told, last, who, of_parameters = known
        if isinstance(site.node, Place):
            self.tracer.consumed.add(site.node.statement)
        thing = Thing(key, label)
        if gone is None:
            self.tracer.unknown("GTR101", site, f"whether a {type(value).__name__} is used up cannot be seen")
        else:
            self.tracer.measure(
                "GTR101",
                site,
                gone,
                f"{by} got an iterator with nothing left: {many(0, 'item')}" if gone else "the iterator had items left",
                0.0 if gone else None,
                "items",
            )
        self._known[id(value)] = (key, bool(gone), site, by, of_parameters)
        if not of_parameters and not self.tracer.asked("GTR101", site):
            return  # to use up a stream of data, and look at it again, may be meant
        if gone and not told:
            self.tracer.emit(Iterated(last, thing, who or "what used it", True))
        if gone:
            self.tracer.emit(Iterated(site, thing, by, True))
