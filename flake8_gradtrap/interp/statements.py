"""Statements of the abstract run. A block leads to several ends, each a path with a signal: how the block was left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from flake8_gradtrap.events import (
    Cleared,
    Emptied,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Dead, End, Results
from flake8_gradtrap.interp.loops import Loops
from flake8_gradtrap.interp.merging import SOME
from flake8_gradtrap.interp.state import State, collect
from flake8_gradtrap.interp.values import (
    NONE,
    Api,
    Class,
    Func,
    Listing,
    Ref,
    Sym,
    Value,
)

_EXITS = frozenset({"builtins.exit", "builtins.quit", "sys.exit", "os._exit"})
"""Functions that end the program: what stands behind such a call does not run on this path."""

_EXIT_WORDS = frozenset(name.rpartition(".")[2] for name in _EXITS)

DEAR = 40
"""A simple statement that takes more than this part of the budget on one path calls a training loop, or much else."""
ROUNDS = 3
"""Such a statement is run on so many paths."""


class Statements(Loops):
    def exec_block(self, body: tuple[ir.Statement, ...], live: list[State]) -> list[End]:
        """Run a block on all paths that come to it, side by side: they merge after each statement."""
        ends: list[End] = []
        for statement in body:
            before = len(live)
            following: list[State] = []
            for end in self.exec_all(statement, live):
                if end[1]:
                    ends.append(end)
                else:
                    following.append(end[0])
            if len(following) > 1:
                for path in following:
                    self.forget_dead_names(statement, path)
            live = self.merger.merge(following)
            ended = isinstance(statement, ir.For | ir.While)
            if len(live) >= SOME and (ended or (isinstance(statement, ir.ExprStmt) and len(following) > before)):
                for path in live:
                    collect(path)
                live = self.merger.merge(live)
            if not live:
                break
        return ends + [(path, "", None) for path in live]

    def forget_dead_names(self, statement: ir.Statement, st: State) -> None:
        """Drop the names that nothing reads after a statement: paths that differ in them alone merge."""
        frame = st.frame
        captured = st.conds.get(("captured", frame.env), frozenset())
        live = self.liveness.get(frame.func.ident if frame.func is not None else 0)
        if live is None or (after := live.after.get(id(statement))) is None:
            return
        st.keep_names(frame.env, after, captured)

    def exec_all(self, node: ir.Statement, live: list[State]) -> list[End]:
        """Run a statement: one with blocks on all paths at once, a simple one on each."""
        method: Callable[[Any, list[State]], list[End]] | None = self.handler("run_", type(node))
        if method is None:
            return self._exec_each(node, live)
        self.tick(len(live))
        self.at = id(node)
        return method(node, live)

    def _exec_each(self, node: ir.Statement, live: list[State]) -> list[End]:
        """Run a simple statement on each path; on few, where it calls what takes many steps."""
        dear = self.budget // DEAR
        waiting = self.merger.fewer(live, ROUNDS) if id(node) in self.dear else live
        ends: list[End] = []
        if (
            len(waiting) > 1
            and isinstance(node, ir.Assign | ir.ExprStmt | ir.Return)
            and isinstance(node.value, ir.Call)
        ):
            together, waiting = self._entering(node.value, waiting)
            for func, paths in together:
                before = self.steps
                ends += self._exec_together(node, node.value, func, paths)
                if self.steps - before > dear * len(paths):
                    self.dear.add(id(node))
        while waiting:
            before = self.steps
            ends += self.exec(node, waiting[0])
            waiting = waiting[1:]
            if self.steps - before > dear:
                self.dear.add(id(node))
                waiting = self.merger.fewer(waiting, ROUNDS - 1)
        return ends

    def _entering(self, node: ir.Call, live: list[State]) -> tuple[list[tuple[Func, list[State]]], list[State]]:
        """The paths on which a call enters the same function, with that function; and the other paths."""
        groups: dict[Func, list[State]] = {}
        rest: list[State] = []
        for st in live:
            func = self._entered_by(node.func, st)
            if func is None:
                rest.append(st)
            else:
                groups.setdefault(func, []).append(st)
        for func in [func for func, paths in groups.items() if len(paths) == 1]:
            rest += groups.pop(func)
        return list(groups.items()), rest

    def _entered_by(self, node: ir.Expression, st: State) -> Func | None:
        """The visible function that is called by `f(…)` or `x.f(…)`."""
        results: Results = []
        if isinstance(node, ir.Name):
            results = self.eval(node, st)
        elif isinstance(node, ir.Attr) and isinstance(node.value, ir.Name) and node.attr != "step":
            bases = self.eval(node.value, st)
            if len(bases) == 1 and not self.runs_when_read(bases[0][0], node.attr, st):  # it is read again on each path
                results = self.get_attr(bases[0][0], node.attr, node, st, called=True)
        value = results[0][0] if len(results) == 1 else None
        return value if isinstance(value, Func) and isinstance(value.node, ir.FunctionDef) else None

    def _exec_together(
        self, node: ir.Assign | ir.ExprStmt | ir.Return, call: ir.Call, func: Func, paths: list[State]
    ) -> list[End]:
        """Run a statement that calls a visible function, on several paths at once."""
        self.tick(len(paths))
        self.at = id(node)
        self.statement = id(call)
        calls: list[tuple[Args, State]] = []
        for path in paths:
            with suppress(Dead):
                calls += self.arguments(call, path)
        results = self.gather(self.enter_together(func, calls, call))
        if isinstance(node, ir.Assign):
            return self.assigned(node, results)
        return self.returned(node, results) if isinstance(node, ir.Return) else self.evaluated(node, results)

    def runs_when_read(self, base: Value, name: str, st: State) -> bool:
        raise NotImplementedError

    def enter_together(self, func: Func, calls: Sequence[tuple[Args, State]], node: ir.Node) -> Results:
        raise NotImplementedError

    def exec(self, node: ir.Statement, st: State) -> list[End]:
        self.tick()
        self.at = id(node)
        method: Callable[[Any, State], list[End]] = self.handler("exec_", type(node))
        try:
            return method(node, st)
        except Dead:
            return []

    # -- simple statements --------------------------------------------------------------------------------------------

    def exec_ExprStmt(self, node: ir.ExprStmt, st: State) -> list[End]:
        self.statement = id(node.value)
        return self.evaluated(node, self.eval(node.value, st))

    def evaluated(self, node: ir.ExprStmt, results: Results) -> list[End]:
        """Go on after an expression that stands as a statement, on each path."""
        ends: list[End] = []
        for value, path in results:
            if isinstance(value, Ref):
                self.switch_gradients(value, node.value, path)
            ends.append((path, "raise" if self._exits(node.value, path) else "", None))
        return ends

    def _exits(self, node: ir.Node, st: State) -> bool:
        """Whether a statement is the call of a function that raises `SystemExit`, or ends the process."""
        if not isinstance(node, ir.Call) or self.label(node.func).rpartition(".")[2] not in _EXIT_WORDS:
            return False
        functions = [value for value, _ in self.eval(node.func, st.fork())]
        return all(isinstance(value, Api) and value.name in _EXITS for value in functions)

    def exec_Pass(self, node: ir.Pass, st: State) -> list[End]:
        return [(st, "", None)]

    def exec_Return(self, node: ir.Return, st: State) -> list[End]:
        if node.value is None:
            return [(st, "return", NONE)]
        return self.returned(node, self.eval(node.value, st))

    def returned(self, node: ir.Return, results: Results) -> list[End]:
        """Return what the expression gave on each path."""
        ends: list[End] = []
        for value, path in results:
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
                st.keep_names(st.frame.env, st.envs[st.frame.env].keys() - {target.id})
            elif isinstance(target, ir.Subscript):
                for value, path in self.eval(target.value, st)[:1]:
                    self.empty(value, target, path)
                    st = path
            elif isinstance(target, ir.Attr):
                for holder, path in self.eval(target.value, st)[:1]:
                    path.drop_attr(holder, target.attr)
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
            st.bind(st.frame.env, alias or head, module.resolve(dotted if alias else head, None, 0))
        return [(st, "", None)]

    def exec_ImportFrom(self, node: ir.ImportFrom, st: State) -> list[End]:
        module = self.current_module(st)
        for name, alias in node.names:
            if name != "*":
                st.bind(st.frame.env, alias or name, module.resolve(node.module, name, node.level))
        return [(st, "", None)]

    def current_module(self, st: State) -> Any:
        return st.frame.func.module if st.frame.func is not None else self.module

    def exec_FunctionDef(self, node: ir.FunctionDef, st: State) -> list[End]:
        func = self.define(node, st)
        if len(st.frames) > 1 or st.frame.func is not None:
            self.captured(node, st)
            if node.mentions & self.entry_words and isinstance(func, Func):
                self.closures.setdefault(id(node), (func, st.fork()))
        st.bind(st.frame.env, node.name, func)
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
        st.bind(frame.env, node.name, cls)
        self.captured(node, st)
        return [(st, "", None)]

    def bind_bases(self, cls: Class, st: State) -> None:
        raise NotImplementedError

    # -- assignment ---------------------------------------------------------------------------------------------------

    # -- what outlives an iteration -----------------------------------------------------------------------------------

    # -- branches -----------------------------------------------------------------------------------------------------

    def run_If(self, node: ir.If, live: list[State]) -> list[End]:
        inside: list[State] = []
        outside: list[State] = []
        for path in live:
            with suppress(Dead):
                yes, no = self.branch(node.test, path)
                inside += yes
                outside += no
        return self.exec_block(node.body, inside) + self.exec_block(node.orelse, outside)

    def exec_Match(self, node: ir.Match, st: State) -> list[End]:
        ends: list[End] = []
        for subject, path in self.eval(node.subject, st):
            exhaustive = False
            for case in node.cases:
                inside = path.fork()
                for name in case.binds:
                    inside.bind(inside.frame.env, name, subject if case.wildcard else self.unknown(name))
                ends.extend(self.exec_block(case.body, [inside]))
                exhaustive = exhaustive or (case.wildcard and case.guard is None)
            if not exhaustive:
                ends.append((path, "", None))
        return ends

    def run_Try(self, node: ir.Try, live: list[State]) -> list[End]:
        before = [path.fork() for path in live]
        if any(handler.type is not None and "OutOfMemory" in self.label(handler.type) for handler in node.handlers):
            for path in live:
                self.emit(Cleared(self.site(node, path), None, None), path)  # a probe for memory does not train
        ends: list[End] = []
        passed: list[State] = []
        for path, signal, value in self.exec_block(node.body, live):
            if signal == "":
                passed.append(path)
            elif signal != "raise" or not node.handlers:
                ends.append((path, signal, value))
        ends += self.exec_block(node.orelse, passed)
        for handler in node.handlers:
            failed = [path.fork() for path in before]
            if handler.name is not None:
                for path in failed:
                    path.bind(path.frame.env, handler.name, self.unknown(handler.name))
            ends.extend(self.exec_block(handler.body, failed))
        if not node.final:
            return ends
        after = self.exec_block(node.final, [path for path, signal, _ in ends if signal == ""])
        for path, signal, value in ends:
            if signal:
                for there, how, what in self.exec_block(node.final, [path]):
                    after.append((there, how, what) if how else (there, signal, value))
        return after

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
