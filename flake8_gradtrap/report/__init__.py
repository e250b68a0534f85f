"""Output formats: each module renders findings as text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from flake8_gradtrap.config import NOT_ANALYSED
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.kinds import is_notebook

FORMATS = ("full", "concise", "json", "sarif", "github", "gitlab", "junit")
FOR_PEOPLE = ("full", "concise", "github")
"""Formats that other lines may stand beside."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text on one line, without what could steer a terminal; as many characters as before."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def message_of(finding: Finding) -> str:
    """The message on one line."""
    return printable(" ".join(finding.message.split("\n")))


class Sources:
    """The lines of files, read when they are asked for. `given`: contents that are not, or not yet, on disk."""

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        self._given = given or {}
        self._files: dict[str, dict[int | None, list[str]]] = {}

    def line(self, path: str, row: int, cell: int | None = None) -> str:
        """A line, of a cell if the file is a notebook, without its end; empty where there is none."""
        if path not in self._files:
            self._files[path] = self._read(path)
        lines = self._files[path].get(cell if is_notebook(path) else None, [])
        return lines[row - 1].rstrip("\n") if 0 < row <= len(lines) else ""

    def data(self, path: str) -> bytes | None:
        """The content of a file; None if it cannot be read."""
        try:
            return self._given[path] if path in self._given else Path(path).read_bytes()
        except (OSError, ValueError):
            return None

    def _read(self, path: str) -> dict[int | None, list[str]]:
        from flake8_gradtrap.notebook import Notebook  # not needed where no line is shown
        from flake8_gradtrap.source import SourceError, decode

        if (data := self.data(path)) is None:
            return {}
        try:
            if is_notebook(path):
                return {cell.number: _lines(cell.source) for cell in Notebook(data).cells}
            text, _ = decode(data)
        except (SourceError, RecursionError):
            text = data.decode("latin-1")
        return {None: _lines(text)}


def _lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline=None))


def place(filename: str, span: Span, cell: int | None, column: bool = True) -> tuple[str, ...]:
    """The parts of `path:row:column`; in a notebook, of `path:cell 3:row:column`."""
    inside = (f"cell {cell}",) if cell is not None and is_notebook(filename) else ()
    return (printable(filename), *inside, str(span.row), *((str(span.column),) if column else ()))


class Style:
    """Colours, or none."""

    def __init__(self, colour: bool = False) -> None:
        self._colour = colour

    def _paint(self, codes: str, text: str) -> str:
        return f"\x1b[{codes}m{text}\x1b[0m" if self._colour and text else text

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def red(self, text: str) -> str:
        return self._paint("1;31", text)

    def blue(self, text: str) -> str:
        return self._paint("1;34", text)

    def cyan(self, text: str) -> str:
        return self._paint("36", text)

    def faint(self, text: str) -> str:
        return self._paint("2", text)


def render(format: str, findings: Sequence[Finding], sources: Sources, style: Style, unsafe: bool = False) -> str:
    """The findings in one of `FORMATS`. `unsafe`: unsafe fixes count as fixable."""
    # They build on what is above, and who wants one of them need not import the others.
    if format == "concise":
        from flake8_gradtrap.report import concise

        return concise.render(findings, style)
    if format == "json":
        from flake8_gradtrap.report import json

        return json.render(findings)
    if format in ("sarif", "github", "gitlab", "junit"):
        text: str = import_module(f"flake8_gradtrap.report.{format}").render(findings, sources)
        return text
    from flake8_gradtrap.report import full

    return full.render(findings, sources, style, unsafe)


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def is_trap(finding: Finding) -> bool:
    return finding.code != NOT_ANALYSED
