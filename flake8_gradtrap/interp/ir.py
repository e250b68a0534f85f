"""The syntax that the abstract run executes: what `lower` makes of a slice of source.

Names and fields follow the standard library's `ast` where there is no reason to differ. Every node keeps the node of
`ast` that it came from (`origin`) and the slice of source that it belongs to (`unit`), so that its place can be worked
out when there is a finding, and only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flake8_gradtrap.source import Slice


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """A piece of syntax; compared by identity."""

    origin: Any = field(default=None, repr=False)
    unit: Slice | None = field(default=None, repr=False)


# -- expressions ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Name(Node):
    id: str


@dataclass(slots=True, eq=False)
class Const(Node):
    """A literal: None, True, False, a number, a string, bytes or Ellipsis."""

    value: Any


@dataclass(slots=True, eq=False)
class JoinedStr(Node):
    """An f-string (or t-string): the expressions that it formats."""

    values: tuple[Expression, ...]


@dataclass(slots=True, eq=False)
class Attr(Node):
    value: Expression
    attr: str


@dataclass(slots=True, eq=False)
class Subscript(Node):
    """`value[index]`; several indices come as one Tuple."""

    value: Expression
    index: Expression


@dataclass(slots=True, eq=False)
class Slicing(Node):
    """`lower:upper:step` inside a subscript."""

    lower: Expression | None
    upper: Expression | None
    step: Expression | None


@dataclass(slots=True, eq=False)
class Arg(Node):
    """An argument of a call. `star` is "", "*" or "**"."""

    value: Expression
    keyword: str | None = None
    star: str = ""


@dataclass(slots=True, eq=False)
class Call(Node):
    func: Expression
    args: tuple[Arg, ...]


@dataclass(slots=True, eq=False)
class BinOp(Node):
    """`op` is the operator's own text: + - * / // % ** @ & | ^ << >>."""

    op: str
    left: Expression
    right: Expression


@dataclass(slots=True, eq=False)
class UnaryOp(Node):
    """`op` is one of: not - + ~."""

    op: str
    operand: Expression


@dataclass(slots=True, eq=False)
class BoolOp(Node):
    """`op` is "and" or "or"."""

    op: str
    left: Expression
    right: Expression


@dataclass(slots=True, eq=False)
class Compare(Node):
    """`left op0 right0 op1 right1 …`; an op is one of: == != < <= > >= in "not in" is "is not"."""

    left: Expression
    rest: tuple[tuple[str, Expression], ...]


@dataclass(slots=True, eq=False)
class IfExp(Node):
    test: Expression
    body: Expression
    orelse: Expression


@dataclass(slots=True, eq=False)
class Sequence(Node):
    """A tuple, list or set display. `kind` is "tuple", "list" or "set"; elements may be Starred."""

    kind: str
    elts: tuple[Expression, ...]


@dataclass(slots=True, eq=False)
class DictDisplay(Node):
    """`{k: v, **m}`; a key of None marks a `**` element."""

    items: tuple[tuple[Expression | None, Expression], ...]


@dataclass(slots=True, eq=False)
class Starred(Node):
    value: Expression


@dataclass(slots=True, eq=False)
class CompFor(Node):
    target: Expression
    iter: Expression
    ifs: tuple[Expression, ...]


@dataclass(slots=True, eq=False)
class Comp(Node):
    """A comprehension. `kind` is "list", "set", "dict" or "gen"; `elt` is the key of a dict comprehension, `value` its
    value.
    """

    kind: str
    elt: Expression
    value: Expression | None
    fors: tuple[CompFor, ...]


@dataclass(slots=True, eq=False)
class NamedExpr(Node):
    target: Expression
    value: Expression


@dataclass(slots=True, eq=False)
class Lambda(Node):
    params: tuple[Param, ...]
    body: Expression


@dataclass(slots=True, eq=False)
class Await(Node):
    value: Expression


@dataclass(slots=True, eq=False)
class Yield(Node):
    """`yield value` or, with `is_from`, `yield from value`."""

    value: Expression | None
    is_from: bool = False


Expression = (
    Name
    | Const
    | JoinedStr
    | Attr
    | Subscript
    | Slicing
    | Call
    | BinOp
    | UnaryOp
    | BoolOp
    | Compare
    | IfExp
    | Sequence
    | DictDisplay
    | Starred
    | Comp
    | NamedExpr
    | Lambda
    | Await
    | Yield
)


# -- definitions ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Param(Node):
    """A parameter. `kind` is "posonly", "pos", "star", "kw" or "starstar"; `annotation` is its source text."""

    name: str
    kind: str
    default: Expression | None = None
    annotation: str | None = None


