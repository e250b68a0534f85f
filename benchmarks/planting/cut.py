"""Traps that cut the loss off its history."""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Site, Source, dotted, is_reference
from planting.training import Backward, backwards, bindings, coefficient, contributors, cut

LOSSLIKE = re.compile(
    r"loss|criterion|entropy|mse|nll|bce|kl_?div|\bl1\b|l1_|objective|penalty|crit\b|hinge|perceptual|logp|log_prob",
    re.I,
)


def from_loss(source: Source, scope: int, term: ast.expr, line: int) -> bool:
    """True where a term is the live scalar of a loss computation: a call that says so, or a name bound to one."""
    if isinstance(term, ast.Call):
        text = ast.unparse(term)
        if "none" in text.lower() or "reduce=False" in text or cut(term):
            return False
        return bool(LOSSLIKE.search(dotted(term.func))) and not re.match(r"(float|len|int|max|min|sum)\b", text)
    if not is_reference(term):
        return False
    bound = bindings(source, scope, dotted(term))
    if not bound or any(isinstance(stmt, ast.AugAssign) for stmt, _ in bound):
        return False
    for stmt, value in bound:
        if value is None or not isinstance(stmt, ast.Assign) or source.gradients_off(stmt) or cut(value):
            return False
        if not any(isinstance(node, ast.Call) for node in ast.walk(value)):
            return False
        text = ast.unparse(value)
        if re.search(r"reduction='none'|reduce=False|\.item\(\)|^float\(|\.detach\(\)$", text):
            return False
        if not (
            (LOSSLIKE.search(dotted(term)) and LOSSLIKE.search(text))
            or re.search(r"\.(mean|sum)\(\)$|torch\.mean\(", text)
        ):
            return False
    return bound[0][0].lineno < line


@kind("item-on-term")
def item_on_term(source: Source) -> Iterator[Site]:
    """One term of a sum that the function back-propagates becomes a number, and its gradient is gone.

    The term is the live scalar of a loss computation; another term stays, so that the backward still runs. Between
    the sum and the backward the name is not bound anew, and what is built from it is built by arithmetic alone.
    """
    seen: set[ast.AST] = set()
    for backward in backwards(source):
        scope = source.scope(backward.call)
        if source.gradients_off(backward.call):
            continue
        sums: list[tuple[ast.stmt, ast.expr]] = [(backward.stmt, backward.target)]
        for name in contributors(source, backward):
            bound = bindings(source, scope, name)
            for stmt, value in bound:
                later = [
                    s
                    for s, v in bound
                    if v is not None
                    and stmt.lineno < s.lineno < backward.stmt.lineno
                    and isinstance(s, ast.Assign)
                    and name not in _names(v)
                ]
                if (
                    value is None
                    or later
                    or stmt.lineno > backward.stmt.lineno
                    or source.exclusive(stmt, backward.stmt)
                ):
                    continue
                if source.gradients_off(stmt) or not set(source.loops(backward.stmt)) <= set(source.loops(stmt)):
                    continue
                if isinstance(stmt, ast.Assign):
                    sums.append((stmt, value))
                elif isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add):
                    first = bound[0][1]
                    if first is not None and isinstance(first, (ast.Call, ast.BinOp)) and stmt is not bound[0][0]:
                        sums.append((stmt, ast.BinOp(ast.Name(name, ast.Load()), ast.Add(), value)))
        for stmt, value in sums:
            terms = list(additive(value))
            if len(terms) < 2 or sum(not coefficient(term) for term in terms) < 2:
                continue
            for term in terms:
                if term not in seen and hasattr(term, "lineno") and from_loss(source, scope, term, stmt.lineno):
                    if dotted(term) == dotted(getattr(stmt, "target", term)) and isinstance(stmt, ast.AugAssign):
                        continue
                    if isinstance(term, ast.Name) and any(
                        dotted(other.target) == term.id and other is not backward for other in backwards(source)
                    ):
                        continue
                    seen.add(term)
                    end = source.span(term)[1]
                    yield Site(("GTR201",), stmt.lineno, scope, (Edit(end, end, ".item()"),))


def _names(node: ast.AST) -> set[str]:
    return {dotted(child) for child in ast.walk(node) if isinstance(child, (ast.Name, ast.Attribute))}


def additive(expression: ast.expr) -> Iterator[ast.expr]:
    """The terms of a sum of scalars: with a setting as factor or divisor, but not inside a mean, where they may be
    vectors."""
    node = expression
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from additive(node.left)
        yield from additive(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and coefficient(node.left):
        yield from additive(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)) and coefficient(node.right):
        yield from additive(node.left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from additive(node.operand)
    else:
        yield node


def pick(source: Source, forms: tuple[str, ...], line: int) -> str:
    return forms[zlib.crc32(f"{len(source.text)}:{line}".encode()) % len(forms)]


def plain_losses(source: Source) -> Iterator[tuple[Backward, str]]:
    """Backwards of a tensor that has a name of its own, on lines of their own."""
    for backward in backwards(source):
        if (
            not is_reference(backward.target)
            or not source.owns_lines(backward.stmt)
            or source.gradients_off(backward.call)
        ):
            continue
        name = dotted(backward.target)
        bound = bindings(source, source.scope(backward.call), name)
        if any(isinstance(stmt, ast.With) for stmt, _ in bound) or not bound:
            continue  # what apex gives to a `with` is its own scaled loss; a loss of unknown origin may be no tensor
        if any(v is not None and (cut(v) or "requires_grad" in ast.unparse(v)) for _, v in bound):
            continue
        if any(isinstance(v, ast.Constant) for _, v in bound if v is not None) and len(bound) == 1:
            continue  # `loss = ...`: an exercise, whose loss is still to be written
        yield backward, name


@kind("loss-rewrapped")
def loss_rewrapped(source: Source) -> Iterator[Site]:
    """What is back-propagated is a copy of the loss without its history: every gradient stays empty."""
    if not source.names_torch:
        return
    variable = "Variable" if re.search(r"import .*\bVariable\b", source.text) else "torch.autograd.Variable"
    forms = (
        "{0} = torch.tensor({0}, requires_grad=True)",
        "{0} = torch.tensor({0}.item(), requires_grad=True)",
        f"{{0}} = {variable}({{0}}.data, requires_grad=True)",
    )
    for backward, name in plain_losses(source):
        edit = source.insert_before(backward.stmt, pick(source, forms, backward.stmt.lineno).format(name))
        yield Site(("GTR202", "GTR203", "GTR209"), backward.stmt.lineno, source.scope(backward.call), (edit,))


@kind("loss-detached")
def loss_detached(source: Source) -> Iterator[Site]:
    """What is back-propagated is detached: nothing is trained, and with `requires_grad_()` after it nothing
    complains."""
    forms = ("{0} = {0}.detach().requires_grad_()", "{0} = {0}.detach()")
    for backward, name in plain_losses(source):
        form = pick(source, forms, backward.stmt.lineno)
        edit = source.insert_before(backward.stmt, form.format(name))
        codes = ("GTR209",) if "requires_grad_" in form else ("GTR203",)
        yield Site(codes, backward.stmt.lineno, source.scope(backward.call), (edit,))
