"""From libcst's syntax to the syntax that the abstract run executes, in one walk that never visits whitespace."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import libcst as cst

from flake8_gradtrap.interp import ir
from flake8_gradtrap.source import SourceError, deep, identifiers
from flake8_gradtrap.traits import traits

if TYPE_CHECKING:
    from flake8_gradtrap.source import Slice

T = TypeVar("T")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef

_BINARY: dict[type, str] = {
    cst.Add: "+", cst.Subtract: "-", cst.Multiply: "*", cst.Divide: "/", cst.FloorDivide: "//", cst.Modulo: "%",
    cst.Power: "**", cst.MatrixMultiply: "@", cst.BitAnd: "&", cst.BitOr: "|", cst.BitXor: "^", cst.LeftShift: "<<",
    cst.RightShift: ">>",
    cst.AddAssign: "+", cst.SubtractAssign: "-", cst.MultiplyAssign: "*", cst.DivideAssign: "/",
    cst.FloorDivideAssign: "//", cst.ModuloAssign: "%", cst.PowerAssign: "**", cst.MatrixMultiplyAssign: "@",
    cst.BitAndAssign: "&", cst.BitOrAssign: "|", cst.BitXorAssign: "^", cst.LeftShiftAssign: "<<",
    cst.RightShiftAssign: ">>",
}  # fmt: skip
_UNARY: dict[type, str] = {cst.Not: "not", cst.Minus: "-", cst.Plus: "+", cst.BitInvert: "~"}
_BOOLEAN: dict[type, str] = {cst.And: "and", cst.Or: "or"}
_COMPARISON: dict[type, str] = {
    cst.Equal: "==", cst.NotEqual: "!=", cst.LessThan: "<", cst.LessThanEqual: "<=", cst.GreaterThan: ">",
    cst.GreaterThanEqual: ">=", cst.In: "in", cst.NotIn: "not in", cst.Is: "is", cst.IsNot: "is not",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"None": None, "True": True, "False": False}
_LARGE = float("inf")
"""Stands for an integer literal that Python itself refuses to read."""


def lower(unit: Slice) -> tuple[ir.Statement, ...]:
    """The statements of a slice. Raises SourceError if libcst cannot read it, or if it is nested too deeply."""
    module = unit.module
    return deep(lambda: _Lower(unit, unit.nodes).block(module.body))


def outer(node: cst.CSTNode) -> tuple[cst.CSTNode, cst.CSTNode]:
    """The nodes with which an expression begins and ends, all of its own parentheses included."""
    left: Any = getattr(node, "lpar", ())
    right: Any = getattr(node, "rpar", ())
    if isinstance(left, cst.LeftParen) and isinstance(right, cst.RightParen):
        return left, right
    return (left[0], right[-1]) if isinstance(left, Sequence) and left else (node, node)


def bounds(node: cst.CSTNode) -> tuple[cst.CSTNode, cst.CSTNode]:
    """The nodes with which the part of a node that is worth pointing at begins and ends.

    Of a definition that is its name, of a compound statement its header, of all else the node itself.
    """
    match node:
        case cst.FunctionDef() | cst.ClassDef():
            return node, node.name
        case cst.For():
            return node, outer(node.iter)[1]
        case cst.While() | cst.If():
            return node, outer(node.test)[1]
        case cst.With():
            return node, node.rpar if isinstance(node.rpar, cst.RightParen) else node.items[-1]
        case cst.Match():
            return node, outer(node.subject)[1]
        case cst.MatchCase():
            return node, outer(node.pattern if node.guard is None else node.guard)[1]
        case cst.Try() | cst.TryStar():
            return node, node.whitespace_before_colon
        case cst.ExceptHandler() | cst.ExceptStarHandler():
            kind = node.name.name if node.name is not None else node.type
            return node, node.whitespace_after_except if kind is None else outer(kind)[1]
        case cst.CompFor():
            return outer(node.target)[0], outer(node.iter)[1]
        case cst.GeneratorExp() | cst.Tuple() if node.lpar:
            return node.lpar[-1], node.rpar[0]
    return node, node


def _source(node: cst.CSTNode) -> str:
    """The source text of an annotation."""
    if not getattr(node, "lpar", ()):
        if isinstance(node, cst.Name | cst.SimpleString):
            return node.value
        if isinstance(node, cst.Attribute):
            return f"{_source(node.value)}.{node.attr.value}"
        if isinstance(node, cst.Subscript) and len(node.slice) == 1:
            index = node.slice[0].slice
            if isinstance(index, cst.Index) and index.star is None and not isinstance(node.slice[0].comma, cst.Comma):
                return f"{_source(node.value)}[{_source(index.value)}]"
    return cst.Module([]).code_for_node(node)


def _dotted(node: cst.BaseExpression | None) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


def _string(text: str) -> str | bytes:
    """The value of a string literal without expressions in it."""
    prefix_end = min(at for at in (text.find("'"), text.find('"')) if at >= 0)
    prefix = text[:prefix_end].lower()
    width = 3 if len(text) >= prefix_end + 6 and text[prefix_end : prefix_end + 3] in ("'''", '"""') else 1
    if ("\\" in text and "r" not in prefix) or "\r" in text:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: str | bytes = ast.literal_eval(text)
        return value
    inner = text[prefix_end + width : -width]
    return inner.encode("ascii", errors="replace") if "b" in prefix else inner


