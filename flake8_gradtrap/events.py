"""What can happen in a training run: the vocabulary that both runs speak and every rule listens to.

The abstract run emits these events while it executes source on abstract values; the real run emits the same events
with measurements attached. An event names things by `Thing`, places by `Site`, and carries whatever a rule needs to
judge it: a rule never looks behind an event, at syntax or at a tensor.

Three-valued facts are written as ``bool | None``: True, False, or None where it is not known.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the program and the calls through which it was reached.

    `node` identifies the place (a syntax node in the abstract run, file and line in the real one); `caller` is the site
    of the call that entered the function in which the place stands, None at the start of the run.
    """

    node: Hashable
    caller: Site | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of the run: its identity, and what the program calls it at this place (for messages only)."""

    key: Hashable
    label: str = field(default="", compare=False)
    harmless: bool = field(default=False, compare=False)
    """A tensor that is no loss: whoever gets it can hardly clear a gradient, or step."""


Owners = frozenset[Hashable] | None
"""Which modules (or single parameters) some gradients belong to; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and where."""

    site: Site


# -- one-shot iterators -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IteratorMade(Event):
    """A one-shot iterator was created.

    `kind`: what made it, in words ("`model.parameters()`", "`filter(...)`", "a generator expression").
    `of_parameters`: it yields a model's parameters (or modules, buffers). `assumed`: nothing in sight made it: it is an
    argument whose name or annotation says that it may be one-shot. `weak`: only an annotation says so, and of elements
    that are no tensors. `iterable`: only an annotation says so, and one that a list or a loader fits as well.
    """

    it: Thing
    kind: str
    of_parameters: bool = False
    assumed: bool = False
    weak: bool = False
    iterable: bool = False


@dataclass(frozen=True, slots=True)
class Iterated(Event):
    """An iterator was iterated.

    `by`: who did it, in words ("`for`", "`sum`", "`AdamW`"). `whole`: it was exhausted (True), only a part was taken
    (False), or either (None). `optional`: taking a single item with `next`. `through`: the call that handed the
    iterator to the function in which this happens, seen from where the iterator lives; None where it is iterated at
    home. `ends`: nothing new begins, but a loop that was told before (as `whole` None) has ended, and now `whole` is
    known.
    """

    it: Thing
    by: str
    whole: bool | None = True
    single: bool = False
    through: Site | None = None
    ends: bool = False


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
    """

    share: float | None = None
    by: frozenset[Hashable] = frozenset()
    uneven: frozenset[frozenset[Hashable]] = frozenset()


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
    stands there, and nothing else asks for it. `partial`: the graph may go on where it is not seen.
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
    """A container was cleared, or the name of it was given a new one."""

    container: Thing


@dataclass(frozen=True, slots=True)
class Escaped(Event):
    """Things were handed to code that cannot be seen, returned out of sight, or stored where the run loses them."""

    things: tuple[Thing, ...]
    to: str = ""


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


# -- numerics ---------------------------------------------------------------------------------------------------------


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


