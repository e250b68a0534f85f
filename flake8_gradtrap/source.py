"""A file of source: its text as Python decodes it, its table of contents, and slices that are lowered on demand.

The standard library's `ast` gives the table of contents and the syntax. Places in the text are worked out only for
what a finding points at, and only slices with a fix are handed to libcst. Importing this module imports no libcst.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import sys
import threading
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from flake8_gradtrap import own
from flake8_gradtrap.traits import traits

if TYPE_CHECKING:
    from flake8_gradtrap.concrete import Concrete
    from flake8_gradtrap.interp.ir import Statement
    from flake8_gradtrap.places import Places

T = TypeVar("T")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

_GROUP = 200
"""Neighbouring statements are read as one slice of up to this many lines."""

_DEEP = 1000
"""Syntax nested deeper than this is not read: what recurses over it would overflow the stack."""

_SHORT = 2000
"""A text of fewer characters cannot be nested deep enough to do harm."""

LINE_END = re.compile(r"\r\n?|\n")
"""What ends a line to Python."""

_CONTINUED = re.compile(rb"[ \t\f;]*\\[\r\n]+")
_BLOCKS = ("body", "orelse", "handlers", "cases", "finalbody")
"""The fields in which `ast` keeps statements, or what holds statements."""
_KEYWORDS = frozenset(keyword.kwlist)
_WORD = re.compile(r"[^\W\d]\w*")
_QUOTED = [rf"{quote * 3}(?:[^{quote}\\]|\\.|{quote}(?!{quote * 2}))*+{quote * 3}" for quote in "'\""]
_QUOTED += [rf"{quote}(?:[^{quote}\\]|\\.)*+{quote}" for quote in "'\""]
_STRING = f"(?:{'|'.join(_QUOTED)})"
_IDENTIFIER = re.compile(  # comments, strings, numbers and operators, skipped; then an f-string or an identifier
    rf"""(?:\#[^\r\n]*+|(?:[rRbBuU]|[rR][bB]|[bB][rR])?{_STRING}|\d\w*+|[^\w'"\#]++)*+"""
    rf"""((?:[rR]?[fFtT]|[fFtT][rR]){_STRING}|[^\W\d]\w*+|$)""",
    re.DOTALL,
)


