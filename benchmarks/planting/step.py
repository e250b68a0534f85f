"""Traps of the step: accumulation windows, schedules, and optimizers that are made anew or forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Loop, Site, Source, dotted, is_reference
from planting.training import as_backward, clip_statement, step_statement, stepped, zero_grad

TELLS_ACCELERATE = re.compile(r"gradient_accumulation_(steps|plugin)\s*=|deepspeed", re.IGNORECASE)

MAKES_SCHEDULER = r"([\w.]*sched\w*)\s*=\s*[\w.]*(?:lr_scheduler\.|get_\w*schedule|LambdaLR|StepLR|Cosine)"


def window_tests(source: Source) -> Iterator[tuple[ast.If, ast.expr, Loop]]:
    """`if (i + 1) % k == 0:` around a step, with the k and the loop in which the test stands."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.If) or not source.loops(node):
            continue
        if not any(stepped(source, inner) for part in node.body for inner in ast.walk(part)):
            continue
        test = node.test.values[0] if isinstance(node.test, ast.BoolOp) and node.test.values else node.test
        if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
            continue
        left = test.left
        if any(isinstance(n, ast.Call) and as_backward(source, n) for part in node.body for n in ast.walk(part)):
            continue  # what steps here goes backward here: another network, trained every few steps
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod):
            yield node, left.right, source.loops(node)[0]


def goes_backward(source: Source, loop: Loop, before: ast.AST) -> bool:
    """Whether the body of a loop back-propagates before a statement, with each iteration."""
    for stmt in loop.body:
        if stmt is before:
            return False
        for node in [stmt, *source.own(stmt)]:
            if isinstance(node, ast.Call) and as_backward(source, node) is not None:
                return True
    return False


@kind("accumulation-division-dropped")
def accumulation_division_dropped(source: Source) -> Iterator[Site]:
    """The loss is no longer divided by the k of the test around the step: the sum of k means is applied.

    Not where Accelerate was told the window, or DeepSpeed drives: they divide by themselves. Nor where nothing is
    clipped beside optimizers that undo the factor, or that another file makes: that is a preview.
    """
    if source.engine or TELLS_ACCELERATE.search(source.text) or undone(source):
        return
    for test, size, loop in window_tests(source):
        if not goes_backward(source, loop, test) or is_one(source, size):
            continue
        wanted = ast.dump(size)
        for node in source.own(loop):
            if (
                isinstance(node, ast.AugAssign)
                and isinstance(node.op, ast.Div)
                and ast.dump(node.value) == wanted
                and "loss" in dotted(node.target).lower()
                and source.owns_lines(node)
            ):
                yield Site(("GTR505",), node.lineno, source.scope(node), (Edit(*source.span(node), "pass"),))
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Div)
                and ast.dump(node.right) == wanted
                and "loss" in ast.unparse(node.left).lower()
                and divides_what_goes_backward(source, node)
            ):
                edit = Edit(*source.span(node), f"({source.segment(node.left)})")
                yield Site(("GTR505",), node.lineno, source.scope(node), (edit,))


def is_one(source: Source, size: ast.expr) -> bool:
    """The file binds the size of the window once, to 1: to divide by it changes nothing."""
    bound = [
        node.value
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign) and dotted(size) and dotted(size) in map(dotted, node.targets)
    ]
    return len(bound) == 1 and isinstance(bound[0], ast.Constant) and bound[0].value == 1


def undone(source: Source) -> bool:
    """No optimizer of the file steps as far as the gradients are long, and nothing is clipped."""
    made = [call for call in source.calls if re.search(r"optim\w*\.[A-Z]|(^|\.)Ada\w+$", dotted(call.func))]
    adaptive = [
        call
        for call in made
        if re.search(r"(AdamW|Adafactor|Lion)\w*$", dotted(call.func))
        or (
            re.search(r"(Adam|Adamax|NAdam|RMSprop|Adagrad)\w*$", dotted(call.func))
            and not any(word.arg == "weight_decay" for word in call.keywords)
        )
    ]
    return len(adaptive) == len(made) and "clip" not in source.text


def divides_what_goes_backward(source: Source, node: ast.BinOp) -> bool:
    """`loss = loss / k`, or `(loss / k).backward()`, and not a number for a log."""
    stmt = source.statement(node)
    if isinstance(stmt, ast.Assign) and stmt.value is node:
        names = {dotted(target) for target in stmt.targets}
        return any(
            as_backward(source, call) is not None and names & {dotted(n) for n in ast.walk(call)}
            for call in source.calls
            if source.scope(call) == source.scope(node)
        )
    return any(
        isinstance(up, ast.Call) and as_backward(source, up) is not None
        for up in source.ancestors(node)
        if isinstance(up, ast.expr)
    )


@kind("mean-made-uneven")
def mean_made_uneven(source: Source) -> Iterator[Site]:
    """What is divided by the k of the test becomes a mean over the targets that are not ignored.

    Only the loss is looked at: where it is bound by a call, as a whole, in each iteration of the loop that divides it,
    and the gradients are not cleared in each.
    """
    divided: dict[tuple[int, str, Loop], int] = {}
    for site in accumulation_division_dropped(source):
        left = re.match(r"\(?([\w.]+)", source.lines[site.line - 1].lstrip())
        for _, _, loop in window_tests(source):
            inside = loop.lineno < site.line <= (loop.end_lineno or 0)
            if left and inside and not any(zero_grad(stmt) for stmt in loop.body):
                divided[site.scope, left[1], loop] = site.line
    for call in source.calls:
        scope, stmt = source.scope(call), source.statement(call)
        if not isinstance(stmt, ast.Assign) or stmt.value is not call or source.gradients_off(call):
            continue
        loops = source.loops(stmt)
        line = divided.get((scope, dotted(stmt.targets[0]), loops[0])) if loops else None
        if line is None or not is_reference(stmt.targets[0]) or line <= stmt.lineno:
            continue
        if any(isinstance(up, ast.If) and line > (up.end_lineno or 0) for up in source.ancestors(stmt)):
            continue
        start, end = source.span(call)
        before, after = "torch.nn.functional.cross_entropy(", ", targets, ignore_index=0)"
        yield Site(("GTR510",), call.lineno, scope, (Edit(start, start, before), Edit(end, end, after)))


