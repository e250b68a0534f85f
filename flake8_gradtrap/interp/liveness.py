"""Which names are still read after a statement: paths that differ only in the others are the same path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from flake8_gradtrap.interp import ir

Names = frozenset[str]
_NONE: Names = frozenset()


@cache
def _children(kind: type[ir.Node]) -> tuple[str, ...]:
    return tuple(
        part.name for part in fields(kind) if part.name not in ("cst", "unit", "lower_body", "_body", "mentions")
    )


def reads(part: Any) -> set[str]:
    """Every name that an expression mentions (those that it binds itself included: they are few)."""
    found: set[str] = set()
    stack = [part]
    while stack:
        current = stack.pop()
        if isinstance(current, ir.Name):
            found.add(current.id)
        elif isinstance(current, ir.FunctionDef):
            found |= current.mentions
        elif isinstance(current, ir.Node):
            kind: Any = type(current)
            stack.extend(getattr(current, name) for name in _children(kind))
        elif isinstance(current, tuple):
            stack.extend(current)
    return found


def bound(target: ir.Expression) -> set[str]:
    """The names that a target binds."""
    if isinstance(target, ir.Name):
        return {target.id}
    if isinstance(target, ir.Sequence):
        return {name for part in target.elts for name in bound(part)}
    return bound(target.value) if isinstance(target, ir.Starred) else set()


@dataclass(frozen=True, slots=True)
class _Context:
    """Where control can go from inside: to the loop's head, behind the loop, into handlers."""

    head: Names = _NONE
    behind: Names = _NONE
    always: Names = _NONE


class Liveness:
    """For each statement of a body, the names that are read after it on some way."""

    def __init__(self, body: Iterable[ir.Statement], always: Names = _NONE) -> None:
        self.after: dict[int, Names] = {}
        self.head: dict[int, Names] = {}
        """For each loop, the names that its next iteration, or what follows it, reads."""
        self._block(tuple(body), _NONE, _Context(always=always))

    def _block(self, body: tuple[ir.Statement, ...], out: Names, context: _Context) -> Names:
        live = out | context.always
        for statement in reversed(body):
            self.after[id(statement)] = self.after.get(id(statement), _NONE) | live
            live = self._before(statement, live, context) | context.always
        return live

    def _before(self, node: ir.Statement, out: Names, context: _Context) -> Names:
        if isinstance(node, ir.Assign):
            killed = {name for target in node.targets for name in bound(target)}
            inner = {
                name for target in node.targets if not isinstance(target, ir.Name) for name in reads(target)
            } - killed
            return (out - killed) | reads(node.value) | inner
        if isinstance(node, ir.If):
            yes, no = self._block(node.body, out, context), self._block(node.orelse, out, context)
            return yes | no | reads(node.test)
        if isinstance(node, ir.For | ir.While):
            return self._loop(node, out, context)
        if isinstance(node, ir.With):
            inside = self._block(node.body, out, context)
            targets = {name for item in node.items if item.target is not None for name in bound(item.target)}
            return (
                (inside - targets)
                | reads(tuple(item.value for item in node.items))
                | reads(tuple(i.target for i in node.items if i.target))
            )
        if isinstance(node, ir.Try):
            final = self._block(node.final, out, context)
            handlers = final
            for handler in node.handlers:
                handlers |= self._block(handler.body, final, context)
            orelse = self._block(node.orelse, final, context)
            return (
                self._block(node.body, orelse | handlers, replace(context, always=context.always | handlers)) | handlers
            )
        if isinstance(node, ir.Match):
            inside = out
            for case in node.cases:
                inside |= self._block(case.body, out, context) | (
                    reads(case.guard) if case.guard is not None else set()
                )
            return inside | reads(node.subject)
        if isinstance(node, ir.Return):
            return frozenset(reads(node.value)) if node.value is not None else _NONE
        if isinstance(node, ir.Continue):
            return context.head
        if isinstance(node, ir.Break):
            return context.behind
        return out | reads(node)

    def _loop(self, node: ir.For | ir.While, out: Names, context: _Context) -> Names:
        behind = self._block(node.orelse, out, context) | out
        targets = bound(node.target) if isinstance(node, ir.For) else set()
        test = frozenset(reads(node.test)) if isinstance(node, ir.While) else _NONE
        head = behind | test
        for _ in range(2):
            inside = self._block(node.body, head, _Context(head, behind, context.always))
            head |= inside - targets
        self.head[id(node)] = self.head.get(id(node), _NONE) | head
        return head | (reads(node.iter) | (reads(node.target) - targets) if isinstance(node, ir.For) else _NONE)
