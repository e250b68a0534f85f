"""Traps of mixed precision and clipping."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from planting.kinds import kind
from planting.source import Edit, Site, Source, dotted, is_reference
from planting.training import clip_statement, method_call, step_statement, stepped


def scaled_backwards(source: Source, scope: int) -> set[str]:
    """The scalers whose scaled loss this very function back-propagates."""
    return {
        dotted(call.func.value.func.value)
        for node in source.own(source.scope_node(scope))
        if (call := node)
        and isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "backward"
        and isinstance(call.func.value, ast.Call)
        and isinstance(call.func.value.func, ast.Attribute)
        and call.func.value.func.attr == "scale"
    } - source.disabled_scalers


@kind("unscale-removed")
def unscale_removed(source: Source) -> Iterator[Site]:
    """The clip then bounds gradients that are still multiplied by the scale of the backward in the same function.

    The `unscale_` must be the only one of the function on the way to the clip that follows it in its block: with two
    optimizers it is not told by the text whose parameters the clip gets. `if amp: scaler.unscale_(opt)` counts as well,
    since the backward of that branch is scaled.
    """
    for block in source.blocks:
        for index, stmt in enumerate(block):
            inner = stmt
            if isinstance(stmt, ast.If) and len(stmt.body) == 1 and not stmt.orelse:
                inner = stmt.body[0]
            call = method_call(inner, "unscale_")
            if call is None or not isinstance(call.func, ast.Attribute) or len(call.args) != 1:
                continue
            scope = source.scope(inner)
            if dotted(call.func.value) not in scaled_backwards(source, scope):
                continue
            others = [
                n
                for n in source.own(source.scope_node(scope))
                if isinstance(n, ast.stmt) and method_call(n, "unscale_")
            ]
            if any(other is not inner and not source.exclusive(other, inner) for other in others):
                continue
            if any(clip_statement(later) is not None for later in block[index + 1 :]):
                yield Site(("GTR301",), inner.lineno, scope, (source.remove(stmt),))


def switched_off(source: Source, stmt: ast.stmt) -> bool:
    """True where a statement stands under `if name…` and the module binds that name once, to None, False or 0."""
    if not isinstance(stmt, ast.If):
        return False
    test = stmt.test.left if isinstance(stmt.test, ast.Compare) else stmt.test
    bound = [
        node.value
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign) and any(dotted(target) == dotted(test) for target in node.targets)
    ]
    name = isinstance(test, ast.Name) and not any(
        isinstance(node, ast.arg) and node.arg == test.id for node in ast.walk(source.tree)
    )
    return name and len(bound) == 1 and isinstance(bound[0], ast.Constant) and not bound[0].value


def used_by_another(source: Source, clip: ast.stmt, step: ast.stmt, optimizer: str) -> bool:
    """True where another optimizer steps later in the function, and does not clear its gradients before it does."""
    for call in source.calls:
        what = stepped(source, call)
        if what is None or what[0] == optimizer or call.lineno <= max(clip.lineno, step.lineno):
            continue
        if source.scope(call) != source.scope(step) or source.exclusive(source.statement(call), step):
            continue
        if f"{what[0]}.zero_grad" not in "\n".join(source.lines[step.lineno : call.lineno]):
            return True
    return False


@kind("clip-step-swapped")
def clip_step_swapped(source: Source) -> Iterator[Site]:
    """The optimizer has taken the gradients unclipped when the clip runs, and they are cleared before they are used
    again.

    The file must clear gradients somewhere: if it never did, the clip after the step would bound those of the next one.
    A clip that never runs, because the file switches it off (`if limit is not None` with `limit = None`), is none; nor
    is a swap where the next statement clips or steps, too: the two may be about different networks. A clip behind which
    another optimizer steps, with the gradients that it finds, still limits what that one does.
    """
    if "zero_grad" not in source.text or source.engine:
        return
    for block in source.blocks:
        for clip, step in pairwise(block):
            call = clip_statement(clip)
            what = step_statement(source, step)
            if call is None or what is None or what[1] in source.disabled_scalers:
                continue
            if not (source.owns_lines(clip) and source.owns_lines(step)) or switched_off(source, clip):
                continue
            around = [
                block[place] for place in (block.index(clip) - 1, block.index(step) + 1) if 0 <= place < len(block)
            ]
            if any(clip_statement(other) or step_statement(source, other) for other in around):
                continue
            if used_by_another(source, clip, step, what[0]):
                continue
            codes = ("GTR302", "GTR301") if what[1] else ("GTR302",)
            clip_text, step_text = source.segment(clip), source.segment(step)
            edits = (Edit(*source.span(clip), step_text), Edit(*source.span(step), clip_text))
            yield Site(codes, clip.lineno, source.scope(clip), edits)


@kind("scaler-step-replaced")
def scaler_step_replaced(source: Source) -> Iterator[Site]:
    """The optimizer applies gradients that are still multiplied by the scale of the backward in the same function.

    Nothing in the function unscales: after an `unscale_` a plain step would be right but for the skipping of bad steps.
    """
    for call in source.calls:
        what = stepped(source, call)
        stmt = source.statement(call)
        if what is None or not what[1] or not isinstance(stmt, (ast.Expr, ast.Return, ast.Assign)):
            continue
        scope = source.scope(call)
        if what[1] not in scaled_backwards(source, scope) or "unscale_" in ast.unparse(source.scope_node(scope)):
            continue
        if is_reference(call.args[0]):
            edit = Edit(*source.span(call), f"{source.segment(call.args[0])}.step()")
            yield Site(("GTR305",), call.lineno, scope, (edit,))


@kind("update-removed")
def update_removed(source: Source) -> Iterator[Site]:
    """`scaler.step` runs a second time with no `update` in between, and raises.

    The function steps with that scaler, and updates it once. It repeats: by a loop around both, by a loop of the file
    around a call of it, or because it is a method whose scaler is an attribute of the object (a wrapper that is
    called in each step). No other method updates that attribute: it may run between two of these steps.
    """
    for stmt in ast.walk(source.tree):
        call = method_call(stmt, "update") if isinstance(stmt, ast.stmt) else None
        if call is None or call.args or call.keywords or not isinstance(call.func, ast.Attribute):
            continue
        assert isinstance(stmt, ast.stmt)
        scaler = dotted(call.func.value)
        scope = source.scope(stmt)
        if "scaler" not in scaler.lower() or scaler in source.disabled_scalers:
            continue
        function = source.function(stmt)
        region = next(iter(source.loops(stmt)), None) or source.scope_node(scope)
        inside = list(source.own(region))
        if not any(what[1] == scaler for node in inside if (what := stepped(source, node)) is not None):
            continue
        within = ast.walk(source.tree) if scaler.startswith("self.") else source.own(source.scope_node(scope))
        updates = [n for n in within if isinstance(n, ast.stmt) and method_call(n, "update")]
        if sum(dotted(u.value.func.value) == scaler for u in updates) != 1:  # type: ignore[attr-defined]
            continue
        repeats = bool(source.loops(stmt)) or (
            function is not None and (source.called_in_loop(function) or scaler.startswith("self."))
        )
        if repeats:
            yield Site(("GTR306",), stmt.lineno, scope, (source.remove(stmt),))
