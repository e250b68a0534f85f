"""Plant one trap in a copy of a real training file, and ask whether gradtrap finds it.

    python benchmarks/plant.py CORPUS_DIR... [--kind KIND]... [--limit N] [--seed N] [--json OUT] [--show-missed]
    python benchmarks/plant.py CORPUS_DIR... --dry-run --out FOLDER      only write the planted files and their diffs

CORPUS_DIR is a folder of checkouts of real repositories (or one checkout). Nothing of it is changed, nothing is copied
into this repository: a trap is planted in the text of one file in memory, and the checker reads that text under the
file's own path, so that what the file imports from its project still resolves.

Sites are found by syntax, with the standard library's `ast`, and by nothing of gradtrap, so that the measure does not
share the mistakes of what it measures. Planting is an edit of the text. Each kind below says why its edit is a real
trap where it is made; a site where that could not be told from the text is not used. At most three plants of a kind
per file.

A plant is *found* when a finding that the untouched file does not have carries an expected code, and stands in the
function of the edit (or of a use of what was edited, or at module level for module-level code), or at a call of that
function in the same file. *Masked* are plants where the untouched file has that finding at that place already: they
are not counted.
"""

from __future__ import annotations

import ast
import difflib
import json
import multiprocessing
import random
import re
import sys
import time
import tokenize
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

MAX_LINES = 3000
MAX_PLANTS = 3
"""Plants of one kind in one file, so that no file that repeats itself dominates."""

SKIPPED_FOLDERS = {".git", "test", "tests", "testing", "test_utils", "unit_tests", "site-packages", "node_modules"}
FOREIGN = {"jax", "flax", "tensorflow", "paddle", "mxnet", "oneflow", "mindspore", "cupy", "chainer"}
"""Libraries with a `backward` or a `step` of their own: where one is imported, it is not sure whose call a call is."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.While | ast.AsyncFor
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.While, ast.AsyncFor)
INNER_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign)


# ------------------------------------------------------------------------------------------------ source


@dataclass(frozen=True)
class Edit:
    """Replace the characters from `start` to `end` by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Site:
    """A place where a trap can be planted. Scopes are indices into `Source.functions`, -1 is the module's own code."""

    codes: tuple[str, ...]
    line: int
    scope: int
    edits: tuple[Edit, ...]
    more_scopes: tuple[int, ...] = ()


