"""Loops of the abstract run: each body runs twice, so that what one iteration leaves meets the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flake8_gradtrap.events import (
    IterationStarted,
    LoopLeft,
    LoopStarted,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.assignment import Assignment
from flake8_gradtrap.interp.core import End
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    Const,
    Iterator,
    Sym,
    Tensor,
    Tup,
    Value,
)
from flake8_gradtrap.interp.windows import counted_and_reset


class Loops(Assignment):
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
        count = source.args[0] if isinstance(source, Sym) and source.op == "range" and len(source.args) == 1 else None
        times = Thing(count, self._times(node, count)) if isinstance(count, Value) else None
        self.emit(LoopStarted(self.site(node, st), loop, times), st)
        self._start_counters(node, st)
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

    def _times(self, node: ir.For | ir.While, count: Value) -> str:
        """What the n of `for … in range(n)` is called."""
        call = node.iter if isinstance(node, ir.For) else None
        return self.label(call.args[0].value) if isinstance(call, ir.Call) and call.args else ""

    def _start_counters(self, node: ir.For | ir.While, st: State) -> None:
        """A name that the loop counts up and sets back has in any iteration one of many values."""
        loop = id(node)
        if loop not in self.resets:
            self.resets[loop] = counted_and_reset(node.body)
        env = st.envs[st.frame.env]
        for name in self.resets[loop]:
            if name in env and isinstance(env[name], Const):
                env[name] = Sym("index", (self.fresh(),), name)

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
            computed = record.op not in ("leaf", "data", "param", "readout", "grad", "first order", "hard", "detach")
            new_item = self.new(replace(record, op="call", parents=()) if computed else record, st)
            if computed and self.provenance(st).history(item, guess=True):
                self.likely.add(new_item)
            if (mark := st.attr(item, "made by")) is not None:
                st.set_attr(new_item, "made by", mark)
            return new_item
        return item

    def _was_last(self, st: State, before: dict[Any, Any]) -> bool:
        """Whether this path assumed that the iteration that ends is the last one.

        It did with `i + 1 == len(loader)`, and where `i + 1 < n` was false: a loop goes on only while there is more.
        """
        for test, fact in st.conds.items():
            if test in before or not isinstance(test, tuple) or test[0] != "truth" or not isinstance(test[1], Sym):
                continue
            symbol = test[1]
            if symbol.op == "==" and fact is True and any(self._is_length(arg, st) for arg in symbol.args):
                return True
            counted = len(symbol.args) == 2 and _counts(symbol.args[0]) and not isinstance(symbol.args[1], Const)
            if counted and (symbol.op, fact) in (("<", False), ("==", True)):
                return True
        return False

    def _is_length(self, value: Any, st: State) -> bool:
        """Whether a value is `len(loader)`, or less by some: the length of a batch says nothing of the loop."""
        if isinstance(value, Sym) and value.op == "-":
            return self._is_length(value.args[0], st)
        if not isinstance(value, Sym) or value.op != "pure builtins.len":
            return False
        return not any(part in self.data or st.tensor(part) is not None for part in value.args)  # type: ignore[arg-type]


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


def _counts(value: Any) -> bool:
    """Whether a value is the index of a loop, or so much more."""
    if isinstance(value, Sym) and value.op == "+":
        return _counts(value.args[0])
    return isinstance(value, Sym) and value.op == "index"
