"""How verdicts are shown: a table, JSON, SARIF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flake8_gradtrap import __version__
from flake8_gradtrap.report import count
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.runtime.confirm.running import Outcome
from flake8_gradtrap.runtime.confirm.verdicts import CONFIRMED, INCONCLUSIVE, NOT_REACHED, REFUTED, Verdict

_STYLE = {CONFIRMED: "bold red", REFUTED: "green", INCONCLUSIVE: "yellow", NOT_REACHED: "dim"}


def shown(file: str) -> str:
    """A path as short as it can be."""
    near = os.path.relpath(file)
    return file if near.startswith("..") else near


def where(outcome: Outcome) -> str:
    evidence = outcome.evidence
    parts = [count(evidence.steps, "optimizer step")]
    if evidence.recorded < evidence.steps:
        parts.append(f"{evidence.recorded:,} of them recorded")
    parts += [evidence.device, f"torch {evidence.torch or '?'}"]
    if outcome.ranks > 1:
        parts.append(count(outcome.ranks, "rank"))
    return ", ".join(parts)


def ended(outcome: Outcome) -> str:
    """Why the run ended, in words; "" at its own end."""
    stopped = outcome.evidence.stopped
    if stopped == "steps":
        return "stopped after the steps that were asked for"
    if stopped == "timeout":
        return "stopped: its time was up"
    return f"the program ended with {stopped}" if stopped else ""


def hits(verdict: Verdict) -> str:
    if not verdict.hits:
        return ""
    if verdict.verdict == CONFIRMED:
        return f"{verdict.trapped:,} of {count(verdict.hits, 'hit')}"
    return count(verdict.hits, "hit")


def table(outcome: Outcome) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table(title=where(outcome), title_justify="left", box=None, pad_edge=False, header_style="bold")
    made.add_column("verdict", no_wrap=True)
    made.add_column("rule", no_wrap=True)
    made.add_column("where", overflow="fold")
    made.add_column("what the run says", overflow="fold")
    made.add_column("hits", justify="right", no_wrap=True)
    for verdict in sorted(outcome.verdicts, key=lambda one: (one.file, one.row, one.code)):
        only = "" if verdict.found else " (seen only at run time)"
        made.add_row(
            Text(verdict.verdict, _STYLE[verdict.verdict]),
            Text(verdict.code),
            Text(f"{shown(verdict.file)}:{verdict.row}"),
            Text(f"{verdict.said}{only}"),
            Text(hits(verdict)),
        )
    return made


def as_json(outcome: Outcome) -> dict[str, Any]:
    evidence = outcome.evidence
    return {
        "device": evidence.device,
        "torch": evidence.torch,
        "python": evidence.python,
        "gradtrap": __version__,
        "ranks": outcome.ranks,
        "steps": evidence.steps,
        "recorded": evidence.recorded,
        "seconds": round(evidence.seconds, 3),
        "stopped": evidence.stopped or None,
        "failed": evidence.failed,
        "problem": outcome.problem or None,
        "notes": evidence.notes,
        "events": evidence.events,
        "verdicts": [
            {
                "verdict": one.verdict,
                "code": one.code,
                "name": one.name,
                "filename": one.file,
                "location": {"row": one.row, "column": one.column},
                "message": one.message,
                "evidence": one.said,
                "hits": one.hits,
                "trapped": one.trapped,
                "value": one.value if one.value is None or one.value == one.value else str(one.value),
                "unit": one.unit,
                "device": evidence.device,
                "torch": evidence.torch,
                "runtime_only": not one.found,
            }
            for one in outcome.verdicts
        ],
    }


def _measured(verdict: Verdict, outcome: Outcome) -> str:
    """On what a claim rests."""
    return ", ".join(part for part in (hits(verdict), where(outcome)) if part)


_LEVEL = {CONFIRMED: "error", INCONCLUSIVE: "warning", NOT_REACHED: "note", REFUTED: "none"}
_KIND = {CONFIRMED: "fail", INCONCLUSIVE: "open", NOT_REACHED: "notApplicable", REFUTED: "pass"}


def as_sarif(outcome: Outcome) -> dict[str, Any]:
    codes = sorted({one.code for one in outcome.verdicts})
    rules = all_rules()
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gradtrap confirm",
                        "version": __version__,
                        "informationUri": "https://pypi.org/project/flake8-gradtrap/",
                        "rules": [
                            {
                                "id": code,
                                "name": rules[code].name,
                                "shortDescription": {"text": rules[code].summary},
                            }
                            for code in codes
                            if code in rules
                        ],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": not outcome.evidence.failed,
                        "properties": {"where": where(outcome), "steps": outcome.evidence.steps},
                    }
                ],
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, outcome) for one in outcome.verdicts],
            }
        ],
    }


def _result(verdict: Verdict, outcome: Outcome) -> dict[str, Any]:
    kind = _KIND[verdict.verdict]
    return {
        "ruleId": verdict.code,
        "level": _LEVEL[verdict.verdict] if kind == "fail" else "none",
        "kind": kind,
        "message": {"text": f"{verdict.verdict}: {verdict.said} ({_measured(verdict, outcome)}). {verdict.message}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": Path(shown(verdict.file)).as_posix()},
                    "region": {"startLine": verdict.row, "startColumn": verdict.column},
                }
            }
        ],
        "properties": {
            "verdict": verdict.verdict,
            "evidence": verdict.said,
            "hits": verdict.hits,
            "trapped": verdict.trapped,
            "value": verdict.value if verdict.value is None or verdict.value == verdict.value else None,
            "unit": verdict.unit,
            "device": outcome.evidence.device,
            "torch": outcome.evidence.torch,
            "runtimeOnly": not verdict.found,
        },
    }
