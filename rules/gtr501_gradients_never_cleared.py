"""An optimizer steps again with gradients of which it has already applied a part.

## What it does

Reports "backward, step, backward, step" of one optimizer where nothing clears its gradients in between: no
`zero_grad` of the optimizer or of the module, no `p.grad = None`. The finding stands at the second backward.

## Why it is a trap

`backward()` adds to `.grad`. Without clearing, each step applies the sum of all gradients since the start, which is a
momentum that never forgets. The loss falls at first, and then swings, as it does when the learning rate is too high.
The demo compares the norm of the gradient that the last step uses with the norm of a fresh one.

## Known limits

False positives: a loop whose steps do not matter, like a probe for the largest batch that fits.

False negatives: tests, and functions called `test…`, `bench…`, `profile…`, `time…`, `measure…` or `speed…` that look at
a clock: what they train is thrown away. Whatever cannot be seen counts as clearing: a model or optimizer handed to code
that cannot be seen (a loss function that is given one model only computes with it; given several, it may clear them),
an engine that steps and clears; a clearing under any condition. Gradients whose owner is unknown while several
optimizers step or clear in the loop. A step function whose callers cannot be seen, because they may clear; two steps at
different places.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
```

## References

- [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html)
- [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
- [Zeroing out gradients](https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Escaped,
    IterationStarted,
    LoopStarted,
    OptimizerMade,
    Owners,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import (
    InLoops,
    Mark,
    alone,
    common,
    computes_loss,
    forget,
    graph_of,
    meet,
    overlap,
    quoted,
    rest,
    tagged,
    touches,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Applied:
    """Gradients that an optimizer has applied, and that are still there.

    `steps`: the places that applied them, `loops`: those that were running then. `again`: a backward that added to
    them.
    """

    owners: Owners
    step: Site = field(compare=False)
    steps: frozenset[Hashable]
    again: Site | None = None
    loops: frozenset[Hashable] = frozenset()
    within: frozenset[Hashable] = frozenset()
    """Those of `loops` that have not begun anew since: the next step follows in the same run of them."""
    certain: bool = False
    settled: bool = False
    """Whether `again` belongs to the iteration of the next step."""
    walked: frozenset[Hashable] = field(default=frozenset(), compare=False)
    inner: Hashable = None
    """The innermost of `loops`."""
    beside: bool = False
    """Whether `again` ran in it."""

    def meet(self, other: Applied | None) -> Any:
        """By force: some path has applied them. Whatever clears in these loops counts from then on."""
        if other is None:
            return self
        if other.owners != self.owners:
            return NotImplemented
        return replace(
            self,
            steps=self.steps | other.steps,
            again=self.again or other.again,
            loops=self.loops | other.loops,
            within=self.within & other.within,
            certain=self.certain and other.certain,
            settled=self.settled and other.settled,
            walked=self.walked | other.walked,
            inner=self.inner if self.inner == other.inner else None,
            beside=self.beside and other.beside and self.inner == other.inner,
        )


@dataclass(frozen=True, slots=True)
class Clearing:
    """That gradients were cleared after these steps, which were taken in these loops."""

    steps: frozenset[Hashable]
    loops: frozenset[Hashable]


class GradientsNeverCleared(Waiting, InLoops):
    """In memory, by optimizer: "applied" gradients, and "clearing"; "walk": what was back-propagated for the next
    step (with the flag: for the last one).

    Acquitted: steps between which another path clears the gradients: a condition decides, and the path without may not
    exist (`if i % k == 0: zero_grad()` and `if (i + 1) % k == 0: step()`).
    """

    code = "GTR501"
    name = "gradients-never-cleared"
    summary = "An optimizer applies gradients again that it has already applied, because nothing cleared them"
    words = ("backward",)

    def __init__(self) -> None:
        super().__init__()
        self.acting: dict[Hashable, set[str]] = {}
        """What optimizers are called that step or clear in a loop, on whatever path."""
        self.clears: set[tuple[frozenset[Hashable], Owners, Hashable]] = set()
        """Every clearing in a loop: the loops that were running, and what it clears."""

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        meet(watch, event.optimizer, event.owners)
        watch.drop(("applied", event.optimizer.key))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.optimizer is not None:
            for loop in self.running(watch):
                self.acts(event.optimizer, loop)
        cleared = event.optimizer.key if event.optimizer is not None else None
        self.clears.add((self.running(watch), owners, cleared))
        for key, applied in tagged(watch, "applied"):
            if overlap(applied.owners, owners) is not False:
                watch.put(("clearing", key[1]), Clearing(applied.steps, applied.loops))
            if event.optimizer is not None and key[1] == event.optimizer.key:
                watch.drop(key)
            elif overlap(applied.owners, owners) is not False:
                left = rest(applied.owners, owners)
                watch.drop(key)
                if left:
                    watch.put(key, replace(applied, owners=left))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "applied")
            return
        earlier: Mark | None = watch.get(("walk",))
        graph = graph_of(event) if earlier is None or earlier.flag else earlier.walked | graph_of(event)
        watch.put(("walk",), Mark(event.site, graph))
        running = self.running(watch)
        for key, applied in tagged(watch, "applied"):
            related = overlap(applied.owners, event.owners)
            if related is False:
                continue
            first = not applied.settled
            watch.put(
                key,
                replace(
                    applied,
                    owners=common(applied.owners, event.owners) if related is None else applied.owners,
                    again=event.site if first else applied.again,
                    certain=applied.certain or related is True,
                    settled=True,
                    walked=applied.walked | graph,
                    beside=applied.inner in running if first else applied.beside,
                ),
            )

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        for key, applied in tagged(watch, "applied"):
            if applied.settled:
                watch.put(key, replace(applied, settled=False))

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        for key, clearing in tagged(watch, "clearing"):
            if event.loop in clearing.loops:  # cleared between two runs of the loop, not within
                watch.drop(key)
        for key, applied in tagged(watch, "applied"):
            if event.loop in applied.within:
                watch.put(key, replace(applied, within=applied.within - {event.loop}))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        if computes_loss(watch, event):
            return
        keys = {thing.key for thing in event.things if not thing.harmless}
        for key, applied in tagged(watch, "applied"):
            if key[1] in keys or touches(watch, event, applied.owners, applied.walked):
                watch.drop(key)  # they may be cleared there: on this path, and where a condition says so
                watch.put(("clearing", key[1]), Clearing(applied.steps, applied.loops))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        key = ("applied", event.optimizer.key)
        applied: Applied | None = watch.get(key)
        watch.drop(key)
        clearing: Clearing | None = watch.get(("clearing", event.optimizer.key))
        if clearing is not None:
            watch.drop(("clearing", event.optimizer.key))
            self.acquit(*clearing.steps & {event.site.node})
        if event.closure:  # the closure clears and goes backward, as often as the optimizer likes
            return
        steps = applied.steps if applied is not None else frozenset()
        inner = next(reversed([loop for (_, loop), _ in tagged(watch, "active")]), None)
        self.acts(event.optimizer, inner)
        if (
            applied is not None
            and not event.trial
            and applied.again is not None
            and event.site.node in steps
            and not (watch.lossy and self.may_be_cleared(applied, event, owners))
        ):
            tell = partial(self.tell, applied, applied.again, event)
            if applied.certain or alone(watch, owners):
                self.suspect(event.site.node, tell)
            elif applied.beside and applied.inner == inner:
                self.suspect((event.site.node, ("crowd", inner)), tell)
        walk: Mark | None = watch.get(("walk",))
        if walk is not None:
            watch.put(("walk",), replace(walk, flag=True))
        running = self.running(watch)
        watch.put(
            key,
            Applied(
                owners,
                event.site,
                steps | {event.site.node},
                loops=running,
                within=running,
                inner=inner,
                walked=walk.walked if walk is not None else frozenset(),
            ),
        )

    def acts(self, optimizer: Thing, loop: Hashable) -> None:
        """An optimizer steps or clears in a loop. Where it is the only one, what goes backward there is its own."""
        labels = self.acting.setdefault(loop, set())
        labels.add(optimizer.label)
        if len(labels) > 1 or not optimizer.label:
            self.acquit(("crowd", loop))

    def may_be_cleared(self, applied: Applied, event: Stepped, owners: Owners) -> bool:
        """Whether anything in the loops of two steps clears their gradients, on a path that may have been forgotten.

        What stands outside of a loop that both belong to, in the same run of it, cannot come between them.
        """
        return any(
            not loops.isdisjoint(applied.loops)
            and applied.within <= loops
            and (cleared == event.optimizer.key or overlap(theirs, owners) is not False)
            for loops, theirs, cleared in self.clears
        )

    def tell(self, applied: Applied, again: Site, event: Stepped, watch: Watch) -> None:
        optimizer = event.optimizer
        call = f"`{optimizer.label}.zero_grad()`" if optimizer.label else "`zero_grad()`"
        watch.report(
            again,
            f"this adds to gradients that {quoted(optimizer, 'the optimizer')} has already applied at line "
            f"{watch.line(applied.step)} and nobody cleared: each step applies all gradients since the start; "
            f"call {call} before it",
            trace=[
                ("the gradients are applied here", applied.step),
                ("the next ones are added to them here", again),
                ("and all of them are applied here", event.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    for _ in range(10):
        loss = nn.functional.mse_loss(model(x), y)
        fresh = torch.autograd.grad(loss, model.weight, retain_graph=True)[0].norm().item()
        loss.backward()
        optimizer.step()
    assert model.weight.grad is not None
    return {"norm that the last step used": model.weight.grad.norm().item(), "norm of its own gradient": fresh}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        fresh = torch.autograd.grad(loss, model.weight, retain_graph=True)[0].norm().item()
        loss.backward()
        optimizer.step()
    assert model.weight.grad is not None
    return {"norm that the last step used": model.weight.grad.norm().item(), "norm of its own gradient": fresh}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["norm that the last step used"] > 3 * trapped["norm of its own gradient"], "ten gradients in one"
    assert abs(fixed["norm that the last step used"] / fixed["norm of its own gradient"] - 1) < 1e-3
