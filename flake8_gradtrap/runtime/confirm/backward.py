"""Backwards in a real run: what each one walked, whose gradients it filled, and what it should not have met."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from flake8_gradtrap.events import Backpropagated, Carried, Differentiated, Site, Term, Thing, Weights
from flake8_gradtrap.runtime.confirm.gradients import Gradients, Parameter
from flake8_gradtrap.runtime.confirm.identity import Key
from flake8_gradtrap.runtime.confirm.numbers import many, nodes_behind, norm_of, short
from flake8_gradtrap.runtime.confirm.places import Place, here, receiver
from flake8_gradtrap.runtime.confirm.tracer import Tracer
from flake8_gradtrap.runtime.confirm.windows import share_of

_TWICE = "backward through the graph a second time"
_NEAR = 16
"""So many operations behind a carried state are marked: one of them was used by the backward that freed it."""
_WHOLE = 1_000
"""So many nodes of a graph are marked where a finding asks whether it is used again."""


@dataclass(slots=True)
class State:
    """A tensor that a name takes into the next iteration of a loop, with the operations behind it."""

    site: Site
    label: str
    keys: frozenset[Key]
    loop: Place
    index: int


@dataclass(slots=True)
class Cut:
    """A part of a value that has left its graph. `said`: its number, in words."""

    term: Term
    said: str = ""
    value: float | None = None
    unit: str = ""


class Backwards:
    def __init__(self, tracer: Tracer, gradients: Gradients) -> None:
        self.tracer = tracer
        self.gradients = gradients
        self.walked: dict[Key, int] = {}
        """Marked operations that a backward has gone through, and which one was the first."""
        self.states: dict[Key, State] = {}
        self.cuts: dict[Key, tuple[Cut, ...]] = {}
        """Parts of marked values that carry no gradient."""
        self.forced: dict[Key, Site] = {}
        """Computed values that were made to require a gradient, and where."""
        self.count = 0
        self.deep = 0
        """So many backwards to come mark their whole graph: something asks which parts of it they used."""
        self._running = False
        self._retained: dict[Hashable, tuple[set[Key], bool]] = {}
        self._sizes: dict[Hashable, int] = {}

    def run(self, call: Callable[..., Any], outputs: Any, *args: Any, **kwargs: Any) -> Any:
        site = None if self._running else self.tracer.site(here())
        if site is None:
            return call(outputs, *args, **kwargs)
        gradient = _at(args, kwargs, 0, "grad_tensors")
        retain = bool(_at(args, kwargs, 1, "retain_graph"))
        create = bool(_at(args, kwargs, 2, "create_graph"))
        accumulates = bool(kwargs.get("accumulate_grad", args[5] if len(args) > 5 else False))
        roots = [root for root in outputs if isinstance(root, torch.Tensor)]
        self.gradients.notice(site)
        for root in roots:
            if root.grad_fn is not None:
                self.tracer.names.mark(root)
        reused = retain and not create and self.tracer.curious("GTR404", site, 4)
        if reused or self.deep or ("GTR503" in self.tracer.found and self.tracer.curious("GTR503", site, 4)):
            self.deep = max(self.deep - 1, 0)
            for root in roots:
                if root.grad_fn is not None:
                    self._mark_all(root.grad_fn, _WHOLE)
        left = self._left_over() if accumulates else []
        before = self._norm(left[:1], site)
        self.tracer.fired = set()
        self.count += 1
        self._running = True
        self.tracer.trained()
        error: RuntimeError | None = None
        try:
            return call(outputs, *args, **kwargs)
        except RuntimeError as raised:
            error = raised
            raise
        finally:
            self._running = False
            fired = frozenset(self.tracer.fired)
            if accumulates and roots:
                own = gradient is not None and len(gradient) == 1 and gradient[0] is roots[0]
                self._told(site, roots[0], fired, retain, create, own, error, left, before)
            else:
                self.tracer.emit(Differentiated(site, fired, fired, retain))
            self._reuse(site, fired, retain and accumulates and not create)
            for key in fired:
                self.walked.setdefault(key, self.count)

    def _told(
        self,
        site: Site,
        loss: torch.Tensor,
        fired: frozenset[Key],
        retain: bool,
        create: bool,
        own: bool,
        error: RuntimeError | None,
        left: list[Parameter],
        before: float | None,
    ) -> None:
        tracer = self.tracer
        changed = [parameter for parameter, _ in self.gradients.look()]
        key = tracer.names.of(loss)
        scaler = self._scaler(loss)
        share = None
        node = loss.grad_fn
        if node is not None and error is None:
            mark = tracer.names.seen(node)
            if mark is not None and mark.scaler is not None:
                node = node.next_functions[0][0]
            share = share_of(node)
        self._fill(site, changed, scaler, share)
        thing = Thing(key, receiver(site.node))
        cuts = [cut for one in (fired | {key}) for cut in self.cuts.get(one, ())]
        carried = self._carried(site, loss, fired, error)
        event = Backpropagated(
            site,
            thing,
            reaches=fired,
            frees=fired,
            retains=retain,
            terms=tuple(cut.term for cut in cuts),
            owners=frozenset(parameter.key for parameter in changed),
            scaler=Thing(scaler, "") if scaler is not None else None,
            scaled=scaler is not None,
            weight=thing if own else None,
            recorded=True,
            creates=create,
            weights=Weights(share),
            carried=carried,
            asked=retain and not create,
            partial=False,
        )
        tracer.emit(event)
        self._measure(site, key, loss, changed, own, error, left, before, cuts)

    def _measure(
        self,
        site: Site,
        key: Key,
        loss: torch.Tensor,
        changed: list[Parameter],
        own: bool,
        error: RuntimeError | None,
        left: list[Parameter],
        before: float | None,
        cuts: list[Cut],
    ) -> None:
        tracer = self.tracer
        twice = error is not None and _TWICE in str(error)
        if own:
            factor = float(loss.detach().float().sum())
            said = f"every gradient multiplied by {short(factor)}, the loss"
            tracer.measure("GTR503", site, True, said, factor, "times every gradient")
        else:
            said = "raised: 1 graph that was freed" if twice else "its graph was whole: 0 freed graphs"
            tracer.measure("GTR503", site, twice, said, float(twice), "freed graphs")
        added = [parameter for parameter in left if parameter in changed]
        said = ""
        if added and before is not None:
            after = norm_of([added[0].gradient])
            said = (
                f"{many(len(added), 'gradient')} left over from an earlier step were added to; "
                f"one of them had a norm of {short(before)} before, {short(after)} after"
            )
        if not any(one.blurred for one in self.gradients.of(changed)):
            tracer.measure("GTR501", site, bool(added), said, float(len(added)), "gradients")
        whole = not changed
        for cut in cuts:
            for code in _RULES.get(cut.term.cut, ()):
                tracer.measure(code, cut.term.site, True, cut.said, cut.value, cut.unit, counted=True)
                if cut.term.addend is not None:
                    tracer.measure(code, cut.term.addend, True, cut.said, cut.value, cut.unit)
                if cut.term.whole:
                    tracer.measure(code, site, True, cut.said, cut.value, cut.unit)
        if not any(cut.term.cut in ("detach", "no_grad") for cut in cuts):
            tracer.measure("GTR203", site, False)
        forced = self.forced.get(key)
        if forced is not None:
            said = f"the backward filled {many(len(changed), 'gradient')} of the optimizers"
            tracer.measure("GTR209", forced, whole, said, float(len(changed)), "gradients", counted=True)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _fill(self, site: Site, changed: list[Parameter], scaler: Key | None, share: float | None) -> None:
        for parameter in changed:
            parameter.filled = True
            parameter.scaled = scaler
        if changed:
            for one in self.gradients.of(changed):
                one.window.filled(site, share)
                one.wiped = None

    def _left_over(self) -> list[Parameter]:
        return [one for one in self.gradients.parameters.values() if one.applied and one.seen is not None]

    def _norm(self, parameters: list[Parameter], site: Site) -> float | None:
        if parameters and self.tracer.curious("GTR501", site):
            return norm_of(parameter.gradient for parameter in parameters)
        return None

    def _scaler(self, loss: torch.Tensor) -> Key | None:
        """The scaler that has scaled a loss, also one that was divided since."""
        node = loss.grad_fn
        for _ in range(6):
            if node is None:
                return None
            mark = self.tracer.names.seen(node)
            if mark is not None and isinstance(mark.scaler, Key):
                return mark.scaler
            node = next((parent for parent, _ in node.next_functions if parent is not None), None)
        return None

    # -- states -------------------------------------------------------------------------------------------------------

    def carry(self, site: Site, label: str, tensor: torch.Tensor) -> None:
        """A name takes a tensor with history into the next iteration of the innermost loop."""
        loops = self.tracer.loops
        if tensor.grad_fn is None or not loops:
            return
        keys = self._mark_all(tensor.grad_fn, _NEAR, beyond=False)
        state = State(site, label, frozenset(keys), loops[-1].place, loops[-1].index)
        for key in keys:
            self.states[key] = state

    def _mark_all(self, node: Any, limit: int, beyond: bool = True) -> list[Key]:
        """Mark the nodes nearest to one, leaves aside; `beyond`: also those of states of earlier iterations."""
        names = self.tracer.names
        found, queue, keys = {node}, [node], []
        for one in queue:
            if "AccumulateGrad" in one.name():
                continue
            key = names.mark_node(one).key
            if not beyond and key in self.states:
                continue
            keys.append(key)
            if len(keys) == limit:
                break
            for parent, _ in one.next_functions:
                if parent is not None and parent not in found:
                    found.add(parent)
                    queue.append(parent)
        return keys

    def _carried(
        self, site: Site, loss: torch.Tensor, fired: frozenset[Key], error: RuntimeError | None
    ) -> tuple[Carried, ...]:
        """The states of earlier iterations that a backward has met."""
        met: dict[int, State] = {}
        now = {loop.place: loop.index for loop in self.tracer.loops}
        for key in fired:
            state = self.states.get(key)
            if state is not None and now.get(state.loop, state.index) > state.index:
                met[id(state)] = state
        for state in met.values():
            again = [key for key in state.keys & fired if key in self.walked]
            if again:
                if error is not None:
                    said = f"a backward met the graph of an earlier iteration, and raised {type(error).__name__}"
                    self.tracer.measure("GTR405", state.site, True, said, 1.0, "graphs", counted=True)
                    continue
                said = "a backward went through the graph of an earlier iteration once more"
                if self.tracer.curious("GTR405", state.site, 30) and loss.grad_fn is not None:
                    size = nodes_behind(loss.grad_fn)
                    first = self._sizes.setdefault(state.site.node, size)
                    said += f"; its graph has grown from {first:,} to {many(size, 'node')}"
                self.tracer.measure("GTR405", state.site, True, said, float(len(met)), "graphs", counted=True)
        return tuple(
            Carried(state.site, Thing(state.site.node, state.label), frozenset(state.keys)) for state in met.values()
        )

    # -- retained graphs ----------------------------------------------------------------------------------------------

    def _reuse(self, site: Site, fired: frozenset[Key], retains: bool) -> None:
        """Whether a graph that was retained is used again."""
        for place, (keys, used) in list(self._retained.items()):
            if not used and not keys.isdisjoint(fired):
                self._retained[place] = (keys, True)
        if not retains or not self.tracer.curious("GTR404", site, 5):
            return
        known = self._retained.get(site.node)
        if known is not None:
            said = "the graph retained before was used by " + ("1 later backward" if known[1] else "0 later backwards")
            self.tracer.measure("GTR404", site, not known[1], said, float(known[1]), "backwards")
        self._retained[site.node] = (set(fired), False)


_RULES = {
    "readout": ("GTR201",),
    "rewrap": ("GTR202",),
    "detach": ("GTR203",),
    "no_grad": ("GTR203",),
    "forced": ("GTR209",),
}
"""The rules that speak of a part which has left its graph so."""


def _at(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