class Source:
    """A file, its tree, and the questions that eligibility asks."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.split("\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.parent: dict[ast.AST, ast.AST] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parent[child] = node
        self.functions: list[FunctionNode] = sorted(
            (node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)),
            key=lambda node: (node.lineno, node.col_offset),
        )

    # positions

    def offset(self, row: int, byte_column: int) -> int:
        """The index in the text of a position as `ast` gives it (columns in UTF-8 bytes)."""
        line = self.lines[row - 1]
        if line.isascii():
            return self.starts[row - 1] + byte_column
        return self.starts[row - 1] + len(line.encode()[:byte_column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def segment(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def owns_lines(self, stmt: ast.stmt) -> bool:
        """True where nothing but a comment shares the statement's lines."""
        start, end = self.span(stmt)
        last = self.starts[(stmt.end_lineno or stmt.lineno)] - 1
        before = self.text[self.starts[stmt.lineno - 1] : start]
        after = self.text[end:last].strip()
        return not before.strip() and (not after or after.startswith("#"))

    def indent(self, stmt: ast.stmt) -> str:
        return self.text[self.starts[stmt.lineno - 1] : self.span(stmt)[0]]

    # structure

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parent:
            node = self.parent[node]
            yield node

    def statement(self, node: ast.AST) -> ast.stmt:
        while not isinstance(node, ast.stmt):
            node = self.parent[node]
        return node

    def function(self, node: ast.AST) -> FunctionNode | None:
        return next((up for up in self.ancestors(node) if isinstance(up, FUNCTIONS)), None)

    def scope(self, node: ast.AST) -> int:
        function = self.function(node)
        return -1 if function is None else self.functions.index(function)

    def scope_node(self, scope: int) -> ast.Module | FunctionNode:
        return self.tree if scope < 0 else self.functions[scope]

    def loops(self, node: ast.AST) -> list[Loop]:
        """The loops around a node in its own function whose body runs it, the innermost first."""
        found: list[Loop] = []
        below = node
        for up in self.ancestors(node):
            if isinstance(up, INNER_SCOPES):
                break
            if isinstance(up, LOOPS) and below in up.body:
                found.append(up)
            below = up
        return found

    def block(self, stmt: ast.stmt) -> list[ast.stmt]:
        """The list of statements in which a statement stands."""
        parent = self.parent[stmt]
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(parent, name, None)
            if isinstance(statements, list) and stmt in statements:
                return statements
        return [stmt]

    @cached_property
    def blocks(self) -> list[list[ast.stmt]]:
        found: list[list[ast.stmt]] = []
        for node in ast.walk(self.tree):
            for name in ("body", "orelse", "finalbody"):
                statements = getattr(node, name, None)
                if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
                    found.append(statements)
        return sorted(found, key=lambda statements: statements[0].lineno)

    def own(self, root: ast.AST) -> Iterator[ast.AST]:
        """The nodes that run with `root`: not those of functions and classes that are only defined in it."""
        for child in ast.iter_child_nodes(root):
            if not isinstance(child, INNER_SCOPES):
                yield child
                yield from self.own(child)

    def branch_ends(self, node: ast.AST, top: ast.AST) -> bool:
        """True where a branch between `node` and `top` ends its path: what comes after does not follow `node`."""
        below = node
        for up in self.ancestors(node):
            if up is top or isinstance(up, INNER_SCOPES):
                return False
            if isinstance(up, ast.If):
                branch = up.body if below in up.body else up.orelse
                if branch and isinstance(branch[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break)):
                    return True
            below = up
        return False

    def exclusive(self, one: ast.AST, other: ast.AST) -> bool:
        """True where two nodes stand in different branches of one `if`."""
        mine = {up: below for below, up in _pairs(one, self.ancestors(one))}
        for below, up in _pairs(other, self.ancestors(other)):
            if up in mine:
                if isinstance(up, ast.IfExp):
                    return below is not mine[up]
                if isinstance(up, ast.If):
                    return (below in up.body) != (mine[up] in up.body) and up.test not in (below, mine[up])
                if isinstance(up, ast.Try):
                    return isinstance(below, ast.ExceptHandler) or isinstance(mine[up], ast.ExceptHandler)
                return False
        return False

    def gradients_off(self, node: ast.AST) -> bool:
        """True where the text around a node switches gradients off, or may do so."""
        for up in self.ancestors(node):
            if isinstance(up, ast.With) and any(_switches_off(item.context_expr) for item in up.items):
                return True
            if isinstance(up, FUNCTIONS) and any(_switches_off(decorator) for decorator in up.decorator_list):
                return True
        return False

    # what the file says of itself

    @cached_property
    def calls(self) -> list[ast.Call]:
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    @cached_property
    def uses_torch(self) -> bool:
        roots = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                roots.add(node.module.split(".")[0])
        return "torch" in roots and not roots & FOREIGN

    @cached_property
    def names_torch(self) -> bool:
        return any(
            isinstance(node, ast.Import) and any(a.name.split(".")[0] == "torch" and not a.asname for a in node.names)
            for node in self.tree.body
        )

    @cached_property
    def optimizers(self) -> set[str]:
        """The names to which the file assigns an optimizer of torch."""
        made = re.compile(r"(\boptim\.[A-Z]\w*|\b(Fused|CPU)?(Adam|AdamW|SGD|RMSprop|Adagrad|LBFGS|LAMB|Lamb|RAdam))$")
        found = set()
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and made.search(dotted(node.value.func))
            ):
                found |= {dotted(target) for target in node.targets}
        return found

    @cached_property
    def disabled_scalers(self) -> set[str]:
        """`GradScaler(enabled=False)`: nothing is scaled, so nothing of it can go wrong."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                for keyword in node.value.keywords:
                    if keyword.arg == "enabled" and isinstance(keyword.value, ast.Constant) and not keyword.value.value:
                        found |= {dotted(target) for target in node.targets}
        return found

    @cached_property
    def engine(self) -> bool:
        """DeepSpeed and Megatron step, clip and clear by themselves: an order of such calls around them is no trap."""
        return bool(re.search(r"deepspeed|megatron|DummyOptim", self.text, re.I))

    def called_in_loop(self, function: FunctionNode, depth: int = 2) -> bool:
        """True where the file itself calls a function, by its name, again and again."""
        if function.name in {"step", "forward", "__call__", "__init__", "main"}:
            return False
        for call in self.calls:
            if last_name(call.func) == function.name:
                if self.loops(call):
                    return True
                caller = self.function(call)
                if depth and caller is not None and caller is not function and self.called_in_loop(caller, depth - 1):
                    return True
        return False

    # edits

    def remove(self, stmt: ast.stmt) -> Edit:
        if len(self.block(stmt)) > 1 and self.owns_lines(stmt):
            return Edit(self.starts[stmt.lineno - 1], self.starts[stmt.end_lineno or stmt.lineno], "")
        return Edit(*self.span(stmt), "pass")

    def insert_before(self, stmt: ast.stmt, text: str) -> Edit:
        start = self.starts[stmt.lineno - 1]
        return Edit(start, start, f"{self.indent(stmt)}{text}\n")

    def insert_after(self, stmt: ast.stmt, text: str) -> Edit:
        end = self.starts[stmt.end_lineno or stmt.lineno] - 1
        return Edit(end, end, f"\n{self.indent(stmt)}{text}")

    def apply(self, edits: Iterable[Edit]) -> str:
        text = self.text
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text


def _pairs(node: ast.AST, ancestors: Iterable[ast.AST]) -> Iterator[tuple[ast.AST, ast.AST]]:
    below = node
    for up in ancestors:
        yield below, up
        below = up


def _switches_off(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return "no_grad" in text or "inference_mode" in text or "set_grad_enabled(False" in text


def dotted(node: ast.AST) -> str:
    """`self.model.fc` of such an expression; of any other, its normalised text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ast.unparse(node)


