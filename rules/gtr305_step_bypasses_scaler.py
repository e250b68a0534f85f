"""An optimizer steps past the gradient scaler, or through it with gradients that were never scaled.

## What it does

Reports `optimizer.step()` after `scaler.scale(loss).backward()` into that optimizer's gradients, with no
`scaler.unscale_` between. Also the mirror image: `scaler.step(optimizer)` where the optimizer's gradients come from
an unscaled backward, while the same scaler scales other losses.

## Why it is a trap

Only `scaler.step` (or `unscale_`) divides gradients by the loss scale. Without it, plain SGD takes a step that is too
long by the scale: 65,536 at the start; the demo measures exactly the scale that it sets. Adam hides it, because it
divides gradients by their own size; what is left then is that overflows are no longer skipped: one inf gradient, and
the weights are NaN. In the mirror image, gradients that were never multiplied are divided: with SGD the model stands
still.

## Known limits

False positives: gradients divided by hand, in a way that cannot be seen.

False negatives: gradients whose owner is unknown while there are several optimizers; a step with a closure; a scaler,
model or optimizer handed to code that cannot be seen in between; a plain step on one side of a condition, if the
optimizer steps through the scaler on the other.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
```

## References

- [Typical mixed precision training](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#typical-mixed-precision-training)
- [Working with multiple models, losses, and optimizers](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers)
- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    FileEnded,
    OptimizerMade,
    RunEnded,
    ScalerMade,
    ScalerUpdated,
    Site,
    Stepped,
    Thing,
    Unscaled,
)
from flake8_gradtrap.gradients import (
    RESTORING,
    Mark,
    MeetsOptimizers,
    adaptive,
    common,
    concerns,
    forget,
    forget_touched,
    graph_of,
    lift,
    meet,
    overlap,
    quoted,
    settle,
    tagged,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Tell, WaitingForFile


class StepBypassesScaler(MeetsOptimizers, WaitingForFile):
    """In memory, by owners: "scaled" and "plain" gradients (a flag: other gradients may have joined since), and
    "ready" ones, which were unscaled; "scales": a scaler that has scaled a loss; "mirror": an unscaled step through a
    scaler that has not scaled anything yet; "unscaled": a backward of a loss that is not known to be scaled; "through":
    a backward whose gradients an optimizer applied through the scaler.

    What waits is a plain step after a scaled backward. Where it is known that the gradients are the same, another path
    on which the optimizer steps through the scaler after the same backward acquits it: a condition decides. Where it
    is not, scalers that step or unscale do, or are handed to code that cannot be seen, on whatever path.
    """

    code = "GTR305"
    name = "step-bypasses-scaler"
    summary = "An optimizer steps past the gradient scaler, or through it with gradients that were never scaled"
    words = ("GradScaler", "scaler")
    waits = ("suspects", "passed")

    def __init__(self) -> None:
        super().__init__()
        self.scaling: set[Hashable] = set()
        """Scalers that scale a loss, on whatever path."""
        self.undoing: set[Hashable] = set()
        """Scalers that step or unscale, on whatever path."""
        self.passed: dict[Hashable, Tell] = {}
        """Plain steps behind a scaled backward, by the backward and the optimizer."""
        self.through: set[Hashable] = set()
        """The same of steps through the scaler."""
        self.updating: set[Hashable] = set()
        """Scalers that are updated, on whatever path."""
        self.fixed: dict[Hashable, bool] = {}
        """Whether a scaler was made with a scale that the program has chosen."""
        self.adaptive: set[Hashable] = set()
        """Optimizers that divide by the size of the gradients themselves."""
        self.unrun: tuple[frozenset[str], ...] = ()
        """What stands in functions that were not run."""

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        super().made(event, watch)
        if adaptive(event):
            self.adaptive.add(event.optimizer.key)

    @on(ScalerMade)
    def scaler(self, event: ScalerMade, watch: Watch) -> None:
        self.fixed[event.scaler.key] = event.chosen

    @on(ScalerUpdated)
    def update(self, event: ScalerUpdated, watch: Watch) -> None:
        self.updating.add(event.scaler.key)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "scaled", "plain", "mirror")
            return
        mark = Mark(event.site, graph_of(event), event.scaler)
        if event.scaler is not None or event.scaled:
            key = event.scaler.key if event.scaler is not None else None
            self.scaling.add(key)
            settle(watch, event.owners, "plain")
            watch.put(("scaled", event.owners, key), mark)
            for waiting, (step, plain) in tagged(watch, "mirror"):
                if waiting[1] == key:
                    watch.drop(waiting)
                    self.mirrored(step.scaler, step.site, plain.site, event.site, watch)
            watch.put(("scales", key), Mark(event.site))
            return
        watch.put(("unscaled",), True)
        for other, scaled in tagged(watch, "scaled"):
            if overlap(other[1], event.owners) is not False:
                watch.put(other, replace(scaled, flag=True))
        if event.scaled is False:
            watch.put(("plain", event.owners), mark)

    @on(Unscaled)
    def unscale(self, event: Unscaled, watch: Watch) -> None:
        self.undoing.add(event.scaler.key)
        owners = meet(watch, event.optimizer, event.owners)
        for key, mark in tagged(watch, "scaled"):
            if overlap(key[1], owners) is not False:
                watch.put(("ready", common(key[1], owners)), mark)
        settle(watch, owners, "scaled", "plain")

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.rescales:  # it may be the gradients that were divided by hand
            settle(watch, event.owners, "scaled", "plain")

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "plain", "ready")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if not RESTORING.search(event.to):
            self.acquit(*(thing.key for thing in event.things))
        forget_touched(watch, event, "scaled", "plain")

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.scaler is not None:
            self.undoing.add(event.scaler.key)
            for key, mark in tagged(watch, "scaled", "ready"):
                if overlap(key[1], owners) is not False:
                    self.through.add((mark.site.node, event.optimizer.key))
                    watch.put(("through", mark.site.node, event.optimizer.key), True)
            self.step_through(event, event.scaler, watch)
        elif not event.closure:
            for key, mark in tagged(watch, "scaled"):
                related = overlap(key[1], owners)
                only = concerns(watch, key[1], owners) or not (watch.lossy or watch.get(("unscaled",)))
                if related or (related is None and not mark.flag and only):
                    place = (mark.site.node, event.optimizer.key)
                    mixed = watch.get(("through", *place))  # no setting decides, but the step
                    self.passed.setdefault((*place, "mixed") if mixed else place, partial(self.unscaled, event, mark))
                    break
                if related is None and not mark.flag and mark.scaler is not None:
                    key = mark.scaler.key
                    hidden = event.optimizer.key in self.adaptive
                    self.suspect((key, frozenset({key})) if hidden else key, partial(self.applied, event, mark))
        settle(watch, owners, "scaled", "plain", "ready")

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for place, tell in self.passed.items():
            if place not in self.through:
                tell(watch)
        self.passed.clear()

    @on(FileEnded)
    def known(self, event: FileEnded, watch: Watch) -> None:
        """A scaler that scales a loss, and that nothing in the file steps or unscales with: its gradients are applied
        by the plain step behind it. One that does nothing but scale, by a number that the program has chosen, in front
        of an optimizer like Adam, does so by intention.
        """
        used = self.undoing | self.updating
        if not used and all(self.fixed.values()):
            self.fixed |= dict.fromkeys(self.scaling - self.fixed.keys(), True)  # one of these, it is not known which
        self.acquit(*(frozenset({key}) for key in self.scaling - used if self.fixed.get(key)))
        self.acquit(*(self.undoing if self.undoing <= self.scaling else self.scaling))  # else: which are the others?
        self.unrun = event.unrun
        super().known(event, watch)

    def unscaled(self, step: Stepped, mark: Mark, watch: Watch) -> None:
        if step.optimizer.key in self.adaptive:
            key = mark.scaler.key if mark.scaler is not None else None
            self.suspect(frozenset({key}), partial(self.bypassed, step, mark))
        else:
            self.bypassed(step, mark, watch)

    def applied(self, step: Stepped, mark: Mark, watch: Watch) -> None:
        name = mark.scaler.label.rpartition(".")[2] if mark.scaler is not None else ""
        if not any(name in words and not words.isdisjoint({"step", "unscale_"}) for words in self.unrun):
            self.bypassed(step, mark, watch)

    def step_through(self, event: Stepped, scaler: Thing, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        mixed = any(overlap(key[1], owners) is not False for key, _ in tagged(watch, "scaled"))
        for key, plain in tagged(watch, "plain"):
            related = overlap(key[1], owners)
            if not related and (mixed or related is False or not concerns(watch, key[1], owners)):
                continue
            scales = watch.get(("scales", scaler.key))
            if scales is not None:
                self.mirrored(scaler, event.site, plain.site, scales.site, watch)
            else:
                watch.put(("mirror", scaler.key), (Mark(event.site, scaler=scaler), plain))

    def bypassed(self, event: Stepped, mark: Mark, watch: Watch) -> None:
        scaler, optimizer = quoted(mark.scaler, "the scaler"), quoted(event.optimizer, "this optimizer")
        how = (
            f"`{mark.scaler.label}.step({event.optimizer.label})`"
            if mark.scaler is not None and mark.scaler.label and event.optimizer.label
            else "`scaler.step(optimizer)`"
        )
        place = lift(event.site, mark.site) or event.site
        effect = "the step is too long by the loss scale, and overflows are not skipped"
        if event.optimizer.key in self.adaptive:
            effect = "overflows are not skipped, and one of them makes the weights NaN"
        watch.report(
            place,
            f"{optimizer} applies gradients that {scaler} scaled at line {watch.line(mark.site)} and nobody unscaled: "
            f"{effect}; use {how}, then `update()`",
            trace=[
                ("the scaled loss is back-propagated here", mark.site),
                ("its gradients are applied here, still scaled", place),
            ],
        )

    def mirrored(self, scaler: Thing | None, step: Site, plain: Site, scaled: Site, watch: Watch) -> None:
        if plain.node == scaled.node:
            return  # the same backward, of a loss that is scaled as far as the scaler is enabled
        name = quoted(scaler, "the scaler")
        watch.report(
            step,
            f"{name} divides gradients by the loss scale that line {watch.line(plain)} back-propagated unscaled: "
            f"the update is all but nothing; scale that loss too, or step without the scaler",
            trace=[
                ("this loss is back-propagated unscaled", plain),
                ("its gradients are divided by the scale here", step),
                (f"{name} scales this loss", scaled),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates = []
    for _ in range(3):
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        optimizer.step()
        after = parameters_to_vector(model.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"length of the first update": updates[0]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates = []
    for _ in range(3):
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        after = parameters_to_vector(model.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"length of the first update": updates[0]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    ratio = trapped["length of the first update"] / fixed["length of the first update"]
    assert 1000 < ratio < 1050, "the update is too long by the scale of 1024"
