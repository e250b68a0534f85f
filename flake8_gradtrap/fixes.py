"""Fixes as text: from the changes that a rule asks for to edits of the file, and from edits to a new text.

Only the places that change are touched: comments, line endings, indentation and everything else stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import libcst as cst

from flake8_gradtrap.concrete import outer
from flake8_gradtrap.events import Site
from flake8_gradtrap.finding import Edit, Fix, Span
from flake8_gradtrap.interp import ir
from flake8_gradtrap.rule import Change
from flake8_gradtrap.source import Slice, SourceError, line_starts, parse

_PLACEHOLDER = "_gradtrap_"
_PRIMARY = (
    cst.Name, cst.Attribute, cst.Subscript, cst.Call, cst.SimpleString, cst.FormattedString, cst.List, cst.Set,
    cst.Dict, cst.ListComp, cst.SetComp, cst.DictComp, cst.Ellipsis,
)  # fmt: skip
_STATEMENT = cst.SimpleStatementLine | cst.BaseCompoundStatement


class _Refused(Exception):
    """A change that cannot be made at its place."""


@dataclass(frozen=True, slots=True, order=True)
class _Piece:
    """An edit, and what decides its place among insertions at the same point."""

    span: Span
    rank: tuple[int, int]
    """What is put behind an expression comes first, the innermost first; then lines; then what is put in front."""
    content: str = field(compare=False)


def build_edits(changes: tuple[Change, ...]) -> tuple[Edit, ...] | None:
    """The edits that make these changes, in the order of the file; None if one of them cannot be made at its place."""
    pieces: list[_Piece] = []
    try:
        for change in dict.fromkeys(changes):
            pieces += _pieces(change)
    except (_Refused, SourceError):
        return None
    edits: list[Edit] = []
    for piece in sorted(pieces):
        empty = _is_empty(piece.span)
        if edits and empty and edits[-1].span == piece.span:
            edits[-1] = Edit(piece.span, edits[-1].content + piece.content)
        else:
            edits.append(Edit(piece.span, piece.content))
    if any(_conflict(one, other) for one, other in pairwise(edits)):
        return None
    return tuple(edits) or None


def _pieces(change: Change) -> list[_Piece]:
    match change.kind:
        case "wrap":
            return _wrap(change)
        case "statement-before":
            statement = _Line.of(change.site)
            return [_insertion(statement.row, statement.lines(change.before))]
        case "decorate":
            return [_decoration(change)]
        case "function-top":
            return [_function_top(change)]
        case "delete-statement":
            return [_Line.of(change.site).deletion()]
        case "delete-argument":
            return [_argument(change)]
        case "move-before" if change.target is not None:
            return _move(_Line.of(change.site), _Line.of(change.target))
    raise _Refused


def _node(site: Site) -> tuple[Slice, cst.CSTNode]:
    node = site.node
    if not isinstance(node, ir.Node) or node.unit is None or node.origin is None:
        raise _Refused
    found = node.unit.concrete.find(node, node.unit.places.span(node))
    if found is None:
        raise _Refused
    return node.unit, found


def _insertion(row: int, text: str) -> _Piece:
    return _Piece(Span(row, 1, row, 1), (1, 0), text)


# -- around an expression ---------------------------------------------------------------------------------------------


def _wrap(change: Change) -> list[_Piece]:
    unit, node = _node(change.site)
    if isinstance(node, cst.Arg | cst.Expr | cst.Return | cst.Assign | cst.Element | cst.AnnAssign) and node.value:
        node = node.value
    if not isinstance(node, cst.BaseExpression) or isinstance(node, cst.StarredElement):
        raise _Refused
    span = unit.concrete.extent(*outer(node))
    if span is None:
        raise _Refused
    before, after = change.before, change.after
    shape, holder = _shape(before, after)
    own = bool(node.lpar)
    alone = isinstance(holder, ast.Call) and len(holder.args) == 1 and not holder.keywords and before.endswith("(")
    if isinstance(holder, ast.keyword) or (isinstance(holder, ast.Call) and not _is(holder.func)):
        # An argument: what stands between commas needs no parentheses, but for a few.
        if alone and after == ")" and own and not isinstance(node, cst.Tuple | cst.Yield):
            before, after = before[:-1], ""  # its own parentheses become those of the call
        elif not own and (
            isinstance(node, cst.Tuple | cst.Yield | cst.NamedExpr)
            or (isinstance(node, cst.GeneratorExp) and not (alone and after == ")"))
        ):
            before, after = before + "(", ")" + after
    elif not own and not isinstance(node, _PRIMARY):
        before, after = before + "(", ")" + after
    if not isinstance(shape, ast.Name | ast.Attribute | ast.Subscript | ast.Call) and not _stands_alone(unit, node):
        before, after = "(" + before, after + ")"
    size = (span.end_row - span.row) * 100_000 + span.end_column - span.column
    if before and _is_word(before[0]) and _is_word(_character(unit, span.row, span.column - 1)):
        before = " " + before
    if after and _is_word(after[-1]) and _is_word(_character(unit, span.end_row, span.end_column)):
        after += " "
    pieces = [
        _Piece(Span(span.row, span.column, span.row, span.column), (2, -size), before),
        _Piece(Span(span.end_row, span.end_column, span.end_row, span.end_column), (0, size), after),
    ]
    return [piece for piece in pieces if piece.content]


def _is(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == _PLACEHOLDER


def _shape(before: str, after: str) -> tuple[ast.expr, ast.AST | None]:
    """What the two texts make of an expression between them, and what then holds it."""
    try:
        shape = ast.parse(f"{before}{_PLACEHOLDER}{after}".strip(), mode="eval").body
    except SyntaxError:
        raise _Refused from None
    for node in ast.walk(shape):
        for child in ast.iter_child_nodes(node):
            if _is(child):
                return shape, node
    return shape, None


def _stands_alone(unit: Slice, node: cst.CSTNode) -> bool:
    """Whether any expression may stand where this one does, without parentheses."""
    parent = unit.concrete.parents.get(node)
    if isinstance(parent, cst.Arg):
        return not parent.star
    if isinstance(parent, cst.Index):
        return parent.star is None
    if isinstance(parent, cst.For):
        return parent.iter is node
    return isinstance(
        parent,
        cst.Assign | cst.AnnAssign | cst.AugAssign | cst.Return | cst.Expr | cst.Element | cst.DictElement | cst.If
        | cst.While | cst.Yield,
    )  # fmt: skip


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _character(unit: Slice, row: int, column: int) -> str:
    """The character at a place in the file, "" outside of the slice."""
    line = unit.line(row)
    return line[column - 1] if 1 <= column <= len(line) else ""


def _argument(change: Change) -> _Piece:
    """One argument of a call taken out, with the comma before it (or after it, if it is the first)."""
    unit, node = _node(change.site)
    call = unit.concrete.parents.get(node)
    if not isinstance(node, cst.Arg) or not isinstance(call, cst.Call):
        raise _Refused
    place = next(index for index, arg in enumerate(call.args) if arg is node)
    own = unit.concrete.extent(node.keyword or node.value, node.value)
    before = unit.concrete.extent(call.args[place - 1].value, call.args[place - 1].value) if place else None
    if own is None or (before is None and len(call.args) > 1) or (before is not None and before.end_row != own.row):
        raise _Refused
    row, column = (before.end_row, before.end_column) if before is not None else (own.row, own.column)
    return _Piece(Span(row, column, own.end_row, own.end_column), (0, 0), "")


# -- lines ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A statement that has its lines for itself: rows `row` to `end_row` of the file."""

    unit: Slice
    node: cst.CSTNode
    row: int
    end_row: int
    indent: str

    @classmethod
    def of(cls, site: Site) -> _Line:
        """The statement in which a site stands; of an `elif`, the whole `if`."""
        unit, node = _node(site)
        current: cst.CSTNode | None = node
        while current is not None:
            parent = unit.concrete.parents.get(current)
            if isinstance(current, cst.SimpleStatementSuite):
                raise _Refused
            if isinstance(current, _STATEMENT) and not (isinstance(current, cst.If) and isinstance(parent, cst.If)):
                return cls.at(unit, current)
            current = parent
        raise _Refused

    @classmethod
    def at(cls, unit: Slice, node: cst.CSTNode) -> _Line:
        if isinstance(node, cst.SimpleStatementLine) and len(node.body) > 1:
            raise _Refused
        decorators = getattr(node, "decorators", ())
        span = unit.concrete.extent(decorators[0] if decorators else node, node)
        if span is None:
            raise _Refused
        indent = unit.line(span.row)[: span.column - 1]
        rest = unit.line(span.end_row)[span.end_column - 1 :].strip()
        if indent.strip() or (rest and not rest.startswith("#")):
            raise _Refused
        if unit.line(span.row - 1).rstrip("\r\n").endswith("\\") and span.row > unit.first_line:
            raise _Refused
        return cls(unit, node, span.row, span.end_row, indent)

    @property
    def newline(self) -> str:
        line = self.unit.line(self.row)
        return line[len(line.rstrip("\r\n")) :] or self.unit.newline

    def lines(self, text: str) -> str:
        """Some lines with the indentation and the line ending of this statement."""
        return "".join(f"{self.indent}{line}{self.newline}" for line in text.strip("\n").split("\n"))

    def deletion(self) -> _Piece:
        block = self.unit.concrete.parents.get(self.node)
        if isinstance(block, cst.IndentedBlock) and len(block.body) == 1:
            raise _Refused
        last = self.unit.line(self.end_row)
        if last.rstrip("\r\n") != last:
            return _Piece(Span(self.row, 1, self.end_row + 1, 1), (1, 0), "")
        return _Piece(Span(self.row, 1, self.end_row, len(last) + 1), (1, 0), "")


