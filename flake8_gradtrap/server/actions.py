"""What the editor offers to do about findings: quick fixes, fixing everything on save, and `# noqa`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lsprotocol import types

from flake8_gradtrap.batch import applicable, fix_text
from flake8_gradtrap.config import NOT_ANALYSED
from flake8_gradtrap.finding import Edit, Finding
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.server.diagnostics import SOURCE, Findings, Shown, unique_codes
from flake8_gradtrap.server.documents import Document

FIX_ALL = f"{types.CodeActionKind.SourceFixAll.value}.{SOURCE}"
FIX_ALL_OF_NOTEBOOK = f"notebook.{FIX_ALL}"
"""What Visual Studio Code asks for when a notebook is saved."""

Changes = Sequence[tuple[Document, list[types.TextEdit]]]


def wanted(kind: str, only: Sequence[types.CodeActionKind | str] | None) -> bool:
    """Whether the editor asked for actions of a kind, or for a kind that holds it."""
    if only is None:
        return True
    asked = (str(getattr(one, "value", one)) for one in only)
    return any(kind == one or kind.startswith(f"{one}.") or not one for one in asked)


def workspace_edit(changes: Changes, versioned: bool) -> types.WorkspaceEdit:
    """`versioned`: the editor refuses edits of another version than this."""
    if not versioned:
        return types.WorkspaceEdit(changes={document.uri: edits for document, edits in changes})
    return types.WorkspaceEdit(
        document_changes=[
            types.TextDocumentEdit(
                types.OptionalVersionedTextDocumentIdentifier(document.uri, document.version), list(edits)
            )
            for document, edits in changes
        ]
    )


def quick_fixes(
    findings: Findings, chosen: Sequence[Shown], unsafe: bool, given: Iterable[types.Diagnostic], versioned: bool
) -> list[types.CodeAction]:
    """What can be done about these findings. `given`: the diagnostics that the editor asks about."""
    known = list(given)
    actions: list[types.CodeAction] = []

    def add(title: str, changes: Changes, about: Iterable[Shown], preferred: bool = False) -> None:
        if changes:
            edit = workspace_edit(changes, versioned)
            diagnostics = _same(known, about)
            kind = types.CodeActionKind.QuickFix
            actions.append(types.CodeAction(title, kind, diagnostics, is_preferred=preferred or None, edit=edit))

    for shown in chosen:
        fix = shown.finding.fix
        if fix is not None:
            changed = "" if fix.safe else " (may change what the program does)"
            changes = _edits(findings, fix.edits)
            add(f"{shown.finding.code}: {fix.message}{changed}", changes, [shown], preferred=fix.safe)
    for code in unique_codes(chosen):
        same = [shown for shown in findings.shown if shown.finding.code == code]
        fixable = [shown.finding for shown in same if applicable(shown.finding, unsafe)]
        if len(fixable) > 1 and any(applicable(shown.finding, unsafe) for shown in chosen):
            about = [shown for shown in chosen if shown.finding.code == code]
            add(f"Fix all {code} in this file", once(findings, code, unsafe), about)
    everything = [shown for shown in findings.shown if applicable(shown.finding, unsafe)]
    if len(unique_codes(everything)) > 1 and any(shown in everything for shown in chosen):
        add("Fix all gradtrap findings in this file", once(findings, None, unsafe), chosen)
    for shown in {one.finding.code: one for one in chosen if one.finding.code != NOT_ANALYSED}.values():
        edit = Noqa(findings.program.text).comment([shown.finding.code], shown.span.row)
        if edit is not None:
            add(
                f"Ignore {shown.finding.code} on this line (# noqa)",
                _edits(findings, [findings.program.in_cell(edit)]),
                [one for one in chosen if one.finding.code == shown.finding.code],
            )
    return actions


def _same(given: Iterable[types.Diagnostic], about: Iterable[Shown]) -> list[types.Diagnostic]:
    """The editor's own diagnostics of these findings; ours where it gave none."""
    found = []
    for shown in about:
        mine = shown.diagnostic
        found.append(next((one for one in given if (one.code, one.range) == (mine.code, mine.range)), mine))
    return found


def _edits(findings: Findings, edits: Iterable[Edit]) -> Changes:
    """Edits of cells, or of the document, by document; nothing if one of them has no place."""
    found: dict[str, tuple[Document, list[types.TextEdit]]] = {}
    for edit in edits:
        document = findings.program.document(edit.cell)
        if document is None:
            return []
        found.setdefault(document.uri, (document, []))[1].append(document.text.edit(edit))
    return list(found.values())


def once(findings: Findings, code: str | None, unsafe: bool) -> Changes:
    """The edits of as many fixes as go together, of one rule or of all."""
    from flake8_gradtrap.fixes import apply_fixes

    fixes = [
        finding.fix
        for finding in findings.findings
        if finding.fix is not None and applicable(finding, unsafe) and code in (None, finding.code)
    ]
    return findings.program.changes(apply_fixes(findings.program.text, fixes)[0])


def fix_all(findings: Findings, unsafe: bool, check: Callable[[str], tuple[Finding, ...]]) -> Changes:
    """The edits after which nothing is left to fix. `check`: what is found in another text of the program."""
    fixed = fix_text(findings.program.text, findings.findings, check, unsafe)
    return findings.program.changes(fixed.text)
