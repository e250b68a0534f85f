"""Conditions of the abstract run: comparisons, what a test leaves as known, and the paths it splits into."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from flake8_gradtrap.events import FiniteAsked
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Dead, Results
from flake8_gradtrap.interp.inference import Inference
from flake8_gradtrap.interp.modes import Modes
from flake8_gradtrap.interp.overwriting import Overwriting
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.unused import Unused
from flake8_gradtrap.interp.values import (
    FALSE,
    NONE,
    TRUE,
    Const,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tensor,
    Tup,
    Value,
    infinite,
    of_elsewhere,
)
from flake8_gradtrap.interp.windows import Windows


def _power(base: float, exponent: float) -> Any:
    """A power of numbers. Raises ArithmeticError where it would be a huge integer, or no number."""
    if abs(base) > 1024 or abs(exponent) > 64 or isinstance(result := base**exponent, complex):
        raise ArithmeticError
    return result


FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


OBJECTS = frozenset({"scaler", "optimizer", "scheduler", "accelerator"})
"""Kinds of what is true wherever it is not None, and is not None wherever one of its methods is called."""


class Conditions(Windows, Modes, Overwriting, Inference, Unused):
    def eval_Compare(self, node: ir.Compare, st: State) -> Results:
        results: Results = []
        if isinstance(node.left, ir.Attr) and node.left.attr == "grad":
            self.asked = id(node.left)
        for values, path in self.eval_many((node.left, *(right for _, right in node.rest)), st):
            if len(node.rest) == 1:
                results.append((self.compare(node.rest[0][0], values[0], values[1], node, path), path))
            else:
                results.append((self.unknown(), path))
        return results

    def compare(self, op: str, left: Value, right: Value, node: ir.Node, st: State) -> Value:
        if op in ("in", "not in"):
            if isinstance(record := st.record(right), Iterator) and not record.endless:
                self.iterate(right, "`in`", node, st, whole=False)
            return Sym("in", (left, right)) if op == "in" else Sym("not", (Sym("in", (left, right)),))
        if right == NONE and op in ("is", "==", "is not", "!="):
            positive = op in ("is", "==")
            if isinstance(left, Const):
                return Const.of((left == NONE) is positive)
            if not isinstance(left, Sym) and not of_elsewhere(left):
                return FALSE if positive else TRUE
            test = Sym("isnone", (left,))
            return test if positive else Sym("not", (test,))
        if isinstance(left, Const) and isinstance(right, Const):
            if op in ("is", "is not"):
                return Const.of((left == right) is (op == "is"))
            try:
                return Const.of(bool(FOLD[op](left.value, right.value)))
            except (TypeError, ValueError, KeyError):
                return self.unknown()
        if (left == right or infinite(right)) and self.hears(FiniteAsked):  # `loss != loss`: only NaN is
            self.emit(FiniteAsked(self.site(node, st)), st)
        if self.is_tensor(left, st) or self.is_tensor(right, st):
            return self.make_tensor("hard", (left, right), node, st, how=op)
        if op in ("!=", "is not"):
            same = self.compare("==", left, right, node, st)
            return Const.of(not same.value) if isinstance(same, Const) else Sym("not", (same,))
        if op in ("==", "is"):
            first = self._first_index(left)
            if first is not None and isinstance(right, Const) and right.value == 0:
                return Const.of(first)
            if isinstance(left, Sym) and left.op == "%" and right == Sym("-", (left.args[1], Const.of(1))):
                # `i % k == k - 1` says the same as `(i + 1) % k == 0`
                after = self.binary("+", left.args[0], Const.of(1), node, st)  # type: ignore[arg-type]
                return Sym("==", (Sym("%", (after, left.args[1])), Const.of(0)))
            if right in (TRUE, FALSE) and isinstance(left, Sym):
                return left if right == TRUE else Sym("not", (left,))
            return Sym("==", (left, right))
        if op == ">" and right == Const.of(0) and isinstance(left, Sym) and left.op == "%":
            return Sym("not", (Sym("==", (left, right)),))
        if op == ">" and right == Const.of(0):
            return left  # close enough to its truth: `if clip > 0` agrees with `if clip`
        if op in (">=", "<="):
            return Sym("not", (Sym("<" if op == ">=" else ">", (left, right)),))
        return Sym(op, (left, right))

    @staticmethod
    def _first_index(value: Value) -> bool | None:
        """Whether a loop's index (or its remainder) is 0: in the first iteration it is, in the next it is not."""
        if not isinstance(value, Sym):
            return None
        if value.op == "index" or (value.op == "%" and isinstance(value.args[0], Sym) and value.args[0].op == "index"):
            return True
        base = value.args[0] if value.op == "+" else value
        if isinstance(base, Sym) and (base.op == "counted" or (base.op == "index" and value.op == "+")):
            return False
        return None

    def eval_BoolOp(self, node: ir.BoolOp, st: State) -> Results:
        results: Results = []
        for left, path in self.eval(node.left, st):
            yes, no = self.split(left, path, node.left)
            going, ending = (yes, no) if node.op == "and" else (no, yes)
            results.extend((left, end) for end in ending)
            for more in going:
                results.extend(self.eval(node.right, more))
        return self.gather(results)

    def eval_IfExp(self, node: ir.IfExp, st: State) -> Results:
        yes, no = self.branch(node.test, st)
        results = [pair for path in yes for pair in self._choice(node.body, node.orelse, path)]
        results += [pair for path in no for pair in self._choice(node.orelse, node.body, path)]
        return self.gather(results)

    def _choice(self, chosen: ir.Expression, other: ir.Expression, st: State) -> Results:
        """One branch of `x.item() if … else x`: where the program takes x as it is, it is a number already."""
        if (
            isinstance(chosen, ir.Name)
            and isinstance(other, ir.Call)
            and isinstance(other.func, ir.Attr)
            and other.func.attr == "item"
            and isinstance(other.func.value, ir.Name)
            and other.func.value.id == chosen.id
        ):
            value = self.unknown(chosen.id)
            self.data.add(value)
            return [(value, st)]
        return self.eval(chosen, st)

    def gather(self, results: Results) -> Results:
        """Merge the paths of an expression that end in the same value."""
        if len(results) < 2:
            return results
        by_value: dict[Value, list[State]] = {}
        for value, path in results:
            by_value.setdefault(value, []).append(path)
        return [(value, path) for value, paths in by_value.items() for path in self.merger.merge(paths)]

    def _one_of(
        self, left: ir.Expression, constants: tuple[ir.Const, ...], positive: bool, st: State
    ) -> tuple[list[State], list[State]]:
        """`x in ("a", "b")`: a path for each, so that a later `x == "a"` agrees."""
        inside: list[State] = []
        outside: list[State] = []
        for value, path in self.eval(left, st):
            rest = [path]
            for constant in constants:
                following: list[State] = []
                for state in rest:
                    yes, no = self.split(self.compare("==", value, Const.of(constant.value), left, state), state)
                    inside += yes
                    following += no
                rest = following
            outside += rest
        inside, outside = self.merger.merge(inside), self.merger.merge(outside)
        return (inside, outside) if positive else (outside, inside)

    def branch(self, test: ir.Expression, st: State) -> tuple[list[State], list[State]]:
        """The paths on which a condition holds, and those on which it does not."""
        if isinstance(test, ir.UnaryOp) and test.op == "not":
            yes, no = self.branch(test.operand, st)
            return no, yes
        if (choices := _choices(test)) is not None:
            return self._one_of(*choices, st)
        if isinstance(test, ir.BoolOp):
            whole = self._as_value(test, st)
            known = None if whole is None else self.truth(whole, st)
            yes, no = self.branch(test.left, st)
            going, ending = (yes, no) if test.op == "and" else (no, yes)
            further = [self.branch(test.right, path) for path in going]
            all_yes = [path for pair in further for path in pair[0]]
            all_no = [path for pair in further for path in pair[1]]
            if test.op == "and":
                all_no += ending
            else:
                all_yes += ending
            if known is True and all_yes:
                all_no = []
            elif known is False and all_no:
                all_yes = []
            if whole is not None:  # paths that hold it for different reasons merge, and still know that it holds
                for path in all_yes:
                    self.assume(whole, True, path)
                for path in all_no:
                    self.assume(whole, False, path)
            return self.merger.merge(all_yes), self.merger.merge(all_no)
        trues: list[State] = []
        falses: list[State] = []
        for value, path in self.eval(test, st):
            yes, no = self.split(value, path, test)
            trues += yes
            falses += no
        return trues, falses

    def _as_value(self, test: ir.Expression, st: State) -> Sym | None:
        """A condition as one unknown, equal for equal conditions of equal values; None if it may do more than look."""
        if isinstance(test, ir.BoolOp):
            left, right = self._as_value(test.left, st), self._as_value(test.right, st)
            if left is None or right is None:
                return None
            if test.op == "and":  # not (not a or not b)
                return _negated(Sym("or", (_alternatives(_negated(left)) | _alternatives(_negated(right)),)))
            return Sym("or", (_alternatives(left) | _alternatives(right),))
        if isinstance(test, ir.UnaryOp) and test.op == "not":
            inner = self._as_value(test.operand, st)
            return None if inner is None else _negated(inner)
        if not _only_looks(test):
            return None
        try:
            results = self.eval(test, st.fork())
        except Dead:
            return None
        return results[0][0] if len(results) == 1 and isinstance(results[0][0], Sym) else None

    def split(self, value: Value, st: State, node: ir.Node | None = None) -> tuple[list[State], list[State]]:
        """The paths on which a value is true, and those on which it is false. `node`: the condition."""
        known = self.truth(value, st)
        if known is not None:
            paths: tuple[list[State], list[State]] = ([st], []) if known else ([], [st])
        else:
            other = st.fork()
            self.assume(value, True, st)
            self.assume(value, False, other)
            paths = [st], [other]
        if self.hears_windows and node is not None and st.stamp:
            self.tell_window(value, node, *paths)
        return paths

    def truth(self, value: Value, st: State) -> bool | None:
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Tup):
            return bool(value.items)
        if isinstance(value, Ref):
            record = st.record(value)
            if isinstance(record, Listing):
                return bool(record.items) if record.items is not None else None
            if isinstance(record, Tensor | Mapping):
                return st.conds.get(("truth", value))
            return True
        if not isinstance(value, Sym):
            return st.conds.get(("truth", value)) if of_elsewhere(value) else True
        if value.op == "not":
            inner = self.truth(value.args[0], st)  # type: ignore[arg-type]
            return None if inner is None else not inner
        if (first := self._first_index(value)) is not None:
            return not first
        if value.op == "isnone":
            there = st.conds.get(("truth", value.args[0]))
            if there is not None and (there or self.kind(value.args[0], st) in OBJECTS):  # type: ignore[arg-type]
                return not there
            return st.conds.get(("isnone", value.args[0]))
        if value.op == "==" and ("equals", value.args[0]) in st.conds and isinstance(value.args[1], Const):
            choices: frozenset[Const] = st.conds[("equals", value.args[0])]
            if value.args[1] not in choices or len(choices) == 1:
                return value.args[1] in choices
        none = st.conds.get(("isnone", value))
        if none or (none is False and self.kind(value, st) in OBJECTS):
            return not none
        known: bool | None = st.conds.get(("truth", value))
        if known is None and (remainder := _remainder(value)) is not None and self.holds_one(remainder, st):
            return value.op == "=="  # every batch is the last of its window
        return known

    def assume(self, value: Value, fact: bool, st: State) -> None:
        if isinstance(value, Sym):
            if value.op == "not":
                self.assume(value.args[0], not fact, st)  # type: ignore[arg-type]
                return
            if value.op == "isnone":
                st.conds[("isnone", value.args[0])] = fact
                return
            if value.op == "==" and fact and isinstance(value.args[1], Const):
                st.conds[("equals", value.args[0])] = frozenset({value.args[1]})
        st.conds[("truth", value)] = fact