def _definitions(nodes: Iterable[Any]) -> Iterator[_Definition]:
    """The functions that some statements define, in the order of the source; not those inside of functions."""
    for node in nodes:
        if isinstance(node, _Definition):
            yield node
            continue
        for name in ("body", "cases", "handlers", "orelse", "finalbody"):
            if inner := getattr(node, name, None):
                yield from _definitions(inner)


def _yields(nodes: Iterable[ast.AST]) -> bool:
    """Whether a function with this body is a generator."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, _Definition | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return False


class _Lower:
    """The walk over the statements of one scope of functions. `nodes`: the same statements, as `ast` sees them."""

    def __init__(self, unit: Slice, nodes: Iterable[ast.AST]) -> None:
        self.unit = unit
        self.definitions = _definitions(nodes)

    # -- statements ---------------------------------------------------------------------------------------------------

    def block(self, nodes: Iterable[cst.CSTNode]) -> tuple[ir.Statement, ...]:
        result: list[ir.Statement] = []
        for node in nodes:
            if isinstance(node, cst.SimpleStatementLine):
                for small in node.body:
                    result.append(_STATEMENTS[type(small)](self, small))
            else:
                result.append(_STATEMENTS[type(node)](self, node))
        return tuple(result)

    def suite(self, node: cst.BaseSuite) -> tuple[ir.Statement, ...]:
        if isinstance(node, cst.SimpleStatementSuite):
            return tuple([_STATEMENTS[type(small)](self, small) for small in node.body])
        return self.block(node.body)

    def orelse(self, node: cst.If | cst.Else | None) -> tuple[ir.Statement, ...]:
        if node is None:
            return ()
        return (self.if_(node),) if isinstance(node, cst.If) else self.suite(node.body)

    def expression_statement(self, node: cst.Expr) -> ir.ExprStmt:
        return ir.ExprStmt(self.expression(node.value), cst=node, unit=self.unit)

    def assign(self, node: cst.Assign) -> ir.Assign:
        targets = tuple([self.expression(target.target) for target in node.targets])
        return ir.Assign(targets, self.expression(node.value), cst=node, unit=self.unit)

    def annotated(self, node: cst.AnnAssign) -> ir.Assign | ir.AnnOnly:
        target, annotation = self.expression(node.target), _source(node.annotation.annotation)
        if node.value is None:
            return ir.AnnOnly(target, annotation, cst=node, unit=self.unit)
        return ir.Assign((target,), self.expression(node.value), annotation, cst=node, unit=self.unit)

    def augmented(self, node: cst.AugAssign) -> ir.AugAssign:
        target, value = self.expression(node.target), self.expression(node.value)
        return ir.AugAssign(_BINARY[type(node.operator)], target, value, cst=node, unit=self.unit)

    def for_(self, node: cst.For) -> ir.For:
        target, source = self.expression(node.target), self.expression(node.iter)
        body = self.suite(node.body)
        return ir.For(target, source, body, self.orelse(node.orelse), cst=node, unit=self.unit)

    def while_(self, node: cst.While) -> ir.While:
        test, body = self.expression(node.test), self.suite(node.body)
        return ir.While(test, body, self.orelse(node.orelse), cst=node, unit=self.unit)

    def if_(self, node: cst.If) -> ir.If:
        test, body = self.expression(node.test), self.suite(node.body)
        return ir.If(test, body, self.orelse(node.orelse), cst=node, unit=self.unit)

    def with_(self, node: cst.With) -> ir.With:
        items = tuple(
            [
                ir.WithItem(
                    self.expression(item.item),
                    None if item.asname is None else self.expression(item.asname.name),
                    cst=item,
                    unit=self.unit,
                )
                for item in node.items
            ]
        )
        return ir.With(items, self.suite(node.body), cst=node, unit=self.unit)

    def try_(self, node: cst.Try | cst.TryStar) -> ir.Try:
        body = self.suite(node.body)
        handlers = tuple([self.handler(handler) for handler in node.handlers])
        orelse = self.orelse(node.orelse)
        final = () if node.finalbody is None else self.suite(node.finalbody.body)
        return ir.Try(body, handlers, orelse, final, cst=node, unit=self.unit)

    def handler(self, node: cst.ExceptHandler | cst.ExceptStarHandler) -> ir.Handler:
        kind = self.maybe(node.type)
        name = _dotted(node.name.name) if node.name is not None and isinstance(node.name.name, cst.Name) else None
        return ir.Handler(kind, name, self.suite(node.body), cst=node, unit=self.unit)

    def match(self, node: cst.Match) -> ir.Match:
        subject = self.expression(node.subject)
        return ir.Match(subject, tuple([self.case(case) for case in node.cases]), cst=node, unit=self.unit)

    def case(self, node: cst.MatchCase) -> ir.Case:
        binds = tuple(dict.fromkeys(_captures(node.pattern)))
        wildcard = node.guard is None and _irrefutable(node.pattern)
        guard = self.maybe(node.guard)
        return ir.Case(binds, wildcard, guard, self.suite(node.body), cst=node, unit=self.unit)

    def return_(self, node: cst.Return) -> ir.Return:
        return ir.Return(self.maybe(node.value), cst=node, unit=self.unit)

    def raise_(self, node: cst.Raise) -> ir.Raise:
        return ir.Raise(self.maybe(node.exc), cst=node, unit=self.unit)

    def break_(self, node: cst.Break) -> ir.Break:
        return ir.Break(cst=node, unit=self.unit)

    def continue_(self, node: cst.Continue) -> ir.Continue:
        return ir.Continue(cst=node, unit=self.unit)

    def pass_(self, node: cst.CSTNode) -> ir.Pass:
        return ir.Pass(cst=node, unit=self.unit)

    def global_(self, node: cst.Global) -> ir.Scope:
        return ir.Scope("global", tuple([item.name.value for item in node.names]), cst=node, unit=self.unit)

    def nonlocal_(self, node: cst.Nonlocal) -> ir.Scope:
        return ir.Scope("nonlocal", tuple([item.name.value for item in node.names]), cst=node, unit=self.unit)

    def delete(self, node: cst.Del) -> ir.Delete:
        targets: list[ir.Expression] = []
        waiting: list[cst.BaseExpression] = [node.target]
        while waiting:
            target = waiting.pop()
            if isinstance(target, cst.Tuple | cst.List):
                waiting.extend(element.value for element in reversed(target.elements))
            else:
                targets.append(self.expression(target))
        return ir.Delete(tuple(targets), cst=node, unit=self.unit)

    def assert_(self, node: cst.Assert) -> ir.Assert:
        return ir.Assert(self.expression(node.test), cst=node, unit=self.unit)

    def names(self, aliases: Iterable[cst.ImportAlias]) -> tuple[tuple[str, str | None], ...]:
        return tuple(
            [
                (_dotted(alias.name), None if alias.asname is None else _dotted(_as_name(alias.asname)))
                for alias in aliases
            ]
        )

    def import_(self, node: cst.Import) -> ir.Import:
        return ir.Import(self.names(node.names), cst=node, unit=self.unit)

    def import_from(self, node: cst.ImportFrom) -> ir.ImportFrom:
        names = (("*", None),) if isinstance(node.names, cst.ImportStar) else self.names(node.names)
        return ir.ImportFrom(_dotted(node.module), len(node.relative), names, cst=node, unit=self.unit)

    # -- definitions --------------------------------------------------------------------------------------------------

    def function(self, node: cst.FunctionDef) -> ir.FunctionDef:
        unit = self.unit
        twin = next(self.definitions, None)
        if twin is None or twin.name != node.name.value:
            # `ast` and libcst differ on what there is: read the text that libcst has.
            twin = next(_definitions(ast.parse(cst.Module([]).code_for_node(node)).body))
            text = cst.Module([]).code_for_node(node)
        else:
            text = unit.text_of(twin)
        inner = twin.body
        body = node.body

        def lower_body() -> tuple[ir.Statement, ...]:
            return deep(lambda: _Lower(unit, inner).suite(body))

        return ir.FunctionDef(
            node.name.value,
            self.parameters(node.params),
            tuple([self.expression(decorator.decorator) for decorator in node.decorators]),
            None if node.returns is None else _source(node.returns.annotation),
            node.asynchronous is not None,
            "yield" in text and _yields(inner),
            identifiers(text) | traits((twin,), text),
            lower_body,
            cst=node,
            unit=unit,
        )

    def class_(self, node: cst.ClassDef) -> ir.ClassDef:
        decorators = tuple([self.expression(decorator.decorator) for decorator in node.decorators])
        bases = tuple([self.argument(base) for base in (*node.bases, *node.keywords)])
        return ir.ClassDef(node.name.value, bases, decorators, self.suite(node.body), cst=node, unit=self.unit)

    def parameters(self, node: cst.Parameters) -> tuple[ir.Param, ...]:
        result = [self.parameter(param, "posonly") for param in node.posonly_params]
        result += [self.parameter(param, "pos") for param in node.params]
        if isinstance(node.star_arg, cst.Param):
            result.append(self.parameter(node.star_arg, "star"))
        result += [self.parameter(param, "kw") for param in node.kwonly_params]
        if node.star_kwarg is not None:
            result.append(self.parameter(node.star_kwarg, "starstar"))
        return tuple(result)

    def parameter(self, node: cst.Param, kind: str) -> ir.Param:
        annotation = None if node.annotation is None else _source(node.annotation.annotation)
        default = None if node.default is None else self.expression(node.default)
        return ir.Param(node.name.value, kind, default, annotation, cst=node, unit=self.unit)

    # -- expressions --------------------------------------------------------------------------------------------------

    def expression(self, node: cst.CSTNode) -> ir.Expression:
        return _EXPRESSIONS[type(node)](self, node)

    def maybe(self, node: cst.BaseExpression | None) -> ir.Expression | None:
        return None if node is None else _EXPRESSIONS[type(node)](self, node)

    def name(self, node: cst.Name) -> ir.Expression:
        value = node.value
        if value in _CONSTANTS:
            return ir.Const(_CONSTANTS[value], cst=node, unit=self.unit)
        return ir.Name(value, cst=node, unit=self.unit)

    def ellipsis(self, node: cst.Ellipsis) -> ir.Const:
        return ir.Const(..., cst=node, unit=self.unit)

    def integer(self, node: cst.Integer) -> ir.Const:
        try:
            value: float = int(node.value, 0)
        except ValueError:
            value = _LARGE
        return ir.Const(value, cst=node, unit=self.unit)

    def float_(self, node: cst.Float) -> ir.Const:
        return ir.Const(float(node.value), cst=node, unit=self.unit)

    def imaginary(self, node: cst.Imaginary) -> ir.Const:
        return ir.Const(complex(node.value), cst=node, unit=self.unit)

    def string(self, node: cst.SimpleString) -> ir.Const:
        return ir.Const(_string(node.value), cst=node, unit=self.unit)

    def concatenated(self, node: cst.ConcatenatedString) -> ir.Expression:
        parts: list[cst.CSTNode] = []
        rest: cst.CSTNode = node
        while isinstance(rest, cst.ConcatenatedString):
            parts.append(rest.left)
            rest = rest.right
        parts.append(rest)
        strings = [_string(part.value) for part in parts if isinstance(part, cst.SimpleString)]
        if len(strings) < len(parts):
            values = [value for part in parts for value in self.formatted_values(getattr(part, "parts", ()))]
            return ir.JoinedStr(tuple(values), cst=node, unit=self.unit)
        first = strings[0]
        value = b"".join(strings) if isinstance(first, bytes) else "".join(strings)  # type: ignore[arg-type]
        return ir.Const(value, cst=node, unit=self.unit)

    def formatted(self, node: cst.FormattedString) -> ir.JoinedStr:
        return ir.JoinedStr(tuple(self.formatted_values(node.parts)), cst=node, unit=self.unit)

    def formatted_values(self, parts: Iterable[Any]) -> list[ir.Expression]:
        """The expressions in an f-string (or t-string), those in the format specifications included."""
        result: list[ir.Expression] = []
        for part in parts:
            if (inner := getattr(part, "expression", None)) is not None:
                result.append(self.expression(inner))
                if part.format_spec:
                    result += self.formatted_values(part.format_spec)
        return result

    def attribute(self, node: cst.Attribute) -> ir.Attr:
        value = node.value
        return ir.Attr(_EXPRESSIONS[type(value)](self, value), node.attr.value, cst=node, unit=self.unit)

    def subscript(self, node: cst.Subscript) -> ir.Subscript:
        value = self.expression(node.value)
        indices = tuple([self.index(element.slice) for element in node.slice])
        if len(indices) == 1 and not isinstance(node.slice[0].comma, cst.Comma) and type(indices[0]) is not ir.Starred:
            return ir.Subscript(value, indices[0], cst=node, unit=self.unit)
        index = ir.Sequence("tuple", indices, cst=node, unit=self.unit)
        return ir.Subscript(value, index, cst=node, unit=self.unit)

    def index(self, node: cst.BaseSlice) -> ir.Expression:
        if isinstance(node, cst.Slice):
            parts = self.maybe(node.lower), self.maybe(node.upper), self.maybe(node.step)
            return ir.Slicing(*parts, cst=node, unit=self.unit)
        assert isinstance(node, cst.Index)
        value = self.expression(node.value)
        return value if node.star is None else ir.Starred(value, cst=node, unit=self.unit)

    def call(self, node: cst.Call) -> ir.Call:
        func = node.func
        args = node.args
        return ir.Call(
            _EXPRESSIONS[type(func)](self, func),
            tuple([self.argument(arg) for arg in args]) if args else (),
            cst=node,
            unit=self.unit,
        )

    def argument(self, node: cst.Arg) -> ir.Arg:
        value, keyword = node.value, node.keyword
        return ir.Arg(
            _EXPRESSIONS[type(value)](self, value),
            None if keyword is None else keyword.value,
            node.star,
            cst=node,
            unit=self.unit,
        )

    def binary(self, node: cst.BinaryOperation) -> ir.BinOp:
        left = self.expression(node.left)
        return ir.BinOp(_BINARY[type(node.operator)], left, self.expression(node.right), cst=node, unit=self.unit)

    def unary(self, node: cst.UnaryOperation) -> ir.UnaryOp:
        return ir.UnaryOp(_UNARY[type(node.operator)], self.expression(node.expression), cst=node, unit=self.unit)

    def boolean(self, node: cst.BooleanOperation) -> ir.BoolOp:
        left = self.expression(node.left)
        return ir.BoolOp(_BOOLEAN[type(node.operator)], left, self.expression(node.right), cst=node, unit=self.unit)

    def comparison(self, node: cst.Comparison) -> ir.Compare:
        left = self.expression(node.left)
        rest = [(_COMPARISON[type(part.operator)], self.expression(part.comparator)) for part in node.comparisons]
        return ir.Compare(left, tuple(rest), cst=node, unit=self.unit)

    def conditional(self, node: cst.IfExp) -> ir.IfExp:
        test, body = self.expression(node.test), self.expression(node.body)
        return ir.IfExp(test, body, self.expression(node.orelse), cst=node, unit=self.unit)

    def elements(self, nodes: Iterable[cst.BaseElement]) -> tuple[ir.Expression, ...]:
        return tuple([self.expression(node.value if isinstance(node, cst.Element) else node) for node in nodes])

    def tuple_(self, node: cst.Tuple) -> ir.Sequence:
        return ir.Sequence("tuple", self.elements(node.elements), cst=node, unit=self.unit)

    def list_(self, node: cst.List) -> ir.Sequence:
        return ir.Sequence("list", self.elements(node.elements), cst=node, unit=self.unit)

    def set_(self, node: cst.Set) -> ir.Sequence:
        return ir.Sequence("set", self.elements(node.elements), cst=node, unit=self.unit)

    def dict_(self, node: cst.Dict) -> ir.DictDisplay:
        items: list[tuple[ir.Expression | None, ir.Expression]] = []
        for element in node.elements:
            key = self.expression(element.key) if isinstance(element, cst.DictElement) else None
            items.append((key, self.expression(element.value)))
        return ir.DictDisplay(tuple(items), cst=node, unit=self.unit)

    def starred(self, node: cst.StarredElement) -> ir.Starred:
        return ir.Starred(self.expression(node.value), cst=node, unit=self.unit)

    def generator(self, node: cst.GeneratorExp) -> ir.Comp:
        return ir.Comp("gen", self.expression(node.elt), None, self.clauses(node.for_in), cst=node, unit=self.unit)

    def list_comprehension(self, node: cst.ListComp) -> ir.Comp:
        return ir.Comp("list", self.expression(node.elt), None, self.clauses(node.for_in), cst=node, unit=self.unit)

    def set_comprehension(self, node: cst.SetComp) -> ir.Comp:
        return ir.Comp("set", self.expression(node.elt), None, self.clauses(node.for_in), cst=node, unit=self.unit)

    def dict_comprehension(self, node: cst.DictComp) -> ir.Comp:
        key, value = self.expression(node.key), self.expression(node.value)
        return ir.Comp("dict", key, value, self.clauses(node.for_in), cst=node, unit=self.unit)

    def starred_dict_comprehension(self, node: Any) -> ir.Comp:
        """`{**mapping for …}`, of Python 3.15."""
        value = ir.Starred(self.expression(node.value), cst=node.value, unit=self.unit)
        return ir.Comp("dict", value, None, self.clauses(node.for_in), cst=node, unit=self.unit)

    def clauses(self, node: cst.CompFor | None) -> tuple[ir.CompFor, ...]:
        result: list[ir.CompFor] = []
        while node is not None:
            ifs = tuple([self.expression(condition.test) for condition in node.ifs])
            target, source = self.expression(node.target), self.expression(node.iter)
            result.append(ir.CompFor(target, source, ifs, cst=node, unit=self.unit))
            node = node.inner_for_in
        return tuple(result)

    def named(self, node: cst.NamedExpr) -> ir.NamedExpr:
        return ir.NamedExpr(self.expression(node.target), self.expression(node.value), cst=node, unit=self.unit)

    def lambda_(self, node: cst.Lambda) -> ir.Lambda:
        return ir.Lambda(self.parameters(node.params), self.expression(node.body), cst=node, unit=self.unit)

    def await_(self, node: cst.Await) -> ir.Await:
        return ir.Await(self.expression(node.expression), cst=node, unit=self.unit)

    def yield_(self, node: cst.Yield) -> ir.Yield:
        if isinstance(node.value, cst.From):
            return ir.Yield(self.expression(node.value.item), True, cst=node, unit=self.unit)
        return ir.Yield(self.maybe(node.value), cst=node, unit=self.unit)


def _as_name(node: cst.AsName) -> cst.Name | None:
    return node.name if isinstance(node.name, cst.Name) else None


def _captures(pattern: Any) -> Iterator[str]:
    """The names that a pattern binds, in the order of the source."""
    match pattern:
        case cst.MatchAs():
            if pattern.pattern is not None:
                yield from _captures(pattern.pattern)
            if pattern.name is not None:
                yield pattern.name.value
        case cst.MatchStar():
            if pattern.name is not None:
                yield pattern.name.value
        case cst.MatchList() | cst.MatchTuple() | cst.MatchOr():
            for element in pattern.patterns:
                yield from _captures(element)
        case cst.MatchSequenceElement():
            yield from _captures(pattern.value)
        case cst.MatchOrElement() | cst.MatchMappingElement() | cst.MatchKeywordElement():
            yield from _captures(pattern.pattern)
        case cst.MatchMapping():
            for entry in pattern.elements:
                yield from _captures(entry)
            if pattern.rest is not None:
                yield pattern.rest.value
        case cst.MatchClass():
            for member in (*pattern.patterns, *pattern.kwds):
                yield from _captures(member)


def _irrefutable(pattern: cst.MatchPattern) -> bool:
    if isinstance(pattern, cst.MatchAs):
        return pattern.pattern is None or _irrefutable(pattern.pattern)
    return isinstance(pattern, cst.MatchOr) and any(_irrefutable(part.pattern) for part in pattern.patterns)


def _unknown(walk: _Lower, node: Any) -> Any:
    place = walk.unit.extent(node, node)
    row, column = (walk.unit.first_line, 1) if place is None else (place.row, place.column)
    raise SourceError(f"gradtrap does not know this syntax: {type(node).__name__}", row, column)


class _Table(dict[type, T]):
    """How each kind of libcst node is lowered."""

    def __missing__(self, kind: type) -> Any:
        return _unknown


_STATEMENTS: _Table[Callable[[_Lower, Any], ir.Statement]] = _Table(
    {
        cst.Expr: _Lower.expression_statement,
        cst.Assign: _Lower.assign,
        cst.AnnAssign: _Lower.annotated,
        cst.AugAssign: _Lower.augmented,
        cst.For: _Lower.for_,
        cst.While: _Lower.while_,
        cst.If: _Lower.if_,
        cst.With: _Lower.with_,
        cst.Try: _Lower.try_,
        cst.TryStar: _Lower.try_,
        cst.Match: _Lower.match,
        cst.Return: _Lower.return_,
        cst.Raise: _Lower.raise_,
        cst.Break: _Lower.break_,
        cst.Continue: _Lower.continue_,
        cst.Pass: _Lower.pass_,
        cst.Global: _Lower.global_,
        cst.Nonlocal: _Lower.nonlocal_,
        cst.Del: _Lower.delete,
        cst.Assert: _Lower.assert_,
        cst.Import: _Lower.import_,
        cst.ImportFrom: _Lower.import_from,
        cst.FunctionDef: _Lower.function,
        cst.ClassDef: _Lower.class_,
    }
)
_EXPRESSIONS: _Table[Callable[[_Lower, Any], ir.Expression]] = _Table(
    {
        cst.Name: _Lower.name,
        cst.Ellipsis: _Lower.ellipsis,
        cst.Integer: _Lower.integer,
        cst.Float: _Lower.float_,
        cst.Imaginary: _Lower.imaginary,
        cst.SimpleString: _Lower.string,
        cst.ConcatenatedString: _Lower.concatenated,
        cst.FormattedString: _Lower.formatted,
        cst.Attribute: _Lower.attribute,
        cst.Subscript: _Lower.subscript,
        cst.Call: _Lower.call,
        cst.BinaryOperation: _Lower.binary,
        cst.UnaryOperation: _Lower.unary,
        cst.BooleanOperation: _Lower.boolean,
        cst.Comparison: _Lower.comparison,
        cst.IfExp: _Lower.conditional,
        cst.Tuple: _Lower.tuple_,
        cst.List: _Lower.list_,
        cst.Set: _Lower.set_,
        cst.Dict: _Lower.dict_,
        cst.StarredElement: _Lower.starred,
        cst.GeneratorExp: _Lower.generator,
        cst.ListComp: _Lower.list_comprehension,
        cst.SetComp: _Lower.set_comprehension,
        cst.DictComp: _Lower.dict_comprehension,
        cst.NamedExpr: _Lower.named,
        cst.Lambda: _Lower.lambda_,
        cst.Await: _Lower.await_,
        cst.Yield: _Lower.yield_,
    }
)
for _table, _name, _handler in (  # syntax that not every libcst that will do knows
    (_STATEMENTS, "TypeAlias", _Lower.pass_),
    (_STATEMENTS, "LazyImport", _Lower.import_),
    (_STATEMENTS, "LazyImportFrom", _Lower.import_from),
    (_EXPRESSIONS, "TemplatedString", _Lower.formatted),
    (_EXPRESSIONS, "StarredDictComp", _Lower.starred_dict_comprehension),
):
    if hasattr(cst, _name):
        _table[getattr(cst, _name)] = _handler  # type: ignore[assignment]
