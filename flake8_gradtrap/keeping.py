"""What rules share that watch graphs which are kept alive: by totals, by containers, by what a step returns."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from flake8_gradtrap.events import (
    Accumulated,
    Backpropagated,
    Differentiated,
    Emptied,
    Escaped,
    Event,
    Iterated,
    IterationStarted,
    IteratorMade,
    LoopLeft,
    LoopStarted,
    Produced,
    ReadOut,
    RunEnded,
    Site,
    Stepped,
    Stored,
    Thing,
)
from flake8_gradtrap.gradients import LOSSES, InLoops, Mark, atom, frame, graph_of, lift, plain, tagged
from flake8_gradtrap.levels import Level
from flake8_gradtrap.rule import Change, Remedy, Watch, on

_MICRO_BATCHES = re.compile(r"accum|micro_?batch", re.IGNORECASE)
"""What the number of micro-batches in a step is called."""
_PARTS_OF_A_BATCH = re.compile(r"mini_?batch", re.IGNORECASE)
"""What it is called, too, if the loop takes no step."""


@dataclass(frozen=True, slots=True)
class Sign:
    """That something speaks for a candidate: where paths merge of which only one says so, it still does."""

    meets: ClassVar[Level] = Level.SOFT

    def meet(self, other: Sign | None) -> Sign:
        return self


@dataclass(frozen=True, slots=True)
class Walk:
    """A backward that was seen: its tensors, and the loops that were running. `trains`: it is known whose gradients it
    computes; else of a mere part of its loss, which may be data, no graph is known.
    """

    site: Site = field(compare=False)
    tensors: frozenset[Hashable]
    loops: frozenset[Hashable]
    retains: bool
    trains: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor with history that a total or a container keeps beyond its iteration.

    `loops`: those that were running. `now` and `earlier`: the tensors of this iteration, and of those before; `graph`:
    what those of this one were computed from. `totals`: the sums that hold them. `walked`: one of them, or a part
    of its graph, was back-propagated in its own iteration. `bounded`: what keeps it has a greatest length.
    `windowed`: it is let go time and again, in the loops that extend it.
    """

    site: Site = field(compare=False)
    tensor: Thing = field(compare=False)
    holder: Thing = field(compare=False)
    by: str
    loop: Hashable
    loops: frozenset[Hashable]
    now: frozenset[Hashable]
    graph: frozenset[Hashable] = frozenset()
    earlier: frozenset[Hashable] = frozenset()
    totals: frozenset[Hashable] = frozenset()
    history: bool = False
    made_by: Site | None = field(default=None, compare=False)
    loop_site: Site | None = field(default=None, compare=False)
    backward: Site | None = field(default=None, compare=False)
    walked: bool = False
    retained: bool = False
    read: bool = False
    escaped: bool = False
    bounded: bool = False
    windowed: bool = False
    count: int = 1

    meets: ClassVar[Level] = Level.FIRM

    def meet(self, other: Kept | None) -> Any:
        """It is kept on both paths, whatever tensor it is on each."""
        if other is None:
            return NotImplemented
        return replace(
            self,
            loops=self.loops | other.loops,
            now=self.now | other.now,
            graph=self.graph | other.graph,
            earlier=self.earlier | other.earlier,
            totals=self.totals | other.totals,
            history=self.history and other.history,
            walked=self.walked and other.walked,
            retained=self.retained or other.retained,
            read=self.read and other.read,
            escaped=self.escaped or other.escaped,
            count=min(self.count, other.count),
        )


