"""What rules share that watch gradients: whose they are, what became of them, and graphs that are kept alive.

A rule of this kind keeps premises of a finding in the memory of the path, under keys `(tag, owners, …)`: "the
gradients of these owners are scaled", "… are cleared". All of them are suspicions: to forget one is always on the
innocent side.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from flake8_gradtrap.events import (
    Accumulated,
    Backpropagated,
    Clipped,
    Differentiated,
    Emptied,
    Escaped,
    Event,
    Iterated,
    IterationStarted,
    IteratorMade,
    LoopLeft,
    LoopStarted,
    OptimizerMade,
    Owners,
    Part,
    Produced,
    ReadOut,
    Registered,
    RunEnded,
    Site,
    Stored,
    Thing,
)
from flake8_gradtrap.levels import Level
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on

RESTORING = re.compile(r"load|restore|resume|save|checkpoint", re.IGNORECASE)
"""What functions are called that write an object's state, or read it back, and do nothing else to it."""

TORCH_CLIPS = frozenset({"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads_with_norm_"})

APART = re.compile(
    r"target|teacher|ema|momentum|shadow|frozen|froze|reference"
    r"|hidden(?!_?(layer|block|conv|linear|fc|unit|dense|net))"
    r"|(^|[_.])(ref|old|prev|pretrained|lpips|vgg|perceptual|inception)([_.]|$)",
    re.IGNORECASE,
)
"""Names of what is kept out of a model, or of its training, on purpose."""

LOSS_FUNCTION = re.compile(r"(^|[._])loss(es)?([._\[(]|func|fn|$)|criterion|_objective\b", re.IGNORECASE)
"""A function that computes a loss is called so."""

ACT = re.compile(r"backward|step|optim|scaler|update|apply|minimi|clear|zero|reset|closure", re.IGNORECASE)
"""What a function is called that may do more to gradients than to be differentiated."""

# -- owners -----------------------------------------------------------------------------------------------------------


def overlap(one: Owners, other: Owners) -> bool | None:
    """Whether two sets of owners share one; None where either is unknown."""
    if one is None or other is None:
        return None
    return not one.isdisjoint(other)


def rest(owners: Owners, gone: Owners) -> frozenset[Hashable]:
    """The owners that are left for certain when some are gone; unknown ones may be any."""
    if owners is None or gone is None:
        return frozenset()
    return owners - gone


