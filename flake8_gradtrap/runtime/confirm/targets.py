"""What is checked before a run: a script, and the files of its own project that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.finding import Finding

FILES = 200


@dataclass(frozen=True, slots=True)
class Target:
    """The program: its main file, and the module as which it is run ("" for a script)."""

    file: str
    module: str = ""


class NotFound(ValueError):
    """There is no such script or module."""


def find(script: str | None, module: str | None) -> Target:
    if module is not None:
        stem = Path.cwd().joinpath(*module.split("."))
        for path in (stem.with_name(stem.name + ".py"), stem / "__main__.py"):
            if path.is_file():
                return Target(str(path.resolve()), module)
        raise NotFound(f"-m {module}: no such module below {Path.cwd()}")
    path = Path(script or "")
    if not path.is_file():
        raise NotFound(f"{script}: no such file")
    return Target(str(path.resolve()))


def project_files(main: str) -> list[str]:
    """The main file, and what it imports of its own project, directly or not."""
    from flake8_gradtrap.interp.project import Project

    project = Project()
    found = {main: None}
    queue = [main]
    for file in queue:
        for dotted, level in _imports(file):
            module = project.find(dotted, level, file)
            if module is None:
                continue
            path = str(Path(module.path).resolve())
            if path not in found and len(found) < FILES:
                found[path] = None
                queue.append(path)
    return list(found)


def _imports(file: str) -> Iterator[tuple[str, int]]:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module, node.level
            for alias in node.names:
                yield (f"{module}.{alias.name}" if module else alias.name), node.level


def lint(files: list[str], configuration: Configuration) -> tuple[list[Finding], frozenset[str]]:
    """The findings in these files, and the rules that are on in any of them."""
    from flake8_gradtrap.rule import all_rules

    findings: list[Finding] = []
    rules: set[str] = set()
    for file in files:
        settings = configuration.for_file(file)
        findings += check_source(Path(file).read_bytes(), file, settings).findings
        rules |= settings.codes.enabled & set(all_rules())
    return findings, frozenset(rules)
