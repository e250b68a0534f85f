"""Expressions of the abstract run: each evaluates to a value, on one path or on several."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flake8_gradtrap.events import IteratorMade, ReadOut
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Core, Dead, Results
from flake8_gradtrap.interp.liveness import reads
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    FALSE,
    NONE,
    TRUE,
    Api,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Method,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
)

_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBERS = (int, float, bool)


class Expressions(Core):
    """Evaluation. Every method returns all (value, path) pairs to which an expression can lead."""

    def eval(self, node: ir.Expression, st: State) -> Results:
        self.tick()
        self.at = id(node)
        method: Callable[[Any, State], Results] | None = getattr(self, "eval_" + type(node).__name__, None)
        if method is None:
            return [(self.unknown(), st)]
        return method(node, st)

    def eval_many(self, nodes: Iterable[ir.Expression], st: State) -> list[tuple[list[Value], State]]:
        """The expressions in order, each on every path that the ones before it lead to."""
        results: list[tuple[list[Value], State]] = [([], st)]
        for node in nodes:
            following: list[tuple[list[Value], State]] = []
            for values, path in results:
                pairs = self.eval(node, path)
                if len(pairs) == 1:
                    values.append(pairs[0][0])
                    following.append((values, pairs[0][1]))
                else:
                    following.extend(([*values, value], after) for value, after in pairs)
            results = following
        return results

    # -- names and literals -------------------------------------------------------------------------------------------

    def eval_Const(self, node: ir.Const, st: State) -> Results:
        return [(Const.of(node.value), st)]

    def eval_Name(self, node: ir.Name, st: State) -> Results:
        return [(self.lookup(node.id, st), st)]

    def lookup(self, name: str, st: State) -> Value:
        frame = st.frame
        module = frame.func.module if frame.func is not None else self.module
        top = (0,) if module is self.module else ()  # what the code at module level has bound so far
        for env in (frame.env, *frame.closure, *top):
            value = st.envs.get(env, {}).get(name)
            if value is not None:
                return value
        found = module.lookup(name)
        if found is not None:
            return found
        if name in _BUILTINS:
            return Api("builtins." + name)
        return Sym("global", (module.path, name), name)

    def eval_JoinedStr(self, node: ir.JoinedStr, st: State) -> Results:
        results: Results = []
        for values, path in self.eval_many(node.values, st):
            for value, part in zip(values, node.values, strict=True):
                if path.tensor(value) is not None:
                    self.emit(ReadOut(self.site(part, path), self.thing(value, part), "f-string"), path)
            results.append((self.unknown("", "text"), path))
        return results

    def eval_Sequence(self, node: ir.Sequence, st: State) -> Results:
        results: Results = []
        for values, path in self.eval_many([e.value if isinstance(e, ir.Starred) else e for e in node.elts], st):
            items: list[Value] = []
            known = True
            item: Value | None = None
            for element, value in zip(node.elts, values, strict=True):
                if isinstance(element, ir.Starred):
                    for yielded, path in self.iterate(value, "`*`", element, path)[:1]:  # noqa: B020 - goes on there
                        inner = self.elements(value, path)
                        if inner is None:
                            known, item = False, yielded
                        else:
                            items.extend(inner)
                else:
                    items.append(value)
            if node.kind == "tuple" and known:
                results.append((Tup(tuple(items)), path))
            else:
                owners = self._union(items, path) if items and known else self.owners(item, path) if item else None
                listing = Listing(
                    tuple(items) if known else None,
                    item or (items[0] if items else None),
                    owners,
                    stamp=path.stamp,
                    shape=node.kind,
                )
                results.append((self.new(listing, path), path))
        return results

    def elements(self, value: Value, st: State) -> tuple[Value, ...] | None:
        """The elements of a container, if all are known."""
        if isinstance(value, Tup):
            return value.items
        record = st.record(value)
        return record.items if isinstance(record, Listing) else None

    def eval_DictDisplay(self, node: ir.DictDisplay, st: State) -> Results:
        results: Results = []
        nodes = [
            part
            for key, value in node.items
            for part in ((key, value) if key is not None else (value,))
            if part is not None
        ]
        for values, path in self.eval_many(nodes, st):
            entries: list[tuple[Value, Value]] = []
            closed = True
            rest = iter(values)
            for key, _ in node.items:
                if key is None:
                    inner = path.record(next(rest))
                    if isinstance(inner, Mapping):
                        entries.extend(inner.items)
                        closed = closed and inner.closed
                    else:
                        closed = False
                else:
                    entries.append((next(rest), next(rest)))
            results.append((self.new(Mapping(tuple(entries), closed, path.stamp), path), path))
        return results

    def eval_Starred(self, node: ir.Starred, st: State) -> Results:
        return self.eval(node.value, st)

    def eval_Await(self, node: ir.Await, st: State) -> Results:
        return self.eval(node.value, st)

    def eval_Slicing(self, node: ir.Slicing, st: State) -> Results:
        parts = [part for part in (node.lower, node.upper, node.step) if part is not None]
        return [(Sym("slice", tuple(values)), path) for values, path in self.eval_many(parts, st)]

    def eval_NamedExpr(self, node: ir.NamedExpr, st: State) -> Results:
        return [
            (value, after)
            for value, path in self.eval(node.value, st)
            for after in self.assign(node.target, value, path, node)
        ]

    def eval_Lambda(self, node: ir.Lambda, st: State) -> Results:
        frame = st.frame
        module = frame.func.module if frame.func is not None else self.module
        self.captured(st)
        return [(Func(node, id(node), module, (frame.env, *frame.closure)), st)]

    def captured(self, st: State) -> None:
        """Keep the environment of the running function: a closure refers to it."""
        st.conds[("captured", st.frame.env)] = True

    def eval_Yield(self, node: ir.Yield, st: State) -> Results:
        results: Results = []
        for value, path in self.eval(node.value, st) if node.value is not None else [(NONE, st)]:
            if node.is_from:
                for item, after in self.iterate(value, "`yield from`", node, path):
                    results.append((self._yielded(item, after, node), after))
            else:
                results.append((self._yielded(value, path, node), path))
        return results

    def _yielded(self, value: Value, st: State, node: ir.Node) -> Value:
        if st.attr(Sym("frame", (st.frame.env,)), "backward") is not None and st.tensor(value) is not None:
            st.set_attr(value, "made by", Sym("sites", (self.site(node, st),)))
        st.set_attr(Sym("frame", (st.frame.env,)), "yielded", value)
        return self.unknown()

    # -- operators ----------------------------------------------------------------------------------------------------

    def eval_UnaryOp(self, node: ir.UnaryOp, st: State) -> Results:
        if node.op == "not":
            yes, no = self.branch(node.operand, st)
            return [*((FALSE, path) for path in yes), *((TRUE, path) for path in no)]
        results: Results = []
        for value, path in self.eval(node.operand, st):
            if isinstance(value, Const) and isinstance(value.value, _NUMBERS) and node.op in "+-":
                results.append((Const.of(-value.value if node.op == "-" else value.value), path))
            elif self.provenant(value, path):
                results.append(
                    (
                        self.make_tensor(
                            "hard" if node.op == "~" else "neg", (value,), node, path, how=self.label(node)
                        ),
                        path,
                    )
                )
            else:
                results.append((Sym(node.op, (value,)), path))
        return results

    def eval_BinOp(self, node: ir.BinOp, st: State) -> Results:
        return [
            (self.binary(node.op, left, right, node, path), path)
            for (left, right), path in self.eval_many((node.left, node.right), st)
        ]

    def binary(self, op: str, left: Value, right: Value, node: ir.Node, st: State) -> Value:
        if isinstance(left, Const) and isinstance(right, Const):
            if isinstance(left.value, _NUMBERS) and isinstance(right.value, _NUMBERS) and op in _FOLD:
                try:
                    return Const.of(_FOLD[op](left.value, right.value))
                except (ArithmeticError, ValueError):
                    return self.unknown()
            return Sym(op, (left, right))
        if (
            isinstance(left, Sym)
            and op == "+"
            and left.op == "+"
            and isinstance(right, Const)
            and isinstance(left.args[1], Const)
        ):
            with contextlib.suppress(TypeError):  # (i + 1) + 1 is i + 2
                return Sym("+", (left.args[0], Const.of(left.args[1].value + right.value)))
        one, two = st.record(left), st.record(right)
        if isinstance(one, Listing) or isinstance(two, Listing):
            return self._concatenate(left, right, st)
        if isinstance(one, Tensor) or isinstance(two, Tensor) or self.provenant(left, st) or self.provenant(right, st):
            number = (one.is_number if isinstance(one, Tensor) else not self.is_tensor(left, st)) and (
                two.is_number if isinstance(two, Tensor) else not self.is_tensor(right, st)
            )
            kind = {"+": "add", "-": "sub", "*": "mul", "/": "div"}.get(op, "op")
            if op in ("//", "%"):
                kind = "hard"
            saves = kind == "op" or (
                kind in ("mul", "div") and not isinstance(left, Const) and not isinstance(right, Const)
            )
            return self.make_tensor(kind, (left, right), node, st, is_number=number, saves=saves, how=op)
        return Sym(op, (left, right))

    def _concatenate(self, left: Value, right: Value, st: State) -> Value:
        parts: list[Value] = []
        for value in (left, right):
            inner = self.elements(value, st)
            if inner is None:
                owners = self._union((left, right), st)
                return self.new(Listing(None, self.item_of(value, st), owners, stamp=st.stamp), st)
            parts.extend(inner)
        return self.new(
            Listing(tuple(parts), parts[0] if parts else None, self._union((left, right), st), stamp=st.stamp), st
        )

    def item_of(self, value: Value, st: State) -> Value | None:
        record = st.record(value)
        return record.item if isinstance(record, Listing | Iterator) else None

    def eval_Compare(self, node: ir.Compare, st: State) -> Results:
        results: Results = []
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
            if not isinstance(left, Sym):
                return FALSE if positive else TRUE
            test = Sym("isnone", (left,))
            return test if positive else Sym("not", (test,))
        if isinstance(left, Const) and isinstance(right, Const):
            if op in ("is", "is not"):
                return Const.of((left == right) is (op == "is"))
            try:
                return Const.of(bool(_FOLD[op](left.value, right.value)))
            except (TypeError, ValueError, KeyError):
                return self.unknown()
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
        if value.op == "+" and isinstance(value.args[0], Sym) and value.args[0].op == "index":
            return False
        return None

    # -- conditions ---------------------------------------------------------------------------------------------------

    def eval_BoolOp(self, node: ir.BoolOp, st: State) -> Results:
        results: Results = []
        for left, path in self.eval(node.left, st):
            yes, no = self.split(left, path)
            going, ending = (yes, no) if node.op == "and" else (no, yes)
            results.extend((left, end) for end in ending)
            for more in going:
                results.extend(self.eval(node.right, more))
        return self.gather(results)

    def eval_IfExp(self, node: ir.IfExp, st: State) -> Results:
        yes, no = self.branch(node.test, st)
        results = [pair for path in yes for pair in self.eval(node.body, path)]
        results += [pair for path in no for pair in self.eval(node.orelse, path)]
        return self.gather(results)

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
            yes, no = self.split(value, path)
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

    def split(self, value: Value, st: State) -> tuple[list[State], list[State]]:
        """The paths on which a value is true, and those on which it is false."""
        known = self.truth(value, st)
        if known is not None:
            return ([st], []) if known else ([], [st])
        other = st.fork()
        self.assume(value, True, st)
        self.assume(value, False, other)
        return [st], [other]

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
            return True
        if value.op == "not":
            inner = self.truth(value.args[0], st)  # type: ignore[arg-type]
            return None if inner is None else not inner
        if (first := self._first_index(value)) is not None:
            return not first
        if value.op == "isnone":
            if st.conds.get(("truth", value.args[0])) is True:
                return False
            return st.conds.get(("isnone", value.args[0]))
        if value.op == "==" and ("equals", value.args[0]) in st.conds and isinstance(value.args[1], Const):
            return bool(st.conds[("equals", value.args[0])] == value.args[1])
        if st.conds.get(("isnone", value)) is True:
            return False
        return st.conds.get(("truth", value))

    def assume(self, value: Value, fact: bool, st: State) -> None:
        if isinstance(value, Sym):
            if value.op == "not":
                self.assume(value.args[0], not fact, st)  # type: ignore[arg-type]
                return
            if value.op == "isnone":
                st.conds[("isnone", value.args[0])] = fact
                return
            if value.op == "==" and fact and isinstance(value.args[1], Const):
                st.conds[("equals", value.args[0])] = value.args[1]
        st.conds[("truth", value)] = fact

    # -- attributes and elements --------------------------------------------------------------------------------------

    def eval_Attr(self, node: ir.Attr, st: State) -> Results:
        return [pair for base, path in self.eval(node.value, st) for pair in self.get_attr(base, node.attr, node, path)]

    def eval_Subscript(self, node: ir.Subscript, st: State) -> Results:
        return [
            (self.element(base, index, node, path), path)
            for (base, index), path in self.eval_many((node.value, node.index), st)
        ]

    def element(self, base: Value, index: Value, node: ir.Subscript, st: State) -> Value:
        written = st.attr(base, index)
        if written is not None and st.tensor(base) is None:
            return written
        record = st.record(base)
        items = self.elements(base, st)
        if items is not None and isinstance(index, Const) and isinstance(index.value, int):
            return items[index.value] if -len(items) <= index.value < len(items) else self.unknown()
        if isinstance(record, Mapping):
            for key, value in reversed(record.items):
                if key == index:
                    return value
            if record.default and isinstance(base, Ref):
                made = self.new(Listing((), None, stamp=record.stamp), st)
                st.replace(base, Mapping((*record.items, (index, made)), record.closed, record.stamp, record.default))
                return made
            return Sym("entry", (base, index), self.label(node.index).strip("'\""))
        if isinstance(record, Listing):
            if isinstance(index, Sym) and index.op == "slice":
                return self.new(Listing(None, record.item, record.owners, record.of_parameters, stamp=st.stamp), st)
            if record.item is not None and st.tensor(record.item) is not None:
                entry = Sym("entry", (base, index))  # one of them, which is not known
                self.kinds[entry] = "tensor"
                if self.provenance(st).history(record.item, guess=True):
                    self.likely.add(entry)
                return entry
            return record.item if record.item is not None else Sym("entry", (base, index))
        if isinstance(record, Tensor):
            how = "[key]" if isinstance(index, Const) else "[]"  # a key may pick one of several outputs
            return self.make_tensor("pass", (base,), node, st, is_number=record.is_number, how=how)
        if isinstance(record, Iterator):
            raise Dead  # an iterator cannot be indexed
        if self.kind(base, st) == "module":
            return self.submodule(base, index)
        name = (
            index.value
            if isinstance(index, Const) and isinstance(index.value, str)
            else self.label(node.value).rpartition(".")[2]
        )
        entry = Sym("entry", (base, index), name)
        if base in self.data:
            self.data.add(entry)
        elif base in self.likely:
            self.likely.add(entry)
        return entry

    # -- calls --------------------------------------------------------------------------------------------------------

    def eval_Call(self, node: ir.Call, st: State) -> Results:
        results: Results = []
        if isinstance(node.func, ir.Attr):
            for base, path in self.eval(node.func.value, st):
                for args, after in self.arguments(node, path):
                    results.extend(self.call_attr(base, node.func.attr, args, node, after))
        else:
            for func, path in self.eval(node.func, st):
                for args, after in self.arguments(node, path):
                    results.extend(self.call_value(func, args, node, after))
        return self.gather(results)

    def call_attr(self, base: Value, name: str, args: Args, node: ir.Call, st: State) -> Results:
        """Call `base.name(…)`: a visible method or attribute if there is one, else what the table says."""
        results: Results = []
        for value, path in self.get_attr(base, name, node.func, st, called=True):
            if isinstance(value, Method):
                results.extend(self.call_method(value.receiver, value.name, args, node, path))
            else:
                results.extend(self.call_value(value, args, node, path))
        return results

    def get_attr(self, base: Value, name: str, node: ir.Node, st: State, called: bool = False) -> Results:
        raise NotImplementedError

    def arguments(self, node: ir.Call, st: State) -> list[tuple[Args, State]]:
        results = []
        for values, path in self.eval_many([arg.value for arg in node.args], st):
            args = Args()
            for arg, value in zip(node.args, values, strict=True):
                if arg.star == "*":
                    for _, path in self.iterate(value, "`*`", arg, path)[:1]:  # noqa: B020 - goes on there
                        inner = self.elements(value, path)
                        if inner is None:
                            args.more = True
                            args.pos.append(self.item_of(value, path) or self.unknown())
                        else:
                            args.pos.extend(inner)
                elif arg.star == "**":
                    record = path.record(value)
                    if isinstance(record, Mapping):
                        args.kw.update({str(key.value): item for key, item in record.items if isinstance(key, Const)})
                        args.more = args.more or not record.closed
                    else:
                        args.more = True
                elif arg.keyword is not None:
                    args.kw[arg.keyword] = value
                else:
                    args.pos.append(value)
            results.append((args, path))
        return results

    # -- comprehensions -----------------------------------------------------------------------------------------------

    def eval_Comp(self, node: ir.Comp, st: State) -> Results:
        results: Results = []
        first = node.fors[0]
        lazy = node.kind == "gen"
        for source, path in self.eval(first.iter, st):
            if lazy:
                results.append(self._generator_expression(node, source, path))
                continue
            for item, after in self.iterate(source, "a comprehension", first, path):
                results.extend(self._comprehend(node, source, item, after))
        return results

    def _scope(self, node: ir.Comp, item: Value, st: State) -> list[State]:
        """Bind the targets of a comprehension in an environment of its own; conditions are taken as they come."""
        paths = self.assign(node.fors[0].target, item, st, node)
        for clause in node.fors[1:]:
            paths = [
                after
                for path in paths
                for source, inner in self.eval(clause.iter, path)[:1]
                for element, there in self.iterate(source, "a comprehension", clause, inner)[:1]
                for after in self.assign(clause.target, element, there, node)
            ]
        for clause in node.fors:
            for test in clause.ifs:
                paths = [path for before in paths for path in [self.eval(test, before)[0][1]]]
        return paths

    def _comprehend(self, node: ir.Comp, source: Value, item: Value, st: State) -> Results:
        results: Results = []
        frame = st.frame
        saved = dict(st.envs[frame.env])
        known = self.elements(source, st)
        parts = [element for element in (known or ()) if element is not item]
        for path in self._scope(node, item, st):
            for value, after in self.eval(node.elt, path)[:1]:
                values = [value]
                if node.kind == "dict" and node.value is not None:
                    (entry, after), *_ = self.eval(node.value, after)
                    after.envs[frame.env] = dict(saved)
                    results.append((self.new(Mapping(((value, entry),), False, after.stamp), after), after))
                    continue
                simple = known is not None and len(node.fors) == 1 and not node.fors[0].ifs and len(known) <= 6
                if simple:
                    for part in parts:
                        bound = self.assign(node.fors[0].target, part, after, node)[0]
                        extra, after = self.eval(node.elt, bound)[0]
                        values.append(extra)
                elif self._draws(node, saved, after):
                    for again in self._scope(node, self.again(item, after), after)[:1]:
                        _, after = self.eval(node.elt, again)[0]
                after.envs[frame.env] = dict(saved)
                owners = self._inherited_owners(source, values, after)
                record = after.record(source)
                listing = Listing(
                    tuple(values) if simple else None,
                    value,
                    owners,
                    isinstance(record, Iterator | Listing) and record.of_parameters,
                    stamp=after.stamp,
                    shape=node.kind,
                )
                results.append((self.new(listing, after), after))
        return results

    @staticmethod
    def _draws(node: ir.Comp, env: dict[str, Value], st: State) -> bool:
        """Whether each element of a comprehension draws from one iterator that was made before."""
        inside = reads((node.elt, *(clause.iter for clause in node.fors[1:])))
        inside -= reads(tuple(clause.target for clause in node.fors))
        return any(isinstance(st.record(env.get(name)), Iterator) for name in inside)

    def _inherited_owners(self, source: Value, values: Sequence[Value], st: State) -> Any:
        record = st.record(source)
        if isinstance(record, Iterator | Listing) and record.owners is not None:
            return record.owners
        return self._union(values, st)

    def _generator_expression(self, node: ir.Comp, source: Value, st: State) -> tuple[Value, State]:
        item = self.item_of(source, st) or (self.elements(source, st) or (None,))[0] or self.unknown("", "item")
        frame = st.frame
        saved = dict(st.envs[frame.env])
        record = st.record(source)
        value: Value = self.unknown()
        paths = self._scope(node, item, st) if not isinstance(record, Thingy) else []
        for path in paths[:1]:
            value, st = self.eval(node.elt, path)[0]
            st.envs[frame.env] = dict(saved)
        of_parameters = isinstance(record, Iterator | Listing) and record.of_parameters
        owners = self._inherited_owners(source, [value], st)
        made = Iterator(
            "a generator expression", (source,), value, of_parameters, owners, self.site(node, st), stamp=st.stamp,
            endless=isinstance(record, Iterator) and record.endless,
        )  # fmt: skip
        it = self.new(made, st)
        if not made.endless:
            self.emit(IteratorMade(self.site(node, st), self.thing(it), made.how, of_parameters), st)
        return it, st


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


_BUILTINS = frozenset(
    "abs all any bool bytes callable dict dir enumerate filter float format frozenset getattr hasattr hash id input "
    "int isinstance issubclass iter len list map max min next object open pow print property range repr reversed round "
    "set setattr slice sorted staticmethod classmethod str sum super tuple type vars zip exit quit".split()
)
