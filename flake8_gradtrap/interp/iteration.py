"""Iteration in the abstract run: who draws from which one-shot iterator, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from types import MappingProxyType

from flake8_gradtrap.events import Cleared, Iterated, IteratorMade, Owners, Site
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.contexts import Contexts
from flake8_gradtrap.interp.core import NAMED_PARTS, Args, Results
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    NONE,
    TRUE,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
)

_NOTHING: MappingType[Value, Value] = MappingProxyType({})


def _clears(called: ir.Expression) -> bool:
    """Whether what is called clears gradients, or may: `zero_grad`, `setattr(p, "grad", None)`."""
    if isinstance(called, ir.Attr):
        return called.attr in ("zero_grad", "zero_")
    return isinstance(called, ir.Name) and called.id == "setattr"


class Iteration(Contexts):
    def iterate(
        self, value: Value, by: str, node: ir.Node, st: State, whole: bool | None = True, single: bool = False
    ) -> Results:
        """Iterate a value: the event for a one-shot iterator and for all that it draws from; results are typical
        elements.
        """
        record = st.record(value)
        if isinstance(record, Iterator):
            self.iterated(value, by, node, st, whole, single)
            drawn = self._drawn(record, node, st) if not single else [(self._typical(record, st), st)]
            return [(self.one_of(item, value, path), path) for item, path in drawn]
        if isinstance(value, Tup):
            return [(value.items[0] if value.items else self.unknown("", "item"), st)]
        if isinstance(record, Listing):
            if record.shape == "param_groups":
                return [(self._param_group(record, st), st)]
            item = record.items[0] if record.items else record.item
            return [(item if item is not None else Sym("item", (value, self.fresh())), st)]
        if isinstance(record, Mapping):
            several = len(record.items) > 1 and len(self.trained(value, st)) > 1  # one key would stand for all
            key = record.items[0][0] if record.items and not several else self.unknown("", "item")
            return [(key, st)]
        if isinstance(record, Thingy) and record.cls is not None:
            found = self.find_method(record.cls, "__iter__")
            if found is not None and record.kind != "module":
                bound = self.bind_method(*found, value, st)
                results: Results = []
                for inner, path in self.call_value(bound, Args(), node, st):
                    results.extend(
                        self.iterate(inner, by, node, path, whole)
                        if inner != value
                        else [(self.unknown("", "item"), path)]
                    )
                return results
        if isinstance(record, Tensor):
            return [(self.make_tensor("pass", (value,), node, st, is_number=record.is_number, how="element"), st)]
        if self.kind(value, st) == "module":
            return [(self.submodule(value, self.fresh()), st)]
        if isinstance(value, Sym) and value.op == "range":
            index = Sym("index", (self.fresh(),))
            start = value.args[0] if len(value.args) > 1 else None
            later = isinstance(start, Const) and isinstance(start.value, int) and start.value > 0
            return [(Sym("+", (index, start)) if later else index, st)]
        item_value = self.unknown("", "item")
        if self.kind(value, st) == "loader" or value in self.data or (isinstance(value, Sym) and value.op == "param"):
            self.data.add(item_value)
        if value in self.handed_out:
            self.handed_out.add(item_value)
        return [(item_value, st)]

    def _drawn(self, record: Iterator, node: ir.Node, st: State) -> Results:
        """A typical element of an iterator, when the generator that it is, or draws from, has run."""
        if record.generator is not None:
            func, env = record.generator
            return self.run_generator(func, env, node, st)
        if record.item is None:
            for source in record.sources:
                inner = st.record(source)
                if isinstance(inner, Iterator) and self._trains_itself(inner, st):
                    drawn = self._drawn(inner, node, st)
                    return [(self._combined(record, path, {source: item}), path) for item, path in drawn]
        return [(self._typical(record, st), st)]

    def _trains_itself(self, record: Iterator, st: State) -> bool:
        """Whether an iterator is a generator that goes backward and steps, or draws from one: `enumerate(steps())`.

        Others do nothing by themselves; and where the loop over them steps, the order of the two would matter.
        """
        if record.generator is not None:
            func, _ = record.generator
            return isinstance(func.node, ir.FunctionDef) and func.node.mentions >= {"backward", "step"}
        sources = (st.record(source) for source in record.sources)
        return any(isinstance(source, Iterator) and self._trains_itself(source, st) for source in sources)

    def _typical(self, record: Iterator, st: State) -> Value:
        return record.item if record.item is not None else self._combined(record, st)

    def _param_group(self, record: Listing, st: State) -> Value:
        params = self.new(
            Listing(None, self.parameter_item(record.owners, None, st), record.owners, True, stamp=st.stamp), st
        )
        return self.new(Mapping(((Const.of("params"), params),), False, st.stamp), st)

    def parameter_item(self, owners: Owners, site: Site | None, st: State) -> Value:
        """A parameter of a module."""
        parts = tuple(part for part in owners or () if isinstance(part, Value))
        owner = parts[0] if len(parts) == 1 else Tup(parts) if parts else None
        site = site or Site(self.module.path)
        return self.new(Tensor("param", (), site, True, owner=owner, how="a parameter", stamp=()), st)

    def iterated(
        self,
        value: Value,
        by: str,
        node: ir.Node,
        st: State,
        whole: bool | None,
        single: bool = False,
        ends: bool = False,
    ) -> None:
        """Emit Iterated for an iterator, and for the iterators that it draws from."""
        record = st.record(value)
        if not isinstance(record, Iterator) or record.endless:
            return
        self.emit(
            Iterated(
                self.site(node, st),
                self.thing(value, self._shown(node)),
                by,
                whole,
                single,
                self.through(value, st),
                ends,
            ),
            st,
        )
        short = record.how == "`zip(…)`" and any(self._short(source, st) for source in record.sources)
        for source in record.sources:
            inner = st.record(source)
            if isinstance(inner, Iterator):
                partial = short or record.how == "`islice(…)`"
                self.iterated(
                    source, by, node, st, None if partial and not self._short(source, st) else whole, single, ends
                )

    @staticmethod
    def _shown(node: ir.Node) -> ir.Node:
        """The expression that is iterated, where the node shows it."""
        if isinstance(node, ir.For | ir.CompFor):
            return node.iter
        if isinstance(node, ir.Call) and node.args:
            return node.args[0].value
        if isinstance(node, ir.Arg | ir.Starred):
            return node.value
        return node

    def _short(self, value: Value, st: State) -> bool:
        """Whether a partner in a `zip` is visibly short: a range or a display of a few elements."""
        record = st.record(value)
        if isinstance(value, Tup):
            return len(value.items) < 5
        return (isinstance(record, Listing) and record.items is not None and len(record.items) < 5) or (
            isinstance(value, Sym) and value.op == "range"
        )

    def through(self, value: Value, st: State) -> Site | None:
        """The call that handed an iterator in, seen from where it lives; None if it is consumed at home."""
        call: Site | None = None
        for frame in reversed(st.frames):
            if frame.call is None or value not in frame.handed:
                break
            call = frame.call
        return call

    def _combined(self, record: Iterator, st: State, drawn: MappingType[Value, Value] = _NOTHING) -> Value:
        """What a lazy iterator yields, from what its sources yield; `drawn`: from those that were run."""
        items: list[Value] = []
        for source in record.sources:
            inner = st.record(source)
            if source in drawn:
                items.append(drawn[source])
            elif isinstance(inner, Iterator):
                items.append(self._typical(inner, st))
            elif isinstance(inner, Listing):
                items.append((inner.items[0] if inner.items else inner.item) or self.unknown("", "item"))
            elif isinstance(source, Tup) and source.items:
                items.append(source.items[0])
            elif isinstance(inner, Tensor):
                items.append(
                    self.new(Tensor("pass", (source,), inner.site, st.mode, how="element", stamp=st.stamp), st)
                )
            else:
                item = self.unknown("", "item")
                if (
                    self.kind(source, st) == "loader"
                    or source in self.data
                    or (isinstance(source, Sym) and source.op == "param")
                ):
                    self.data.add(item)
                items.append(item)
        if record.how == "`zip(…)`":
            return Tup(tuple(items))
        if record.how == "`enumerate(…)`":
            index = Sym("index", (self.fresh(),))
            count = Sym("+", (index, Const.of(record.start))) if record.start else index
            return Tup((count, items[0] if items else self.unknown()))
        return items[0] if items and record.how not in ("`map(…)`", "`starmap(…)`") else self.unknown("", "item")

    # -- making iterators ---------------------------------------------------------------------------------------------

    def make_parameters(self, holder: Value, method: str, node: ir.Node, st: State) -> Value:
        """`module.parameters()` and its kin: a generator over what the module owns."""
        record = st.record(holder)
        kind = self.kind(holder, st)
        owners: Owners = None
        if kind == "optimizer":
            owners = self.owners(holder, st)
        elif kind in ("module", "instance", "") or record is not None:
            owners = self.leaves(holder, st)
        item: Value = (
            self.parameter_item(owners, self.site(node, st), st)
            if "param" in method
            else self.submodule(holder, self.fresh())
        )
        if method in self.know.lists["iterators.named"]:
            item = Tup((self.unknown("name", "item"), item))
        label = self.label(node) if isinstance(node, ir.Call) else method
        made = Iterator(f"`{label}`", (), item, True, owners, self.site(node, st), stamp=st.stamp)
        it = self.new(made, st)
        self.parameters_of[it] = holder
        self.emit(IteratorMade(self.site(node, st), self.thing(it, node), made.how, True), st)
        return it

    def make_lazy(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """`filter`, `map`, `zip`, `chain` and their kin: an iterator that draws from its arguments."""
        short = name.rpartition(".")[2]
        sources = list(args.pos)
        if short in ("filter", "map", "takewhile", "dropwhile", "starmap", "filterfalse"):
            sources = sources[1:]
        if short == "from_iterable" and sources:
            sources = list(self.elements(sources[0], st) or sources)
        inner = st.record(sources[0]) if short == "iter" and len(sources) == 1 else None
        if isinstance(inner, Iterator) and (inner.generator is not None or inner.endless):
            return sources[0]  # others: a fix makes a list of what is used, not of what is inside
        if short in ("map", "starmap"):
            self.act_on_each(args, node, st, short)
        records = [st.record(source) for source in sources]
        of_parameters = any(isinstance(r, Iterator | Listing) and r.of_parameters for r in records)
        owners = self._union([s for s in sources if not isinstance(s, Const)], st) if of_parameters else None
        endless = bool(records) and all(isinstance(r, Iterator) and r.endless for r in records)
        if short == "zip" or short == "enumerate":
            endless = (
                bool(records) and any(isinstance(r, Iterator) and r.endless for r in records) and len(records) == 1
            )
        start = 0
        if short == "enumerate":
            given = args.get(1, "start")
            start = given.value if isinstance(given, Const) and isinstance(given.value, int) else 0
            sources = sources[:1]
        made = Iterator(
            f"`{short}(…)`",
            tuple(sources),
            None,
            of_parameters,
            owners,
            self.site(node, st),
            endless=endless,
            start=start,
            stamp=st.stamp,
        )
        it = self.new(made, st)
        if not endless:
            self.emit(IteratorMade(self.site(node, st), self.thing(it, node), made.how, of_parameters), st)
        return it

    def act_on_each(self, args: Args, node: ir.Node, st: State, name: str) -> None:
        """A function that is called with each element is not run: it may do anything to known elements, and to models
        and optimizers.
        """
        handed = [
            part for value in args.pos[1:] for part in (*(self.elements(value, st) or ()), *self.trained(value, st))
        ]
        body = args.pos[0].node.body if args.pos and isinstance(args.pos[0], Func) else None
        called = body.func if isinstance(body, ir.Call) else None
        if called is not None and _clears(called):
            self.emit(Cleared(self.site(node, st), None, None), st)
        if isinstance(called, ir.Attr) and called.attr == "requires_grad_":
            for owner in {owner for value in args.pos[1:] for owner in self.owners(value, st) or ()}:
                if isinstance(owner, Value):
                    st.set_attr(owner, "frozen", TRUE)
        self.escape(handed, node, st, name)

    def consume(self, name: str, args: Args, node: ir.Node, st: State) -> Results:
        """`list`, `sum`, `dict`, … of an iterable."""
        short = name.rpartition(".")[2]
        values = args.pos[:1] if name in self.know.lists["iterators.consumers"] else args.pos
        results: Results = []
        bounded = short == "deque" and args.get(1, "maxlen") not in (None, NONE)
        if not values:
            shape = short if short in ("deque", "ModuleList", "ParameterList") else "list"
            return [(self.new(Listing((), None, bounded=bounded, stamp=st.stamp, shape=shape), st), st)]
        source = values[0]
        for item, path in self.iterate(source, f"`{short}`", node, st):
            results.append((self._collected(name, short, source, item, bounded, node, path), path))
        return results

    def _collected(
        self, name: str, short: str, source: Value, item: Value, bounded: bool, node: ir.Node, st: State
    ) -> Value:
        record = st.record(source)
        items = self.elements(source, st)
        if items is None or short not in ("list", "tuple", "deque", "sum", "stack"):
            item = self.one_of(item, source, st)
        owners = record.owners if isinstance(record, Iterator | Listing) else None
        if name in self.know.lists["iterators.materialisers"]:
            of_parameters = isinstance(record, Iterator | Listing) and record.of_parameters
            if owners is None and items:
                owners = self._union(items, st)
            listing = Listing(
                items if short in ("list", "tuple", "deque") else None,
                item,
                owners,
                of_parameters,
                bounded,
                st.stamp,
                short,
            )
            if isinstance(record, Iterator):
                listing = Listing(None, item, owners, of_parameters, bounded, st.stamp, short)
            return self.new(listing, st)
        if short in ("dict", "OrderedDict"):
            inner = st.record(source)
            if isinstance(inner, Thingy) and inner.kind == "state":
                return source  # another dict of the same tensors
            pairs = items if items is not None else (item,)
            entries = (
                inner.items
                if isinstance(inner, Mapping)
                else tuple(
                    (pair.items[0], pair.items[1]) for pair in pairs if isinstance(pair, Tup) and len(pair.items) == 2
                )
            )
            return self.new(Mapping(entries, False, st.stamp), st)
        if short in ("ModuleList", "ParameterList"):
            self.handed_over((source,), node, st, short)
            held = frozenset(owners) if owners else None
            holder = self.new(Thingy("module", None, held, name, None, (source,), self.site(node, st)), st)
            self.note_named_parts(holder, (source,), st)
            whose = [owner for owner in held or () if isinstance(owner, Value) and st.tensor(owner) is None]
            if short == "ParameterList" and held and len(whose) == len(held):  # those of models: it is no owner itself
                st.set_attr(holder, NAMED_PARTS, Tup(tuple(sorted(whose, key=str))))
            return holder
        if short in ("sum", "stack", "cat", "hstack", "vstack", "max", "min", "fsum"):
            parts = items if items is not None else (item,)
            parts = tuple(part for part in parts if self.provenant(part, st) or st.tensor(part) is not None)
            if parts:
                number = all(t.is_number for part in parts if (t := st.tensor(part)) is not None) and short not in (
                    "stack",
                    "cat",
                )
                op = "add" if short == "sum" else "pass"
                return self.make_tensor(op, parts, node, st, is_number=number, how=short)
        return self.unknown(short)
