"""Graphs that outlive their step in a real run: totals, containers, returned losses."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from flake8_gradtrap.events import Accumulated, Site, Stored, Thing
from flake8_gradtrap.runtime.confirm.backward import Backwards
from flake8_gradtrap.runtime.confirm.identity import Key
from flake8_gradtrap.runtime.confirm.numbers import many, nodes_behind
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_HELD = 512
"""So many earlier graphs of a place are watched."""


class Alive:
    """Lives as long as the node of the graph that holds it."""

    __slots__ = ("__weakref__",)


@dataclass(slots=True)
class Held:
    """The graphs that a place has kept: what dies with each, and the operation that says whether a backward used it.

    `proven`: backwards had used those that were held. `open`: hits at which they had not, or not yet. `resumed`: the
    recording has paused, and those from before are not known.
    """

    code: str
    site: Site
    graphs: list[tuple[weakref.ref[Alive], Key]] = field(default_factory=list)
    proven: bool = False
    open: int = 0
    resumed: bool = False


class Keeping:
    def __init__(self, tracer: Tracer, backwards: Backwards) -> None:
        self.tracer = tracer
        self.backwards = backwards
        self._held: dict[Hashable, Held] = {}
        self._terms: dict[int, tuple[Site, bool, Thing, list[weakref.ref[torch.Tensor]]]] = {}
        self._totals: dict[Hashable, Key] = {}
        self._holders: list[tuple[int, Thing]] = []
        self._returned: dict[Key, Site] = {}
        """Live values that a step function has returned, and where."""
        tracer.pauses.append(lambda: self.settle(False))

    # -- totals -------------------------------------------------------------------------------------------------------

    def term(self, probe: int, site: Site, label: str, value: Any) -> None:
        """What is about to be added to a total."""
        history = isinstance(value, torch.Tensor) and value.grad_fn is not None and torch.is_grad_enabled()
        parts = [weakref.ref(one) for one in _shallow(value)] if isinstance(value, list | tuple) else []
        self._terms[probe] = (site, history, self.tracer.thing(value, label) if history else Thing(None, label), parts)

    def total(self, probe: int, label: str, value: Any) -> None:
        """The total, with the term in it."""
        known = self._terms.pop(probe, None)
        if known is None:
            return
        site, history, term, parts = known
        if isinstance(value, list):  # `losses += [loss]`
            alive = [one for one in (part() for part in parts) if one is not None]
            self._store(site, term.label, Thing(("container", id(value)), label), "extend", alive)
            return
        if not history or not isinstance(value, torch.Tensor) or value.grad_fn is None:
            self.tracer.measure("GTR401", site, False, "the term had no history", 0.0, "graphs held")
            return
        key = self.tracer.names.of(value)
        previous = self._totals.get(site.node)
        self._totals[site.node] = key
        self.held("GTR401", site, value, term.key)
        if previous is not None and previous is not key:
            self.tracer.emit(
                Accumulated(
                    site,
                    term,
                    Thing(key, label),
                    Thing(previous, label),
                    had_history=True,
                    loop=self.tracer.training_loop(),
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
        self._store(site, label, container, by, _shallow(value))

    def _store(self, site: Site, label: str, container: Thing, by: str, values: list[torch.Tensor]) -> None:
        kept = [one for one in values if one.grad_fn is not None]
        if not kept:
            self.tracer.measure("GTR402", site, False, "what is stored had no history", 0.0, "graphs held")
            return
        for tensor in kept[:4]:
            thing = self.tracer.thing(tensor, label)
            self.held("GTR402", site, tensor, thing.key)
            self.tracer.emit(
                Stored(
                    site,
                    thing,
                    container,
                    by,
                    had_history=True,
                    loop=self.tracer.training_loop(),
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
                key = self.tracer.names.of(tensor)
                self._returned[key] = site
                self.held("GTR403", site, tensor, key)
            else:
                self.tracer.measure("GTR403", site, False, "what is returned had no history", 0.0, "graphs held")

    # -- what is still there ------------------------------------------------------------------------------------------

    def held(self, code: str, site: Site, tensor: torch.Tensor, operation: Hashable) -> None:
        """Count the graphs of earlier hits of this place that are still alive; `operation`: what computed the value.

        A graph that is held is a trap once a backward has used it, or when it dies, or the run ends by itself,
        without: until then it may wait for its backward, as a rollout does.
        """
        node = tensor.grad_fn
        assert node is not None
        assert isinstance(operation, Key)
        known = self._held.get((code, site.node))
        if known is None:
            known = self._held[code, site.node] = Held(code, site)
        known.graphs = [one for one in known.graphs if one[0]() is not None]
        earlier = len(known.graphs)
        said = f"{many(earlier, 'graph')} of earlier iterations held"
        if earlier and code == "GTR401" and self.tracer.curious(code, site, 4):
            said += f": {many(nodes_behind(node), 'node')} behind the total"
        walked = self.backwards.walked
        if not known.proven and earlier >= 2:
            known.proven = sum(key in walked for _, key in known.graphs) >= 2
            self.backwards.deep = 0 if known.proven else 2
        trapped = known.proven and earlier >= 2
        known.resumed &= earlier < 2
        if not known.resumed:
            self.tracer.measure(code, site, trapped, said, float(earlier), "graphs held")
            known.open += earlier >= 2 and not trapped
        mark = Alive()
        node.metadata[f"gradtrap:{code}:{id(mark)}"] = mark  # type: ignore[index]
        if earlier < _HELD:
            known.graphs.append((weakref.ref(mark), operation))

    def settle(self, ended: bool) -> None:
        """Decide about graphs that no backward has used; `ended`: none will, the program has come to its own end."""
        for held in self._held.values():
            waiting = sum(alive() is not None and key not in self.backwards.walked for alive, key in held.graphs)
            if held.open and not held.proven and waiting >= 2 and not ended:
                why = f"{many(waiting, 'graph')} held when the recording ended, which a backward may still have used"
                self.tracer.unknown(held.code, held.site, why)
            elif held.open:
                self.tracer.confirmed_late(held.code, held.site, held.open)
            held.open = 0
            if not held.proven:
                held.graphs.clear()
                held.resumed = True


def _shallow(value: Any) -> list[torch.Tensor]:
    parts = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else (value,)
    return [part for part in parts if isinstance(part, torch.Tensor)]
