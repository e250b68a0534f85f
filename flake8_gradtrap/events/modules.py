"""What modules are made of, their parameters and their states."""

from __future__ import annotations

from dataclasses import dataclass, field

from flake8_gradtrap.events.base import Event, Owners, Site, Thing

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