class SourceError(Exception):
    """Source that cannot be read: why, and where (row and column from 1)."""

    def __init__(self, message: str, row: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.row = max(row, 1)
        self.column = max(column, 1)


# -- text -----------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file, without its byte order mark, and the encoding that gives the bytes back."""
    try:
        try:
            encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        except SyntaxError:
            data.decode("utf-8")  # where that fails, it says more of what is wrong
            raise
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(error.encoding, errors="replace").removeprefix("\ufeff")
        place = _row_and_column(before, len(before))
        raise SourceError(f"the file is not {error.encoding}: {error.reason}", *place) from None
    except (SyntaxError, LookupError, ValueError) as error:
        raise SourceError(f"the file cannot be decoded: {error}") from None
    if (at := text.find("\0")) >= 0:
        raise SourceError("the file contains a NUL character", *_row_and_column(text, at))
    return text, encoding


def _row_and_column(text: str, offset: int) -> tuple[int, int]:
    row = len(LINE_END.findall(text, 0, offset)) + 1
    return row, offset - line_starts(text)[row - 1] + 1


def line_starts(text: str) -> list[int]:
    """The offset at which each line starts; lines end at \\n, \\r\\n and \\r, and nowhere else, as in Python."""
    return [0, *(match.end() for match in LINE_END.finditer(text))]


def identifiers(text: str) -> frozenset[str]:
    """Every identifier in a text that is valid Python. Words in f-strings count; comments and other strings do not.

    Names of a project's own APIs bring the words of torch along for which they stand.
    """
    found = set(_IDENTIFIER.findall(text))
    for formatted in [word for word in found if word[-1:] in ("'", '"')]:
        found.remove(formatted)
        found.update(_WORD.findall(formatted))
    if not text.isascii():
        found = {unicodedata.normalize("NFKC", word) for word in found}
    return own.current().stand_for(frozenset(found - _KEYWORDS - {""}))


def parse(text: str) -> ast.Module:
    """`ast.parse`, with a SourceError for whatever it cannot parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        # A column of a SyntaxError counts from 1; 0 or None stand for no known place.
        raise SourceError(f"syntax error: {error.msg}", error.lineno or 1, error.offset or 1) from None
    except (RecursionError, MemoryError):
        raise SourceError("the source is nested too deeply") from None
    except ValueError as error:
        raise SourceError(f"the source cannot be parsed: {error}") from None


def deep(call: Callable[[], T]) -> T:
    """Call a recursive function; where the stack is too low for it, again in a thread with a large stack."""
    try:
        return call()
    except RecursionError:
        pass
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    limit, size = sys.getrecursionlimit(), threading.stack_size()
    try:
        sys.setrecursionlimit(max(limit, 60 * _DEEP))
        threading.stack_size(256 << 20)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    except (RuntimeError, ValueError) as error:
        errors.append(error)
    finally:
        threading.stack_size(size)
        sys.setrecursionlimit(limit)
    if results:
        return results[0]
    if isinstance(errors[0], RuntimeError | MemoryError):  # RecursionError is one, and "can't start new thread"
        raise SourceError("the source is nested too deeply") from None
    raise errors[0]


def _depth(nodes: list[ast.stmt], starts: list[int], before: int) -> int:
    """How deeply syntax is nested, as lowering nests it. `starts`: of the lines; the first of them has number `before`.

    What stands in few characters is not nested deep: it is not walked.
    """
    level: list[ast.AST] = list(nodes)
    depth = 0
    while level and depth <= _DEEP:
        depth += 1
        following: list[ast.AST] = []
        for node in level:
            if isinstance(node, ast.BoolOp):  # one level to ast, a chain once it is lowered
                depth = max(depth, len(node.values))
            if isinstance(node, ast.stmt):
                blocks = [part for block in _BLOCKS for part in getattr(node, block, ())]
                last = blocks[0].lineno if blocks and hasattr(blocks[0], "lineno") else node.end_lineno or node.lineno
                first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
                if starts[min(last - before + 1, len(starts) - 1)] - starts[first - before] < _DEEP:
                    following.extend(blocks)
                    continue
            following.extend(ast.iter_child_nodes(node))
        level = following
    return depth


# -- contents -------------------------------------------------------------------------------------------------------


class SourceFile:
    """A file: its text, its syntax tree as `ast` sees it, and its top-level statements."""

    def __init__(self, path: str, text: str, tree: ast.Module | None = None) -> None:
        self.path = path
        self.text = text
        self.tree = parse(text) if tree is None else tree
        self.starts = line_starts(text)
        self._mentions: dict[ast.stmt, frozenset[str]] = {}

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without what ends them; line n is `lines[n - 1]`."""
        return LINE_END.split(self.text)

    @cached_property
    def newline(self) -> str:
        """What ends the first line of the file, and so, where nothing else is known, a new one."""
        found = LINE_END.search(self.text)
        return found.group() if found else "\n"

    @cached_property
    def toplevel(self) -> tuple[TopLevel, ...]:
        """The top-level statements, in groups that begin and end with a line."""
        result: list[TopLevel] = []
        kind, nodes, first, last = "", list[ast.stmt](), 0, 0
        for node in self.tree.body:
            if isinstance(node, (*_DEFINITIONS, ast.ClassDef)):
                new = "class" if isinstance(node, ast.ClassDef) else "function"
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            else:
                new = "import" if isinstance(node, ast.Import | ast.ImportFrom) else "code"
                start = node.lineno
            end = self._end(node)
            if nodes and (start <= last or (new == kind and new in ("import", "code") and end - first < _GROUP)):
                kind = kind if kind == new else "code"
            else:
                if nodes:
                    result.append(TopLevel(self, kind, nodes, first, last))
                kind, nodes, first = new, [], start
            nodes.append(node)
            last = max(end, last)
        if nodes:
            result.append(TopLevel(self, kind, nodes, first, last))
        return tuple(result)

    @cached_property
    def functions(self) -> dict[str, frozenset[str]]:
        """For each name of a function or method (nested ones too), what its definitions mention besides that name."""
        found: dict[str, frozenset[str]] = {}
        waiting: list[ast.AST] = list(self.tree.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, _DEFINITIONS):
                found[node.name] = found.get(node.name, frozenset()) | (self.mentions(node) - {node.name})
            for block in _BLOCKS:
                waiting.extend(getattr(node, block, ()))
        return found

    @cached_property
    def rebound(self) -> frozenset[str]:
        """The attributes that are assigned anywhere but in an `__init__`."""
        return _assigned(self.tree.body, leave="__init__")

    @cached_property
    def stored(self) -> frozenset[str]:
        """The attributes that are assigned anywhere."""
        return _assigned(self.tree.body)

    @cached_property
    def aliases(self) -> dict[str, frozenset[str]]:
        """Attributes that are assigned to each other somewhere, `self.inner = self.model` or `… = self.model.module`:
        they may be names of the same thing.
        """
        found: dict[str, set[str]] = {}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Assign):
                continue
            sources = (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)
            for target in node.targets:
                for source in sources:
                    one, other = _of_self(target), _of_self(source)
                    if one and other and one != other:
                        found.setdefault(one, set()).add(other)
                        found.setdefault(other, set()).add(one)
        return {name: frozenset(others) for name, others in found.items()}

    def mentions(self, node: _Definition) -> frozenset[str]:
        """Every identifier in a function of this file, its decorators aside, and its traits."""
        if node not in self._mentions:
            self._mentions[node] = _mentions((node,), self.text_of(node.lineno, node.end_lineno or node.lineno))
        return self._mentions[node]

    def let_go(self) -> None:
        """Take the file apart, when nobody needs it: its parts know it, as it knows them."""
        for part in self.__dict__.get("toplevel", ()):
            if (piece := part.__dict__.get("slice")) is not None:
                piece.__dict__.clear()
            part.__dict__.clear()
        self.__dict__.clear()

    def _end(self, node: ast.stmt) -> int:
        """The last line of a statement: a backslash may make it longer than `ast` says."""
        row = node.end_lineno or node.lineno
        column = node.end_col_offset or 0
        while _CONTINUED.match(self.text_of(row, row).encode(errors="replace"), column):
            row, column = row + 1, 0
        return min(row, len(self.starts))

    def text_of(self, first: int, last: int) -> str:
        """The text of some lines, with what ends them."""
        return self.text[self.starts[first - 1] : self.starts[last] if last < len(self.starts) else len(self.text)]


