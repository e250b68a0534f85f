"""GitLab's code quality report: a list of objects, with paths below the root of the project."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.fingerprint import Fingerprints, relative
from flake8_gradtrap.programs import Programs
from flake8_gradtrap.report import Sources, message_of
from flake8_gradtrap.report.places import in_cell, on_disk

_SEVERITIES = {"error": "critical", "warning": "major", "info": "info"}


def render(findings: Sequence[Finding], sources: Sources) -> str:
    programs = Programs(sources)
    root = os.environ.get("CI_PROJECT_DIR", "")
    hashes = Fingerprints(sources).hashes(findings, root)
    report = [_issue(finding, digest, root, programs) for finding, digest in zip(findings, hashes, strict=True)]
    return json.dumps(report, indent=2) + "\n"


def _issue(finding: Finding, digest: str, root: str, programs: Programs) -> dict[str, Any]:
    row, column, end_row, end_column = on_disk(finding.filename, finding.span, finding.cell, programs)
    return {
        "description": f"{finding.code}: {message_of(finding)}{in_cell(finding.span.row, finding.cell)}",
        "check_name": finding.code,
        "fingerprint": digest,
        "severity": _SEVERITIES.get(finding.severity, "major"),
        "location": {
            "path": relative(finding.filename, root),
            "positions": {
                "begin": {"line": row, "column": column or 1},
                "end": {"line": end_row, "column": end_column or 1},
            },
        },
    }