def last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def root_name(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def is_reference(node: ast.AST) -> bool:
    """A name, or attributes of one."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


# ------------------------------------------------------------------------------------------------ training code

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
        if NOT_A_LOSS.search(name.rsplit(".", 1)[-1]) or not bindings(source, source.scope(call), name):
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


# ------------------------------------------------------------------------------------------------ kinds

Planter = Callable[[Source], Iterator[Site]]
KINDS: dict[str, Planter] = {}


def kind(name: str) -> Callable[[Planter], Planter]:
    def register(planter: Planter) -> Planter:
        KINDS[name] = planter
        return planter

    return register


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


@kind("clip-step-swapped")
def clip_step_swapped(source: Source) -> Iterator[Site]:
    """The optimizer has taken the gradients unclipped when the clip runs, and they are cleared before they are used
    again.

    The file must clear gradients somewhere: if it never did, the clip after the step would bound those of the next one.
    """
    if "zero_grad" not in source.text or source.engine:
        return
    for block in source.blocks:
        for clip, step in pairwise(block):
            call = clip_statement(clip)
            what = step_statement(source, step)
            if call is None or what is None or what[1] in source.disabled_scalers:
                continue
            if not (source.owns_lines(clip) and source.owns_lines(step)):
                continue
            codes = ("GTR302", "GTR301") if what[1] else ("GTR302",)
            clip_text, step_text = source.segment(clip), source.segment(step)
            edits = (Edit(*source.span(clip), step_text), Edit(*source.span(step), clip_text))
            yield Site(codes, clip.lineno, source.scope(clip), edits)


PARAMETER_METHODS = {
    f"{prefix}{name}" for prefix in ("", "named_") for name in ("parameters", "buffers", "modules", "children")
}
LAZY = {"zip", "enumerate", "map", "filter", "chain", "tqdm"}
EAGER = {"list", "sum", "any", "all", "min", "max", "sorted", "set", "tuple", "dict", "frozenset"}
OPTIMIZER_CALL = re.compile(
    r"(\boptim\.\w+|\b(Fused|CPU)?(Adam|AdamW|SGD|RMSprop|Adagrad|LAMB|Lamb|RAdam|LBFGS)|optimizer_class)$"
)
STEPWISE = re.compile(r"step|update|clip|zero_grad|sync|ema|copy|store|restore|train_|learn|optimi[sz]e", re.I)


def lazy_form(source: Source, value: ast.expr) -> str | None:
    """The text of a one-shot iterator over the same parameters as a list of them."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "list":
        if len(value.args) != 1 or value.keywords:
            return None
        argument = value.args[0]
        if (
            isinstance(argument, ast.Call)
            and last_name(argument.func) in PARAMETER_METHODS
            and not isinstance(argument.func, ast.Name)
        ):
            return source.segment(argument)
        if isinstance(argument, ast.GeneratorExp) or (
            isinstance(argument, ast.Call) and last_name(argument.func) in {"filter", "map", "chain"}
        ):
            text = source.segment(argument)
            return text if re.search(r"\.(named_)?parameters\(\)", text) else None
        return None
    if isinstance(value, ast.ListComp):
        text = source.segment(value)
        return f"({text[1:-1]})" if re.search(r"\.(named_)?parameters\(\)", text) else None
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        parts: list[str] = []
        node: ast.expr = value
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts.insert(0, lazy_form(source, node.right) or "")
            node = node.left
        parts.insert(0, lazy_form(source, node) or "")
        return f"(p for ps in ({', '.join(parts)}) for p in ps)" if all(parts) else None
    return None


def how_used(source: Source, use: ast.AST) -> str:
    """What a use does with an iterator: "iterates" it, "passes" it on, or "fails" on what only a list can do."""
    parent = source.parent[use]
    if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is use:
        return "iterates"
    if isinstance(parent, ast.Starred):
        return how_used(source, parent)
    if isinstance(parent, ast.keyword):
        call = source.parent[parent]
        assert isinstance(call, ast.Call)
        return "iterates" if clip_call(call) or OPTIMIZER_CALL.search(dotted(call.func)) else "passes"
    if isinstance(parent, ast.Call) and use in parent.args:
        name = last_name(parent.func)
        if name in {"len", "reversed", "isinstance", "print", "id", "type"}:
            return "fails"
        if name in EAGER or isinstance(use, ast.Starred):
            return "iterates"
        if name in LAZY:
            return "iterates" if how_used(source, parent) == "iterates" else "passes"
        if clip_call(parent) is parent or OPTIMIZER_CALL.search(dotted(parent.func)):
            return "iterates"
        return "passes"
    if isinstance(parent, ast.Dict):
        for key, value in zip(parent.keys, parent.values, strict=True):
            if value is use and isinstance(key, ast.Constant) and key.value == "params":
                return (
                    "iterates"
                    if any(
                        isinstance(u, ast.Call) and OPTIMIZER_CALL.search(dotted(u.func)) for u in source.ancestors(use)
                    )
                    else "passes"
                )
        return "passes"
    if isinstance(parent, ast.Return):
        return "passes"
    return "fails"


@kind("list-dropped")
def list_dropped(source: Source) -> Iterator[Site]:
    """A list of parameters becomes the iterator that it was made from, and is iterated again.

    The name has one binding; its uses do nothing that only a list can do (an index, `len`, `+`: these would fail
    loudly, which is no silent trap); and two of them iterate it on one path, or one does in a loop that the binding
    stands outside of. The same for an attribute of `self` that a method which runs in each step iterates.
    """
    for assign in ast.walk(source.tree):
        if not isinstance(assign, ast.Assign) or len(assign.targets) != 1:
            continue
        lazy = lazy_form(source, assign.value)
        if lazy is None:
            continue
        target = assign.targets[0]
        scope = source.scope(assign)
        region: ast.AST = source.scope_node(scope)
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            owner = next((up for up in source.ancestors(assign) if isinstance(up, ast.ClassDef)), None)
            if owner is None:
                continue
            region = owner
        elif not isinstance(target, ast.Name):
            continue
        name = dotted(target)
        same = [
            node for node in ast.walk(region) if isinstance(node, (ast.Name, ast.Attribute)) and dotted(node) == name
        ]
        if sum(isinstance(node.ctx, (ast.Store, ast.Del)) for node in same) != 1:
            continue
        uses = sorted((node for node in same if isinstance(node.ctx, ast.Load)), key=lambda n: (n.lineno, n.col_offset))
        how = {use: how_used(source, use) for use in uses}
        if "fails" in how.values():
            continue
        iterating = [use for use in uses if how[use] == "iterates"]
        if isinstance(target, ast.Attribute):
            # Methods run again and again, so one that iterates the attribute in each step is enough.
            function = source.functions
            again = any(
                source.scope(use) != scope and STEPWISE.search(function[source.scope(use)].name) for use in iterating
            )
        else:
            outer = set(source.loops(assign))
            again = any(
                source.scope(use) == scope and set(_loops_that_repeat(source, use)) - outer for use in iterating
            ) or any(
                not source.exclusive(one, two) and not source.branch_ends(one, _common(source, one, two))
                for index, one in enumerate(iterating)
                for two in iterating[index + 1 :]
            )
        if again:
            scopes = tuple(sorted({source.scope(use) for use in iterating}))
            yield Site(("GTR101",), assign.lineno, scope, (Edit(*source.span(assign.value), lazy),), scopes)


@kind("iterator-shared")
def iterator_shared(source: Source) -> Iterator[Site]:
    """The optimizer and the clip get one and the same iterator, where each had a fresh call: the clip then clips
    nothing.

    The other way to the trap of a dropped `list`, and far more frequent in real code. Both calls are `M.parameters()`
    of the same M in one function; the optimizer is built in front of the clip on every path to it, and M is not bound
    in between.
    """
    for call in source.calls:
        if not OPTIMIZER_CALL.search(dotted(call.func)) or not call.args or last_name(call.func) == "optimizer_class":
            continue
        built = source.statement(call)
        first = call.args[0]
        if not _is_parameters(first) or not isinstance(built, ast.Assign) or not source.owns_lines(built):
            continue
        scope = source.scope(call)
        block = source.block(built)
        for other in source.calls:
            if clip_call(other) is None or not other.args or ast.unparse(other.args[0]) != ast.unparse(first):
                continue
            if source.scope(other) != scope or other.lineno <= built.lineno:
                continue
            stmt = next((up for up in (source.statement(other), *source.ancestors(other)) if up in block), None)
            if stmt is None or block.index(stmt) <= block.index(built):
                continue
            model = dotted(first.func.value)  # type: ignore[attr-defined]
            if any(built.lineno <= bind.lineno <= other.lineno for bind, _ in bindings(source, scope, model)):
                continue
            if "trained_params" in source.text:
                continue
            edits = (
                source.insert_before(built, f"trained_params = {source.segment(first)}"),
                Edit(*source.span(first), "trained_params"),
                Edit(*source.span(other.args[0]), "trained_params"),
            )
            yield Site(("GTR101",), built.lineno, scope, edits)
            break


def _is_parameters(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "parameters"
        and not node.args
        and is_reference(node.func.value)
    )


def _loops_that_repeat(source: Source, use: ast.AST) -> list[Loop]:
    """The loops that iterate a use again each time; the loop that runs over the use itself iterates it once."""
    return [loop for loop in source.loops(use) if not (isinstance(loop, ast.For) and use in ast.walk(loop.iter))]


def _common(source: Source, one: ast.AST, two: ast.AST) -> ast.AST:
    others = set(source.ancestors(two))
    return next(up for up in source.ancestors(one) if up in others)


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


@kind("item-dropped-sum")
def item_dropped_sum(source: Source) -> Iterator[Site]:
    """A running sum of what the loop back-propagates keeps the history of every step.

    The sum is made outside of the loop that contains both it and the backward, and is not itself back-propagated.
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
        if backward is not None and outlives(source, stmt, target, backward, ZERO):
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
        backward = keeps_live(source, stmt, pair[1])
        if backward is not None and outlives(source, stmt, target, backward, EMPTY):
            edit = Edit(*source.span(pair[0]), source.segment(pair[1]))
            yield Site(("GTR402", "GTR403"), stmt.lineno, source.scope(stmt), (edit,))


CLEARS = re.compile(r"zero_grad|\.grad = None|grad\.zero_|\.grad\.data\.zero_|clear_grad|reset_grad|_foreach_zero_")


@kind("zero-grad-removed")
def zero_grad_removed(source: Source) -> Iterator[Site]:
    """Each step then applies the gradients of all steps before it again.

    One loop contains the clearing, a backward and the step of one optimizer, and nothing else that clears, not in a
    function of the file that it calls either; the optimizer is not made anew in the loop. A function without a loop
    of its own counts where the file itself calls it in a loop, and clears nowhere else.
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
            called = {last_name(n.func) for n in everywhere if isinstance(n, ast.Call)}
            helpers = [f for f in source.functions if f.name in called and f is not function and f.name != "zero_grad"]
            if any(CLEARS.search(ast.unparse(helper)) for helper in helpers):
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
    called in each step).
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
        updates = [
            n for n in source.own(source.scope_node(scope)) if isinstance(n, ast.stmt) and method_call(n, "update")
        ]
        if sum(dotted(u.value.func.value) == scaler for u in updates) != 1:  # type: ignore[attr-defined]
            continue
        repeats = bool(source.loops(stmt)) or (
            function is not None and (source.called_in_loop(function) or scaler.startswith("self."))
        )
        if repeats:
            yield Site(("GTR306",), stmt.lineno, scope, (source.remove(stmt),))


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