class KeepsGraph(InLoops):
    """Base of the rules about raw tensors that are summed, stored or returned.

    A candidate is a tensor with history that joins a total or a container. It is dropped when what it joined is
    back-propagated later, on any path. It is a finding when it was back-propagated in its own iteration; else when it
    surely has history and its loop goes backward through something else, or through nothing while only the value was
    wanted. Findings wait until the run ends, because another path may go backward.
    """

    def __init__(self) -> None:
        self.spared: set[Hashable] = set()
        """Places whose total or container is back-propagated, on whatever path."""
        self.waiting: dict[Hashable, tuple[Kept, bool]] = {}
        """Findings, by place."""
        self.windows: set[Hashable] = set()
        """Places whose total or container is let go in the same loops, on whatever path: what it keeps is bounded."""
        self.resets: set[tuple[str, Hashable, frozenset[Hashable]]] = set()
        """Totals and containers that their name lets go: how they are called, in which call, in which loops."""
        self.stepping: set[Hashable] = set()
        """Loops in which an optimizer steps, on whatever path."""
        self.steps = False
        """Whether any optimizer steps in view."""
        self.accumulating: set[Hashable] = set()
        """Loops over micro-batches, as the name of their count says."""
        self.of_parts: set[Hashable] = set()
        """Loops over what is called a mini-batch: a part of a batch, or a batch."""

    def tell(self, kept: Kept, trained: bool, watch: Watch) -> None:
        raise NotImplementedError

    def keep(self, event: Accumulated | Stored, watch: Watch) -> None:
        """Consider a tensor that is kept; called by the rules for the events that they answer for."""
        if isinstance(event, Accumulated):
            self.extend(event, watch)
            if any(event.previous.key in walk.tensors for _, walk in tagged(watch, "walk")):
                self.spared.add(place_key(event.site))  # a state, of which GTR405 speaks
            tensor, holder, by, totals = event.term, event.total, "", frozenset({event.total.key})
            key: tuple[Hashable, ...] = ("kept", *place_key(event.site))
        else:
            tensor, holder, by, totals = event.tensor, event.container, event.by, frozenset()
            key = ("kept", *place_key(event.site), event.container.key)
        if event.had_history is False or place_key(event.site) in self.spared:
            return
        active = dict(tagged(watch, "active"))
        now = frozenset({tensor.key})
        graph = now | event.graph
        walks = [
            walk
            for (_, loss), walk in tagged(watch, "walk")
            if not graph.isdisjoint(walk.tensors) and (event.loop is None or event.loop in walk.loops)
            if event.had_history
            or walk.trains
            or loss in graph
            or (not by and a_term(event.site, tensor, walk.site, walk.tensors))
        ]
        loop = active.get(("active", event.loop))
        old: Kept | None = watch.get(key)
        new = old or Kept(event.site, tensor, holder, by, event.loop, frozenset(), now)
        watch.put(
            key,
            replace(
                new,
                site=event.site,
                tensor=tensor,
                holder=holder,
                loops=frozenset(loop for _, loop in active),
                now=new.now | now,
                graph=new.graph | graph,
                totals=new.totals | totals,
                history=new.history or event.had_history is True,
                made_by=event.made_by[-1] if event.made_by else None,
                loop_site=loop.site if loop is not None else None,
                backward=walks[-1].site if walks else new.backward,
                walked=new.walked or bool(walks) or (bool(event.made_by) and event.had_history is not True),
                retained=new.retained or any(walk.retains for walk in walks),
                bounded=isinstance(event, Stored) and event.bounded,
                count=new.count + 1 if old is not None else 1,
            ),
        )

    def extend(self, event: Accumulated, watch: Watch) -> None:
        """A total was extended: the candidates that it holds are in the new one."""
        for key, kept in tagged(watch, "kept"):
            if event.previous.key in kept.totals and event.total.key not in kept.totals:
                watch.put(key, replace(kept, totals=kept.totals | {event.total.key}))

    @on(Backpropagated, Differentiated)
    def walk(self, event: Event, watch: Watch) -> None:
        assert isinstance(event, Backpropagated | Differentiated)
        backward = event if isinstance(event, Backpropagated) else None
        tensors = graph_of(backward) if backward is not None else event.reaches
        loops = self.running(watch)
        for key, kept in tagged(watch, "kept"):
            own = backward is not None and kept.loops <= loops  # all loops that it was kept in are still running
            later = kept.totals | kept.earlier if own else kept.totals | kept.earlier | kept.now
            if not tensors.isdisjoint(later):
                self.spared.add(place_key(kept.site))
                watch.drop(key)
            elif (
                backward is not None
                and own
                and kept.now
                and not tensors.isdisjoint(kept.graph)
                and (
                    kept.history
                    or backward.owners is not None
                    or backward.loss.key in kept.graph
                    or (not kept.by and a_term(kept.site, kept.tensor, event.site, tensors))
                )
            ):
                retained = kept.retained or backward.retains is not False
                watch.put(key, replace(kept, walked=True, backward=backward.site, retained=retained))
        if backward is not None:
            retains, trains = backward.retains is not False, backward.owners is not None
            watch.put(("walk", backward.loss.key), Walk(backward.site, tensors, loops, retains, trains))
            for loop in loops:
                watch.put(("trains", loop), Mark(event.site))

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        super().loop(event, watch)
        if event.count is not None and _MICRO_BATCHES.search(event.count.label):
            self.accumulating.add(event.loop)
        if event.count is not None and _PARTS_OF_A_BATCH.search(event.count.label):
            self.of_parts.add(event.loop)

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        self.steps = True
        self.stepping |= self.running(watch)

    def one_window(self, kept: Kept) -> bool:
        """Whether its loop goes over the micro-batches of one step: what it keeps is soon let go."""
        if kept.loop is None or kept.made_by is not None:  # a generator steps in a loop of its own
            return False
        stepless = kept.loop not in self.stepping and (self.steps or kept.loop in self.of_parts)
        return kept.loop in self.accumulating or stepless

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        if watch.get(("over parameters",)):
            watch.drop(("over parameters",))
            watch.put(("small", event.loop), Sign())
        for key, kept in tagged(watch, "kept"):
            if kept.now and event.loop in kept.loops:
                earlier = kept.earlier | kept.now
                watch.put(key, replace(kept, now=frozenset(), graph=frozenset(), earlier=earlier))

    @on(IteratorMade)
    def iterator(self, event: IteratorMade, watch: Watch) -> None:
        if event.of_parameters:
            watch.put(("parameters", event.it.key), Sign())

    @on(Iterated)
    def iterated(self, event: Iterated, watch: Watch) -> None:
        if "for" in event.by and watch.get(("parameters", event.it.key)):
            watch.put(("over parameters",), Sign())

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        super().left(event, watch)
        for key, kept in tagged(watch, "kept"):
            freed = kept.backward is not None and not kept.retained  # no later backward can go through it
            if kept.loop is not None and kept.loop == event.loop and kept.walked and freed:
                watch.drop(key)
                self.judge(kept, watch)

    @on(Emptied)
    def emptied(self, event: Emptied, watch: Watch) -> None:
        loops = self.running(watch)
        for key, kept in tagged(watch, "kept"):
            if kept.holder.key != event.container.key and event.container.key not in kept.totals:
                continue
            if kept.loops <= loops:
                self.windows.add(place_key(kept.site))
                watch.drop(key)
            elif not event.rebound and (kept.loop is None or kept.loop in loops):
                watch.drop(key)
        if event.rebound:
            self.resets.add((event.container.label, frame(event.site), loops))
        else:
            watch.put(("emptied", event.container.key), Sign())

    def in_windows(self, place: Hashable, kept: Kept) -> bool:
        """Whether what is kept is let go time and again, in the loops that extend it."""
        return place in self.windows or any(
            label == kept.holder.label and call == frame(kept.site) and kept.loops <= loops
            for label, call, loops in self.resets
        )

    @on(Produced)
    def promised(self, event: Produced, watch: Watch) -> None:
        """A total that a loss function or a forward returns is for its caller's backward."""
        for key, kept in tagged(watch, "kept"):
            if event.value.key in kept.totals and not kept.escaped:
                watch.put(key, replace(kept, escaped=True))

    @on(ReadOut)
    def read(self, event: ReadOut, watch: Watch) -> None:
        for key, kept in tagged(watch, "kept"):
            over = watch.get(("active", kept.loop)) is None
            tensors = kept.totals or (kept.now | kept.earlier | {kept.holder.key} if over else frozenset())
            if event.tensor.key in tensors and not kept.read:
                watch.put(key, replace(kept, read=True))

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        keys = {thing.key for thing in event.things}
        for key, kept in tagged(watch, "kept"):
            if not keys.isdisjoint(kept.totals | kept.now | kept.earlier | {kept.holder.key}):
                watch.put(key, replace(kept, escaped=True))

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for key, kept in tagged(watch, "kept"):
            if kept.loop is not None or event.again:
                watch.drop(key)
                self.judge(kept, watch)
        for place, (kept, trained) in self.waiting.items():
            if place not in self.spared and not (trained and self.one_window(kept)):
                self.tell(replace(kept, windowed=self.in_windows(place, kept)), trained, watch)
        self.waiting.clear()

    def judge(self, kept: Kept, watch: Watch) -> None:
        """Decide about a candidate whose loop is over."""
        place = place_key(kept.site)
        if kept.count < 2 and watch.get(("emptied", kept.holder.key)):
            return
        if kept.walked:
            if not (kept.retained and kept.escaped):
                self.waiting[place] = kept, True
            return
        if not kept.history or kept.escaped or kept.loop is None or watch.get(("small", kept.loop)):
            return
        if kept.made_by is not None:  # what a function that went backward returns besides: a prediction after training
            return
        trains: Mark | None = watch.get(("trains", kept.loop))
        if trains is not None:
            self.waiting[place] = replace(kept, backward=trains.site), True
        elif not watch.lossy and kept.read and (kept.by or LOSSES.search(kept.tensor.label)):
            self.waiting[place] = kept, False


