"""`with`: contexts of torch, and those that the program defines, which run around the block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from flake8_gradtrap.events import AnomalyDetectionSet, AutocastEntered, AutocastLeft, Site
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.calls import DEPTH, Calls
from flake8_gradtrap.interp.core import Args, Dead, End
from flake8_gradtrap.interp.inference import INFERENCE
from flake8_gradtrap.interp.state import IN_DOUBT, Frame, State
from flake8_gradtrap.interp.values import NONE, Api, Class, Const, Func, Iterator, Sym, Thingy, Tup, Value

_SETS = frozenset(
    "__enter__ no_grad inference_mode set_grad_enabled enable_grad eval train training requires_grad "
    "requires_grad_".split()
)
"""Words of contexts of the program that set a mode, of gradients or of modules, for the block."""

_LEFT = "left"
"""How the block of a context was left, beside the frame of the generator that is the context."""

Before = tuple[bool | None, bool, bool]
"""Whether gradients are recorded, whether that is in doubt, and whether it is `inference_mode`, before a block."""


class Contexts(Calls):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.detecting: set[ir.Node] = set()
        """Blocks with anomaly detection as their context."""
        self.casting: set[ir.Node] = set()
        """Blocks that are run under autocast."""

    def run_With(self, node: ir.With, live: list[State]) -> list[End]:
        return self._run_items(node, node.items, live)

    def _run_items(self, node: ir.With, items: tuple[ir.WithItem, ...], live: list[State]) -> list[End]:
        """Enter contexts one in the other, as far as they only set something; a function of the program that is one
        runs around all that follows.
        """
        by_mode: dict[tuple[Before, tuple[Value, ...]], list[State]] = {}
        ends: list[End] = []
        for path in live:
            before = path.mode, IN_DOUBT in path.conds, INFERENCE in path.conds
            with suppress(Dead):
                for after, at, contexts in self._enter_contexts(node, items, path):
                    if at < len(items):
                        around = self._run_around(node, items, at, contexts[-1], after)
                        ends += self._left_contexts(node, contexts[:-1], before, around)
                    else:
                        by_mode.setdefault((before, contexts), []).append(after)
        for (before, contexts), paths in by_mode.items():
            ends += self._left_contexts(node, contexts, before, self.exec_block(node.body, paths))
        return ends

    def _left_contexts(self, node: ir.With, contexts: tuple[Value, ...], before: Before, ends: list[End]) -> list[End]:
        mode, in_doubt, inferring = before
        for context in reversed(contexts):
            ends = [
                (path, signal, returned)
                for after, signal, returned in ends
                for path in self._call_own(context, "__exit__", Args([NONE, NONE, NONE]), node, after)[:1]
            ]
        for after, _, _ in ends:
            after.mode = mode
            if node in self.detecting:
                self.emit(AnomalyDetectionSet(self.site(node, after), False), after)
            if node in self.casting:
                self.emit(AutocastLeft(self.site(node, after), id(node)), after)
            if not in_doubt:
                after.conds.pop(IN_DOUBT, None)
            if not inferring:
                after.conds.pop(INFERENCE, None)
        return ends

    def _enter_contexts(
        self, node: ir.With, items: tuple[ir.WithItem, ...], st: State
    ) -> list[tuple[State, int, tuple[Value, ...]]]:
        """The paths within the contexts, with the instances among them whose `__exit__` is to be called. A path ends at
        the item whose context is a function of the program: it is the last of the values then.
        """
        paths: list[tuple[State, int, tuple[Value, ...]]] = [(st, 0, ())]
        for at, item in enumerate(items):
            following: list[tuple[State, int, tuple[Value, ...]]] = []
            for path, reached, contexts in paths:
                if reached < at:
                    following.append((path, reached, contexts))
                    continue
                for value, after in self.eval(item.value, path):
                    if self._own_function(value, after) is not None:
                        following.append((after, at, (*contexts, value)))
                    elif self._own_class(value, after):
                        for inside in self._call_own(value, "__enter__", Args(), item.value, after):
                            entered = inside.drop_attr(value, "entered") or self.unknown()
                            bound = self.assign(item.target, entered, inside, node) if item.target else [inside]
                            following += [(one, at + 1, (*contexts, value)) for one in bound]
                    else:
                        following += [(one, at + 1, contexts) for one in self._enter_one(node, item, value, after)]
            paths = following
        return paths

    def _enter_one(self, node: ir.With, item: ir.WithItem, value: Value, st: State) -> list[State]:
        """A context of torch, or of which nothing is to be seen."""
        record = st.record(value)
        entered = value
        if isinstance(record, Thingy) and self.enter_context(value, st):
            self.enters_inference(value, st)
            entered = record.args[0] if record.args else self.unknown()
        elif isinstance(record, Thingy) and record.cls is not None and self._inherited(record.cls, st):
            entered = value
        elif isinstance(record, Thingy) and record.kind == "anomaly":
            self.detecting.add(node)
        elif isinstance(record, Thingy) and record.kind == "autocast":
            self.casting.add(node)
            site, told = record.site or self.site(item.value, st), self.switched((*record.args, None)[0])
            self.emit(AutocastEntered(site, id(node), told[0], record.what, told[1]), st)
        elif self.kind(value, st) not in ("module", "tensor", "optimizer", "instance"):
            entered = Sym("entered", (value,), getattr(value, "name", ""))
            if item.target is None:
                self.in_unseen_context(item.value, value, st)
        return self.assign(item.target, entered, st, node) if item.target is not None else [st]

    # -- contexts of the program --------------------------------------------------------------------------------------

    def _inherited(self, cls: Class, st: State) -> bool:
        """Whether a class of the program sets the gradient mode as its base, one of torch's contexts, does."""
        for base in self.lineage(cls)[1:]:
            roles = self.know.roles(self.know.canonical(base.name)) if isinstance(base, Api) else frozenset()
            if "context.no_grad" in roles or "context.grad" in roles:
                st.mode = "context.grad" in roles
                self.quieted += not st.mode
                return True
        return False

    def _own_function(self, value: Value, st: State) -> Func | None:
        """The generator function of the program that is a context which sets a mode."""
        record = st.record(value)
        if not isinstance(record, Iterator) or record.generator is None:
            return None
        func = record.generator[0]
        return func if self._is_context_manager(func) and self._sets(func) else None

    def _own_class(self, value: Value, st: State) -> bool:
        """Whether a value is an instance of a class of the program whose instances are contexts that set a mode."""
        record = st.record(value)
        if not isinstance(record, Thingy) or record.cls is None or record.kind in ("module", "optimizer"):
            return False
        found = self.find_method(record.cls, "__enter__")
        if found is None:
            return False
        bound = self.bind_method(*found, value, st)
        return isinstance(bound, Func) and self._sets(bound)

    @staticmethod
    def _sets(func: Func) -> bool:
        return not ir.mentions(func.node).isdisjoint(_SETS | func.module.names_that_matter(_SETS))

    def _call_own(self, context: Value, name: str, args: Args, node: ir.Node, st: State) -> list[State]:
        """Run a method of a context of the program; what `__enter__` returns is kept beside it."""
        record = st.record(context)
        assert isinstance(record, Thingy)
        assert record.cls is not None
        found = self.find_method(record.cls, name)
        if found is None:
            return [st]
        paths = []
        for value, path in self.call_value(self.bind_method(*found, context, st), args, node, st):
            if name == "__enter__":
                path.set_attr(context, "entered", value)
                self._inherited(record.cls, path)
            paths.append(path)
        return paths

    def _run_around(
        self, node: ir.With, items: tuple[ir.WithItem, ...], at: int, context: Value, st: State
    ) -> list[End]:
        """Run a generator that is a context: at its `yield`, the block, and the contexts that follow."""
        func = self._own_function(context, st)
        record = st.record(context)
        assert func is not None
        assert isinstance(record, Iterator)
        assert record.generator is not None
        names = record.generator[1]
        raised: list[End] = []
        entered = False

        def body(value: Value, path: State) -> list[State]:
            nonlocal entered
            entered = True
            frame = path.frame
            path.frames = path.frames[:-1]
            target = items[at].target
            paths = self.assign(target, value, path, node) if target is not None else [path]
            left: list[State] = []
            for after, signal, returned in self._run_items(node, items[at + 1 :], paths):
                if signal == "raise":
                    raised.append((after, signal, returned))
                    continue
                after.frames = (*after.frames, frame)
                after.set_attr(Sym("frame", (frame.env,)), _LEFT, Tup((Const.of(signal), returned or NONE)))
                left.append(after)
            return left

        depth = len(st.frames)
        before = st.fork()
        ends: list[End] = []
        for how, path in self._run_context(func, names, node, st, body):
            if isinstance(how, Tup):
                signal, returned = how.items
                text = str(signal.value) if isinstance(signal, Const) else ""
                ends.append((path, text, returned if text == "return" else None))
        assert all(len(path.frames) == depth for path, _, _ in ends)
        if not entered:  # too deep, or left before its `yield`
            before.conds[IN_DOUBT] = True
            return self._run_items(node, items[at + 1 :], [before])
        return ends + raised

    def _run_context(
        self,
        func: Func,
        names: tuple[tuple[str, Value], ...],
        node: ir.Node,
        st: State,
        body: Callable[[Value, State], list[State]],
    ) -> list[tuple[Value | None, State]]:
        """Run a generator whose `yield` runs a block; how that was left, on each path."""
        assert isinstance(func.node, ir.FunctionDef)
        if len(st.frames) > DEPTH or any(frame.func == func for frame in st.frames):
            return []
        self.entered.add(func.ident)
        env = self.fresh()
        st.put_names(env, dict(names))
        handed = frozenset(part for _, value in names for part in self.reachable(value, st))
        call = Site(node, st.frames[-1].call if st.frames else None)
        st.frames = (*st.frames, Frame(env, func.closure, func, call, handed))
        self.bodies[env] = body
        results: list[tuple[Value | None, State]] = []
        for path, signal, _ in self.exec_block(func.node.body, [st]):
            if signal != "raise":
                how = path.drop_attr(Sym("frame", (env,)), _LEFT)
                results.append((how, self._leave(path, path.mode, env)))
        del self.bodies[env]
        return results
