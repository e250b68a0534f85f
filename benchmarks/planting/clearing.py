"""Traps of clearing and of backward."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import LOOPS, FunctionNode, Site, Source, dotted, last_name
from planting.training import SCALARS, as_backward, backwards, is_optimizer, step_statement, stepped, zero_grad

CLEARS = re.compile(r"zero_grad|\.grad = None|grad\.zero_|\.grad\.data\.zero_|clear_grad|reset_grad|_foreach_zero_")


def helpers(source: Source, region: ast.AST, function: FunctionNode | None) -> list[FunctionNode]:
    """The functions of the file that a region calls, by name, and those that these call in their turn."""
    found: list[FunctionNode] = []
    work = [region]
    while work:
        called = {last_name(n.func) for n in ast.walk(work.pop()) if isinstance(n, ast.Call)} - {"zero_grad"}
        more = [f for f in source.functions if f.name in called and f is not function and f not in found]
        found += more
        work += more
    return found


@kind("zero-grad-removed")
def zero_grad_removed(source: Source) -> Iterator[Site]:
    """Each step then applies the gradients of all steps before it again.

    One loop contains the clearing, a backward and the step of one optimizer, and nothing else that clears, not in the
    functions of the file that it calls, however deep, either; the optimizer is not made anew in the loop. A function
    without a loop of its own counts where the file itself calls it in a loop, and clears nowhere else.
    """
    for stmt in ast.walk(source.tree):
        call = zero_grad(stmt)
        if call is None or not isinstance(stmt, ast.stmt) or source.engine:
            continue
        function = source.function(stmt)
        scope = source.scope(stmt)
        loops: list[ast.AST] = list(source.loops(stmt))
        if not loops and function is not None and source.called_in_loop(function):
            if len(re.findall(r"\bzero_grad\(", source.text)) > 1:
                continue
            loops = [function]
        for region in loops:
            inside = list(source.own(region))
            if not any(backward.call in inside for backward in backwards(source)):
                continue
            steps = {what for node in inside if (what := stepped(source, node)) is not None}
            if len({optimizer for optimizer, _ in steps}) != 1:
                continue
            optimizer = next(iter(steps))[0]
            cleared = call.func.value if isinstance(call.func, ast.Attribute) else call
            if is_optimizer(source, cleared) and dotted(cleared) != optimizer:
                continue
            everywhere = list(ast.walk(region))
            if sum(isinstance(n, ast.Call) and last_name(n.func) == "zero_grad" for n in everywhere) != 1:
                continue
            if any(CLEARS.search(ast.unparse(helper)) for helper in helpers(source, region, function)):
                continue
            if len(CLEARS.findall(ast.unparse(region))) > 1:
                continue
            if isinstance(region, LOOPS) and any(isinstance(n, (ast.Break, ast.Return)) for n in region.body):
                continue
            if any(isinstance(n, ast.Assign) and optimizer in map(dotted, n.targets) for n in inside):
                continue
            yield Site(("GTR501",), stmt.lineno, scope, (source.remove(stmt),))
            break


def runs_backward(source: Source, stmt: ast.stmt) -> bool:
    """True where a statement back-propagates, whichever way it runs."""
    if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call):
        return as_backward(source, stmt.value) is not None
    if isinstance(stmt, ast.With):
        return any(runs_backward(source, inner) for inner in stmt.body)
    if isinstance(stmt, ast.If):
        return all(any(runs_backward(source, s) for s in branch) for branch in (stmt.body, stmt.orelse))
    return False


@kind("zero-grad-moved")
def zero_grad_moved(source: Source) -> Iterator[Site]:
    """The optimizer steps with nothing: its gradients are cleared after the backward and before the step.

    Clearing, backward and step stand in one block, in this order of backward and step with no other step between, and
    it is the stepping optimizer that is cleared. The clearing goes right behind the last backward before the step.
    Where `.grad` is read between the two, the program would fail.
    """
    for block in [] if source.engine else source.blocks:
        for index, stmt in enumerate(block):
            call = zero_grad(stmt)
            if call is None or not isinstance(call.func, ast.Attribute) or not source.owns_lines(stmt):
                continue
            cleared = dotted(call.func.value)
            steps = [i for i, s in enumerate(block) if (what := step_statement(source, s)) and what[0] == cleared]
            others = [i for i, s in enumerate(block) if step_statement(source, s)]
            for step in steps:
                runs = [i for i in range(step) if runs_backward(source, block[i])]
                if not runs or runs[-1] < index < step or any(runs[-1] < other < step for other in others):
                    continue
                between = "\n".join(ast.unparse(other) for other in block[runs[-1] + 1 : step])
                if re.search(r"\.grad\b", between) and "None" not in between:
                    continue
                after = block[runs[-1]]
                if source.owns_lines(after):
                    edits = (source.remove(stmt), source.insert_after(after, source.segment(stmt)))
                    yield Site(("GTR502",), after.lineno, source.scope(stmt), edits)
                    break


@kind("backward-doubled")
def backward_doubled(source: Source) -> Iterator[Site]:
    """The second backward runs through a graph that the first has freed.

    Only where both calls are given the same graph: not where the receiver computes one anew, and not where it is
    retained.
    """
    for backward in backwards(source):
        if backward.call.keywords or not source.owns_lines(backward.stmt) or source.gradients_off(backward.call):
            continue
        if any(
            isinstance(node, ast.Call) and not (isinstance(node.func, ast.Attribute) and node.func.attr in SCALARS)
            for node in ast.walk(backward.target)
        ):
            continue
        edit = source.insert_after(backward.stmt, source.segment(backward.stmt))
        yield Site(("GTR503",), backward.stmt.lineno, source.scope(backward.call), (edit,))
