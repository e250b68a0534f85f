"""Modes: training or evaluation, gradients on or off, autocast, anomaly detection."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Site, Thing

# -- modes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModeSet(Event):
    """A module was put into training or evaluation mode. `training`: None where a value that is not known decides.

    `parts`: the module, and those of which it is visibly made; empty if it may be any module. `holders`: the things of
    which it is itself a part. `setup`: by a constructor. `matters`: False where all of the module can be seen, and
    nothing in it does anything else in the one mode than in the other.
    """

    module: Thing
    training: bool | None
    parts: frozenset[Hashable] = frozenset()
    holders: tuple[Hashable, ...] = ()
    setup: bool = False
    matters: bool = True


@dataclass(frozen=True, slots=True)
class ModeRead(Event):
    """A module was asked for its mode, by other code than its own: to put it back later, as a rule."""

    module: Thing


@dataclass(frozen=True, slots=True)
class Forwarded(Event):
    """A module was called, by other code than a module's `forward`.

    `outputs`: the tensors that came out. `recorded`: whether gradients are on, as far as can be seen; None where a
    setting decides, or the module is frozen. `holders`: the things of which the module is a part. `function`: the name
    of the function in which the call stands, `definition`: its definition. `only_looks`: nothing in that function
    trains or differentiates. `probes`: only that the call works, how long it takes or which shape comes out is of
    interest, or a unit test calls. `volatile`: the program turns gradients off in the way of torch before 0.4.
    `for_callers`: the run began in a method of a module: its callers, which are not in sight, may turn them off.
    """

    module: Thing
    outputs: frozenset[Hashable] = frozenset()
    recorded: bool | None = True
    holders: tuple[Hashable, ...] = ()
    function: str = ""
    definition: Site | None = None
    only_looks: bool = False
    probes: bool = False
    volatile: bool = False
    for_callers: bool = False


@dataclass(frozen=True, slots=True)
class GradientModeSet(Event):
    """`torch.set_grad_enabled(…)` as a statement: until the next one. `enabled`: None where it is not known."""

    enabled: bool | None


# -- autocast ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AutocastEntered(Event):
    """A block begins in which operations are cast: `with torch.autocast(…)`. `site`: where the context is made.

    `block`: the block. `enabled`: False where it is visibly off, None where a value that is not known (`switch`)
    decides. `dtype`: the name of the type, "" where it is not known.
    """

    block: Hashable
    enabled: bool | None
    dtype: str
    switch: Thing | None = None


@dataclass(frozen=True, slots=True)
class AutocastLeft(Event):
    """Such a block, if it was one on this path, is left."""

    block: Hashable


# -- anomaly detection ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnomalyDetectionSet(Event):
    """Autograd's anomaly detection was switched: by a function, or as a block is entered and left. `enabled`: None
    where a value that is not known decides.
    """

    enabled: bool | None
