"""Modules in a real run: their modes, their calls, their states, and what they are made of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from flake8_gradtrap.events import (
    Attribute,
    AttributeSet,
    ClassEnded,
    Computed,
    Constructed,
    Forwarded,
    ModeSet,
    Part,
    Registered,
    Site,
    StateTaken,
    StateUsed,
    Thing,
)
from flake8_gradtrap.runtime.confirm.gradients import Gradients
from flake8_gradtrap.runtime.confirm.numbers import many, nodes_behind
from flake8_gradtrap.runtime.confirm.patching import Patching
from flake8_gradtrap.runtime.confirm.places import Place, here, receiver
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_BEHAVES = ("Dropout", "BatchNorm", "InstanceNorm")


class Modules(Patching):
    def __init__(self, tracer: Tracer, gradients: Gradients) -> None:
        super().__init__(tracer)
        self.gradients = gradients
        self._depth = 0
        self._parts: dict[int, tuple[weakref.ref[nn.Module], frozenset[Any]]] = {}
        self._evaluating: dict[int, tuple[weakref.ref[nn.Module], Site]] = {}
        self._callees: list[tuple[int, weakref.ref[nn.Module]]] = []
        self._states: dict[int, State] = {}
        self._steps = 0
        self._whole: dict[tuple[int, str], tuple[Thing, Site, Attribute]] = {}
        """What containers of modules held when they were last seen."""
        self._holders: list[tuple[weakref.ref[nn.Module], str, str, Site]] = []

    def install(self) -> None:
        self._around(nn.Module, "train", self._train, always=True)
        self._around(nn.Module, "load_state_dict", self._load, always=True)
        self._around(torch, "save", self._save, always=True)
        self.gradients.listeners.append(self.stepped)

    # -- modes --------------------------------------------------------------------------------------------------------

    def _train(self, call: Callable[..., Any], module: nn.Module, mode: bool = True) -> Any:
        self._depth += 1
        try:
            result = call(module, mode)
        finally:
            self._depth -= 1
        site = self.tracer.site(here()) if self._depth == 0 else None
        if site is not None:
            thing = self.tracer.thing(module, receiver(site.node))
            self.tracer.emit(ModeSet(site, thing, bool(mode), self.parts(module)))
            self._evaluating.pop(id(module), None)
            if not mode:
                self._evaluating[id(module)] = (weakref.ref(module), site)
        return result

    def parts(self, module: nn.Module) -> frozenset[Any]:
        """A module, its modules and its parameters."""
        known = self._parts.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        of = self.tracer.names.of
        found = frozenset({*(of(part) for part in module.modules()), *(of(one) for one in module.parameters())})
        self._parts[id(module)] = (weakref.ref(module), found)
        return found

    def stepped(self, owners: frozenset[Any]) -> None:
        """An optimizer steps: whatever of its modules is in evaluation mode is trained in it."""
        self._steps += 1
        if self._steps in (1, 5, 20):
            self.inspect()
        for number, (reference, site) in list(self._evaluating.items()):
            module = reference()
            if module is None:
                del self._evaluating[number]
                continue
            if owners.isdisjoint(self.parts(module)):
                continue
            asleep = [part for part in module.modules() if not part.training and behaves(part)]
            said = f"{many(len(asleep), 'module')} with another behaviour in evaluation mode while the optimizer steps"
            place: Site | None = site
            while place is not None:
                self.tracer.measure("GTR602", place, bool(asleep), said, float(len(asleep)), "modules")
                place = place.caller

    # -- calls --------------------------------------------------------------------------------------------------------

    def callee(self, probe: int, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._callees.append((probe, weakref.ref(value)))

    def waiting(self, probe: int) -> bool:
        """Whether the call of a module is under way at a probe."""
        return any(number == probe for number, _ in self._callees)

    def output(self, probe: int, site: Site, label: str, function: str, definition: int, value: Any) -> None:
        module = None
        while self._callees and module is None:
            number, reference = self._callees.pop()
            module = reference() if number == probe else None
        if module is None:
            return
        tensors = [one for one in _tensors(value) if one.grad_fn is not None][:4]
        keys = frozenset(self.tracer.names.mark(one).key for one in tensors)
        recorded = torch.is_grad_enabled()
        home = Site(Place(site.node.file, definition), site.caller) if isinstance(site.node, Place) else None
        thing = self.tracer.thing(module, label)
        event = Forwarded(site, thing, keys, recorded, (), function, home)
        self.tracer.emit(event)
        if not module.training:
            said, nodes = "" if tensors else "evaluated with gradients off: 0 nodes recorded", 0
            if tensors and self.tracer.curious("GTR601", site):
                nodes = nodes_behind(tensors[0].grad_fn)
                said = f"a graph of {many(nodes, 'node')} recorded in evaluation mode"
            self.tracer.measure("GTR601", site, bool(tensors), said, float(nodes), "nodes")

    # -- states -------------------------------------------------------------------------------------------------------

    def state_taken(self, site: Site, label: str, value: Any) -> None:
        if isinstance(value, list | tuple):  # `best, kept = score, model.state_dict()`
            for part in value:
                self.state_taken(site, label, part)
        if not isinstance(value, Mapping):
            return
        tensors = [one for one in value.values() if isinstance(one, torch.Tensor)]
        memory = {one.data_ptr() for one in tensors if one.numel()}
        shared = []
        for parameter in self.gradients.parameters.values():
            tensor = parameter.reference()
            if tensor is not None and tensor.numel() and tensor.data_ptr() in memory:
                shared.append(parameter)
        owners = frozenset(parameter.key for parameter in shared)
        thing = Thing(("state", site.node), label)
        self._states[id(value)] = State(thing, site, tensors, len(shared))
        if owners:
            self.tracer.emit(StateTaken(site, thing, owners))
        else:
            self.tracer.measure("GTR710", site, False, "the state shares no memory with what is trained")

    def _used(self, value: Any, how: str, site: Site | None) -> None:
        state = self._states.get(id(value))
        if state is None or site is None or not state.is_of(value):
            return
        changed = state.changed()
        said = f"{state.shared} of {many(len(state.tensors), 'tensor')} share memory with the model"
        said += ", and training has changed them since" if changed else ", and nothing has changed them since"
        if state.shared and not changed:  # the last step was the best one: another run may end otherwise
            self.tracer.unknown("GTR710", state.site, said)
        else:
            self.tracer.measure("GTR710", state.site, bool(state.shared), said, float(state.shared), "tensors")
        self.tracer.emit(StateUsed(site, state.thing, how))

    def _load(self, call: Callable[..., Any], module: nn.Module, state: Any, *args: Any, **kwargs: Any) -> Any:
        self._used(state, "load", self.tracer.site(here()))
        return call(module, state, *args, **kwargs)

    def _save(self, call: Callable[..., Any], value: Any, *args: Any, **kwargs: Any) -> Any:
        site = self.tracer.site(here())
        for one in (value, *(value.values() if isinstance(value, dict) else ())):
            self._used(one, "save", site)
        return call(value, *args, **kwargs)

    # -- what modules are made of -------------------------------------------------------------------------------------

    def attribute(self, site: Site, label: str, name: str, holder: Any) -> None:
        """An attribute of a module was assigned where a finding is."""
        if not isinstance(holder, nn.Module):
            return
        value = getattr(holder, name, None)
        thing = self.tracer.thing(holder, label)
        if isinstance(value, list | tuple | dict):
            attribute = self._describe(name, value)
            self.tracer.emit(AttributeSet(site, thing, attribute))
            self._holders.append((weakref.ref(holder), name, "GTR701", site))
        elif isinstance(value, nn.Parameter | nn.Module):
            kind = "module" if isinstance(value, nn.Module) else "parameter"
            part = Part(self.tracer.thing(value), kind, True, site=site)
            self.tracer.emit(AttributeSet(site, thing, Attribute(name, part.thing, kind, (part,))))
            for code in ("GTR701", "GTR702"):
                self.tracer.measure(code, site, False, f"`{label}.{name}` is registered")
        elif isinstance(value, torch.Tensor):
            leaf = _leaf(value)
            if leaf is None:
                self.tracer.measure("GTR702", site, False, f"`{label}.{name}` was not computed from a Parameter")
                return
            made = Thing(self.tracer.names.of(leaf))
            computed = Computed(made, "what stands there", site, site)
            attribute = Attribute(name, Thing(("value", site.node), name), "tensor")
            self.tracer.emit(AttributeSet(site, thing, attribute, computed=computed))
            self._holders.append((weakref.ref(holder), name, "GTR702", site))

    def _describe(self, name: str, value: Any) -> Attribute:
        kind = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "dict"
        found = [part for part in _flat(value) if isinstance(part, nn.Module | nn.Parameter)]
        parts = tuple(
            Part(
                Thing(self.tracer.names.of(part), type(part).__name__),
                "module" if isinstance(part, nn.Module) else "parameter",
                any(one.requires_grad for one in _parameters(part)),
                not any(one.requires_grad for one in _parameters(part)),
            )
            for part in found
        )
        return Attribute(name, Thing(("value", name, id(value))), kind, parts, count=len(value))

    def inspect(self) -> None:
        """See which parts of modules are registered, or trained in another way."""
        for reference, name, code, site in self._holders:
            holder = reference()
            if holder is None:
                continue
            value = getattr(holder, name, None)
            parts = list(_flat(value)) if code == "GTR701" else [one for one in (_leaf(value),) if one is not None]
            inside = [one for part in parts for one in _parameters(part)]
            trained = {id(one) for one in holder.parameters()}
            for optimizer in self.gradients.optimizers.values():
                made = optimizer.reference()
                if made is not None:
                    trained |= {id(one) for group in made.param_groups for one in group["params"]}
            missing = [one for one in inside if one.requires_grad and id(one) not in trained]
            reached = sum(one.grad is not None for one in missing)
            said = f"{many(len(missing), 'Parameter')} in no `parameters()` and in no optimizer"
            said += f"; a gradient reached {reached} of them, and none was ever trained" if missing else ""
            self.tracer.measure(code, site, bool(missing), said, float(len(missing)), "parameters")
            present = [part for part in parts if all(id(one) in trained for one in _parameters(part))]
            registered = tuple(Part(Thing(self.tracer.names.of(part)), "module") for part in present)
            self.tracer.emit(Registered(site, registered))
            if code == "GTR701" and isinstance(value, list | tuple | dict):
                self._whole[id(holder), name] = (self.tracer.thing(holder, "self"), site, self._describe(name, value))

    def finish(self) -> None:
        """The run is over: what modules held last is what they are made of."""
        self.inspect()
        for thing, site, attribute in self._whole.values():
            self.tracer.emit(Constructed(site, thing, thing.label, (attribute,)))
            self.tracer.emit(ClassEnded(site, thing, thing.label))


class State:
    """A state dict that the program keeps; its tensors are held weakly."""

    def __init__(self, thing: Thing, site: Site, tensors: list[torch.Tensor], shared: int) -> None:
        self.thing = thing
        self.site = site
        self.shared = shared
        self.tensors = [weakref.ref(one) for one in tensors]
        self._versions = [one._version for one in tensors]

    def is_of(self, value: Any) -> bool:
        """Whether a mapping is the one that was taken, and no other with its identity."""
        if not isinstance(value, Mapping):
            return False
        held = {id(one) for one in value.values()}
        first = self.tensors[0]() if self.tensors else None
        return first is not None and id(first) in held

    def changed(self) -> bool:
        alive = zip((one() for one in self.tensors), self._versions, strict=True)
        return any(one is not None and one._version != before for one, before in alive)


def behaves(module: nn.Module) -> bool:
    """Whether a module by itself does something else in evaluation mode."""
    name = type(module).__name__
    if any(part in name for part in _BEHAVES):
        return getattr(module, "p", 1) != 0
    if isinstance(getattr(module, "dropout", None), float):
        return bool(module.dropout)
    forward = getattr(type(module), "forward", None)
    return "training" in getattr(getattr(forward, "__code__", None), "co_names", ()) and not name.startswith(
        "Multihead"
    )


def _leaf(value: Any) -> torch.Tensor | None:
    """The Parameter from which a tensor was computed, by a few operations."""
    node = value.grad_fn if isinstance(value, torch.Tensor) else None
    for _ in range(6):
        if node is None:
            return None
        variable = getattr(node, "variable", None)
        if variable is not None:
            return variable if isinstance(variable, nn.Parameter) else None
        node = next((parent for parent, _ in node.next_functions if parent is not None), None)
    return None


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _flat(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, nn.Module | nn.Parameter):
        yield value


def _parameters(part: Any) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
