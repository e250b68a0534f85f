"""Activations, losses, logarithms and roots, and the gradients that they give."""

from __future__ import annotations

from dataclasses import dataclass, field

from flake8_gradtrap.events.base import Event, Site, Thing


@dataclass(frozen=True, slots=True)
class Activation:
    """What made a value: a function or layer after which nothing but its shape changed.

    `kind`: "softmax", "sigmoid", "log_softmax", "log_sigmoid", "arctan", or "linear" for a layer without activation.
    `how`: what the program wrote. `site`: where it is applied, or the layer made. `model`: the visible module (or
    `Sequential`) whose last layer it is, as it is called, and `made`: where that was made.
    """

    kind: str
    how: str
    site: Site | None = field(compare=False)
    model: str = ""
    made: Site | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LossComputed(Event):
    """A loss of torch was computed.

    `loss`: its short name. `expects`: what its input has to be: "logits" (of a softmax), "binary_logits" (of sigmoids),
    "log_probabilities" or "probabilities". `given`: the input; `activation`: what made it, None where that is not
    known. `trains`: whether a gradient can go into the input. `unseen`: the input is the output of a visible model that
    was not looked into this time.
    """

    result: Thing
    loss: str
    expects: str
    given: Thing
    activation: Activation | None = None
    trains: bool | None = None
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class LogarithmTaken(Event):
    """The logarithm of what an activation made was taken.

    `complement`: of one minus it. `guarded`: a small number was added first. `trains`: whether a gradient can go
    through.
    """

    operand: Thing
    result: Thing
    activation: Activation
    complement: bool = False
    guarded: bool = False
    trains: bool | None = None


@dataclass(frozen=True, slots=True)
class BorderHidden(Event):
    """A selection (`torch.where`) leaves out the elements for which an operation in a branch is not defined.

    The gradient of what is left out is zero times that of the operation: NaN, where that is infinite. `operation`: its
    name in words, `at`: where it stands. `trains`: whether a gradient can go through it.
    """

    operation: str
    at: Site
    trains: bool | None = None


@dataclass(frozen=True, slots=True)
class RootTaken(Event):
    """The square root of a sum of squares, or of a variance, was taken: of what is zero where all of them are.

    `trains`: whether a gradient can go through it.
    """

    how: str
    trains: bool | None = None


@dataclass(frozen=True, slots=True)
class SumBackpropagated(Event):
    """A loss was back-propagated that is a sum over the batch, and nothing divides it. `summed`: where it is summed."""

    loss: Thing
    summed: Site


@dataclass(frozen=True, slots=True)
class UnreducedBackpropagated(Event):
    """The losses of all samples were back-propagated as they are, without a gradient argument.

    `how`, `computed`: the loss function, and where it is applied.
    """

    loss: Thing
    how: str
    computed: Site
