"""Assignments of the abstract run: names, attributes, items, and what they keep alive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flake8_gradtrap.events import (
    Accumulated,
    Cleared,
    Clipped,
    Emptied,
    Escaped,
    GradientForced,
    Stored,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.carrying import carried_loop, note_carrier, set_back
from flake8_gradtrap.interp.core import End, Results, clips_by_name
from flake8_gradtrap.interp.expressions import Expressions
from flake8_gradtrap.interp.provenance import is_loss
from flake8_gradtrap.interp.registration import MODULES
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.values import (
    NONE,
    TRUE,
    Const,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Value,
)

_NAMELESS = frozenset({"call", "item", "entry", "derived"})
"""Unknowns that are called what the program binds them to."""


class Assignment(Expressions):
    def exec_Assign(self, node: ir.Assign, st: State) -> list[End]:
        if isinstance(node.targets[0], ir.Name) and node.targets[0].id == "_":
            self.unread = id(node.value)
        return self.assigned(node, self.eval(node.value, st))

    def assigned(self, node: ir.Assign, results: Results) -> list[End]:
        """Assign what the right side gave on each path."""
        ends: list[End] = []
        for value, path in results:
            paths = [path]
            for target in node.targets:
                paths = [after for before in paths for after in self.assign(target, value, before, node)]
            ends.extend((after, "", None) for after in paths)
        return ends

    def exec_AnnOnly(self, node: ir.AnnOnly, st: State) -> list[End]:
        return [(st, "", None)]

    def exec_AugAssign(self, node: ir.AugAssign, st: State) -> list[End]:
        ends: list[End] = []
        for old, path in self.eval(node.target, st):
            for value, after in self.eval(node.value, path):
                record = after.record(old)
                modules = isinstance(record, Thingy) and record.kind == "module"  # a `ModuleList`
                if (modules or isinstance(record, Listing)) and node.op == "+":
                    for _, there in self.call_method(old, "extend", self.args(value), node, after):
                        ends.append((there, "", None))
                    continue
                if isinstance(record, Tensor) and record.op == "grad":
                    owners = self.owners(record.parents[0], after) if record.parents else None
                    if node.op == "*" and isinstance(value, Const) and value.value == 0:
                        self.emit(Cleared(self.site(node, after), None, owners, True), after)
                        ends.append((after, "", None))
                        continue
                    if node.op in ("+", "-"):
                        self.gradient_set(record.parents[0] if record.parents else old, node, after)
                        ends.append((after, "", None))
                        continue
                    target, rescales = Thing(old, self.label(node.target)), not clips_by_name(after)
                    self.emit(
                        Clipped(self.site(node, after), target, f"`.grad {node.op}=`", owners, rescales=rescales), after
                    )
                    ends.append((after, "", None))
                    continue
                if isinstance(record, Tensor) and (record.op == "param" or not isinstance(node.target, ir.Subscript)):
                    shown = node.target
                    if isinstance(shown, ir.Attr) and shown.attr == "data":
                        shown = shown.value
                    self.overwritten(old, f"{node.op}=", (value,), node, after, shown)
                if isinstance(record, Tensor) and record.op == "param":
                    ends.append((after, "", None))  # a leaf that is updated in place (under no_grad) is still that leaf
                    continue
                if (
                    isinstance(record, Tensor)
                    and not record.is_number
                    and after.mode is False
                    and self.provenance(after).history(old) is True
                ):
                    ends.append((after, "", None))  # what changes in place keeps its graph
                    continue
                if node.op == "+" and after.stamp and _countable(old) and _countable(value):
                    new: Value = Sym("counted", (id(node), after.stamp), "count")  # whatever it is compared with
                else:
                    new = self.binary(node.op, old, value, node, after)
                ends.extend((there, "", None) for there in self.assign(node.target, new, after, node))
        return ends

    def args(self, *values: Value) -> Any:
        from flake8_gradtrap.interp.core import Args

        return Args(list(values))

    def assign(self, target: ir.Expression, value: Value, st: State, node: ir.Node) -> list[State]:
        if isinstance(target, ir.Name):
            self._bind(target.id, value, st, node)
            return [st]
        if isinstance(target, ir.Sequence):
            return self._unpack(target, value, st, node)
        if isinstance(target, ir.Starred):
            return self.assign(target.value, value, st, node)
        if isinstance(target, ir.Attr):
            paths = []
            for base, path in self.eval(target.value, st):
                self.set_attr(base, target.attr, value, path, node, target)
                paths.append(path)
            return paths
        if isinstance(target, ir.Subscript):
            paths = []
            for (base, index), path in self.eval_many((target.value, target.index), st):
                if isinstance(target.index, ir.Slicing) and isinstance(path.record(value), Iterator):
                    for item, after in self.iterate(value, "a slice that is assigned", node, path):
                        self._set_item(base, index, item, after, node, target)  # its elements, not the iterator
                        paths.append(after)
                    continue
                self._set_item(base, index, value, path, node, target)
                paths.append(path)
            return paths
        return [st]

    def _call(self, value: Value, name: str) -> None:
        """Call an unknown by the name that it gets. A loss stays one, unless something is done with the new name."""
        if not isinstance(value, Sym) or (value.name == "loss" and name not in self.module.protocol):
            return
        if (not value.name or value.op in _NAMELESS) and not self.kind_of_unknown(value):
            value.name = name

    def _bind(self, name: str, value: Value, st: State, node: ir.Node) -> None:
        self._call(value, name)
        env = self._home(name, st)
        before = st.envs.get(env, {}).get(name)
        self._watch_total(before, value, name, st, node)
        self.rebound(before, value, name, node, st)
        self.module_rebound(before, value, name, node, st)
        self.progress_bound(name, value, node, st)
        if st.stamp:
            note_carrier(before, value, name, self.site(node, st), st)
        st.bind(env, name, value)

    def _home(self, name: str, st: State) -> int:
        kind = st.conds.get(("outer", st.frame.env, name)) if st.conds else None
        if kind == "global":
            return 0
        if kind == "nonlocal":
            for env in st.frame.closure:
                if name in st.envs.get(env, {}):
                    return env
        return st.frame.env

    def _unpack(self, target: ir.Sequence, value: Value, st: State, node: ir.Node) -> list[State]:
        paths = [st]
        items = self.elements(value, st)
        if isinstance(st.record(value), Iterator):
            (_, st), *_ = self.iterate(value, "unpacking", node, st)
            paths = [st]
        star = next((place for place, part in enumerate(target.elts) if isinstance(part, ir.Starred)), None)
        for place, part in enumerate(target.elts):
            if items is not None and star is None and len(items) == len(target.elts):
                element = items[place]
            elif st.tensor(value) is not None:
                element = self.make_tensor("pass", (value,), node, st, how="unpacked")
            else:
                whole = value if isinstance(value, Sym) else self.unknown()
                element = Sym("item", (whole, place), part.id if isinstance(part, ir.Name) else "")
                if value in self.likely:
                    self.likely.add(element)
                if value in self.data:
                    self.data.add(element)
            paths = [after for path in paths for after in self.assign(part, element, path, node)]
        return paths

    def set_attr(self, base: Value, name: str, value: Value, st: State, node: ir.Node, target: ir.Attr) -> None:
        """`base.name = value`, with what torch makes of `grad`, `data` and `requires_grad`."""
        tensor = st.tensor(base)
        is_tensor = tensor is not None or self.kind(base, st) == "tensor"
        if name in ("grad", "_grad"):
            self.gradient_assigned(base, value, node, st)
            return
        if name == "requires_grad" and is_tensor:
            self.froze(base, value, node, st)
            if value == TRUE:
                self.force(base, node, st, f"{self.label(target.value)}.requires_grad = True")
            elif tensor is not None and tensor.op == "param" and isinstance(base, Ref):
                self.mark_frozen(tensor, st)
                st.replace(base, Tensor("leaf", (), tensor.site, tensor.mode, how=tensor.how, stamp=tensor.stamp))
            return
        if name == "data" and is_tensor:
            if not isinstance(node, ir.AugAssign):
                self.overwritten(self.make_tensor("detach", (base,), node, st, how=".data"), "=", (value,), node, st,
                                 target.value)  # fmt: skip
            return
        if name == "data" and st.tensor(value) is not None:
            value = self.make_tensor("detach", (value,), node, st, how=".data")  # of whatever it is: no graph is kept
        old = st.attr(base, name)
        self._watch_total(old, value, self.label(target), st, node)
        if st.stamp:
            note_carrier(old, value, self.label(target), self.site(node, st), st, outlives=True)
        self._call(value, name)
        self.attribute_set(base, name, value, st, node, target)
        self.progress_bound(name, value, target, st)
        self.state_assigned(base, name, target, st)
        if name == "param_groups":
            self.group_added(base, None, node, st)
        self.part_assigned(base, name, value, st, target, self.label(target))
        if self.kind(base, st) not in MODULES:
            self.module_rebound(old, value, self.label(target), target, st)
        st.set_attr(base, name, value)
        if self.is_tensor(value, st) and self.made_by(value, st):
            self.stored(base, value, st, node, "attribute", self.label(target))

    def gradient_assigned(self, leaf: Value, value: Value, node: ir.Node, st: State) -> None:
        """`p.grad = value`: None clears it."""
        if value == NONE:
            self.emit(Cleared(self.site(node, st), None, self.owners(leaf, st)), st)
        else:
            self.gradients_used((value,), "", node, st)
            self.gradient_set(leaf, node, st)

    def gradient_set(self, leaf: Value, node: ir.Node, st: State) -> None:
        """`p.grad = g`, `p.grad += g`: whoever writes gradients by hand knows what is in them."""
        how = "a gradient set by hand"
        owners = self.owners(leaf, st)
        if owners is None:
            self.emit(Escaped(self.site(node, st), (Thing(leaf),), how), st)
            return
        self.escape([leaf, *(owner for owner in owners if isinstance(owner, Value))], node, st, how)

    def force(self, value: Value, node: ir.Node, st: State, how: str) -> None:
        """`requires_grad` is put on a value: on a computed one that is GTR209's business, on a leaf it is ordinary."""
        tensor = st.tensor(value)
        if tensor is None:
            return
        history = self.provenance(st).history(value)
        if tensor.op in ("param", "grad", "forced"):
            return
        if tensor.op in ("leaf", "data") or not self.computed(value, st):
            if isinstance(value, Ref) and history is False:
                taken = tensor.op in ("detach", "readout", "rewrap")
                leaf = replace(tensor, op="param", parents=(), mode=True, saves=False, taken=taken)
                st.replace(value, replace(leaf, site=self.site(node, st), how=how) if taken else leaf)
            return
        if history is True:
            return
        self.emit(GradientForced(self.site(node, st), Thing(value, how.partition(".")[0]), how, history), st)
        if isinstance(value, Ref) and history is False:
            st.replace(
                value, Tensor("forced", (self.new(tensor, st),), self.site(node, st), True, how=how, stamp=st.stamp)
            )

    def computed(self, value: Value, st: State) -> bool:
        """Whether a value was computed from something trainable (not an input that is being made a leaf)."""
        source = st.behind(value, ("pass", "detach"))
        if source is not None and source.op == "param":
            return False  # a copy of a leaf is another leaf
        provenance = self.provenance(st)
        for part in provenance.ancestors(value):
            tensor = st.tensor(part)
            if tensor is not None and (
                tensor.op in ("forward", "call", "param") or (tensor.op == "op" and is_loss(tensor.how))
            ):
                return True
            if part in self.likely:
                return True
        return False

    def _set_item(
        self, base: Value, index: Value, value: Value, st: State, node: ir.Node, target: ir.Subscript
    ) -> None:
        if isinstance(target.value, ir.Attr) and target.value.attr in ("_modules", "_parameters"):
            self.handed_over((value,), node, st, target.value.attr)  # that is how torch itself registers it
        old = st.attr(base, index)
        record = st.record(base)
        if isinstance(record, Tensor) and isinstance(base, Ref):
            # Written in place: the tensor has now the history of what was written, too.
            self._watch_total(base, value, self.label(target), st, node, base)
            before = self.new(record, st)
            st.replace(base, Tensor("pass", (before, value), self.site(node, st), st.mode, how="[]=", stamp=st.stamp))
            self.overwritten(base, "[…] =", (value,), node, st, target.value, before)
            return
        if isinstance(record, Mapping) and isinstance(base, Ref):
            if old is None:
                old = next((item for key, item in record.items if key == index), None)
            entries = tuple((key, item) for key, item in record.items if key != index)
            st.replace(
                base,
                Mapping(
                    (*entries, (index, value)), record.closed and isinstance(index, Const), record.stamp, record.default
                ),
            )
        elif isinstance(record, Listing) and isinstance(base, Ref):
            items = list(record.items) if record.items is not None else None
            if (
                items is not None
                and isinstance(index, Const)
                and isinstance(index.value, int)
                and -len(items) <= index.value < len(items)
            ):
                items[index.value] = value
                known: tuple[Value, ...] | None = tuple(items)
            else:
                known = None
                st.set_attr(base, index, value)
            st.replace(
                base,
                Listing(
                    known,
                    record.item if known is not None else None,
                    None,
                    record.of_parameters,
                    record.bounded,
                    record.stamp,
                    record.shape,
                ),
            )
        else:
            self.part_assigned(base, index, value, st, target, self.label(target))
            st.set_attr(base, index, value)
        if index == Const.of("params"):
            self.group_added(None, value, node, st)
        self._watch_total(old, value, self.label(target), st, node)
        if not isinstance(index, Const):  # a constant key is overwritten: nothing grows
            self._store(base, value, st, node, self.label(target.value))

    def outlived_loop(self, stamp: Any, st: State) -> Any:
        """The outermost running loop of which an earlier iteration (or the time before) made a thing; None if none."""
        for place, (loop, iteration) in enumerate(st.stamp):
            if place >= len(stamp) or stamp[place][0] != loop:
                return loop
            if stamp[place][1] < iteration:
                return loop
        return None

    def for_few(self, loop: Any, st: State) -> bool:
        """Whether a loop goes over a few things that are written there, and no other runs within it."""
        return loop in self.over_few and st.stamp[-1][0] == loop

    def _watch_total(
        self, old: Value | None, value: Value, label: str, st: State, node: ir.Node, inside: Value | None = None
    ) -> None:
        """Emit Accumulated where a value extends one from an earlier iteration, or one `inside` of which it is written;
        Emptied where it takes the place of a total.
        """
        if old == value or not st.stamp or st.mode is False or IN_DOUBT in st.conds:
            return  # a sum under no_grad holds no graph, whatever is added
        if set_back(old, value, st):
            self.emit(Emptied(self.site(node, st), Thing(value if old is None else old, label), rebound=True), st)
        if old is None:
            return
        total = Thing(value if inside is None else inside, label)
        before, after = st.tensor(old), st.tensor(value)
        if before is None or after is None:
            return
        loop = carried_loop(before.stamp, st.stamp)
        while loop is None and before.op == "add":  # extended for the second time in this iteration
            before = st.tensor(before.parents[0])
            if before is None:
                return
            loop = carried_loop(before.stamp, st.stamp)
        if loop is None or self.in_a_test(st):
            return
        if "." not in total.label and self.for_few(loop, st):
            return  # of no more than these
        provenance = self.provenance(st)
        if any(number == loop for number, _ in before.stamp) and provenance.history(old) is False:
            return  # each iteration cuts it
        for term in provenance.addends(value, old) or ():
            if st.tensor(term) is None and not isinstance(term, Sym):
                continue
            site_node = self._term_node(node)
            self.emit(
                Accumulated(
                    self.site(site_node, st), Thing(term, self.label(site_node)), total, Thing(old, total.label),
                    provenance.history(term), loop, self.made_by(term, st), self._behind(term, st),
                ),
                st,
            )  # fmt: skip

    @staticmethod
    def _term_node(node: ir.Node) -> ir.Node:
        """The expression that is added, where the statement shows it."""
        if isinstance(node, ir.AugAssign):
            return node.value
        if isinstance(node, ir.Assign) and isinstance(node.value, ir.BinOp) and node.value.op == "+":
            targets = {target.id for target in node.targets if isinstance(target, ir.Name)}
            left = node.value.left
            return (
                node.value.right
                if isinstance(left, ir.Name) and left.id in targets
                else left
                if targets
                else node.value
            )
        return node

    def made_by(self, value: Value, st: State) -> tuple[Any, ...]:
        """The `return`s of visible step functions that made a value and ran its backward."""
        found: list[Any] = []
        for part in (value, *self._operands(value, st)):
            mark = st.attr(part, "made by")
            if isinstance(mark, Sym):
                found.extend(mark.args)
        return tuple(found)

    def _operands(self, value: Value, st: State) -> tuple[Value, ...]:
        tensor = st.tensor(value)
        return tensor.parents if tensor is not None and tensor.op in ("mul", "div", "pass") else ()

    def _behind(self, value: Value, st: State) -> frozenset[Any]:
        """The tensors that a value was visibly computed from, leaves aside, which many graphs share; where its history
        is not known, those that it is a multiple or a view of.
        """
        provenance = self.provenance(st)
        if provenance.history(value):
            reached = [(part, st.tensor(part)) for part in provenance.graph(value).reaches]
            return frozenset(
                part
                for part, tensor in reached
                if part in self.likely or (tensor is not None and tensor.op not in ("param", "leaf"))
            )
        found: list[Value] = [value]
        for part in found:
            tensor = st.tensor(part)
            if tensor is None or tensor.is_number or len(found) > 12:
                continue
            if tensor.how in ("unpacked", "element", "[key]"):
                continue  # one of several results, of which each may have been computed by itself
            if tensor.op in ("neg", "pass", "mul", "div") and tensor.mode is not False:
                tensors = [parent for parent in tensor.parents if st.tensor(parent) is not None]
                found.extend(tensors if len(tensors) == 1 else ())
        return frozenset(found)

    def _updates(self, container: Value, value: Value, st: State) -> bool:
        """Whether something unknown is a tensor that is written in place, or what is written continues what was there,
        of which it is not known whether it has a history.
        """
        if self.kind(container, st) == "tensor":
            return True
        provenance = self.provenance(st)
        if provenance.history(value) is not None:
            return False
        unknowns = [part for part in provenance.ancestors(value) if isinstance(part, Sym)]
        parts = [*unknowns, *(given for part in unknowns for given in part.args)]
        return any(isinstance(part, Sym) and part.args[:1] == (container,) for part in parts)

    def _store(self, base: Value, value: Value, st: State, node: ir.Node, label: str) -> None:
        if self.is_tensor(value, st):
            self.stored(base, value, st, node.value if isinstance(node, ir.Assign) else node, "setitem", label)

    def stored(self, container: Value, value: Value, st: State, node: ir.Node, by: str, label: str) -> None:
        tensor = st.tensor(value)
        if tensor is not None and tensor.op in ("param", "leaf", "data"):
            return  # it has no graph that could be kept
        if tensor is not None and tensor.op == "call" and not is_loss(tensor.how):
            return  # unseen code may have detached it
        if isinstance(value, Sym) and value.op == "item" and value not in self.likely:
            return  # a batch
        record = st.record(container)
        if record is None:
            if by == "setitem" and self._updates(container, value, st):
                return
            root = container
            while isinstance(root, Sym) and root.op in ("entry", "attr", "member") and isinstance(root.args[0], Value):
                root = root.args[0]
            if isinstance(root, Sym) and root.op not in ("param", "global", "attr", "member"):
                return  # it may have been made in this iteration
            record = st.record(root)
        stamp = record.stamp if isinstance(record, Listing | Mapping | Thingy | Iterator) else ()
        loop = self.outlived_loop(stamp, st)
        local = isinstance(container, Ref) and container > self.began  # it was made in this call
        if loop is None and (st.stamp or local):
            return  # it was made in this iteration, or in this call
        if loop in self.over_parts or (by == "setitem" and stamp and isinstance(record, Listing)):
            return  # one for each model, or each place of a list that is soon made anew: there are no more of them
        if local and self.for_few(loop, st):
            return
        if self.in_a_test(st):
            return
        bounded = isinstance(record, Listing) and record.bounded
        self.emit(
            Stored(
                self.site(node, st),
                self.thing(value, node),
                Thing(container, label),
                by,
                None if IN_DOUBT in st.conds else self.provenance(st).history(value),
                loop,
                bounded,
                self.made_by(value, st),
                self._behind(value, st),
            ),
            st,
        )


def _countable(value: Value) -> bool:
    return isinstance(value, Const) and value.type in (int, float)
