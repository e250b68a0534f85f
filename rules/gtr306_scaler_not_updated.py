"""A gradient scaler steps again without `update()`, or is updated while gradients that it scaled wait for their step.

## What it does

Reports a second `scaler.step(optimizer)` of the same optimizer with no `scaler.update()` since the first. Also
`scaler.update()` at a moment when another optimizer still holds gradients that were scaled before it, and steps
through the scaler after it.

## Why it is a trap

The first is loud: `step() has already been called since the last update()`, in the second iteration. The second is
silent: `update` changes the scale whenever it grows or an overflow is found, and the waiting gradients, multiplied by
the old scale, are divided by the new one. In the demo they come out half as large as they are. Where the waiting
optimizer was unscaled before the update, the update forgets it, and the step divides its gradients by the scale once
more.

## Known limits

False positives: `update()` and `step` under conditions that exclude each other in a way that cannot be seen.

False negatives: gradients whose owner is unknown; `update(new_scale)`, which is taken to be meant; a scaler handed to
code that cannot be seen, or updated in a closure of which nobody sees who calls it.

## Trap

```python
import torch


def train(encoder, decoder, loader, criterion):
    first = torch.optim.SGD(encoder.parameters(), lr=0.1)
    second = torch.optim.SGD(decoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        first.zero_grad()
        second.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(decoder(encoder(x)), y)
        scaler.scale(loss).backward()
        scaler.step(first)
        scaler.update()
        scaler.step(second)
        scaler.update()
```

## Fixed

```python
import torch


def train(encoder, decoder, loader, criterion):
    first = torch.optim.SGD(encoder.parameters(), lr=0.1)
    second = torch.optim.SGD(decoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        first.zero_grad()
        second.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(decoder(encoder(x)), y)
        scaler.scale(loss).backward()
        scaler.step(first)
        scaler.step(second)
        scaler.update()
```

## References

- [Working with multiple models, losses, and optimizers](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers)
- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Escaped,
    FileEnded,
    IterationStarted,
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
    InLoops,
    Mark,
    MeetsOptimizers,
    forget,
    forget_touched,
    graph_of,
    meet,
    of_others,
    overlap,
    quoted,
    settle,
    tagged,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Tell, WaitingForFile

ASKS = re.compile(r"(^|[._])scaler\._(?!maybe|update)\w+$")
"""What reads the inner state of a scaler, which is no update of it."""


PRIVATE = re.compile(r"^self\._[a-z]\w*$")
"""How a private attribute of an object is written."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Gradients that were scaled before an update of their scaler. `walked`, `scaler`: as in Mark."""

    update: Site = field(compare=False)
    backward: Site = field(compare=False)
    scaler: Thing
    unscaled: bool
    walked: frozenset[Hashable] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Pending:
    """A method of an object stepped through a scaler, and ended without an update.

    `backward`: where the gradients came from, if the method itself went backward. `whole`: it cleared them, too.
    """

    step: Site
    scaler: Thing
    optimizer: Thing
    backward: Site | None
    whole: bool


