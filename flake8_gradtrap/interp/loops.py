"""Loops of the abstract run: each body runs twice, so that what one iteration leaves meets the next."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flake8_gradtrap.events import (
    IterationStarted,
    LoopLeft,
    LoopStarted,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.assignment import Assignment
from flake8_gradtrap.interp.core import TRAINED, Dead, End
from flake8_gradtrap.interp.liveness import bound
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    Const,
    Iterator,
    Mapping,
    Method,
    Ref,
    Sym,
    Tensor,
    Tup,
    Value,
)
from flake8_gradtrap.interp.windows import counted_and_reset

_ONE_BY_ONE = frozenset({"`zip(…)`", "`enumerate(…)`", "`reversed(…)`", "`chain(…)`", "`iter(…)`"})
"""Lazy iterators through which a loop meets known elements one by one."""

EACH = 8
"""A loop over known models, optimizers or parameters meets so many of them one by one."""

WORDS = 4
"""A loop over known strings meets so many of them one by one."""


@dataclass(slots=True)
class _Entry:
    """Paths that enter a loop over the same iterable: its elements, if all are known, and a typical one."""

    source: Value | None
    known: tuple[Value, ...] | None
    item: Value | None
    paths: list[State]


class Loops(Assignment):
    def run_For(self, node: ir.For, live: list[State]) -> list[End]:
        leaves = _leaves_early(node.body)
        if _few(node.iter):
            self.over_few.add(id(node))
        groups: list[_Entry] = []
        before_items = self.counter
        for path in live:
            with suppress(Dead):
                for source, before in self.eval(node.iter, path):
                    self.looped(node, source, before)
                    known = self._known(source, before)
                    for item, after in self.iterate(source, "`for`", node, before, whole=None if leaves else True):
                        for entry in groups:
                            same = entry.source == source or (
                                isinstance(entry.source, Sym)
                                and isinstance(source, Sym)
                                and entry.source.op == source.op == "call"
                                and not isinstance(item, Ref)
                            )
                            if same and entry.known == known and self._same_items(entry.item, item):
                                entry.paths.append(after)
                                break
                        else:
                            groups.append(_Entry(source, known, item, [after]))
        return [end for entry in groups for end in self._loop(node, entry, leaves, before_items)]

    @staticmethod
    def _same_items(one: Value | None, other: Value | None) -> bool:
        """Whether what a loop yields on one path will do for another: an unknown is as good as the next."""
        if isinstance(one, Tup) and isinstance(other, Tup):
            return len(one.items) == len(other.items) and all(
                Loops._same_items(p, q) for p, q in zip(one.items, other.items, strict=True)
            )
        if isinstance(one, Sym) and isinstance(other, Sym):
            return one.op == other.op and one.name == other.name and (len(one.args), len(other.args)) == (1, 1)
        return one == other

    def run_While(self, node: ir.While, live: list[State]) -> list[End]:
        return self._loop(node, _Entry(None, None, None, live), False, self.counter)

    def _loop(self, node: ir.For | ir.While, entry: _Entry, leaves: bool, begun: int) -> list[End]:
        """Run the body twice, so that the second iteration sees what the first one left behind.

        `begun`: how many things were made before the loop began, the first of its items included.
        """
        loop = id(node)
        source, known, item = entry.source, entry.known, entry.item
        ends: list[End] = []
        broken: list[State] = []
        finished: list[State] = []
        live = entry.paths
        outer = live[0].stamp if live else ()
        bounds = source.args if isinstance(source, Sym) and source.op == "range" else ()
        count = bounds[-1] if len(bounds) == 1 or (len(bounds) == 2 and bounds[0] == Const.of(0)) else None
        times = Thing(count, self._times(node, count)) if isinstance(count, Value) else None
        indices: set[Sym] = set()  # by which this loop counts
        for path in live:
            self.emit(LoopStarted(self.site(node, path), loop, times), path)
            indices |= self._start_counters(node, path)
        skipped = [path.fork() for path in live] if leaves else []
        endless = isinstance(node, ir.While) and node.endless
        before_loop = frozenset(name for path in live for name in path.envs[path.frame.env])
        # When steps run short, a loop runs twice only in the first iterations of those around it.
        again = not (self.merger.narrow and any(iteration for _, iteration in outer))
        turns = 2 if again and not _once(node) else 1
        if known is not None and live and self._met_alone(source, known, live[0]):
            turns = min(len(known), EACH + 1)  # what is done to one of these is not done to the others
        for index in range(turns):
            entering: list[State] = []
            self.begun[*outer, (loop, index)] = self.counter if index else begun
            for path in live:
                path.stamp = (*outer, (loop, index))
                self.emit(IterationStarted(self.site(node, path), loop, index), path)
                with suppress(Dead):
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
                        if known is not None and (index == EACH or self._last_of_keys(known, index, turns)):
                            element = self.unknown()  # any of the rest
                        elif known is not None and index < len(known):
                            element = known[index]
                        elif index:
                            element = self.again(element, path)
                        indices |= _indices(element)
                        entering.extend(self.assign(node.target, element, path, node))
                        if loop not in self.over_parts and entering and self._over_parts(node, entering[-1]):
                            self.over_parts.add(loop)
            live = []
            cut_short: list[State] = []
            before = {test for path in entering for test in path.conds}
            for after, signal, value in self.exec_block(node.body, entering):
                if signal in ("", "continue"):
                    last = self._was_last(after, before, indices)
                    self._forget_before_next(node, after)
                    (finished if last else live).append(after)
                    if signal:
                        cut_short.append(after)
                elif signal == "break":
                    broken.append(after)
                else:
                    after.stamp = outer
                    ends.append((after, signal, value))
            if index == turns - 1 and broken and endless:  # it tries again, until it breaks
                live = [path for path in live if not any(path is other for other in cut_short)]
            live = self.merger.merge(live)
            if known is not None and len(known) <= 1:
                break
        finished.extend(live)
        if not finished and not broken:
            finished += skipped  # no iteration comes to its end: what follows the loop runs when there is none
        for path in finished:
            path.stamp = outer
            if leaves and source is not None and isinstance(path.record(source), Iterator):
                self.iterated(source, "`for`", node, path, True, ends=True)
            self.emit(LoopLeft(self.site(node, path), loop, self._expected_more(path)), path)
        for path in broken:
            path.stamp = outer
            if source is not None and isinstance(path.record(source), Iterator):
                self.iterated(source, "a `for` left by `break`", node, path, False, ends=True)
            self.emit(LoopLeft(self.site(node, path), loop, True), path)
        ends.extend(self.exec_block(node.orelse, self.merger.merge(finished)))
        ends.extend((path, "", None) for path in self.merger.merge(broken))
        return ends

    def _over_parts(self, node: ir.For, st: State) -> bool:
        """Whether an iteration gets a model or an optimizer."""
        return any(self.kind(self.lookup(name, st), st) in ("optimizer", "module") for name in bound(node.target))

    @staticmethod
    def _last_of_keys(known: tuple[Value, ...], index: int, turns: int) -> bool:
        """Whether the last turn of a loop over known keys stands for more than one of them."""
        return index == turns - 1 < len(known) - 1 and isinstance(known[index], Const)

    def _known(self, source: Value, st: State) -> tuple[Value, ...] | None:
        """The elements that a loop meets, if all are known: of a lazy iterator, if it has to meet each by itself."""
        record = st.record(source)
        if not isinstance(record, Iterator) or record.how not in _ONE_BY_ONE or record.generator is not None:
            if isinstance(record, Mapping) and record.closed:
                return tuple(key for key, _ in record.items)
            return self.elements(source, st)
        parts = [self._known(part, st) for part in record.sources]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known:
            return None
        met: tuple[Value, ...] = tuple(reversed(known[0])) if record.how == "`reversed(…)`" else known[0]
        if record.how == "`zip(…)`":
            met = tuple(Tup(part) for part in zip(*known, strict=False))
        elif record.how == "`enumerate(…)`":
            met = tuple(Tup((Sym("index", (self.fresh(),)), part)) for part in met)
        elif record.how == "`chain(…)`":
            met = tuple(element for part in known for element in part)
        return met if self._met_alone(None, met, st) else None

    def _met_alone(self, source: Value | None, known: tuple[Value, ...], st: State) -> bool:
        """Whether a loop has to meet each element by itself: models, optimizers, parameters, tuples with one of these,
        or a few words, which may be keys of such.
        """
        if 2 < len(known) <= WORDS and all(isinstance(one, Const) and one.type is str for one in known):
            return True
        record = st.record(source) if source is not None else None
        stack = [*known, *(value for _, value in (record.items if isinstance(record, Mapping) else ()))]
        while stack:
            value = stack.pop()
            tensor = st.tensor(value)
            if isinstance(value, Tup):
                stack.extend(value.items)
            elif isinstance(value, Method):
                stack.append(value.receiver)
            elif tensor.op in ("param", "leaf") if tensor is not None else self.kind(value, st) in TRAINED:
                return True
        return False

    def _times(self, node: ir.For | ir.While, count: Value) -> str:
        """What the n of `for … in range(n)`, or `range(0, n)`, is called."""
        call = node.iter if isinstance(node, ir.For) else None
        return self.label(call.args[-1].value) if isinstance(call, ir.Call) and call.args else ""

    def _start_counters(self, node: ir.For | ir.While, st: State) -> set[Sym]:
        """A name that the loop counts up and sets back has in any iteration one of many values: these."""
        loop = id(node)
        if loop not in self.resets:
            self.resets[loop] = counted_and_reset(node.body)
        counters: set[Sym] = set()
        for name in self.resets[loop]:
            if isinstance(st.envs[st.frame.env].get(name), Const):
                counter = Sym("index", (self.fresh(),), name)
                counters.add(counter)
                st.bind(st.frame.env, name, counter)
        return counters

    @staticmethod
    def _forget_first_bound(before_loop: frozenset[str], st: State) -> None:
        """Drop the names that the last iteration was the first to bind.

        A program that reads them before it binds them again would have failed in the first iteration: an `if … elif`
        that seems to leave a name unbound takes one of its branches each time.
        """
        captured = st.conds.get(("captured", st.frame.env), frozenset())
        st.keep_names(st.frame.env, before_loop, captured)

    def _forget_before_next(self, node: ir.For | ir.While, st: State) -> None:
        """Drop the names that neither the next iteration nor what follows the loop reads."""
        frame = st.frame
        live = self.liveness.get(frame.func.ident if frame.func is not None else 0)
        if live is None or id(node) not in live.head:
            return
        captured = st.conds.get(("captured", frame.env), frozenset())
        head = live.head[id(node)]
        st.keep_names(frame.env, head, captured)

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
        if isinstance(item, Sym) and item.op == "entry" and self.kinds.get(item) == "module":
            return self.submodule(item.args[0], self.fresh())  # another part of the same whole
        if isinstance(item, Sym):
            new = Sym("item", (self.fresh(),), item.name)
            for group in (self.data, self.handed_out):
                if item in group:
                    group.add(new)
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

    def _expected_more(self, st: State) -> bool:
        """Whether this path assumed of some iteration that it is not the last: `i + 1 == len(loader)` was false."""
        return any(
            isinstance(test, tuple)
            and test[0] == "truth"
            and isinstance(test[1], Sym)
            and test[1].op == "=="
            and fact is False
            and any(self.is_length(arg, st) for arg in test[1].args)
            for test, fact in st.conds.items()
        )

    def _counted_out(self, test: Sym, st: State) -> bool:
        """Whether a test compares a count with how many there are; two lengths, or a length and a constant, are no
        such pair: `len(names) == len(values)`.
        """
        others = [arg for arg in test.args if not self.is_length(arg, st)]
        if len(others) != len(test.args) - 1 or isinstance(others[0], Const):
            return False
        return not isinstance(others[0], Sym) or others[0].op != "pure builtins.len"

    def _was_last(self, st: State, before: set[Any], indices: set[Sym]) -> bool:
        """Whether this path assumed that the iteration that ends is the last one.

        It did with `i + 1 == len(loader)`, and where `i + 1 < n` was false: a loop goes on only while there is more.
        What was said of the index of another loop, within this one or around it, says nothing of this one.
        """
        for test, fact in st.conds.items():
            if test in before or not isinstance(test, tuple) or test[0] != "truth" or not isinstance(test[1], Sym):
                continue
            symbol = test[1]
            if (counting := _indices(symbol)) and counting.isdisjoint(indices):
                continue
            if symbol.op == "==" and fact is True and self._counted_out(symbol, st):
                return True
            counted = len(symbol.args) == 2 and _counts(symbol.args[0]) and not isinstance(symbol.args[1], Const)
            counted = counted and not _counts(symbol.args[1])  # `best + patience < epoch`: how long ago something was
            if counted and (symbol.op, fact) in (("<", False), ("==", True)):
                return True
        return False


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


def _indices(value: Any) -> set[Sym]:
    """The indices of loops in a value."""
    if isinstance(value, Tup):
        return set[Sym]().union(*map(_indices, value.items))
    if not isinstance(value, Sym):
        return set()
    return {value} if value.op == "index" else set[Sym]().union(*map(_indices, value.args))


def _counts(value: Any) -> bool:
    """Whether a value is the index of a loop, or so much more."""
    if isinstance(value, Sym) and value.op == "+":
        return _counts(value.args[0])
    return isinstance(value, Sym) and value.op == "index"


def _once(node: ir.For | ir.While) -> bool:
    """Whether a loop says that it runs once: `for _ in range(1)`; how many epochs a setting asks for is no matter."""
    call = node.iter if isinstance(node, ir.For) else None
    if not isinstance(call, ir.Call) or not isinstance(call.func, ir.Name) or call.func.id != "range":
        return False
    return [arg.value.value for arg in call.args if isinstance(arg.value, ir.Const)] == [1] and len(call.args) == 1


def _few(iterable: ir.Expression) -> bool:
    """Whether a loop goes over few things that are all written there: `for x in (real, fake)`."""
    if isinstance(iterable, ir.Call) and isinstance(iterable.func, ir.Name):
        walks = iterable.func.id in ("zip", "enumerate", "reversed", "sorted")
        return walks and any(_few(arg.value) for arg in iterable.args[:1] if not arg.star)
    return (
        isinstance(iterable, ir.Sequence)
        and len(iterable.elts) <= EACH
        and not any(isinstance(element, ir.Starred) for element in iterable.elts)
    )
