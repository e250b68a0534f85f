"""Where syntax stands: from the positions that `ast` gives to places in the text.

`ast` drops parentheses, and has no positions of names of definitions, headers and a few other parts: these are read
off the text, and only for what a finding points at.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flake8_gradtrap.finding import Span
from flake8_gradtrap.interp import ir

if TYPE_CHECKING:
    from flake8_gradtrap.source import Slice

_GAP = r"(?:[ \t\f]|\\(?:\r\n?|\n))"
"""Blanks within a line as Python counts lines."""
_NAME = re.compile(rf"(?:async{_GAP}+)?(?:def|class){_GAP}+\w+")
_WORD = re.compile(r"\w+")
_TRY = re.compile(rf"try{_GAP}*+")
_EXCEPT = re.compile(rf"except{_GAP}*+")
_AS = re.compile(rf"{_GAP}*+as{_GAP}++\w+")
_CASE = re.compile(r"[ \t\f]*(case)\b")
_SPACE = re.compile(r"(?:[ \t\f\r\n\\]|#[^\r\n]*+)*+")
"""What may stand between two tokens inside of parentheses."""


@dataclass(frozen=True, slots=True, eq=False)
class Bare:
    """A generator that is all that a call gets. `ast` counts the parentheses of the call as its own: they are not."""

    node: ast.GeneratorExp


class Places:
    """The text of a slice, by the positions of `ast`: offsets, and the spans of the abstract run's syntax."""

    def __init__(self, unit: Slice) -> None:
        self._text = unit.source
        self._starts = unit.starts
        self._before = unit.before
        self._first_line = unit.first_line
        self._plain = unit.source.isascii()
        self._comments: dict[int, int] | None = None

    # -- offsets ------------------------------------------------------------------------------------------------------

    def _offset(self, row: int, column: int) -> int:
        """The offset in the slice of a position of `ast`, whose columns are bytes of UTF-8."""
        at = min(max(row - self._before, 0), len(self._starts) - 1)
        start = self._starts[at]
        if not self._plain:
            end = self._starts[at + 1] if at + 1 < len(self._starts) else len(self._text)
            line = self._text[start:end]
            if not line.isascii():
                column = len(line.encode()[:column].decode(errors="ignore"))
        return min(start + column, len(self._text))

    def range(self, node: ast.AST) -> tuple[int, int]:
        """The offsets of a node that has a position, without its own parentheses."""
        start = self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return start, self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _place(self, offset: int) -> tuple[int, int]:
        at = bisect_right(self._starts, offset) - 1
        return at + self._first_line, offset - self._starts[at] + 1

    # -- parentheses --------------------------------------------------------------------------------------------------

    def _comment(self, line: int) -> int | None:
        """The offset of the comment at the end of a line; lines count from 0."""
        start, end = self._starts[line], self._starts[line + 1]
        if "#" not in self._text[start:end]:
            return None
        if self._comments is None:
            self._comments = {}
            try:
                for token in tokenize.generate_tokens(io.StringIO(self._text).readline):
                    if token.type == tokenize.COMMENT:
                        self._comments[token.start[0] - 1] = token.start[1]
            except (tokenize.TokenError, SyntaxError):
                pass
        column = self._comments.get(line)
        return None if column is None else start + column

    def _opening(self, at: int) -> tuple[list[int], int]:
        """The offsets of the opening parentheses in front of an offset, the nearest first, and what they follow."""
        found: list[int] = []
        while at > 0:
            character = self._text[at - 1]
            if character in "\r\n":
                comment = self._comment(bisect_right(self._starts, at - 1) - 1)
                at = at - 1 if comment is None else comment
            elif character in " \t\f\\":
                at -= 1
            elif character == "(":
                at -= 1
                found.append(at)
            else:
                break
        return found, at

    def _space(self, at: int) -> int:
        """The offset of the next token."""
        found = _SPACE.match(self._text, at)
        return at if found is None else found.end()

    def _closing(self, at: int, besides: str = "") -> list[int]:
        """The offsets behind each of the closing parentheses that follow, with others `besides` in between."""
        found: list[int] = []
        while (at := self._space(at)) < len(self._text) and self._text[at] in ")" + besides:
            at += 1
            if self._text[at - 1] == ")":
                found.append(at)
        return found

    def outer(self, node: ast.AST) -> tuple[int, int]:
        """The offsets of an expression (or a pattern), all of its own parentheses included.

        Not of an argument: there the parentheses of the call may be around it as well.
        """
        start, end = self.range(node)
        opening = self._opening(start)[0]
        closing = self._closing(end) if opening else []
        own = min(len(opening), len(closing))
        return (opening[own - 1], closing[own - 1]) if own else (start, end)

    def _argument(self, node: ast.expr) -> tuple[int, int]:
        """The offsets of a positional argument of a call, or of a base of a class."""
        start, end = self.range(node)
        if isinstance(node, ast.Starred):
            return start, end
        opening, behind = self._opening(start)
        if opening and self._text[behind - 1] != ",":
            opening.pop()
        own = min(len(opening), len(closing)) if (closing := self._closing(end)) else 0
        return (opening[own - 1], closing[own - 1]) if own else (start, end)

    def _item(self, node: ast.withitem) -> tuple[int, int]:
        """The offsets of an item of a `with`."""
        start, end = self.outer(node.context_expr)
        if node.optional_vars is not None:
            return start, self.outer(node.optional_vars)[1]
        if self._text[start] == "(" and not isinstance(node.context_expr, ast.Yield | ast.YieldFrom | ast.NamedExpr):
            before, behind = self._opening(start)
            inner = self.range(node.context_expr)
            alone = not before and self._text[behind - 1] != "," and self._text[self._space(end)] == ":"
            if alone and (start, end) != inner:  # the parentheses of the whole `with`
                opening, closing = self._opening(inner[0])[0], self._closing(inner[1])
                own = len(opening) - 1
                return (opening[own - 1], closing[own - 1]) if own else inner
        return start, end

    def parenthesised(self, node: ast.Tuple) -> bool:
        """Whether a tuple has parentheses."""
        start = self.range(node)[0]
        if self._text[start] != "(" or not node.elts:
            return self._text[start] == "("
        first, end = self.range(node.elts[0])
        return len(self._opening(first)[0]) - len(self._opening(start)[0]) > len(self._closing(end))

    def text(self, node: ast.expr) -> str:
        """The text of an annotation, its own parentheses included."""
        start, end = self.outer(node)
        if self._text[start] != "(" or isinstance(node, ast.Tuple):
            if isinstance(node, ast.Attribute):
                return f"{self.text(node.value)}.{node.attr}"
            if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Tuple):
                return f"{self.text(node.value)}[{self.text(node.slice)}]"
        return self._text[start:end]

    # -- spans --------------------------------------------------------------------------------------------------------

    def span(self, node: ir.Node) -> Span:
        """Where a node stands in the file. Of a definition, its name; of a compound statement, its header."""
        if node.origin is None:
            return Span(self._first_line, 1, self._first_line, 1)
        start, end = self._extent(node, node.origin)
        return Span(*self._place(start), *self._place(end))

    def _extent(self, node: ir.Node, origin: ast.AST | Bare) -> tuple[int, int]:
        if isinstance(origin, Bare):
            last = origin.node.generators[-1]
            return self._space(self.range(origin.node)[0] + 1), self.outer((last.ifs or [last.iter])[-1])[1]
        match origin:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                start = self.range(origin)[0]
                return start, self._end(_NAME, start)
            case ast.For() | ast.AsyncFor():
                return self.range(origin)[0], self.outer(origin.iter)[1]
            case ast.While() | ast.If():
                return self.range(origin)[0], self.outer(origin.test)[1]
            case ast.With() | ast.AsyncWith():
                item = origin.items[-1]
                end = self.range(item.optional_vars or item.context_expr)[1]
                return self.range(origin)[0], (self._closing(end, ",") or [end])[-1]
            case ast.withitem():
                return self._item(origin)
            case ast.Match():
                return self.range(origin)[0], self.outer(origin.subject)[1]
            case ast.match_case():
                return self._case(origin), self.outer(origin.guard or origin.pattern)[1]
            case ast.ExceptHandler():
                return self._handler(origin)
            case ast.comprehension():
                return self.outer(origin.target)[0], self.outer(origin.iter)[1]
            case ast.BoolOp():
                return self.range(origin)[0], self.outer(origin.values[-1])[1]
            case ast.arg() if isinstance(node, ir.Param):
                return self._parameter(node, origin)
        if isinstance(node, ir.Try):
            start = self.range(origin)[0]
            return start, self._end(_TRY, start)
        if isinstance(node, ir.Arg) and isinstance(origin, ast.expr):
            return self._argument(origin)
        return self.range(origin)

    def _end(self, pattern: re.Pattern[str], at: int) -> int:
        found = pattern.match(self._text, at)
        return at if found is None else found.end()

    def _case(self, node: ast.match_case) -> int:
        start = self.range(node.pattern)[0]
        at = bisect_right(self._starts, start) - 1
        while at >= 0:
            if (found := _CASE.match(self._text, self._starts[at])) and found.start(1) < start:
                return found.start(1)
            at -= 1
        return start

    def _handler(self, node: ast.ExceptHandler) -> tuple[int, int]:
        start = self.range(node)[0]
        if node.type is None:
            return start, self._end(_EXCEPT, start)
        end = self.outer(node.type)[1]
        return start, end if node.name is None else self._end(_AS, end)

    def _parameter(self, node: ir.Param, origin: ast.arg) -> tuple[int, int]:
        """The offsets of a parameter's name, with its stars."""
        name = self.range(origin)[0]
        star = {"star": "*", "starstar": "**"}.get(node.kind)
        return self._text.rfind(star, 0, name) if star else name, self._end(_WORD, name)
