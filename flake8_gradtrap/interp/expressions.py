"""Expressions of the abstract run: each evaluates to a value, on one path or on several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from flake8_gradtrap.events import ReadOut
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.comprehensions import Comprehensions
from flake8_gradtrap.interp.conditions import FOLD
from flake8_gradtrap.interp.core import Args, Dead, Results
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

_NUMBERS = (int, float, bool)


STEPPING = frozenset({"optimizer", "scaler", "scheduler"})
"""Kinds of things that step, or that let others step."""


class Expressions(Comprehensions):
    """Evaluation. Every method returns all (value, path) pairs to which an expression can lead."""

    def eval(self, node: ir.Expression, st: State) -> Results:
        self.tick()
        self.at = id(node)
        method: Callable[[Any, State], Results] | None = self.handler("eval_", type(node))
        return [(self.unknown(), st)] if method is None else method(node, st)

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
            parts = list(values)  # whose parameters they all are
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
                owners = self._union(items if known else parts, path) if items or parts else None
                listing = Listing(
                    tuple(items) if known else None,
                    item or (items[0] if items else None),
                    owners,
                    stamp=path.stamp,
                    shape=node.kind,
                )
                results.append((self.new(listing, path), path))
        return results

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
        self.captured(node, st)
        return [(Func(node, id(node), module, (frame.env, *frame.closure)), st)]

    def captured(self, node: ir.FunctionDef | ir.Lambda | ir.ClassDef, st: State) -> None:
        """Keep the environment of the running function, and the names that a closure reads there."""
        for made in node.body if isinstance(node, ir.ClassDef) else (node,):
            if isinstance(made, ir.FunctionDef | ir.Lambda):
                self.inner[id(made)] = made
        key = ("captured", st.frame.env)
        st.conds[key] = st.conds.get(key, frozenset()) | reads(node)

    def eval_Yield(self, node: ir.Yield, st: State) -> Results:
        results: Results = []
        for value, path in self.eval(node.value, st) if node.value is not None else [(NONE, st)]:
            if node.is_from:
                for item, after in self.iterate(value, "`yield from`", node, path):
                    results.append((self._yielded(item, after, node), after))
            elif (body := self.bodies.get(path.frame.env)) is not None:
                results += [(NONE, after) for after in body(value, path)]
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
            if (
                op == "%"
                and st.stamp
                and right.value != 1
                and isinstance(node, ir.BinOp)
                and not isinstance(node.left, ir.Const)
            ):
                return Sym(op, (left, right))  # a count in a loop: any iteration may be the one that is meant
            if isinstance(left.value, _NUMBERS) and isinstance(right.value, _NUMBERS) and op in FOLD:
                try:
                    return Const.of(FOLD[op](left.value, right.value))
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
            if op == "**" and right == Const.of(0.5):
                self.root_taken("`** 0.5`", left, node, st)
            self.saved_by_operator(op, left, right, node, st)
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

    # -- conditions ---------------------------------------------------------------------------------------------------

    # -- attributes and elements --------------------------------------------------------------------------------------

    def eval_Attr(self, node: ir.Attr, st: State) -> Results:
        if node.attr == "shape":
            self.unread = id(node.value)
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
            return self._one_of_several(node, Sym("entry", (base, index), self.label(node.index).strip("'\"")))
        if isinstance(record, Listing):
            if isinstance(index, Sym) and index.op == "slice":
                item = None if record.item is None else self.one_of(record.item, base, st)
                return self.new(Listing(None, item, record.owners, record.of_parameters, stamp=st.stamp), st)
            if record.item is not None and st.tensor(record.item) is not None:
                entry = Sym("entry", (base, index))  # one of them, which is not known
                self.kinds[entry] = "tensor"
                if self.provenance(st).history(record.item, guess=True):
                    self.likely.add(entry)
                return entry
            if isinstance(st.record(record.item), Iterator):
                return self._one_shot_at(record, base, index)
            return self.one_of(record.item, base, st) if record.item is not None else Sym("entry", (base, index))
        if isinstance(record, Tensor):
            keyed = isinstance(index, Const) or (isinstance(index, Sym) and index.op == "joined")
            how = "[key]" if keyed else "[]"  # a key may pick one of several outputs
            if _tests(index, base, st):
                how = "[mask]"  # those parts of it that pass a test
            return self.make_tensor("pass", (base,), node, st, is_number=record.is_number, how=how)
        if isinstance(record, Iterator):
            raise Dead  # an iterator cannot be indexed
        if isinstance(record, Thingy) and record.kind == "state":
            return self.entry(base, node, st)
        kind = self.kind(base, st)
        if kind == "module":
            return self.submodule(base, index)
        name = (
            index.value
            if isinstance(index, Const) and isinstance(index.value, str)
            else self.label(node.value).rpartition(".")[2]
        )
        entry = Sym("entry", (base, index), name)
        if kind in STEPPING:
            self.kinds[entry] = kind  # `optimizer["generator"]`
        self._one_of_several(node, entry)
        if base in self.data:
            self.data.add(entry)
        elif base in self.likely:
            self.likely.add(entry)
        return entry

    def _one_of_several(self, node: ir.Subscript, entry: Sym) -> Sym:
        """What is taken from `self.scalers` is a scaler, whatever its key is called."""
        several = self.label(node.value).rpartition(".")[2]
        if several.endswith("s") and (kind := self.know.kind_by_name(several[:-1])) in STEPPING:
            self.kinds[entry] = kind
        return entry

    @staticmethod
    def _one_shot_at(record: Listing, base: Value, index: Value) -> Value:
        """One of several one-shot iterators: a counter takes another one in each iteration."""
        first = index.args[0] if isinstance(index, Sym) and index.op == "+" else None
        if isinstance(index, Sym) and index.op == "index" and record.item is not None:
            return record.item
        if isinstance(first, Sym) and first.op == "index" and record.items is not None and len(record.items) > 1:
            return record.items[1]
        return Sym("entry", (base, index))

    # -- calls --------------------------------------------------------------------------------------------------------

    def eval_Call(self, node: ir.Call, st: State) -> Results:
        results: Results = []
        if isinstance(node.func, ir.Attr):
            if node.func.attr == "size":
                self.unread = id(node.func.value)
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
                if name == "step" and self.own_step(base, value, args, node, path):
                    results.append((self.unknown(name), path))
                    continue
                results.extend(self.call_value(value, args, node, path))
        return results

    def own_step(self, base: Value, step: Value, args: Args, node: ir.Call, st: State) -> bool:
        raise NotImplementedError

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


def _tests(mask: Value, value: Value, st: State, depth: int = 0) -> bool:
    """Whether a mask is the result of comparing a value with something."""
    tensor = st.tensor(mask)
    if tensor is None or depth > 3 or tensor.op not in ("hard", "op", "mul"):
        return False
    if tensor.how.strip(".()") in _COMPARISONS:
        return value in tensor.parents
    return any(_tests(parent, value, st, depth + 1) for parent in tensor.parents)


_COMPARISONS = frozenset({">", "<", ">=", "<=", "!=", "gt", "lt", "ge", "le", "ne"})


_BUILTINS = frozenset(
    "abs all any bool bytes callable dict dir enumerate exec filter float format frozenset getattr hasattr hash id "
    "input int isinstance issubclass iter len list map max min next object open pow print property range repr reversed "
    "round set setattr slice sorted staticmethod classmethod str sum super tuple type vars zip exit quit".split()
)
