"""Abstract values: what names, attributes and elements hold in the abstract run.

A value is immutable and hashable. Whatever has an identity and can change (a tensor, a list, an optimizer, an instance)
is a `Ref` to a record on the heap of a path (`state.State.heap`). What is not known is a `Sym`: it has an identity too,
so that two conditions on the same unknown agree, and it is typed by what the program calls it and does with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flake8_gradtrap.fixed import fixed

if TYPE_CHECKING:
    from flake8_gradtrap.events import Site
    from flake8_gradtrap.interp.ir import Expression, FunctionDef, Lambda, Statement
    from flake8_gradtrap.interp.project import Module


class Value:
    """Base of all abstract values."""

    __slots__ = ()


@fixed
class Const(Value):
    """A Python constant. `True` and `1` are different constants."""

    value: Any
    type: type = field(default=type(None))

    @staticmethod
    def of(value: Any) -> Const:
        """The constant for a value: mostly one that exists, as paths compare so many of them."""
        return _constant(value)


@lru_cache(maxsize=4096, typed=True)
def _constant(value: Any) -> Const:
    return Const(value, type(value))


NONE = Const.of(None)
TRUE = Const.of(True)
FALSE = Const.of(False)


class Sym(Value):
    """An unknown with an identity: how it came to be (`op`), from what (`args`). `name`: what the program calls it."""

    __slots__ = ("_hash", "args", "name", "op")

    def __init__(self, op: str, args: tuple[Hashable, ...] = (), name: str = "") -> None:
        self.op = op
        self.args = args
        self.name = name
        self._hash = hash((op, args))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Sym) and self._hash == other._hash and self.op == other.op and self.args == other.args
        )

    def __repr__(self) -> str:
        return f"<{self.op} {self.name or self.args}>"


class Ref(int, Value):
    """A reference to a record on the heap: its number there. An int, because paths hash and compare so many of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Ref({int(self)})"


@fixed
class Tup(Value):
    """A tuple of known length."""

    items: tuple[Value, ...]


@fixed
class Api(Value):
    """Something imported from outside the project, by its full name: a module, a class or a function."""

    name: str


@fixed
class Func(Value):
    """A visible function: its definition, the module and environments that it closes over, and its receiver."""

    node: FunctionDef | Lambda = field(compare=False)
    ident: int
    module: Module = field(compare=False)
    closure: tuple[int, ...] = ()
    receiver: Value | None = None
    owner: Class | None = field(default=None, compare=False)
    no_grad: bool | None = field(default=None, compare=False)
    """The gradient mode that a decorator sets: False for `@torch.no_grad()`; None: the caller's."""


@fixed
class Class(Value):
    """A visible class. What its header and its table of contents say is known without reading its body."""

    name: str
    ident: int
    module: Module = field(compare=False)
    bases: tuple[Expression, ...] = field(compare=False)
    """The positional ones, as dotted names; what else there is, stands for an unknown."""
    defines: frozenset[str] = field(compare=False)
    """The names of its methods."""
    read: Callable[[], tuple[Statement, ...]] = field(compare=False, repr=False)
    """Gives the body."""
    closure: tuple[int, ...] = ()


@fixed
class Method(Value):
    """A method of a receiver whose class is not visible: `optimizer.step`, `loss.backward`."""

    receiver: Value
    name: str


@fixed
class Super(Value):
    """`super()` inside a method of `owner`, bound to `receiver`."""

    owner: Class = field(compare=False)
    receiver: Value


# -- heap records -----------------------------------------------------------------------------------------------------

Stamp = tuple[tuple[int, int], ...]
"""The loops that were running when something was made, the outermost first, each with the number of its iteration."""


@fixed
class Tensor:
    """A tensor, or a number with a tensor's provenance: one operation of the provenance graph.

    `op`: "leaf" (made without history), "data" (from outside), "param", "forward", "add", "sub", "neg", "mul", "div",
    "op" (any other differentiable operation), "pass" (a view, a cast, a reduction), "scale" (by a gradient scaler),
    "phi" (one of several), "call" (unknown code was given `parents`), "hard" (no gradient: argmax, comparison), "grad"
    (an accumulated gradient), "first order" (what `autograd.grad` returns without a graph), and the cuts "readout",
    "detach", "rewrap", "forced". `mode`: whether gradients were recorded. `is_number`: a Python or NumPy value.
    `taken`: a leaf that was made of a value that existed before.
    `owner`: the module of a forward, the scaler of a scale. `how`: what the program wrote. `saves`: it saves tensors
    for backward.
    """

    op: str
    parents: tuple[Value, ...] = ()
    site: Site | None = field(default=None, compare=False)
    mode: bool | None = True
    is_number: bool = False
    owner: Value | None = None
    how: str = ""
    saves: bool = False
    stamp: Stamp = ()
    taken: bool = False
    scalar: bool | None = None
    reduction: str = ""
    """Of a loss function: "mean", "sum" or "none", "ragged" for a mean that leaves out what it is told to ignore."""
    kind: str = "tensor"


