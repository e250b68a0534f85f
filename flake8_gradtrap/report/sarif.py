"""SARIF 2.1.0: findings with their traces as code flows, fingerprints that survive moved lines, and fixes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from flake8_gradtrap import __version__
from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.finding import Edit, Finding, Span
from flake8_gradtrap.fingerprint import Fingerprints
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.programs import Programs
from flake8_gradtrap.report import Sources, message_of, printable
from flake8_gradtrap.report.places import in_cell, on_disk, uri

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def render(findings: Sequence[Finding], sources: Sources) -> str:
    programs = Programs(sources)
    codes = sorted({finding.code for finding in findings})
    hashes = Fingerprints(sources).hashes(findings)
    results = [
        _result(finding, codes.index(finding.code), digest, programs)
        for finding, digest in zip(findings, hashes, strict=True)
    ]
    run = {
        "tool": {"driver": {"name": "gradtrap", "version": __version__, "rules": [_rule(code) for code in codes]}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(code: str) -> dict[str, Any]:
    from flake8_gradtrap.pages import page
    from flake8_gradtrap.rule import all_rules

    rule = all_rules().get(code)
    if rule is None:
        return {"id": code}
    text = page(rule)
    described: dict[str, Any] = {
        "id": code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": f"{rule.summary}."},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": _LEVELS.get(rule.severity, "warning"), "enabled": rule.default},
        "properties": {"tags": ["correctness", "pytorch"], "precision": "high" if rule.default else "medium"},
    }
    address = rule_address(code)
    if address is not None and not address.startswith("file:"):
        described["helpUri"] = address
    return described


def _result(finding: Finding, index: int, digest: str, programs: Programs) -> dict[str, Any]:
    text = message_of(finding) + in_cell(finding.span.row, finding.cell)
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS.get(finding.severity, "warning"),
        "message": {"text": text},
        "locations": [_location(finding.filename, finding.span, finding.cell, programs)],
        "partialFingerprints": {"gradtrap/v1": digest},
    }
    if finding.trace:
        steps = [
            {
                "location": _location(step.filename, step.span, step.cell, programs)
                | {"message": {"text": printable(step.message) + in_cell(step.span.row, step.cell)}},
                "importance": "essential",
            }
            for step in finding.trace
        ]
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    # What would be replaced in a notebook is JSON, and no longer what the fix speaks of.
    if finding.fix is not None and not is_notebook(finding.filename):
        result["fixes"] = [_fix(finding.filename, finding.fix.message, finding.fix.edits)]
    if finding.cell is not None:
        result["properties"] = {"cell": finding.cell}
    return result


def _artifact(path: str) -> dict[str, str]:
    address, inside = uri(path)
    return {"uri": address, "uriBaseId": "%SRCROOT%"} if inside else {"uri": address}


def _location(path: str, span: Span, cell: int | None, programs: Programs) -> dict[str, Any]:
    row, column, end_row, end_column = on_disk(path, span, cell, programs)
    region = {"startLine": row, "startColumn": column, "endLine": end_row, "endColumn": end_column}
    known = {key: value for key, value in region.items() if value is not None}
    return {"physicalLocation": {"artifactLocation": _artifact(path), "region": known}}


def _fix(path: str, message: str, edits: Iterable[Edit]) -> dict[str, Any]:
    replacements = []
    for edit in edits:
        span = edit.span
        region = {
            "startLine": span.row, "startColumn": span.column, "endLine": span.end_row, "endColumn": span.end_column,
        }  # fmt: skip
        replacements.append({"deletedRegion": region, "insertedContent": {"text": edit.content}})
    return {
        "description": {"text": printable(message) or "fix"},
        "artifactChanges": [{"artifactLocation": _artifact(path), "replacements": replacements}],
    }
