"""An evaluation calls the model with gradients on: every activation is kept for a backward that never comes.

## What it does

Reports the call of a module that is in evaluation mode (`eval()` was called on it), where gradients are on and nothing
goes backward through the result: in the loop over the validation data, or in the function that evaluates.

## Why it is a trap

`eval()` changes what dropout and batch normalisation do, and does not turn gradients off. Without `torch.no_grad()` or
`torch.inference_mode()` each forward records its graph and keeps every activation until the result is dropped. The
validation needs a multiple of the memory, its batch size has to be that of the training, and a result that is kept
in a list keeps its whole graph.

## Known limits

False positives: a function whose callers all are in code that cannot be seen, and turn gradients off; a network from
elsewhere whose parameters are frozen.

False negatives: evaluation without `eval()`; models in containers; results that are returned out of sight. Silent on
purpose: a call whose result is dropped, or only asked for its shape (a test run, a measurement of speed); test suites;
hooks on a module that a base class made out of sight; functions that adapt a model to what they evaluate. Beside
`volatile=True`, of which torch warns, it is a preview, and so it is in a method of a module that nobody in sight calls.

A function that evaluates through several helpers is reported once.

The fix decorates the function with `@torch.no_grad()`. It is offered where the function only evaluates, and is no
helper that the training may call, too; then it changes no value.

## Trap

```python
import torch


def evaluate(model, loader, criterion):
    model.eval()
    total = 0.0
    for x, y in loader:
        total += criterion(model(x), y).item()
    return total / len(loader)
```

## Fixed

```python
import torch


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    total = 0.0
    for x, y in loader:
        total += criterion(model(x), y).item()
    return total / len(loader)
```

## References

- [Autograd mechanics: evaluation mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval)
- [torch.no_grad](https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html)
- [torch.inference_mode](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events import (
    Backpropagated,
    Differentiated,
    Forwarded,
    FunctionLeft,
    ReadOut,
    RunEnded,
)
from flake8_gradtrap.gradients import frame
from flake8_gradtrap.modes import EVALUATES, Evaluating, InModes
from flake8_gradtrap.rule import Change, Remedy, Watch, on

STATISTICS = re.compile(r"(^|[._])(\w*(mean_std|normali[sz]er)|(obs|ret|value|reward)_(rms|norm))$", re.IGNORECASE)
"""What keeps running statistics, and has no parameters, is called so."""


@dataclass(frozen=True, slots=True)
class Call:
    """A forward in evaluation mode, with gradients on. `loop`: the innermost one around it. `own`: `eval()` was called
    within that loop, so that other iterations, or other parts of this one, may train.
    """

    event: Forwarded
    mark: Evaluating
    loop: Hashable
    own: bool


class EvaluationRecordsGraph(InModes):
    code = "GTR601"
    name = "evaluation-records-graph"
    summary = "A model is evaluated with gradients on, and nothing goes backward"
    words = ("eval", "autograd")
    roots = ("eval",)
    fix = "safe"
    waits = ("calls",)

    def __init__(self) -> None:
        self.calls: dict[Hashable, Call] = {}
        """Candidates, by the place of the call."""
        self.places: dict[Hashable, Hashable] = {}
        """Their outputs, and where they were made."""
        self.spared: set[Hashable] = set()
        """Places whose output is differentiated, or leaves for where that cannot be seen, on whatever path."""
        self.off: set[Hashable] = set()
        """Places, with the calls that led to them, where gradients are off on some path: a setting decides."""
        self.training: set[Hashable] = set()
        """Loops in which something goes backward."""

    @on(Forwarded)
    def forward(self, event: Forwarded, watch: Watch) -> None:
        mark = self.evaluating(event, watch)
        if mark is None or event.probes or STATISTICS.search(event.module.label):
            return
        place = event.site.node
        if event.recorded is not True:  # a caller turns gradients off
            if event.recorded is None:
                self.spared.add(place)
            self.off.add((place, *frame(event.site)))
            return
        loops = self.running(watch)
        if loops or EVALUATES.search(event.function):
            self.calls.setdefault(place, Call(event, mark, self.innermost(watch), mark.loops == loops))
            self.places.update(dict.fromkeys(event.outputs, place))

    @on(Backpropagated, Differentiated)
    def differentiate(self, event: Backpropagated | Differentiated, watch: Watch) -> None:
        self.spare(event.reaches)
        self.training |= self.running(watch)

    @on(ReadOut)
    def read(self, event: ReadOut, watch: Watch) -> None:
        self.spare(event.reaches)  # this would fail if gradients were on: somebody turns them off

    @on(FunctionLeft)
    def leave(self, event: FunctionLeft, watch: Watch) -> None:
        if event.site.caller is None:
            self.spare(event.reaches)

    def spare(self, tensors: frozenset[Hashable]) -> None:
        if self.places:
            self.spared.update(self.places[key] for key in tensors if key in self.places)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        told: set[Hashable] = set()
        # First those that stand beside their `eval()`: gradients are to be turned off there.
        for place, call in sorted(self.calls.items(), key=lambda item: not self.beside(item[1])):
            where = call.event.definition.node if call.event.definition is not None else None
            trains = call.loop in self.training and not call.own
            decided = (place, *frame(call.event.site)) in self.off
            if place in self.spared or trains or decided or where in told or self.evaluation(call) in told:
                continue
            told.add(where)
            if where is not None and self.beside(call):
                told.add(self.evaluation(call))
            self.tell(call, watch)
        self.calls.clear()
        self.places.clear()

    @staticmethod
    def beside(call: Call) -> bool:
        return frame(call.event.site) == frame(call.mark.site)

    @staticmethod
    def evaluation(call: Call) -> Hashable:
        """What is told once: a function that evaluates, with the helpers through which it does."""
        around, calls = frame(call.mark.site), frame(call.event.site)
        elsewhere = bool(around) and calls[-len(around) :] != around
        if elsewhere or (calls != around and EVALUATES.search(call.event.function)):
            return call.event.site.node
        return ("evaluation", call.mark.site.node, *around)

    def tell(self, call: Call, watch: Watch) -> None:
        event, mark = call.event, call.mark
        name = f"`{event.module.label}`" if event.module.label else "the model"
        remedy = None
        evaluates = self.beside(call) or EVALUATES.search(event.function) or event.function.startswith("test")
        if event.only_looks and event.definition is not None and evaluates:  # else the training may call it, too
            change = Change("decorate", event.definition, "@torch.no_grad()", imports="torch")
            remedy = Remedy("Turn gradients off in this function", (change,))
        why = "`volatile` does nothing since torch 0.4" if event.volatile else "`eval()` does not turn them off"
        watch.report(
            event.site,
            f"{name} is evaluated with gradients on: every activation is kept for a backward that never comes; "
            f"{why}, use `torch.no_grad()`",
            trace=[("put into evaluation mode here", mark.site), ("called with gradients on here", event.site)],
            remedy=remedy,
            preview=event.volatile or event.for_callers,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]).to(device)
    batches = [torch.randn(32, 64, device=device) for _ in range(4)]

    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    model.eval()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for x in batches:
            score = model(x).abs().mean().item()
    return {"kilobytes saved for a backward": saved / 1024, "score": score}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]).to(device)
    batches = [torch.randn(32, 64, device=device) for _ in range(4)]

    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    model.eval()
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for x in batches:
            score = model(x).abs().mean().item()
    return {"kilobytes saved for a backward": saved / 1024, "score": score}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["kilobytes saved for a backward"] > 100
    assert fixed["kilobytes saved for a backward"] == 0
    assert trapped["score"] == fixed["score"], "the value is the same"
