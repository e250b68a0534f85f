"""Values that are written in place, or come to nothing."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Site, Thing

# -- values that are written in place ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overwritten(Event):
    """A tensor was changed in place: by an operator (`-=`), a method (`add_`), an element, or by assigning its `data`.

    `how`: which. `leaf`: it is a leaf that needs a gradient (a Parameter). `through_data`: it was reached by `.data`,
    which autograd does not notice. `recorded`: whether gradients are on. `by_gradient`: what is written was computed
    from gradients. `needed`: the recorded operations that have saved what it held, for their backward. `function`: the
    names of the functions that are running.
    """

    tensor: Thing
    how: str
    leaf: bool = False
    through_data: bool = False
    recorded: bool | None = None
    by_gradient: bool = False
    needed: frozenset[Hashable] = frozenset()
    function: str = ""


@dataclass(frozen=True, slots=True)
class Rebound(Event):
    """A name that held a tensor holds now what was computed of that tensor and its gradient, with a graph.

    `leaf`: the old tensor was a leaf.
    """

    tensor: Thing
    result: Thing
    leaf: bool = False


# -- tensors that come to nothing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResultDropped(Event):
    """A method that returns a new tensor was called as a statement. `view`: it only looks at the same data otherwise.

    `how`: the method.
    """

    tensor: Thing
    how: str
    view: bool = False


@dataclass(frozen=True, slots=True)
class InferenceTensorSaved(Event):
    """A recorded operation (`by`) needs to save a tensor that was made under `inference_mode`: it raises.

    `made`: where.
    """

    tensor: Thing
    by: str
    made: Site