# -- gradients --------------------------------------------------------------------------------------------------------


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
    keeps something from step to step (momentum, moments). `decays`: it was given a weight decay.
    """

    optimizer: Thing
    owners: Owners = None
    outlived: bool | None = None
    stateful: bool = True
    by: str = ""
    decays: bool = False


@dataclass(frozen=True, slots=True)
class Stepped(Event):
    """An optimizer stepped. `scaler`: through which gradient scaler, None: by its own `step()`. `closure`: it was given
    one. `needed`: the recorded operations that have saved the parameters as they were, for their backward.
    """

    optimizer: Thing
    owners: Owners = None
    scaler: Thing | None = None
    closure: bool = False
    needed: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class ScalerMade(Event):
    """A gradient scaler was made. `enabled`, `switch`: as in AutocastEntered."""

    scaler: Thing
    enabled: bool | None = True
    switch: Thing | None = None


@dataclass(frozen=True, slots=True)
class ScalerUpdated(Event):
    """`scaler.update()`. `explicit`: a new scale was given."""

    scaler: Thing
    explicit: bool = False


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


# -- what modules are made of -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A module or Parameter that something holds.

    `kind`: "module" or "parameter". `trains`: whether it has parameters, or a mode of which it must be told (None where
    that cannot be seen). `frozen`: its parameters were visibly frozen.
    """

    thing: Thing
    kind: str
    trains: bool | None = None
    frozen: bool = False
    site: Site | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of an instance and what it holds: a "module", a "parameter", a "tensor", a container ("list",
    "tuple", "dict"), or "" for anything else.

    `parts`: the modules and Parameters in a container (the value itself if it is one). `whole`: the container holds
    nothing else, and nothing nested. `count`: how many elements it has, where all are known. `named`: the keys of a
    dict are literal strings that can name a submodule.
    """

    name: str
    value: Thing
    kind: str
    parts: tuple[Part, ...] = ()
    whole: bool = False
    count: int | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor that was computed from a new Parameter: from which, by what (as the program writes it), and where; and
    where the Parameter was made.
    """

    parameter: Thing
    how: str
    site: Site | None = field(default=None, compare=False)
    made: Site | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class AttributeSet(Event):
    """An attribute of a module was assigned.

    `replaces`: what it held before, if that was a module or Parameter. `computed`: how a tensor was computed from a new
    Parameter. `value`: the expression that is assigned, where it stands alone on the right; `made_here`: it makes the
    value itself (a display, a comprehension, a call). `ready`: `super().__init__()` of the module has run.
    `namespace`: what this file calls `torch.nn` ("" where it has no name for it).
    """

    holder: Thing
    attribute: Attribute
    replaces: Part | None = None
    computed: Computed | None = None
    value: Site | None = None
    made_here: bool = False
    ready: bool = False
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Registered(Event):
    """Modules or Parameters became part of a module, or were handed to code that may make them one."""

    parts: tuple[Part, ...]
    how: str = ""


@dataclass(frozen=True, slots=True)
class Constructed(Event):
    """The constructor of a class has run on this path: what its instance holds now."""

    holder: Thing
    kind: str
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassEnded(Event):
    """The constructor and all methods of a class have run, each on paths of its own.

    What a rule has to say of the class as a whole is said here, or at the end of the file: it has kept on itself what
    it saw on any path. `collecting`: the identifiers in the methods by which the class names its parameters or moves
    them itself (`parameters`, `state_dict`, `to`, …).
    """

    holder: Thing
    kind: str
    collecting: frozenset[str] = frozenset()


# -- parameters that change after an optimizer was given them ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParametersReplaced(Event):
    """A module has other parameters from now on than those that it had when it was made.

    `place`: which attribute, element or name got something new; `owners`: the modules that had parameters there,
    `gained`: those that came. `whole`: a name that held a module holds another one now. `how`: the method or function
    that made new Parameters of the old ones, "" where a part was assigned or added. `told_apart`: the parts of what has
    the place are visible, so that a backward says through which of them it went.
    """

    place: Thing
    owners: Owners
    gained: Owners
    whole: bool = False
    how: str = ""
    told_apart: bool = False


@dataclass(frozen=True, slots=True)
class ParametersFrozen(Event):
    """`requires_grad` of Parameters was set. `frozen`: to False; None where a value that is not known decides."""

    target: Thing
    owners: Owners = None
    frozen: bool | None = True


@dataclass(frozen=True, slots=True)
class GroupAdded(Event):
    """An optimizer was given more parameters: `add_param_group`, or a change of its `param_groups`.

    `optimizer`: None where it may be any. `owners`: of the new ones.
    """

    optimizer: Thing | None
    owners: Owners = None


# -- states of modules ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateTaken(Event):
    """`module.state_dict()` was called, or a dict was made of one whose tensors share its memory.

    `owners`: the modules whose parameters it shows. `moved`: its tensors were asked onto the CPU, which copies those
    that are elsewhere. `copier`: what this file calls `copy.deepcopy` ("" where it has no name for it).
    """

    state: Thing
    owners: Owners = None
    moved: bool = False
    copier: str = ""


