"""A list of objects in the shape that ruff's users already parse; rows and columns from 1, columns in code points."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.finding import Finding, Fix, Span


def render(findings: Iterable[Finding]) -> str:
    return json.dumps([as_dict(finding) for finding in findings], indent=2) + "\n"


def as_dict(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "message": finding.message,
        "filename": finding.filename,
        **_range(finding.span),
        "url": rule_address(finding.code),
        "fix": None if finding.fix is None else _fix(finding.fix),
        "trace": [
            {
                "message": step.message,
                "filename": step.filename,
                "location": _range(step.span)["location"],
                **_cell(step.cell),
            }
            for step in finding.trace
        ],
        "cell": finding.cell,
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "applicability": "safe" if fix.safe else "unsafe",
        "message": fix.message,
        "edits": [{"content": edit.content, **_range(edit.span), **_cell(edit.cell)} for edit in fix.edits],
    }


def _cell(cell: int | None) -> dict[str, int]:
    """Edits and steps in a notebook say in which cell they are: it need not be that of the finding."""
    return {} if cell is None else {"cell": cell}


def _range(span: Span) -> dict[str, dict[str, int]]:
    return {
        "location": {"row": span.row, "column": span.column},
        "end_location": {"row": span.end_row, "column": span.end_column},
    }
