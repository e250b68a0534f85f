"""Reading of training code by syntax: losses, backward calls, clips, steps and clearings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from planting.source import SIMPLE, Source, dotted, is_reference, last_name, root_name

NOT_A_LOSS = re.compile(
    r"^(self|ctx|model|net|agent|engine|booster|trainer|optimizer|dist_autograd|handle|scaler)$", re.I
)
SCALARS = {"mean", "sum"}


@dataclass(frozen=True)
class Backward:
    """A call that back-propagates a tensor. `scaler`: what scaled it, if anything did."""

    call: ast.Call
    stmt: ast.stmt
    target: ast.expr
    scaler: str = ""
    through: str = ""
    """The Accelerate-like object whose method it is."""


def as_backward(source: Source, call: ast.Call) -> Backward | None:
    """`loss.backward()`, `scaler.scale(loss).backward()`, `accelerator.backward(loss)`; engines of their own are
    not."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "backward":
        return None
    if any(keyword.arg not in {"retain_graph", "create_graph"} for keyword in call.keywords):
        return None
    stmt = source.statement(call)
    if not (isinstance(stmt, ast.Expr) and stmt.value is call):
        return None
    receiver = call.func.value
    if call.args:
        if len(call.args) == 1 and re.search(r"accelerator|fabric", dotted(receiver), re.I) and is_reference(receiver):
            return Backward(call, stmt, call.args[0], through=dotted(receiver))
        return None
    if isinstance(receiver, ast.Call) and isinstance(receiver.func, ast.Attribute):
        if (
            receiver.func.attr == "scale"
            and len(receiver.args) == 1
            and "scaler" in dotted(receiver.func.value).lower()
        ):
            return Backward(call, stmt, receiver.args[0], scaler=dotted(receiver.func.value))
        return Backward(call, stmt, receiver)
    if is_reference(receiver):
        # The name must be one that this function gave a value, as a tensor would be given: `self.backward()`,
        # `super().backward()` and an engine's or agent's own method are not torch's.
        name = dotted(receiver)
        values = [value for _, value in bindings(source, source.scope(call), name)]
        if NOT_A_LOSS.search(name.rsplit(".", 1)[-1]) or not values:
            return None
        if all(isinstance(value, ast.Constant) for value in values):  # `loss = ...` is still to be written
            return None
    elif not isinstance(receiver, ast.BinOp):
        return None
    return Backward(call, stmt, receiver)


def bindings(source: Source, scope: int, name: str) -> list[tuple[ast.stmt, ast.expr | None]]:
    """Where a function gives a name a value, and the value where it can be seen."""
    found: list[tuple[ast.stmt, ast.expr | None]] = []
    for node in source.own(source.scope_node(scope)):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if dotted(target) == name:
                    found.append((node, node.value))
                elif isinstance(target, (ast.Tuple, ast.List)) and name in map(dotted, target.elts):
                    found.append((node, None))
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and dotted(node.target) == name:
            if node.value is not None:
                found.append((node, node.value))
        elif isinstance(node, ast.With):
            for item in node.items:
                if item.optional_vars is not None and dotted(item.optional_vars) == name:
                    found.append((node, item.context_expr))
        elif isinstance(node, ast.For) and name in [
            dotted(n) for n in ast.walk(node.target) if isinstance(n, ast.Name)
        ]:
            found.append((node, None))
    return sorted(found, key=lambda pair: pair[0].lineno)


def backwards(source: Source) -> list[Backward]:
    found = [as_backward(source, call) for call in source.calls]
    return [backward for backward in found if backward is not None]


CUTS = {"item", "detach", "data", "numpy", "tolist", "detach_"}


def cut(expression: ast.AST) -> bool:
    """True where an expression leaves the graph at its top: `x.item()`, `x.detach()`, `float(x)`, `x.data[0]`."""
    node = expression
    while True:
        if isinstance(node, ast.Attribute):
            if node.attr in CUTS:
                return True
            node = node.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return node.func.id in {"float", "int", "len", "to_python_float", "bool", "str"}
            node = node.func
        else:
            return False