def a_term(site: Site, tensor: Thing, backward: Site, walked: frozenset[Hashable]) -> bool:
    """Whether what is summed is a part of what the same function back-propagates, and a loss by its name: what would it
    be added for, had it no graph? (What is stored may be back-propagated as a part of what stores it.)
    """
    named = LOSSES.search(tensor.label) is not None
    return named and tensor.key in walked and frame(site) == frame(backward)


def place_key(site: Site) -> tuple[Hashable, ...]:
    """A place with the calls that lead to it: two meters keep two things at one place."""
    return (site.node, *frame(site))


def place_of(kept: Kept) -> Site:
    """Where a kept tensor is reported: at the call of a meter, seen from the function that trains."""
    other = kept.backward or kept.loop_site
    return (other and lift(kept.site, other)) or kept.site


def detach(kept: Kept) -> Remedy | None:
    """The fix: detach what is kept, where its expression stands."""
    if place_of(kept) != kept.site or kept.by in ("extend", "yield") or not kept.tensor.label:
        return None
    if plain(kept.tensor.label) or (atom(kept.tensor.label) and not kept.by):
        before, after = "", ".detach()"
    elif kept.by:  # it may be a part of what stands there
        return None
    else:
        before, after = "(", ").detach()"
    return Remedy("Detach it from its graph", (Change("wrap", kept.site, before, after),))
