"""Notebooks: the cells of an .ipynb as one program, and one program back into its cells.

`Cells` joins the sources of cells and tells places in the text from places in cells; it knows nothing of files, and
serves an editor's notebook documents as well. `Notebook` reads and writes .ipynb files. Cells count from 1, those
without code too, as Jupyter and ruff count them.

Magics and shell lines are no Python. They are read as a call of `get_ipython()`, which is what IPython makes of them,
with the line itself in a comment behind it, so that it can be put back.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flake8_gradtrap.finding import Edit, Finding, Span
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.source import SourceError, decode, line_starts

_MARK = "# %%gradtrap cell "
_MAGIC = "get_ipython()  # %%gradtrap line "
_MARKED = re.compile(rf"(?<![^\r\n]){re.escape(_MARK)}(\d+)\n")
_BACK = re.compile(rf"(?<![^\r\n])(?:[^\r\n]*{re.escape(_MAGIC)}|#%%gradtrap )")

_PYTHON_CELLS = frozenset(
    "capture debug ipytest prun pypy python python3 time timeit memit mprun snakeviz scalene".split()
)
"""Cell magics (`%%time`) behind which stands Python."""
_AUTOMAGIC = re.compile(r"(?:pip3?|conda|mamba|uv|cd|ls|cat|mkdir|rm|cp|mv|time|timeit|run|load_ext|matplotlib)\s+\S")
"""Lines that IPython takes for a magic without a sign in front."""
_SUSPECT = re.compile(
    r"[%!?]|^\s*(?:[,;/]|(?:pip|conda|mamba|uv|cd|ls|cat|mkdir|rm|cp|mv|time|run|load|matplotlib)\w*\s)", re.MULTILINE
)
"""What a source contains that has lines which are no Python."""
_HELP = re.compile(r"[\w.*%]+(?:\[[^\]]*\])?\?{1,2}\s*(?:#.*)?$")
_CAPTURED = re.compile(r"""([^=#'"!%\r\n]+)=\s*[%!](?!=)""")
_TOKEN = re.compile(r"""(?P<quote>'''|\"""|'|")|#[^\r\n]*|[\[\](){}]|\\(?:\r\n?|\n)|\r\n?|\n""")
_END_OF = {quote: re.compile(rf"(?:[^\\{quote}\r\n]|\\(?:\r\n|[\s\S]))*+{quote}") for quote in "'\""}
_END_OF |= {
    quote * 3: re.compile(rf"(?:[^\\{quote}]|\\[\s\S]|{quote}(?!{quote}{quote}))*+{quote * 3}") for quote in "'\""
}
"""By what opens a string: the rest of it."""
_LINE = re.compile(r"\bline (\d+)\b")
"""How messages name another line."""
_PERCENT = re.compile(r"^# ?%%(?:[ \t\r\n]|$)", re.MULTILINE)
_HEADER = re.compile(r"(?:#[^\n]*\n)*?# ---[ \t\r]*\n(?:#[^\n]*\n)*?# ---[ \t\r]*\n")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with code: its number among all cells, from 1, and its source."""

    number: int
    source: str


class Cells:
    """Cells as one text, in their order, each behind a comment that names it."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = [cell for cell in cells if _is_python(cell.source)]
        self._sources = {cell.number: cell.source for cell in self._cells}
        parts: list[str] = []
        self._rows: list[int] = []
        """The row of the comment in front of each cell."""
        row = 1
        for cell in self._cells:
            source = readable(cell.source)
            if not source.endswith(("\n", "\r")):
                source += "\n"
            self._rows.append(row)
            row += len(line_starts(source))
            parts += (f"{_MARK}{cell.number}\n", source)
        self.text = "".join(parts)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells)

    def place(self, row: int) -> tuple[int, int]:
        """The cell in which a row of the text lies, and the row in that cell."""
        at = bisect_right(self._rows, row) - 1
        if at < 0:
            return (1, 1)
        return self._cells[at].number, max(row - self._rows[at], 1)

    def row(self, number: int, row: int) -> int | None:
        """The row of the text in which a row of a cell lies; None if the text does not hold that cell."""
        starts = (start for start, cell in zip(self._rows, self._cells, strict=True) if cell.number == number)
        return next((start + row for start in starts), None)

    def sources(self, text: str) -> dict[int, str]:
        """The sources of the cells in a text that was made of this one by edits; magics stand there as they were."""
        pieces = _MARKED.split(text)
        numbers = [int(number) for number in pieces[1::2]]
        if pieces[0] or numbers != [cell.number for cell in self._cells]:
            raise SourceError("the edits cross the border of a cell")
        result: dict[int, str] = {}
        for number, piece in zip(numbers, pieces[2::2], strict=True):
            old = self._sources[number]
            new = _original(piece)
            if not old.endswith(("\n", "\r")):
                new = new.removesuffix("\n").removesuffix("\r")
            result[number] = new
        return result

    def located(self, finding: Finding) -> Finding:
        """A finding of the text with places in cells: those of its own, of its fix, and in its trace."""
        cell, span = self._in_cell(finding.span)
        elsewhere = {step.span.row for step in finding.trace if step.filename != finding.filename}

        def said(match: re.Match[str]) -> str:
            if int(match[1]) in elsewhere:
                return match[0]
            number, row = self.place(int(match[1]))
            return f"line {row}" if number == cell else f"line {row} of cell {number}"

        steps = []
        for step in finding.trace:
            inside, where = self._in_cell(step.span)
            message = _LINE.sub(said, step.message)
            own = step.filename == finding.filename
            steps.append(replace(step, message=message, span=where, cell=inside) if own else step)
        fix = finding.fix
        if fix is not None:
            edits = tuple(self._edit_in_cell(edit) for edit in fix.edits)
            fix = replace(fix, message=_LINE.sub(said, fix.message), edits=edits)
        message = _LINE.sub(said, finding.message)
        return replace(finding, message=message, span=span, cell=cell, trace=tuple(steps), fix=fix)

    def _in_cell(self, span: Span) -> tuple[int, Span]:
        cell, row = self.place(span.row)
        end_cell, end_row = self.place(span.end_row)
        if end_cell != cell:
            # The lines of a cell end where the next begins.
            return cell, Span(row, span.column, row + max(span.end_row - span.row, 0), span.end_column)
        return cell, Span(row, span.column, end_row, span.end_column)

    def _edit_in_cell(self, edit: Edit) -> Edit:
        cell, span = self._in_cell(edit.span)
        return replace(edit, span=span, cell=cell, content=_original(edit.content))


def percent_cell(text: str, row: int) -> int | None:
    """The cell of a jupytext percent script in which a row lies; None if the text is no such script."""
    marks = [match.start() for match in _PERCENT.finditer(text)]
    if not marks:
        return None
    header = _HEADER.match(text)
    first = text[header.end() if header else 0 : marks[0]].strip()
    starts = line_starts(text)
    before = bisect_right(marks, starts[min(row, len(starts)) - 1])
    return max(before + (1 if first else 0), 1)


# -- magics -----------------------------------------------------------------------------------------------------------


def _is_python(source: str) -> bool:
    """Whether a cell holds Python, and not what a `%%magic` at its top makes of it."""
    match = re.match(r"\s*%%(\w+)", source)
    return match is None or match[1] in _PYTHON_CELLS


def readable(source: str) -> str:
    """The source of a cell, line by line, with calls in the place of magics, shell lines and requests for help."""
    if not _SUSPECT.search(source):
        return source
    parts: list[str] = []
    at, size = 0, len(source)
    while at < size:
        # Here a statement begins.
        end = _line_end(source, at)
        line = source[at:end]
        if (call := _call(line)) is not None:
            while line.rstrip("\r\n").endswith("\\") and end < size:
                parts.append(_kept(line, call))
                call, at = None, end
                end = _line_end(source, at)
                line = source[at:end]
            parts.append(_kept(line, call))
            at = end
            continue
        end = _statement_end(source, at)
        parts.append(source[at:end])
        at = end
    return "".join(parts)


def _line_end(source: str, at: int) -> int:
    match = re.compile(r"\r\n?|\n").search(source, at)
    return match.end() if match else len(source)


def _statement_end(source: str, at: int) -> int:
    """Where the line ends that begins here, with the lines that belong to it."""
    depth = 0
    while token := _TOKEN.search(source, at):
        at = token.end()
        text = token.group()
        if token["quote"]:
            closed = _END_OF[text].match(source, at)
            at = closed.end() if closed else len(source) if len(text) == 3 else at
        elif text in "([{":
            depth += 1
        elif text in ")]}":
            depth = max(depth - 1, 0)
        elif text[0] in "\r\n" and not depth:
            return at
    return len(source)


def _call(line: str) -> str | None:
    """What stands for a line that is no Python; None for any other."""
    text = line.strip()
    indent = line[: len(line) - len(line.lstrip())]
    if text.startswith(("%", "!", "?", ",", ";", "/")) or _HELP.match(text):
        return f"{indent}{_MAGIC}"
    if captured := _CAPTURED.match(text):
        return f"{indent}{captured[1]}= {_MAGIC}"
    return f"{indent}{_MAGIC}" if _AUTOMAGIC.match(text) and not _parses(text) else None


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _kept(line: str, call: str | None) -> str:
    """A line that is no Python, behind what stands for it; the lines that continue it are comments."""
    return f"{call}{line}" if call is not None else f"#%%gradtrap {line}"


def _original(text: str) -> str:
    return _BACK.sub("", text)


# -- files ------------------------------------------------------------------------------------------------------------


def text_of(data: bytes, path: str) -> str:
    """The program in a file: its text, or the cells of a notebook as one text."""
    return Notebook(data).cells.text if is_notebook(path) else decode(data)[0]


def located(findings: Iterable[Finding], data: bytes, path: str) -> list[Finding]:
    """The findings of a file, with the cells in which they lie."""
    found = list(findings)
    try:
        if found and is_notebook(path):
            cells = Notebook(data).cells
            return [cells.located(finding) for finding in found]
        if found and b"%%" in data:
            text = decode(data)[0]
            return [replace(finding, cell=percent_cell(text, finding.span.row)) for finding in found]
    except (SourceError, RecursionError):
        pass
    return found


class Notebook:
    """An .ipynb file. Raises SourceError if it cannot be read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            self._text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(f"the notebook is not UTF-8: {error.reason}") from None
        self._mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
        self._places: dict[int, tuple[int, int]] = {}
        """By the number of a cell: where its source stands in the file."""
        self.cells = Cells(self._read() if self._text.strip() else ())

    def _read(self) -> list[Cell]:
        try:
            document = json.loads(self._text)
        except json.JSONDecodeError as error:
            raise SourceError(f"the notebook is no valid JSON: {error.msg}", error.lineno, error.colno) from None
        except RecursionError:
            raise SourceError("the notebook is nested too deeply") from None
        if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
            old = isinstance(document, dict) and "worksheets" in document
            why = "is older than format 4: `jupyter nbconvert --to notebook` makes it new" if old else "has no cells"
            raise SourceError(f"the notebook {why}")
        if _language(document) != "python":
            return []
        places = _sources(self._text)
        result: list[Cell] = []
        for number, cell in enumerate(document["cells"], 1):
            if not isinstance(cell, dict) or cell.get("cell_type") != "code" or _language(cell) != "python":
                continue
            source = _joined(cell.get("source"))
            if source is None:
                raise SourceError(f"the source of cell {number} is no text")
            self._places[number] = places[number - 1]
            result.append(Cell(number, source))
        return result

    def file_row(self, number: int, row: int) -> int:
        """The row of the file in which a row of a cell stands; if the source is one string, that of the string."""
        start, end = self._places.get(number, (0, 0))
        if self._text[start:end].startswith("["):
            lines = 1
            for at in _items(self._text, start):
                start = at
                lines += _DECODER.raw_decode(self._text, at)[0].count("\n")
                if lines > row:
                    break
        return self._text.count("\n", 0, start) + 1

    def write(self, text: str) -> bytes:
        """The file after edits of the text of its cells; nothing else in it changes."""
        sources = self.cells.sources(text)
        result = self._text
        for cell in reversed(list(self.cells)):
            if sources[cell.number] != cell.source:
                start, end = self._places[cell.number]
                result = result[:start] + self._literal(result[start:end], sources[cell.number]) + result[end:]
        return self._mark + result.encode("utf-8")

    def _literal(self, old: str, source: str) -> str:
        """A source as JSON, in the form that the old one has: lines that stay are not even spelled anew."""
        ascii_only = self._text.isascii()
        if not old.startswith("["):
            return json.dumps(source, ensure_ascii=ascii_only)
        starts = line_starts(source)
        lines = [source[a:b] for a, b in zip(starts, [*starts[1:], len(source)], strict=True) if a < b]
        before, between, after, known = _list_form(old)
        spelt = between.join(known.get(line) or json.dumps(line, ensure_ascii=ascii_only) for line in lines)
        return f"[{before}{spelt}{after}]"


def _joined(source: Any) -> str | None:
    if isinstance(source, str):
        return source
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    return None


def _language(part: Mapping[str, Any]) -> str:
    """The language of a notebook or a cell; Python where nothing else is said."""
    metadata = part.get("metadata")
    if isinstance(metadata, dict):
        for holder, key in (("kernelspec", "language"), ("language_info", "name"), ("vscode", "languageId")):
            inner = metadata.get(holder)
            if isinstance(inner, dict) and isinstance(inner.get(key), str):
                return str(inner[key]).lower()
    return "python"


_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def _sources(text: str) -> list[tuple[int, int]]:
    """Where the source of each cell stands in the text of a notebook that is known to be one."""
    found: list[tuple[int, int]] = []
    for key, start, _ in _members(text, _skip(text, 0)):
        if key == "cells":
            found = []
            for cell in _items(text, start):
                spans = [(at, end) for name, at, end in _members(text, cell) if name == "source"]
                found.append(spans[-1] if spans else (cell, cell))
    return found


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """The keys of the object that begins here, with the extent of their values."""
    if text[at] != "{":
        return
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        yield key, start, at
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _items(text: str, at: int) -> Iterator[int]:
    """Where the items of the list that begins here begin."""
    at = _skip(text, at + 1)
    while text[at] != "]":
        yield at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _list_form(literal: str) -> tuple[str, str, str, dict[str, str]]:
    """Of a list of strings: the blanks before the first, what separates two, the blanks at the end, and the spelling
    of each.
    """
    known: dict[str, str] = {}
    places: list[tuple[int, int]] = []
    for start in _items(literal, 0):
        value, end = _DECODER.raw_decode(literal, start)
        known[value] = literal[start:end]
        places.append((start, end))
    if not places:
        return "", ", ", "", known
    before, after = literal[1 : places[0][0]], literal[places[-1][1] : -1]
    between = literal[places[0][1] : places[1][0]] if len(places) > 1 else f",{before}" if before else ", "
    return before, between, after, known
