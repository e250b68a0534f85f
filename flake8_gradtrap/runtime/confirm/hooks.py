"""Hooks in torch: what optimizers, scalers, clips and backwards do, wherever the program calls them.

torch's own functions are replaced where they lie deepest, so that names which a program has imported meet them, too,
and the frames between a program and its warnings stay as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from flake8_gradtrap.events import (
    Clipped,
    ScalerMade,
    ScalerUpdated,
    SchedulerStepped,
    Site,
    Thing,
    Unscaled,
)
from flake8_gradtrap.runtime.confirm.backward import Backwards
from flake8_gradtrap.runtime.confirm.gradients import Gradients, Optimizer
from flake8_gradtrap.runtime.confirm.patching import Patching
from flake8_gradtrap.runtime.confirm.places import argument, here, receiver
from flake8_gradtrap.runtime.confirm.tracer import Tracer


class Hooks(Patching):
    """Installs the hooks, and takes them away."""

    def __init__(self, tracer: Tracer, gradients: Gradients, backwards: Backwards) -> None:
        super().__init__(tracer)
        self.gradients = gradients
        self.backwards = backwards
        self._inside = 0
        """How deep the run is in calls of torch that themselves do what is hooked."""
        self._step: tuple[int, int] | None = None
        """The step that is running: its optimizer, and the frame of the program that called it."""
        self._schedule = 0
        self.notes: set[str] = set()
        """What the report has to say of the run as a whole."""

    def install(self) -> None:
        from torch.optim.optimizer import (
            register_optimizer_step_post_hook,
            register_optimizer_step_pre_hook,
        )

        self._undo.append(register_optimizer_step_pre_hook(self._before_step).remove)
        self._undo.append(register_optimizer_step_post_hook(self._after_step).remove)
        self._around(torch.optim.Optimizer, "__init__", self._optimizer_made, always=True)
        self._around(torch.optim.Optimizer, "zero_grad", self._zero_grad)
        self._around(torch.nn.Module, "zero_grad", self._module_zero_grad)
        scaler = torch.amp.GradScaler
        self._around(scaler, "__init__", self._scaler_made, always=True)
        self._around(scaler, "scale", self._scale)
        self._around(scaler, "unscale_", self._unscale)
        self._around(scaler, "step", self._scaler_step)
        self._around(scaler, "update", self._scaler_update)
        clip = importlib.import_module("torch.nn.utils.clip_grad")  # its package hides it behind a function
        if hasattr(clip, "_clip_grads_with_norm_"):
            self._around(clip, "_clip_grads_with_norm_", self._clip_norm)
        self._around(clip, "clip_grad_value_", self._clip_value)
        torch.nn.utils.clip_grad_value_ = clip.clip_grad_value_
        engine = torch.autograd
        if hasattr(engine, "_engine_run_backward"):
            self._around(engine, "_engine_run_backward", self.backwards.run)
        scheduler = torch.optim.lr_scheduler.LRScheduler
        self._around(scheduler, "_initial_step", self._schedule_begins)
        if hasattr(scheduler, "_update_lr"):
            self._around(scheduler, "_update_lr", self._scheduled)

        self._around(torch, "compile", self._compiled)
        self._around(torch.nn.Module, "compile", self._compiled)

    def _compiled(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.notes.add("torch.compile was switched off: what it compiles ran eagerly")
        return call(*args, **kwargs)

    # -- optimizers ---------------------------------------------------------------------------------------------------

    def _optimizer_made(self, call: Callable[..., Any], optimizer: Any, *args: Any, **kwargs: Any) -> None:
        call(optimizer, *args, **kwargs)
        site = self.tracer.site(here())
        if site is not None:
            self.gradients.meet(optimizer, site)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        tracer = self.tracer
        if not tracer.here:
            return
        if not tracer.active and self._step is None and tracer.steps < (tracer.limit or tracer.steps + 1):
            self._step = (id(optimizer), 0)
            if not tracer.where.fresh(here()) or not tracer.surprise():
                return
        frames = tracer.where.frames(here())
        outer = self._step
        if outer is not None and outer[0] == id(optimizer) and any(id(frame) == outer[1] for frame in frames):
            return  # `super().step()`
        if self.gradients.enough(optimizer):
            self.tracer.end("steps")
        self._step = (id(optimizer), id(frames[0]) if frames else 0)
        if not self._inside and tracer.active:
            site = self.tracer.site(frames[0] if frames else None)
            closure = (len(args) > 1 and args[1] is not None) or kwargs.get("closure") is not None
            self.gradients.step(optimizer, site, None, closure)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._step is None or self._step[0] != id(optimizer) or not self.tracer.here:
            return
        if self._step[1]:
            frames = self.tracer.where.frames(here())
            if frames and id(frames[0]) != self._step[1]:
                return
        self._step = None
        self.gradients.stepped(optimizer)

    def _zero_grad(self, call: Callable[..., Any], optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.gradients.clear(self.tracer.site(here()), optimizer)
        call(optimizer, *args, **kwargs)
        self.gradients.noted()

    def _module_zero_grad(self, call: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> None:
        self.gradients.clear(self.tracer.site(here()), None, module.parameters())
        call(module, *args, **kwargs)
        self.gradients.noted()

    # -- scalers ------------------------------------------------------------------------------------------------------

    def _scaler_made(self, call: Callable[..., Any], scaler: Any, *args: Any, **kwargs: Any) -> None:
        call(scaler, *args, **kwargs)
        site = self.tracer.site(here())
        if site is not None and scaler.is_enabled():
            self.tracer.emit(ScalerMade(site, self.tracer.thing(scaler)))

    def _scale(self, call: Callable[..., Any], scaler: Any, outputs: Any) -> Any:
        result = call(scaler, outputs)
        if scaler.is_enabled():
            self.gradients.scalers.add(scaler)
            for tensor in (result,) if isinstance(result, torch.Tensor) else _tensors(result):
                if tensor.grad_fn is not None:
                    self.tracer.names.mark(tensor).scaler = self.tracer.names.of(scaler)
        return result

    def _unscale(self, call: Callable[..., Any], scaler: Any, optimizer: Any) -> None:
        call(scaler, optimizer)
        if not self._inside and scaler.is_enabled():
            site = self.tracer.site(here())
            known = self.gradients.known(optimizer)
            self.gradients.unscaled(known)
            if site is not None:
                thing = Thing(known.key, argument_of(site, known))
                self.tracer.emit(Unscaled(site, self.scaler(scaler, site), thing, known.owners))

    def _scaler_step(self, call: Callable[..., Any], scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not scaler.is_enabled():
            return call(scaler, optimizer, *args, **kwargs)
        site = self.tracer.site(here())
        if self.gradients.enough(optimizer):
            self.tracer.end("steps")
        self.gradients.step(optimizer, site, scaler, False)
        self._inside += 1
        try:
            result = call(scaler, optimizer, *args, **kwargs)
        finally:
            self._inside -= 1
        self.gradients.unscaled(self.gradients.known(optimizer))
        return result

    def _scaler_update(self, call: Callable[..., Any], scaler: Any, *args: Any, **kwargs: Any) -> None:
        site = self.tracer.site(here())
        if scaler.is_enabled() and site is not None:
            self.gradients.scaler_updates(scaler, site)
            explicit = bool(args) or kwargs.get("new_scale") is not None
            self.tracer.emit(ScalerUpdated(site, self.scaler(scaler, site), explicit))
        call(scaler, *args, **kwargs)

    def scaler(self, scaler: Any, site: Site) -> Thing:
        return self.tracer.thing(scaler, receiver(site.node))

    # -- clips --------------------------------------------------------------------------------------------------------

    def _clip_norm(self, call: Callable[..., Any], parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor | list | tuple):
            parameters = list(parameters)
        norm = args[1] if len(args) > 1 else kwargs.get("total_norm")
        self._clipped(here(), parameters, "clip_grad_norm_", norm)
        result = call(parameters, *args, **kwargs)
        self.gradients.noted()
        return result

    def _clip_value(self, call: Callable[..., Any], parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor | list | tuple):
            parameters = list(parameters)
        self._clipped(here(), parameters, "clip_grad_value_", None)
        result = call(parameters, *args, **kwargs)
        self.gradients.noted()
        return result

    def _clipped(self, frame: FrameType, parameters: Any, by: str, norm: Any) -> None:
        site = self.tracer.site(frame)
        if site is None:
            return
        clipped = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        self.gradients.notice()
        owners = frozenset(self.tracer.names.of(parameter) for parameter in clipped)
        target = Thing(owners, argument(site.node))
        self.gradients.clip(site, clipped, by, norm)
        if owners:
            self.tracer.emit(Clipped(site, target, f"`{by}`", owners, own=True))

    # -- schedulers ---------------------------------------------------------------------------------------------------

    def _schedule_begins(self, call: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> None:
        self._schedule += 1
        try:
            call(scheduler, *args, **kwargs)
        finally:
            self._schedule -= 1

    def _scheduled(self, call: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        site = None if self._schedule else self.tracer.site(here())
        if site is not None:
            known = self.gradients.known(scheduler.optimizer)
            self.gradients.scheduled(known, scheduler, site)
            given = (bool(args) and args[0] is not None) or kwargs.get("epoch") is not None
            label = receiver(site.node)
            optimizer = Thing(known.key, known.label)
            name = type(scheduler).__name__
            self.tracer.emit(SchedulerStepped(site, self.tracer.thing(scheduler, label), optimizer, name, given))
        return call(scheduler, *args, **kwargs)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, torch.Tensor) else []


def argument_of(site: Site, known: Optimizer) -> str:
    """What the program calls an optimizer that it hands to `unscale_` or `scaler.step`."""
    return argument(site.node) or known.label
