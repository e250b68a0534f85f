"""Real training files as the planter sees them: text and syntax, by the standard library, nothing of gradtrap."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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

    def __init__(self, text: str, path: Path | None = None) -> None:
        self.text = text
        self.path = path
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
