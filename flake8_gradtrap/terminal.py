"""What the terminal can show: colours, characters, numbers, and how far long work has come."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_PLAIN = str.maketrans(
    {
        "…": "...", "→": "->", "←": "<-", "×": "x", "·": "-", "—": "-", "–": "-", "‖": "||", "≥": ">=", "≤": "<=",
        "≠": "!=", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{REPLACEMENT CHARACTER}": "?", "√": "sqrt", "∇": "grad ",
    }
)  # fmt: skip


def colour(err: bool = False) -> bool:
    """Whether to write in colour: on a terminal only, and where nobody asked not to."""
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(text: str, err: bool = False) -> str:
    """The text as the stream can show it: signs that it lacks are spelt with those that it has."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN)
    except LookupError:
        pass
    return text


def number(value: float) -> str:
    """Short, without hiding a small value: 4 significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


PATIENCE = 1.0
"""After so many seconds it is told how far the work has come."""
OFTEN = 0.1


class Progress:
    """A line on standard error that says how many are done; on a terminal only, and only if it takes a while."""

    def __init__(self, what: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._clock = clock
        self._begun = self._told = clock()
        self._width = 0
        self._shows = self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if not self._shows or now - self._begun < PATIENCE or now - self._told < OFTEN:
            return
        self._told = now
        text = f"[{'#' * (20 * done // max(total, 1)):.<20}] {done}/{total} {self._what}"
        self._write(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text:{self._width}}")
        self._stream.flush()
        self._width = len(text)
