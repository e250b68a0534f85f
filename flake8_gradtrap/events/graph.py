"""Tensors and their graph: what goes backward, what is cut, kept and read out, and what should have been a leaf."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from flake8_gradtrap.events.base import Event, Owners, Site, Thing

# -- tensors and their graph ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a back-propagated value, as far as provenance can be followed.

    `cut` says how it left the graph: "readout" (`.item()`), "detach", "no_grad", "rewrap" (`torch.tensor(t)`), "forced"
    (`requires_grad` put on a computed value), "first order" (the result of `autograd.grad` without `create_graph`),
    "rounded" (a step that hands on a gradient of zero: `round`, `sign`), "hard" (a decision that hands on none:
    `argmax`, `>`), or "" for a live part. `how` is the expression that cut it. `had_history`: whether the value that
    was cut carried a gradient. `additive`: it is added to the rest (not multiplied, not divided). `parameter`: what was
    cut is itself a trainable parameter. `whole`: this part is all there is. `addend`: where it (or what it was computed
    into) is added to a live part.
    """

    cut: str
    site: Site
    how: str = ""
    had_history: bool | None = None
    additive: bool = True
    parameter: bool = False
    whole: bool = False
    addend: Site | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """How the means in a loss are weighed on their way to the backward.

    `share`: the constant by which one of them is multiplied, where nothing else weighs it; None where there is no such
    mean, or none that is known. `by`: whatever divides or multiplies anywhere in the loss. `uneven`: for each mean over
    a number that differs from batch to batch (tokens that are not ignored), what weighs it beside numbers and settings.
    `seen`: whether it was looked at all; False for what a visible function returned that was not entered again.
    """

    share: float | None = None
    by: frozenset[Hashable] = frozenset()
    uneven: frozenset[frozenset[Hashable]] = frozenset()
    seen: bool = True


@dataclass(frozen=True, slots=True)
class Carried:
    """A tensor of an earlier iteration of a running loop through which the graph of this one goes on.

    `site`: where a name or attribute that was there before took it, else where it was made (`made`). `tensor`: labelled
    by that name. `needs`: the operations of earlier iterations whose saved tensors a backward through it uses.
    """

    site: Site
    tensor: Thing
    needs: frozenset[Hashable] = frozenset()
    made: Site | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Backpropagated(Event):
    """`loss.backward()` ran, in whatever form.

    `reaches`: every tensor of the graph that was walked, the loss included. `frees`: the operations whose saved tensors
    it used, which are freed unless `retains`. `terms`: the parts of the loss, live and cut. `owners`: the modules that
    received gradients. `scaler`: the gradient scaler that had scaled the loss. `weight`: the explicit gradient
    argument. `opaque`: an engine or wrapper did it, which may also step and clear. `through`: the accelerator whose
    `backward` it was. `carried`: where the graph goes on into those of earlier iterations. `asked`: `retain_graph=True`
    stands there, and nothing else asks for it. `partial`: the graph may go on where it is not seen. `outlives`: more
    than the running function's own names holds a part of the graph (looked for where it is asked to be retained).
    """

    loss: Thing
    reaches: frozenset[Hashable] = frozenset()
    frees: frozenset[Hashable] = frozenset()
    retains: bool | None = False
    terms: tuple[Term, ...] = ()
    owners: Owners = None
    scaler: Thing | None = None
    scaled: bool | None = False
    weight: Thing | None = None
    opaque: bool = False
    recorded: bool | None = None
    """Whether gradients were on when the loss was computed."""
    creates: bool = False
    """The gradients get a graph of their own: `create_graph=True`."""
    weights: Weights = Weights()
    through: Thing | None = None
    carried: tuple[Carried, ...] = ()
    asked: bool = False
    outlives: bool = False
    partial: bool = True
    begins: frozenset[Hashable] = frozenset()
    sure: frozenset[Hashable] = frozenset()
    """The modules that received gradients for certain; where `owners` are not known, there may be others."""


@dataclass(frozen=True, slots=True)
class Differentiated(Event):
    """`torch.autograd.grad` ran (or a graph was handed to code that may walk it): a graph was used, nothing was
    accumulated.
    """

    reaches: frozenset[Hashable] = frozenset()
    frees: frozenset[Hashable] = frozenset()
    retains: bool | None = False


