"""Gradients are clipped while they are still multiplied by the scaler's loss scale.

## What it does

Reports a clip (`clip_grad_norm_`, `clip_grad_value_`, or a visible clip of your own) of gradients that come from
`scaler.scale(loss).backward()`, where no `scaler.unscale_(optimizer)` stands between that backward and the clip.

## Why it is a trap

Until `unscale_`, or `scaler.step`, divides them, all gradients are multiplied by the loss scale: 65,536 at the start.
The norm that the clip sees is that much too large, so that it clips in every step, to the full; `scaler.step` then
divides what is left by the scale once more. In the demo, under SGD and with a scale of 1,024, the update is 1/1024 of
what the clip allows: the model stands still, and the loss is printed as ever. An Adam optimizer hides most of this,
because it divides gradients by their own size; then every step is clipped to the same length, and the threshold means
nothing.

## Known limits

False positives: a condition that decides about `unscale_` in a way that cannot be seen to agree with the clip's.

False negatives: gradients whose owner is unknown while there are several optimizers; a scaler, model or optimizer
handed to code that cannot be seen before the clip; a loss scale multiplied by hand; a clip without `unscale_` on one
side of a condition, if the gradients of the same backward are unscaled on the other and every loss is scaled.

There is a fix where scaler and optimizer have names at the clip. Where some other path already unscales that
optimizer, a second `unscale_` would raise, and there is none.

## Trap

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
```

## Fixed

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
```

## References

- [Working with unscaled gradients](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping)
- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    LoopStarted,
    Owners,
    RunEnded,
    ScalerUpdated,
    Site,
    Stepped,
    Thing,
    Unscaled,
)
from flake8_gradtrap.gradients import (
    Mark,
    MeetsOptimizers,
    alone,
    by_hand,
    clip_site,
    common,
    forget,
    forget_touched,
    graph_of,
    lift,
    meet,
    of_others,
    overlap,
    plain,
    quoted,
    settle,
    tagged,
)
from flake8_gradtrap.rule import Change, Remedy, Watch, on
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Suspect:
    """A clip of scaled gradients, kept until the optimizer is known that it should have unscaled."""

    site: Site = field(compare=False)
    backward: Site = field(compare=False)
    by: str
    scaler: Thing | None
    owners: Owners
    certain: bool
    optimizers: tuple[Thing, ...] = ()
    steps: tuple[Stepped, ...] = field(default=(), compare=False)
    fixable: bool = True
    mixed: bool = False
    """On the same path, those of this backward were unscaled in an earlier step: no setting decides."""
    merged: bool = False
    """The path stands for another one, too, which may have other optimizers."""

    def meet(self, other: Suspect | None) -> Any:
        """By force: some path has clipped them as they were, and what that path does next, the merged one does."""
        if other is None:
            return replace(self, merged=True)
        if other.owners != self.owners:
            return NotImplemented
        return replace(
            self,
            certain=self.certain and other.certain,
            optimizers=tuple(dict.fromkeys((*self.optimizers, *other.optimizers))),
            steps=(*self.steps, *other.steps),
            fixable=self.fixable and other.fixable,
            mixed=self.mixed and other.mixed,
            merged=True,
        )


class ClipBeforeUnscale(MeetsOptimizers, Waiting):
    """In memory, by owners: "scaled" gradients, "ready" ones, which were unscaled; by clip: "clipped" ones; "fine": a
    backward whose gradients were unscaled, and clipped then.

    Acquitted: backwards whose gradients another path unscales before it clips them, in a program that scales always:
    a condition decides (`if use_amp: scaler.unscale_(optimizer)`), and the path without may not exist.
    """

    code = "GTR301"
    name = "clip-before-unscale"
    summary = "Gradients are clipped while they are still multiplied by the loss scale"
    fix = "safe"
    words = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads_with_norm_", "GradScaler", "scaler")

    def __init__(self) -> None:
        super().__init__()
        self.scaling: set[Hashable] = set()
        """Backwards of a scaled loss, on whatever path."""
        self.plain: set[Hashable] = set()
        """Those of one that is not."""
        self.unscaled: set[Hashable] = set()
        """Optimizers (with their scaler) that are unscaled on some path: a second `unscale_` there would raise."""

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "scaled")
        elif event.scaler is not None or event.scaled:
            self.scaling.add(event.site.node)
            key = event.scaler.key if event.scaler is not None else None
            watch.put(("scaled", event.owners, key), Mark(event.site, graph_of(event), event.scaler))
        else:
            self.plain.add(event.site.node)

    def acquitted(self, place: Hashable) -> bool:
        """Where the program itself asks whether to scale, it has to ask the same before it unscales."""
        return self.plain <= self.scaling and super().acquitted(place)

    @on(Unscaled)
    def unscale(self, event: Unscaled, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.optimizer is not None:
            self.unscaled.add((event.scaler.key, event.optimizer.key))
        for key, mark in tagged(watch, "scaled"):
            if mark.scaler is None or mark.scaler.key == event.scaler.key:
                related = overlap(key[1], owners)
                if related is not False:
                    watch.drop(key)
                    watch.put(("ready", common(key[1], owners)), mark)
                if related and (rest := of_others(watch, key[1] - owners, event.optimizer)):
                    watch.put(("scaled", rest, key[2]), mark)
        for key, suspect in tagged(watch, "clipped"):
            if overlap(suspect.owners, owners) is not False:
                watch.put(key, replace(suspect, fixable=False))

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.rescales:  # by hand, perhaps by the scale
            settle(watch, event.owners, "scaled")
        if by_hand(event):
            settle(watch, event.owners, "scaled")
        if event.measures_only or event.rescales:
            return
        early = {suspect.backward.node for _, suspect in tagged(watch, "clipped")}
        for key, mark in tagged(watch, "ready"):
            if overlap(event.owners, key[1]) is not False and mark.site.node not in early:
                self.acquit(mark.site.node)
                watch.put(("fine", mark.site.node), True)
        for key, mark in tagged(watch, "scaled"):
            related = overlap(event.owners, key[1])
            if related is not False:
                watch.put(
                    ("clipped", event.site, key[2]),
                    Suspect(
                        site=event.site,
                        backward=mark.site,
                        by=event.by,
                        scaler=mark.scaler,
                        owners=common(event.owners, key[1]),
                        certain=related is True,
                        mixed=watch.get(("fine", mark.site.node), False),
                    ),
                )

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        """A step in a loop of its own (`for optimizer in optimizers`) has a name that does not exist at the clip."""
        for key, suspect in tagged(watch, "clipped"):
            watch.put(key, replace(suspect, fixable=False))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, suspect in tagged(watch, "clipped"):
            if event.scaler is None or (suspect.scaler is not None and suspect.scaler.key != event.scaler.key):
                continue
            related = overlap(suspect.owners, owners)
            if related:
                watch.drop(key)
                self.keep(suspect, event)
            elif related is None and event.optimizer not in suspect.optimizers:
                watch.put(
                    key,
                    replace(
                        suspect,
                        optimizers=(*suspect.optimizers, event.optimizer),
                        steps=(*suspect.steps, event),
                    ),
                )
        settle(watch, owners, "scaled", "ready")

    @on(ScalerUpdated)
    def update(self, event: ScalerUpdated, watch: Watch) -> None:
        for key, suspect in tagged(watch, "clipped"):
            if suspect.scaler is None or suspect.scaler.key == event.scaler.key:
                watch.drop(key)
                self.decide(suspect, watch)
        for key, mark in tagged(watch, "scaled"):
            if mark.scaler is None or mark.scaler.key == event.scaler.key:
                watch.drop(key)

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "ready")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "scaled")

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for key, suspect in tagged(watch, "clipped"):
            watch.drop(key)
            self.decide(suspect, watch)
        super().ended(event, watch)

    def decide(self, suspect: Suspect, watch: Watch) -> None:
        """Report a clip for which no step named the optimizer for certain."""
        only = not suspect.merged and alone(watch, suspect.owners)
        if suspect.certain or only:
            self.keep(suspect, suspect.steps[0] if only and suspect.steps else None)

    def keep(self, suspect: Suspect, step: Stepped | None) -> None:
        place = (suspect.backward.node, suspect.site.node)
        self.suspect((place,) if suspect.mixed else place, partial(self.tell, suspect, step))

    def tell(self, suspect: Suspect, step: Stepped | None, watch: Watch) -> None:
        scaler = quoted(suspect.scaler, "the scaler")
        if step is not None and step.scaler is not None and step.scaler.label and step.optimizer.label:
            call = f"`{step.scaler.label}.unscale_({step.optimizer.label})`"
        else:
            call = "`unscale_(optimizer)`"
        place = clip_site(suspect.site, suspect.by, step.site if step is not None else suspect.backward)
        watch.report(
            place,
            f"this clips gradients that {scaler} scaled at line {watch.line(suspect.backward)} and nobody unscaled: "
            f"what it sees is too large by the loss scale, and the update is cut to almost nothing; "
            f"call {call} before it",
            trace=[
                ("the scaled loss is back-propagated here", suspect.backward),
                ("the gradients are clipped here, still scaled", place),
                *([("they are unscaled only here, inside the step", step.site)] if step is not None else []),
            ],
            remedy=self.remedy(suspect, step),
        )

    def remedy(self, suspect: Suspect, step: Stepped | None) -> Remedy | None:
        if step is None or step.scaler is None or not suspect.fixable:
            return None
        place, backward = lift(suspect.site, step.site), lift(suspect.backward, step.site)
        if place is None or place == backward or not (plain(step.scaler.label) and plain(step.optimizer.label)):
            return None
        if (step.scaler.key, step.optimizer.key) in self.unscaled:
            return None
        line = f"{step.scaler.label}.unscale_({step.optimizer.label})"
        return Remedy("Unscale the gradients before the clip", (Change("statement-before", place, line),))


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(model.parameters()).detach().clone()
    norms = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        norm = clip_grad_norm_(model.parameters(), 0.1)
        norms.append(norm.item())
        scaler.step(optimizer)
        scaler.update()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm()
    return {"first norm seen by the clip": norms[0], "distance moved": moved.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(model.parameters()).detach().clone()
    norms = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = clip_grad_norm_(model.parameters(), 0.1)
        norms.append(norm.item())
        scaler.step(optimizer)
        scaler.update()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm()
    return {"first norm seen by the clip": norms[0], "distance moved": moved.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    seen = trapped["first norm seen by the clip"] / fixed["first norm seen by the clip"]
    assert 1000 < seen < 1050, "the clip sees the norm times the scale of 1024"
    assert fixed["distance moved"] / trapped["distance moved"] > 500, (
        "the update is divided by the scale once too often"
    )
