"""Findings as the editor shows them: diagnostics with exact ranges, and where the trace leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lsprotocol import types

from flake8_gradtrap.config import NOT_ANALYSED
from flake8_gradtrap.finding import Finding, Span, Step
from flake8_gradtrap.pages import address
from flake8_gradtrap.report import message_of, printable
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.server.documents import Document, Program
from flake8_gradtrap.server.text import Text

SOURCE = "gradtrap"
_SEVERITIES = {
    "error": types.DiagnosticSeverity.Error,
    "warning": types.DiagnosticSeverity.Warning,
    "info": types.DiagnosticSeverity.Information,
}


@dataclass(frozen=True)
class Shown:
    """A finding, where it is shown, and where it stands in the text of its program."""

    finding: Finding
    document: Document
    diagnostic: types.Diagnostic
    span: Span

    def touches(self, where: types.Range) -> bool:
        """Whether a range of its document overlaps it, or lies on its border."""
        mine = self.diagnostic.range
        return _key(where.start) <= _key(mine.end) and _key(mine.start) <= _key(where.end)


def _key(position: types.Position) -> tuple[int, int]:
    return position.line, position.character


class Findings:
    """What was found in a program at one of its versions."""

    def __init__(
        self,
        program: Program,
        findings: tuple[Finding, ...],
        consulted: frozenset[str],
        files: Callable[[str], tuple[str, Text]],
        related: bool,
    ) -> None:
        """`findings`: as the engine tells them; `consulted`: the files of the project that had a part in them. `files`:
        the address and the text of such a file. `related`: whether the editor shows where a trace leads.
        """
        self.program = program
        self.findings = findings
        self.consulted = consulted
        self.shown: list[Shown] = []
        for raw, finding in zip(findings, program.located(findings), strict=True):
            document = program.document(finding.cell if program.is_notebook else None)
            if document is not None:
                trace = _related(finding, program, files) if related else None
                self.shown.append(Shown(finding, document, _diagnostic(finding, document, trace), raw.span))

    def of(self, uri: str) -> list[Shown]:
        """Those in one document."""
        return [shown for shown in self.shown if shown.document.uri == uri]

    @property
    def parsed(self) -> bool:
        """Whether the program could be read."""
        return all(finding.code != NOT_ANALYSED for finding in self.findings)


def _diagnostic(
    finding: Finding, document: Document, related: list[types.DiagnosticRelatedInformation] | None
) -> types.Diagnostic:
    rule = all_rules().get(finding.code)
    link = address(rule) if rule is not None else None
    return types.Diagnostic(
        document.text.range(finding.span),
        message_of(finding),
        severity=_SEVERITIES.get(finding.severity, types.DiagnosticSeverity.Warning),
        code=finding.code,
        code_description=types.CodeDescription(link) if link is not None else None,
        source=SOURCE,
        tags=[types.DiagnosticTag.Unnecessary] if rule is not None and rule.unnecessary else None,
        related_information=related,
    )


def _related(
    finding: Finding, program: Program, files: Callable[[str], tuple[str, Text]]
) -> list[types.DiagnosticRelatedInformation]:
    found = []
    for step in finding.trace:
        uri, text = _place(step, finding, program, files)
        found.append(
            types.DiagnosticRelatedInformation(types.Location(uri, text.range(step.span)), printable(step.message))
        )
    return found


def _place(
    step: Step, finding: Finding, program: Program, files: Callable[[str], tuple[str, Text]]
) -> tuple[str, Text]:
    document = program.document(step.cell if program.is_notebook else None)
    if step.filename == finding.filename and document is not None:
        return document.uri, document.text
    return files(step.filename)


def by_document(findings: Findings) -> list[tuple[Document, list[types.Diagnostic]]]:
    """Each document of the program with its diagnostics, also if it has none."""
    return [(document, [one.diagnostic for one in findings.of(document.uri)]) for document in findings.program]


def unique_codes(shown: Iterable[Shown]) -> list[str]:
    return list(dict.fromkeys(one.finding.code for one in shown))
