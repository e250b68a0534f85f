"""Methods of lists, dicts, tuples, iterators and loaders."""

from __future__ import annotations

from dataclasses import replace

from flake8_gradtrap.events import (
    Emptied,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Dead, Results
from flake8_gradtrap.interp.own_apis import OwnModel
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    NONE,
    Const,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tup,
    Value,
)


class Containers(OwnModel):
    def on_loader(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        value = self.unknown(name)
        self.data.add(value)
        return [(value, st)]

    def on_list(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        record = st.record(receiver)
        assert isinstance(record, Listing)
        assert isinstance(receiver, Ref)
        label = self.label(node.func.value) if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else ""
        self.groups_changed(receiver, name, args, node, st)
        if record.shape in ("ModuleList", "ParameterList"):
            self.handed_over(args.all(), node, st, record.shape)
        if name in ("append", "appendleft", "add", "insert") and args.pos:
            value = args.pos[-1]
            items = (
                (*record.items, value) if record.items is not None and len(record.items) < 8 and name != "add" else None
            )
            owners = record.owners if record.items is None else self._union(items or (), st)
            st.replace(receiver, replace(record, items=items, item=value, owners=owners))
            self._keep(receiver, value, name, args, node, st, label)
            return [(NONE, st)]
        if name in ("extend", "extendleft", "update", "__iadd__") and args.pos:
            results: Results = []
            for item, path in self.iterate(args.pos[0], f"`{name}`", node, st):
                inner = self.elements(args.pos[0], path)
                items = (
                    (*record.items, *inner)
                    if record.items is not None and inner is not None and len(inner) < 8
                    else None
                )
                owners = self._union([v for v in (receiver, args.pos[0]) if self.elements(v, path) != ()], path)
                path.replace(receiver, replace(record, items=items, item=item, owners=owners))
                for part in inner if inner is not None else (item,):
                    self._keep(receiver, part, name, args, node, path, label)
                results.append((NONE, path))
            return results
        if name == "clear":
            st.replace(receiver, replace(record, items=(), item=None))
            self.emit(Emptied(self.site(node, st), Thing(receiver, label)), st)
            return [(NONE, st)]
        if name in ("pop", "popleft"):
            last = record.items[-1] if record.items else record.item
            rest = None if record.item is None else self.one_of(record.item, receiver, st)
            st.replace(receiver, replace(record, items=None, item=rest))
            self.emit(Emptied(self.site(node, st), Thing(receiver, label)), st)
            return [(last if last is not None else self.unknown("", "item"), st)]
        if name == "copy":
            return [(self.new(replace(record, stamp=st.stamp), st), st)]
        return [(self.unknown(name), st)]

    def _keep(
        self, container: Value, value: Value, name: str, args: Args, node: ir.Node, st: State, label: str
    ) -> None:
        shown = node.args[-1].value if isinstance(node, ir.Call) and node.args else node
        record = st.record(value)
        parts = value.items if isinstance(value, Tup) else (value,)
        if isinstance(record, Mapping):
            parts = tuple(item for _, item in record.items)
        for part in parts:
            if (self.is_tensor(part, st) and (t := st.tensor(part)) is not None) or (
                isinstance(part, Sym) and self.kind(part, st) == "tensor"
            ):
                if t is not None and t.is_number:
                    continue
                self.stored(container, part, st, shown, name, label)

    def on_dict(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        record = st.record(receiver)
        assert isinstance(record, Mapping)
        if name in ("items", "keys", "values"):
            pairs = record.items
            parts: tuple[Value, ...] = tuple(
                Tup(pair) if name == "items" else pair[0] if name == "keys" else pair[1] for pair in pairs
            )
            return [
                (
                    self.new(
                        Listing(parts if record.closed else None, parts[0] if parts else None, stamp=st.stamp), st
                    ),
                    st,
                )
            ]
        if name in ("get", "pop", "setdefault") and args.pos:
            for key, value in record.items:
                if key == args.pos[0]:
                    return [(value, st)]
            return [(self.unknown(str(args.pos[0].value) if isinstance(args.pos[0], Const) else ""), st)]
        if name == "clear" and isinstance(receiver, Ref):
            st.replace(receiver, Mapping((), True, record.stamp, record.default))
            self.emit(Emptied(self.site(node, st), self.thing(receiver)), st)
            return [(NONE, st)]
        if name == "update" and isinstance(receiver, Ref):
            st.replace(receiver, replace(record, closed=False))
            return [(NONE, st)]
        return [(self.unknown(name), st)]

    def on_iterator(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        if name == "__next__":
            return self._next(Args([receiver]), node, st)
        if name in ("send", "close", "throw", "__iter__"):
            return [(self.unknown(name), st)]
        record = st.record(receiver)
        if isinstance(record, Iterator) and record.how.startswith("the argument"):
            raise Dead  # an iterator has no other methods: whatever this argument is, it is none
        return [(self.unknown(name), st)]  # a progress bar's

    def on_tuple(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        return [(self.unknown(name), st)]

    on_const = on_function = on_class = on_tuple
