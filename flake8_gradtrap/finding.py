"""What gradtrap reports: a finding with its trace and, where there is one, its fix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A range in a file: rows and columns from 1, columns in code points, the end exclusive."""

    row: int
    column: int
    end_row: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a trace: what happened, and where."""

    message: str
    filename: str
    span: Span
    cell: int | None = None
    """In a notebook, the cell in which the span lies."""


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace the text between two places by `content`; an insertion has an empty span."""

    span: Span
    content: str
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits of one file that remove the trap. `safe`: the program keeps its meaning, but for the trap."""

    message: str
    edits: tuple[Edit, ...]
    safe: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """A trap at one place, with the events that lead to it, the earliest first."""

    code: str
    name: str
    message: str
    filename: str
    span: Span
    trace: tuple[Step, ...] = ()
    fix: Fix | None = None
    severity: str = "warning"
    preview: bool = False
    """True where the finding itself is off by default, whatever its rule's default is."""
    cell: int | None = None
    """In a notebook, the cell in which `span` lies, from 1; in a percent script the cell, and `span` in the file."""

    def sort_key(self) -> tuple[str, int, int, int, str]:
        return (self.filename, self.cell or 0, self.span.row, self.span.column, self.code)