@dataclass(frozen=True, slots=True)
class StateUsed(Event):
    """A state was loaded into a module, saved, or returned out of sight. `how`: "load", "save" or "return"."""

    state: Thing
    how: str


@dataclass(frozen=True, slots=True)
class StateRestored(Event):
    """`target.load_state_dict(…)`. `kind`: "module", "optimizer", "scheduler", "scaler", or "" if it may be any."""

    target: Thing
    kind: str
    owners: Owners = None


@dataclass(frozen=True, slots=True)
class ProgressRestored(Event):
    """The epoch or step at which training goes on (`progress`, as the program calls it) was read from a checkpoint."""

    progress: Thing


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


# -- accumulation windows and schedules -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowTested(Event):
    """A loop asked whether its accumulation window is full: `(i + 1) % k == 0`, or a counter that it resets.

    `loop`: the innermost one that is running. `every`: the k, `size`: its number where that is known. `full`: the
    answer on this path.
    """

    loop: Hashable
    every: Thing
    size: float | None
    full: bool


@dataclass(frozen=True, slots=True)
class SchedulerMade(Event):
    """A scheduler of torch was made for an optimizer. `span`: over how many of its steps it runs, where it says so.

    `resumed`: it is told where it goes on (`last_epoch`).
    """

    scheduler: Thing
    optimizer: Thing | None
    by: str
    span: Thing | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class SchedulerStepped(Event):
    """`scheduler.step(…)`. `optimizer`: whose learning rate it sets. `by`: the API that made it, "" where that is not
    known. `given`: it was given a metric or an epoch.
    """

    scheduler: Thing
    optimizer: Thing | None = None
    by: str = ""
    given: bool = False


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


# -- the course of the run --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoopStarted(Event):
    """A loop begins. `count`: the n of `for … in range(n)`."""

    loop: Hashable
    count: Thing | None = None


@dataclass(frozen=True, slots=True)
class IterationStarted(Event):
    """An iteration of a loop begins; `index` is 0 for the first that is run, 1 for the second."""

    loop: Hashable
    index: int


@dataclass(frozen=True, slots=True)
class LoopLeft(Event):
    """A loop is over. `surprised`: its last iteration was taken for one that others follow (`i + 1 == len(loader)` was
    false), or it was left by `break`: the path may not exist, or not be the usual one.
    """

    loop: Hashable
    surprised: bool = False


@dataclass(frozen=True, slots=True)
class FunctionLeft(Event):
    """A visible function returned. `values`: the tensors in what it returned. `reaches`: the tensors of their graphs
    (only where somebody asks what becomes of a module's output).
    """

    function: str
    values: tuple[Thing, ...] = ()
    reaches: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class WholeClass:
    """A class of which the constructor and all methods were run on one object, `instance`.

    `made`: what its constructor made and keeps in attributes, labelled `self.name`. `bases_seen`: whether all its base
    classes are visible; others may do anything to what it keeps.
    """

    instance: Thing
    made: tuple[Thing, ...] = ()
    bases_seen: bool = True


@dataclass(frozen=True, slots=True)
class FileEnded(Event):
    """All of the file was run. What a rule says of something as a whole, whatever the path, is said here.

    What a rule has not heard by now, this file does not do: the path has no memory, and a rule keeps on itself what it
    takes to judge. `classes`: those whose methods were run by themselves. `unrun`: for each function that was not run,
    or not to its end, the identifiers in it. Other files may still do what this one does not: a rule asks for more
    evidence that this is the place for it.
    """

    classes: tuple[WholeClass, ...] = ()
    unrun: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """This path of the run is over; `again`: its code may run again from the top, on the same objects. `instance`: the
    object whose method it was.
    """

    again: bool = False
    instance: Thing | None = None
