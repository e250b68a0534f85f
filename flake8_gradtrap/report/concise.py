"""One line a finding: `path:row:column: CODE message [name]`."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.report import Style, message_of, printable


def render(findings: Iterable[Finding], style: Style) -> str:
    return "".join(f"{headline(finding, style)}\n" for finding in findings)


def headline(finding: Finding, style: Style) -> str:
    colon = style.cyan(":")
    place = colon.join((style.bold(printable(finding.filename)), str(finding.span.row), str(finding.span.column)))
    return f"{place}{colon} {style.red(finding.code)} {message_of(finding)} [{finding.name}]"
