"""Each finding with its source under carets, its trace as numbered steps, and its fix; a count at the end."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.report import Sources, Style, count, is_trap, place, printable
from flake8_gradtrap.report.concise import headline

WIDTH = 160
"""Longer source lines are cut around what is pointed at."""
ROWS = 6
"""A longer finding shows its first rows."""
TAB = "    "


def render(findings: Sequence[Finding], sources: Sources, style: Style, unsafe: bool = False) -> str:
    blocks = ["".join(f"{line}\n" for line in block(finding, sources, style)) for finding in findings]
    return "\n".join([*blocks, summary(findings, unsafe)])


def summary(findings: Sequence[Finding], unsafe: bool = False) -> str:
    traps = [finding for finding in findings if is_trap(finding)]
    fixes = [finding.fix for finding in findings if finding.fix is not None]
    safe = sum(1 for fix in fixes if fix.safe or unsafe)
    notes = [f"{safe} fixable with --fix"] if safe else []
    if len(fixes) > safe:
        notes.append(f"{len(fixes) - safe} {'more' if safe else 'fixable'} with --fix --unsafe-fixes")
    text = f"Found {count(len(traps), 'trap')}" if findings else "No traps found"
    if notes:
        text += f" ({', '.join(notes)})"
    if len(findings) > len(traps):
        text += f"; {count(len(findings) - len(traps), 'place')} could not be analysed"
    return f"{text}.\n"


def block(finding: Finding, sources: Sources, style: Style) -> Iterator[str]:
    """The lines that show a finding."""
    yield headline(finding, style)
    span = finding.span
    last = min(max(span.row, span.end_row), span.row + ROWS - 1)
    gutter = len(str(last))
    bar = style.blue("|")
    lines = [(row, sources.line(finding.filename, row, finding.cell)) for row in range(span.row, last + 1)]
    if any(line.strip() for _, line in lines):
        yield f"{' ' * gutter} {bar}"
        for row, line in lines:
            text, carets = underline(line, *_columns(span, row, line))
            yield f"{style.blue(f'{row:>{gutter}}')} {bar} {text}"
            if carets:
                yield f"{' ' * gutter} {bar} {style.red(carets)}"
        if span.end_row > last:
            yield f"{' ' * gutter} {bar} {style.faint('...')}"
        yield f"{' ' * gutter} {bar}"
    for number, step in enumerate(finding.trace, 1):
        where = style.bold(":".join(place(step.filename, step.span, step.cell, column=False)))
        yield f"{number:>{gutter + 2}}. {where}: {printable(step.message)}"
        text, _ = underline(sources.line(step.filename, step.span.row, step.cell).strip(), 1, 1)
        if text:
            yield f"{' ' * (gutter + 4)}{bar} {text}"
    if finding.fix is not None:
        how = "--fix" if finding.fix.safe else "--fix --unsafe-fixes"
        what = f": {printable(finding.fix.message)}" if finding.fix.message else ""
        yield f"{' ' * gutter} {style.cyan('help')}: fix available with {how}{what}"


def _columns(span: Span, row: int, line: str) -> tuple[int, int]:
    """The part of a span that lies in a row: the first column and the one after the last."""
    indent = len(line) - len(line.lstrip())
    start = span.column if row == span.row else indent + 1
    end = span.end_column if row == span.end_row else len(line) + 1
    return start, max(end, start + 1 if row == span.row else start)


def underline(line: str, start: int, end: int) -> tuple[str, str]:
    """The line as it is printed, and the carets that stand under its columns from `start` to before `end`."""
    start, end = start - 1, max(end - 1, start - 1)
    if len(line) > WIDTH:
        first = max(0, min(start - WIDTH // 4, len(line) - WIDTH))
        cut_before, cut_after = first > 0, first + WIDTH < len(line)
        line = line[first : first + WIDTH]
        start, end = start - first, min(end - first, WIDTH)
        if cut_before:
            line, start, end = f"...{line}", start + 3, end + 3
        if cut_after:
            line += "..."
    before, marked = _shown(line[:start]), _shown(line[start:end])
    # What lies behind the end of the line still gets its caret.
    carets = _width(marked) + max(0, end - max(start, len(line)))
    return _shown(line).rstrip(), f"{' ' * _width(before)}{'^' * carets}" if end > start else ""


def _shown(text: str) -> str:
    return printable(text).replace("\t", TAB)


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
