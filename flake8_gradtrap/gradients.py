"""What rules share that watch gradients: whose they are, and what became of them.

A rule of this kind keeps premises of a finding in the memory of the path, under keys `(tag, owners, …)`: "the
gradients of these owners are scaled", "… are cleared". All of them are suspicions: to forget one is always on the
innocent side.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flake8_gradtrap.events import (
    Backpropagated,
    Clipped,
    Escaped,
    LoopLeft,
    LoopStarted,
    OptimizerMade,
    Owners,
    Part,
    Registered,
    Site,
    Thing,
)
from flake8_gradtrap.levels import Level
from flake8_gradtrap.rule import Rule, Watch, on

RESTORING = re.compile(r"load|restore|resume|save|checkpoint", re.IGNORECASE)
"""What functions are called that write an object's state, or read it back, and do nothing else to it."""

TORCH_CLIPS = frozenset({"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads_with_norm_"})

APART = re.compile(
    r"target|teacher|ema|momentum|shadow|frozen|froze|reference"
    r"|hidden(?!s|_?(layer|block|conv|linear|fc|unit|dense|net))"
    r"|(^|[_.])(ref|old|prev|pretrained|lpips|vgg|perceptual|inception)([_.]|$)",
    re.IGNORECASE,
)
"""Names of what is kept out of a model, or of its training, on purpose."""

LOSS_FUNCTION = re.compile(
    r"(^|[._])loss(es)?([._\[(]|func|fn|$)|criterion|_objective\b"
    r"|(^|[._])(ce|bce|nll|mse|mae|l1|l2|kld?|ctc|xent|huber|cross_?entropy)(_?(with_?)?(logits?|crit|fn))*$",
    re.IGNORECASE,
)
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


class Uncertain:
    """A memory that many paths may forget where they differ in it: nothing is reported because it is missing."""

    __slots__ = ()
    meets: ClassVar[Level] = Level.FIRM

    def meet(self, other: Any) -> None:
        """Nothing is left: a condition that is forgotten may say which path it is."""


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

    `walked`: tensors that are known to be no modules. Where the owners are unknown, any other thing may be one; not a
    tensor, unless its name says that the code does more with a loss than to compute.
    """
    computes = ACT.search(event.to) is None
    for thing in event.things:
        if thing.harmless or (thing.tensor and computes and owners is None):
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

    An optimizer is not needed for that: who is given one may do more. So may who is given several models: the loss of
    an adversary calls both, and may clear what it leaves in the one that it does not train.
    """
    if len(event.modules) > 1:
        return False
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
    """Whether gradients were scaled or overwritten in place: `p.grad.mul_(…)`, `p.grad *= …`, `p.grad.copy_(…)`."""
    return event.rescales and event.by.startswith(("`.grad.", "`.grad "))


def quoted(thing: Thing | None, otherwise: str) -> str:
    return f"`{thing.label}`" if thing is not None and thing.label else otherwise


LOSSES = re.compile(r"loss|err|cost|criterion|objective|entropy|nll|mse|bce|elbo|\b(ce|kl|l1)\b", re.IGNORECASE)
"""What a loss is called, where the name has to say it."""


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
