"""What each kind of syntax is lowered to."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flake8_gradtrap.interp import ir
from flake8_gradtrap.source import Slice, SourceError, SourceFile, decode

STDLIB = sorted(Path(ast.__file__).parent.glob("*.py"))[1::4]


def show(node: Any) -> str:
    """A node in short: its class and what it holds, without the defaults."""
    if isinstance(node, tuple):
        return "[" + ", ".join(show(part) for part in node) + "]"
    if isinstance(node, ir.Name):
        return node.id
    if isinstance(node, ir.Const):
        return repr(node.value)
    if not isinstance(node, ir.Node):
        return repr(node) if node not in ("", None) else "-"
    assert node.origin is not None
    assert node.unit is not None
    names = [name for name in type(node).__slots__ if name not in ("lower_body", "_body")]
    values = [show(getattr(node, name)) for name in names if name != "mentions"]
    if isinstance(node, ir.FunctionDef):
        values.append(show(node.body))
    while values and values[-1] in ("-", "[]", "False"):
        values.pop()
    return f"{type(node).__name__}({', '.join(values)})"


def lowered(text: str) -> str:
    return "; ".join(show(statement) for statement in Slice(text).statements)


def expression(text: str) -> str:
    (statement,) = Slice(text + "\n").statements
    assert isinstance(statement, ir.ExprStmt)
    return show(statement.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("None, True, ...", "Sequence('tuple', [None, True, Ellipsis])"),
        ("1_0, 0x1f, 0b1, 0o7, 1_0.5e1, .5, 2j", "Sequence('tuple', [10, 31, 1, 7, 105.0, 0.5, 2j])"),
        ("-1", "UnaryOp('-', 1)"),
        ("not a", "UnaryOp('not', a)"),
        ("'a\\n' \"b\" r'\\n'", "'a\\nb\\\\n'"),
        ("'''a\r\nb''' '' u\"\"", "'a\\nb'"),
        ("b'a\\xff' rb'\\x'", "b'a\\xff\\\\x'"),
        ("'\\d'", "'\\\\d'"),
        ("''''a'''", '"\'a"'),
        ("f'a{b}{c!r:>{d}.{e}}{f=}'", "JoinedStr([b, c, d, e, f])"),
        ("f'a'", "JoinedStr()"),
        ("'a' f'{b}' 'c' f'{d}'", "JoinedStr([b, d])"),
        ("a.b[c]", "Subscript(Attr(a, 'b'), c)"),
        ("a[b, 1:2]", "Subscript(a, Sequence('tuple', [b, Slicing(1, 2)]))"),
        ("a[b,]", "Subscript(a, Sequence('tuple', [b]))"),
        ("a[*b]", "Subscript(a, Sequence('tuple', [Starred(b)]))"),
        ("a[::b]", "Subscript(a, Slicing(-, -, b))"),
        ("a(b, *c, d=e, **f)", "Call(a, [Arg(b), Arg(c, -, '*'), Arg(e, 'd'), Arg(f, -, '**')])"),
        ("((a))()", "Call(a)"),
        ("a + b * c ** d @ e // f % g", None),
        ("a << b | c ^ d & e >> f", None),
        ("a and b or not c", "BoolOp('or', BoolOp('and', a, b), UnaryOp('not', c))"),
        ("a < b is not c not in d", "Compare(a, [['<', b], ['is not', c], ['not in', d]])"),
        ("a if b else c", "IfExp(b, a, c)"),
        ("[a, *b]", "Sequence('list', [a, Starred(b)])"),
        ("{a, b}", "Sequence('set', [a, b])"),
        ("()", "Sequence('tuple')"),
        ("{}", "DictDisplay()"),
        ("{a: b, **c}", "DictDisplay([[a, b], [-, c]])"),
        ("(a for b in c if d if e for f in g)", "Comp('gen', a, -, [CompFor(b, c, [d, e]), CompFor(f, g)])"),
        ("[a for a, in b]", "Comp('list', a, -, [CompFor(Sequence('tuple', [a]), b)])"),
        ("{a async for a in b}", "Comp('set', a, -, [CompFor(a, b)])"),
        ("{a: b for a in c}", "Comp('dict', a, b, [CompFor(a, c)])"),
        ("(a := b)", "NamedExpr(a, b)"),
        (
            "lambda a, /, b=1, *c, d, **e: f",
            "Lambda([Param('a', 'posonly'), Param('b', 'pos', 1), Param('c', 'star'), Param('d', 'kw'), "
            "Param('e', 'starstar')], f)",
        ),
        ("lambda: a", "Lambda([], a)"),
        ("print >>a, b", "Sequence('tuple', [BinOp('>>', print, a), b])"),
        ("(yield)", "Yield()"),
        ("(yield a)", "Yield(a)"),
        ("(yield from a)", "Yield(a, True)"),
        ("await a", "Await(a)"),
    ],
)
def test_expressions(text: str, wanted: str | None) -> None:
    if wanted is None:
        wanted = _operators(ast.parse(text, mode="eval").body)
    assert expression(text) == wanted


def _operators(node: ast.expr) -> str:
    """An expression of names and operators, as `ast` sees it."""
    if isinstance(node, ast.BinOp):
        text = {"Add": "+", "Mult": "*", "Pow": "**", "MatMult": "@", "FloorDiv": "//", "Mod": "%", "LShift": "<<",
                "RShift": ">>", "BitOr": "|", "BitXor": "^", "BitAnd": "&"}[type(node.op).__name__]  # fmt: skip
        return f"BinOp({text!r}, {_operators(node.left)}, {_operators(node.right)})"
    assert isinstance(node, ast.Name)
    return node.id


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a; b;\nc\n", "ExprStmt(a); ExprStmt(b); ExprStmt(c)"),
        ("a = b, *c = d\n", "Assign([a, Sequence('tuple', [b, Starred(c)])], d)"),
        ("a: b.c[d] = e\n", "Assign([a], e, 'b.c[d]')"),
        ("a: (b | None)\n", "AnnOnly(a, '(b | None)')"),
        ("a: 'B'\n", "AnnOnly(a, \"'B'\")"),
        ("a: b[c, d]\n", "AnnOnly(a, 'b[c, d]')"),
        ("a @= b\n", "AugAssign('@', a, b)"),
        ("for a in b: c; d\nelse: e\n", "For(a, b, [ExprStmt(c), ExprStmt(d)], [ExprStmt(e)])"),
        ("for a in *b, c:\n  break\n", "For(a, Sequence('tuple', [Starred(b), c]), [Break()])"),
        ("while a:\n  continue\nelse:\n  pass\n", "While(a, [Continue()], [Pass()])"),
        (
            "if a: b\nelif c: d\nelse: e\n",
            "If(a, [ExprStmt(b)], [If(c, [ExprStmt(d)], [ExprStmt(e)])])",
        ),
        ("with a as b, c: pass\n", "With([WithItem(a, b), WithItem(c)], [Pass()])"),
        (
            "with (a as b, c as (d, e)): pass\n",
            "With([WithItem(a, b), WithItem(c, Sequence('tuple', [d, e]))], [Pass()])",
        ),
        (
            "try: a\nexcept B as c: d\nexcept: e\nelse: f\nfinally: g\n",
            "Try([ExprStmt(a)], [Handler(B, 'c', [ExprStmt(d)]), Handler(-, -, [ExprStmt(e)])], "
            "[ExprStmt(f)], [ExprStmt(g)])",
        ),
        ("try: a\nexcept* B: c\n", "Try([ExprStmt(a)], [Handler(B, -, [ExprStmt(c)])])"),
        ("return\nreturn a\n", "Return(); Return(a)"),
        ("raise\nraise a from b\n", "Raise(); Raise(a)"),
        ("global a, b\nnonlocal c\n", "Scope('global', ['a', 'b']); Scope('nonlocal', ['c'])"),
        ("del a, (b.c, [d])\n", "Delete([a, Attr(b, 'c'), d])"),
        ("assert a, b\n", "Assert(a)"),
        ("import a, b.c as d\n", "Import([['a', -], ['b.c', 'd']])"),
        ("from a.b import c as d, e\n", "ImportFrom('a.b', 0, [['c', 'd'], ['e', -]])"),
        ("from .. import *\n", "ImportFrom(-, 2, [['*', -]])"),
        ("from ...a import (b,)\n", "ImportFrom('a', 3, [['b', -]])"),
        (
            "@a.b\n@c()\nclass D[T](E, *F, metaclass=G): pass\n",
            "ClassDef('D', [Arg(E), Arg(F, -, '*'), Arg(G, 'metaclass')], [Attr(a, 'b'), Call(c)], [Pass()])",
        ),
        (
            "@a\nasync def f(b: c = 1, *, d) -> e.f:\n  async for g in h:\n    await i\n  async with j: pass\n",
            "FunctionDef('f', [Param('b', 'pos', 1, 'c'), Param('d', 'kw')], [a], 'e.f', True, False, "
            "[For(g, h, [ExprStmt(Await(i))]), With([WithItem(j)], [Pass()])])",
        ),
    ],
)
def test_statements(text: str, wanted: str) -> None:
    unit = Slice(text)
    try:
        assert "; ".join(show(statement) for statement in unit.statements) == wanted
    except SourceError as error:
        if "[T]" not in text:  # `ast` of this Python does not know it
            raise
        pytest.skip(error.message)


@pytest.mark.parametrize(
    ("text", "wanted", "since"),
    [
        ("type X = int\n", "Pass()", (3, 12)),
        ("type X[T] = list[T]\n", "Pass()", (3, 12)),
        ("def f[T](a: T) -> T: ...\n", "FunctionDef('f'", (3, 12)),
        ("class C[T](D): ...\n", "ClassDef('C', [Arg(D)]", (3, 12)),
        ("a = t'{b:{c}}'\n", "Assign([a], JoinedStr([b, c]))", (3, 14)),
    ],
)
def test_newer_syntax(text: str, wanted: str, since: tuple[int, int]) -> None:
    if sys.version_info < since:
        pytest.skip("this Python does not know it")
    assert lowered(text).startswith(wanted)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("_", "Case([], True"),
        ("a", "Case(['a'], True"),
        ("a if b", "Case(['a'], False, b"),
        ("1 | -1 | None | 'a' | b.c", "Case([], False"),
        ("(1 | 2) as a", "Case(['a'], False"),
        ("(1 as a) | (2 as a)", "Case(['a'], False"),
        ("1 | _", "Case([], True"),
        ("[a, (b, *c), *_]", "Case(['a', 'b', 'c'], False"),
        ("{'a': b, **c}", "Case(['b', 'c'], False"),
        ("A.B(a, b=c, d=[e])", "Case(['a', 'c', 'e'], False"),
        ("(a)", "Case(['a'], True"),
        ("a, b", "Case(['a', 'b'], False"),
    ],
)
def test_patterns(pattern: str, wanted: str) -> None:
    shown = lowered(f"match x, y:\n  case {pattern}:\n    pass\n")
    assert shown.startswith("Match(Sequence('tuple', [x, y]), [" + wanted)
    assert shown.endswith("[Pass()])])")


class TestFunctions:
    TEXT = """\
