"""Texts as the protocol counts them: lines from 0, characters in units of UTF-8, UTF-16 or UTF-32.

The engine counts rows and columns from 1, in code points, and does not count a byte order mark. For both, lines end at
\\n, \\r\\n and \\r, and nowhere else: not at a form feed, not at U+2028.
"""

from __future__ import annotations

from bisect import bisect_right
from difflib import SequenceMatcher

from lsprotocol import types

from flake8_gradtrap.finding import Edit, Span
from flake8_gradtrap.source import line_starts

_MARK = "\ufeff"


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


_UNITS = {"utf-8": _utf8, "utf-16": _utf16, "utf-32": len}


class Text:
    """The text of a document; it never changes, an edit makes another one."""

    def __init__(self, content: str, encoding: str = "utf-16") -> None:
        self.content = content
        self.source = content.removeprefix(_MARK)
        """The text as the engine reads it."""
        self._encoding = encoding
        self._units = _UNITS[encoding]
        self._starts = line_starts(content)
        self._mark = len(content) - len(self.source)

    def line(self, row: int) -> str:
        """A row (from 1) without its end; empty where there is none."""
        if not 0 < row <= len(self._starts):
            return ""
        end = self._starts[row] if row < len(self._starts) else len(self.content)
        return self.content[self._starts[row - 1] : end].rstrip("\r\n")

    # -- to the client ------------------------------------------------------------------------------------------------

    def position(self, row: int, column: int) -> types.Position:
        """Where the engine says that something is; where there is no such place, the nearest one before it."""
        if row > len(self._starts):
            row, column = len(self._starts), len(self.content) + 1
        line = self.line(row)
        before = line[: column - 1 + (self._mark if row == 1 else 0)]
        return types.Position(row - 1, len(before) if before.isascii() else self._units(before))

    def range(self, span: Span) -> types.Range:
        return types.Range(self.position(span.row, span.column), self.position(span.end_row, span.end_column))

    def edit(self, edit: Edit) -> types.TextEdit:
        return types.TextEdit(self.range(edit.span), edit.content)

    def edits_to(self, new: str) -> list[types.TextEdit]:
        """The edits that make the engine's text another one: only of lines that differ, and what differs in them."""
        return [self.edit(edit) for edit in differences(self.source, new)]

    # -- from the client ----------------------------------------------------------------------------------------------

    def offset(self, position: types.Position) -> int:
        """Where in the text a position lies: at the end of its line if it is too long, of the text if there is none."""
        if position.line >= len(self._starts):
            return len(self.content)
        line = self.line(position.line + 1)
        return self._starts[position.line] + self._points(line, position.character)

    def _points(self, line: str, units: int) -> int:
        """How many code points of a line make so many units."""
        if line.isascii() or self._encoding == "utf-32":
            return min(units, len(line))
        points = 0
        for character in line:
            units -= self._units(character)
            if units < 0:
                break
            points += 1
        return points

    def changed(self, change: types.TextDocumentContentChangeEvent) -> Text:
        """The text after an edit by the client."""
        if isinstance(change, types.TextDocumentContentChangeWholeDocument):
            return Text(change.text, self._encoding)
        start, end = self.offset(change.range.start), self.offset(change.range.end)
        return Text(self.content[:start] + change.text + self.content[max(start, end) :], self._encoding)


def differences(old: str, new: str) -> list[Edit]:
    """The edits that make one text of another."""
    edits: list[Edit] = []
    starts = line_starts(old)
    ends = [*starts[1:], len(old)]
    new_starts = line_starts(new)
    new_ends = [*new_starts[1:], len(new)]
    before = [old[start:end] for start, end in zip(starts, ends, strict=True)]
    after = [new[start:end] for start, end in zip(new_starts, new_ends, strict=True)]
    for tag, first, last, new_first, new_last in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        removed, added = "".join(before[first:last]), "".join(after[new_first:new_last])
        same = _common(removed, added)
        tail = _common(removed[same:][::-1], added[same:][::-1])
        start = (starts[first] if first < len(starts) else len(old)) + same
        span = Span(*_place(starts, start), *_place(starts, start + len(removed) - same - tail))
        edits.append(Edit(span, added[same : len(added) - tail]))
    return edits


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike; never half of a line end."""
    number = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    around = slice(max(number - 1, 0), number + 1)
    return number - 1 if {one[around], other[around]} & {"\r\n", "\n\r"} else number


def _place(starts: list[int], offset: int) -> tuple[int, int]:
    row = bisect_right(starts, offset)
    return row, offset - starts[row - 1] + 1
