"""From the syntax of `ast` to the syntax that the abstract run executes, in one walk."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from flake8_gradtrap.interp import ir
from flake8_gradtrap.places import Bare
from flake8_gradtrap.source import SourceError, deep

if TYPE_CHECKING:
    from flake8_gradtrap.source import Slice

T = TypeVar("T")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef

_OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
    ast.Not: "not", ast.USub: "-", ast.UAdd: "+", ast.Invert: "~",
    ast.And: "and", ast.Or: "or",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


def lower(unit: Slice) -> tuple[ir.Statement, ...]:
    """The statements of a slice. Raises SourceError if it is nested too deeply, or has syntax that is not known."""
    return deep(lambda: _Lower(unit).block(unit.nodes))


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
    """The walk over some statements of a slice."""

    def __init__(self, unit: Slice) -> None:
        self.unit = unit

    # -- statements ---------------------------------------------------------------------------------------------------

    def block(self, nodes: Iterable[ast.stmt]) -> tuple[ir.Statement, ...]:
        return tuple([_STATEMENTS[type(node)](self, node) for node in nodes])

    def expression_statement(self, node: ast.Expr) -> ir.ExprStmt:
        return ir.ExprStmt(self.expression(node.value), origin=node, unit=self.unit)

    def assign(self, node: ast.Assign) -> ir.Assign:
        targets = tuple([self.expression(target) for target in node.targets])
        return ir.Assign(targets, self.expression(node.value), origin=node, unit=self.unit)

    def annotated(self, node: ast.AnnAssign) -> ir.Assign | ir.AnnOnly:
        target, annotation = self.expression(node.target), self.unit.places.text(node.annotation)
        if node.value is None:
            return ir.AnnOnly(target, annotation, origin=node, unit=self.unit)
        return ir.Assign((target,), self.expression(node.value), annotation, origin=node, unit=self.unit)

    def augmented(self, node: ast.AugAssign) -> ir.AugAssign:
        target, value = self.expression(node.target), self.expression(node.value)
        return ir.AugAssign(_OPERATORS[type(node.op)], target, value, origin=node, unit=self.unit)

    def for_(self, node: ast.For | ast.AsyncFor) -> ir.For:
        target, source = self.expression(node.target), self.expression(node.iter)
        body = self.block(node.body)
        return ir.For(target, source, body, self.block(node.orelse), origin=node, unit=self.unit)

    def while_(self, node: ast.While) -> ir.While:
        test, body = self.expression(node.test), self.block(node.body)
        return ir.While(test, body, self.block(node.orelse), origin=node, unit=self.unit)

    def if_(self, node: ast.If) -> ir.If:
        test, body = self.expression(node.test), self.block(node.body)
        return ir.If(test, body, self.block(node.orelse), origin=node, unit=self.unit)

    def with_(self, node: ast.With | ast.AsyncWith) -> ir.With:
        items = tuple(
            [
                ir.WithItem(
                    self.expression(item.context_expr), self.maybe(item.optional_vars), origin=item, unit=self.unit
                )
                for item in node.items
            ]
        )
        return ir.With(items, self.block(node.body), origin=node, unit=self.unit)

    def try_(self, node: Any) -> ir.Try:
        body = self.block(node.body)
        handlers = tuple([self.handler(handler) for handler in node.handlers])
        return ir.Try(body, handlers, self.block(node.orelse), self.block(node.finalbody), origin=node, unit=self.unit)

    def handler(self, node: ast.ExceptHandler) -> ir.Handler:
        return ir.Handler(self.maybe(node.type), node.name, self.block(node.body), origin=node, unit=self.unit)

    def match(self, node: ast.Match) -> ir.Match:
        subject = self.expression(node.subject)
        return ir.Match(subject, tuple([self.case(case) for case in node.cases]), origin=node, unit=self.unit)

    def case(self, node: ast.match_case) -> ir.Case:
        binds = tuple(dict.fromkeys(_captures(node.pattern)))
        wildcard = node.guard is None and _irrefutable(node.pattern)
        return ir.Case(binds, wildcard, self.maybe(node.guard), self.block(node.body), origin=node, unit=self.unit)

    def return_(self, node: ast.Return) -> ir.Return:
        return ir.Return(self.maybe(node.value), origin=node, unit=self.unit)

    def raise_(self, node: ast.Raise) -> ir.Raise:
        return ir.Raise(self.maybe(node.exc), origin=node, unit=self.unit)

    def break_(self, node: ast.Break) -> ir.Break:
        return ir.Break(origin=node, unit=self.unit)

    def continue_(self, node: ast.Continue) -> ir.Continue:
        return ir.Continue(origin=node, unit=self.unit)

    def pass_(self, node: ast.stmt) -> ir.Pass:
        return ir.Pass(origin=node, unit=self.unit)

    def global_(self, node: ast.Global) -> ir.Scope:
        return ir.Scope("global", tuple(node.names), origin=node, unit=self.unit)

    def nonlocal_(self, node: ast.Nonlocal) -> ir.Scope:
        return ir.Scope("nonlocal", tuple(node.names), origin=node, unit=self.unit)

    def delete(self, node: ast.Delete) -> ir.Delete:
        targets: list[ir.Expression] = []
        waiting = node.targets[::-1]
        while waiting:
            target = waiting.pop()
            if isinstance(target, ast.Tuple | ast.List):
                waiting.extend(reversed(target.elts))
            else:
                targets.append(self.expression(target))
        return ir.Delete(tuple(targets), origin=node, unit=self.unit)

    def assert_(self, node: ast.Assert) -> ir.Assert:
        return ir.Assert(self.expression(node.test), origin=node, unit=self.unit)

    def import_(self, node: ast.Import) -> ir.Import:
        names = tuple([(alias.name, alias.asname) for alias in node.names])
        return ir.Import(names, origin=node, unit=self.unit)

    def import_from(self, node: ast.ImportFrom) -> ir.ImportFrom:
        names = tuple([(alias.name, alias.asname) for alias in node.names])
        return ir.ImportFrom(node.module or "", node.level, names, origin=node, unit=self.unit)

    # -- definitions --------------------------------------------------------------------------------------------------

    def function(self, node: _Definition) -> ir.FunctionDef:
        unit = self.unit
        text = unit.text_of(node)
        return ir.FunctionDef(
            node.name,
            self.parameters(node.args),
            tuple([self.expression(decorator) for decorator in node.decorator_list]),
            None if node.returns is None else self.unit.places.text(node.returns),
            isinstance(node, ast.AsyncFunctionDef),
            "yield" in text and _yields(node.body),
            unit.mentions(node),
            lambda: deep(lambda: _Lower(unit).block(node.body)),
            origin=node,
            unit=unit,
        )

    def class_(self, node: ast.ClassDef) -> ir.ClassDef:
        decorators = tuple([self.expression(decorator) for decorator in node.decorator_list])
        bases = self.arguments(node.bases, node.keywords)
        return ir.ClassDef(node.name, bases, decorators, self.block(node.body), origin=node, unit=self.unit)

    def parameters(self, node: ast.arguments) -> tuple[ir.Param, ...]:
        result: list[ir.Param] = []
        bare = len(node.posonlyargs) + len(node.args) - len(node.defaults)
        for at, param in enumerate((*node.posonlyargs, *node.args)):
            kind = "posonly" if at < len(node.posonlyargs) else "pos"
            result.append(self.parameter(param, kind, node.defaults[at - bare] if at >= bare else None))
        if node.vararg is not None:
            result.append(self.parameter(node.vararg, "star"))
        for param, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            result.append(self.parameter(param, "kw", default))
        if node.kwarg is not None:
            result.append(self.parameter(node.kwarg, "starstar"))
        return tuple(result)

    def parameter(self, node: ast.arg, kind: str, default: ast.expr | None = None) -> ir.Param:
        annotation = None if node.annotation is None else self.unit.places.text(node.annotation)
        return ir.Param(node.arg, kind, self.maybe(default), annotation, origin=node, unit=self.unit)

    # -- expressions --------------------------------------------------------------------------------------------------

    def expression(self, node: ast.expr) -> ir.Expression:
        return _EXPRESSIONS[type(node)](self, node)

    def maybe(self, node: ast.expr | None) -> ir.Expression | None:
        return None if node is None else _EXPRESSIONS[type(node)](self, node)

    def name(self, node: ast.Name) -> ir.Name:
        return ir.Name(node.id, origin=node, unit=self.unit)

    def constant(self, node: ast.Constant) -> ir.Const:
        return ir.Const(node.value, origin=node, unit=self.unit)

    def formatted(self, node: Any) -> ir.JoinedStr:
        return ir.JoinedStr(tuple(self.formatted_values(node)), origin=node, unit=self.unit)

    def formatted_values(self, node: Any) -> list[ir.Expression]:
        """The expressions in an f-string (or t-string), those in the format specifications included."""
        result: list[ir.Expression] = []
        for part in node.values:
            if not isinstance(part, ast.Constant):
                result.append(self.expression(part.value))
                if part.format_spec is not None:
                    result += self.formatted_values(part.format_spec)
        return result

    def attribute(self, node: ast.Attribute) -> ir.Attr:
        value = node.value
        return ir.Attr(_EXPRESSIONS[type(value)](self, value), node.attr, origin=node, unit=self.unit)

    def subscript(self, node: ast.Subscript) -> ir.Subscript:
        value, index = self.expression(node.value), node.slice
        if isinstance(index, ast.Tuple) and not self.unit.places.parenthesised(index):
            indices = ir.Sequence("tuple", self.expressions(index.elts), origin=node, unit=self.unit)
            return ir.Subscript(value, indices, origin=node, unit=self.unit)
        return ir.Subscript(value, self.expression(index), origin=node, unit=self.unit)

    def slicing(self, node: ast.Slice) -> ir.Slicing:
        parts = self.maybe(node.lower), self.maybe(node.upper), self.maybe(node.step)
        return ir.Slicing(*parts, origin=node, unit=self.unit)

    def call(self, node: ast.Call) -> ir.Call:
        func, args, keywords = node.func, node.args, node.keywords
        called = _EXPRESSIONS[type(func)](self, func)
        if len(args) == 1 and not keywords and type(only := args[0]) is ast.GeneratorExp and _ends(only) == _ends(node):
            return ir.Call(called, (self.bare_generator(only),), origin=node, unit=self.unit)
        found = self.arguments(args, keywords) if args or keywords else ()
        return ir.Call(called, found, origin=node, unit=self.unit)

    def bare_generator(self, node: ast.GeneratorExp) -> ir.Arg:
        bare = Bare(node)
        element, clauses = self.expression(node.elt), self.clauses(node.generators)
        return ir.Arg(ir.Comp("gen", element, None, clauses, origin=bare, unit=self.unit), origin=bare, unit=self.unit)

    def arguments(self, args: list[ast.expr], keywords: list[ast.keyword]) -> tuple[ir.Arg, ...]:
        """The arguments in the order of the source: `*args` may come behind keywords."""
        unit = self.unit
        result = [
            ir.Arg(self.expression(arg.value), None, "*", origin=arg, unit=unit)
            if type(arg) is ast.Starred
            else ir.Arg(_EXPRESSIONS[type(arg)](self, arg), None, "", origin=arg, unit=unit)
            for arg in args
        ]
        for keyword in keywords:
            star, value = "**" if keyword.arg is None else "", keyword.value
            result.append(ir.Arg(_EXPRESSIONS[type(value)](self, value), keyword.arg, star, origin=keyword, unit=unit))
        if args and keywords and _begins(args[-1]) > _begins(keywords[0]):
            result.sort(key=lambda arg: _begins(arg.origin))
        return tuple(result)

    def binary(self, node: ast.BinOp) -> ir.BinOp:
        left = self.expression(node.left)
        return ir.BinOp(_OPERATORS[type(node.op)], left, self.expression(node.right), origin=node, unit=self.unit)

    def unary(self, node: ast.UnaryOp) -> ir.UnaryOp:
        return ir.UnaryOp(_OPERATORS[type(node.op)], self.expression(node.operand), origin=node, unit=self.unit)

    def boolean(self, node: ast.BoolOp) -> ir.BoolOp:
        """`a and b and c` is `(a and b) and c`, which `ast` does not spell out."""
        op, values, unit = _OPERATORS[type(node.op)], node.values, self.unit
        left = self.expression(values[0])
        for at in range(1, len(values) - 1):
            part = ast.copy_location(ast.BoolOp(node.op, values[: at + 1]), node)
            left = ir.BoolOp(op, left, self.expression(values[at]), origin=part, unit=unit)
        return ir.BoolOp(op, left, self.expression(values[-1]), origin=node, unit=unit)

    def comparison(self, node: ast.Compare) -> ir.Compare:
        left = self.expression(node.left)
        pairs = zip(node.ops, node.comparators, strict=True)
        rest = [(_OPERATORS[type(op)], self.expression(value)) for op, value in pairs]
        return ir.Compare(left, tuple(rest), origin=node, unit=self.unit)

    def conditional(self, node: ast.IfExp) -> ir.IfExp:
        test, body = self.expression(node.test), self.expression(node.body)
        return ir.IfExp(test, body, self.expression(node.orelse), origin=node, unit=self.unit)

    def expressions(self, nodes: Iterable[ast.expr]) -> tuple[ir.Expression, ...]:
        return tuple([_EXPRESSIONS[type(node)](self, node) for node in nodes])

    def tuple_(self, node: ast.Tuple) -> ir.Sequence:
        return ir.Sequence("tuple", self.expressions(node.elts), origin=node, unit=self.unit)

    def list_(self, node: ast.List) -> ir.Sequence:
        return ir.Sequence("list", self.expressions(node.elts), origin=node, unit=self.unit)

    def set_(self, node: ast.Set) -> ir.Sequence:
        return ir.Sequence("set", self.expressions(node.elts), origin=node, unit=self.unit)

    def dict_(self, node: ast.Dict) -> ir.DictDisplay:
        pairs = zip(node.keys, node.values, strict=True)
        items = tuple([(self.maybe(key), self.expression(value)) for key, value in pairs])
        return ir.DictDisplay(items, origin=node, unit=self.unit)

    def starred(self, node: ast.Starred) -> ir.Starred:
        return ir.Starred(self.expression(node.value), origin=node, unit=self.unit)

    def generator(self, node: ast.GeneratorExp) -> ir.Comp:
        return self.comprehension("gen", node)

    def list_comprehension(self, node: ast.ListComp) -> ir.Comp:
        return self.comprehension("list", node)

    def set_comprehension(self, node: ast.SetComp) -> ir.Comp:
        return self.comprehension("set", node)

    def comprehension(self, kind: str, node: ast.GeneratorExp | ast.ListComp | ast.SetComp) -> ir.Comp:
        element, clauses = self.expression(node.elt), self.clauses(node.generators)
        return ir.Comp(kind, element, None, clauses, origin=node, unit=self.unit)

    def dict_comprehension(self, node: ast.DictComp) -> ir.Comp:
        key, value = self.expression(node.key), self.maybe(node.value)
        if value is None:  # `{**mapping for …}`, of Python 3.15
            key = ir.Starred(key, origin=node.key, unit=self.unit)
        return ir.Comp("dict", key, value, self.clauses(node.generators), origin=node, unit=self.unit)

    def clauses(self, nodes: Iterable[ast.comprehension]) -> tuple[ir.CompFor, ...]:
        result: list[ir.CompFor] = []
        for node in nodes:
            ifs = self.expressions(node.ifs)
            target, source = self.expression(node.target), self.expression(node.iter)
            result.append(ir.CompFor(target, source, ifs, origin=node, unit=self.unit))
        return tuple(result)

    def named(self, node: ast.NamedExpr) -> ir.NamedExpr:
        return ir.NamedExpr(self.expression(node.target), self.expression(node.value), origin=node, unit=self.unit)

    def lambda_(self, node: ast.Lambda) -> ir.Lambda:
        return ir.Lambda(self.parameters(node.args), self.expression(node.body), origin=node, unit=self.unit)

    def await_(self, node: ast.Await) -> ir.Await:
        return ir.Await(self.expression(node.value), origin=node, unit=self.unit)

    def yield_(self, node: ast.Yield) -> ir.Yield:
        return ir.Yield(self.maybe(node.value), origin=node, unit=self.unit)

    def yield_from(self, node: ast.YieldFrom) -> ir.Yield:
        return ir.Yield(self.expression(node.value), True, origin=node, unit=self.unit)


def _begins(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _ends(node: ast.expr) -> tuple[int | None, int | None]:
    return node.end_lineno, node.end_col_offset


def _captures(pattern: ast.pattern) -> Iterator[str]:
    """The names that a pattern binds, in the order of the source."""
    match pattern:
        case ast.MatchAs():
            if pattern.pattern is not None:
                yield from _captures(pattern.pattern)
            if pattern.name is not None:
                yield pattern.name
        case ast.MatchStar():
            if pattern.name is not None:
                yield pattern.name
        case ast.MatchSequence() | ast.MatchOr():
            for element in pattern.patterns:
                yield from _captures(element)
        case ast.MatchMapping():
            for element in pattern.patterns:
                yield from _captures(element)
            if pattern.rest is not None:
                yield pattern.rest
        case ast.MatchClass():
            for element in (*pattern.patterns, *pattern.kwd_patterns):
                yield from _captures(element)


def _irrefutable(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchAs):
        return pattern.pattern is None or _irrefutable(pattern.pattern)
    return isinstance(pattern, ast.MatchOr) and any(_irrefutable(part) for part in pattern.patterns)


def _unknown(walk: _Lower, node: Any) -> Any:
    place = walk.unit.places.span(ir.Pass(origin=node))
    raise SourceError(f"gradtrap does not know this syntax: {type(node).__name__}", place.row, place.column)


class _Table(dict[type, T]):
    """How each kind of node is lowered."""

    def __missing__(self, kind: type) -> Any:
        return _unknown


_STATEMENTS: _Table[Callable[[_Lower, Any], ir.Statement]] = _Table(
    {
        ast.Expr: _Lower.expression_statement,
        ast.Assign: _Lower.assign,
        ast.AnnAssign: _Lower.annotated,
        ast.AugAssign: _Lower.augmented,
        ast.For: _Lower.for_,
        ast.AsyncFor: _Lower.for_,
        ast.While: _Lower.while_,
        ast.If: _Lower.if_,
        ast.With: _Lower.with_,
        ast.AsyncWith: _Lower.with_,
        ast.Try: _Lower.try_,
        ast.TryStar: _Lower.try_,
        ast.Match: _Lower.match,
        ast.Return: _Lower.return_,
        ast.Raise: _Lower.raise_,
        ast.Break: _Lower.break_,
        ast.Continue: _Lower.continue_,
        ast.Pass: _Lower.pass_,
        ast.Global: _Lower.global_,
        ast.Nonlocal: _Lower.nonlocal_,
        ast.Delete: _Lower.delete,
        ast.Assert: _Lower.assert_,
        ast.Import: _Lower.import_,
        ast.ImportFrom: _Lower.import_from,
        ast.FunctionDef: _Lower.function,
        ast.AsyncFunctionDef: _Lower.function,
        ast.ClassDef: _Lower.class_,
    }
)
_EXPRESSIONS: _Table[Callable[[_Lower, Any], ir.Expression]] = _Table(
    {
        ast.Name: _Lower.name,
        ast.Constant: _Lower.constant,
        ast.JoinedStr: _Lower.formatted,
        ast.Attribute: _Lower.attribute,
        ast.Subscript: _Lower.subscript,
        ast.Slice: _Lower.slicing,
        ast.Call: _Lower.call,
        ast.BinOp: _Lower.binary,
        ast.UnaryOp: _Lower.unary,
        ast.BoolOp: _Lower.boolean,
        ast.Compare: _Lower.comparison,
        ast.IfExp: _Lower.conditional,
        ast.Tuple: _Lower.tuple_,
        ast.List: _Lower.list_,
        ast.Set: _Lower.set_,
        ast.Dict: _Lower.dict_,
        ast.Starred: _Lower.starred,
        ast.GeneratorExp: _Lower.generator,
        ast.ListComp: _Lower.list_comprehension,
        ast.SetComp: _Lower.set_comprehension,
        ast.DictComp: _Lower.dict_comprehension,
        ast.NamedExpr: _Lower.named,
        ast.Lambda: _Lower.lambda_,
        ast.Await: _Lower.await_,
        ast.Yield: _Lower.yield_,
        ast.YieldFrom: _Lower.yield_from,
    }
)
if hasattr(ast, "TypeAlias"):  # Python 3.12
    _STATEMENTS[ast.TypeAlias] = _Lower.pass_
if hasattr(ast, "TemplateStr"):  # Python 3.14
    _EXPRESSIONS[ast.TemplateStr] = _Lower.formatted
