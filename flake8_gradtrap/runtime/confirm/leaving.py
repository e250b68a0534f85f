"""Values that leave the graph on their way to a loss: numbers, copies, detached tensors, and where they are added."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from flake8_gradtrap.events import GradientForced, Rewrapped, Site, Term, Thing
from flake8_gradtrap.runtime.confirm.backward import Backwards, Cut
from flake8_gradtrap.runtime.confirm.numbers import many, short
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_ADDS = frozenset({"add", "radd", "sub", "rsub", "iadd", "isub", "__add__", "__radd__", "__sub__", "__rsub__"})


class Number(float):
    """A float that was read out of a tensor, and remembers it; it behaves as the float that it is."""

    cut: Cut
    leaving: Leaving

    def __reduce__(self) -> tuple[Any, ...]:
        return (float, (float(self),))

    __reduce_ex__ = lambda self, protocol: self.__reduce__()  # noqa: E731

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        numbers: list[Number] = []
        plain = _plain((args, kwargs or {}), numbers)
        result = function(*plain[0], **plain[1])
        if numbers and isinstance(result, torch.Tensor):
            adds = getattr(function, "__name__", "") in _ADDS
            for number in numbers:
                number.leaving.enters(result, number.cut, adds)
        return result


def _plain(value: Any, numbers: list[Number]) -> Any:
    if isinstance(value, Number):
        numbers.append(value)
        return float(value)
    if type(value) in (list, tuple):
        return type(value)(_plain(part, numbers) for part in value)
    if type(value) is dict:
        return {name: _plain(part, numbers) for name, part in value.items()}
    return value


def _operator(name: str) -> Callable[..., Any]:
    plain = getattr(float, name)

    def method(self: Number, *others: Any) -> Any:
        result = plain(self, *(float(one) if type(one) is Number else one for one in others))
        return number(result, self.cut, self.leaving) if type(result) is float else result

    method.__name__ = name
    return method


for (
    _name
) in "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __neg__ __pos__ __abs__".split():
    setattr(Number, _name, _operator(_name))


def number(value: float, cut: Cut, leaving: Leaving) -> Number:
    made = Number(value)
    made.cut = cut
    made.leaving = leaving
    return made


class Leaving:
    """Follows what has left the graph, from where it left to where it is added to what is back-propagated."""

    def __init__(self, tracer: Tracer, backwards: Backwards) -> None:
        self.tracer = tracer
        self.backwards = backwards
        self._history: dict[int, tuple[bool, Any]] = {}
        """For each probe, whether the value that leaves had history, and what it is."""
        self._tags: dict[int, tuple[weakref.ref[torch.Tensor], Cut]] = {}
        """Tensors without history that were cut out of a graph."""
        self._made: dict[int, Cut] = {}
        """What a probe has cut last."""
        self._parts: dict[int, list[Cut | None]] = {}
        self._live: dict[int, list[bool | None]] = {}
        self.recent: Cut | None = None
        """What was detached last, in this step."""

    # -- leaving ------------------------------------------------------------------------------------------------------

    def source(self, probe: int, value: Any) -> None:
        """What a value is before it leaves."""
        tensors = _tensors(value)
        history = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
        self._history[probe] = (history, tensors)

    def number(self, probe: int, site: Site, how: str, value: Any) -> Any:
        """A tensor was read out."""
        history, _ = self._history.pop(probe, (False, ()))
        self.tracer.measure("GTR201", site, False, "" if history else "what was read out had no history")
        if type(value) is not float or not history:
            return value
        term = Term("readout", site, how, had_history=True)
        said = f"read out as {short(value)}: a plain number in the loss, without a gradient"
        return number(value, Cut(term, said, value, "in the loss"), self)

    def copied(self, probe: int, site: Site, how: str, forces: bool, value: Any) -> None:
        """A tensor, or numbers of some, were copied."""
        history, sources = self._history.pop(probe, (False, ()))
        if not isinstance(value, torch.Tensor):
            return
        event = sources and value.grad_fn is None
        self.tracer.measure("GTR202", site, False)
        if forces and value.grad_fn is None:
            self.forced(site, how, value)
        elif event:
            source = self.tracer.thing(sources[0]) if sources[0].requires_grad else Thing(id(sources[0]))
            made = Rewrapped(site, source, self.tracer.thing(value), how, history, len(sources) > 1)
            self.tracer.emit(made)
            if history:
                self._made[probe] = Cut(Term("rewrap", site, how, had_history=True), *_said(value))
                self.tag(value, self._made[probe])
        del sources

    def cut(self, probe: int, site: Site, how: str, value: Any) -> None:
        """A tensor was detached."""
        history, _ = self._history.pop(probe, (False, ()))
        self.tracer.measure("GTR203", site, False, "" if history else "what was detached had no history")
        if isinstance(value, torch.Tensor) and history and not value.requires_grad:
            self.recent = self._made[probe] = Cut(Term("detach", site, how, had_history=True), *_said(value))
            self.tag(value, self.recent)

    def forced(self, site: Site, how: str, value: Any) -> None:
        """`requires_grad` was put on a value."""
        if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter):
            return
        live = value.grad_fn is not None
        thing = self.tracer.thing(value)
        self.tracer.emit(GradientForced(site, thing, how, live))
        self.tracer.measure("GTR209", site, False, "its graph was alive" if live else "")
        if not live:
            self.backwards.forced[self.tracer.names.of(value)] = site

    # -- arriving -----------------------------------------------------------------------------------------------------

    def tag(self, tensor: torch.Tensor, cut: Cut) -> None:
        number = id(tensor)
        self._tags[number] = (weakref.ref(tensor, lambda _: self._tags.pop(number, None)), cut)
        if not cut.term.whole:
            whole = replace(cut, term=replace(cut.term, whole=True))
            self.backwards.cuts[self.tracer.names.of(tensor)] = (whole,)

    def tagged(self, value: Any) -> Cut | None:
        if isinstance(value, Number):
            return value.cut
        known = self._tags.get(id(value))
        return known[1] if known is not None and known[0]() is value else None

    def followed(self, inner: int, value: Any) -> Cut | None:
        """What is computed from what a probe has cut, in one expression: `torch.tensor(parts).sum()`."""
        cut = self._made.pop(inner, None)
        if cut is None or not isinstance(value, torch.Tensor) or value.requires_grad:
            return None
        if self.tagged(value) is None:
            self.tag(value, cut)
        return cut

    def part(self, probe: int, place: int, value: Any, inner: int = -1) -> None:
        """An operand of an operation; `inner`: a probe in its expression that cuts a value."""
        self._parts.setdefault(probe, [None, None])[place] = self.tagged(value) or self.followed(inner, value)
        live = value.requires_grad if isinstance(value, torch.Tensor) and value.is_floating_point() else None
        self._live.setdefault(probe, [None, None])[place] = live

    def joined(self, probe: int, site: Site, adds: bool, value: Any, upstream: bool) -> None:
        """The result of an operation."""
        cuts = [cut for cut in self._parts.pop(probe, ()) if cut is not None]
        live = self._live.pop(probe, [None, None])
        if not isinstance(value, torch.Tensor):
            return
        if not cuts and upstream and adds and self.recent is not None and sorted(map(str, live)) == ["False", "True"]:
            cuts = [self.recent]
        for cut in cuts:
            self.enters(value, cut, adds, site)

    def enters(self, result: torch.Tensor, cut: Cut, adds: bool, site: Site | None = None) -> None:
        """What was cut is a part of this now."""
        if not result.requires_grad:
            self.tag(result, cut)
        elif adds and result.grad_fn is not None and torch.is_grad_enabled():
            key = self.tracer.names.mark(result).key
            term = replace(cut.term, addend=site, whole=False)
            known = self.backwards.cuts.get(key, ())
            if all(one.term.site != term.site for one in known):
                self.backwards.cuts[key] = (*known, replace(cut, term=term))


def _said(value: torch.Tensor) -> tuple[str, float, str]:
    """What is measured of a cut part: in words, its number, and the number's unit."""
    if value.numel() == 1:
        size = float(value.detach())
        return f"a term of {short(size)} in the loss, without history: no gradient", size, "in the loss"
    said = f"{many(value.numel(), 'element')} of the loss without history: no gradient"
    return said, float(value.numel()), "elements"


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
