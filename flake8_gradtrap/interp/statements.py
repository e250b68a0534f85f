"""Statements of the abstract run. A block leads to several ends, each a path with a signal: how the block was left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flake8_gradtrap.events import (
    Cleared,
    Emptied,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Dead, End
from flake8_gradtrap.interp.loops import Loops
from flake8_gradtrap.interp.modes import IN_DOUBT
from flake8_gradtrap.interp.state import SOME, State, collect
from flake8_gradtrap.interp.values import (
    NONE,
    Class,
    Func,
    Listing,
    Ref,
    Sym,
    Thingy,
    Value,
)


class Statements(Loops):
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
        ends: list[End] = []
        for value, path in self.eval(node.value, st):
            if isinstance(value, Ref):
                self.switch_gradients(value, node.value, path)
            ends.append((path, "", None))
        return ends

    def exec_Pass(self, node: ir.Pass, st: State) -> list[End]:
        return [(st, "", None)]

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
        module = self.current_module(st)
        cls = Class(node.name, id(node), module, bases, names, lambda: node.body, (frame.env, *frame.closure))
        self.bind_bases(cls, st)
        st.envs[frame.env][node.name] = cls
        self.captured(st)
        return [(st, "", None)]

    def bind_bases(self, cls: Class, st: State) -> None:
        raise NotImplementedError

    # -- assignment ---------------------------------------------------------------------------------------------------

    # -- what outlives an iteration -----------------------------------------------------------------------------------

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
        before = st.mode, IN_DOUBT in st.conds
        paths: list[State] = [st]
        for item in node.items:
            following: list[State] = []
            for path in paths:
                for value, after in self.eval(item.value, path):
                    record = after.record(value)
                    entered = value
                    if isinstance(record, Thingy) and record.kind == "context":
                        if record.flag is None:
                            after.conds[IN_DOUBT] = True
                        else:
                            after.mode = record.flag
                        entered = record.args[0] if record.args else self.unknown()
                    elif self.kind(value, after) not in ("module", "tensor", "optimizer", "instance"):
                        entered = Sym("entered", (value,), getattr(value, "name", ""))
                    if item.target is not None:
                        following.extend(self.assign(item.target, entered, after, node))
                    else:
                        following.append(after)
            paths = following
        ends: list[End] = []
        for path in paths:
            for after, signal, returned in self.exec_block(node.body, path):
                after.mode = before[0]
                if not before[1]:
                    after.conds.pop(IN_DOUBT, None)
                ends.append((after, signal, returned))
        return ends

    # -- loops --------------------------------------------------------------------------------------------------------


def methods_of(body: tuple[ir.Statement, ...]) -> dict[str, ir.FunctionDef]:
    """The functions that the body of a class defines, also under a condition."""
    found: dict[str, ir.FunctionDef] = {}
    for statement in body:
        if isinstance(statement, ir.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ir.If):
            found |= methods_of(statement.body)
    return found