def summands(expression: ast.expr) -> Iterator[ast.expr]:
    """The tensors of which a loss is the (weighted) sum, as far as its own expression shows them."""
    node = expression
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from summands(node.left)
        yield from summands(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
        if not coefficient(node.left):
            yield from summands(node.left)
        if isinstance(node.op, ast.Mult) and coefficient(node.left):
            yield from summands(node.right)
    elif isinstance(node, ast.UnaryOp):
        yield from summands(node.operand)
    elif isinstance(node, ast.Call) and not cut(node):
        if isinstance(node.func, ast.Attribute) and node.func.attr in SCALARS and not node.args and not node.keywords:
            if root_name(node.func.value) != "torch":
                yield from summands(node.func.value)
        elif isinstance(node.func, ast.Name) and node.func.id == "sum" and len(node.args) == 1:
            if isinstance(node.args[0], (ast.List, ast.Tuple)):
                for element in node.args[0].elts:
                    yield from summands(element)
        elif last_name(node.func) == "scale_loss" and node.args:
            yield from summands(node.args[0])
        else:
            yield node
    elif not cut(node):
        yield node


def coefficient(node: ast.expr) -> bool:
    """True for a factor that is a setting: a number, or something that its name says to be one."""
    if isinstance(node, ast.UnaryOp):
        return coefficient(node.operand)
    if isinstance(node, ast.BinOp):
        return coefficient(node.left) and coefficient(node.right)
    if isinstance(node, ast.Constant):
        return True
    if not is_reference(node):
        return False
    text = dotted(node)
    return bool(
        re.match(r"(args|cfg|config|opt|opts|hps|hparams|h|self\.args|self\.cfg|self\.config)\.", text)
        or re.search(r"coef|lambda|weight|^(self\.)?(alpha|beta|gamma|w|c)\d*(_\w+)?$|scale|factor|accum", text, re.I)
    )


def contributors(source: Source, backward: Backward) -> dict[str, list[ast.stmt]]:
    """The names that the back-propagated loss is, or is the sum of; for each, the statements through which it got
    there."""
    scope = source.scope(backward.call)
    found: dict[str, list[ast.stmt]] = {}
    work: list[tuple[ast.expr, list[ast.stmt], int]] = [(backward.target, [], backward.stmt.lineno)]
    while work:
        expression, way, line = work.pop()
        for term in summands(expression):
            name = dotted(term)
            if not is_reference(term) or name in found:
                continue
            found[name] = way
            for stmt, value in bindings(source, scope, name):
                if value is not None and stmt.lineno <= line and not source.exclusive(stmt, backward.stmt):
                    work.append((value, [*way, stmt], stmt.lineno))
    return found


def clip_call(node: ast.AST) -> ast.Call | None:
    """A call that clips gradients; not one whose bound is infinite, which only measures them."""
    if isinstance(node, ast.Call):
        name = last_name(node.func)
        clips = name.startswith("clip_grad") or name == "dispatch_clip_grad"
        if clips and (node.args or node.keywords) and not re.search(r"\binf\b", ast.unparse(node)):
            return node
    return None


def clip_statement(stmt: ast.stmt) -> ast.Call | None:
    """The clip of `clip(…)` or `norm = clip(…)`, also where it stands alone under an `if`."""
    if isinstance(stmt, ast.If) and not stmt.orelse and len(stmt.body) == 1:
        stmt = stmt.body[0]
    if isinstance(stmt, SIMPLE):
        return next((call for node in ast.walk(stmt) if (call := clip_call(node)) is not None), None)
    return None


def is_optimizer(source: Source, node: ast.AST) -> bool:
    if not is_reference(node) and not isinstance(node, ast.Subscript):
        return False
    text = dotted(node)
    if re.search(r"sched|scaler|lr_", text.rsplit(".", 1)[-1], re.I):
        return False
    return text in source.optimizers or bool(re.search(r"optim|(^|_|\.)opt($|_|er)", text.rsplit(".", 1)[-1], re.I))


def stepped(source: Source, node: ast.AST) -> tuple[str, str] | None:
    """(optimizer, scaler) of `optimizer.step()`, with an empty scaler, and of `scaler.step(optimizer)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
        receiver = node.func.value
        if not node.args and not node.keywords and is_optimizer(source, receiver):
            return dotted(receiver), ""
        if (
            len(node.args) == 1
            and not node.keywords
            and "scaler" in dotted(receiver).lower()
            and is_reference(receiver)
        ):
            return dotted(node.args[0]), dotted(receiver)
    return None


def step_statement(source: Source, stmt: ast.stmt) -> tuple[str, str] | None:
    return stepped(source, stmt.value) if isinstance(stmt, ast.Expr) else None


def method_call(stmt: ast.AST, name: str) -> ast.Call | None:
    """The call of a statement that is `something.name(…)`."""
    if (
        isinstance(stmt, ast.Expr)
        and isinstance(stmt.value, ast.Call)
        and isinstance(stmt.value.func, ast.Attribute)
        and stmt.value.func.attr == name
    ):
        return stmt.value
    return None


def receiver(call: ast.Call) -> ast.expr:
    """The object of a method call."""
    return call.func.value if isinstance(call.func, ast.Attribute) else call.func


def zero_grad(stmt: ast.AST) -> ast.Call | None:
    call = method_call(stmt, "zero_grad")
    return call if call is not None and not call.args and is_reference(receiver(call)) else None
