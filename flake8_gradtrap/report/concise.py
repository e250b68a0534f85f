"""One line a finding: `path:row:column: CODE message [name]`; in a notebook `path:cell 3:row:column: ...`."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.report import Style, message_of, place


def render(findings: Iterable[Finding], style: Style) -> str:
    return "".join(f"{headline(finding, style)}\n" for finding in findings)


def headline(finding: Finding, style: Style) -> str:
    colon = style.cyan(":")
    path, *inside = place(finding.filename, finding.span, finding.cell)
    where = colon.join((style.bold(path), *inside))
    # In a percent script rows are those of the file: the cell is said on the side.
    cell = f" (cell {finding.cell})" if finding.cell is not None and not is_notebook(finding.filename) else ""
    return f"{where}{colon} {style.red(finding.code)} {message_of(finding)} [{finding.name}]{cell}"