@fixed
class Iterator:
    """A one-shot iterator. `sources`: the iterators or iterables it draws from; `item`: what it yields.

    `generator`: the visible generator function behind it, with its bound arguments.
    """

    how: str
    sources: tuple[Value, ...] = ()
    item: Value | None = None
    of_parameters: bool = False
    owners: frozenset[Hashable] | None = None
    site: Site | None = field(default=None, compare=False)
    generator: tuple[Func, tuple[tuple[str, Value], ...]] | None = None
    endless: bool = False
    start: int = 0
    """Where an `enumerate` starts to count."""
    stamp: Stamp = ()
    kind: str = "iterator"


@fixed
class Listing:
    """A list, set, deque or re-iterable view. `items`: its elements if all are known, else `item`: a typical one."""

    items: tuple[Value, ...] | None = None
    item: Value | None = None
    owners: frozenset[Hashable] | None = None
    of_parameters: bool = False
    bounded: bool = False
    stamp: Stamp = ()
    shape: str = "list"
    kind: str = "list"


@fixed
class Mapping:
    """A dict. `items`: known entries by key; `closed`: there are no others."""

    items: tuple[tuple[Value, Value], ...] = ()
    closed: bool = True
    stamp: Stamp = ()
    default: bool = False
    """A missing entry is an empty list: `defaultdict(list)`."""
    kind: str = "dict"


@fixed
class Thingy:
    """Any other object: `kind` is "instance", "module", "optimizer", "scaler", "scheduler", "context", "lossfn",
    "loader", …

    `cls`: its visible class. `owners`: for an optimizer, whose parameters it has. `what`: the API that made it.
    `flag`: for a scaler False when it is literally disabled; for a context the gradient mode that it sets.
    `reduction`: of a loss function, as in Tensor.
    """

    kind: str
    cls: Class | None = None
    owners: frozenset[Hashable] | None = None
    what: str = ""
    flag: bool | None = None
    args: tuple[Value, ...] = ()
    site: Site | None = field(default=None, compare=False)
    stamp: Stamp = ()
    reduction: str = ""


Record = Tensor | Iterator | Listing | Mapping | Thingy


SETTINGS = re.compile(r"(^|_)(args|cfg|conf|config|configs|opt|opts|options|hparams|hps?|hyp|settings|flags)$", re.I)
"""Names of what holds settings: numbers and words, no tensors."""


def setting(value: Sym) -> bool:
    """Whether an unknown is read out of settings: `args.opt_loss`, `config["weights"]["loss"]`."""
    while value.op in ("attr", "entry", "item") and value.args and isinstance(value.args[0], Sym):
        value = value.args[0]
        if SETTINGS.search(value.name):
            return True
    return False


def of_elsewhere(value: Value) -> bool:
    """Whether a value is a name of a module out of sight (`config.amp`): it may be None, or false."""
    if not isinstance(value, Api):
        return False
    root, _, rest = value.name.partition(".")
    return bool(rest) and root not in ("torch", "builtins", "numpy", "math")


_WEIGHT = re.compile(r"_(factor|coeff?s?|coefficient|lambda|ratio|weight)$", re.I)


def named_loss(value: Sym) -> bool:
    """Whether an unknown is a loss by its name; what weighs one (`perceptual_loss_factor`) is none."""
    return "loss" in value.name.lower() and not setting(value) and _WEIGHT.search(value.name) is None


def named_weight(value: Sym) -> bool:
    """Whether an unknown is the weight of a loss by its name: `self.entropy_coef`, `kl_weight`."""
    return _WEIGHT.search(value.name) is not None


def infinite(value: Value | None) -> bool:
    """Whether a value is infinity, as far as can be seen: `float("inf")`, `math.inf`, `torch.inf`."""
    if isinstance(value, Const):
        return isinstance(value.value, float) and abs(value.value) == float("inf")
    return (isinstance(value, Api) and value.name.endswith(".inf")) or (isinstance(value, Sym) and value.name == "inf")
