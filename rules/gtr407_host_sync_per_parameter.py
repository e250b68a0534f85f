"""Each step waits for the device once for each parameter.

## What it does

Reports `.item()`, `float(…)` and other read-outs of what is computed from a gradient, in a loop or comprehension over
parameters that runs with every step of the optimizer.

## Why it is a trap

A GPU works on a queue, and Python runs ahead of it. A read-out has to wait until the queue is empty. A norm that is
added up parameter by parameter does so hundreds of times in each step, and each time the GPU then waits for Python: a
loop over a thousand small tensors can take longer than the backward. Nothing is wrong in the result, the training is
only slower. `torch.nn.utils.get_total_norm`, `torch._foreach_norm`, or a norm of stacked norms read out one number. The
demo counts the read-outs of a step.

## Known limits

It is in preview: it costs time, and no training. On the CPU it costs next to nothing.

False positives: models of a handful of parameters; training on a CPU.

False negatives: what is read out only under a condition, for a log every so many steps or by a setting; tests that wait
as well (`if torch.isnan(p.grad).any():`); gradients that are kept in a list first; code out of sight.

## Trap

```python
import torch


def train(model, loader, criterion, writer):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        total = 0.0
        for p in model.parameters():
            total += p.grad.norm().item() ** 2
        writer.add_scalar("norm", total**0.5, step)
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, writer):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        writer.add_scalar("norm", total.item(), step)
        optimizer.step()
```

## References

- [Avoid unnecessary CPU-GPU synchronization](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html)
- [torch.nn.utils.get_total_norm](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flake8_gradtrap.events import (
    Backpropagated,
    GradientReadOut,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    RunEnded,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import InLoops
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

Loops = frozenset[Hashable]


@dataclass(frozen=True, slots=True)
class Read:
    """Something that is read out of each gradient: in which loop over parameters (or place in a comprehension)."""

    place: Hashable
    site: Site = field(compare=False)
    how: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What has happened since a backward: loops that were begun, values that were read. `taken`: the loops in which the
    step of an optimizer followed, at `site`.
    """

    begun: frozenset[Hashable] = frozenset()
    read: frozenset[Read] = frozenset()
    taken: Loops | None = None
    site: Site | None = field(default=None, compare=False)


class HostSyncPerParameter(Waiting, InLoops):
    """In memory: the running "step", once its backward has been.

    Acquitted: loops over parameters that the same step does without on some path.
    """

    code = "GTR407"
    name = "host-sync-per-parameter"
    summary = "Each step reads a number out of the gradient of each parameter, and waits for the device each time"
    words = ("grad",)
    default = False

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[Hashable, list[frozenset[Hashable]]] = {}
        """What was begun before a step, by its place, path by path."""

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        step = watch.get("step")
        if step is None or step.taken is not None:
            self.over(step, watch)
            watch.put("step", Step())

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        self.begins(event.loop, watch)

    @staticmethod
    def begins(place: Hashable, watch: Watch) -> None:
        step = watch.get("step")
        if step is not None:
            watch.put("step", replace(step, begun=step.begun | {place}))

    @on(GradientReadOut)
    def reads(self, event: GradientReadOut, watch: Watch) -> None:
        step = watch.get("step")
        if step is None:
            return
        inner = step.begun & self.running(watch)
        if event.inline:
            self.begins(event.site.node, watch)
            step = watch.get("step")
            inner = frozenset({event.site.node})
        read = {Read(place, event.site, event.how) for place in inner}
        watch.put("step", replace(step, read=step.read | read))

    @on(Stepped)
    def stepped(self, event: Stepped, watch: Watch) -> None:
        step = watch.get("step")
        if step is None or step.taken is not None:
            return
        taken = replace(step, taken=self.running(watch), site=event.site)
        watch.put("step", taken)
        if not taken.taken:  # the function is the step
            self.over(taken, watch)

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        self.passes(event.loop, watch)

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        super().left(event, watch)
        self.passes(event.loop, watch)

    def passes(self, loop: Hashable, watch: Watch) -> None:
        """An iteration of a loop is over: if it is that of a step, so is all that belongs to it."""
        step = watch.get("step")
        if step is not None and step.taken is not None and loop in step.taken:
            self.over(step, watch)

    def over(self, step: Step | None, watch: Watch) -> None:
        if step is None:
            return
        watch.drop("step")
        if step.taken is None or step.site is None:
            return
        place = (step.taken, step.site.node)
        self.steps.setdefault(place, []).append(step.begun)
        for read in step.read:
            self.suspect((place, read.place), partial(self.tell, read, step.site))

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for place in self.suspects:
            assert isinstance(place, tuple)
            if any(place[1] not in begun for begun in self.steps[place[0]]):
                self.acquit(place)
        self.steps.clear()
        super().ended(event, watch)

    @staticmethod
    def tell(read: Read, step: Site, watch: Watch) -> None:
        watch.report(
            read.site,
            f"`{read.how}` waits for the device once for each parameter, with every step (line {watch.line(step)}): "
            "the training is slower than it need be; keep the values on the device (`torch.nn.utils.get_total_norm`), "
            "and read out their sum once",
            trace=[("this is read out of each gradient", read.site), ("before each of these steps", step)],
        )


@contextmanager
def counted() -> Iterator[list[str]]:
    """What is read out of tensors in a block."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                found.append(str(func))
            return func(*args, **(kwargs or {}))

    mode: Any = Counting
    with mode():
        yield found


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(10))).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    waits, total = 0, 0.0
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 8, device=device)).square().mean().backward()
        with counted() as read_outs:
            total = 0.0
            for p in model.parameters():
                assert p.grad is not None
                total += p.grad.norm().item() ** 2
        waits = len(read_outs)
        optimizer.step()
    return {"read-outs in a step": float(waits), "norm": total**0.5}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(10))).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    waits, total = 0, 0.0
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 8, device=device)).square().mean().backward()
        with counted() as read_outs:
            total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        waits = len(read_outs)
        optimizer.step()
    return {"read-outs in a step": float(waits), "norm": total}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["read-outs in a step"] == 20.0, "one for each parameter"
    assert fixed["read-outs in a step"] == 1.0
    assert abs(trapped["norm"] - fixed["norm"]) < 1e-4 * fixed["norm"]