class ScalerNotUpdated(MeetsOptimizers, InLoops, WaitingForFile):
    """In memory: "stepped" (scaler, optimizer; its flag: a backward came since), and by owners "scaled" (its flag:
    unscaled already) and "stale" gradients; "fed" (a scaler whose scaled loss was back-propagated), "cleared".

    Acquitted: scalers that are updated, or handed to code that cannot be seen, on whatever path; the names of such."""

    code = "GTR306"
    name = "scaler-not-updated"
    summary = "A gradient scaler steps twice without an update, or is updated before the last optimizer has stepped"
    words = ("GradScaler", "scaler")
    waits = (*WaitingForFile.waits, "pending", "repeated", "seen")

    def __init__(self) -> None:
        super().__init__()
        self.fed: set[Hashable] = set()
        """Scalers whose scaled loss is back-propagated, on whatever path."""
        self.pending: dict[tuple[Hashable, Hashable], Pending] = {}
        """Methods that step without an update, by object and scaler."""
        self.seen: dict[Hashable, tuple[Thing, Tell]] = {}
        """Second steps that a path has shown, by their place."""
        self.repeated: dict[Hashable, tuple[Pending, frozenset[Hashable]]] = {}
        """Steps in loops that began after their scaler was made, with these loops."""
        self.going_on: set[Hashable] = set()
        """Loops that go on after such a step."""
        self.loops: dict[Hashable, frozenset[Hashable]] = {}
        """For each scaler that the file makes, the loops that were running."""
        self.anywhere: frozenset[Hashable] = frozenset()
        """And for all of them: a step may be that of one of several."""

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        if event.index and self.repeated and (watch.lossy or tagged(watch, "stepped")):
            self.going_on.add(event.loop)

    @on(ScalerMade)
    def scaler(self, event: ScalerMade, watch: Watch) -> None:
        self.loops[event.scaler.key] = self.running(watch)
        self.anywhere |= self.running(watch)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "stepped", "scaled", "stale")
            return
        for key, mark in tagged(watch, "stepped"):
            watch.put(key, replace(mark, flag=True))
        settle(watch, event.owners, "stale")
        if event.scaler is not None:
            self.fed.add(event.scaler.key)
            watch.put(("fed", event.scaler.key), Mark(event.site))
        if event.scaler is not None and event.owners is not None:
            watch.put(("scaled", event.owners, event.scaler.key), Mark(event.site, graph_of(event), event.scaler))

    @on(Unscaled)
    def unscale(self, event: Unscaled, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, mark in tagged(watch, "scaled"):
            if key[2] != event.scaler.key or overlap(key[1], owners) is False:
                continue
            watch.drop(key)
            if owners is not None:
                watch.put(("scaled", key[1] & owners, key[2]), replace(mark, flag=True))
                if rest := of_others(watch, key[1] - owners, event.optimizer):
                    watch.put(("scaled", rest, key[2]), mark)

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        if event.optimizer is None and event.owners is None:  # between two calls of a method, anything may happen
            forget(watch, "stepped")
        else:
            watch.put(("cleared",), True)
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "stale")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "scaled", "stale")
        keys = {thing.key for thing in event.things}
        if not RESTORING.search(event.to) and not ASKS.search(event.to):
            self.acquit(*keys)
        for key, _ in tagged(watch, "stepped"):
            if key[1] in keys:
                watch.drop(key)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.scaler is not None:
            for key, stale in tagged(watch, "stale"):
                if key[2] == event.scaler.key and overlap(key[1], owners):
                    self.outdated(stale, event, watch)
            key = ("stepped", event.scaler.key, event.optimizer.key)
            before = watch.get(key)
            if before is not None and (before.flag or before.site != event.site):
                self.seen.setdefault(event.site.node, (event.scaler, partial(self.again, before.site, event)))
            watch.put(key, Mark(event.site, scaler=event.scaler))
            watch.put(("optimizer of", event.optimizer.key), event.optimizer)
            loops = self.running(watch) - self.loops.get(event.scaler.key, self.anywhere)
            if self.loops and loops:
                fed: Mark | None = watch.get(("fed", event.scaler.key))
                step = Pending(event.site, event.scaler, event.optimizer, fed.site if fed is not None else None, True)
                self.repeated.setdefault(event.scaler.key, (step, loops))
        settle(watch, owners, "scaled", "stale")

    @on(ScalerUpdated)
    def update(self, event: ScalerUpdated, watch: Watch) -> None:
        self.acquit(event.scaler.key, event.scaler.label.rpartition(".")[2])
        for key, _ in tagged(watch, "stepped"):
            if key[1] == event.scaler.key:
                watch.drop(key)
        for key, mark in tagged(watch, "scaled"):
            if key[2] == event.scaler.key:
                watch.drop(key)
                if not event.explicit:
                    stale = Stale(event.site, mark.site, event.scaler, mark.flag, mark.walked)
                    watch.put(("stale", key[1], key[2]), stale)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        if event.instance is None:
            return
        for key, mark in tagged(watch, "stepped"):
            fed: Mark | None = watch.get(("fed", key[1]))
            pending = Pending(
                mark.site,
                mark.scaler,
                watch.get(("optimizer of", key[2])),
                fed.site if fed is not None else None,
                fed is not None and watch.get(("cleared",), False),
            )
            known = self.pending.get((event.instance.key, key[1]))
            if known is None or pending.whole > known.whole:
                self.pending[event.instance.key, key[1]] = pending

    @on(FileEnded)
    def known(self, event: FileEnded, watch: Watch) -> None:
        """Judge the steps of objects whose class is known as a whole, and those in loops: does anything ever update the
        scaler? Where paths are many, the second step may not be known to follow the first one.
        """
        classes = {whole.instance.key: whole for whole in event.classes}
        for stepping, tell in self.seen.values():
            if not elsewhere(stepping, event):
                tell(watch)
        for (instance, scaler), pending in self.pending.items():
            whole = classes.get(instance)
            if whole is None:
                continue
            private = PRIVATE.search(pending.scaler.label) is not None  # who else would update it?
            its_own = private or any(thing.key == scaler for thing in whole.made)
            if (whole.bases_seen and scaler in self.fed and its_own) or pending.whole:
                self.doubt(scaler, pending, event)
        for scaler, (pending, loops) in self.repeated.items():
            if scaler in self.fed and not loops.isdisjoint(self.going_on):
                self.doubt(scaler, pending, event)
        super().known(event, watch)

    def doubt(self, scaler: Hashable, pending: Pending, event: FileEnded) -> None:
        if not elsewhere(pending.scaler, event):
            self.suspect((scaler, pending.scaler.label.rpartition(".")[2]), partial(self.never, pending))

    def never(self, pending: Pending, watch: Watch) -> None:
        scaler, optimizer = quoted(pending.scaler, "this scaler"), quoted(pending.optimizer, "the optimizer")
        call = f"`{pending.scaler.label}.update()`" if pending.scaler.label else "`scaler.update()`"
        watch.report(
            pending.step,
            f"{scaler} steps {optimizer}, and nothing ever updates it: the second step raises `RuntimeError`; call "
            f"{call} after the step",
            trace=[
                *([("the scaled loss is back-propagated here", pending.backward)] if pending.backward else []),
                ("the scaler steps here, and no update follows, here or elsewhere", pending.step),
            ],
        )

    def again(self, before: Site, event: Stepped, watch: Watch) -> None:
        scaler, optimizer = quoted(event.scaler, "this scaler"), quoted(event.optimizer, "the optimizer")
        call = f"`{event.scaler.label}.update()`" if event.scaler and event.scaler.label else "`scaler.update()`"
        watch.report(
            event.site,
            f"{scaler} steps {optimizer} again with no update since line {watch.line(before)}: this raises "
            f"`RuntimeError`; call {call} after the last step of each iteration",
            trace=[("the scaler steps the optimizer here", before), ("and again here, without an update", event.site)],
        )

    def outdated(self, stale: Stale, event: Stepped, watch: Watch) -> None:
        optimizer = quoted(event.optimizer, "an optimizer")
        step = watch.line(event.site)
        if stale.unscaled:
            what = f"the step at line {step} divides gradients of {optimizer} by the scale once more"
        else:
            what = (
                f"{optimizer} holds gradients scaled at line {watch.line(stale.backward)}, which its step at line "
                f"{step} divides by another scale whenever this one changes it"
            )
        watch.report(
            stale.update,
            f"{what}; update {quoted(stale.scaler, 'the scaler')} once, after the last step",
            trace=[
                ("the scaled loss is back-propagated here", stale.backward),
                ("the scale may change here", stale.update),
                ("these gradients are divided by it only here", event.site),
            ],
        )