def _function_top(change: Change) -> _Piece:
    unit, node = _node(change.site)
    if not isinstance(node, cst.FunctionDef) or not isinstance(node.body, cst.IndentedBlock):
        raise _Refused
    first = node.body.body[0]
    documented = isinstance(first, cst.SimpleStatementLine) and node.get_docstring(clean=False) is not None
    line = _Line.at(unit, first)
    if not documented:
        return _insertion(line.row, line.lines(change.before))
    last = unit.line(line.end_row)
    if last.rstrip("\r\n") != last:
        return _insertion(line.end_row + 1, line.lines(change.before))
    end = len(last) + 1
    text = line.newline + line.lines(change.before).removesuffix(line.newline)
    return _Piece(Span(line.end_row, end, line.end_row, end), (1, 0), text)


def _decoration(change: Change) -> _Piece:
    """A decorator, next to the function: beneath those that it has."""
    unit, node = _node(change.site)
    if not isinstance(node, cst.FunctionDef):
        raise _Refused
    line = _Line.at(unit, node)
    span = unit.concrete.extent(node.name, node.name)
    if span is None:
        raise _Refused
    return _insertion(span.row, line.lines(change.before))


def _move(moved: _Line, target: _Line) -> list[_Piece]:
    """The lines of one statement put in front of another, in the indentation of that."""
    if moved.unit is target.unit and moved.row <= target.row <= moved.end_row:
        raise _Refused
    lines = [moved.unit.line(row) for row in range(moved.row, moved.end_row + 1)]
    if moved.indent != target.indent:
        if len(lines) > 1:
            raise _Refused
        lines[0] = target.indent + lines[0][len(moved.indent) :]
    if lines[-1].rstrip("\r\n") == lines[-1]:
        lines[-1] += moved.newline
    return [moved.deletion(), _insertion(target.row, "".join(lines))]


