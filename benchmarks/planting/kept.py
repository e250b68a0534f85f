"""Traps that keep the graph of a step alive."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Loop, Site, Source, dotted, is_reference, last_name
from planting.training import Backward, backwards, bindings, contributors, cut

READOUT_METHODS = {"item", "detach", "cpu", "data", "numpy", "tolist", "clone", "float"}


def read_out(node: ast.expr) -> ast.expr | None:
    """The tensor of `loss.item()`, `loss.detach().cpu().item()`, `loss.data`, `loss.detach().float()`,
    `float(loss)`."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "float"
        and len(node.args) == 1
    ):
        return node.args[0] if is_reference(node.args[0]) and not cut(node.args[0]) else None
    if not cut(node):
        return None
    base = node
    while True:
        if isinstance(base, ast.Attribute) and base.attr == "data":
            base = base.value
        elif isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) and base.func.attr in READOUT_METHODS:
            base = base.func.value
        else:
            return base if is_reference(base) else None


def one_readout(expression: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    """(the read-out, its tensor) where an expression is one read-out, times or divided by something that is none."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, (ast.Mult, ast.Div)):
        sides = [expression.left] if isinstance(expression.op, ast.Div) else [expression.left, expression.right]
        found = [pair for side in sides if (pair := one_readout(side)) is not None]
        return found[0] if len(found) == 1 else None
    base = read_out(expression)
    return None if base is None else (expression, base)


def keeps_live(source: Source, stmt: ast.stmt, base: ast.expr) -> Backward | None:
    """The backward of the tensor that a statement reads out, where it is sure that the tensor still has its history.

    The backward stands in the innermost loop of the statement (or deeper), on a common path, with no other value
    given to the name in between; the tensor is what is back-propagated, or a term of it; no binding of it is
    detached.
    """
    scope = source.scope(stmt)
    name = dotted(base)
    if source.gradients_off(stmt):
        return None
    bound = bindings(source, scope, name)
    summed = any(isinstance(bind, ast.AugAssign) for bind, _ in bound)  # `loss = 0`, to which terms are then added
    for bind, value in bound:
        if value is not None and (cut(value) or (isinstance(value, ast.Constant) and not summed)):
            return None
        if source.gradients_off(bind):
            return None
    if re.search(rf"\b{re.escape(name)}\.(detach_\(|requires_grad_|data *=)", source.text):
        return None
    loops = source.loops(stmt)
    for backward in backwards(source):
        if source.scope(backward.call) != scope or source.exclusive(backward.stmt, stmt):
            continue
        around = source.loops(backward.call)
        if loops and loops[0] not in around:
            continue
        low, high = sorted((backward.stmt.lineno, stmt.lineno))
        if any(low < bind.lineno < high for bind, _ in bound):
            continue
        if name in contributors(source, backward):
            return backward
    return None


def outlives(source: Source, stmt: ast.stmt, target: ast.expr, backward: Backward, made: re.Pattern[str]) -> bool:
    """True where what a statement adds to was made, visibly, outside of the loop in which it does so, and only there.

    `made` is what its making must look like. An attribute of `self` may also be made in another method.
    """
    base = target
    while isinstance(base, ast.Subscript):
        base = base.value
    if not is_reference(base):
        return False
    name = dotted(base)
    loops = source.loops(stmt)
    visible = False
    for node in ast.walk(source.tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets, value = node.targets if isinstance(node, ast.Assign) else [node.target], node.value
        for one in targets:
            pairs = [(one, value)]
            if isinstance(one, ast.Tuple):
                values = value.elts if isinstance(value, ast.Tuple) else [value] * len(one.elts)
                pairs = list(zip(one.elts, values, strict=False))
            for where, what in pairs:
                if dotted(where) != name or node is stmt or what is None:
                    continue
                same = source.scope(node) == source.scope(stmt)
                if not same and not name.startswith("self.") and source.scope(node) != -1:
                    continue
                if same and loops and node.lineno > (loops[-1].end_lineno or 0):
                    continue  # what becomes of it after all loops is no matter
                if not made.search(ast.unparse(what)):
                    return False
                if (
                    same
                    and (not loops or loops[0] in source.loops(node))
                    and not _reset_under_condition(source, node, loops)
                ):
                    return False
                visible = True
    if re.search(rf"\b{re.escape(name)}\.(clear|pop|popleft)\(", source.text) or re.search(
        rf"(stack|cat|sum)\(\[?{re.escape(name)}\b[^\n]*backward", source.text
    ):
        return False
    feeds = contributors(source, backward)
    return visible and name not in feeds and dotted(target) not in feeds


def _reset_under_condition(source: Source, node: ast.AST, loops: list[Loop]) -> bool:
    """`if step % 100 == 0: running = 0`: a window, which holds its graphs all the same."""
    for up in source.ancestors(node):
        if isinstance(up, ast.If):
            return True
        if loops and up is loops[0]:
            return False
    return False


ZERO = re.compile(
    r"^(-?[\d.]+|torch\.zeros\(.*\)|torch\.tensor\([\d.]+.*\)|\{.*|dict\(.*|defaultdict\((float|int|lambda: 0.*)\)|"
    r"collections\.defaultdict\((float|int)\)|\[0(\.0)?.*|Counter\(\))$",
    re.S,
)
EMPTY = re.compile(
    r"^(\[\]|list\(\)|(collections\.)?deque\(.*\)|\{.*\[.*|(collections\.)?defaultdict\(list\)|\{\})$", re.S
)


def of_one_step(source: Source, stmt: ast.stmt) -> bool:
    """Whether the step comes after the innermost loop around a statement, and not in it."""
    loops, function = source.loops(stmt), source.function(stmt)
    if not loops or function is None:
        return False
    steps = [
        node.lineno for node in ast.walk(function) if isinstance(node, ast.Call) and last_name(node.func) == "step"
    ]
    first, last = loops[0].lineno, loops[0].end_lineno or 0
    return any(line > last for line in steps) and not any(first <= line <= last for line in steps)


@kind("item-dropped-sum")
def item_dropped_sum(source: Source) -> Iterator[Site]:
    """A running sum of what the loop back-propagates keeps the history of every step.

    The sum is made outside of the loop that contains both it and the backward, and is not itself back-propagated. Not
    in a loop over the micro-batches of one step, which comes after it: what they sum is soon let go.
    """
    for stmt in ast.walk(source.tree):
        if isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add):
            target, value = stmt.target, stmt.value
        elif (
            isinstance(stmt, ast.Assign)
            and len(stmt.targets) == 1
            and isinstance(stmt.value, ast.BinOp)
            and isinstance(stmt.value.op, ast.Add)
            and dotted(stmt.value.left) == dotted(stmt.targets[0])
        ):
            target, value = stmt.targets[0], stmt.value.right  # type: ignore[assignment]
        else:
            continue
        pair = one_readout(value)
        if pair is None or (not source.loops(stmt) and not dotted(target).startswith("self.")):
            continue
        backward = keeps_live(source, stmt, pair[1])
        if backward is not None and outlives(source, stmt, target, backward, ZERO) and not of_one_step(source, stmt):
            codes = ("GTR401", "GTR402", "GTR403")
            edit = Edit(*source.span(pair[0]), source.segment(pair[1]))
            yield Site(codes, stmt.lineno, source.scope(stmt), (edit,))


@kind("item-dropped-append")
def item_dropped_append(source: Source) -> Iterator[Site]:
    """A list of what the loop back-propagates keeps the history of every step.

    The list is visible as one, made outside of the loop (or an attribute of `self`), never emptied, never
    back-propagated.
    """
    for call in source.calls:
        if last_name(call.func) != "append" or len(call.args) != 1 or not isinstance(call.func, ast.Attribute):
            continue
        pair = one_readout(call.args[0])
        stmt = source.statement(call)
        target = call.func.value
        if pair is None or (not source.loops(stmt) and not dotted(target).startswith("self.")):
            continue
        if re.search(rf"(np|numpy)\.\w+\({re.escape(dotted(target))}\b", source.text):
            continue  # an array of tensors with a graph cannot be made: that trap would be loud
        backward = keeps_live(source, stmt, pair[1])
        if backward is not None and outlives(source, stmt, target, backward, EMPTY):
            edit = Edit(*source.span(pair[0]), source.segment(pair[1]))
            yield Site(("GTR402", "GTR403"), stmt.lineno, source.scope(stmt), (edit,))