def common(one: Owners, other: Owners) -> Owners:
    """The owners in both; the known side where the other is unknown."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


# -- optimizers -------------------------------------------------------------------------------------------------------


def meet(watch: Watch, optimizer: Thing | None, owners: Owners) -> Owners:
    """Remember an optimizer that the path mentions; return the best that is known of its owners."""
    if optimizer is None:
        return owners
    key = ("optimizer", optimizer.key)
    if owners is None:
        owners = watch.get(key)
    watch.put(key, owners)
    return owners


class MeetsOptimizers(Rule):
    """Base of rules that ask which optimizers a path has, and whose gradients they hold. In memory: "optimizer"."""

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        meet(watch, event.optimizer, event.owners)


_ADAPTIVE = re.compile(
    r"(Paged|Fused|DeepSpeedCPU)?(Adam(W|ax)?|NAdam|RMSprop|Adagrad|Adafactor|Lion|LAMB|Lamb|Rprop)(8bit|32bit|Fp8)?"
)
_DECOUPLED = re.compile(r"AdamW|Lion|Adafactor")
"""Those whose weight decay has no part in the gradient."""


def adaptive(event: OptimizerMade) -> bool:
    """Whether the step of an optimizer is as long for gradients that are all multiplied by a number (RAdam's first
    steps are not).
    """
    return _ADAPTIVE.fullmatch(event.by) is not None and (not event.decays or _DECOUPLED.search(event.by) is not None)


def of_others(watch: Watch, owners: frozenset[Hashable], optimizer: Thing | None) -> frozenset[Hashable]:
    """Those of these owners whose parameters another optimizer of the path has: what is left of a model otherwise is
    a wrapper of it, or a part that nothing trains.
    """
    known = ((key[1], theirs) for key, theirs in tagged(watch, "optimizer") if theirs)
    others = [theirs for key, theirs in known if optimizer is None or key != optimizer.key]
    return owners & frozenset[Hashable]().union(*others)


def alone(watch: Watch, owners: Owners = None) -> bool:
    """Whether whatever is unknown belongs to these owners: the path has mentioned no optimizer of any others."""
    seen = [theirs for _, theirs in tagged(watch, "optimizer")]
    return len(seen) <= 1 or (owners is not None and all(overlap(theirs, owners) for theirs in seen))


def concerns(watch: Watch, one: Owners, other: Owners) -> bool:
    """Whether two sets of owners are taken to be related: they share one, or nobody else could be meant."""
    related = overlap(one, other)
    return alone(watch, one or other) if related is None else related


# -- premises in memory -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """That something happened, and where; `walked` are the tensors of the backward that made it so."""

    site: Site = field(compare=False)
    walked: frozenset[Hashable] = field(default=frozenset(), compare=False)
    scaler: Thing | None = None
    flag: bool = False
    loops: frozenset[Hashable] = frozenset()
    """The loops that were running."""


def tagged(watch: Watch, *tags: str) -> list[tuple[tuple[Any, ...], Any]]:
    """The entries of memory under these tags."""
    return [(key, value) for key, value in watch.items() if isinstance(key, tuple) and key[0] in tags]


def forget(watch: Watch, *tags: str) -> None:
    """Drop all entries under these tags."""
    for key, _ in tagged(watch, *tags):
        watch.drop(key)


def settle(watch: Watch, owners: Owners, *tags: str) -> None:
    """The gradients of these owners are no longer what the tags say; entries keep the owners that are left."""
    for key, value in tagged(watch, *tags):
        left = rest(key[1], owners)
        if left != key[1]:
            watch.drop(key)
            if left:
                watch.put((key[0], left, *key[2:]), value)


class InLoops(Rule):
    """Base of rules that ask which loops are running. In memory: "active", by loop."""

    @on(LoopStarted)
    def loop(self, event: LoopStarted, watch: Watch) -> None:
        watch.put(("active", event.loop), Mark(event.site))

    @on(LoopLeft)
    def left(self, event: LoopLeft, watch: Watch) -> None:
        watch.drop(("active", event.loop))

    @staticmethod
    def running(watch: Watch) -> frozenset[Hashable]:
        return frozenset(loop for (_, loop), _ in tagged(watch, "active"))


def touches(watch: Watch, event: Escaped, owners: Owners, walked: frozenset[Hashable] = frozenset()) -> bool:
    """Whether code that cannot be seen got hold of these owners' gradients: through a module or an optimizer.

    `walked`: tensors that are known to be no modules. Where the owners are unknown, any other thing may be one.
    """
    for thing in event.things:
        if thing.harmless:
            continue
        missing = object()
        theirs = watch.get(("optimizer", thing.key), missing)
        if theirs is not missing:
            if overlap(theirs, owners) is not False:
                return True
        elif thing.key in owners if owners is not None else thing.key not in walked:
            return True
    return False


def computes_loss(watch: Watch, event: Escaped) -> bool:
    """Whether the code that got hold of things only computes a loss with them, as its name says.

    An optimizer is not needed for that: who is given one may do more.
    """
    missing = object()
    if any(watch.get(("optimizer", thing.key), missing) is not missing for thing in event.things):
        return False
    return LOSS_FUNCTION.search(event.to) is not None and ACT.search(event.to) is None


def forget_touched(watch: Watch, event: Escaped, *tags: str) -> None:
    """Drop the entries whose owners, or scaler, were handed to code that cannot be seen."""
    keys = {thing.key for thing in event.things}
    for key, value in tagged(watch, *tags):
        if (value.scaler is not None and value.scaler.key in keys) or touches(watch, event, key[1], value.walked):
            watch.drop(key)


def graph_of(event: Backpropagated) -> frozenset[Hashable]:
    """The tensors that a backward walked, the loss included."""
    return event.reaches | {event.loss.key}


# -- places -----------------------------------------------------------------------------------------------------------


def frame(site: Site) -> tuple[Hashable, ...]:
    """The calls through which a site was reached: two sites with the same ones stand in one function."""
    calls = []
    while site.caller is not None:
        site = site.caller
        calls.append(site.node)
    return tuple(calls)


def lift(site: Site, other: Site) -> Site | None:
    """The place, in the function in which `other` stands, that leads to `site`; None if there is none."""
    home = frame(other)
    place: Site | None = site
    while place is not None and frame(place) != home:
        place = place.caller
    return place


def clip_site(site: Site, by: str, other: Site) -> Site:
    """Where a clip is reported: at torch's function, or at the call of a hand-written one."""
    if by.strip("`").rpartition(".")[2] in TORCH_CLIPS:
        return site
    return lift(site, other) or site


def plain(label: str) -> bool:
    """Whether a label is a name that can be written again elsewhere."""
    return re.fullmatch(r"[A-Za-z_][\w.]*(\[[\w'\"-]+\])?", label) is not None


