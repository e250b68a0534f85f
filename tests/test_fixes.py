"""Fixes: what a change does to the text, and how several fixes go together."""

from __future__ import annotations

import argparse
import ast
import inspect
import pickle
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType
from typing import Any

import pytest

from flake8_gradtrap.events import Site
from flake8_gradtrap.finding import Edit, Fix, Span
from flake8_gradtrap.fixes import apply_edits, apply_fixes, build_edits
from flake8_gradtrap.interp import ir
from flake8_gradtrap.rule import Change
from flake8_gradtrap.source import Slice, SourceFile


def nodes(part: object) -> Iterator[ir.Node]:
    if isinstance(part, tuple):
        for element in part:
            yield from nodes(element)
    elif isinstance(part, ir.Node):
        yield part
        for name in type(part).__slots__:
            if name not in ("lower_body", "_body"):
                yield from nodes(getattr(part, name))
        if isinstance(part, ir.FunctionDef):
            yield from nodes(part.body)


def site(text: str, wanted: Callable[[ir.Node], bool], file: SourceFile | None = None) -> Site:
    """The first place in a text that is wanted."""
    file = file or SourceFile("f.py", text)
    return Site(next(node for part in file.toplevel for node in nodes(part.slice.statements) if wanted(node)))


def covers(file: SourceFile, text: str) -> Callable[[ir.Node], bool]:
    """Whether a node's own extent is exactly this text."""

    def check(node: ir.Node) -> bool:
        assert node.unit is not None
        span = node.unit.places.span(node)
        return apply_edits(file.text, [Edit(span, "\0")]) == file.text.replace(text, "\0", 1)

    return check


def wrapped(text: str, part: str, before: str, after: str) -> str | None:
    file = SourceFile("f.py", text)
    edits = build_edits((Change("wrap", site(text, covers(file, part), file), before, after),))
    return None if edits is None else apply_edits(text, edits)


def named(name: str) -> Callable[[ir.Node], bool]:
    return lambda node: isinstance(node, ir.Name) and node.id == name


def changed(text: str, *changes: tuple[str, ...]) -> str | None:
    """A text after changes: the kind, the name at the site, and the texts, or for a move the name at the target."""
    file = SourceFile("f.py", text)
    requests = []
    for kind, name, *rest in changes:
        where = site(text, named(name), file)
        if kind == "move-before":
            requests.append(Change(kind, where, target=site(text, named(rest[0]), file)))
        else:
            before, after = (*rest, "", "")[:2]
            requests.append(Change(kind, where, before, after))
    edits = build_edits(tuple(requests))
    if edits is None:
        return None
    result = apply_edits(text, edits)
    ast.parse(result)
    return result


