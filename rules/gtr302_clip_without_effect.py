"""Gradients are clipped where no step uses what was clipped.

## What it does

Reports a clip of gradients that were just cleared and not yet back-propagated, or that an optimizer has already
applied and that are cleared before any other step. In a function that is called `step` (or `update`, `optimize`) and
does no more than that, a clip after the step. Also a clip inside a Lightning `training_step`, which runs before
Lightning's own backward.

## Why it is a trap

The clip runs, raises nothing, and returns a plausible norm (of gradients that were used already), or zero. No update
is ever limited by it. In the demo the clip allows updates of length 0.05; without effect, the longest update is many
times that.

## Known limits

False positives: gradients written by hand, in a way that cannot be seen, between the clearing and the clip.

False negatives: gradients whose owner is unknown while there are several optimizers; a clip of which only some of the
gradients were cleared or applied; a clip in front of another optimizer's step, which is GTR308; a loop whose backward
happens in code that cannot be seen.

The fix moves the clip in front of the step. It is unsafe: with a scaler, `unscale_` has to come first.

## Trap

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        clip_grad_norm_(model.parameters(), 1.0)
```

## Fixed

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
```

## References

- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
- [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
- [Lightning: gradient clipping](https://lightning.ai/docs/pytorch/stable/advanced/training_tricks.html#gradient-clipping)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    FunctionLeft,
    Owners,
    RunEnded,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import (
    Mark,
    MeetsOptimizers,
    by_hand,
    clip_site,
    concerns,
    forget,
    forget_touched,
    frame,
    graph_of,
    meet,
    overlap,
    rest,
    settle,
    tagged,
    touches,
)
from flake8_gradtrap.rule import Change, Remedy, Watch, on
from flake8_gradtrap.waiting import Waiting

LOGGING = re.compile(r"\b(log|log_dict|logger|logging|print|info|debug|add_scalar|set_postfix)\b")

STEPPING = re.compile(r"(^|[._])(\w*_step|step|optimi[sz]e\w*|train\w*|fit|learn|minimize|backward|apply_grad\w*)$")
"""What code that cannot be seen is called when it may step once more with gradients that were applied already."""

STEPS = re.compile(r"(optimizer_)?step|optimi[sz]e(_fn)?|update(_parameters|_weights)?|apply_grad(ient)?s")
"""What a function is called that does no more than a step."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A clip that may have come at the wrong time. `before`: what had happened to its gradients."""

    site: Site = field(compare=False)
    by: str
    owners: Owners
    before: Site | None = field(default=None, compare=False)
    scaled: bool = False
    doubtful: bool = False
    """Something was handed to code that cannot be seen, which may have gone backward."""
    cleared: frozenset[Hashable] = frozenset()
    """Optimizers that have cleared their gradients since, and so do not use what was clipped."""
    beside: bool = False
    """Gradients of others, which nobody has clipped, waited for their step."""

    def meet(self, other: Suspect | None) -> Any:
        """By force: a path that stands for one that clipped too late and one that did not has done so, too."""
        if other is None or self == other:
            return self
        if other.owners != self.owners:
            return NotImplemented
        doubtful, beside = self.doubtful or other.doubtful, self.beside or other.beside
        return replace(self, doubtful=doubtful, beside=beside, cleared=self.cleared & other.cleared)


@dataclass(frozen=True, slots=True)
class Last:
    """The step that was the last thing done to gradients."""

    site: Site = field(compare=False)
    owners: Owners
    scaler: Thing | None


