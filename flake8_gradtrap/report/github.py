"""Workflow commands, which GitHub Actions shows as annotations: `::warning file=…,line=…::message`."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.fingerprint import relative
from flake8_gradtrap.programs import Programs
from flake8_gradtrap.report import Sources, message_of, place, printable
from flake8_gradtrap.report.places import on_disk


def render(findings: Iterable[Finding], sources: Sources) -> str:
    programs = Programs(sources)
    return "".join(f"{_command(finding, programs)}\n" for finding in findings)


def _command(finding: Finding, programs: Programs) -> str:
    row, column, end_row, end_column = on_disk(finding.filename, finding.span, finding.cell, programs)
    level = {"error": "error", "info": "notice"}.get(finding.severity, "warning")
    parts = {
        "title": f"gradtrap ({finding.code})",
        "file": printable(relative(finding.filename)),
        "line": row,
        "endLine": end_row,
    }
    if column is not None and end_column is not None and end_row == row:  # columns are for one line
        parts |= {"col": column, "endColumn": end_column}
    said = ",".join(f"{key}={_escape(str(value), ':,')}" for key, value in parts.items())
    where = ":".join(place(finding.filename, finding.span, finding.cell))
    return f"::{level} {said}::{_escape(f'{where}: {finding.code} {message_of(finding)}')}"


def _escape(text: str, more: str = "") -> str:
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{more}" else char for char in text)
