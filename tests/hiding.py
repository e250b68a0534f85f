"""Programs of which less can be seen: knowledge is taken away, or the same is said in another way.

Unknown is innocent, so none of these changes may bring a finding that was not there before. Each is an edit of the
text, at one place, chosen by chance.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flake8_gradtrap.config import NOT_ANALYSED, Settings
from flake8_gradtrap.engine import check_source

Edit = tuple[int, int, str]
"""What stands between two offsets, and what takes its place."""
Hidden = tuple[str, list[Edit]]
"""What is hidden, in the words of the program, and the edits that do it."""
Findings = set[tuple[str, int]]
"""Codes and rows."""

_OBJECTS = re.compile(
    r"optim|scaler|model|net|loss|load|sched|grad|param|critic|actor|policy|accel|hidden|state|batch|out|pred|log|fake",
    re.IGNORECASE,
)
"""Names that are worth it."""


@dataclass(frozen=True)
class Mutant:
    """A program with something hidden. `kind`: in which way; `added`: the rows before which one was inserted."""

    kind: str
    what: str
    text: str
    added: tuple[int, ...]

    def row(self, row: int) -> int:
        """The row of the original."""
        for place in self.added:
            if row > place:
                row -= 1
        return row


class Program:
    """A text with its tree, and the offsets of its nodes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.lines = text.split("\n")
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]
        self.classes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        self.quoted = {
            part for node in ast.walk(self.tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
        }
        """What stands in f-strings, where no quotes may be added."""

        imports = [node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.modules = {(name.asname or name.name).partition(".")[0] for node in imports for name in node.names}
        """What is imported."""

    @staticmethod
    def root(node: ast.expr) -> str:
        """The name with which a dotted expression begins."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return node.id if isinstance(node, ast.Name) else ""

    def offset(self, row: int, column: int) -> int:
        return self._starts[row - 1] + len(self.lines[row - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def shown(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def stands_alone(self, node: ast.stmt) -> bool:
        """Whether nothing else stands on the lines of a statement."""
        start, end = self.span(node)
        before = self.text[self._starts[node.lineno - 1] : start]
        return not before.strip() and re.match(r"[ ]*(#.*)?(\n|$)", self.text[end:]) is not None

    def statements(self, *kinds: type[ast.stmt]) -> Iterator[ast.stmt]:
        for node in ast.walk(self.tree):
            if isinstance(node, kinds) and self.stands_alone(node):
                yield node

    def assignments(self) -> Iterator[tuple[ast.Assign, ast.expr]]:
        """Those of one name or attribute that is worth it."""
        for node in self.statements(ast.Assign):
            assert isinstance(node, ast.Assign)
            target = node.targets[0]
            named = len(node.targets) == 1 and isinstance(target, ast.Name | ast.Attribute)
            if named and _OBJECTS.search(self.shown(target)):
                yield node, target

    def mutant(self, kind: str, hidden: Hidden) -> Mutant | None:
        """The program after these edits; None if it is none any more."""
        what, edits = hidden
        first = self.tree.body[0]
        if not self.stands_alone(first):
            return None
        end = self.span(first)[1]
        pieces, place = [], 0
        for start, stop, new in sorted([*edits, (end, end, "; import elsewhere")]):
            if start < place:
                return None
            pieces += [self.text[place:start], new]
            place = stop
        text = "".join([*pieces, self.text[place:]])
        added = [self.text.count("\n", 0, start) + 1 for start, _, new in edits for _ in range(new.count("\n"))]
        try:
            ast.parse(text)
        except SyntaxError:
            return None
        return Mutant(kind, what, text, tuple(sorted(added, reverse=True)))


# -- knowledge is taken away ------------------------------------------------------------------------------------------


def done_elsewhere(program: Program) -> Iterator[Hidden]:
    """A call that is a statement: unseen code gets the object and the arguments, and may have done just that."""
    for node in program.statements(ast.Expr):
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr == "backward":
            continue
        if program.root(call.func) not in program.modules:
            start, end = program.span(call.func)
            given = ", " if call.args or call.keywords else ""
            holder = program.shown(call.func.value)
            bracket = program.text.index("(", end)
            yield program.shown(node), [(start, bracket + 1, f"elsewhere.do({holder}{given}")]


def wrapped(program: Program) -> Iterator[Hidden]:
    """What was just made goes through unseen code, which returns something."""
    for node, target in program.assignments():
        name, end = program.shown(target), program.span(node)[1]
        yield program.shown(node), [(end, end, f"; {name} = elsewhere.wrap({name})")]


def handed_over(program: Program) -> Iterator[Hidden]:
    """Unseen code gets whatever a function has in its hands, between two of its statements."""
    for function in program.functions:
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and _OBJECTS.search(node.id)}
        for node in ast.walk(function):
            if names and isinstance(node, ast.Expr | ast.Assign) and program.stands_alone(node):
                start = program.span(node)[0]
                yield program.shown(node), [(start, start, f"elsewhere.see({', '.join(sorted(names))}); ")]


def decorated(program: Program) -> Iterator[Hidden]:
    """Nothing is known of a decorator."""
    for node in [*program.functions, *program.classes]:
        row = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        start = program.offset(row, node.col_offset)
        yield node.name, [(start, start, "@elsewhere.decorator\n" + " " * node.col_offset)]


def of_another_base(program: Program) -> Iterator[Hidden]:
    """A base class that cannot be seen comes first."""
    for node in program.classes:
        header = re.compile(r"class\s+\w+\s*(\(\s*)?(\))?").match(program.text, program.span(node)[0])
        assert header is not None
        if header[2] is None:
            end = header.end()
            yield node.name, [(end, end, "elsewhere.Base, " if header[1] else "(elsewhere.Base)")]


def in_unseen_context(program: Program) -> Iterator[Hidden]:
    """A block runs under a context that cannot be seen, in place of the one that stood there."""
    for node in ast.walk(program.tree):
        for item in node.items if isinstance(node, ast.With) else ():
            yield program.shown(item.context_expr), [(*program.span(item.context_expr), "elsewhere.context()")]


def set_elsewhere(program: Program) -> Iterator[Hidden]:
    """A setting of another module stands for a truth value."""
    for node in ast.walk(program.tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
                    yield (
                        f"{keyword.arg} of {program.shown(node)}",
                        [(*program.span(keyword.value), "elsewhere.setting")],
                    )


# -- the same in other words ------------------------------------------------------------------------------------------


def _uses(program: Program, function: ast.FunctionDef, name: str, behind: int) -> list[ast.Name]:
    """Where a name is read behind a place, if it is bound once in the function, and by nothing within it."""
    found, bound = [], 0
    for node in ast.walk(function):
        if isinstance(node, ast.Global | ast.Nonlocal) and name in node.names:
            return []
        if isinstance(node, ast.arg) and node.arg == name:
            bound += 1
        if isinstance(node, ast.Name) and node.id == name:
            if not isinstance(node.ctx, ast.Load):
                bound += 1
            elif program.span(node)[0] > behind and node not in program.quoted:
                found.append(node)
    return found if bound == 1 else []


def _bound_once(program: Program) -> Iterator[tuple[str, int, list[ast.Name]]]:
    """Local variables that are bound once: the name, the end of the assignment, the uses."""
    for function in program.functions:
        inside = set(ast.walk(function))
        for node, target in program.assignments():
            if node in inside and isinstance(target, ast.Name):
                end = program.span(node)[1]
                if uses := _uses(program, function, target.id, end):
                    yield target.id, end, uses


def by_another_name(program: Program) -> Iterator[Hidden]:
    """Half of the uses go through another name of the same object."""
    for name, end, uses in _bound_once(program):
        yield name, [(end, end, f"; same = {name}"), *((*program.span(use), "same") for use in uses[::2])]


def in_a_dict(program: Program) -> Iterator[Hidden]:
    for name, end, uses in _bound_once(program):
        edits = [(*program.span(use), "kept['it']") for use in uses]
        yield name, [(end, end, f"; kept = {{'it': {name}}}"), *edits]


def in_an_object(program: Program) -> Iterator[Hidden]:
    for name, end, uses in _bound_once(program):
        edits = [(*program.span(use), f"kept.{name}") for use in uses]
        yield name, [(end, end, f"; kept = elsewhere.Box(); kept.{name} = {name}"), *edits]


def packed(program: Program) -> Iterator[Hidden]:
    """Through a tuple, and out of it."""
    for node, target in program.assignments():
        (start, end), (first, last) = program.span(target), program.span(node.value)
        name = program.text[start:end]
        yield program.shown(node), [(start, end, f"({name}, rest)"), (first, first, "("), (last, last, ", 0)")]


WAYS: dict[str, Callable[[Program], Iterator[Hidden]]] = {
    way.__name__: way
    for way in (
        done_elsewhere, wrapped, handed_over, decorated, of_another_base, in_unseen_context, set_elsewhere,
        by_another_name, in_a_dict, in_an_object, packed,
    )
}  # fmt: skip


def mutants(text: str, chance: random.Random, count: int) -> Iterator[Mutant]:
    """So many mutants of a program. First the way is drawn, then the place: some have more places than others."""
    program = Program(text)
    places: dict[str, list[Hidden]] = {}
    for _ in range(count):
        kind = chance.choice(list(WAYS))
        if kind not in places:
            places[kind] = list(WAYS[kind](program))
        if places[kind]:
            mutant = program.mutant(kind, chance.choice(places[kind]))
            if mutant is not None:
                yield mutant


def findings(text: str, path: str, settings: Settings) -> Findings:
    return {
        (finding.code, finding.span.row)
        for finding in check_source(text, path, settings).findings
        if finding.code != NOT_ANALYSED or "internal" in finding.message
    }