class ClipWithoutEffect(MeetsOptimizers, Waiting):
    """In memory, by owners: "empty" (cleared, no backward since), "applied" (stepped, no backward since), "begun" (a
    backward was seen), "used" (a step was seen), "head" (cleared before any step of this path), "waiting"
    (a backward, no step since). Suspects, by site:
    "lost" (clipped when empty), "late" (clipped when applied), "early" (clipped before anything happened).

    Where it is not known whose gradients were clipped, "last" (the step that was the last thing done to gradients)
    makes a "late" suspect, and a finding when all optimizers of the path have cleared theirs before they step again;
    "first" are the optimizers that clear before any step of this path, should it be run again; "steps" says that its
    function is called like a step.

    Acquitted: clips that meet the gradients of a backward on some path (the rest of a window, after the loop)."""

    code = "GTR302"
    name = "clip-without-effect"
    summary = "Gradients are clipped after the step, or before the backward"
    fix = "unsafe"
    words = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads_with_norm_")

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        known = event.optimizer is not None or owners is not None
        watch.drop(("last",))
        if event.optimizer is not None and not watch.lossy and watch.get(("stepped", event.optimizer.key)) is None:
            watch.put(("first", event.optimizer.key), Mark(event.site))
        for key, suspect in tagged(watch, "late"):
            if known and concerns(watch, suspect.owners, owners):
                watch.drop(key)
                self.late(suspect, event.site)
            elif event.optimizer is not None and overlap(suspect.owners, owners) is None:
                suspect = replace(suspect, cleared=suspect.cleared | {event.optimizer.key})
                watch.put(key, suspect)
                if not self.users(suspect, watch):
                    watch.drop(key)
                    self.late(suspect, event.site)
        settle(watch, owners, "applied", "waiting")
        if not known:
            return
        watch.put(("empty", owners), Mark(event.site))
        if owners is None and event.optimizer is not None:
            watch.put(("emptier",), event.optimizer.key)
        if all(overlap(key[1], owners) is False for key, _ in tagged(watch, "used")):
            watch.put(("head", owners), Mark(event.site))

    @staticmethod
    def users(suspect: Suspect, watch: Watch) -> set[Hashable]:
        """The optimizers that may still use what was clipped."""
        seen = {key[1] for key, owners in tagged(watch, "optimizer") if overlap(owners, suspect.owners) is not False}
        return seen - suspect.cleared

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        owners = None if event.opaque else event.owners
        # What went in from out of sight may have been computed by whatever module.
        settle(watch, None if event.partial else owners, "empty", "applied")
        watch.drop(("last",))
        watch.put(("begun", owners), Mark(event.site))
        watch.put(("waiting", owners), Mark(event.site))
        watch.put(("walked",), Mark(event.site, graph_of(event)))
        if event.opaque:
            forget(watch, "late", "lost")
        for key, suspect in tagged(watch, "lost"):
            if suspect.doubtful and overlap(suspect.owners, owners) is not False:
                # Here is the backward: it was not where the loss, or what else it was, went before the clip.
                watch.put(key, replace(suspect, doubtful=False))

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.measures_only:
            return
        if by_hand(event):
            settle(watch, event.owners, "empty", "applied")
            return
        beside = any(key[1] is None or rest(key[1], event.owners) for key, _ in tagged(watch, "waiting"))
        suspect = Suspect(event.site, event.by, event.owners, beside=beside)
        watch.put(("limited",), (*watch.get(("limited",), ()), event.owners))
        empty = [(key[1], mark) for key, mark in tagged(watch, "empty")]
        applied = [(key[1], mark) for key, mark in tagged(watch, "applied")]
        if self.covers(empty, event.owners, watch):
            theirs, before = [one for one in empty if concerns(watch, one[0], event.owners)][-1]
            emptier = watch.get(("emptier",)) if theirs is None else None
            suspect = replace(suspect, cleared=frozenset({emptier} if emptier is not None else ()))
            watch.put(("lost", event.site), replace(suspect, before=before.site, doubtful=before.flag))
        elif self.covers(empty + applied, event.owners, watch):
            before = [mark for owners, mark in applied if concerns(watch, owners, event.owners)][-1]
            watch.put(("late", event.site), replace(suspect, before=before.site, scaled=before.scaler is not None))
        elif (step := watch.get(("last",))) is not None and overlap(step.owners, event.owners) is None:
            watch.put(("late", event.site), replace(suspect, before=step.site, scaled=step.scaler is not None))
        elif any(overlap(key[1], event.owners) is not False for key, _ in tagged(watch, "begun")):
            self.acquit(event.site.node)
        elif not watch.lossy and not tagged(watch, "begun", "empty", "applied"):
            watch.put(("early", event.site), suspect)

    def covers(self, premises: list[tuple[Owners, Mark]], owners: Owners, watch: Watch) -> bool:
        """Whether all gradients that are clipped fall under the premises."""
        if owners is not None and all(theirs is not None for theirs, _ in premises):
            return bool(premises) and owners <= frozenset().union(*(theirs or () for theirs, _ in premises))
        return any(concerns(watch, theirs, owners) for theirs, _ in premises)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.closure:
            forget(watch, "empty", "applied", "late", "lost", "early", "last")
            watch.put(("begun", None), Mark(event.site))
            watch.put(("used", None), Mark(event.site))
            return
        limited = any(overlap(theirs, owners) is not False for theirs in watch.get(("limited",), ()))
        for key, suspect in tagged(watch, "lost", "late"):
            if suspect.beside and overlap(suspect.owners, owners) is False and not limited:
                watch.drop(key)  # this step should have been limited: GTR308 says so
                self.acquit(suspect.site.node)
        watch.drop(("limited",))
        settle(watch, owners, "waiting")
        for key, suspect in tagged(watch, "lost"):
            if suspect.cleared and event.optimizer.key not in suspect.cleared:
                watch.drop(key)  # another optimizer had cleared its own: nobody knows what these two train
            elif concerns(watch, suspect.owners, owners):
                watch.drop(key)
                self.lost(suspect, event)
        for key, suspect in tagged(watch, "late"):
            if overlap(suspect.owners, owners) is not False and event.optimizer.key not in suspect.cleared:
                watch.drop(key)  # this step uses what was clipped
        watch.put(("last",), Last(event.site, owners, event.scaler))
        watch.put(("stepped", event.optimizer.key), True)
        watch.put(("applied", owners), Mark(event.site, scaler=event.scaler))
        watch.put(("used", owners), Mark(event.site))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if LOGGING.search(event.to):
            return
        forget_touched(watch, event, "empty", "applied")
        watch.drop(("last",))
        if STEPPING.search(event.to):
            for key, suspect in tagged(watch, "late"):
                if touches(watch, event, suspect.owners):
                    watch.drop(key)
        last = watch.get(("walked",))
        if all(last is not None and thing.key in last.walked for thing in event.things):
            return
        forget(watch, "early")
        for key, mark in tagged(watch, "empty"):
            watch.put(key, replace(mark, flag=True))
        watch.put(("begun", None), Mark(event.site))

    @on(FunctionLeft)
    def leave(self, event: FunctionLeft, watch: Watch) -> None:
        name = event.function.rpartition(".")[2]
        if event.site.caller is None and STEPS.fullmatch(name):
            watch.put(("steps",), True)
        if name != "training_step" or not event.values:
            return
        for key, suspect in tagged(watch, "early"):
            watch.drop(key)
            if not tagged(watch, "begun"):
                watch.report(
                    suspect.site,
                    "this clips before the backward that runs when `training_step` has returned: it limits nothing; "
                    "give the Trainer `gradient_clip_val`, or clip in `on_before_optimizer_step`",
                    trace=[
                        ("the gradients are clipped here", suspect.site),
                        ("the loss is only returned here", event.site),
                    ],
                )

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for key, suspect in tagged(watch, "lost"):
            watch.drop(key)
            self.lost(suspect, None)
        for key, suspect in tagged(watch, "late"):
            watch.drop(key)
            cleared = self.head(suspect, watch)
            if cleared is not None or self.steps_only(suspect, watch):
                self.late(suspect, cleared)
        if event.again:
            self.again(watch)
        super().ended(event, watch)

    @staticmethod
    def steps_only(suspect: Suspect, watch: Watch) -> bool:
        """Whether all that this path does is to step and to clip, and its function is called so: whoever calls it has
        gone backward before, and clears what was clipped, or adds to it.
        """
        seen = tagged(watch, "begun", "empty", "first")
        return bool(watch.get(("steps",))) and not (watch.lossy or suspect.doubtful or seen)

    def head(self, suspect: Suspect, watch: Watch) -> Site | None:
        """Where this path, should it be run again, clears what was clipped before it steps."""
        for other, mark in tagged(watch, "head"):
            if concerns(watch, suspect.owners, other[1]):
                site: Site = mark.site
                return site
        users = self.users(suspect, watch)
        firsts: dict[Hashable, Site] = {key[1]: mark.site for key, mark in tagged(watch, "first") if key[1] in users}
        return next(iter(firsts.values())) if users and len(firsts) == len(users) else None

    def again(self, watch: Watch) -> None:
        """The method runs again on the same objects: what its end cleared, its beginning clips."""
        for key, suspect in tagged(watch, "early"):
            watch.drop(key)
            if all(overlap(other[1], suspect.owners) is False for other, _ in tagged(watch, "begun")):
                continue  # the backward is not here: it may come between two calls
            for other, mark in tagged(watch, "empty"):
                if not mark.flag and concerns(watch, suspect.owners, other[1]):
                    self.lost(replace(suspect, before=mark.site), None)
                    break

    def lost(self, suspect: Suspect, step: Stepped | None) -> None:
        """A clip of gradients that were cleared."""
        if not suspect.doubtful and suspect.before is not None:
            moved = step.site if step is not None and step.scaler is None else None
            self.suspect(suspect.site.node, partial(self.tell, suspect, suspect.before, moved))

    def tell(self, suspect: Suspect, before: Site, step: Site | None, watch: Watch) -> None:
        place = clip_site(suspect.site, suspect.by, before)
        watch.report(
            place,
            f"this clips gradients that line {watch.line(before)} has cleared and no backward filled since: no "
            "update is ever limited; clip between `backward()` and `step()`",
            trace=[
                ("the gradients are cleared here", before),
                ("and clipped here, while there are none", place),
            ],
            remedy=self.move(suspect, place, step),
        )

    def late(self, suspect: Suspect, cleared: Site | None) -> None:
        """A clip of gradients that were applied already. `cleared`: where they are cleared, if that can be seen."""
        if suspect.before is not None:
            self.suspect(suspect.site.node, partial(self.tell_late, suspect, suspect.before, cleared))

    def tell_late(self, suspect: Suspect, before: Site, cleared: Site | None, watch: Watch) -> None:
        place = clip_site(suspect.site, suspect.by, before)
        then = f", and line {watch.line(cleared)} clears" if cleared is not None else ""
        watch.report(
            place,
            f"this clips gradients that the step at line {watch.line(before)} has already applied{then}: no update is "
            "ever limited; clip before the step",
            trace=[
                ("the gradients are applied here", before),
                ("clipped here, after that", place),
                *([("and cleared here, before any other step", cleared)] if cleared is not None else []),
            ],
            remedy=self.move(suspect, place, None if suspect.scaled else before),
        )

    def move(self, suspect: Suspect, place: Site, step: Site | None) -> Remedy | None:
        if step is None or place.node == step.node or frame(place) != frame(step):
            return None
        change = Change("move-before", place, target=step)
        return Remedy("Move the clip in front of the step", (change,), safe=False)


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates, norms = [], []
    for _ in range(5):
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        norm = clip_grad_norm_(model.parameters(), 0.1)
        norms.append(norm.item())
        after = parameters_to_vector(model.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"longest update": max(updates), "update that the clip allows": 0.5 * 0.1, "norm that it returned": norms[0]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates, norms = [], []
    for _ in range(5):
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), 0.1)
        norms.append(norm.item())
        optimizer.step()
        after = parameters_to_vector(model.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"longest update": max(updates), "update that the clip allows": 0.5 * 0.1, "norm that it returned": norms[0]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["norm that it returned"] > 0.1, "the clip returns a plausible norm"
    assert trapped["longest update"] > 5 * trapped["update that the clip allows"]
    assert fixed["longest update"] <= fixed["update that the clip allows"] * 1.001
