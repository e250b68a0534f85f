"""Comprehensions and generator expressions of the abstract run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flake8_gradtrap.events import IteratorMade
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.conditions import Conditions
from flake8_gradtrap.interp.core import Results
from flake8_gradtrap.interp.liveness import reads
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    Iterator,
    Listing,
    Mapping,
    Thingy,
    Value,
)


class Comprehensions(Conditions):
    def eval_Comp(self, node: ir.Comp, st: State) -> Results:
        self.comprehending += 1
        try:
            return self._evaluate(node, st)
        finally:
            self.comprehending -= 1

    def _evaluate(self, node: ir.Comp, st: State) -> Results:
        results: Results = []
        first = node.fors[0]
        lazy = node.kind == "gen"
        for source, path in self.eval(first.iter, st):
            self.comprehended(node, source, path)
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
                for after in self.assign(clause.target, self.one_of(element, source, there), there, node)
            ]
        for clause in node.fors:
            for test in clause.ifs:
                paths = [path for before in paths for path in [self.eval(test, before)[0][1]]]
        return paths

    def _comprehend(self, node: ir.Comp, source: Value, item: Value, st: State) -> Results:
        results: Results = []
        frame = st.frame
        saved = st.take_names(frame.env)
        known = self.elements(source, st)
        simple = known is not None and len(node.fors) == 1 and not node.fors[0].ifs and len(known) <= 6
        parts = [element for element in (known or ()) if element is not item]
        if not simple or node.kind == "dict":
            item = self.one_of(item, source, st)
        for path in self._scope(node, item, st):
            for value, after in self.eval(node.elt, path)[:1]:
                values = [value]
                if node.kind == "dict" and node.value is not None:
                    (entry, after), *_ = self.eval(node.value, after)
                    after.put_names(frame.env, saved)
                    made = self.dict_of(entry, node, after)
                    if made is None:
                        made = self.new(Mapping(((value, entry),), False, after.stamp), after)
                    results.append((made, after))
                    continue
                if simple:
                    for part in parts:
                        bound = self.assign(node.fors[0].target, part, after, node)[0]
                        extra, after = self.eval(node.elt, bound)[0]
                        values.append(extra)
                elif self._draws(node, saved, after):
                    for again in self._scope(node, self.again(item, after), after)[:1]:
                        _, after = self.eval(node.elt, again)[0]
                after.put_names(frame.env, saved)
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
        tensor = st.tensor(source)
        if tensor is not None:
            item = self.make_tensor("pass", (source,), node, st, is_number=tensor.is_number, how="element")
        item = self.one_of(item, source, st)
        frame = st.frame
        saved = st.take_names(frame.env)
        record = st.record(source)
        value: Value = self.unknown()
        paths = self._scope(node, item, st) if not isinstance(record, Thingy) else []
        for path in paths[:1]:
            value, st = self.eval(node.elt, path)[0]
            st.put_names(frame.env, saved)
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