def elsewhere(scaler: Thing, event: FileEnded) -> bool:
    """Whether something that was not run may update a scaler: a closure that is handed out of sight."""
    return any({"update", scaler.label.rpartition(".")[2]} <= words for words in event.unrun)


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    encoder, decoder = nn.Linear(8, 16).to(device), nn.Linear(16, 1).to(device)
    first = torch.optim.SGD(encoder.parameters(), lr=0.1)
    second = torch.optim.SGD(decoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates = []
    for _ in range(3):
        before = parameters_to_vector(decoder.parameters()).detach().clone()
        first.zero_grad()
        second.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(decoder(encoder(x).tanh()), y)
        scaler.scale(loss).backward()
        scaler.step(first)
        scaler.update()
        scaler.step(second)
        scaler.update()
        after = parameters_to_vector(decoder.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"length of the decoder's first update": updates[0]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    encoder, decoder = nn.Linear(8, 16).to(device), nn.Linear(16, 1).to(device)
    first = torch.optim.SGD(encoder.parameters(), lr=0.1)
    second = torch.optim.SGD(decoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    updates = []
    for _ in range(3):
        before = parameters_to_vector(decoder.parameters()).detach().clone()
        first.zero_grad()
        second.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(decoder(encoder(x).tanh()), y)
        scaler.scale(loss).backward()
        scaler.step(first)
        scaler.step(second)
        scaler.update()
        after = parameters_to_vector(decoder.parameters()).detach()
        updates.append((after - before).norm().item())
    return {"length of the decoder's first update": updates[0]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    ratio = trapped["length of the decoder's first update"] / fixed["length of the decoder's first update"]
    assert 0.49 < ratio < 0.51, "gradients times 64 were divided by 128"