@pytest.mark.parametrize(
    ("text", "part", "before", "after", "result"),
    [
        ("x = m.parameters()\n", "m.parameters()", "list(", ")", "x = list(m.parameters())\n"),
        ("Adam(p for p in ps)\n", "p for p in ps", "list(", ")", "Adam(list(p for p in ps))\n"),
        ("x = (p for p in ps)\n", "(p for p in ps)", "list(", ")", "x = list(p for p in ps)\n"),
        ("x = (\n  # why\n  a\n  + b\n)\n", "a\n  + b", "list(", ")", "x = list(\n  # why\n  a\n  + b\n)\n"),
        ("x = ((a))\n", "a", "list(", ")", "x = list((a))\n"),
        ("x = a, b\n", "a, b", "list(", ")", "x = list((a, b))\n"),
        ("x = (a, b)\n", "(a, b)", "list(", ")", "x = list((a, b))\n"),
        ("def f():\n  x = yield a\n", "yield a", "list(", ")", "def f():\n  x = list((yield a))\n"),
        ("def f():\n  return(a)\n", "a", "list(", ")", "def f():\n  return list(a)\n"),
        ("x = a if(b)else c\n", "b", "bool(", ")", "x = a if bool(b)else c\n"),
        ("f(x for x in y)\n", "x for x in y", "", ".close()", "f((x for x in y).close())\n"),
        ("f(x for x in y)\n", "x for x in y", "g(", ", 1)", "f(g((x for x in y), 1))\n"),
        ("x += loss\n", "loss", "", ".detach()", "x += loss.detach()\n"),
        ("x += a + b\n", "a + b", "", ".detach()", "x += (a + b).detach()\n"),
        ("x += (a + b)\n", "a + b", "", ".detach()", "x += (a + b).detach()\n"),
        ("x = -a ** 2\n", "a", "", ".detach()", "x = -a.detach() ** 2\n"),
        ("x = 1\n", "1", "", ".real", "x = (1).real\n"),
        ("f(a)[0]()\n", "f(a)", "", ".detach()", "f(a).detach()[0]()\n"),
        ("async def f():\n  x = await a\n", "await a", "", ".b", "async def f():\n  x = (await a).b\n"),
        ("x = loss.backward()\n", "loss", "", " / k", "x = (loss / k).backward()\n"),
        ("x = loss\n", "loss", "", " / k", "x = loss / k\n"),
        ("x = a + b\n", "a + b", "", " / k", "x = (a + b) / k\n"),
        ("f(*loss)\n", "loss", "", " / k", "f(*(loss / k))\n"),
        ("f(x=loss)\n", "loss", "", " / k", "f(x=loss / k)\n"),
        ("x = a ** b\n", "b", "-", "", "x = a ** (-b)\n"),
        ("f(a := b)\n", "a := b", "g(", ")", "f(g((a := b)))\n"),
        ("x = a if b else c\n", "a if b else c", "g(", ", 2)", "x = g(a if b else c, 2)\n"),
        ("x = a\n", "a", "g(", "", None),
        ("x = 'é'; y = loss # é\r\n", "loss", "", ".item()", "x = 'é'; y = loss.item() # é\r\n"),
        ("f(a, key=b)\n", "key=b", "list(", ")", "f(a, key=list(b))\n"),
    ],
)
def test_wrap(text: str, part: str, before: str, after: str, result: str | None) -> None:
    found = wrapped(text, part, before, after)
    assert found == result
    if found is not None:
        ast.parse(found)


@pytest.mark.parametrize("part", ["for", "*a"])
def test_what_cannot_be_wrapped(part: str) -> None:
    text = "for x in y:\n    f(*a)\n[*a]\n"
    where = site(text, lambda node: isinstance(node, ir.For if part == "for" else ir.Starred))
    assert build_edits((Change("wrap", where, "list(", ")"),)) is None


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a\nat\n", "a\nnew()\nat\n"),
        ("at", "new()\nat"),
        ("if x:\r\n\tat # c\r\n", "if x:\r\n\tnew()\r\n\tat # c\r\n"),
        ("if x:\n    # c\n    x = (y,\n      at)\n", "if x:\n    # c\n    new()\n    x = (y,\n      at)\n"),
        ("def f():\n  for x in at:\n    pass\n", "def f():\n  new()\n  for x in at:\n    pass\n"),
        ("if x:\n  pass\nelif at:\n  pass\n", "new()\nif x:\n  pass\nelif at:\n  pass\n"),
        ("try:\n  pass\nexcept at:\n  pass\n", "new()\ntry:\n  pass\nexcept at:\n  pass\n"),
        ("x\n@b\n@at\ndef f(): pass\n", "x\nnew()\n@b\n@at\ndef f(): pass\n"),
        ("x = 1\n\x0cat\n", "x = 1\n\x0cnew()\n\x0cat\n"),
        ("if x: at\n", None),
        ("if at: x\n", "new()\nif at: x\n"),
        ("x; at\n", None),
        ("at; x\n", None),
        ("x = 1\ny = lambda: at\n", "x = 1\nnew()\ny = lambda: at\n"),
        ("\\\nat\n", "\\\nnew()\nat\n"),
    ],
)
def test_statement_before(text: str, result: str | None) -> None:
    assert changed(text, ("statement-before", "at", "new()")) == result


