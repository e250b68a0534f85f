"""Reading files: encodings, lines, the table of contents, and positions."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from flake8_gradtrap.finding import Span
from flake8_gradtrap.interp import ir
from flake8_gradtrap.source import Slice, SourceError, SourceFile, decode, identifiers, line_starts, parse

STDLIB = sorted(Path(ast.__file__).parent.glob("*.py"))[::4]


def nodes(part: object) -> Iterator[ir.Node]:
    """A node and all below it, function bodies included; not what is in f-strings: `ast` may be wrong there."""
    if isinstance(part, tuple):
        for element in part:
            yield from nodes(element)
    elif isinstance(part, ir.JoinedStr):
        yield part
    elif isinstance(part, ir.Node):
        yield part
        for kind in reversed(type(part).__mro__):
            for name in getattr(kind, "__slots__", ()):
                if name not in ("origin", "unit", "lower_body", "_body"):
                    yield from nodes(getattr(part, name))
        if isinstance(part, ir.FunctionDef):
            yield from nodes(part.body)


def all_nodes(file: SourceFile) -> Iterator[tuple[ir.Node, Span]]:
    for part in file.toplevel:
        for node in nodes(part.slice.statements):
            assert node.unit is part.slice
            yield node, part.slice.places.span(node)


def call_at(text: str, name: str = "target") -> Span:
    """Where the call of a function stands."""
    found = [
        span
        for node, span in all_nodes(SourceFile("f.py", text))
        if isinstance(node, ir.Call) and isinstance(node.func, ir.Name) and node.func.id == name
    ]
    assert len(found) == 1
    return found[0]


class TestDecode:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"x = '\xc3\xa9'\n", "x = 'é'\n"),
            (b"\xef\xbb\xbfx = '\xc3\xa9'\r\n", "x = 'é'\r\n"),
            (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", "# -*- coding: latin-1 -*-\nx = 'é'\n"),
            (b"#!/bin/python\r\n# coding: cp1252\r\nx = '\x80'", "#!/bin/python\r\n# coding: cp1252\r\nx = '€'"),
            (b"", ""),
        ],
    )
    def test_round_trip(self, data: bytes, text: str) -> None:
        found, encoding = decode(data)
        assert found == text
        assert found.encode(encoding) == data

    @pytest.mark.parametrize(
        ("data", "place"),
        [
            (b"x = '\xff'\n", (1, 6)),
            (b"x = 1\r\n\r\n\xc3\xa9 = '\xff'\r\n", (3, 6)),
            (b"\xef\xbb\xbfx = '\xff'\n", (1, 6)),
            (b"# coding: ascii\nx = '\xe9'\n", (2, 6)),
            (b"# coding: no-such-encoding\n", (1, 1)),
            (b"\xef\xbb\xbf# coding: latin-1\n", (1, 1)),
            (b"# coding: hex\n", (1, 1)),
            (b"x = 1\ny = '\0'\n", (2, 6)),
            (b"\xff\xfex\0 \0=\0", (1, 1)),
        ],
    )
    def test_errors_have_a_place(self, data: bytes, place: tuple[int, int]) -> None:
        with pytest.raises(SourceError) as caught:
            decode(data)
        assert (caught.value.row, caught.value.column) == place


class TestLines:
    def test_only_line_ends_of_python_end_lines(self) -> None:
        text = "a = 1\n\x0cb = '\x0b\x1c\u2028\x85'\r\nc = 3\rd = 4"
        assert SourceFile("f.py", text).lines == ["a = 1", "\x0cb = '\x0b\x1c\u2028\x85'", "c = 3", "d = 4"]
        assert [text[start] for start in line_starts(text)] == ["a", "\x0c", "c", "d"]

    @pytest.mark.parametrize(("text", "newline"), [("x\r\ny\n", "\r\n"), ("x\ry", "\r"), ("x", "\n"), ("x\n", "\n")])
    def test_newline(self, text: str, newline: str) -> None:
        assert SourceFile("f.py", text).newline == newline


class TestParse:
    @pytest.mark.parametrize(
        ("text", "row"),
        [("x = 1\ny = (\n", 2), ("if x:\npass\n", 2), ("x = 1\n  y\n", 2), ("x = '\ud800'", 1), ("x = '", 1)],
    )
    def test_syntax_errors(self, text: str, row: int) -> None:
        with pytest.raises(SourceError) as caught:
            SourceFile("f.py", text)
        assert caught.value.row == row

    @pytest.mark.parametrize(
        "text",
        [
            "x = " + "(" * 5000 + "1" + ")" * 5000,
            "x = " + "-" * 5000 + "1",
            "x = a" + ".b()" * 5000,
            "x = " + " and ".join(["a"] * 20_000),
            "x = " + "+".join(["1"] * 5000),
            "if a:\n pass\n" + "elif a:\n pass\n" * 5000,
            "".join(" " * depth + "if a:\n" for depth in range(500)) + " " * 500 + "pass",
        ],
        ids=["parentheses", "minus", "calls", "and", "sum", "elif", "blocks"],
    )
    def test_nested_too_deeply(self, text: str) -> None:
        with pytest.raises(SourceError):
            [part.slice.statements for part in SourceFile("f.py", text + "\n").toplevel]

    @pytest.mark.parametrize(
        ("text", "row", "column"),
        [
            ("x = target(1)" + ".b(c)[0]" * 200, 1, 5),
            ("x = " + " and ".join(["target(1)", *["a"] * 700]), 1, 5),
            ("x = (target(1), " + "'a' f'{a}' " * 500 + ")", 1, 6),
            ("x = " + "+".join(["target(1)", *["1"] * 600]), 1, 5),
            ("if a:\n pass\n" + "elif a:\n pass\n" * 300 + "elif target(1):\n pass\n", 603, 6),
            ("def f():\n  x = " + "+".join(["target(1)", *["1"] * 600]), 2, 7),
        ],
        ids=["calls", "and", "strings", "sum", "elif", "body"],
    )
    def test_nested_deeply(self, text: str, row: int, column: int) -> None:
        part = SourceFile("f.py", text + "\n").toplevel[0]
        waiting: list[ir.Node] = list(part.slice.statements)
        calls = []
        while waiting:  # `nodes` would not go as deep
            node = waiting.pop()
            waiting += node.body if isinstance(node, ir.FunctionDef) else ()
            for name in (name for kind in type(node).__mro__ for name in getattr(kind, "__slots__", ())):
                value = getattr(node, name)
                values = value if isinstance(value, tuple) else (value,)
                waiting += [value for value in values if isinstance(value, ir.Node)]
            if isinstance(node, ir.Call) and isinstance(node.func, ir.Name):
                calls.append(node)
        assert part.slice.places.span(calls[0]) == Span(row, column, row, column + 9)

    def test_warnings_stay_quiet(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            file = SourceFile("f.py", "x = '\\d'\ny = 1if x else 2\n")
            assert [type(node) for node in file.toplevel[0].slice.statements] == [ir.Assign, ir.Assign]

    def test_what_libcst_cannot_read_is_read_all_the_same(self) -> None:
        text = "x = 1\n\n\ndef f():\n    class A(B, metaclass=C, *D):\n        pass\n"
        (function,) = SourceFile("f.py", text).toplevel[-1].slice.statements
        assert isinstance(function, ir.FunctionDef)
        (inner,) = function.body
        assert isinstance(inner, ir.ClassDef)
        assert [(base.star, base.keyword) for base in inner.bases] == [("", None), ("", "metaclass"), ("*", None)]

    def test_a_long_string_is_not_nested(self) -> None:
        (statement,) = SourceFile("f.py", "x = (" + "'a' " * 20_000 + ")\n").toplevel[0].slice.statements
        assert isinstance(statement, ir.Assign)
        assert isinstance(statement.value, ir.Const)
        assert statement.value.value == "a" * 20_000

    def test_libcst_is_not_imported(self) -> None:
        code = (
            "import sys, flake8_gradtrap.source as source\n"
            "part = source.SourceFile('f', 'x = 1').toplevel[0]\n"
            "part.mentions\n"
            "part.slice.places.span(part.slice.statements[0])\n"
            "print('libcst' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestContents:
    TEXT = '''"""Doc."""
import a
from b import c

x = 1; y = """
"""; z = 3
w = 4


@decorated(
    by=this
)
def f(argument: int) -> None:
    """backward"""
    return other.attribute(keyword=1)  # comment


class C(Base):
    def method(self):
        pass
if x:
    pass
'''

    def test_groups(self) -> None:
        groups = SourceFile("f.py", self.TEXT).toplevel
        assert [(part.kind, part.name, part.first_line, part.last_line) for part in groups] == [
            ("code", "", 1, 1),
            ("import", "", 2, 3),
            ("code", "", 5, 7),
            ("function", "f", 10, 15),
            ("class", "C", 18, 20),
            ("code", "", 21, 22),
        ]

    def test_mentions(self) -> None:
        groups = SourceFile("f.py", self.TEXT).toplevel
        wanted = "decorated by this f argument int other attribute keyword"
        assert groups[3].mentions == frozenset(wanted.split())

    def test_statements_that_share_a_line_are_one_group(self) -> None:
        groups = SourceFile("f.py", "import a; x = 1\ny = 2\n").toplevel
        assert [(part.kind, part.first_line, part.last_line) for part in groups] == [("code", 1, 2)]

    @pytest.mark.parametrize("text", ["x = 1; \\\ny = 2\ndef f(): pass\n", "x = 1 \\\n\ndef f(): pass \\\n\n"])
    def test_backslash_after_a_statement(self, text: str) -> None:
        groups = SourceFile("f.py", text).toplevel
        assert [part.kind for part in groups] == ["code", "function"]
        assert [len(part.slice.statements) for part in groups][1:] == [1]

    def test_backslash_in_a_comment(self) -> None:
        groups = SourceFile("f.py", "x = 1  # \\\ndef f(): pass\n").toplevel
        assert [part.kind for part in groups] == ["code", "function"]

    def test_groups_are_bounded(self) -> None:
        groups = SourceFile("f.py", "x = 1\n" * 5000).toplevel
        assert len(groups) == 25
        assert sum(len(part.slice.statements) for part in groups) == 5000

    def test_a_tree_that_is_handed_over_is_used(self) -> None:
        tree = parse("x = 1\n")
        assert SourceFile("f.py", "x = 1\n", tree).tree is tree

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("a.b(c=d)", "a b c d"),
            ("rb'no' b'no' u'no' '''no\n'no' \\''' no'''", ""),
            ("f'yes {yes2!r:>{width}}' Rf\"x{y}\"", "f yes yes2 r width x y Rf"),
            ("0xff 1e5 1_000 1or x", "x"),
            ("'it\\'s no' and yes # no 'no", "yes"),
            ("return'no'if yes else\"no\"", "yes"),
            ('"""no "no" no\\""" no""" + yes', "yes"),
            ("é + ª", "é a"),
        ],
    )
    def test_identifiers(self, text: str, names: str) -> None:
        assert identifiers(text) == frozenset(names.split())

    def test_identifiers_hold_all_that_ast_knows(self) -> None:
        for path in STDLIB:
            text = decode(path.read_bytes())[0]
            found = identifiers(text)
            for node in ast.walk(parse(text)):
                for name in ("id", "attr", "arg", "name"):
                    value = getattr(node, name, None)
                    if isinstance(value, str) and not isinstance(node, ast.alias):
                        assert value in found


