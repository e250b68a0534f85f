"""Puts probes into the source of a program, at the sites that matter; every node keeps its line and column.

A probe is a call of `__gradtrap__.…(number, value)` that returns its value as it is: no expression is evaluated twice,
or in another order, and no frame comes to stand around a call of the program.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from flake8_gradtrap.runtime.confirm.places import Place, statement_of

NAME = "__gradtrap__"

RELEVANT = frozenset(
    "backward manual_backward zero_grad step unscale_ clip_grad_norm_ clip_grad_value_ clip_grad_norm eval".split()
)
"""Attributes that make a function worth following: its loops are told."""

LEAVE = frozenset({"GTR201", "GTR202", "GTR203", "GTR209"})
"""Rules about values that leave the graph on their way to the loss."""

MODES = frozenset({"GTR601", "GTR602", "GTR603"})
"""Rules about calls of modules."""

_ONE_SHOT = frozenset(
    "parameters named_parameters buffers named_buffers modules named_modules children named_children filter map zip "
    "enumerate reversed iter chain islice takewhile dropwhile from_iterable starmap".split()
)
_CONSUMERS = frozenset(
    "list tuple sum sorted set max min any all dict frozenset clip_grad_norm_ clip_grad_value_ clip_grad_norm "
    "get_total_norm clip_grads_with_norm_ stack cat deque add_param_group".split()
)
_READS = frozenset({"item", "tolist", "numpy"})
_COPIES = frozenset("tensor Tensor FloatTensor DoubleTensor HalfTensor from_numpy new_tensor Variable".split())
_CUTS = frozenset({"detach", "detach_"})
_KEEPS = frozenset({"append", "extend", "insert", "appendleft"})

S = TypeVar("S", bound=ast.stmt)


@dataclass(frozen=True, slots=True)
class Spot:
    """What a probe is told about the place at which it stands."""

    place: Place
    label: str = ""
    what: str = ""
    flag: bool = False
    function: str = ""
    definition: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rows of a file that a finding names, by rule: those where it is reported, and those of its trace."""

    reported: Mapping[int, frozenset[str]]
    traced: Mapping[int, frozenset[str]]


def words_of(node: ast.AST) -> tuple[frozenset[str], frozenset[str]]:
    """The names and the attributes in a piece of syntax."""
    names = frozenset(one.id for one in ast.walk(node) if isinstance(one, ast.Name))
    attributes = frozenset(one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute))
    return names, attributes


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def relevant_names(trees: Iterable[ast.AST]) -> frozenset[str]:
    """The names of all functions of a project in which training may happen, or which call such a one."""
    mentions: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    for tree in trees:
        for function in functions(tree):
            names, attributes = words_of(function)
            known = mentions.get(function.name, (frozenset(), frozenset()))
            mentions[function.name] = (known[0] | names, known[1] | attributes)
    found = {name for name, (_, attributes) in mentions.items() if not attributes.isdisjoint(RELEVANT)}
    grown = found
    while grown:
        grown = {
            name
            for name, (names, attributes) in mentions.items()
            if name not in found and not (names | attributes).isdisjoint(grown) and not name.startswith("__")
        }
        found = found | grown
    return frozenset(found)


