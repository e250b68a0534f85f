"""Statements of the abstract run. A block leads to several ends, each a path with a signal: how the block was left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flake8_gradtrap.events import (
    Accumulated,
    Cleared,
    Clipped,
    Emptied,
    GradientForced,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    Stored,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Dead
from flake8_gradtrap.interp.expressions import Expressions
from flake8_gradtrap.interp.state import SOME, State, collect
from flake8_gradtrap.interp.values import (
    NONE,
    TRUE,
    Class,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
)

_NAMELESS = frozenset({"call", "item", "entry", "derived"})
"""Unknowns that are called what the program binds them to."""

End = tuple[State, str, Value | None]
"""A path, how it left the block ("" at its end, "break", "continue", "return", "raise"), and what it returned."""


class Statements(Expressions):
    def exec_block(self, body: tuple[ir.Statement, ...], st: State) -> list[End]:
        ends: list[End] = []
        live = [st]
        for statement in body:
            following: list[State] = []
            for path in live:
                for end in self.exec(statement, path):
                    if end[1]:
                        ends.append(end)
                    else:
                        following.append(end[0])
            if len(following) > 1:
                for path in following:
                    self.forget_dead_names(statement, path)
            live = self.merger.merge(following)
            if len(live) >= SOME and isinstance(statement, ir.For | ir.While | ir.ExprStmt):
                for path in live:
                    collect(path)
                live = self.merger.merge(live)
            if not live:
                break
        return ends + [(path, "", None) for path in live]

    def forget_dead_names(self, statement: ir.Statement, st: State) -> None:
        """Drop the names that nothing reads after a statement: paths that differ in them alone merge."""
        frame = st.frame
        if st.conds.get(("captured", frame.env)):
            return
        live = self.liveness.get(frame.func.ident if frame.func is not None else 0)
        if live is None or (after := live.after.get(id(statement))) is None:
            return
        env = st.envs[frame.env]
        for name in [name for name in env if name not in after]:
            del env[name]

    def exec(self, node: ir.Statement, st: State) -> list[End]:
        self.tick()
        self.at = id(node)
        method: Callable[[Any, State], list[End]] = getattr(self, "exec_" + type(node).__name__)
        try:
            return method(node, st)
        except Dead:
            return []

    # -- simple statements --------------------------------------------------------------------------------------------

    def exec_ExprStmt(self, node: ir.ExprStmt, st: State) -> list[End]:
        return [(path, "", None) for _, path in self.eval(node.value, st)]

    def exec_Pass(self, node: ir.Pass, st: State) -> list[End]:
        return [(st, "", None)]

    def exec_Assign(self, node: ir.Assign, st: State) -> list[End]:
        ends: list[End] = []
        for value, path in self.eval(node.value, st):
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
                if isinstance(record, Listing) and node.op == "+":
                    for _, there in self.call_method(old, "extend", self.args(value), node, after):
                        ends.append((there, "", None))
                    continue
                if isinstance(record, Tensor) and record.op == "grad":
                    owners = self.owners(record.parents[0], after) if record.parents else None
                    target = Thing(old, self.label(node.target))
                    self.emit(Clipped(self.site(node, after), target, f"`{node.op}=`", owners, rescales=True), after)
                    ends.append((after, "", None))
                    continue
                if isinstance(record, Tensor) and record.op == "param":
                    ends.append((after, "", None))  # a leaf that is updated in place (under no_grad) is still that leaf
                    continue
                new = self.binary(node.op, old, value, node, after)
                ends.extend((there, "", None) for there in self.assign(node.target, new, after, node))
        return ends

    def args(self, *values: Value) -> Any:
        from flake8_gradtrap.interp.core import Args

        return Args(list(values))

    def exec_Return(self, node: ir.Return, st: State) -> list[End]:
        if node.value is None:
            return [(st, "return", NONE)]
        ends: list[End] = []
        for value, path in self.eval(node.value, st):
            path.set_attr(Sym("frame", (path.frame.env,)), "returned at", Sym("node", (self.site(node, path),)))
            ends.append((path, "return", value))
        return ends

    def exec_Raise(self, node: ir.Raise, st: State) -> list[End]:
        return [(st, "raise", None)]

    def exec_Break(self, node: ir.Break, st: State) -> list[End]:
        return [(st, "break", None)]

    def exec_Continue(self, node: ir.Continue, st: State) -> list[End]:
        return [(st, "continue", None)]

    def exec_Assert(self, node: ir.Assert, st: State) -> list[End]:
        yes, _ = self.branch(node.test, st)
        return [(path, "", None) for path in yes]

    def exec_Scope(self, node: ir.Scope, st: State) -> list[End]:
        for name in node.names:
            st.conds[("outer", st.frame.env, name)] = node.kind
        return [(st, "", None)]

    def exec_Delete(self, node: ir.Delete, st: State) -> list[End]:
        for target in node.targets:
            if isinstance(target, ir.Name):
                st.envs[st.frame.env].pop(target.id, None)
            elif isinstance(target, ir.Subscript):
                for value, path in self.eval(target.value, st)[:1]:
                    self.empty(value, target, path)
                    st = path
        return [(st, "", None)]

    def empty(self, value: Value, node: ir.Node, st: State) -> None:
        record = st.record(value)
        if isinstance(record, Listing) and isinstance(value, Ref):
            st.replace(
                value,
                Listing(
                    None, record.item, record.owners, record.of_parameters, record.bounded, record.stamp, record.shape
                ),
            )
        self.emit(Emptied(self.site(node, st), self.thing(value)), st)

    def exec_Import(self, node: ir.Import, st: State) -> list[End]:
        module = self.current_module(st)
        for dotted, alias in node.names:
            head = dotted.partition(".")[0]
            st.envs[st.frame.env][alias or head] = module.resolve(dotted if alias else head, None, 0)
        return [(st, "", None)]

    def exec_ImportFrom(self, node: ir.ImportFrom, st: State) -> list[End]:
        module = self.current_module(st)
        for name, alias in node.names:
            if name != "*":
                st.envs[st.frame.env][alias or name] = module.resolve(node.module, name, node.level)
        return [(st, "", None)]

    def current_module(self, st: State) -> Any:
        return st.frame.func.module if st.frame.func is not None else self.module

    def exec_FunctionDef(self, node: ir.FunctionDef, st: State) -> list[End]:
        func = self.define(node, st)
        if len(st.frames) > 1 or st.frame.func is not None:
            self.captured(st)
        st.envs[st.frame.env][node.name] = func
        return [(st, "", None)]

    def define(self, node: ir.FunctionDef, st: State) -> Value:
        """The function value of a definition, with the gradient mode that its decorators set."""
        frame = st.frame
        return Func(node, id(node), self.current_module(st), (frame.env, *frame.closure))

    def exec_ClassDef(self, node: ir.ClassDef, st: State) -> list[End]:
        frame = st.frame
        bases = tuple(base.value for base in node.bases if base.keyword is None and not base.star)
        names = frozenset(methods_of(node.body))
        st.envs[frame.env][node.name] = Class(
            node.name, id(node), self.current_module(st), bases, names, lambda: node.body, (frame.env, *frame.closure)
        )
        self.captured(st)
        return [(st, "", None)]

    # -- assignment ---------------------------------------------------------------------------------------------------

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
                self._set_item(base, index, value, path, node, target)
                paths.append(path)
            return paths
        return [st]

    def _bind(self, name: str, value: Value, st: State, node: ir.Node) -> None:
        if isinstance(value, Sym) and (not value.name or value.op in _NAMELESS) and not self.kind_of_unknown(value):
            value.name = name
        env = self._home(name, st)
        names = st.envs.setdefault(env, {})
        self._watch_total(names.get(name), value, Thing(value, name), st, node)
        names[name] = value

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
        if name == "grad":
            if value == NONE:
                self.emit(Cleared(self.site(node, st), None, self.owners(base, st)), st)
            else:
                owners = self.owners(base, st) or frozenset()
                self.escape(
                    [base, *(owner for owner in owners if isinstance(owner, Value))], node, st, "a gradient set by hand"
                )
            return
        if name == "requires_grad" and is_tensor:
            if value == TRUE:
                self.force(base, node, st, f"{self.label(target.value)}.requires_grad = True")
            elif tensor is not None and tensor.op == "param" and isinstance(base, Ref):
                if tensor.owner is not None:
                    for owner in tensor.owner.items if isinstance(tensor.owner, Tup) else (tensor.owner,):
                        st.set_attr(owner, "frozen", TRUE)
                st.replace(base, Tensor("leaf", (), tensor.site, tensor.mode, how=tensor.how, stamp=tensor.stamp))
            return
        if name == "data" and is_tensor:
            return
        old = st.attr(base, name)
        self._watch_total(old, value, Thing(value, self.label(target)), st, node)
        if isinstance(value, Sym) and (not value.name or value.op in _NAMELESS) and not self.kind_of_unknown(value):
            value.name = name
        st.set_attr(base, name, value)
        if self.is_tensor(value, st) and self.made_by(value, st):
            self.stored(base, value, st, node, "attribute", self.label(target))

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
                st.replace(value, replace(tensor, op="param", parents=(), mode=True, saves=False))
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
        provenance = self.provenance(st)
        for part in provenance.ancestors(value):
            tensor = st.tensor(part)
            if tensor is not None and (
                tensor.op in ("forward", "call", "param") or (tensor.op == "op" and _is_loss(tensor.how))
            ):
                return True
            if part in self.likely:
                return True
        return False

    def _set_item(
        self, base: Value, index: Value, value: Value, st: State, node: ir.Node, target: ir.Subscript
    ) -> None:
        old = st.attr(base, index)
        record = st.record(base)
        if isinstance(record, Tensor) and isinstance(base, Ref):
            # Written in place: the tensor has now the history of what was written, too.
            before = self.new(record, st)
            st.replace(
                base, Tensor("pass", (before, value), self.site(node, st), st.mode, how="[]=", stamp=record.stamp)
            )
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
            st.set_attr(base, index, value)
        self._watch_total(old, value, Thing(value, self.label(target)), st, node)
        if not isinstance(index, Const):  # a constant key is overwritten: nothing grows
            self._store(base, value, st, node, self.label(target.value))

    # -- what outlives an iteration -----------------------------------------------------------------------------------

    def outlived_loop(self, stamp: Any, st: State) -> Any:
        """The outermost running loop of which an earlier iteration (or the time before) made a thing; None if none."""
        for place, (loop, iteration) in enumerate(st.stamp):
            if place >= len(stamp) or stamp[place][0] != loop:
                return loop
            if stamp[place][1] < iteration:
                return loop
        return None

    def _watch_total(self, old: Value | None, value: Value, total: Thing, st: State, node: ir.Node) -> None:
        """Emit Accumulated where a value extends one from an earlier iteration."""
        if old is None or old == value or not st.stamp or st.mode is False:
            return  # a sum under no_grad holds no graph, whatever is added
        before, after = st.tensor(old), st.tensor(value)
        if before is None or after is None:
            return
        loop = self._carried_loop(before.stamp, st)
        if loop is None:
            return
        provenance = self.provenance(st)
        for term in provenance.addends(value, old) or ():
            if st.tensor(term) is None and not isinstance(term, Sym):
                continue
            site_node = self._term_node(node)
            self.emit(
                Accumulated(
                    self.site(site_node, st), Thing(term, self.label(site_node)), total, Thing(old, total.label),
                    provenance.history(term), loop, self.made_by(term, st), frozenset(provenance.graph(term).reaches),
                ),
                st,
            )  # fmt: skip

    @staticmethod
    def _carried_loop(stamp: Any, st: State) -> Any:
        """The running loop in an earlier iteration of which a thing was made; None if it was made before or in this
        one.
        """
        for place, (loop, iteration) in enumerate(st.stamp):
            if place >= len(stamp) or stamp[place][0] != loop:
                return None
            if stamp[place][1] < iteration:
                return loop
        return None

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

    def _store(self, base: Value, value: Value, st: State, node: ir.Node, label: str) -> None:
        if self.is_tensor(value, st):
            self.stored(base, value, st, node.value if isinstance(node, ir.Assign) else node, "setitem", label)

    def stored(self, container: Value, value: Value, st: State, node: ir.Node, by: str, label: str) -> None:
        record = st.record(container)
        if record is None:
            root = container
            while isinstance(root, Sym) and root.op in ("entry", "attr", "member") and isinstance(root.args[0], Value):
                root = root.args[0]
            if isinstance(root, Sym) and root.op not in ("param", "global", "attr", "member"):
                return  # it may have been made in this iteration
            record = st.record(root)
        stamp = record.stamp if isinstance(record, Listing | Mapping | Thingy | Iterator) else ()
        loop = self.outlived_loop(stamp, st)
        if loop is None and st.stamp:
            return
        bounded = isinstance(record, Listing) and record.bounded
        provenance = self.provenance(st)
        self.emit(
            Stored(
                self.site(node, st),
                self.thing(value, node),
                Thing(container, label),
                by,
                provenance.history(value),
                loop,
                bounded,
                self.made_by(value, st),
                frozenset(provenance.graph(value).reaches),
            ),
            st,
        )

    # -- branches -----------------------------------------------------------------------------------------------------

    def exec_If(self, node: ir.If, st: State) -> list[End]:
        yes, no = self.branch(node.test, st)
        ends: list[End] = []
        for path in yes:
            ends.extend(self.exec_block(node.body, path))
        for path in no:
            ends.extend(self.exec_block(node.orelse, path))
        return ends

    def exec_Match(self, node: ir.Match, st: State) -> list[End]:
        ends: list[End] = []
        for subject, path in self.eval(node.subject, st):
            exhaustive = False
            for case in node.cases:
                inside = path.fork()
                for name in case.binds:
                    inside.envs[inside.frame.env][name] = subject if case.wildcard else self.unknown(name)
                ends.extend(self.exec_block(case.body, inside))
                exhaustive = exhaustive or (case.wildcard and case.guard is None)
            if not exhaustive:
                ends.append((path, "", None))
        return ends

    def exec_Try(self, node: ir.Try, st: State) -> list[End]:
        before = st.fork()
        if any(handler.type is not None and "OutOfMemory" in self.label(handler.type) for handler in node.handlers):
            self.emit(Cleared(self.site(node, st), None, None), st)  # a probe for memory does not train
        ends: list[End] = []
        body = self.exec_block(node.body, st)
        for path, signal, value in body:
            if signal == "":
                ends.extend(self.exec_block(node.orelse, path))
            elif signal != "raise" or not node.handlers:
                ends.append((path, signal, value))
        for handler in node.handlers:
            path = before.fork()
            if handler.name:
                path.envs[path.frame.env][handler.name] = self.unknown(handler.name)
            ends.extend(self.exec_block(handler.body, path))
        if not node.final:
            return ends
        after: list[End] = []
        for path, signal, value in ends:
            for there, how, what in self.exec_block(node.final, path):
                after.append((there, how, what) if how else (there, signal, value))
        return after

    def exec_With(self, node: ir.With, st: State) -> list[End]:
        paths: list[tuple[State, bool | None]] = [(st, st.mode)]
        for item in node.items:
            following: list[tuple[State, bool | None]] = []
            for path, mode in paths:
                for value, after in self.eval(item.value, path):
                    record = after.record(value)
                    entered = value
                    if isinstance(record, Thingy) and record.kind == "context":
                        after.mode = record.flag
                        entered = record.args[0] if record.args else self.unknown()
                    elif self.kind(value, after) not in ("module", "tensor", "optimizer", "instance"):
                        entered = Sym("entered", (value,), getattr(value, "name", ""))
                    if item.target is not None:
                        following.extend((there, mode) for there in self.assign(item.target, entered, after, node))
                    else:
                        following.append((after, mode))
            paths = following
        ends: list[End] = []
        for path, mode in paths:
            for after, signal, returned in self.exec_block(node.body, path):
                after.mode = mode
                ends.append((after, signal, returned))
        return ends

    # -- loops --------------------------------------------------------------------------------------------------------

    def exec_For(self, node: ir.For, st: State) -> list[End]:
        ends: list[End] = []
        leaves = _leaves_early(node.body)
        for value, path in self.eval(node.iter, st):
            for item, after in self.iterate(value, "`for`", node, path, whole=None if leaves else True):
                ends.extend(self._loop(node, value, item, after, leaves))
        return ends

    def exec_While(self, node: ir.While, st: State) -> list[End]:
        return self._loop(node, None, None, st, False)

    def _loop(
        self, node: ir.For | ir.While, source: Value | None, item: Value | None, st: State, leaves: bool
    ) -> list[End]:
        """Run the body twice, so that the second iteration sees what the first one left behind."""
        loop = id(node)
        ends: list[End] = []
        broken: list[State] = []
        finished: list[State] = []
        outer = st.stamp
        known = self.elements(source, st) if source is not None else None
        self.emit(LoopStarted(self.site(node, st), loop), st)
        live = [st]
        skipped = st.fork() if leaves else None
        before_loop = frozenset(st.envs[st.frame.env])
        # When steps run short, a loop runs twice only in the first iterations of those around it.
        again = not (self.merger.narrow and any(iteration for _, iteration in outer))
        for index in range(2 if again else 1):
            entering: list[State] = []
            for path in live:
                path.stamp = (*outer, (loop, index))
                self.emit(IterationStarted(self.site(node, path), loop, index), path)
                if isinstance(node, ir.While):
                    yes, no = self.branch(node.test, path)
                    for after in yes if index else ():
                        self._forget_first_bound(before_loop, after)
                    entering.extend(yes)
                    if index and not yes:
                        finished.extend(no)
                else:
                    if index:
                        self._forget_first_bound(before_loop, path)
                    element = item if item is not None else self.unknown()
                    if known is not None and index < len(known):
                        element = known[index]
                    elif index:
                        element = self.again(element, path)
                    entering.extend(self.assign(node.target, element, path, node))
            live = []
            for path in entering:
                before = dict(path.conds)
                for after, signal, value in self.exec_block(node.body, path):
                    if signal in ("", "continue"):
                        last = self._was_last(after, before)
                        self._forget_before_next(node, after)
                        (finished if last else live).append(after)
                    elif signal == "break":
                        broken.append(after)
                    else:
                        after.stamp = outer
                        ends.append((after, signal, value))
            live = self.merger.merge(live)
            if known is not None and len(known) <= 1:
                break
        finished.extend(live)
        if skipped is not None and not finished and not broken:
            finished.append(skipped)  # no iteration comes to its end: what follows the loop runs when there is none
        for path in finished:
            path.stamp = outer
            if leaves and source is not None and isinstance(path.record(source), Iterator):
                self.iterated(source, "`for`", node, path, True, ends=True)
            self.emit(LoopLeft(self.site(node, path), loop), path)
        for path in broken:
            path.stamp = outer
            if source is not None and isinstance(path.record(source), Iterator):
                self.iterated(source, "a `for` left by `break`", node, path, False, ends=True)
            self.emit(LoopLeft(self.site(node, path), loop), path)
        for path in self.merger.merge(finished):
            ends.extend(self.exec_block(node.orelse, path))
        ends.extend((path, "", None) for path in self.merger.merge(broken))
        return ends

    @staticmethod
    def _forget_first_bound(before_loop: frozenset[str], st: State) -> None:
        """Drop the names that the last iteration was the first to bind.

        A program that reads them before it binds them again would have failed in the first iteration: an `if … elif`
        that seems to leave a name unbound takes one of its branches each time.
        """
        env = st.envs[st.frame.env]
        if not st.conds.get(("captured", st.frame.env)):
            for name in [name for name in env if name not in before_loop]:
                del env[name]

    def _forget_before_next(self, node: ir.For | ir.While, st: State) -> None:
        """Drop the names that neither the next iteration nor what follows the loop reads."""
        frame = st.frame
        live = self.liveness.get(frame.func.ident if frame.func is not None else 0)
        if live is None or id(node) not in live.head or st.conds.get(("captured", frame.env)):
            return
        env = st.envs[frame.env]
        head = live.head[id(node)]
        for name in [name for name in env if name not in head]:
            del env[name]

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
        raise NotImplementedError

    def again(self, item: Value, st: State) -> Value:
        """The next element of a loop: like the last one, another identity."""
        if isinstance(item, Tup):
            return Tup(tuple(self.again(part, st) for part in item.items))
        if isinstance(item, Sym) and item.op == "index":
            return Sym("+", (item, Const.of(1)), item.name)
        if isinstance(item, Sym):
            new = Sym("item", (self.fresh(),), item.name)
            if item in self.data:
                self.data.add(new)
            return new
        record = st.record(item)
        if isinstance(record, Iterator):
            return self.new(record, st)  # another one of the same kind, of which nothing is known
        if isinstance(record, Tensor):
            computed = record.op not in ("leaf", "data", "param", "readout", "grad", "hard", "detach")
            new_item = self.new(replace(record, op="call", parents=()) if computed else record, st)
            if computed and self.provenance(st).history(item, guess=True):
                self.likely.add(new_item)
            if (mark := st.attr(item, "made by")) is not None:
                st.set_attr(new_item, "made by", mark)
            return new_item
        return item

    @staticmethod
    def _was_last(st: State, before: dict[Any, Any]) -> bool:
        """Whether this path assumed that the iteration that ends is the last one.

        It did with `i + 1 == len(loader)`, and where `i + 1 < n` was false: a loop goes on only while there is more.
        """
        for test, fact in st.conds.items():
            if test in before or not isinstance(test, tuple) or test[0] != "truth" or not isinstance(test[1], Sym):
                continue
            symbol = test[1]
            if symbol.op == "==" and fact is True and any(_is_length(arg) for arg in symbol.args):
                return True
            counted = len(symbol.args) == 2 and _counts(symbol.args[0]) and not isinstance(symbol.args[1], Const)
            if counted and (symbol.op, fact) in (("<", False), ("==", True)):
                return True
        return False


def _is_loss(name: str) -> bool:
    return any(word in name.lower() for word in ("loss", "entropy", "criterion", "nll", "mse", "bce"))


def methods_of(body: tuple[ir.Statement, ...]) -> dict[str, ir.FunctionDef]:
    """The functions that the body of a class defines, also under a condition."""
    found: dict[str, ir.FunctionDef] = {}
    for statement in body:
        if isinstance(statement, ir.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ir.If):
            found |= methods_of(statement.body)
    return found


def _counts(value: Any) -> bool:
    """Whether a value is the index of a loop, or so much more."""
    if isinstance(value, Sym) and value.op == "+":
        return _counts(value.args[0])
    return isinstance(value, Sym) and value.op == "index"


def _is_length(value: Any) -> bool:
    if isinstance(value, Sym) and value.op == "-":
        return _is_length(value.args[0])
    return isinstance(value, Sym) and value.op == "pure builtins.len"


def _leaves_early(body: tuple[ir.Statement, ...]) -> bool:
    """Whether a loop body can leave its own loop: `break`, `return` or `raise`."""
    for statement in body:
        if isinstance(statement, ir.Break | ir.Return | ir.Raise):
            return True
        if isinstance(statement, ir.If) and (_leaves_early(statement.body) or _leaves_early(statement.orelse)):
            return True
        if isinstance(statement, ir.With) and _leaves_early(statement.body):
            return True
        if isinstance(statement, ir.Try) and any(
            _leaves_early(part)
            for part in (statement.body, statement.orelse, statement.final, *(h.body for h in statement.handlers))
        ):
            return True
    return False
