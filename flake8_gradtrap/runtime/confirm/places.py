"""Where things happen in the real run: places in the project's files, and the calls that lead to them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

from flake8_gradtrap.events import Site
from flake8_gradtrap.source import decode

_STATEMENT = (ast.stmt, ast.ExceptHandler, ast.match_case)


class Place(NamedTuple):
    """A range in a file; rows from 1, columns from 0 in bytes, as Python gives them."""

    file: str
    row: int
    column: int = 0
    end_row: int = 0
    end_column: int = 0

    @property
    def statement(self) -> tuple[str, int, int]:
        """The statement that it is part of, as a key."""
        return statement_of(self.file, self.row)


class Where:
    """Finds the site at which the program is: its frames in files of the project, the innermost last.

    Code objects are told apart by identity, since their hash takes long; those that were met are kept.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files = frozenset(files)
        self._ours: dict[int, CodeType | None] = {}
        """Code by its identity; None instead of code of the project."""
        self._kept: list[CodeType] = []
        self._sites: dict[tuple[int, ...], Site] = {}
        """By the code and the instruction of each frame, the innermost first."""
        self._asked: set[tuple[int, int]] = set()

    def _meet(self, code: CodeType) -> CodeType | None:
        self._kept.append(code)
        known = None if code.co_filename in self.files else code
        self._ours[id(code)] = known
        return known

    def frames(self, frame: FrameType | None) -> list[FrameType]:
        """The frames of the project, the innermost first."""
        found = []
        ours = self._ours
        while frame is not None:
            code = frame.f_code
            try:
                if ours[id(code)] is None:
                    found.append(frame)
            except KeyError:
                if self._meet(code) is None:
                    found.append(frame)
            frame = frame.f_back
        return found

    def site(self, frames: list[FrameType], place: Place | None = None) -> Site | None:
        """The site of the innermost frame; `place`: where in it, if that is known better."""
        if place is not None:
            return Site(place, self._site(frames[1:]) if len(frames) > 1 else None)
        return self._site(frames) if frames else None

    def _site(self, frames: list[FrameType]) -> Site:
        key = tuple([number for frame in frames for number in (id(frame.f_code), frame.f_lasti)])
        site = self._sites.get(key)
        if site is None:
            first = frames[0]
            caller = self._site(frames[1:]) if len(frames) > 1 else None
            site = self._sites[key] = Site(place_of(first.f_code, first.f_lasti), caller)
            self._asked.add(key[:2])  # type: ignore[arg-type]
        return site

    def fresh(self, frame: FrameType | None) -> bool:
        """Whether the innermost frame of the project is at a place that was never asked for; now it was."""
        ours = self._ours
        while frame is not None:
            if ours.get(id(frame.f_code), frame) is None:
                place = (id(frame.f_code), frame.f_lasti)
                if place in self._asked:
                    return False
                self._asked.add(place)
                return True
            frame = frame.f_back
        return False


def place_of(code: CodeType, instruction: int) -> Place:
    row, end_row, column, end_column = next(
        islice(code.co_positions(), instruction // 2, None), (None, None, None, None)
    )
    row = row or code.co_firstlineno
    return Place(code.co_filename, row, column or 0, end_row or row, end_column or 0)


def callers(site: Site) -> list[tuple[str, int]]:
    """The calls that led to a site, as (file, row)."""
    found = []
    while site.caller is not None:
        site = site.caller
        if isinstance(site.node, Place):
            found.append((site.node.file, site.node.row))
    return found


def here(depth: int = 1) -> FrameType:
    """The frame of the caller's caller."""
    return sys._getframe(depth + 1)


@lru_cache(maxsize=256)
def _text(file: str) -> tuple[bytes, ...]:
    try:
        return tuple(decode(Path(file).read_bytes())[0].encode().splitlines(keepends=True))
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=65536)
def source_of(place: Place) -> str:
    """The source of a place, on one line; "" if it cannot be read."""
    lines = _text(place.file)[place.row - 1 : place.end_row]
    if not lines or not place.end_column:
        return ""
    if len(lines) == 1:
        part = lines[0][place.column : place.end_column]
    else:
        part = b"".join((lines[0][place.column :], *lines[1:-1], lines[-1][: place.end_column]))
    return " ".join(part.decode("utf-8", "replace").split())


@lru_cache(maxsize=65536)
def receiver(place: Place) -> str:
    """What a method is called on at the place of its call: `optimizer` of `optimizer.step()`; "" if that is no name."""
    try:
        node = ast.parse(source_of(place).strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func.value)
    return ""


@lru_cache(maxsize=65536)
def argument(place: Place, number: int = 0) -> str:
    """The source of an argument of the call at a place; "" if there is none."""
    try:
        node = ast.parse(source_of(place).strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    if isinstance(node, ast.Call) and len(node.args) > number:
        return ast.unparse(node.args[number])
    return ""


class Statements:
    """Which statement of a file a row belongs to: a finding and an event agree if they are of the same one.

    Of a compound statement only its head counts (`for …:`), decorators included.
    """

    def __init__(self, tree: ast.AST) -> None:
        self._of: dict[int, tuple[int, int]] = {}
        for node in ast.walk(tree):
            if isinstance(node, _STATEMENT) and hasattr(node, "lineno"):
                first, last = node.lineno, _head_end(node)
                for decorator in getattr(node, "decorator_list", ()):
                    first = min(first, decorator.lineno)
                for row in range(first, last + 1):
                    known = self._of.get(row)
                    if known is None or last - first <= known[1] - known[0]:
                        self._of[row] = (first, last)

    def rows(self, row: int) -> tuple[int, int]:
        return self._of.get(row, (row, row))


def _head_end(node: ast.AST) -> int:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        inner = body[0]
        first: int = min(one.lineno for one in (inner, *getattr(inner, "decorator_list", ())))
        return max(getattr(node, "lineno", 0), first - 1)
    last = getattr(node, "end_lineno", None) or getattr(node, "lineno", 0)
    return int(last or 0)


@lru_cache(maxsize=256)
def statements(file: str) -> Statements:
    try:
        return Statements(ast.parse(Path(file).read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return Statements(ast.Module(body=[], type_ignores=[]))


def statement_of(file: str, row: int) -> tuple[str, int, int]:
    """The statement of a row, as a key."""
    return (file, *statements(file).rows(row))
