"""`--add-noqa`: a `# noqa` comment for each finding, on its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flake8_gradtrap import files
from flake8_gradtrap.config import NOT_ANALYSED
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.fixes import apply_edits
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.programs import Programs
from flake8_gradtrap.report import Sources
from flake8_gradtrap.source import SourceError, decode, parse


@dataclass(frozen=True, slots=True)
class Silenced:
    """How many lines got a comment, and for what it was not possible, with the reason."""

    lines: int
    left: tuple[tuple[Finding, str], ...]


def silence(path: str, findings: Iterable[Finding]) -> Silenced:
    """Write the comments that hide these findings of one file. Nothing else in it changes."""
    left: list[tuple[Finding, str]] = []
    sources = Sources()
    programs, data = Programs(sources), sources.data(path)
    by_row: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.code == NOT_ANALYSED:
            left.append((finding, "what cannot be analysed cannot be hidden by a comment"))
        else:
            by_row.setdefault(programs.row(path, finding.span.row, finding.cell), []).append(finding)
    if data is None or not by_row:
        return Silenced(0, tuple(left))
    text = programs.text(path)
    done = 0
    # From the end, so that rows before stay where they are; one at a time, since two rows may share a comment.
    for row in sorted(by_row, reverse=True):
        comments = Noqa(text)
        codes = sorted({finding.code for finding in by_row[row] if not comments.hides(finding.code, row)})
        if not codes:
            continue
        edit = comments.comment(codes, row)
        new = text if edit is None else apply_edits(text, (edit,))
        if not all(Noqa(new).hides(code, row) for code in codes) or not _same(text, new):
            left += [(finding, "no comment can stand there") for finding in by_row[row]]
            continue
        text, done = new, done + 1
    if done:
        notebook = programs.notebook(path) if is_notebook(path) else None
        new_data = notebook.write(text) if notebook is not None else text.encode(decode(data)[1])
        files.replace_file(path, data, new_data)
    return Silenced(done, tuple(left))


def _same(text: str, new: str) -> bool:
    """Whether the program is still the same."""
    import ast

    try:
        return ast.dump(parse(text)) == ast.dump(parse(new))
    except SourceError:
        return False
