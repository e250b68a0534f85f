"""`# noqa` comments, in flake8's syntax and with flake8's reach."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable
from functools import cached_property

from flake8_gradtrap.finding import Edit, Span

_CODE = "[A-Z]+[0-9]+"
_ON_LINE = re.compile(rf"# noqa(?::\s?(?P<codes>{_CODE}(?:[,\s]+{_CODE})*))?", re.IGNORECASE)
_ON_FILE = re.compile(
    rf"^[^\S\n]*# flake8[:=]\s*noqa(?::\s?(?P<codes>{_CODE}(?:[,\s]+{_CODE})*))?", re.IGNORECASE | re.MULTILINE
)


class Noqa:
    """The `# noqa` comments of one file.

    As in flake8, a comment counts for its physical line, and for every line of a multi-line string or of a line
    continued by a backslash that it ends. `# flake8: noqa` hides the whole file; with codes, these codes in it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._mentioned = re.search("noqa", text, re.IGNORECASE) is not None

    def hides(self, code: str, row: int) -> bool:
        """Whether a finding with this code in this row (from 1) is hidden."""
        if not self._mentioned:
            return False
        return any(code.startswith(prefix) for prefix in self._in_file) or any(
            match["codes"] is None or code.startswith(_codes(match)) for match in _ON_LINE.finditer(self._line(row))
        )

    def comment(self, codes: Iterable[str], row: int) -> Edit | None:
        """The edit that hides these codes in this row (from 1); None where no comment can stand.

        A comment that hides other codes already gets these ones as well.
        """
        if not 0 < row <= len(self._lines):
            return None
        last = self._last.get(row, row)
        line = self._lines[last - 1].rstrip()
        if line.endswith("\\"):
            return None
        match = next((match for match in _ON_LINE.finditer(line) if match["codes"]), None)
        if match is not None:
            at, text = match.end("codes"), "".join(f",{code}" for code in codes)
        else:
            at, text = len(line), f"  # noqa: {','.join(codes)}"
        return Edit(Span(last, at + 1, last, at + 1), text)

    @cached_property
    def _in_file(self) -> tuple[str, ...]:
        """The prefixes that are hidden in the whole file; an empty one hides all."""
        found = _ON_FILE.finditer("".join(self._lines))
        return tuple(prefix for match in found for prefix in (_codes(match) if match["codes"] else ("",)))

    @cached_property
    def _lines(self) -> list[str]:
        return list(io.StringIO(self._text, newline=None))

    def _line(self, row: int) -> str:
        if row in self._joined:
            return self._joined[row]
        return self._lines[row - 1] if 0 < row <= len(self._lines) else ""

    @cached_property
    def _joined(self) -> dict[int, str]:
        """The rows that are read together with others, with the text of all of them."""
        rows: dict[int, list[int]] = {}
        for row, last in self._last.items():
            rows.setdefault(last, []).append(row)
        texts = {last: "".join(self._lines[min(group) - 1 : last]) for last, group in rows.items()}
        return {row: texts[last] for row, last in self._last.items()}

    @cached_property
    def _last(self) -> dict[int, int]:
        """The rows that are read together with others, with the last of them."""
        joined: dict[int, int] = {}
        lines = iter(self._lines)
        first = last = 0
        try:
            for token in tokenize.generate_tokens(lambda: next(lines, "")):
                if token.type in (tokenize.ENDMARKER, tokenize.DEDENT):
                    continue
                first, last = min(first or token.start[0], token.start[0]), max(last, token.end[0])
                if token.type in (tokenize.NL, tokenize.NEWLINE):
                    if last > first:
                        joined.update(dict.fromkeys(range(first, last + 1), last))
                    first = last = 0
        except (tokenize.TokenError, SyntaxError):
            return {}
        return joined


def _codes(match: re.Match[str]) -> tuple[str, ...]:
    return tuple(re.split(r"[,\s]+", match["codes"].upper()))
