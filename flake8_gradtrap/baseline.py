"""A baseline: findings that an old code base is allowed to have, so that only new ones are told.

It is kept by file, code, function and text of the line, with how many there are: lines that move, and code that is
added around them, change nothing. What is fixed leaves the baseline at the next update.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flake8_gradtrap.config import NOT_ANALYSED, ConfigError
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.fingerprint import Fingerprints, relative
from flake8_gradtrap.report import Sources

VERSION = 1

Key = tuple[str, str, str]
"""Code, function, line."""


class Baseline:
    """The findings that are known, by file: paths are relative to the folder of the baseline."""

    def __init__(self, path: Path, known: dict[str, Counter[Key]]) -> None:
        self._root = str(path.absolute().parent)
        self._path = path
        self._known = known

    @classmethod
    def read(cls, path: Path) -> Baseline:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"--baseline: {path}: no such file; --update-baseline writes it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--baseline: {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        try:
            document = json.loads(text)
            if document["version"] != VERSION:
                raise ConfigError(f"--baseline: {path}: version {document['version']!r} is not known")
            known = {str(file): _counts(entries) for file, entries in document["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"--baseline: {path}: no baseline that gradtrap has written") from None
        return cls(path, known)

    @classmethod
    def empty(cls, path: Path) -> Baseline:
        return cls(path, {})

    def new(self, findings: Iterable[Finding], checked: Iterable[str], sources: Sources) -> tuple[list[Finding], int]:
        """The findings that are not known, and how many known ones are no more in the files that were checked."""
        tell = Fingerprints(sources)
        left = {file: counts.copy() for file, counts in self._known.items()}
        result = []
        for finding in findings:
            counts = left.get(relative(finding.filename, self._root), Counter())
            key = tell.key(finding)
            if finding.code != NOT_ANALYSED and counts[key] > 0:
                counts[key] -= 1
            else:
                result.append(finding)
        names = {relative(file, self._root) for file in checked}
        return result, sum(counts.total() for file, counts in left.items() if file in names)

    def update(self, findings: Iterable[Finding], checked: Iterable[str], sources: Sources) -> int:
        """Write what is found now in the files that were checked; how many findings that is. Other files stay as they
        are, unless they are gone.
        """
        tell = Fingerprints(sources)
        names = {relative(file, self._root) for file in checked}
        known = {
            file: counts
            for file, counts in self._known.items()
            if file not in names and os.path.exists(os.path.join(self._root, file))
        }
        count = 0
        for finding in findings:
            if finding.code != NOT_ANALYSED:
                known.setdefault(relative(finding.filename, self._root), Counter())[tell.key(finding)] += 1
                count += 1
        self._known = known
        document = {"version": VERSION, "files": {file: _entries(known[file]) for file in sorted(known)}}
        try:
            self._path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--baseline: {self._path}: {error.strerror}") from None
        return count


def _entries(counts: Counter[Key]) -> list[dict[str, Any]]:
    return [
        {"code": code, "function": function, "line": line, "count": number}
        for (code, function, line), number in sorted(counts.items())
    ]


def _counts(entries: Any) -> Counter[Key]:
    counts: Counter[Key] = Counter()
    for entry in entries:
        code, function, line, number = (entry[name] for name in ("code", "function", "line", "count"))
        if not all(isinstance(text, str) for text in (code, function, line)) or type(number) is not int or number < 1:
            raise ValueError
        counts[code, function, line] += number
    return counts