class Rewriter(ast.NodeTransformer):
    """Rewrites the tree of one file. `spots` is shared by all files: a probe's number is its index."""

    def __init__(
        self,
        file: str,
        tree: ast.Module,
        wanted: Wanted,
        relevant: frozenset[str],
        spots: list[Spot],
        modes: bool = True,
    ) -> None:
        self.file = file
        self.tree = tree
        self.wanted = wanted
        self.relevant = relevant
        self.spots = spots
        self.modes = modes
        """A finding of the project asks which modules are called."""
        self.function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
        self.follows = True
        """Whether the function that is rewritten is worth following."""
        self.rules: frozenset[str] = frozenset()
        """The rules with a finding in the function that is rewritten."""
        self.loops: list[ast.stmt] = []
        self.receiver = ""
        """What methods call their instance here."""

    def rewrite(self) -> ast.Module:
        self.rules = self._rules_in(self.tree)
        self.tree.body = self._block(self.tree.body)
        return ast.fix_missing_locations(self.tree)

    # -- what matters -------------------------------------------------------------------------------------------------

    def _rules_in(self, node: ast.AST) -> frozenset[str]:
        first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", None) or 10**9
        found: set[str] = set()
        for rows in (self.wanted.reported, self.wanted.traced):
            for row, codes in rows.items():
                if first <= row <= last:
                    found |= codes
        return frozenset(found)

    def _codes(self, node: ast.AST, traced: bool = True) -> frozenset[str]:
        """The rules with a finding (or a step of one) in the statement of a node."""
        _, first, last = statement_of(self.file, getattr(node, "lineno", 0))
        found: set[str] = set()
        for row in range(first, last + 1):
            found |= self.wanted.reported.get(row, frozenset())
            if traced:
                found |= self.wanted.traced.get(row, frozenset())
        return frozenset(found)

    @cached_property
    def iterators(self) -> frozenset[str]:
        """The names that hold one-shot iterators, as far as this file shows."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and _one_shot(node.value):
                found |= {name for target in node.targets if (name := _last(target))}
            elif isinstance(node, ast.arg) and node.arg.lower().endswith(("params", "parameters")):
                found.add(node.arg)
        for node in ast.walk(self.tree):  # other names of the same
            if isinstance(node, ast.Assign) and _last(node.value) in found:
                found |= {name for target in node.targets if (name := _last(target))}
        return frozenset(found)

    # -- making probes ------------------------------------------------------------------------------------------------

    def _spot(self, node: ast.AST, label: str = "", what: str = "", flag: bool = False) -> int:
        first: int = getattr(node, "lineno", 1)
        last: int = getattr(node, "end_lineno", None) or first
        ends: int = getattr(node, "end_col_offset", None) or 0
        place = Place(self.file, first, getattr(node, "col_offset", 0), last, ends)
        function = self.function.name if self.function is not None else ""
        definition = self.function.lineno if self.function is not None else 0
        self.spots.append(Spot(place, label, what, flag, function, definition))
        return len(self.spots) - 1

    @staticmethod
    def _probe(name: str, number: int, at: ast.AST, *values: ast.expr) -> ast.Call:
        call = ast.Call(
            ast.Attribute(ast.Name(NAME, ast.Load()), name, ast.Load()), [ast.Constant(number), *values], []
        )
        for node in (call, call.func, call.func.value, call.args[0]):  # type: ignore[attr-defined]
            ast.copy_location(node, at)
        return call

    def _alone(self, name: str, number: int, at: ast.AST, *values: ast.expr) -> ast.stmt:
        return ast.copy_location(ast.Expr(self._probe(name, number, at, *values)), at)

    # -- statements ---------------------------------------------------------------------------------------------------

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        new: list[ast.stmt] = []
        for place, statement in enumerate(body):
            first = place == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            if first or future:
                new.append(statement)
                continue
            if self._codes(statement, traced=False):
                new.append(self._alone("hit", self._spot(statement), statement))
            new += self._statement(statement)
        return new

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return [self._def(node)]
        if isinstance(node, ast.ClassDef):
            outer = self.receiver
            node.body = self._block(node.body)
            self.receiver = outer
            return [node]
        if isinstance(node, ast.For | ast.While):
            return self._loop(node)
        before, after = self._around(node)
        if isinstance(node, ast.If) and self.follows and _modulo(node.test):
            modulo = node.test
            number = self._spot(modulo, ast.unparse(modulo.right))  # type: ignore[attr-defined]
            node.test = self.visit(modulo)
            node.test = self._window(number, node.test, modulo)  # type: ignore[assignment]
        for name in ("body", "orelse", "finalbody"):
            if isinstance(getattr(node, name, None), list):
                setattr(node, name, self._block(getattr(node, name)))
        for handler in getattr(node, "handlers", ()):
            handler.body = self._block(handler.body)
        for case in getattr(node, "cases", ()):
            case.body = self._block(case.body)
        self._expressions(node)
        if isinstance(node, ast.Assign) and not self.rules.isdisjoint(LEAVE) and _simple(node.targets[0]):
            inner = _cut_in(node.value)
            if inner >= 0:
                after.append(self._alone("follow", inner, node, _load(node.targets[0])))
        return [*before, node, *after]

    def _expressions(self, node: ast.AST) -> None:
        """Rewrite the expressions of a statement; its blocks are done."""
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, field, self.visit(value))
            elif isinstance(value, list):
                for place, part in enumerate(value):
                    if isinstance(part, ast.expr):
                        value[place] = self.visit(part)
                    elif isinstance(part, ast.withitem):
                        part.context_expr = self.visit(part.context_expr)

    def _def(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
        kept = self.function, self.follows, self.rules, self.loops, self.receiver
        self.function, self.loops = node, []
        self.rules = self._rules_in(node)
        self.follows = node.name in self.relevant or bool(self.rules)
        arguments = [*node.args.posonlyargs, *node.args.args]
        self.receiver = arguments[0].arg if arguments else ""
        node.body = self._block(node.body)
        self.function, self.follows, self.rules, self.loops, self.receiver = kept
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        return node

    def _loop(self, node: ast.For | ast.While) -> list[ast.stmt]:
        over = node.iter if isinstance(node, ast.For) else None
        told = self.follows or (over is not None and not self.iterators.isdisjoint(_names(over)))
        if told:
            label = ast.unparse(over) if over is not None else ""
            number = self._spot(node, label, ast.unparse(over.args[-1]) if _counts(over) else "")  # type: ignore[union-attr]
        self._expressions(node)
        self.loops.append(node)
        node.body = self._block(node.body)
        self.loops.pop()
        node.orelse = self._block(node.orelse)
        if not told:
            return [node]
        node.body.insert(0, self._alone("turn", number, node))
        left = self._alone("left_loop", number, node)
        if isinstance(node, ast.For):
            node.iter = self._probe("loop", number, node.iter, node.iter)
            return [node, left]
        return [self._alone("enter", number, node), node, left]

    def _around(self, node: ast.stmt) -> tuple[list[ast.stmt], list[ast.stmt]]:
        """Probes before and after a statement."""
        before: list[ast.stmt] = []
        after: list[ast.stmt] = []
        codes = self._codes(node)
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            self._sum(node, node.target, codes, before, after)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets: list[ast.expr] = list(node.targets) if isinstance(node, ast.Assign) else [node.target]
            self._assigned(node, targets, codes, before, after)
        elif isinstance(node, ast.Return) and node.value is not None and "GTR403" in codes:
            node.value = self._probe("returned", self._spot(node, ast.unparse(node.value)), node, node.value)
        elif isinstance(node, ast.Expr) and "GTR701" in codes and isinstance(node.value, ast.Call):
            after += self._attributes(node, [node.value.func])
        if "GTR209" in codes and isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
                    number = self._spot(node, ast.unparse(target.value), f"`{ast.unparse(node)}`")
                    before.append(self._alone("force", number, node, _load(target.value)))
        return before, after

    def _assigned(
        self,
        node: ast.Assign | ast.AnnAssign,
        targets: list[ast.expr],
        codes: frozenset[str],
        before: list[ast.stmt],
        after: list[ast.stmt],
    ) -> None:
        value = node.value
        assert value is not None
        if (
            len(targets) == 1
            and isinstance(value, ast.BinOp)
            and isinstance(value.op, ast.Add)
            and (self.loops or "GTR401" in codes or isinstance(targets[0], ast.Attribute))
        ):
            own = ast.unparse(targets[0])
            for side, other in (("left", "right"), ("right", "left")):
                if ast.unparse(getattr(value, side)) == own and _simple(targets[0]):
                    number = self._spot(getattr(value, other), own, ast.unparse(getattr(value, other)))
                    setattr(value, other, self._probe("term", number, getattr(value, other), getattr(value, other)))
                    after.append(self._alone("total", number, node, _load(targets[0])))
                    break
        if "GTR405" in codes or (self.follows and self.loops and isinstance(value, ast.Call)):
            used = _names(value)
            for target in _flat(targets):
                named = isinstance(target, ast.Name) and target.id in used
                if named or ("GTR405" in codes and _simple(target)):
                    number = self._spot(node, ast.unparse(target))
                    after.append(self._alone("state", number, node, _load(target)))
        if not codes.isdisjoint(("GTR701", "GTR702")):
            after += self._attributes(node, targets)
        if "GTR710" in codes:
            number = self._spot(value, ast.unparse(targets[0]))
            node.value = self._probe("state_taken", number, value, value)
        last = {_last(target) for target in targets}
        if not last.isdisjoint(self.iterators) and _one_shot(value):
            number = self._spot(value, ast.unparse(targets[0]), f"`{ast.unparse(value)[:60]}`", _of_parameters(value))
            node.value = self._probe("made", number, value, node.value or value)
        stored = [target for target in targets if isinstance(target, ast.Subscript)]
        if stored and (self.loops or "GTR402" in codes):
            number = self._spot(value, ast.unparse(value)[:60], ast.unparse(stored[0].value))
            node.value = self._probe("stored", number, value, node.value or value)

    def _sum(
        self,
        node: ast.AugAssign,
        target: ast.expr,
        codes: frozenset[str],
        before: list[ast.stmt],
        after: list[ast.stmt],
    ) -> None:
        if not _simple(target):
            return
        label, said = ast.unparse(target), ast.unparse(node.value)
        if not self.rules.isdisjoint(LEAVE):
            number = self._spot(node, label, "+")
            before.append(self._alone("part", number, node, _load(target), ast.Constant(0)))
            node.value = self._probe("part", number, node.value, node.value, ast.Constant(1))
            after.append(self._alone("joined", number, node, _load(target)))
        if (
            isinstance(node.op, ast.Add)
            and (self.loops or not codes.isdisjoint(("GTR401", "GTR402")) or isinstance(target, ast.Attribute))
            and not isinstance(node.value, ast.Constant)
        ):
            number = self._spot(node.value, label, said)
            node.value = self._probe("term", number, node.value, node.value)
            after.append(self._alone("total", number, node, _load(target)))

    def _attributes(self, node: ast.stmt, targets: list[ast.expr]) -> list[ast.stmt]:
        """Look at attributes of the instance after they were assigned."""
        probes = []
        for target in _flat(targets):
            while isinstance(target, ast.Attribute) and not isinstance(target.value, ast.Name):
                target = target.value
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and self.receiver:
                number = self._spot(node, target.value.id, target.attr)
                probes.append(self._alone("attribute", number, node, _load(target.value)))
        return probes

    # -- expressions --------------------------------------------------------------------------------------------------

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and _last(node.func.value) == NAME:
            return self.generic_visit(node)  # a probe
        codes = self._codes(node)
        name = _last(node.func)
        target = node.func.value if isinstance(node.func, ast.Attribute) else None
        keeps = name in _KEEPS and target is not None and bool(node.args)
        kept = keeps and (self.loops or "GTR402" in codes or isinstance(target, ast.Attribute))
        module = self._may_be_module(node)
        said = ast.unparse(node)[:60]
        label = ast.unparse(target) if target is not None else ""
        self._arguments(node, name, codes)
        self.generic_visit(node)
        if kept and isinstance(node.func, ast.Attribute):
            number = self._spot(node.args[-1], said.partition("(")[2][:-1], label)
            node.args[-1] = self._probe("stored", number, node.args[-1], node.args[-1])
            node.func.value = self._probe("holder", number, node.func.value, node.func.value)
        left = node if codes.isdisjoint(LEAVE) else self._leaving(node, name, codes, said)
        if module and left is node:
            number = self._spot(node, ast.unparse(node.func))
            node.func = self._probe("callee", number, node.func, node.func)
            return self._probe("output", number, node, node)
        return left

    def _leaving(self, node: ast.Call, name: str, codes: frozenset[str], said: str) -> ast.AST:
        """A value may leave its graph here."""
        how = ""
        if "GTR201" in codes and (name in _READS or (name in ("float", "int") and isinstance(node.func, ast.Name))):
            how = "number"
        elif not codes.isdisjoint(("GTR202", "GTR209")) and name in _COPIES:
            how = "copied"
        elif "GTR203" in codes and name in _CUTS:
            how = "cut"
        elif "GTR209" in codes and name == "requires_grad_":
            how = "forced"
        if not how:
            return node
        forces = any(one.arg == "requires_grad" for one in node.keywords)
        number = self._spot(node, said, "forced" if forces else "", forces)
        if isinstance(node.func, ast.Attribute) and (name not in _COPIES or name == "new_tensor"):
            node.func.value = self._probe("source", number, node.func.value, node.func.value)
        elif node.args:
            node.args[0] = self._probe("source", number, node.args[0], node.args[0])
        return self._probe(how, number, node, node)

    def _arguments(self, node: ast.Call, name: str, codes: frozenset[str]) -> None:
        """One-shot iterators that are handed to what consumes them."""
        lowered = name.lower()
        consumes = name in _CONSUMERS or "GTR101" in codes
        if not consumes and not any(part in lowered for part in ("adam", "sgd", "optim", "prop", "adagrad")):
            return
        parts: list[tuple[list[ast.expr], int]] = [(node.args, place) for place in range(len(node.args))]
        for argument in node.args:
            for group in argument.elts if isinstance(argument, ast.List) else [argument]:
                if isinstance(group, ast.Dict):
                    parts += [(group.values, place) for place in range(len(group.values))]
        for holder, place in parts:
            value = holder[place]
            named = _simple(value) and _last(value) in self.iterators
            if named or ("GTR101" in codes and not isinstance(value, ast.Constant | ast.Starred)):
                number = self._spot(node, ast.unparse(value), f"`{name}`")
                holder[place] = self._probe("used", number, value, value)

    def _may_be_module(self, node: ast.Call) -> bool:
        """Whether a call may be that of a module, in a function where that matters."""
        if not self.modes or not self.follows or not _simple(node.func):
            return False
        if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
            return False
        if isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id):
            return False
        _, attributes = self._words(self.function or self.tree)
        return not attributes.isdisjoint(("backward", "eval")) or not self.rules.isdisjoint(MODES)

    def _words(self, node: ast.AST) -> tuple[frozenset[str], frozenset[str]]:
        cached = getattr(node, "_gradtrap_words", None)
        if cached is None:
            cached = words_of(node)
            node._gradtrap_words = cached  # type: ignore[attr-defined]
        found: tuple[frozenset[str], frozenset[str]] = cached
        return found

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        codes = self._codes(node)
        said = ast.unparse(node)
        self.generic_visit(node)
        if node.attr == "data" and isinstance(node.ctx, ast.Load) and "GTR203" in codes:
            number = self._spot(node, said)
            node.value = self._probe("source", number, node.value, node.value)
            return self._probe("cut", number, node, node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        said = ast.unparse(node)[:60]
        self.generic_visit(node)
        sign = {ast.Add: "+", ast.Sub: "+", ast.Mult: "*", ast.Div: "*"}.get(type(node.op))
        if sign is None or self.rules.isdisjoint(LEAVE) or not self.follows:
            return node
        number = self._spot(node, said, sign)
        left, right = ast.Constant(_cut_in(node.left)), ast.Constant(_cut_in(node.right))
        node.left = self._probe("part", number, node.left, node.left, ast.Constant(0), left)
        node.right = self._probe("part", number, node.right, node.right, ast.Constant(1), right)
        return self._probe("joined", number, node, node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        left = node.left
        plain = len(node.ops) == 1 and isinstance(node.comparators[0], ast.Constant)
        if self.follows and plain and _modulo(left) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            number = self._spot(node, ast.unparse(left.right), "", isinstance(node.ops[0], ast.Eq))  # type: ignore[attr-defined]
            self.generic_visit(node)
            return self._window(number, node, left)
        self.generic_visit(node)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if self.follows and isinstance(node.op, ast.Not) and _modulo(node.operand):
            number = self._spot(node, ast.unparse(node.operand.right), "", True)  # type: ignore[attr-defined]
            operand = node.operand
            self.generic_visit(node)
            return self._window(number, node, operand)
        self.generic_visit(node)
        return node

    def _window(self, number: int, node: ast.expr, modulo: ast.AST) -> ast.AST:
        assert isinstance(modulo, ast.BinOp)
        modulo.right = self._probe("every", number, modulo.right, modulo.right)
        return self._probe("window", number, node, node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ast.AST:
        """Only the first iterable is evaluated here and now."""
        first = node.generators[0]
        if _simple(first.iter) and _last(first.iter) in self.iterators:
            number = self._spot(node, ast.unparse(first.iter), "the comprehension")
            first.iter = self._probe("used", number, first.iter, first.iter)
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension


def _cut_in(node: ast.AST) -> int:
    """The number of a probe in an expression that sees a value leave its graph; -1 if there is none, or it is all."""
    if isinstance(node, ast.BinOp) or (isinstance(node, ast.Call) and _last(node.func) in ("copied", "cut", "joined")):
        return -1  # the operation, or the probe itself, tells of it
    found = [one for one in ast.walk(node) if isinstance(one, ast.Call) and _last(one.func) in ("copied", "cut")]
    found = [one for one in found if isinstance(one.func, ast.Attribute) and _last(one.func.value) == NAME]
    return found[0].args[0].value if found else -1  # type: ignore[attr-defined]


def _load(target: ast.expr) -> ast.expr:
    """The same expression, to be read."""
    copied = ast.parse(ast.unparse(target), mode="eval").body
    for node in ast.walk(copied):
        ast.copy_location(node, target)
    return copied


def _simple(node: ast.AST) -> bool:
    """A name, or attributes of one: it can be read again."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _last(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _names(node: ast.AST) -> frozenset[str]:
    return frozenset(_last(one) for one in ast.walk(node) if isinstance(one, ast.Name | ast.Attribute))


def _flat(targets: list[ast.expr]) -> Iterator[ast.expr]:
    for target in targets:
        if isinstance(target, ast.Tuple | ast.List):
            yield from _flat(target.elts)
        else:
            yield target.value if isinstance(target, ast.Starred) else target


def _one_shot(node: ast.AST | None) -> bool:
    return isinstance(node, ast.GeneratorExp) or (isinstance(node, ast.Call) and _last(node.func) in _ONE_SHOT)


def _of_parameters(node: ast.AST) -> bool:
    return not _names(node).isdisjoint(("parameters", "named_parameters"))


def _modulo(node: ast.AST) -> bool:
    text = isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant | ast.JoinedStr)
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and not text


def _counts(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and _last(node.func) == "range" and bool(node.args)