# -- edits to text ----------------------------------------------------------------------------------------------------


def _is_empty(span: Span) -> bool:
    return (span.row, span.column) == (span.end_row, span.end_column)


def _conflict(one: Edit, other: Edit) -> bool:
    """Whether two edits cannot both be made as they are."""
    first, second = sorted((one.span, other.span))
    if first == second:
        return True
    end, start = (first.end_row, first.end_column), (second.row, second.column)
    return start < end


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text after these edits. Of two that overlap the later one is left out."""
    starts = line_starts(text)

    def offset(row: int, column: int) -> int:
        if row > len(starts):
            return len(text)
        end = starts[row] if row < len(starts) else len(text)
        return min(starts[row - 1] + column - 1, end)

    parts: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda edit: edit.span):
        begin = offset(edit.span.row, edit.span.column)
        if begin >= done:
            parts += (text[done:begin], edit.content)
            done = max(begin, offset(edit.span.end_row, edit.span.end_column))
    parts.append(text[done:])
    return "".join(parts)


def apply_fixes(text: str, fixes: Sequence[Fix]) -> tuple[str, int]:
    """The text after as many of these fixes as go together, and how many; it can still be parsed."""
    if not fixes or not _parses(text):
        return text, 0
    chosen: list[Fix] = []
    edits: dict[Edit, None] = {}
    for fix in fixes:
        # A line that another fix inserts already is not inserted again; nor is a fix made twice.
        same = all(edit in edits for edit in fix.edits)
        new = [edit for edit in fix.edits if edit not in edits or not (same or edit.content.endswith(("\n", "\r")))]
        if fix.edits and not any(_conflict(edit, other) for edit in new for other in edits):
            chosen.append(fix)
            edits.update(dict.fromkeys(new))
    result = apply_edits(text, edits)
    if _parses(result):
        return result, len(chosen)
    count = 0
    kept: dict[Edit, None] = {}
    for fix in chosen:
        attempt = kept | dict.fromkeys(fix.edits)
        if _parses(apply_edits(text, attempt)):
            kept, count = attempt, count + 1
    return apply_edits(text, kept), count


def _parses(text: str) -> bool:
    try:
        parse(text)
    except SourceError:
        return False
    return True
