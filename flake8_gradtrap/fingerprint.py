"""What a finding is known by when its line has moved: its code, the text of its line, and the function around it."""

from __future__ import annotations

import ast
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.programs import Programs
from flake8_gradtrap.report import Sources
from flake8_gradtrap.source import SourceError, parse


def relative(path: str, root: str = "") -> str:
    """A path as it is written in files that travel: with slashes, below `root` (or the current folder) if it can be."""
    full, top = os.path.abspath(path), os.path.abspath(root or os.curdir)
    inside = full.startswith(os.path.join(top, ""))
    return PurePath(os.path.relpath(full, top) if inside else full).as_posix()


@dataclass(frozen=True, slots=True)
class _Scope:
    name: str
    first: int
    last: int


class Fingerprints:
    """Tells findings by what stays when lines are added or taken away around them."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._programs = Programs(sources)
        self._scopes: dict[str, list[_Scope]] = {}

    def key(self, finding: Finding) -> tuple[str, str, str]:
        """The code, the function, and the line without its indentation. Findings of the same trap have the same."""
        row = self._programs.row(finding.filename, finding.span.row, finding.cell)
        if finding.filename not in self._scopes:
            self._scopes[finding.filename] = _scopes(self._programs.text(finding.filename))
        around = [scope for scope in self._scopes[finding.filename] if scope.first <= row <= scope.last]
        inner = max(around, key=lambda scope: (scope.first, -scope.last), default=_Scope("", 0, 0))
        line = self._sources.line(finding.filename, finding.span.row, finding.cell)
        return finding.code, inner.name, " ".join(line.split())

    def hashes(self, findings: Iterable[Finding], root: str = "") -> list[str]:
        """One for each finding, no two alike: the second of two that look the same has a number."""
        seen: Counter[str] = Counter()
        result = []
        for finding in findings:
            words = "\0".join((relative(finding.filename, root), *self.key(finding)))
            digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            seen[digest] += 1
            result.append(f"{digest}:{seen[digest]}")
        return result


def _scopes(text: str) -> list[_Scope]:
    """The functions and classes of a program, with their dotted names and their lines."""
    found: list[_Scope] = []
    try:
        waiting: list[tuple[ast.AST, str]] = [(parse(text), "")]
    except SourceError:
        return []
    while waiting:
        node, name = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}".lstrip(".")
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.append(_Scope(name, first, node.end_lineno or node.lineno))
        waiting.extend((child, name) for child in ast.iter_child_nodes(node) if isinstance(child, _HOLDERS))
    return found


_HOLDERS = (ast.stmt, ast.excepthandler, ast.match_case)
"""The syntax in which statements stand."""