class TestPositions:
    @pytest.mark.parametrize(
        ("text", "span"),
        [
            ("target(1)", (1, 1, 1, 10)),
            ("x = 1\r\ny = target(1)\r\n", (2, 5, 2, 14)),
            ("x = 1\ry = target(1)\r", (2, 5, 2, 14)),
            ("if x:\n\ty = target(1)\n", (2, 6, 2, 15)),
            ("x = 'é😀', target(1)\n", (1, 11, 1, 20)),
            ("x = 1\n\x0cy = target(1)\n", (2, 6, 2, 15)),
            ("x = 1\n\x0c\ny = target(1)\n", (3, 5, 3, 14)),
            ("class C:\n    x = 1\n    \x0c    y = target(1)\n", (3, 14, 3, 23)),
            ("def f():\n  pass\n\n\n# é\ndef g():\n  return (\n    target(\n      1)\n  )", (8, 5, 9, 9)),
            ("try: pass\nexcept A : pass; target(1)\n", (2, 18, 2, 27)),
            ("try: pass\nexcept target(1) : pass\n", (2, 8, 2, 17)),
            ("x = '\u2028\x0b'\n\ny = '''\x0c\n\x0c''', target(1)\n", (4, 7, 4, 16)),
        ],
    )
    def test_odd_files(self, text: str, span: tuple[int, int, int, int]) -> None:
        assert call_at(text) == Span(*span)

    def test_latin_1_and_byte_order_mark(self) -> None:
        text, _ = decode(b"\xef\xbb\xbftarget('\xc3\xa9')")
        assert call_at(text) == Span(1, 1, 1, 12)
        text, _ = decode(b"# coding: latin-1\nx = '\xe9', target(1)\n")
        assert call_at(text) == Span(2, 10, 2, 19)

    @pytest.mark.parametrize(
        ("text", "kind", "span"),
        [
            ("@d\ndef f(x):\n  pass\n", ir.FunctionDef, (2, 1, 2, 6)),
            ("@d\nasync  def f(x):\n  pass\n", ir.FunctionDef, (2, 1, 2, 13)),
            ("class A(B):\n  pass\n", ir.ClassDef, (1, 1, 1, 8)),
            ("for x in (y):\n  pass\n", ir.For, (1, 1, 1, 13)),
            ("while (x):\n  pass\n", ir.While, (1, 1, 1, 10)),
            ("if x:\n  pass\nelse:\n  pass\n", ir.If, (1, 1, 1, 5)),
            ("with (a as b, c):\n  pass\n", ir.With, (1, 1, 1, 17)),
            ("with a as b, c:\n  pass\n", ir.With, (1, 1, 1, 15)),
            ("try:\n  pass\nexcept (A) as b:\n  pass\n", ir.Try, (1, 1, 1, 4)),
            ("try:\n  pass\nexcept (A) as b:\n  pass\n", ir.Handler, (3, 1, 3, 16)),
            ("match (x):\n  case y if z:\n    pass\n", ir.Match, (1, 1, 1, 10)),
            ("match (x):\n  case y if z:\n    pass\n", ir.Case, (2, 3, 2, 14)),
            ("x = ((1, 2))\n", ir.Sequence, (1, 6, 1, 12)),
            ("x = (i for i in y)\n", ir.Comp, (1, 5, 1, 19)),
            ("x = y = 1 # c\n", ir.Assign, (1, 1, 1, 10)),
            ("f(x=1, )\n", ir.Arg, (1, 3, 1, 6)),
            ("[i for i in (y)]\n", ir.CompFor, (1, 8, 1, 16)),
            ("f((a))\n", ir.Arg, (1, 3, 1, 6)),
            ("f(((a)), b)\n", ir.Arg, (1, 3, 1, 8)),
            ("f(b, *c)\n", ir.Arg, (1, 3, 1, 4)),
            ("g(f((  # )\n  a # (\n)))\n", ir.Call, (1, 1, 3, 4)),
            ("f((  # )\n  a # (\n))\n", ir.Arg, (1, 3, 3, 2)),
            ("f( (i) for i in (y) )\n", ir.Arg, (1, 4, 1, 20)),
            ("f( (i) for i in (y) )\n", ir.Comp, (1, 4, 1, 20)),
            ("f((i for i in y))\n", ir.Comp, (1, 3, 1, 17)),
            ("x = (a) and (b) and (c)\n", ir.BoolOp, (1, 5, 1, 24)),
            ("with (a):\n  pass\n", ir.WithItem, (1, 7, 1, 8)),
            ("with (a), b:\n  pass\n", ir.WithItem, (1, 6, 1, 9)),
            ("with ((a)):\n  pass\n", ir.WithItem, (1, 7, 1, 10)),
            ("with (a) as (b):\n  pass\n", ir.WithItem, (1, 6, 1, 16)),
            ("with (a, b,):\n  pass\n", ir.With, (1, 1, 1, 13)),
            ("a[(b), c]\n", ir.Sequence, (1, 1, 1, 10)),
            ("a[(b, c)]\n", ir.Sequence, (1, 3, 1, 9)),
            ("a[(b, c), (d)]\n", ir.Sequence, (1, 1, 1, 15)),
            ("lambda *a: a\n", ir.Param, (1, 8, 1, 10)),
            ("def \\\n  f(): pass\n", ir.FunctionDef, (1, 1, 2, 4)),
            ("try: pass\nexcept A as \\\n  é: pass\n", ir.Handler, (2, 1, 3, 4)),
            ("from a import (b,\n c)\n", ir.ImportFrom, (1, 1, 2, 4)),
        ],
    )
    def test_what_a_span_covers(self, text: str, kind: type[ir.Node], span: tuple[int, int, int, int]) -> None:
        found = [span for node, span in all_nodes(SourceFile("f.py", text)) if isinstance(node, kind)]
        assert found[0] == Span(*span)

    def test_a_synthetic_node_has_the_first_line(self) -> None:
        part = Slice("x = 1\n", 7)
        assert part.places.span(ir.Pass(unit=part)) == Span(7, 1, 7, 1)

    def test_a_slice_can_do_without_a_tree(self) -> None:
        part = Slice("@d\ndef f(x):\n    def g():\n        yield\n    return y\n", 11)
        statement = part.statements[0]
        assert isinstance(statement, ir.FunctionDef)
        assert statement.mentions == {"d", "f", "x", "g", "y"}
        assert not statement.is_generator
        inner = statement.body[0]
        assert isinstance(inner, ir.FunctionDef)
        assert inner.is_generator
        assert inner.mentions == {"g"}
        assert part.places.span(inner) == Span(13, 5, 13, 10)

    @pytest.mark.parametrize(
        "path",
        [pytest.param(path, marks=pytest.mark.slow if n % 4 else (), id=path.name) for n, path in enumerate(STDLIB)],
    )
    def test_positions_are_those_of_ast(self, path: Path) -> None:
        text = decode(path.read_bytes())[0]
        file = SourceFile(str(path), text)
        kinds: dict[type[ir.Node], type[ast.AST]] = {ir.Call: ast.Call, ir.Name: ast.Name, ir.Attr: ast.Attribute}
        found: dict[type, Counter[Span]] = {kind: Counter() for kind in kinds}
        for node, span in all_nodes(file):
            if type(node) in kinds:
                found[type(node)][span] += 1
        wanted = {kind: Counter(_ast_spans(file, twin)) for kind, twin in kinds.items()}
        assert found == wanted


def _ast_spans(file: SourceFile, kind: type[ast.AST]) -> Iterable[Span]:
    """The spans of the nodes of a kind that lowering keeps: all but in annotations, types, patterns, f-strings."""
    waiting: list[ast.AST] = [file.tree]
    encoded = [line.encode() for line in file.lines]

    def column(row: int, offset: int) -> int:
        return len(encoded[row - 1][:offset].decode()) + 1

    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr | ast.pattern) or type(node).__name__ == "TypeAlias":
            continue
        if isinstance(node, kind):
            assert isinstance(node, ast.expr)
            row, end = node.lineno, node.end_lineno or 0
            yield Span(row, column(row, node.col_offset), end, column(end, node.end_col_offset or 0))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "cause", "msg", "type_params"):
                continue
            parts = value if isinstance(value, list) else [value]
            waiting.extend(part for part in parts if isinstance(part, ast.AST))