def test_several_lines_before() -> None:
    assert changed("if x:\n\tat\r\n", ("statement-before", "at", "if y:\n    new()\n")) == (
        "if x:\n\tif y:\r\n\t    new()\r\n\tat\r\n"
    )


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("def f(x):\n    return x\n", "def f(x):\n    new()\n    return x\n"),
        (
            "@d\ndef f(x):\n    '''Doc.\n    more'''\n\n    return x\n",
            "@d\ndef f(x):\n    '''Doc.\n    more'''\n    new()\n\n    return x\n",
        ),
        ("def f(x):\n  # c\n\n  @d\n  def g(): pass\n", "def f(x):\n  # c\n\n  new()\n  @d\n  def g(): pass\n"),
        ("def f(x):\r\n\t'Doc'\r\n", "def f(x):\r\n\t'Doc'\r\n\tnew()\r\n"),
        ("def f(x):\r\n\t'Doc'", "def f(x):\r\n\t'Doc'\r\n\tnew()"),
        ("def f(x):\n  'Doc' # c\n  a; b\n", "def f(x):\n  'Doc' # c\n  new()\n  a; b\n"),
        ("def f(x):\n  a; b\n", None),
        ("def f(x): return x\n", None),
        ("def f(x):\n  f'{x}'\n", "def f(x):\n  new()\n  f'{x}'\n"),
    ],
)
def test_function_top(text: str, result: str | None) -> None:
    edits = build_edits((Change("function-top", site(text, lambda node: isinstance(node, ir.FunctionDef)), "new()"),))
    assert (None if edits is None else apply_edits(text, edits)) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a\nat # c\nb\n", "a\nb\n"),
        ("a\nat", "a\n"),
        ("if x:\r\n  a\r\n  y = (at,\r\n 2)\r\nb", "if x:\r\n  a\r\nb"),
        ("if x:\n  at\nb\n", None),
        ("if x: at\n", None),
        ("a; at\n", None),
        ("a\nwith at:\n  b\nc\n", "a\nc\n"),
        ("a\nat;\n", None),
    ],
)
def test_delete(text: str, result: str | None) -> None:
    assert changed(text, ("delete-statement", "at")) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a\nto\nb\nat # c\nd\n", "a\nat # c\nto\nb\nd\n"),
        ("at\nb\nto", "b\nat\nto"),
        ("to\r\nat", "at\r\nto\r\n"),
        ("if x:\n  to\n  b\n  y = (at,\n   1)\n", "if x:\n  y = (at,\n   1)\n  to\n  b\n"),
        ("to\nif x:\n\tb\n\tat\n", "at\nto\nif x:\n\tb\n"),
        ("to\nif x:\n  b\n  y = (at,\n   1)\n", None),
        ("to\nif x:\n  at\n", None),
        ("to, at\n", None),
        ("to\ndef f(): pass\nat\n", "at\nto\ndef f(): pass\n"),
    ],
)
def test_move(text: str, result: str | None) -> None:
    assert changed(text, ("move-before", "at", "to")) == result


def test_changes_go_together() -> None:
    text = "for x in y:\n    at = f(loss)\n    b\n"
    requests = (
        ("statement-before", "at", "one()"),
        ("wrap", "loss", "", ".detach()"),
        ("statement-before", "loss", "two()"),
        ("delete-statement", "b"),
    )
    assert changed(text, *requests) == "for x in y:\n    one()\n    two()\n    at = f(loss.detach())\n"
    same = ("statement-before", "at", "one()")
    assert changed(text, same, same) == "for x in y:\n    one()\n    at = f(loss)\n    b\n"