# ------------------------------------------------------------------------------------------------ the corpus


@dataclass
class Plant:
    """One trap in one file, and what became of it."""

    kind: str
    repo: str
    path: str
    site: Site
    found: bool = False
    masked: bool = False
    error: str = ""
    new: list[str] = field(default_factory=list)
    """The new findings, as `CODE:row`."""
    seconds: float = 0.0

    def where(self) -> str:
        return f"{self.path}:{self.site.line}"


def is_repository(folder: Path) -> bool:
    """True for one checkout, by what lies in it (or beside it: NAME.meta); else its folders are checkouts."""
    signs = (".git", "README*", "readme*", "LICENSE*", "setup.*", "*.py")
    return folder.with_name(f"{folder.name}.meta").exists() or any(any(folder.glob(sign)) for sign in signs)


def python_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(repository, file) of every Python file that is not a test."""
    single = is_repository(folder)
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder)
        if SKIPPED_FOLDERS & set(inner.parts) or re.match(r"(test_.*|.*_test|conftest)\.py$", path.name):
            continue
        if path.is_file():
            yield (folder.name if single else inner.parts[0]), path


def read(path: Path) -> Source | None:
    """A file that can be planted in, or None."""
    try:
        with tokenize.open(path) as handle:
            text = handle.read()
        if "torch" not in text or text.count("\n") > MAX_LINES:
            return None
        source = Source(text)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    return source if source.uses_torch else None


def sites(source: Source, kinds: Iterable[str], seed: int) -> dict[str, list[Site]]:
    """The sites of each kind whose planted text still parses; of many, three that the seed chooses."""
    found: dict[str, list[Site]] = {}
    for name in kinds:
        good = []
        for site in KINDS[name](source):
            function = source.scope_node(site.scope)
            if isinstance(function, FUNCTIONS) and function.name.startswith("test_"):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ast.parse(source.apply(site.edits))
            except SyntaxError:
                continue
            if site not in good:
                good.append(site)
        if len(good) > MAX_PLANTS:
            good = random.Random(f"{seed}:{name}:{len(source.text)}").sample(good, MAX_PLANTS)
        if good:
            found[name] = sorted(good, key=lambda site: site.line)
    return found


def survey(task: tuple[str, Path, tuple[str, ...], int]) -> list[Plant]:
    repo, path, kinds, seed = task
    source = read(path)
    if source is None:
        return []
    found = sites(source, kinds, seed)
    return [Plant(name, repo, str(path), site) for name, group in found.items() for site in group]


def limited(plants: list[Plant], limit: int | None, seed: int) -> list[Plant]:
    """At most `limit` plants of each kind, taken from one repository after the other."""
    if limit is None:
        return plants
    chosen: list[Plant] = []
    for name in KINDS:
        by_repo: dict[str, list[Plant]] = defaultdict(list)
        for plant in plants:
            if plant.kind == name:
                by_repo[plant.repo].append(plant)
        rng = random.Random(f"{seed}:{name}")
        queues = [rng.sample(group, len(group)) for group in by_repo.values()]
        rng.shuffle(queues)
        taken = 0
        while any(queues) and taken < limit:
            for queue in queues:
                if queue and taken < limit:
                    chosen.append(queue.pop())
                    taken += 1
    return chosen


# ------------------------------------------------------------------------------------------------ the check

Checker = Callable[[str, Path], list[tuple[str, int]]]


def gradtrap_checker() -> Checker:
    """gradtrap with its defaults, as (code, row) of each finding."""
    from flake8_gradtrap.config import Settings
    from flake8_gradtrap.engine import check_source

    settings = Settings()

    def check(text: str, path: Path) -> list[tuple[str, int]]:
        return [(finding.code, finding.span.row) for finding in check_source(text, path, settings).findings]

    return check


def moved_rows(old: list[str], new: list[str]) -> dict[int, int]:
    """Where the untouched lines of a file are in its planted text."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    rows = {row: row for row in range(1, head + 1)}
    middle = difflib.SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail], autojunk=False)
    for match in middle.get_matching_blocks():
        rows |= {head + match.a + i + 1: head + match.b + i + 1 for i in range(match.size)}
    return rows | {len(old) - i: len(new) - i for i in range(tail)}