def _remainder(value: Sym) -> Value | None:
    """The k of `i % k == 0`, or of `i % k`."""
    test = value.args[0] if value.op == "==" and value.args[1] == Const.of(0) else value
    if isinstance(test, Sym) and test.op == "%" and isinstance(test.args[1], Sym):
        return test.args[1]
    return None


def _negated(value: Sym) -> Sym:
    inner = value.args[0] if value.op == "not" else None
    return inner if isinstance(inner, Sym) else Sym("not", (value,))


def _alternatives(value: Sym) -> frozenset[Sym]:
    inner = value.args[0] if value.op == "or" else None
    return inner if isinstance(inner, frozenset) else frozenset({value})


def _only_looks(node: ir.Expression) -> bool:
    """Whether an expression is made of names, attributes, constants and comparisons."""
    if isinstance(node, ir.Attr):
        return _only_looks(node.value)
    if isinstance(node, ir.Compare):
        return all(op not in ("in", "not in") and _only_looks(part) for op, part in node.rest) and _only_looks(
            node.left
        )
    return isinstance(node, ir.Name | ir.Const)


def _choices(test: ir.Expression) -> tuple[ir.Expression, tuple[ir.Const, ...], bool] | None:
    """What a test `x in ("a", "b")` (or `not in`) compares with what, and whether it asks for membership."""
    if not isinstance(test, ir.Compare) or len(test.rest) != 1 or test.rest[0][0] not in ("in", "not in"):
        return None
    display = test.rest[0][1]
    if not isinstance(display, ir.Sequence) or not 0 < len(display.elts) <= 4:
        return None
    constants = tuple(choice for choice in display.elts if isinstance(choice, ir.Const))
    return (test.left, constants, test.rest[0][0] == "in") if len(constants) == len(display.elts) else None
