"""`watch`: what the steps of a training loop do to the gradients and the parameters, measured while it runs.

Nothing of the loop is changed: the watch hangs on the optimizers' step hooks. Every step costs one norm of each
gradient; the rest (activations, updates, graphs held, coverage) is looked at in every `every`-th step only.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flake8_gradtrap.runtime import clip_probe, reporting
from flake8_gradtrap.runtime.clipping import Static, Threshold, percentile
from flake8_gradtrap.runtime.norms import Mailbox, dense, norms, total
from flake8_gradtrap.runtime.probes import GraphCount, LeftOver, Looks, compiled
from flake8_gradtrap.runtime.records import Group, Records

UPDATE_ELEMENTS = 4_000_000
"""So many elements of a group's parameters are copied to see how far a step moves them."""

_watches: weakref.WeakKeyDictionary[nn.Module, Watch] = weakref.WeakKeyDictionary()


def watch(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    scaler: Any = None,
    *,
    every: int = 20,
    clip: float | Threshold | None = None,
    activations: bool = True,
) -> Watch:
    """Watch a training loop: use it as a context manager, or call `close()`.

    `scaler`: the loop's `GradScaler`, if it has one. `every`: how often what is costly is looked at, in steps. `clip`:
    also clip, each parameter group for itself: a norm, or `Static(...)` or `Dynamic(...)`. `activations`: look at the
    outputs of the modules, too. A model that is watched already, with the same optimizers, gives the same watch.
    Raises ValueError if it is watched with others, TypeError for what is no model or optimizer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for one in optimizers:
        if not isinstance(one, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or several, not {type(one).__name__}")
    if not optimizers:
        raise ValueError("there is no optimizer to watch")
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    known = _watches.get(model)
    if known is not None:
        if [id(one) for one in known.optimizers] != [id(one) for one in optimizers]:
            raise ValueError("this model is watched already, with other optimizers: close that watch first")
        return known
    threshold = Static(float(clip)) if isinstance(clip, int | float) else clip
    made = Watch(model, optimizers, scaler, every, threshold, activations)
    _watches[model] = made
    return made


class Watch:
    """See `watch`. What was measured is in `records`; `report()` says it, `problems()` what of it is a trap."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        scaler: Any,
        every: int,
        threshold: Threshold | None,
        activations: bool,
    ) -> None:
        self.model = model
        self.optimizers = optimizers
        self.scaler = scaler
        self.every = every
        self.threshold = threshold
        self.activations = activations
        self.closed = False
        self.records = Records()
        self._names = {id(parameter): name.removeprefix("module.") for name, parameter in model.named_parameters()}
        self._groups: dict[tuple[int, int], Group] = {}
        for number, optimizer in enumerate(optimizers):
            for index, group in enumerate(optimizer.param_groups):
                self._group(number, index, group)
        self._mail = Mailbox()
        self._depth = 0
        self._alarm = False
        """A gradient was not finite: look at the outputs of the next step."""
        self._before: dict[int, list[tuple[Group, list[Tensor], list[Tensor]]]] = {}
        """By optimizer, parameters with their values before the step."""
        self._left_over: dict[int, list[tuple[Group, LeftOver]]] = {}
        self._scale: float | None = None
        self._ahead: list[tuple[tuple[int, ...], Tensor]] = []
        """Norms before the program's own clip in this step: the parameters' identities, and a norm for each, or one of
        them all."""
        self._graphs = GraphCount(model)
        self._looks = Looks(model, self.records)
        if compiled(model):
            self.records.notes.append("the model is compiled: what happens inside it (activations) cannot be seen")
            self.activations = False
        if not clip_probe.complete():
            self.records.notes.append("in this torch, clips whose function was imported by name cannot be seen")
        self._handles: list[Any] = []
        for number, optimizer in enumerate(optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(_Hook(self, number, before=True)),
                optimizer.register_step_post_hook(_Hook(self, number, before=False)),
            ]
        clip_probe.listen(self)
        self._prepare()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take all hooks away. The measurements stay."""
        if self.closed:
            return
        self.closed = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._graphs.close()
        self._looks.close()
        self._before.clear()
        for probes in self._left_over.values():
            for _, probe in probes:
                probe.close()
        self._left_over.clear()
        clip_probe.leave(self)
        if _watches.get(self.model) is self:
            del _watches[self.model]
        self._mail.deliver(wait=True)

    # -- results ------------------------------------------------------------------------------------------------------

    def suggest_clip(self, percent: float = 90.0) -> dict[str, float]:
        """For each parameter group, the norm below which `percent` of the steps stayed. ValueError before any step."""
        self._mail.deliver(wait=True)
        found = {group.name: percentile(group.norms, percent) for group in self.records.groups if group.norms}
        if not found:
            raise ValueError("no step was watched yet: there is nothing to suggest from")
        return found

    def problems(self) -> list[str]:
        """The traps that were measured, a line each; an empty list if there are none."""
        self._mail.deliver(wait=True)
        return reporting.problems(self.records)

    def report(self) -> str:
        """All measurements as a table, with the problems below."""
        self._mail.deliver(wait=True)
        return reporting.report(self.records, self._where())

    def plot(self, path: str) -> None:
        """The norms of each group over the steps, as a picture. Needs matplotlib."""
        self._mail.deliver(wait=True)
        reporting.plot(self.records, path, self._where())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: counts and norm histories, so that a dynamic clip goes on where it was."""
        self._mail.deliver(wait=True)
        return self.records.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the parameter groups differ from those of the saved run."""
        self.records.load_state_dict(state)

    def _where(self) -> str:
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"{name}, torch {torch.__version__}, {self.records.steps} steps"

    # -- hooks --------------------------------------------------------------------------------------------------------

    def before_step(self, number: int, closure: bool) -> None:
        """The optimizer is about to step: its gradients are as they will be applied."""
        self._depth += 1
        if self._depth > 1:  # a subclass that calls the step of its base class
            return
        self._mail.deliver()
        if not closure:  # with a closure the gradients are computed inside the step
            self._measure(number, clip=True)

    def after_step(self, number: int, closure: bool) -> None:
        self._depth -= 1
        if self._depth:
            return
        if closure:
            self._measure(number, clip=False)
        self._moved(number)
        self._ahead.clear()
        if number == 0:
            self._looks.stop(self._mail)
            self._mail.deliver()
            self.records.steps += 1
            self._graphs.step = self.records.steps
            if self._sampled() or self._alarm:
                self._prepare()

    def clipped(self, parameters: list[Tensor], max_norm: float, norm: Tensor | None) -> None:
        """torch's own clip is about to scale these gradients."""
        mine = [parameter for parameter in parameters if id(parameter) in self._names]
        clip = self.records.clip
        if parameters and not mine:
            return  # another model's
        clip.calls += 1
        clip.max_norm = max_norm
        if not parameters:
            clip.empty += 1
            return
        have = [parameter for parameter in mine if parameter.grad is not None]
        if not have:
            clip.missed += 1
            return
        if self._still_scaled(have):
            clip.scaled += 1
        if norm is None:
            return
        ids = tuple(map(id, have))
        if not self._taken(ids, have[0], norm):
            before = norms([dense(parameter.grad) for parameter in have if parameter.grad is not None])
            self._ahead.append((ids, before))

        def arrived(values: list[float]) -> None:
            clip.last_norm = values[0]
            clip.changed += int(values[0] > max_norm)

        self._mail.send(norm.detach().reshape(1).float(), arrived)

    def _taken(self, ids: tuple[int, ...], first: Tensor, norm: Tensor) -> bool:
        """Whether the norm that a clip has measured can stand for those of the gradients: it need not be taken again.

        It can if it is that of all of the only group there is, and finite; on a device it would have to be waited for.
        """
        groups = self.optimizers[0].param_groups
        alone = len(self.optimizers) == len(groups) == 1 and not self._ahead and clip_probe.euclidean()
        if not alone or norm.device.type != "cpu" or norm.dtype not in (torch.float32, torch.float64):
            return False
        if first.dtype != norm.dtype or ids != _having(groups[0]) or not math.isfinite(norm.item()):
            return False
        self._ahead.append((ids, norm.detach().reshape(1).float()))
        return True

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _group(self, number: int, index: int, group: dict[str, Any]) -> Group:
        """The record of a parameter group; groups added later get theirs when they are met."""
        known = self._groups.get((number, index))
        if known is None:
            which = f"optimizer {number}, " if len(self.optimizers) > 1 else ""
            name = str(group.get("name") or f"{which}group {index}")
            known = Group(name)
            self._groups[number, index] = known
            self.records.groups.append(known)
        return known

    def _measure(self, number: int, clip: bool) -> None:
        optimizer = self.optimizers[number]
        looking = self._sampled()
        if number == 0:
            self._read_scale()
            if looking:
                self._coverage()
        for record, probe in self._left_over.pop(number, ()):
            self._take_left_over(record, probe.close())
        for index, group in enumerate(optimizer.param_groups):
            record = self._group(number, index, group)
            having = [parameter for parameter in group["params"] if parameter.grad is not None]
            if looking:
                self._look(number, record, having, clip)
            if not having:
                continue
            ids = tuple(map(id, having))
            limiting = clip and self.threshold is not None
            known = next((values for seen, values in self._ahead if seen == ids), None)
            if known is None or limiting:
                with torch.no_grad():
                    found = norms([dense(one.grad) for one in having])
                    if limiting:
                        self._limit(record, having, found)
                    known = self._before_clip(ids, found) if known is None else known
            self._mail.send(known, _Arrival(self, record, ids))

    def _before_clip(self, ids: tuple[int, ...], found: Tensor) -> Tensor:
        """The norms with those that the program's own clip met, where it clipped other parameters than this group's."""
        if not self._ahead:
            return found
        each = [(seen, values) for seen, values in self._ahead if len(seen) == values.numel()]
        before = {one: norm for seen, values in each for one, norm in zip(seen, values, strict=True)}
        return torch.stack([before.get(one, norm) for one, norm in zip(ids, found, strict=True)])

    def _limit(self, record: Group, parameters: list[Tensor], found: Tensor) -> None:
        assert self.threshold is not None
        limit = self.threshold.limit(record.norms)
        if limit is None:
            return
        whole = torch.linalg.vector_norm(found)
        factor = (limit / (whole + 1e-6)).clamp(max=1.0)
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(factor.to(parameter.grad.device, non_blocking=True))

        def arrived(values: list[float]) -> None:
            record.limited += int(values[0] > limit)

        self._mail.send(whole.reshape(1), arrived)

    def arrived(self, record: Group, ids: tuple[int, ...], values: list[float]) -> None:
        record.steps += 1
        whole = total(values)
        if math.isfinite(whole):
            record.norms.append(whole)
            return
        record.non_finite += 1
        self._alarm = True
        if self.records.first_bad_gradient is None:
            broken = [
                self._names.get(one, "?") for one, value in zip(ids, values, strict=True) if not math.isfinite(value)
            ]
            self.records.first_bad_gradient = f"{self._looks.blame(broken, len(ids))}, at step {record.steps - 1}"

    def _look(self, number: int, record: Group, having: list[Tensor], clip: bool) -> None:
        """What is looked at in every `every`-th step only."""
        if clip:  # with a closure the step has been taken already
            chosen: list[Tensor] = []
            room = UPDATE_ELEMENTS
            for parameter in having:
                if parameter.numel() <= room:
                    room -= parameter.numel()
                    chosen.append(parameter)
            if chosen:
                copies = [parameter.detach().clone() for parameter in chosen]
                self._before.setdefault(number, []).append((record, chosen, copies))

    def _moved(self, number: int) -> None:
        for record, parameters, copies in self._before.pop(number, ()):
            size = torch.linalg.vector_norm(norms(copies))
            torch._foreach_sub_(copies, [parameter.detach() for parameter in parameters])
            change = torch.linalg.vector_norm(norms(copies))

            def arrived(values: list[float], record: Group = record) -> None:
                record.update_ratio = values[0]

            self._mail.send((change / size.clamp(min=1e-30)).reshape(1), arrived)

    def _coverage(self) -> None:
        records = self.records
        owned = {
            id(parameter) for one in self.optimizers for group in one.param_groups for parameter in group["params"]
        }
        named = [(name.removeprefix("module."), parameter) for name, parameter in self.model.named_parameters()]
        self._names = {id(parameter): name for name, parameter in named}
        records.in_no_group = [name for name, p in named if p.requires_grad and id(p) not in owned]
        records.not_in_model = [
            f"{self._groups[number, index].name}, parameter {place} {tuple(parameter.shape)}"
            for number, one in enumerate(self.optimizers)
            for index, group in enumerate(one.param_groups)
            for place, parameter in enumerate(group["params"])
            if id(parameter) not in self._names
        ]
        records.without_gradient = [name for name, p in named if p.requires_grad and id(p) in owned and p.grad is None]
        records.graphs_held, records.graphs_checked = self._graphs.held()

    def _still_scaled(self, parameters: list[Tensor]) -> bool:
        """Whether the scaler has scaled the loss, and not unscaled the gradients of the optimizer that owns these."""
        states = getattr(self.scaler, "_per_optimizer_states", None)
        if states is None or not self.scaler.is_enabled():
            return False
        ids = {id(parameter) for parameter in parameters}
        for optimizer in self.optimizers:
            if any(id(parameter) in ids for group in optimizer.param_groups for parameter in group["params"]):
                state = states.get(id(optimizer))  # a defaultdict: `[...]` would make an entry
                stage = None if state is None else state["stage"]
                return stage is None or getattr(stage, "name", "") == "READY"
        return False

    def _sampled(self) -> bool:
        return self.records.steps % self.every == 0

    def _prepare(self) -> None:
        """Before a step that is looked at: what has to see its forward and its backward."""
        if self.activations:
            self._looks.start()
        self._alarm = False
        for number, optimizer in enumerate(self.optimizers):
            for index, group in enumerate(optimizer.param_groups):
                first = next((one for one in group["params"] if one.requires_grad and one.grad is not None), None)
                if first is not None:
                    entry = (self._group(number, index, group), LeftOver(first))
                    self._left_over.setdefault(number, []).append(entry)

    def _take_left_over(self, record: Group, found: Tensor | None) -> None:
        if found is None:
            return

        def arrived(values: list[float]) -> None:
            record.checked += 1
            record.left_over += int(values[0] != 0)

        self._mail.send(found.float().reshape(1), arrived)

    def _read_scale(self) -> None:
        """A scaler that found a gradient that is not finite skips the step, and lowers its scale."""
        scale = getattr(self.scaler, "_scale", None)
        if not isinstance(scale, Tensor):
            return

        def arrived(values: list[float]) -> None:
            if self._scale is not None and values[0] < self._scale:
                backoff = float(self.scaler.get_backoff_factor())
                self.records.skipped += max(1, round(math.log(values[0] / self._scale, backoff)))
            self._scale = values[0]

        self._mail.send(scale.detach().clone().reshape(1), arrived)


def _having(group: dict[str, Any]) -> tuple[int, ...]:
    """The parameters of a group that have gradients, by their identities."""
    return tuple([id(parameter) for parameter in group["params"] if parameter.grad is not None])


class _Arrival:
    """Takes the norms of a group's gradients when they reach the host."""

    def __init__(self, watch: Watch, record: Group, ids: tuple[int, ...]) -> None:
        self.watch, self.record, self.ids = watch, record, ids

    def __call__(self, values: list[float]) -> None:
        self.watch.arrived(self.record, self.ids, values)


class _Hook:
    """A step hook that does not keep the watch alive, and does nothing once it is gone."""

    def __init__(self, watch: Watch, number: int, before: bool) -> None:
        self.watch = weakref.ref(watch)
        self.number = number
        self.before = before

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch = self.watch()
        if watch is None or watch.closed:
            return
        closure = (args[1] if len(args) > 1 else kwargs.get("closure")) is not None  # args[0] is the optimizer
        (watch.before_step if self.before else watch.after_step)(self.number, closure)