def new_findings(
    source: Source, planted: Source, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """What the planted text has and the untouched text does not.

    A finding on a line that the edit touches has no row to be matched by: there, as many of a code as before are not
    new.
    """
    rows = moved_rows(source.lines, planted.lines)
    kept = set(rows.values())
    expected = Counter((code, rows[row]) for code, row in before if row in rows)
    loose = Counter(code for code, row in before if row not in rows)
    fresh = []
    for code, row in after:
        if expected[code, row] > 0:
            expected[code, row] -= 1
        elif row not in kept and loose[code] > 0:
            loose[code] -= 1
        else:
            fresh.append((code, row))
    return fresh


def in_place(planted: Source, site: Site, row: int) -> bool:
    """True where a row lies in the function of the edit (or of a use), or at a call of it."""
    owner = -1
    for index, function in enumerate(planted.functions):
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        if first <= row <= (function.end_lineno or first):
            owner = index
            if index in (site.scope, *site.more_scopes):
                return True
    if owner in (site.scope, *site.more_scopes):
        return True
    if site.scope < 0:
        return False
    name = planted.functions[site.scope].name
    return any(last_name(c.func) == name and c.lineno <= row <= (c.end_lineno or c.lineno) for c in planted.calls)


_check: Checker | None = None


def judge(task: tuple[str, list[Plant]]) -> list[Plant]:
    """Check a file untouched, then with each of its plants."""
    global _check
    path, plants = task
    source = read(Path(path))
    assert source is not None
    try:
        _check = _check or gradtrap_checker()
        before = _check(source.text, Path(path))
    except Exception:
        for plant in plants:
            plant.error = traceback.format_exc()
        return plants
    for plant in plants:
        text = source.apply(plant.site.edits)
        planted = Source(text)
        start = time.process_time()
        try:
            after = _check(text, Path(path))
        except Exception:
            plant.error = traceback.format_exc()
            continue
        plant.seconds = time.process_time() - start
        fresh = new_findings(source, planted, before, after)
        plant.new = [f"{code}:{row}" for code, row in fresh]
        plant.found = any(code in plant.site.codes and in_place(planted, plant.site, row) for code, row in fresh)
        if not plant.found:
            plant.masked = any(code in plant.site.codes and in_place(planted, plant.site, row) for code, row in after)
    return plants


def diff(plant: Plant, context: int = 3) -> str:
    source = read(Path(plant.path))
    assert source is not None
    lines = difflib.unified_diff(
        source.lines, source.apply(plant.site.edits).split("\n"), plant.path, "planted", lineterm="", n=context
    )
    return "\n".join(lines)


def write_out(plants: list[Plant], folder: Path) -> None:
    """The planted files and their diffs, for reading. The folder must lie outside of the checkout."""
    checkout = Path(__file__).resolve().parent.parent
    if folder.resolve().is_relative_to(checkout):
        raise click.UsageError(f"--out {folder}: files of the corpus are never written into the checkout")
    for plant in plants:
        name = f"{plant.repo}__{Path(plant.path).stem}__{plant.site.line}"
        target = folder / plant.kind
        target.mkdir(parents=True, exist_ok=True)
        source = read(Path(plant.path))
        assert source is not None
        (target / f"{name}.py").write_text(source.apply(plant.site.edits), encoding="utf-8")
        (target / f"{name}.diff").write_text(diff(plant, 12) + "\n", encoding="utf-8")


def as_json(plant: Plant) -> dict[str, Any]:
    record = asdict(plant)
    record["line"], record["expected"] = plant.site.line, list(plant.site.codes)
    del record["site"]
    record["diff"] = diff(plant)
    return record


@click.command()
@click.argument("corpus", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Only this kind (may be repeated)."
)
@click.option("--limit", type=int, help="At most so many plants of each kind, spread over the repositories.")
@click.option("--seed", default=0, show_default=True, help="Chooses among many sites.")
@click.option(
    "--json", "json_out", type=click.Path(dir_okay=False, path_type=Path), help="Write every plant to this file."
)
@click.option("--show-missed", is_flag=True, help="Print place and diff of each miss.")
@click.option("--dry-run", is_flag=True, help="Only count the plants (and write them, with --out).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for planted files and diffs.")
@click.option("-j", "--jobs", default=2, show_default=True, help="Processes.")
def main(
    corpus: tuple[Path, ...],
    kinds: tuple[str, ...],
    limit: int | None,
    seed: int,
    json_out: Path | None,
    show_missed: bool,
    dry_run: bool,
    out: Path | None,
    jobs: int,
) -> None:
    """Plant one trap at a time in the real training code of CORPUS, and count how many gradtrap finds."""
    chosen = kinds or tuple(KINDS)
    tasks = [(repo, path.resolve(), chosen, seed) for folder in corpus for repo, path in python_files(folder)]
    with multiprocessing.Pool(jobs) as pool:
        surveyed = [plant for group in pool.imap(survey, tasks, chunksize=8) for plant in group]
        plants = limited(surveyed, limit, seed)
        if out is not None:
            write_out(plants, out)
        if not dry_run:
            by_path: dict[str, list[Plant]] = defaultdict(list)
            for plant in plants:
                by_path[plant.path].append(plant)
            plants = [plant for group in pool.imap_unordered(judge, by_path.items()) for plant in group]
            plants.sort(key=lambda plant: (plant.kind, plant.path, plant.site.line))
    report(chosen, surveyed, plants, dry_run, len(tasks))
    if json_out is not None:
        json_out.write_text(json.dumps([as_json(plant) for plant in plants], indent=1) + "\n", encoding="utf-8")
    if show_missed and not dry_run:
        for plant in plants:
            if not plant.found and not plant.masked:
                click.echo(
                    f"\n{'=' * 100}\nMISSED {plant.kind} {plant.where()}  expected {' or '.join(plant.site.codes)}"
                )
                click.echo(f"new findings: {', '.join(plant.new) or 'none'}\n{plant.error}{diff(plant)}")
    sys.exit(1 if any(plant.error for plant in plants) else 0)


def report(chosen: Iterable[str], surveyed: list[Plant], plants: list[Plant], dry_run: bool, files: int) -> None:
    click.echo(f"{files} files, {len({plant.path for plant in surveyed})} with a place for a trap")
    columns = ["chosen", "repos"] if dry_run else ["planted", "masked", "found", "missed", "errors", "rate"]
    click.echo(f"{'kind':22} {'eligible':>8} " + " ".join(f"{column:>8}" for column in columns))
    for name in chosen:
        eligible = sum(plant.kind == name for plant in surveyed)
        mine = [plant for plant in plants if plant.kind == name]
        if dry_run:
            click.echo(f"{name:22} {eligible:8} {len(mine):8} {len({plant.repo for plant in mine}):8}")
            continue
        masked = sum(plant.masked for plant in mine)
        found = sum(plant.found for plant in mine)
        errors = sum(bool(plant.error) for plant in mine)
        counted = len(mine) - masked
        rate = f"{100 * found / counted:.1f}%" if counted else "-"
        counts = f"{len(mine):8} {masked:8} {found:8} {counted - found:8} {errors:8} {rate:>8}"
        click.echo(f"{name:22} {eligible:8} {counts}")
    if not dry_run:
        click.echo(f"CPU seconds in the checker on planted files: {sum(plant.seconds for plant in plants):.1f}")


if __name__ == "__main__":
    main()