@dataclass(frozen=True, slots=True)
class UnusedDropped(Event):
    """Gradients of several inputs, some of which may be None (`allow_unused=True`), are collected without those.

    `made`: where they were computed.
    """

    made: Site


@dataclass(frozen=True, slots=True)
class Produced(Event):
    """A value left a function that promises a differentiable one: `forward` of a module (`by` = "forward"), a
    `training_step`, a loss function ("loss"), or one that computes a penalty ("penalty").

    `terms` as in Backpropagated.
    """

    value: Thing
    by: str
    terms: tuple[Term, ...] = ()
    reaches: frozenset[Hashable] = frozenset()
    """Every tensor that a backward from the value would walk."""


@dataclass(frozen=True, slots=True)
class Rewrapped(Event):
    """An existing tensor (`source`) was copied into a new one without history. `how`: the expression's function."""

    source: Thing
    result: Thing
    how: str
    had_history: bool | None = None
    several: bool = False
    array: bool = False
    """It was a NumPy array by then: somebody has taken it out of the graph before."""
    meant: bool = False
    """It is an array with the values of a Parameter, or one computed from what was read out: a copy is wanted."""


@dataclass(frozen=True, slots=True)
class GradientForced(Event):
    """`requires_grad` was put on a computed value. `live`: it already had a live graph."""

    value: Thing
    how: str
    live: bool | None = None


@dataclass(frozen=True, slots=True)
class Accumulated(Event):
    """A tensor was added to a total that came from an earlier iteration of a loop that is still running.

    `term`: what was added; `total`: the new total; `previous`: the total that it extends. `had_history`: of the term.
    """

    term: Thing
    total: Thing
    previous: Thing
    had_history: bool | None = None
    loop: Hashable = None
    made_by: tuple[Site, ...] = ()
    graph: frozenset[Hashable] = frozenset()
    """The tensors that the term was computed from; where its history is not known, those of which it is a multiple or a
    view.
    """


@dataclass(frozen=True, slots=True)
class Stored(Event):
    """A tensor was put into a container that outlives the iteration. `by`: "append", "extend", "setitem", …"""

    tensor: Thing
    container: Thing
    by: str
    had_history: bool | None = None
    loop: Hashable = None
    bounded: bool = False
    made_by: tuple[Site, ...] = ()
    graph: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class Emptied(Event):
    """A container was cleared. `rebound`: a total or a container was let go in the loop that fills it, because its name
    was given a number, or an empty one.
    """

    container: Thing
    rebound: bool = False


@dataclass(frozen=True, slots=True)
class Escaped(Event):
    """Things were handed to code that cannot be seen, returned out of sight, or stored where the run loses them.
    `modules`: those that are modules, and were given themselves.
    """

    things: tuple[Thing, ...]
    to: str = ""
    modules: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOut(Event):
    """A tensor was turned into a Python or NumPy value.

    `reaches`: the tensors of its graph, where torch would refuse if it had one (`numpy`).
    """

    tensor: Thing
    how: str
    reaches: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class FiniteAsked(Event):
    """The program asked whether a value is finite (`isnan`, `isinf`, `isfinite`), or replaced what is not."""


# -- leaves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LostLeaf:
    """A tensor that was made as a leaf, and of which only what was computed from it is kept.

    `how`, `at`: what computed another tensor from it, and where. `made`: where the leaf is made; `argument`: the
    `requires_grad=True` of that call. `whole`: the expression in which the leaf is made and lost, None where it has
    been elsewhere in between. `moves`: it is only moved or cast, which returns the leaf itself if it was there already.
    """

    how: str
    at: Site
    made: Site
    argument: Site | None = None
    whole: Site | None = None
    moves: bool = False


@dataclass(frozen=True, slots=True)
class UsedAsLeaf(Event):
    """A tensor that is no leaf was used like one: given to an optimizer (`by` = "optimizer"), or its `.grad` was read.

    `how`, `made`: what made the tensor, and where. `lost`: the leaf that it should have been. `updated`: a gradient
    went into it, as in an update written by hand.
    """

    tensor: Thing
    by: str
    how: str
    made: Site
    lost: LostLeaf | None = None
    updated: bool = False


@dataclass(frozen=True, slots=True)
class NonLeafKnown(Event):
    """The program deals with a tensor that it takes for no leaf: `retain_grad()`, a hook, `is_leaf`, or its `.grad` is
    compared with None. `made`: where the tensor is made.
    """

    tensor: Thing
    made: Site