def test_nested_wraps() -> None:
    text = "x = a.b\n"
    file = SourceFile("f.py", text)
    inner = Change("wrap", site(text, named("a"), file), "f(", ")")
    outer = Change("wrap", site(text, covers(file, "a.b"), file), "g(", ")")
    for changes in ((inner, outer), (outer, inner)):
        edits = build_edits(changes)
        assert edits is not None
        assert apply_edits(text, edits) == "x = g(f(a).b)\n"


def test_changes_that_do_not_go_together() -> None:
    text = "a\nx = f(at)\n"
    assert changed(text, ("delete-statement", "at"), ("wrap", "at", "list(", ")")) is None


@pytest.mark.parametrize("kind", ["unknown", "move-before", "wrap", "delete-statement"])
def test_changes_without_a_place(kind: str) -> None:
    assert build_edits((Change(kind, Site("not a node")),)) is None
    assert build_edits((Change(kind, Site(ir.Pass())),)) is None


def test_no_changes() -> None:
    assert build_edits(()) is None


class TestEdits:
    def test_order_and_overlap(self) -> None:
        text = "é1\r\n23\r45\n6"
        edits = [
            Edit(Span(4, 1, 4, 2), "six"),
            Edit(Span(1, 2, 1, 3), "one"),
            Edit(Span(2, 1, 3, 2), "-"),
            Edit(Span(2, 2, 2, 3), "lost"),
            Edit(Span(4, 2, 4, 2), "!"),
        ]
        assert apply_edits(text, edits) == "éone\r\n-5\nsix!"

    def test_places_outside_of_the_text(self) -> None:
        assert apply_edits("a\nb", [Edit(Span(9, 1, 9, 1), "!")]) == "a\nb!"
        assert apply_edits("a\nb", [Edit(Span(1, 99, 1, 99), "!")]) == "a\n!b"

    def test_nothing(self) -> None:
        assert apply_edits("a\r\n", []) == "a\r\n"


class TestFixes:
    TEXT = "a = b\nc = d\n"
    INSERT = Fix("", (Edit(Span(2, 1, 2, 1), "new()\n"),), True)
    ONE = Fix("", (Edit(Span(1, 5, 1, 6), "one"),), True)
    OVER = Fix("", (Edit(Span(1, 3, 2, 2), "= 1\n\nc"),), True)
    BROKEN = Fix("", (Edit(Span(2, 5, 2, 6), "("),), True)

    def test_all(self) -> None:
        assert apply_fixes(self.TEXT, [self.INSERT, self.ONE]) == ("a = one\nnew()\nc = d\n", 2)

    def test_the_later_of_two_that_overlap_is_left_out(self) -> None:
        assert apply_fixes(self.TEXT, [self.ONE, self.OVER]) == ("a = one\nc = d\n", 1)
        assert apply_fixes(self.TEXT, [self.OVER, self.ONE]) == ("a = 1\n\nc = d\n", 1)

    def test_what_breaks_the_file_is_left_out(self) -> None:
        assert apply_fixes(self.TEXT, [self.BROKEN, self.INSERT, self.ONE]) == ("a = one\nnew()\nc = d\n", 2)

    def test_two_that_insert_the_same_line(self) -> None:
        both = Fix("", (*self.INSERT.edits, *self.ONE.edits), True)
        assert apply_fixes(self.TEXT, [self.INSERT, both]) == ("a = one\nnew()\nc = d\n", 2)

    def test_two_that_share_half_a_wrap(self) -> None:
        start = Edit(Span(1, 5, 1, 5), "f(")
        first = Fix("", (start, Edit(Span(1, 6, 1, 6), ")")), True)
        second = Fix("", (start, Edit(Span(1, 6, 1, 6), ", 1)")), True)
        assert apply_fixes(self.TEXT, [first, second, first]) == ("a = f(b)\nc = d\n", 2)

    def test_a_file_that_cannot_be_parsed_stays(self) -> None:
        assert apply_fixes("a = (\n", [self.ONE]) == ("a = (\n", 0)

    def test_an_empty_fix(self) -> None:
        assert apply_fixes(self.TEXT, [Fix("", (), True)]) == (self.TEXT, 0)


