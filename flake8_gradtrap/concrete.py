"""A slice of source as libcst sees it: what fixes need, which change text and keep the rest of it as it is.

Read only where a finding has a fix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider

from flake8_gradtrap.finding import Span
from flake8_gradtrap.interp import ir
from flake8_gradtrap.source import LINE_END, SourceError, deep

if TYPE_CHECKING:
    from libcst.metadata import CodeRange

    from flake8_gradtrap.source import Slice

_FEED = re.compile(r"[ \t\f]*\f")

_KINDS: dict[type[ir.Node], tuple[type[cst.CSTNode], ...]] = {
    ir.Name: (cst.Name,),
    ir.Const: (
        cst.Name, cst.Ellipsis, cst.Integer, cst.Float, cst.Imaginary, cst.SimpleString, cst.ConcatenatedString,
    ),
    ir.JoinedStr: (cst.FormattedString, cst.ConcatenatedString),
    ir.Attr: (cst.Attribute,),
    ir.Subscript: (cst.Subscript,),
    ir.Arg: (cst.Arg,),
    ir.Call: (cst.Call,),
    ir.BinOp: (cst.BinaryOperation,),
    ir.UnaryOp: (cst.UnaryOperation,),
    ir.BoolOp: (cst.BooleanOperation,),
    ir.Compare: (cst.Comparison,),
    ir.IfExp: (cst.IfExp,),
    ir.Sequence: (cst.Tuple, cst.List, cst.Set, cst.Subscript),
    ir.DictDisplay: (cst.Dict,),
    ir.Starred: (cst.StarredElement,),
    ir.Comp: (cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp),
    ir.CompFor: (cst.CompFor,),
    ir.NamedExpr: (cst.NamedExpr,),
    ir.Lambda: (cst.Lambda,),
    ir.Await: (cst.Await,),
    ir.Yield: (cst.Yield,),
    ir.Param: (cst.Param,),
    ir.FunctionDef: (cst.FunctionDef,),
    ir.ClassDef: (cst.ClassDef,),
    ir.ExprStmt: (cst.Expr,),
    ir.Assign: (cst.Assign, cst.AnnAssign),
    ir.AnnOnly: (cst.AnnAssign,),
    ir.AugAssign: (cst.AugAssign,),
    ir.For: (cst.For,),
    ir.While: (cst.While,),
    ir.If: (cst.If,),
    ir.With: (cst.With,),
    ir.WithItem: (cst.WithItem,),
    ir.Try: (cst.Try, cst.TryStar),
    ir.Handler: (cst.ExceptHandler, cst.ExceptStarHandler),
    ir.Match: (cst.Match,),
    ir.Case: (cst.MatchCase,),
    ir.Return: (cst.Return,),
    ir.Raise: (cst.Raise,),
    ir.Break: (cst.Break,),
    ir.Continue: (cst.Continue,),
    ir.Pass: (cst.Pass,),
    ir.Delete: (cst.Del,),
    ir.Assert: (cst.Assert,),
}  # fmt: skip
"""What each kind of syntax of the abstract run is to libcst."""


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


class Concrete:
    """The syntax of a slice with all of its text, and where it stands. Raises SourceError if libcst cannot read it."""

    def __init__(self, unit: Slice) -> None:
        self._first_line = unit.first_line
        self._readable = unit.source
        # After a form feed Python counts the indentation anew. libcst does not: it reads these lines without.
        self._fed: dict[int, int] = {}
        if "\f" in unit.source:
            lines = []
            for row in range(1, len(unit.starts) + 1):
                line = unit.line(unit.first_line + row - 1)
                if found := _FEED.match(line):
                    self._fed[row] = found.end()
                lines.append(line[self._fed.get(row, 0) :])
            self._readable = "".join(lines)
        self._module = self._parse()
        self._wrapper = MetadataWrapper(self._module, unsafe_skip_copy=True)

    def _parse(self) -> cst.Module:
        try:
            return cst.parse_module(self._readable)
        except cst.ParserSyntaxError as error:
            why = error.message.partition("\n")[0].strip()
            raise SourceError(f"libcst cannot read this: {why}", self._first_line) from None
        except (RecursionError, MemoryError):
            raise SourceError("the source is nested too deeply", self._first_line) from None
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of its Rust half
                raise
            raise SourceError(f"libcst cannot read this: {error}", self._first_line) from None

    @cached_property
    def _ranges(self) -> Mapping[cst.CSTNode, CodeRange]:
        return deep(lambda: self._wrapper.resolve(PositionProvider))

    @cached_property
    def parents(self) -> Mapping[cst.CSTNode, cst.CSTNode]:
        """The parent of each libcst node."""
        return deep(lambda: self._wrapper.resolve(ParentNodeProvider))

    @cached_property
    def _lost(self) -> dict[int, tuple[int, int]]:
        """By line: from which column on libcst's positions fall short, and by how much. It drops the odd blank."""
        lost: dict[int, tuple[int, int]] = {}
        code = deep(lambda: self._module.code)
        if code != self._readable:
            lines = zip(LINE_END.split(self._readable), LINE_END.split(code), strict=False)
            for row, (mine, its) in enumerate(lines, 1):
                if mine != its:
                    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(mine, its, strict=False)))
                    lost[row] = same, len(mine) - len(its)
        return lost

    def _column(self, row: int, column: int) -> int:
        start, lost = self._lost.get(row, (0, 0))
        return column + 1 + self._fed.get(row, 0) + (lost if column > start else 0)

    def extent(self, first: cst.CSTNode, last: cst.CSTNode) -> Span | None:
        """From where a libcst node begins to where another one (or the same) ends, in the file; None if not known."""
        start, end = self._ranges.get(first), self._ranges.get(last)
        if start is None or end is None:
            return None
        (row, column), (end_row, end_column) = (
            (place.line + self._first_line - 1, self._column(place.line, place.column))
            for place in (start.start, end.end)
        )
        return Span(row, column, end_row, end_column)

    def find(self, node: ir.Node, place: Span) -> cst.CSTNode | None:
        """What a node of the abstract run is to libcst, by its kind and its place; None if there is nothing."""
        kinds = _KINDS.get(type(node), ())
        found = (part for part in self._ranges if isinstance(part, kinds) and self.extent(*bounds(part)) == place)
        return next(found, None)