def atom(label: str) -> bool:
    """Whether a label is a name or a single call, to which a method call can be appended."""
    name, _, rest = label.partition("(")
    if not plain(name) or not rest:
        return plain(label)
    depth = 1
    for place, sign in enumerate(rest):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place == len(rest) - 1
    return False


def by_hand(event: Clipped) -> bool:
    """Whether gradients were scaled or overwritten in place: `p.grad.mul_(…)`, `p.grad.copy_(…)`."""
    return event.rescales and ".grad." in event.by


def quoted(thing: Thing | None, otherwise: str) -> str:
    return f"`{thing.label}`" if thing is not None and thing.label else otherwise


# -- graphs that are kept ---------------------------------------------------------------------------------------------

LOSSES = re.compile(r"loss|err|cost|criterion|objective|entropy|nll|mse|bce|elbo|\b(ce|kl|l1)\b", re.IGNORECASE)
"""What a loss is called, where the name has to say it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A backward that was seen: its tensors, and the loops that were running."""

    site: Site = field(compare=False)
    tensors: frozenset[Hashable]
    loops: frozenset[Hashable]
    retains: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor with history that a total or a container keeps beyond its iteration.

    `loops`: those that were running. `now` and `earlier`: the tensors of this iteration, and of those before; `graph`:
    what those of this one were computed from. `totals`: the sums that hold them. `walked`: one of them, or a part
    of its graph, was back-propagated in its own iteration.
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
        """Places whose container is emptied in the same loop, on whatever path: what it keeps is bounded."""

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
            for _, walk in tagged(watch, "walk")
            if not graph.isdisjoint(walk.tensors) and (event.loop is None or event.loop in walk.loops)
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
        whole = isinstance(event, Backpropagated)
        tensors = graph_of(event) if isinstance(event, Backpropagated) else event.reaches
        loops = self.running(watch)
        for key, kept in tagged(watch, "kept"):
            own = whole and kept.loops <= loops  # all loops that it was kept in are still running
            later = kept.totals | kept.earlier if own else kept.totals | kept.earlier | kept.now
            if not tensors.isdisjoint(later):
                self.spared.add(place_key(kept.site))
                watch.drop(key)
            elif own and kept.now and not tensors.isdisjoint(kept.graph):
                retained = kept.retained or event.retains is not False
                watch.put(key, replace(kept, walked=True, backward=event.site, retained=retained))
        if isinstance(event, Backpropagated):
            watch.put(("walk", event.loss.key), Walk(event.site, tensors, loops, event.retains is not False))
            for loop in loops:
                watch.put(("trains", loop), Mark(event.site))

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        if watch.get(("over parameters",)):
            watch.drop(("over parameters",))
            watch.put(("small", event.loop), True)
        for key, kept in tagged(watch, "kept"):
            if kept.now and event.loop in kept.loops:
                earlier = kept.earlier | kept.now
                watch.put(key, replace(kept, now=frozenset(), graph=frozenset(), earlier=earlier))

    @on(IteratorMade)
    def iterator(self, event: IteratorMade, watch: Watch) -> None:
        if event.of_parameters:
            watch.put(("parameters", event.it.key), True)

    @on(Iterated)
    def iterated(self, event: Iterated, watch: Watch) -> None:
        if "for" in event.by and watch.get(("parameters", event.it.key)):
            watch.put(("over parameters",), True)

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
        for key, kept in tagged(watch, "kept"):
            running = kept.loop is None or watch.get(("active", kept.loop)) is not None
            if running and (kept.holder.key == event.container.key or event.container.key in kept.totals):
                self.windows.add(place_key(kept.site))
                watch.drop(key)
        watch.put(("emptied", event.container.key), True)

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
            if place not in self.spared:
                self.tell(kept, trained, watch)
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


class InRegistry(Rule):
    """Base of rules that ask whether a module or Parameter becomes part of a module, or is trained in another way."""

    def __init__(self) -> None:
        self.registered: set[Hashable] = set()
        """Parts that became part of a module on any path, and the places where they were made."""

    @on(Registered)
    def registers(self, event: Registered, watch: Watch) -> None:
        self.remember(event.parts)

    @on(OptimizerMade)
    def optimised(self, event: OptimizerMade, watch: Watch) -> None:
        """What an optimizer is visibly given is trained, wherever it is kept."""
        self.registered |= event.owners or frozenset()

    def remember(self, parts: tuple[Part, ...]) -> None:
        for part in parts:
            self.registered.add(part.thing.key)
            if part.site is not None:
                self.registered.add(part.site.node)
