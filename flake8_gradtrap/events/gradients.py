"""Gradients between a backward and a step: scaled, clipped, measured, cleared, used."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Owners, Thing


@dataclass(frozen=True, slots=True)
class Unscaled(Event):
    """`scaler.unscale_(optimizer)`; an optimizer of None: all of them."""

    scaler: Thing
    optimizer: Thing | None
    owners: Owners = None


@dataclass(frozen=True, slots=True)
class Clipped(Event):
    """Gradients were clipped. `target`: the expression that was clipped; `owners`: whose gradients; `by`: how.

    `own`: torch's own function did it. `dropped`: nothing gets the norm that it returns. `checks`: it may have been
    told to raise where that is not finite.
    """

    target: Thing
    by: str
    owners: Owners = None
    measures_only: bool = False
    rescales: bool = False
    own: bool = False
    dropped: bool = False
    checks: bool = False


@dataclass(frozen=True, slots=True)
class GradientMeasured(Event):
    """The norm, the mean or another measure of gradients was taken, or they went into a histogram."""

    owners: Owners
    how: str


@dataclass(frozen=True, slots=True)
class GradientReadOut(Event):
    """What was computed from the gradient of one of the parameters that are iterated was turned into a Python or NumPy
    value, for which the program has to wait.

    `how`: by what. `inline`: in a comprehension.
    """

    how: str
    inline: bool = False


@dataclass(frozen=True, slots=True)
class GradientUsed(Event):
    """Something was computed from gradients, or a copy of them was kept: they have done their work, whatever becomes
    of them. `owners`: whose they are.
    """

    owners: Owners


@dataclass(frozen=True, slots=True)
class WrapperMade(Event):
    """A library was put around modules, and from now on keeps or splits their gradients. `by`: "FSDP", "DeepSpeed"."""

    owners: Owners
    by: str


@dataclass(frozen=True, slots=True)
class AcceleratorMade(Event):
    """An object was made that goes backward for the program. `by`: "Accelerate" or "Fabric"; `scales`: whether it
    multiplies losses by a loss scale (fp16), None where its precision cannot be seen.
    """

    accelerator: Thing
    by: str
    scales: bool | None = None


@dataclass(frozen=True, slots=True)
class ScaleRead(Event):
    """The loss scale of a scaler was read: whoever does may divide by it, or see whether it has shrunk."""

    scaler: Thing


@dataclass(frozen=True, slots=True)
class Cleared(Event):
    """Gradients were cleared: by an optimizer's or a module's `zero_grad`, or one by one.

    `optimizer`: the one whose zero_grad it was, None otherwise. `owners`: whose gradients, None: it is not known, and
    all may be cleared. `zeros`: they are zeros now, and not None.
    """

    optimizer: Thing | None
    owners: Owners = None
    zeros: bool = False


@dataclass(frozen=True, slots=True)
class OptimizerMade(Event):
    """An optimizer was made. `outlived`: what it trains was there before the iteration that makes it. `stateful`: it
    keeps something from step to step (momentum, moments). `decays`: it was given a weight decay. `source`: what its
    parameters were taken from, where it is not known whose they are.
    """

    optimizer: Thing
    owners: Owners = None
    outlived: bool | None = None
    stateful: bool = True
    by: str = ""
    decays: bool = False
    source: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class Stepped(Event):
    """An optimizer stepped. `scaler`: through which gradient scaler, None: by its own `step()`. `closure`: it was given
    one. `needed`: the recorded operations that have saved the parameters as they were, for their backward. `trial`:
    it only tries the program out, in a test or to measure its time.
    """

    optimizer: Thing
    owners: Owners = None
    scaler: Thing | None = None
    closure: bool = False
    needed: frozenset[Hashable] = frozenset()
    trial: bool = False


@dataclass(frozen=True, slots=True)
class ScalerMade(Event):
    """A gradient scaler was made. `enabled`, `switch`: as in AutocastEntered. `chosen`: with a scale to begin with."""

    scaler: Thing
    enabled: bool | None = True
    switch: Thing | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class ScalerUpdated(Event):
    """`scaler.update()`. `explicit`: a new scale was given."""

    scaler: Thing
    explicit: bool = False
