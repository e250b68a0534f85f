"""Whose gradients are what: the state of every optimizer's gradients, followed through a real run.

Nothing is taken on trust: before each event the gradients are looked at, so that what a program does to them by hand
(`p.grad = None`, `p.grad.zero_()`, a division) is noticed, too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from flake8_gradtrap.events import Cleared, Clipped, OptimizerMade, Site, Stepped, Thing
from flake8_gradtrap.runtime.confirm import windows
from flake8_gradtrap.runtime.confirm.identity import Key
from flake8_gradtrap.runtime.confirm.numbers import many, norm_of, short
from flake8_gradtrap.runtime.confirm.places import Place, argument, receiver
from flake8_gradtrap.runtime.confirm.tracer import Tracer


class Parameter:
    """What is known of the gradient of a parameter.

    `seen`: what it was at the last look. `filled`: a backward has added to it, and no step has used that. `applied`: a
    step has used it, and nothing has cleared it. `scaled`: the scaler whose scale it is multiplied by.
    """

    __slots__ = ("applied", "filled", "key", "reference", "scaled", "seen")

    def __init__(self, tensor: torch.Tensor, key: Key) -> None:
        self.key = key
        self.reference = weakref.ref(tensor)
        gradient = tensor.grad
        self.seen = None if gradient is None else (id(gradient), gradient._version)
        self.filled = False
        self.applied = False
        self.scaled: Key | None = None

    @property
    def gradient(self) -> torch.Tensor | None:
        tensor = self.reference()
        return None if tensor is None else tensor.grad


class Optimizer:
    """An optimizer of the program, and what has become of its gradients since its last step.

    `wiped`: where filled gradients were cleared; `cleared`: where any were. `clips`: sites of clips since that limited
    nothing for a step to come, with what they saw. `window`: its backwards.
    """

    def __init__(self, optimizer: Any, key: Key, site: Site | None, label: str) -> None:
        self.key = key
        self.reference = weakref.ref(optimizer)
        self.site = site
        self.label = label
        self.steps = 0
        self.before = 0
        """Steps of those that were made at the same place for the same parameters."""
        self.parameters: list[Parameter] = []
        self.owners: frozenset[Key] = frozenset()
        self.wiped: Site | None = None
        self.cleared: Site | None = None
        self.clips: list[tuple[Site, str, float]] = []
        self.window = windows.Window()
        self.schedules = 0
        self.blurred = False
        """Events since its last step were not seen."""

    @property
    def thing(self) -> Thing:
        return Thing(self.key, self.label)


class Gradients:
    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.parameters: dict[Key, Parameter] = {}
        self.optimizers: dict[int, Optimizer] = {}
        self.scalers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.listeners: list[Callable[[frozenset[Key]], None]] = []
        """Called with the owners when an optimizer is about to step."""
        tracer.surprises.append(self.blur)

    # -- optimizers ---------------------------------------------------------------------------------------------------

    def meet(self, optimizer: Any, site: Site) -> None:
        """An optimizer was made."""
        before = [one for one in self.optimizers.values() if one.site is not None and one.site.node == site.node]
        known = self._add(optimizer, site)
        same = [one for one in before if one.owners == known.owners]
        stateful = not (type(optimizer) is torch.optim.SGD and not optimizer.defaults.get("momentum"))
        name = type(optimizer).__name__
        self.tracer.emit(OptimizerMade(site, known.thing, known.owners, bool(same) or None, stateful, name))
        known.before = max((one.before + one.steps for one in same), default=0)
        lived = max((one.steps for one in same), default=0)
        said = f"made {many(len(same) + 1, 'time')}; the state of the last one lived for {many(lived, 'step')}"
        self.tracer.measure("GTR508", site, bool(same) and stateful, said, float(lived), "steps")

    def enough(self, optimizer: Any) -> bool:
        """Whether an optimizer has taken all the steps that were asked for."""
        known = self.known(optimizer)
        return bool(self.tracer.limit) and known.before + known.steps >= self.tracer.limit

    def known(self, optimizer: Any) -> Optimizer:
        """What is known of an optimizer, also of one that was not seen being made."""
        known = self.optimizers.get(id(optimizer))
        if known is None or known.reference() is not optimizer:
            known = self._add(optimizer, None)
        if sum(len(group["params"]) for group in optimizer.param_groups) != len(known.parameters):
            self._fill(known, optimizer)
        return known

    def _add(self, optimizer: Any, site: Site | None) -> Optimizer:
        known = Optimizer(optimizer, self.tracer.names.of(optimizer), site, "")
        self.optimizers[id(optimizer)] = known
        self._fill(known, optimizer)
        return known

    def _fill(self, known: Optimizer, optimizer: Any) -> None:
        known.parameters = []
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                key = self.tracer.names.of(tensor)
                if key not in self.parameters:
                    self.parameters[key] = Parameter(tensor, key)
                known.parameters.append(self.parameters[key])
        known.owners = frozenset(parameter.key for parameter in known.parameters)

    def of(self, parameters: Iterable[Parameter]) -> list[Optimizer]:
        """The optimizers that own any of these."""
        keys = {parameter.key for parameter in parameters}
        return [one for one in self.optimizers.values() if not keys.isdisjoint(one.owners)]

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self) -> list[tuple[Parameter, Any]]:
        """The parameters whose gradient is not what it was at the last look, with what it was."""
        changed = []
        for parameter in self.parameters.values():
            tensor = parameter.reference()
            gradient = tensor.grad if tensor is not None else None
            now = None if gradient is None else (id(gradient), gradient._version)
            if now != parameter.seen:
                changed.append((parameter, parameter.seen))
                parameter.seen = now
        return changed

    noted = look
    """What has just changed is known."""

    def notice(self, site: Site | None = None) -> None:
        """See what the program has done to gradients by its own hand, and say it."""
        changed = self.look()
        if not changed or site is None:
            return
        gone = [parameter for parameter, before in changed if parameter.seen is None]
        written = [parameter for parameter, before in changed if parameter.seen is not None and before is not None]
        if written:
            gradient = written[0].gradient
            if gradient is not None and not bool(gradient.detach().abs().sum()):
                gone += written
            else:
                owners = frozenset(parameter.key for parameter in written)
                for one in self.of(written):
                    one.window.rewritten = True
                for parameter in written:
                    parameter.scaled = None
                event = Clipped(site, Thing(owners), "`p.grad.mul_`", owners, rescales=True)
                self.tracer.emit(event)
        if gone:
            self._forget(gone, site)
            self.tracer.emit(Cleared(site, None, frozenset(parameter.key for parameter in gone)))

    def norm(self, parameters: Iterable[Parameter]) -> float:
        return norm_of(parameter.gradient for parameter in parameters)

    # -- clearing -----------------------------------------------------------------------------------------------------

    def clear(self, site: Site | None, optimizer: Any, tensors: Iterable[torch.Tensor] = ()) -> None:
        """`zero_grad` is about to clear gradients."""
        self.notice(site)
        if optimizer is not None:
            known = self.known(optimizer)
            cleared = known.parameters
            if site is not None:
                known.label = receiver(site.node) or known.label
                self.tracer.emit(Cleared(site, known.thing, known.owners))
        else:
            keys = [self.tracer.names.known(tensor) for tensor in tensors]
            cleared = [self.parameters[key] for key in keys if key is not None and key in self.parameters]
            if site is not None:
                self.tracer.emit(Cleared(site, None, frozenset(parameter.key for parameter in cleared)))
        self._forget(cleared, site)

    def _forget(self, cleared: list[Parameter], site: Site | None) -> None:
        for one in self.of(cleared):
            if any(parameter.filled for parameter in one.parameters):
                one.wiped = site
            one.cleared = site
            one.window.cleared(site)
            for clip, said, seen in one.clips:
                self.tracer.measure("GTR302", clip, True, said, seen, "gradients")
            one.clips.clear()
        for parameter in cleared:
            parameter.filled = parameter.applied = False
            parameter.scaled = None

    # -- scaling ------------------------------------------------------------------------------------------------------

    def unscaled(self, known: Optimizer) -> None:
        for parameter in known.parameters:
            parameter.scaled = None
        self.look()

    def scale_of(self, key: Key | None) -> float:
        for scaler in self.scalers:
            if self.tracer.names.of(scaler) is key:
                return float(scaler.get_scale())
        return 1.0

    def scaler_updates(self, scaler: Any, site: Site) -> None:
        if any(one.blurred for one in self.optimizers.values()):
            return
        key = self.tracer.names.of(scaler)
        left = [one for one in self.parameters.values() if one.scaled is key and one.seen is not None]
        said = f"{many(len(left), 'gradient')} still multiplied by the loss scale of {short(self.scale_of(key))}"
        self.tracer.measure("GTR306", site, bool(left), said, float(len(left)), "gradients")

    # -- clipping -----------------------------------------------------------------------------------------------------

    def clip(self, site: Site, tensors: list[torch.Tensor], by: str, norm: Any) -> None:
        """Measure what a clip sees."""
        tracer = self.tracer
        keys = [tracer.names.known(tensor) for tensor in tensors]
        clipped = [self.parameters[key] for key in keys if key is not None and key in self.parameters]
        present = [tensor for tensor in tensors if tensor.grad is not None]
        if isinstance(site.node, Place) and site.node.statement not in tracer.consumed:
            said = f"the clip saw {many(len(tensors), 'parameter')}"
            tracer.measure("GTR101", site, not tensors, said, float(len(tensors)), "items")
        if not tensors:
            for code in ("GTR301", "GTR302", "GTR308"):
                tracer.unknown(code, site, "the clip saw no parameters")
            return
        owning = self.of(clipped)
        if any(one.blurred for one in owning):
            return
        scaled = next((parameter.scaled for parameter in clipped if parameter.scaled is not None), None)
        saw = ""
        value = None
        if tracer.curious("GTR301", site) and present:
            value = float(norm) if norm is not None else norm_of(tensor.grad for tensor in present)
            saw = f"the clip saw a norm of {short(value)}"
            if scaled is not None:
                scale = self.scale_of(scaled)
                saw += f", the true one is {short(value / scale)} (loss scale {short(scale)})"
        tracer.measure("GTR301", site, scaled is not None, saw, value, "norm")
        waiting = [parameter for parameter in clipped if parameter.filled]
        found = f"the clip saw {len(present)} of {many(len(tensors), 'gradient')}"
        for one in owning:
            one.window.clips += 1
            if waiting:
                tracer.measure("GTR302", site, False, found, float(len(present)), "gradients")
            elif not present:
                tracer.measure("GTR302", site, True, found, 0.0, "gradients")
            else:
                said = found + ", all of them applied by a step before"
                one.clips.append((site, said, float(len(present))))

    # -- stepping -----------------------------------------------------------------------------------------------------

    def step(self, optimizer: Any, site: Site | None, scaler: Any, closure: bool) -> None:
        """An optimizer is about to step: by itself, or through a scaler."""
        self.notice(site)
        known = self.known(optimizer)
        if site is None:
            return
        place = site.node
        label = argument(place) if scaler is not None else receiver(place)
        known.label = label or known.label
        thing = None
        if scaler is not None:
            thing = self.tracer.thing(scaler, receiver(place))
        if known.site is None:  # made where it was not seen: it is new to the monitors
            known.site = site
        self.tracer.emit(Stepped(site, known.thing, known.owners, thing, closure))
        for listener in self.listeners:
            listener(known.owners)
        if not closure and not known.blurred:
            self._judge(optimizer, known, site, scaler)

    def _judge(self, optimizer: Any, known: Optimizer, site: Site, scaler: Any) -> None:
        tracer = self.tracer
        count = len(known.parameters)
        present = [parameter for parameter in known.parameters if parameter.seen is not None]
        scaled = [parameter for parameter in present if parameter.scaled is not None]
        if scaler is None:
            said, norm = "", None
            if tracer.curious("GTR305", site) and present:
                norm = self.norm(present)
                said = f"the step used a gradient of norm {short(norm)}"
                if scaled:
                    scale = self.scale_of(scaled[0].scaled)
                    said += f", the true one is {short(norm / scale)} (loss scale {short(scale)})"
            tracer.measure("GTR305", site, bool(scaled), said, norm, "norm")
        else:
            state = scaler._per_optimizer_states.get(id(optimizer), {})
            stage = getattr(state.get("stage"), "name", "READY")
            bare = [parameter for parameter in present if parameter.filled and parameter.scaled is None]
            wrong = stage == "READY" and bool(bare) and scaler in self.scalers
            said = f"{len(bare)} of {many(len(present), 'gradient')} never scaled, and divided by the loss scale"
            tracer.measure("GTR305", site, wrong, said, float(len(bare)), "gradients")
            twice = stage == "STEPPED"
            said = "a second step of the scaler with no update between" if twice else "one step an update"
            tracer.measure("GTR306", site, twice, said, 2.0 if twice else 1.0, "steps")
        found = f"the step found {len(present)} of {many(count, 'gradient')}"
        if known.wiped is not None:
            tracer.measure("GTR502", known.wiped, not present, found, float(len(present)), "gradients")
        elif known.cleared is not None:
            tracer.measure("GTR502", known.cleared, False, found, float(len(present)), "gradients")
        tracer.measure("GTR509", site, not present, found, float(len(present)), "gradients")
        for clip, clipped, seen in known.clips:
            tracer.measure("GTR302", clip, False, clipped, seen, "gradients")
        known.clips.clear()
        known.window.judge(tracer)

    def stepped(self, optimizer: Any) -> None:
        known = self.known(optimizer)
        known.steps += 1
        if self.tracer.active:
            self.look()
            self._fresh(known)
        if self.tracer.stepped(known.before + known.steps):
            self.blur(known)
            self._fresh(known)

    def _fresh(self, known: Optimizer) -> None:
        """An optimizer has stepped: nothing waits for its next step."""
        known.blurred = False
        known.wiped = known.cleared = None
        known.window = windows.Window()
        for parameter in known.parameters:
            parameter.filled = False
            parameter.applied = parameter.seen is not None

    def blur(self, stepped: Optimizer | None = None) -> None:
        """The recording begins again: of what happened since the last step of each optimizer nothing is known.

        `stepped`: the one that has stepped just now.
        """
        self.look()
        for parameter in self.parameters.values():
            parameter.filled = parameter.applied = False
            parameter.scaled = None
        for one in self.optimizers.values():
            one.blurred = True
            one.wiped = one.cleared = None
            one.window = windows.Window()
            one.clips.clear()
        others = frozenset(self.parameters) - (stepped.owners if stepped is not None else frozenset())
        self.tracer.emit(Cleared(Site(Place("", 0)), None, others))  # what cannot be seen counts as cleared

    # -- schedules ----------------------------------------------------------------------------------------------------

    def scheduled(self, known: Optimizer, scheduler: Any, site: Site) -> None:
        known.schedules += 1
        said = f"{many(known.schedules, 'step')} of the scheduler, {many(known.steps, 'step')} of its optimizer"
        early = known.steps == 0
        self.tracer.measure("GTR504", site, early, said, float(known.steps), "steps of the optimizer")
