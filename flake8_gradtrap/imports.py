"""Imports that a fix needs: whether a file has them, and where one is added."""

from __future__ import annotations

import ast

from flake8_gradtrap.finding import Edit, Span
from flake8_gradtrap.source import SourceFile


def needed_import(source: SourceFile, module: str) -> Edit | None:
    """The edit that binds a module's name at the top of a file, an empty one where the name is bound already.

    None where that cannot be done: the name stands for something else somewhere, or there is no line for it.
    """
    bound = _bound(source.tree, module)
    if bound is not None:
        return Edit(Span(1, 1, 1, 1), "") if bound else None
    body = source.tree.body
    behind = [node for node in body if not _is_leading(node, body)]
    imports = [node for node in behind if isinstance(node, ast.Import | ast.ImportFrom)]
    kin = [node for node in imports if any(name.split(".")[0] == module for name in _modules(node))]
    target = next(iter(kin or imports or behind), None)
    if target is None:
        return None
    row = min([target.lineno, *(part.lineno for part in getattr(target, "decorator_list", ()))])
    above = source.text_of(row - 1, row - 1).rstrip("\r\n") if row > 1 else ""
    shared = any(node is not target and node.lineno <= row <= _end(node) for node in body)
    if shared or above.endswith("\\") or source.text_of(row, row)[:1].isspace():
        return None
    return Edit(Span(row, 1, row, 1), f"import {module}{source.newline}")


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _is_leading(node: ast.stmt, body: list[ast.stmt]) -> bool:
    """What has to stay in front: the docstring and `from __future__ import …`."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return node is body[0] and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def _bound(tree: ast.Module, name: str) -> bool | None:
    """Whether a name is bound to the module of that name by a statement at top level; None: it is bound nowhere."""
    found: bool | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == name:
                    own = alias.asname is None or alias.name == name
                    found = own and node in tree.body and found is not False
        elif name in _names(node):
            return False
    return found


def _names(node: ast.AST) -> tuple[str | None, ...]:
    """The names that a piece of syntax binds, imports of modules aside."""
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.ImportFrom):
        return tuple(alias.asname or alias.name for alias in node.names)
    if isinstance(node, ast.arg):
        return (node.arg,)
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return (node.name,)
    return tuple(node.names) if isinstance(node, ast.Global | ast.Nonlocal) else ()