@dataclass(slots=True, eq=False)
class FunctionDef(Node):
    """A function. Its body is lowered when it is first asked for."""

    name: str
    params: tuple[Param, ...]
    decorators: tuple[Expression, ...]
    returns: str | None
    is_async: bool
    is_generator: bool
    mentions: frozenset[str]
    """Every identifier in the function (names, attributes, keywords), nested functions included."""
    lower_body: Callable[[], tuple[Statement, ...]] = field(repr=False)
    _body: tuple[Statement, ...] | None = field(default=None, repr=False)

    @property
    def body(self) -> tuple[Statement, ...]:
        if self._body is None:
            self._body = self.lower_body()
        return self._body


@dataclass(slots=True, eq=False)
class ClassDef(Node):
    """A class; `bases` holds positional bases, keywords (metaclass=…) and starred ones as Arg."""

    name: str
    bases: tuple[Arg, ...]
    decorators: tuple[Expression, ...]
    body: tuple[Statement, ...]


# -- statements -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class ExprStmt(Node):
    value: Expression


@dataclass(slots=True, eq=False)
class Assign(Node):
    """`t1 = t2 = value`; an annotated assignment with a value has its annotation's text in `annotation`."""

    targets: tuple[Expression, ...]
    value: Expression
    annotation: str | None = None


@dataclass(slots=True, eq=False)
class AnnOnly(Node):
    """`target: annotation` without a value."""

    target: Expression
    annotation: str


@dataclass(slots=True, eq=False)
class AugAssign(Node):
    """`target op= value`, `op` without the equals sign."""

    op: str
    target: Expression
    value: Expression


@dataclass(slots=True, eq=False)
class For(Node):
    target: Expression
    iter: Expression
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class While(Node):
    test: Expression
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]

    @property
    def endless(self) -> bool:
        """Whether its test never ends it: `while True`."""
        return isinstance(self.test, Const) and bool(self.test.value)


@dataclass(slots=True, eq=False)
class If(Node):
    """An `elif` is an If alone in `orelse`."""

    test: Expression
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class WithItem(Node):
    value: Expression
    target: Expression | None


@dataclass(slots=True, eq=False)
class With(Node):
    items: tuple[WithItem, ...]
    body: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class Handler(Node):
    type: Expression | None
    name: str | None
    body: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class Try(Node):
    body: tuple[Statement, ...]
    handlers: tuple[Handler, ...]
    orelse: tuple[Statement, ...]
    final: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class Case(Node):
    """A case of `match`: the names that its pattern binds; `wildcard` when it matches anything."""

    binds: tuple[str, ...]
    wildcard: bool
    guard: Expression | None
    body: tuple[Statement, ...]


@dataclass(slots=True, eq=False)
class Match(Node):
    subject: Expression
    cases: tuple[Case, ...]


@dataclass(slots=True, eq=False)
class Return(Node):
    value: Expression | None


@dataclass(slots=True, eq=False)
class Raise(Node):
    value: Expression | None


@dataclass(slots=True, eq=False)
class Break(Node):
    pass


@dataclass(slots=True, eq=False)
class Continue(Node):
    pass


@dataclass(slots=True, eq=False)
class Pass(Node):
    pass


@dataclass(slots=True, eq=False)
class Scope(Node):
    """`global` or `nonlocal` (`kind`)."""

    kind: str
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Delete(Node):
    targets: tuple[Expression, ...]


@dataclass(slots=True, eq=False)
class Assert(Node):
    test: Expression


@dataclass(slots=True, eq=False)
class Import(Node):
    """`import a.b as c`: pairs of the dotted name and the name after `as` (None without)."""

    names: tuple[tuple[str, str | None], ...]


@dataclass(slots=True, eq=False)
class ImportFrom(Node):
    """`from ..module import name as other`; `names` is (("*", None),) for a star import."""

    module: str
    level: int
    names: tuple[tuple[str, str | None], ...]


Statement = (
    ExprStmt
    | Assign
    | AnnOnly
    | AugAssign
    | For
    | While
    | If
    | With
    | Try
    | Match
    | Return
    | Raise
    | Break
    | Continue
    | Pass
    | Scope
    | Delete
    | Assert
    | Import
    | ImportFrom
    | FunctionDef
    | ClassDef
)


def mentions(node: FunctionDef | Lambda) -> frozenset[str]:
    """Every identifier in a function."""
    return node.mentions if isinstance(node, FunctionDef) else frozenset()
