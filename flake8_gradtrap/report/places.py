"""Places for programs which show files as they lie on disk: lines of a notebook are lines of its JSON there."""

from __future__ import annotations

import os
from urllib.parse import quote

from flake8_gradtrap.finding import Span
from flake8_gradtrap.fingerprint import relative
from flake8_gradtrap.programs import Programs


def on_disk(path: str, span: Span, cell: int | None, programs: Programs) -> tuple[int, int | None, int, int | None]:
    """First row, column, last row, end column; in a notebook the rows in the file, and no columns."""
    if (first := programs.file_row(path, span.row, cell)) is None:
        return span.row, span.column, span.end_row, span.end_column
    return first, None, programs.file_row(path, span.end_row, cell) or first, None


def in_cell(row: int, cell: int | None) -> str:
    """What a message says in addition of a place in a notebook or a percent script."""
    return "" if cell is None else f" (cell {cell}, line {row})"


def uri(path: str) -> tuple[str, bool]:
    """The address of a file, and whether it is relative to the current folder."""
    short = relative(path)
    spelt = quote(short.encode("utf-8", "surrogateescape"))
    if os.path.isabs(short):
        return f"file://{'' if spelt.startswith('/') else '/'}{spelt}", False
    return spelt, True