class C:
    if x:
        def a(self): return lambda: (yield)
    else:
        @property
        def b(self):
            def inner():
                yield one
            return [two for two in three]
    try:
        def c(self): await four
    except E:
        def d(self): five = yield from six
    else:
        def e(self): pass
    finally:
        def f(self):
            "yield"
    match y:
        case 1:
            def g(self): (yield)
"""

    @staticmethod
    def functions(part: object) -> Iterator[ir.FunctionDef]:
        if isinstance(part, ir.FunctionDef):
            yield part
        elif isinstance(part, ir.Node):
            for name in type(part).__slots__:
                yield from TestFunctions.functions(getattr(part, name))
        elif isinstance(part, tuple):
            for element in part:
                yield from TestFunctions.functions(element)

    def test_each_has_its_own_facts(self) -> None:
        found = {part.name: part for part in self.functions(SourceFile("f.py", self.TEXT).toplevel[0].slice.statements)}
        assert list(found) == list("abcdefg")
        assert "".join(name for name, part in found.items() if part.is_generator) == "dg"
        assert found["b"].mentions == {"property", "b", "self", "inner", "one", "two", "three"}
        assert found["c"].mentions == {"c", "self", "four"}
        assert found["g"].mentions == {"g", "self"}
        (inner,) = self.functions(found["b"].body)
        assert inner.is_generator
        assert inner.mentions == {"inner", "one"}

    def test_bodies_are_lowered_once_and_late(self) -> None:
        (function,) = Slice("def f():\n    return 1\n").statements
        assert isinstance(function, ir.FunctionDef)
        assert function._body is None
        assert function.body is function.body


def test_unknown_syntax_is_a_source_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp import lower

    monkeypatch.delitem(lower._EXPRESSIONS, ast.Await)
    with pytest.raises(SourceError) as caught:
        _ = Slice("x = 1\ny = (await z)\n", 5).statements
    assert (caught.value.row, caught.value.column) == (6, 6)


@pytest.mark.parametrize("path", STDLIB, ids=lambda path: path.name)
def test_constants_are_those_of_ast(path: Path) -> None:
    """Every literal of a real file has the value that `ast` gives it; function bodies included."""
    file = SourceFile(str(path), decode(path.read_bytes())[0])
    found: list[str] = []
    waiting: list[Any] = [part.slice.statements for part in file.toplevel]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting.extend(node)
        elif isinstance(node, ir.Const):
            found.append(repr(node.value))
        elif isinstance(node, ir.Node) and not isinstance(node, ir.JoinedStr):
            waiting.extend(getattr(node, name) for name in type(node).__slots__ if name not in ("lower_body", "_body"))
            if isinstance(node, ir.FunctionDef):
                waiting.append(node.body)
    assert sorted(found) == sorted(_constants(file.tree))


def _constants(tree: ast.Module) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Constant):
            yield repr(node.value)
        if isinstance(node, ast.JoinedStr | ast.pattern):
            continue
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "cause", "msg"):
                parts = value if isinstance(value, list) else [value]
                waiting.extend(part for part in parts if isinstance(part, ast.AST))
