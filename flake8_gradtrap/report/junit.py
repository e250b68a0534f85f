"""JUnit XML: a suite for each file with findings, a failed case for each finding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape, quoteattr

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.fingerprint import relative
from flake8_gradtrap.report import Sources, Style, is_trap, message_of, place, printable
from flake8_gradtrap.report.full import block


def render(findings: Sequence[Finding], sources: Sources) -> str:
    lines = ['<?xml version="1.0" encoding="utf-8"?>']
    failures = sum(is_trap(finding) for finding in findings)
    counts = f'tests="{len(findings) or 1}" failures="{failures}" errors="{len(findings) - failures}"'
    lines.append(f'<testsuites name="gradtrap" {counts}>')
    for name, group in groupby(findings, lambda finding: finding.filename):
        inside = list(group)
        failures = sum(is_trap(finding) for finding in inside)
        counts = f'tests="{len(inside)}" failures="{failures}" errors="{len(inside) - failures}"'
        lines.append(f"  <testsuite name={_quoted(relative(name))} {counts}>")
        for finding in inside:
            lines += _case(finding, sources)
        lines.append("  </testsuite>")
    if not findings:
        lines.append('  <testsuite name="gradtrap" tests="1" failures="0" errors="0">')
        lines.append('    <testcase name="no traps found" classname="gradtrap"/>')
        lines.append("  </testsuite>")
    lines.append("</testsuites>")
    # Any terminal and any file can hold this, whatever its encoding.
    return "\n".join(lines).encode("ascii", "xmlcharrefreplace").decode("ascii") + "\n"


def _case(finding: Finding, sources: Sources) -> list[str]:
    path, *inside = place(finding.filename, finding.span, finding.cell)
    kind = "failure" if is_trap(finding) else "error"
    name = f"{finding.code} {finding.name} at {':'.join(inside)}"
    text = escape(_legal("\n".join(printable(line) for line in block(finding, sources, Style()))))
    attributes = f"name={_quoted(name)} classname={_quoted(path)} file={_quoted(path)}"
    return [
        f'    <testcase {attributes} line="{finding.span.row}">',
        f"      <{kind} type={_quoted(finding.code)} message={_quoted(message_of(finding))}>{text}</{kind}>",
        "    </testcase>",
    ]


def _quoted(text: str) -> str:
    return quoteattr(_legal(printable(text)))


def _legal(text: str) -> str:
    """The text without what XML cannot hold, escaped or not."""
    return text.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd").replace("\t", " ")
