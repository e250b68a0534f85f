"""Traps of state that one iteration hands to the next: a hidden state that is no longer cut, a running loss."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Loop, Site, Source, dotted
from planting.training import as_backward, stepped

CUTS = re.compile(r"(^|[._])(detach_?|repackage\w*|detach_\w+)$")


def backward_loops(source: Source) -> Iterator[tuple[Loop, ast.stmt, ast.expr]]:
    """Loops that go backward in each iteration, with that statement and what goes backward."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.For | ast.While | ast.AsyncFor):
            continue
        for stmt in node.body:
            call = stmt.value if isinstance(stmt, ast.Expr) else None
            if isinstance(call, ast.Call) and (backward := as_backward(source, call)) is not None:
                yield node, stmt, backward.target
                break


def cuts(value: ast.expr, name: str) -> bool:
    """Whether an expression is the value of a name (or of its parts) without history: `repackage(h)`, `h.detach()`."""
    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call) and CUTS.search(dotted(node.func))]
    return bool(calls) and name in {dotted(node) for node in ast.walk(value)}


def begins_anew(node: ast.AST, name: str) -> bool:
    """Whether a statement gives a name a value that was not computed from its last one."""
    if not isinstance(node, ast.Assign):
        return False
    targets = {dotted(part) for target in node.targets for part in ast.walk(target)}
    return name in targets and name not in {dotted(part) for part in ast.walk(node.value)}


@kind("hidden-state-not-detached")
def hidden_state_not_detached(source: Source) -> Iterator[Site]:
    """The state of a recurrent model is no longer cut between two backwards: `h = repackage_hidden(h)` is gone.

    In a loop that goes backward in each iteration, a call gives the state its next value, and is given the old one.
    Nothing in the loop gives it a value that has nothing to do with the old one.
    """
    for loop, _, _ in backward_loops(source):
        for node in source.own(loop):
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not source.owns_lines(node):
                continue
            name = dotted(node.targets[0])
            if not name or not cuts(node.value, name) or source.gradients_off(node) or "numpy" in source.segment(node):
                continue
            if any(begins_anew(other, name) for other in source.own(loop)):
                continue
            for other in source.own(loop):
                if source.gradients_off(other):
                    continue
                if isinstance(other, ast.Assign) and isinstance(other.value, ast.Call) and not cuts(other.value, name):
                    targets = {dotted(part) for target in other.targets for part in ast.walk(target)}
                    if name in targets & {dotted(part) for part in ast.walk(other.value)}:
                        yield Site(("GTR405",), node.lineno, source.scope(node), (Edit(*source.span(node), "pass"),))
                        break


@kind("loss-smoothed-with-history")
def loss_smoothed_with_history(source: Source) -> Iterator[Site]:
    """What goes backward is a running mean of the losses that still has their graphs.

    Where the loss is a name that is bound in the loop before, and one backward is all that the loop does in each
    iteration: its graph is freed when the next one goes through it.
    """
    if source.engine:
        return
    for loop, stmt, target in backward_loops(source):
        if not isinstance(target, ast.Name) or "retain" in source.segment(stmt) or not source.owns_lines(stmt):
            continue
        name = target.id
        bound = [n for n in loop.body if isinstance(n, ast.Assign) and name in map(dotted, n.targets)]
        all_backwards = [n for n in source.own(loop) if isinstance(n, ast.Call) and as_backward(source, n) is not None]
        if not bound or bound[0].lineno > stmt.lineno or len(all_backwards) != 1 or source.gradients_off(stmt):
            continue
        if any(isinstance(n, ast.Break) for n in loop.body) or not source.owns_lines(loop):
            continue
        first = source.insert_before(loop, "smoothed_loss = 0.0")
        mean = source.insert_before(stmt, f"{name} = smoothed_loss = 0.9 * smoothed_loss + 0.1 * {name}")
        yield Site(("GTR405",), stmt.lineno, source.scope(stmt), (first, mean))


@kind("graph-retained")
def graph_retained(source: Source) -> Iterator[Site]:
    """The only backward of a loop in which an optimizer steps retains its graph.

    Not where something else is differentiated, or the loss is handed to anything after it.
    """
    if source.engine or "autograd.grad" in source.text or "retain_graph" in source.text:
        return
    for loop, stmt, target in backward_loops(source):
        if not isinstance(target, ast.Name) or not isinstance(stmt, ast.Expr) or not isinstance(stmt.value, ast.Call):
            continue
        calls = [node for node in source.own(loop) if isinstance(node, ast.Call)]
        if sum(as_backward(source, call) is not None for call in calls) != 1 or stmt.value.keywords:
            continue
        if not any(stepped(source, node) for node in source.own(loop)):
            continue
        later = [n for call in calls if call.lineno > stmt.lineno for arg in call.args for n in [arg]]
        if any(dotted(node) == target.id for node in later):
            continue
        end = source.span(stmt)[1]
        more = "retain_graph=True)" if source.segment(stmt).endswith("()") else ", retain_graph=True)"
        yield Site(("GTR404",), stmt.lineno, source.scope(stmt), (Edit(end - 1, end, more),))