class _Wrap(ast.NodeTransformer):
    """Wraps the expression at a place, in the tree; `done` is False if it is something that is assigned to."""

    def __init__(self, place: Span, wrap: Callable[[ast.expr], ast.expr]) -> None:
        self.place = place
        self.wrap = wrap
        self.done = False

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and not self.done:
            place = Span(node.lineno, node.col_offset + 1, node.end_lineno or 0, (node.end_col_offset or 0) + 1)
            if place == self.place and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
                self.done = True
                return self.wrap(node)
        return super().visit(node)


WRAPS: list[tuple[str, str, Callable[[ast.expr], ast.expr]]] = [
    ("list(", ")", lambda node: ast.Call(ast.Name("list", ast.Load()), [node], [])),
    ("", ".detach()", lambda node: ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])),
    ("", " / k", lambda node: ast.BinOp(node, ast.Div(), ast.Name("k", ast.Load()))),
    ("f(", ", 1)", lambda node: ast.Call(ast.Name("f", ast.Load()), [node, ast.Constant(1)], [])),
]
FILES = [ast, argparse, pickle, inspect]
KINDS = ir.Call | ir.BinOp | ir.BoolOp | ir.Compare | ir.IfExp | ir.Comp | ir.Const | ir.Sequence | ir.UnaryOp | ir.Attr


@pytest.mark.parametrize("module", FILES, ids=lambda module: module.__name__)
@pytest.mark.parametrize(("before", "after", "wrap"), WRAPS, ids=["call", "method", "operator", "argument"])
def test_wraps_in_real_code_mean_what_they_say(
    module: ModuleType, before: str, after: str, wrap: Callable[[ast.expr], ast.expr]
) -> None:
    """At expressions of real files, the new text parses to the old tree with that expression wrapped."""
    text = inspect.getsource(module)
    assert text.isascii()
    random = Random(module.__name__)
    checked = 0
    parts = SourceFile("f.py", text).toplevel
    for part in random.sample(parts, min(len(parts), 15)):
        found = [node for node in nodes(part.slice.statements) if isinstance(node, KINDS)]
        for node in random.sample(found, min(len(found), 6)):
            unit = Slice(part.slice.source)  # the same lines, as a file of their own
            span = part.slice.places.span(node)
            rows = part.first_line - 1
            place = Span(span.row - rows, span.column, span.end_row - rows, span.end_column)
            if isinstance(node, ir.Comp) and node.kind == "gen" and unit.line(place.row)[place.column - 1] != "(":
                place = Span(place.row, place.column - 1, place.end_row, place.end_column + 1)
            tree = _Wrap(place, wrap)
            wanted = tree.visit(ast.parse(unit.source))
            if not tree.done:
                continue
            edits = build_edits((Change("wrap", Site(node), before, after),))
            assert edits is not None
            assert ast.dump(ast.parse(apply_edits("\n" * rows + unit.source, edits))) == ast.dump(wanted)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("x = f(a, b=True)\n", "x = f(a)\n"),
        ("x = f(b=True)\n", "x = f()\n"),
        ("x = f(a, b = True, c=1)  # why\n", "x = f(a, c=1)  # why\n"),
        ("x = f(b=True, c=1)\n", None),
        ("x = f(\n    a,\n    b=True,\n)\n", None),
    ],
)
def test_delete_argument(text: str, result: str | None) -> None:
    where = site(text, lambda node: isinstance(node, ir.Arg) and node.keyword == "b")
    edits = build_edits((Change("delete-argument", where),))
    assert (None if edits is None else apply_edits(text, edits)) == result