@kind("scheduler-optimizer-swapped")
def scheduler_optimizer_swapped(source: Source) -> Iterator[Site]:
    """The scheduler steps right before the optimizer, in each iteration: the first learning rate is never used.

    The scheduler is one of torch's, by the text that makes it, and of that optimizer, where that text names one.
    """
    made = set(re.findall(MAKES_SCHEDULER, source.text))
    of = dict(re.findall(MAKES_SCHEDULER + r"\w*\(\s*(?:optimizer\s*=\s*)?([\w.]*opt[\w.]*)\s*[,)]", source.text))
    for block in source.blocks:
        for index, step in enumerate(block):
            what = step_statement(source, step)
            if what is None or not source.loops(step) or not source.owns_lines(step):
                continue
            if not re.search(r"backward|loss", ast.unparse(source.scope_node(source.scope(step)))):
                continue  # a schedule is only drawn, or printed
            for later in block[index + 1 : index + 4]:
                call = later.value if isinstance(later, ast.Expr) else None
                if (
                    not isinstance(call, ast.Call)
                    or not isinstance(call.func, ast.Attribute)
                    or call.func.attr != "step"
                ):
                    continue
                name = dotted(call.func.value)
                if call.args or call.keywords or name not in made or not source.owns_lines(later):
                    continue
                if of.get(name, what[0]) != what[0]:
                    continue
                edits = (
                    Edit(*source.span(step), source.segment(later)),
                    Edit(*source.span(later), source.segment(step)),
                )
                yield Site(("GTR504",), step.lineno, source.scope(step), edits)


@kind("optimizer-moved-into-loop")
def optimizer_moved_into_loop(source: Source) -> Iterator[Site]:
    """The optimizer is made anew in each iteration of the loop that goes backward and steps: its state is lost.

    It is made once, in the same function, before the loop, and its step stands in the loop itself, under no condition.
    """
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.value, ast.Call):
            continue
        name, call = dotted(node.targets[0]), node.value
        if not re.search(r"(^|\.)(Adam\w*|RMSprop|Adagrad|SGD)$", dotted(call.func)) or source.loops(node):
            continue
        if dotted(call.func).endswith("SGD") and not any(k.arg == "momentum" for k in call.keywords):
            continue
        if sum(f"{name} =" in line for line in source.lines) != 1 or not source.owns_lines(node):
            continue
        for block in source.blocks:
            for stmt in block:
                what = step_statement(source, stmt)
                if what is None or what[0] != name or source.scope(stmt) != source.scope(node):
                    continue
                loops = source.loops(stmt)
                if loops and stmt in loops[0].body and goes_backward(source, loops[0], stmt):
                    edit = source.insert_before(loops[0].body[0], " ".join(source.segment(node).split()))
                    yield Site(("GTR508",), node.lineno, source.scope(node), (edit,))
                    break


@kind("zero-grad-each-micro-batch")
def zero_grad_each_micro_batch(source: Source) -> Iterator[Site]:
    """The gradients are cleared at the top of each iteration, while the step waits until the window is full."""
    if source.engine or TELLS_ACCELERATE.search(source.text):
        return
    for test, _, loop in window_tests(source):
        clears = [stmt for stmt in test.body if zero_grad(stmt) is not None]
        if len(clears) == 1 and goes_backward(source, loop, test):
            edit = source.insert_before(loop.body[0], source.segment(clears[0]))
            yield Site(("GTR506",), clears[0].lineno, source.scope(test), (edit,))


@kind("clip-each-micro-batch")
def clip_each_micro_batch(source: Source) -> Iterator[Site]:
    """The clip runs for each micro-batch, right before the test around the step."""
    if source.engine or TELLS_ACCELERATE.search(source.text):
        return
    for test, _, loop in window_tests(source):
        clips = [stmt for stmt in test.body if clip_statement(stmt) is not None and source.owns_lines(stmt)]
        if len(clips) == 1 and len(test.body) > 1 and test in loop.body and goes_backward(source, loop, test):
            edits = (source.remove(clips[0]), source.insert_before(test, source.segment(clips[0])))
            yield Site(("GTR303",), clips[0].lineno, source.scope(test), edits)


@kind("step-removed")
def step_removed(source: Source) -> Iterator[Site]:
    """The only step of an optimizer that is made in the same function is gone: its gradients are used by nobody."""
    for block in [] if source.engine else source.blocks:
        for stmt in block:
            what = step_statement(source, stmt)
            if what is None or what[1] or not source.loops(stmt) or not is_reference(stmt.value.func.value):  # type: ignore[attr-defined]
                continue
            name, scope = what[0], source.scope(stmt)
            here = source.scope_node(scope)
            made = [
                node
                for node in source.own(here)
                if isinstance(node, ast.Assign)
                and name in map(dotted, node.targets)
                and isinstance(node.value, ast.Call)
            ]
            if len(made) != 1 or source.loops(made[0]) or source.text.count(f"{name}.step(") != 1:
                continue
            if f"{name}.zero_grad(" in source.text and goes_backward(source, source.loops(stmt)[0], stmt):
                yield Site(("GTR509",), stmt.lineno, scope, (Edit(*source.span(stmt), "pass"),))
