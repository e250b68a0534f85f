"""Graphs that outlive their step in a real run: totals, containers, returned losses."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any

import torch

from flake8_gradtrap.events import Accumulated, Site, Stored, Thing
from flake8_gradtrap.runtime.confirm.identity import Key
from flake8_gradtrap.runtime.confirm.numbers import many, nodes_behind
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_HELD = 512
"""So many earlier graphs of a place are watched."""


class Alive:
    """Lives as long as the node of the graph that holds it."""

    __slots__ = ("__weakref__",)


class Keeping:
    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self._alive: dict[Hashable, list[weakref.ref[Alive]]] = {}
        self._terms: dict[int, tuple[Site, bool, Thing]] = {}
        self._totals: dict[Hashable, Key] = {}
        self._holders: list[tuple[int, Thing]] = []
        self._returned: dict[Key, Site] = {}
        """Live values that a step function has returned, and where."""

    # -- totals -------------------------------------------------------------------------------------------------------

    def term(self, probe: int, site: Site, label: str, value: Any) -> None:
        """What is about to be added to a total."""
        history = isinstance(value, torch.Tensor) and value.grad_fn is not None and torch.is_grad_enabled()
        self._terms[probe] = (site, history, self.tracer.thing(value, label) if history else Thing(None, label))

    def total(self, probe: int, label: str, value: Any) -> None:
        """The total, with the term in it."""
        known = self._terms.pop(probe, None)
        if known is None:
            return
        site, history, term = known
        if not history or not isinstance(value, torch.Tensor) or value.grad_fn is None:
            self.tracer.measure("GTR401", site, False, "the term had no history")
            return
        key = self.tracer.names.of(value)
        loops = self.tracer.loops
        previous = self._totals.get(site.node)
        self._totals[site.node] = key
        self.held("GTR401", site, value)
        if previous is not None and previous is not key:
            self.tracer.emit(
                Accumulated(
                    site,
                    term,
                    Thing(key, label),
                    Thing(previous, label),
                    had_history=True,
                    loop=loops[-1].place if loops else None,
                    made_by=self._made_by(term),
                    graph=frozenset((term.key, key)),
                )
            )

    # -- containers ---------------------------------------------------------------------------------------------------

    def holder(self, probe: int, value: Any, label: str) -> None:
        try:
            thing = self.tracer.thing(value, label)
        except TypeError:
            return
        if thing.key is None or self.tracer.names.known(value) is None:
            thing = Thing(("container", id(value)), label)
        self._holders.append((probe, thing))

    def stored(self, probe: int, site: Site, label: str, holder: str, by: str, value: Any) -> None:
        container = Thing(("container", site.node), holder)
        while self._holders:
            number, thing = self._holders.pop()
            if number == probe:
                container = thing
                break
        kept = [one for one in _shallow(value) if one.grad_fn is not None]
        if not kept:
            self.tracer.measure("GTR402", site, False, "what is stored had no history")
            return
        loops = self.tracer.loops
        for tensor in kept[:4]:
            thing = self.tracer.thing(tensor, label)
            self.held("GTR402", site, tensor)
            self.tracer.emit(
                Stored(
                    site,
                    thing,
                    container,
                    by,
                    had_history=True,
                    loop=loops[-1].place if loops else None,
                    made_by=self._made_by(thing),
                    graph=frozenset((thing.key,)),
                )
            )

    def _made_by(self, thing: Thing) -> tuple[Site, ...]:
        site = self._returned.get(thing.key) if isinstance(thing.key, Key) else None
        return (site,) if site is not None else ()

    def returned(self, site: Site, value: Any) -> None:
        for tensor in _shallow(value)[:4]:
            if tensor.grad_fn is not None:
                self._returned[self.tracer.names.of(tensor)] = site
                self.held("GTR403", site, tensor)
            else:
                self.tracer.measure("GTR403", site, False, "what is returned had no history")

    # -- what is still there ------------------------------------------------------------------------------------------

    def held(self, code: str, site: Site, tensor: torch.Tensor) -> None:
        """Count the graphs of earlier hits of this place that are still alive."""
        node = tensor.grad_fn
        assert node is not None
        place = (code, site.node)
        watched = [one for one in self._alive.get(place, ()) if one() is not None]
        earlier = len(watched)
        said = ""
        if earlier:
            said = f"{many(earlier, 'graph')} of earlier iterations held"
            if code == "GTR401" and self.tracer.curious(code, site, 4):
                said += f": {many(nodes_behind(node), 'node')} behind the total"
        self.tracer.measure(code, site, earlier >= 2, said, float(earlier), "graphs held")
        mark = Alive()
        node.metadata[f"gradtrap:{code}:{id(mark)}"] = mark  # type: ignore[index]
        if len(watched) < _HELD:
            watched.append(weakref.ref(mark))
        self._alive[place] = watched


def _shallow(value: Any) -> list[torch.Tensor]:
    parts = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else (value,)
    return [part for part in parts if isinstance(part, torch.Tensor)]