def _mentions(nodes: Iterable[ast.stmt], text: str) -> frozenset[str]:
    """Every identifier in some statements, and their traits."""
    words = identifiers(text)
    return words | traits(nodes, text, words)


def _targets(node: ast.AST) -> list[ast.expr]:
    """What a statement binds or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.AsyncFor):
        return [node.target]
    if isinstance(node, ast.With | ast.AsyncWith):
        return [item.optional_vars for item in node.items if item.optional_vars is not None]
    return []


def _assigned(body: list[ast.stmt], leave: str = "") -> frozenset[str]:
    """The attributes that statements assign, those in their blocks too, but in functions of a name."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS) and node.name == leave:
            continue
        parts = [part for target in _targets(node) for part in ast.walk(target)]
        found.update(part.attr for part in parts if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store))
        for block in _BLOCKS:
            waiting.extend(getattr(node, block, ()))
    return frozenset(found)


def _functions(body: list[ast.stmt]) -> Iterator[_Definition]:
    for node in body:
        if isinstance(node, _DEFINITIONS):
            yield node
        elif isinstance(node, ast.If):
            yield from _functions(node.body)


class TopLevel:
    """Some top-level statements of a file, from line `first_line` to line `last_line`, decorators included.

    `kind`: "function", "class" (one definition, whose name is `name`), "import" or "code".
    """

    def __init__(self, file: SourceFile, kind: str, nodes: list[ast.stmt], first: int, last: int) -> None:
        self.kind = kind
        self.nodes = nodes
        self.name = str(getattr(nodes[0], "name", "")) if kind in ("function", "class") else ""
        self.first_line = first
        self.last_line = last
        self._file = file

    def __repr__(self) -> str:
        return f"TopLevel({self.kind!r}, {self.name!r}, {self.first_line}-{self.last_line})"

    @cached_property
    def mentions(self) -> frozenset[str]:
        """Every identifier in these statements, and their traits."""
        text_of = self._file.text_of
        if self.kind != "class":
            return _mentions(self.nodes, text_of(self.first_line, self.last_line))
        between, row = list[str](), self.first_line
        for method in self.functions:
            between.append(text_of(row, method.lineno - 1))
            row = (method.end_lineno or method.lineno) + 1
        if row <= self.last_line:
            between.append(text_of(row, self.last_line))
        return identifiers("".join(between)).union(*map(self._file.mentions, self.functions))

    @cached_property
    def touches(self) -> frozenset[str]:
        """The names that these statements bind, or whose objects they may change: `x.y = 1`, `x.append(1)`."""
        found: set[str] = set()
        waiting: list[ast.AST] = list(self.nodes)
        while waiting:
            node = waiting.pop()
            if isinstance(node, (*_DEFINITIONS, ast.ClassDef)):
                found.add(node.name)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            parts = [node.value] if isinstance(node, ast.Expr) else _targets(node)
            found.update(name.id for part in parts for name in ast.walk(part) if isinstance(name, ast.Name))
            for block in _BLOCKS:
                waiting.extend(getattr(node, block, ()))
        return frozenset(found)

    @cached_property
    def functions(self) -> tuple[_Definition, ...]:
        """The function that this defines, or the methods of the class, also those under a condition."""
        node = self.nodes[0]
        return tuple(_functions(node.body if isinstance(node, ast.ClassDef) else [node]))

    @cached_property
    def methods(self) -> dict[str, frozenset[str]]:
        """For each method of a class, what it mentions, with its traits."""
        return {node.name: self._file.mentions(node) for node in self.functions} if self.kind == "class" else {}

    @cached_property
    def slice(self) -> Slice:
        text = self._file.text_of(self.first_line, self.last_line)
        return Slice(text, self.first_line, self.nodes, self._file.newline, self._file.path, self._file.mentions)


