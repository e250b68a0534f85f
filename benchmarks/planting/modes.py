"""Traps of gradients of gradients, of the gradient mode and of the training mode."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Site, Source, dotted


def bound_names(stmt: ast.stmt) -> list[str]:
    """The names that an assignment binds."""
    if not isinstance(stmt, ast.Assign):
        return []
    return [node.id for target in stmt.targets for node in ast.walk(target) if isinstance(node, ast.Name)]


@kind("create-graph-dropped")
def create_graph_dropped(source: Source) -> Iterator[Site]:
    """A gradient penalty loses `create_graph=True`: its value stays right, and it trains nothing.

    The gradients have a name of their own, of which the same function takes a norm or a square, and which then goes
    backward here or leaves a function that calls itself a penalty.
    """
    for call in source.calls:
        if not re.search(r"(^|\.|_)grad$", dotted(call.func)) or "backward" in dotted(call.func):
            continue
        given = [word for word in call.keywords if word.arg == "create_graph"]
        if not given or not isinstance(given[0].value, ast.Constant) or given[0].value.value is not True:
            continue
        function, stmt = source.function(call), source.statement(call)
        names = bound_names(stmt)
        if function is None or not names or any(word.arg is None for word in call.keywords):
            continue
        text = "\n".join(ast.unparse(part) for part in function.body)
        used = "|".join(map(re.escape, names))
        if not re.search(rf"\b({used})\b[^\n]*(norm|pow\(2|\*\* ?2)|(norm|square)\([^\n]*\b({used})\b", text):
            continue
        called = [other for other in source.calls if dotted(other.func).rpartition(".")[2] == function.name]
        scopes = {source.scope(other) for other in called}
        trains = ".backward(" in text or any(
            ".backward(" in ast.unparse(source.scope_node(scope)) for scope in scopes if scope >= 0
        )
        if trains or ("penalty" in function.name and "return" in text):
            yield Site(
                ("GTR901",),
                call.lineno,
                source.scope(call),
                (Edit(*source.span(given[0].value), "False"),),
                tuple(scopes),
            )
