"""What a watch hangs on a model for the steps that it looks at: activations, graphs held, gradients left over."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flake8_gradtrap.runtime.norms import Mailbox
from flake8_gradtrap.runtime.records import Activation, Records

MODULES = 256
"""So many module outputs are looked at; of a larger model those nearer to its root."""


def compiled(model: nn.Module) -> bool:
    """Whether hooks on inner modules would be lost, or make the model compile again."""
    wrapped = getattr(model, "module", model)
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in (model, wrapped)
    )


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a module's output: itself, or in tuples, lists, mappings and dataclasses of it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    elif hasattr(value, "values") and callable(value.values):
        for part in value.values():
            yield from tensors(part)


class _Alive:
    """Lives as long as the node of the graph that holds it."""

    __slots__ = ("__weakref__",)


class GraphCount:
    """Counts steps whose graph is still alive: a mark in the metadata of a node lives exactly as long as the node."""

    def __init__(self, model: nn.Module) -> None:
        self.step = 0
        self._marks: deque[tuple[int, weakref.ref[_Alive]]] = deque(maxlen=10_000)
        self._handle = model.register_forward_hook(self._mark)

    def _mark(self, module: nn.Module, args: Any, output: Any) -> None:
        for tensor in tensors(output):
            if tensor.grad_fn is not None:
                mark = _Alive()
                tensor.grad_fn.metadata["gradtrap"] = mark  # type: ignore[index]
                self._marks.append((self.step, weakref.ref(mark)))
                return

    def held(self) -> tuple[int, int]:
        """Earlier steps that are still held, and of how many that is."""
        alive = [(step, mark) for step, mark in self._marks if mark() is not None]
        checked = len({step for step, _ in self._marks if step < self.step})
        self._marks = deque((entry for entry in self._marks if entry[1]() is not None), maxlen=10_000)
        return len({step for step, _ in alive if step < self.step}), checked

    def close(self) -> None:
        self._handle.remove()
        self._marks.clear()


class LeftOver:
    """Whether a step applies gradients that the step before has applied already, seen at one parameter.

    A hook on the parameter runs before a backward adds to its gradient: what is there then is left over, unless it is
    cleared before a later backward of the same step (a discriminator that the generator's loss goes through).
    """

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = weakref.ref(parameter)
        self._found: Tensor | None = None
        self._handle = parameter.register_hook(self._before_adding)

    def _before_adding(self, gradient: Tensor) -> None:
        parameter = self._parameter()
        if parameter is None:
            return
        held = parameter.grad
        if held is None:
            left = torch.zeros((), dtype=torch.bool, device=gradient.device)
        else:
            values = held.coalesce().values() if held.layout is torch.sparse_coo else held
            left = (values != 0).any()
        self._found = left if self._found is None else self._found & left

    def close(self) -> Tensor | None:
        """A boolean tensor, shape (); None if no backward came by."""
        self._handle.remove()
        return self._found


class Looks:
    """The outputs of modules, in the steps that are looked at."""

    def __init__(self, model: nn.Module, records: Records) -> None:
        self.order: dict[str, int] = {}
        """Modules in the order of their calls."""
        self._records = records
        self._modules = [(name, weakref.ref(module)) for name, module in boundaries(model)]
        self._handles: list[Any] = []
        self._seen: list[tuple[str, Tensor, int]] = []

    def start(self) -> None:
        if self._handles:
            return
        for name, reference in self._modules:
            module = reference()
            if module is not None:
                self._handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return  # an evaluation in between
            for tensor in tensors(output):
                if tensor.is_floating_point() and tensor.numel():
                    self.order.setdefault(name, len(self.order))
                    values = tensor.detach().float()
                    size = torch.linalg.vector_norm(values)
                    largest = values.abs().amax()
                    self._seen.append((name, torch.stack((size, largest)), values.numel()))
                    return

        return hook

    def stop(self, mail: Mailbox) -> None:
        """Take the hooks away, and send what they saw."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        seen, self._seen = self._seen, []
        if not seen:
            return
        names = [(name, math.sqrt(count)) for name, _, count in seen]
        device = seen[0][1].device
        step = self._records.steps

        def arrived(values: list[float]) -> None:
            for place, (name, root) in enumerate(names):
                rms, largest = values[2 * place] / root, values[2 * place + 1]
                finite = largest < float("inf")  # False for nan, too
                self._records.activations[name] = Activation(name, rms, largest, not finite)
                if not finite and self._records.first_bad_output is None:
                    self._records.first_bad_output = f"the output of `{name}` at step {step}"

        mail.send(torch.cat([values.to(device) for _, values, _ in seen]), arrived)

    def blame(self, broken: Sequence[str], every: int) -> str:
        """Which gradient was the first to be not finite: backward meets the modules called last first."""
        if len(broken) == every:
            return f"all {every} gradients at once: the loss itself, or the scale of a gradient scaler"

        def called(parameter: str) -> int:
            owner = parameter.rpartition(".")[0]
            return max((place for name, place in self.order.items() if owner.startswith(name)), default=-1)

        first = max(broken, key=called)
        return f"the gradient of `{first}`" + (f" (and {len(broken) - 1} behind it)" if len(broken) > 1 else "")

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()


def boundaries(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules whose outputs are looked at: leaves, or where these are too many, whole blocks."""
    named = [(name.removeprefix("module."), module) for name, module in model.named_modules() if name]
    leaves = [(name, module) for name, module in named if next(module.children(), None) is None]
    if len(leaves) <= MODULES:
        return leaves
    depth = max(name.count(".") for name, _ in named)
    while depth > 0 and sum(name.count(".") <= depth for name, _ in named) > MODULES:
        depth -= 1
    return [(name, module) for name, module in named if name.count(".") <= depth][:MODULES]
