"""A model is put into evaluation mode within the training loop, and the training goes on in that mode.

## What it does

Reports an `eval()` in a training loop, or the call of a function that ends in that mode, after which the model was
evaluated, and then trained on without `train()`.

## Why it is a trap

After the first validation dropout is off, and batch normalisation uses its running statistics and no longer updates
them. The loss even looks better. The model that comes out was regularised for one epoch, and normalised with
statistics of weights that it no longer has.

## Known limits

False positives: training in evaluation mode on purpose, with a mode that the first validation is meant to set.

Silent: a model that can be seen, and does the same in both modes.

False negatives: evaluation in code that cannot be seen; models in containers; a loop whose optimizer cannot be matched
with the model.

There is no fix: `train()` belongs at the start of each epoch, or behind the validation, wherever the loop has its place
for it.

## Trap

```python
import torch


def validate(model, loader, criterion):
    model.eval()
    with torch.no_grad():
        return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        print(epoch, validate(model, held_out, criterion))
```

## Fixed

```python
import torch


def validate(model, loader, criterion):
    model.eval()
    with torch.no_grad():
        return sum(criterion(model(x), y).item() for x, y in loader) / len(loader)


def train(model, loader, held_out, criterion, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        print(epoch, validate(model, held_out, criterion))
```

## References

- [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
- [Autograd mechanics: evaluation mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import (
    Backpropagated,
    Escaped,
    Forwarded,
    FunctionLeft,
    IterationStarted,
    LoopLeft,
    ModeRead,
    ModeSet,
    Overwritten,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import MeetsOptimizers, alone, forget, frame, lift, meet, overlap, tagged
from flake8_gradtrap.modes import EVALUATES, Evaluating, InModes
from flake8_gradtrap.rule import Watch, on

INFERS = re.compile(r"(^|[_.])(infer|inference|predict)(_\w*)?$")
"""A function out of sight that runs a model in the mode in which it is, as its name says."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A backward through a forward in evaluation mode.

    `reached`: the output can be seen in the loss; else nothing is known of the loss, and the optimizer has to tell.
    """

    mark: Evaluating
    forward: Site = field(compare=False)
    backward: Site = field(compare=False)
    reached: bool = True


def of_one(watch: Watch, parts: frozenset[Hashable]) -> bool:
    """Whether all optimizers that are known have parameters of this module: the others are about one of those."""
    shared = [overlap(owners, parts) for _, owners in tagged(watch, "optimizer")]
    return True in shared and False not in shared


class TrainModeNotRestored(MeetsOptimizers, InModes):
    """In memory: "eval" as in the base; "output" of a forward in that mode; "looked", by loop: a forward whose loop has
    not gone backward; "trained", by module. `asked`: the modules whose mode the program reads, on whatever path.
    """

    code = "GTR602"
    name = "train-mode-not-restored"
    summary = "`eval()` in the training loop, and the training goes on without `train()`"
    words = ("eval", "backward")
    roots = ("backward",)

    def __init__(self) -> None:
        self.asked: dict[Hashable, set[tuple[Hashable, ...]]] = {}
        """For each module whose mode the program reads, on whatever path, the calls within which it does."""
        self.within: set[tuple[Hashable, Hashable]] = set()
        """The modules that were put into evaluation mode, and the calls within which that happened."""

    @on(ModeSet)
    def mode(self, event: ModeSet, watch: Watch) -> None:
        for key, trained in tagged(watch, "trained"):
            if self.concerns(event, trained.mark):
                watch.drop(key)
        if event.training is False:
            self.within.add((event.module.key, frame(event.site)))
            if not event.matters or self.put_back(event):
                return
        if event.training is not False or self.running(watch):
            super().mode(event, watch)

    def put_back(self, event: ModeSet) -> bool:
        """Whether the program may put the mode back that it has read before: not where a function that has been left
        read it for an `eval()` of its own.
        """
        calls = frame(event.site)
        return any(
            (event.module.key, read) not in self.within or calls[len(calls) - len(read) :] == read
            for read in self.asked.get(event.module.key, ())
        )

    @on(ModeRead)
    def read(self, event: ModeRead, watch: Watch) -> None:
        self.asked.setdefault(event.module.key, set()).add(frame(event.site))
        watch.drop(("eval", event.module.key))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        for key, value in tagged(watch, "eval"):
            if any(thing.key in value.parts for thing in event.things):
                if INFERS.search(event.to):
                    self.use(value, watch)
                else:
                    watch.drop(key)
        for key, trained in tagged(watch, "trained"):
            if any(thing.key in trained.mark.parts for thing in event.things) and not INFERS.search(event.to):
                watch.drop(key)  # it may be put into training mode before the step

    @on(Forwarded)
    def forward(self, event: Forwarded, watch: Watch) -> None:
        mark = self.evaluating(event, watch)
        if mark is None:
            return
        if event.recorded is False or (event.only_looks and EVALUATES.search(event.function)):
            self.use(mark, watch)
            return
        watch.put(("looked", self.innermost(watch)), mark.module.key)
        for output in event.outputs:
            watch.put(("output", output), (mark.module.key, event.site))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        for loop in self.running(watch):
            watch.drop(("looked", loop))
        for (_, output), (module, site) in tagged(watch, "output"):
            mark: Evaluating | None = watch.get(("eval", module))
            if mark is None or not mark.used:
                continue
            reached = output in event.reaches | {event.loss.key}
            if reached or (event.partial and event.owners is None and not event.sure):
                watch.put(("trained", module), Trained(mark, site, event.site, reached))

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        super().left(event, watch)
        mark: Evaluating | None = watch.get(("eval", watch.get(("looked", event.loop))))
        if mark is not None:
            self.use(mark, watch)  # a loop over data that does not train
        watch.drop(("looked", event.loop))
        for key, mark in tagged(watch, "eval"):
            if mark.used and not mark.over and event.loop not in mark.loops:
                watch.put(key, replace(mark, over=True))

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        forget(watch, "output")

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, trained in tagged(watch, "trained"):
            shared = overlap(owners, trained.mark.parts)
            if shared or (shared is None and trained.reached and (alone(watch) or of_one(watch, trained.mark.parts))):
                watch.drop(key)
                self.judge(trained, event.site, watch)

    @on(Overwritten)
    def update(self, event: Overwritten, watch: Watch) -> None:
        """A step written by hand: `p.data.add_(p.grad, alpha=-lr)`."""
        if event.leaf and event.by_gradient and not tagged(watch, "optimizer"):
            for key, trained in tagged(watch, "trained"):
                if trained.reached:
                    watch.drop(key)
                    self.judge(trained, event.site, watch)

    @on(FunctionLeft)
    def evaluated(self, event: FunctionLeft, watch: Watch) -> None:
        """A function that evaluates by its name has done so, whatever method of the model it called."""
        if EVALUATES.search(event.function):
            within = frame(event.site)
            for _, mark in tagged(watch, "eval"):
                if frame(mark.site) == within:
                    self.use(mark, watch)

    def judge(self, trained: Trained, step: Site, watch: Watch) -> None:
        mark = trained.mark
        around = [(key[1], value.site) for key, value in tagged(watch, "active") if key[1] in mark.loops]
        if not around:
            return  # it was evaluated before the loop: the mode is meant
        place = lift(mark.site, around[-1][1]) or mark.site
        name = f"`{mark.module.label}`" if mark.module.label else "the model"
        there = f" at line {watch.line(mark.site)}" if place != mark.site else ""
        steps: list[tuple[str, Site]] = [
            ("put into evaluation mode here", mark.site),
            ("called in that mode here", trained.forward),
            ("back-propagated here", trained.backward),
            ("and trained on here", step),
        ]
        watch.report(
            place,
            f"{name} is put into evaluation mode{there} and is trained on in it: dropout is off and batch "
            "normalisation frozen from then on; call `train()` before the training goes on",
            trace=steps,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    model.train()
    for _ in range(4):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model(x)
    updates = dict(model.named_buffers())["1.num_batches_tracked"].item()
    return {"updates of the running statistics": float(updates)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    for _ in range(4):
        model.train()
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model(x)
    updates = dict(model.named_buffers())["1.num_batches_tracked"].item()
    return {"updates of the running statistics": float(updates)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["updates of the running statistics"] == 5
    assert fixed["updates of the running statistics"] == 20
