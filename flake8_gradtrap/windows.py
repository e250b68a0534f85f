"""What rules share that watch accumulation windows: several backwards, then one step.

A window is known by the test that asks whether it is full (`(i + 1) % k == 0`), or by an inner loop over its
micro-batches. What happened in an iteration in which it was not full is remembered with the test; that a step follows
where the same test holds is remembered apart, whichever comes first: both together make a window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    Owners,
    RunEnded,
    Site,
    Stepped,
    Thing,
    Weights,
    WindowTested,
)
from flake8_gradtrap.gradients import (
    InLoops,
    MeetsOptimizers,
    by_hand,
    clip_site,
    concerns,
    forget,
    graph_of,
    meet,
    overlap,
    tagged,
    touches,
)
from flake8_gradtrap.levels import Level
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

ACCUMULATES = re.compile(r"acc?um|grad_acc|micro|iter_size|subdivision|update_freq|virtual_batch", re.IGNORECASE)
"""What the size of a window is called, where only the name says that a loop runs over micro-batches."""


@dataclass(frozen=True, slots=True)
class Window:
    """An accumulation window: the test (or the inner loop) that knows when it is full, and its size."""

    test: Hashable
    loop: Hashable
    site: Site = field(compare=False)
    every: Thing = field(compare=False)
    size: float | None = None

    def spoken(self, otherwise: str = "k") -> str:
        """Its size for a message."""
        return self.every.label or otherwise


@dataclass(frozen=True, slots=True)
class Tested:
    """The windows that were asked about in an iteration: those that were full, those that were not."""

    full: tuple[Window, ...] = ()
    """In the order of their tests."""
    short: frozenset[Window] = frozenset()
    meets: ClassVar[Level] = Level.SOFT

    def meet(self, other: Tested | None) -> Tested | None:
        """Most windows are those of a log or of a checkpoint: no path is followed for them. That one was full is
        known where it was on both paths, that one was not, from either: it acquits the steps that are taken now.
        """
        full = tuple(window for window in self.full if other is not None and window in other.full)
        short = self.short if other is None else self.short | other.short
        return Tested(full, short) if full or short else None


@dataclass(frozen=True, slots=True)
class Taken:
    """The steps that were taken in an iteration, since a window was asked about."""

    steps: frozenset[Hashable] = frozenset()
    meets: ClassVar[Level] = Level.SOFT

    def meet(self, other: Taken | None) -> Taken:
        """Where paths are taken together, a step of either counts: it may be one that no window holds back."""
        return self if other is None else Taken(self.steps | other.steps)


@dataclass(frozen=True, slots=True)
class Filled:
    """Gradients that a backward has made and no step has used.

    `loops`: those that were running; `ended`: those of them whose iteration is over. `short`: the windows that were not
    full in its iteration. `spans`: the loops over whose iterations it was added up. `clip`: where it was clipped, in
    the loops `clipped_in`.
    """

    backward: Site = field(compare=False)
    place: Hashable
    owners: Owners
    loops: frozenset[Hashable]
    weights: Weights = field(compare=False)
    walked: frozenset[Hashable] = field(default=frozenset(), compare=False)
    ended: frozenset[Hashable] = frozenset()
    short: frozenset[Window] = frozenset()
    spans: frozenset[Window] = frozenset()
    clip: Site | None = None
    clipped_in: frozenset[Hashable] = frozenset()

    def meet(self, other: Filled | None) -> Any:
        """By force: some path has made them. A window that is short on one path is not one of a clip on another."""
        if other is None:
            return self
        if (self.loops, self.ended) != (other.loops, other.ended):
            return NotImplemented
        same = self.clip is not None and other.clip is not None and self.clipped_in == other.clipped_in
        return replace(
            self,
            weights=self.weights if self.weights == other.weights else Weights(),
            walked=self.walked | other.walked,
            short=self.short | other.short,
            spans=self.spans | other.spans,
            clip=self.clip if same else None,
            clipped_in=self.clipped_in if same else frozenset(),
        )


Story = tuple[Hashable, Window]
"""A backward, by its place, and a window."""


class InWindows(MeetsOptimizers, Waiting, InLoops):
    """Base of rules about accumulation windows. In memory: "filled" gradients by place and owners, "tested" by loop,
    "counted" by loop; "seen off": those that code out of sight got hold of, as long as nothing is seen to clear or use
    them.

    What a rule sees of a backward in a window waits in `open`; `applied` are the backwards whose gradients a step uses
    when a window is full, on whatever path. When the run ends, both together are a finding. A backward is acquitted by
    its place, or in one of its windows, by its story.
    """

    waits: ClassVar[tuple[str, ...]] = (*Waiting.waits, "open", "applied")

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[Story, Callable[[Stepped, Watch], None]] = {}
        self.applied: dict[Story, Stepped] = {}
        self.short: dict[Window, set[frozenset[Hashable]]] = {}
        """The steps that were taken in iterations in which a window was not full, path by path."""

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for story, step in self.windows():
            tell = self.open.get(story)
            if tell is not None:
                self.suspect(story, partial(tell, step))
        self.open.clear()
        self.applied.clear()
        super().ended(event, watch)

    # -- what rules hear ----------------------------------------------------------------------------------------------

    def kept(self, filled: Filled, windows: frozenset[Window], watch: Watch) -> None:
        """An iteration ends, its window is not full, and its gradients are kept for the next."""

    def adds(self, filled: Filled) -> None:
        """A backward adds to what it made in an earlier iteration."""

    def wiped(self, filled: Filled, event: Cleared, watch: Watch) -> None:
        """Gradients are cleared that no step has used."""

    def stepped(self, filled: Filled, event: Stepped, running: frozenset[Hashable]) -> None:
        """A step uses gradients; these loops are running."""

    def rescaled(self, filled: Filled) -> None:
        """Gradients are divided or multiplied by hand."""

    def leftover(self, filled: Filled, windows: frozenset[Window], event: LoopLeft, watch: Watch) -> None:
        """A loop is over, and its last window is not full."""

    # -- how a window goes --------------------------------------------------------------------------------------------

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        if event.count is not None:
            watch.put(("counted", event.loop), Window(event.loop, event.loop, event.site, event.count))

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        super().left(event, watch)
        self.over(event.loop, watch)
        for key, filled in tagged(watch, "filled"):
            running = frozenset(window for window in filled.short if window.loop != event.loop)
            if running != filled.short:
                self.leftover(filled, filled.short - running, event, watch)
                watch.put(key, replace(filled, short=running))

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        self.over(event.loop, watch)

    def over(self, loop: Hashable, watch: Watch) -> None:
        """An iteration of a loop has ended, if one was running."""
        tested, taken = watch.get(("tested", loop)), watch.get(("taken", loop), Taken())
        for window in tested.short if tested is not None else ():
            self.short.setdefault(window, set()).add(taken.steps)
        watch.drop(("tested", loop))
        watch.drop(("taken", loop))
        for key, filled in tagged(watch, "filled"):
            if loop not in filled.loops or loop in filled.ended:
                continue
            windows = frozenset(window for window in filled.short if window.loop == loop)
            if windows:
                self.kept(filled, windows, watch)
            watch.put(key, replace(filled, ended=filled.ended | {loop}))

    @on(WindowTested)
    def tested(self, event: WindowTested, watch: Watch) -> None:
        window = Window(event.site.node, event.loop, event.site, event.every, event.size)
        before = watch.get(("tested", event.loop), Tested())
        if event.full:
            watch.put(("tested", event.loop), replace(before, full=(*before.full, window)))
            return
        watch.put(("tested", event.loop), replace(before, short=before.short | {window}))
        for key, filled in tagged(watch, "filled"):
            if event.loop in filled.loops and event.loop not in filled.ended:
                watch.put(key, replace(filled, short=filled.short | {window}))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "filled")
            return
        loops = self.running(watch)
        key = ("filled", event.site.node, event.owners)
        before: Filled | None = watch.get(key)
        spans: frozenset[Window] = frozenset()
        if (away := watch.get(("seen off", event.site.node))) is not None:
            watch.drop(("seen off", event.site.node))
            self.adds(away)
        for _, filled in tagged(watch, "filled"):
            if filled.ended and filled.loops <= loops and concerns(watch, filled.owners, event.owners):
                self.adds(filled)
        if before is not None:
            counted = (watch.get(("counted", loop)) for loop in loops & before.ended)
            spans = before.spans | {window for window in counted if window is not None}
        short = frozenset(window for _, tested in tagged(watch, "tested") for window in tested.short)
        weights = event.weights if event.weight is None else Weights()
        walked = graph_of(event)
        filled = Filled(event.site, event.site.node, event.owners, loops, weights, walked, short=short, spans=spans)
        watch.put(key, filled)

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        for key, filled in tagged(watch, "filled"):
            if event.measures_only or not concerns(watch, filled.owners, event.owners):
                continue
            if event.rescales:
                self.rescaled(filled)
            elif not by_hand(event):
                place = clip_site(event.site, event.by, filled.backward)
                watch.put(key, replace(filled, clip=place, clipped_in=self.running(watch)))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        known = event.optimizer is not None or owners is not None
        forget(watch, "seen off")
        for key, filled in tagged(watch, "filled"):
            if overlap(filled.owners, owners) is not False:
                watch.drop(key)
                if known and concerns(watch, filled.owners, owners):
                    self.wiped(filled, event, watch)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        for key, filled in tagged(watch, "filled"):
            if touches(watch, event, filled.owners, filled.walked):
                watch.drop(key)
                watch.put(("seen off", filled.place), filled)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        full = [tested.full[-1] for _, tested in tagged(watch, "tested") if tested.full]
        running = self.running(watch)
        forget(watch, "seen off")
        for loop, _ in tagged(watch, "tested"):
            taken: Taken = watch.get(("taken", loop[1]), Taken())
            watch.put(("taken", loop[1]), Taken(taken.steps | {event.site.node}))
        for key, filled in tagged(watch, "filled"):
            if not concerns(watch, filled.owners, owners):
                if overlap(filled.owners, owners) is None:
                    watch.drop(key)  # an optimizer of nobody knows what: they may be used now
                continue
            watch.drop(key)
            self.stepped(filled, event, running)
            for window in full:
                if window in filled.short or (window.loop in filled.loops and window.loop not in filled.ended):
                    self.applied.setdefault((filled.place, window), event)
            spans = frozenset(window for window in filled.spans if window.loop not in running)
            if spans:
                self.kept(filled, spans, watch)
            for window in spans:
                self.applied.setdefault((filled.place, window), event)

    def windows(self) -> list[tuple[Story, Stepped]]:
        """The windows that a step waits for; first those that are called so, where several are asked about."""
        waited = [
            (story, step)
            for story, step in self.applied.items()
            # Taken in every iteration in which the window is not full, too, a step does not wait for it (logging does).
            if not all(step.site.node in steps for steps in self.short.get(story[1], ({None},)))
        ]
        return sorted(waited, key=lambda item: not ACCUMULATES.search(item[0][1].every.label))

    def guarded(self, watch: Watch) -> bool:
        """Whether this happens only when a window is full."""
        return any(tested.full for _, tested in tagged(watch, "tested"))