class Slice:
    """A piece of source, whole lines, whose statements are lowered when they are first asked for."""

    def __init__(
        self,
        source: str,
        first_line: int = 1,
        nodes: list[ast.stmt] | None = None,
        newline: str = "\n",
        path: str = "",
        mentions: Callable[[_Definition], frozenset[str]] | None = None,
    ) -> None:
        self.source = source
        self.path = path
        self.first_line = first_line
        self.newline = newline
        self.starts = line_starts(source)
        self._nodes = nodes
        self._mentions = mentions
        self.before = 1 if nodes is None else first_line
        """The number that `ast` gives to the first line."""

    @cached_property
    def nodes(self) -> list[ast.stmt]:
        """The statements as `ast` sees them."""
        return parse(self.source).body if self._nodes is None else self._nodes

    def line(self, row: int) -> str:
        """A line of the file, with what ends it; "" outside of the slice."""
        at = row - self.first_line
        if not 0 <= at < len(self.starts):
            return ""
        return self.source[self.starts[at] : (*self.starts[at + 1 : at + 2], len(self.source))[0]]

    def mentions(self, node: _Definition) -> frozenset[str]:
        """What a function mentions, its decorators included, and its traits."""
        if self._mentions is None:
            return _mentions((node,), self.text_of(node))
        found = self._mentions(node)
        if node.decorator_list:
            start = min(part.lineno for part in node.decorator_list)
            found |= identifiers("".join(map(self.line, range(start, node.lineno))))
        return found

    def text_of(self, node: _Definition) -> str:
        """The lines of a function that is one of `nodes`, or stands in one."""
        end = (node.end_lineno or node.lineno) - self.before + 1
        start = min([node.lineno, *(part.lineno for part in node.decorator_list)]) - self.before
        return self.source[self.starts[start] : self.starts[end] if end < len(self.starts) else len(self.source)]

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The statements as the abstract run sees them. Raises SourceError where they are nested too deeply."""
        from flake8_gradtrap.interp.lower import lower

        if len(self.source) > _SHORT and _depth(self.nodes, self.starts, self.before) > _DEEP:
            raise SourceError("the source is nested too deeply", self.first_line)
        return lower(self)

    @cached_property
    def places(self) -> Places:
        """Where the syntax of this slice stands."""
        from flake8_gradtrap.places import Places

        return Places(self)

    @cached_property
    def concrete(self) -> Concrete:
        """The slice as libcst sees it. Raises SourceError if libcst cannot read it."""
        from flake8_gradtrap.concrete import Concrete

        return Concrete(self)


def _of_self(node: ast.AST) -> str:
    """The name in `self.name`, or in `self.name.module`."""
    if isinstance(node, ast.Attribute) and node.attr == "module" and isinstance(node.value, ast.Attribute):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
