"""Functions and methods of which the project's settings say what they do (see `flake8_gradtrap.own`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flake8_gradtrap.events import IteratorMade, ReadOut
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Results
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.torch_model import TorchModel
from flake8_gradtrap.interp.values import Func, Iterator, Thingy, Value


class OwnModel(TorchModel):
    def own_kind(self, name: str) -> str:
        """What the settings say of a full name; "" if nothing."""
        own = self.know.own
        return own.kinds.get(name) or own.methods.get(name.rpartition(".")[2], "")

    def own_kind_of(self, func: Func) -> str:
        """What the settings say of a visible function, which they name by the place of its definition."""
        short = getattr(func.node, "name", "")
        if short not in self.know.own.shorts:
            return ""
        path = func.module.path.replace("\\", "/").removesuffix(".py").removesuffix("/__init__")
        place = "." + ".".join([*path.split("/"), *([func.owner.name] if func.owner is not None else []), short])
        named = (kind for name, kind in self.know.own.kinds.items() if place.endswith(f".{name}"))
        return next(named, "") or (self.know.own.methods.get(short, "") if func.owner is not None else "")

    def call_api(self, name: str, args: Args, node: ir.Node, st: State) -> Results:
        if self.know.own.kinds:
            full = self.know.canonical(name)
            if kind := self.own_kind(full):
                return self.own_call(kind, full.rpartition(".")[2], None, args, node, st)
            if full in self.know.own.holders:  # its methods are known by its name
                return [(self._make("instance", full, args, node, st), st)]
        return super().call_api(name, args, node, st)

    def enter_together(self, func: Func, calls: Sequence[tuple[Args, State]], node: ir.Node) -> Results:
        if self.know.own.kinds and (kind := self.own_kind_of(func)):
            short = getattr(func.node, "name", "")
            acted = [self.own_call(kind, short, func.receiver, args, node, st) for args, st in calls]
            return [pair for results in acted for pair in results]
        return super().enter_together(func, calls, node)

    def own_method(self, receiver: Value, name: str, st: State) -> str:
        """What the settings say of a method of something whose class cannot be seen."""
        record = st.record(receiver)
        what = record.what if isinstance(record, Thingy) else ""
        return self.know.own.kinds.get(f"{what}.{name}") or self.know.own.methods.get(name, "")

    def own_call(self, kind: str, short: str, receiver: Value | None, args: Args, node: ir.Node, st: State) -> Results:
        """Act out a call of a function or method of one's own."""
        results = _ACTS[kind](self, short, args, node, st)
        if kind == "step_wrappers" and receiver is not None:
            self.escape([receiver], node, st, short)
        return results

    def _own_source(self, short: str, args: Args, node: ir.Node, st: State) -> Results:
        owners = self._union([arg for arg in args.all() if self.kind(arg, st) == "module"], st)
        item = self.parameter_item(owners, self.site(node, st), st)
        made = Iterator(f"`{short}(…)`", (), item, True, owners, self.site(node, st), stamp=st.stamp)
        it = self.new(made, st)
        self.emit(IteratorMade(self.site(node, st), self.thing(it, node), made.how, True), st)
        return [(it, st)]

    def _own_materialiser(self, short: str, args: Args, node: ir.Node, st: State) -> Results:
        return self.consume("builtins.list", args, node, st)

    def _own_clip(self, short: str, args: Args, node: ir.Node, st: State) -> Results:
        params = args.get(0, "parameters", "params", "model")
        self.clip(params, args.get(1, "max_norm", "clip_value", "value"), short, node, st)
        return [(self.make_tensor("leaf", (), node, st, how="norm"), st)]

    def _own_logger(self, short: str, args: Args, node: ir.Node, st: State) -> Results:
        for value in args.all():
            if st.tensor(value) is not None:
                self.emit(ReadOut(self.site(node, st), self.thing(value), short), st)
        return [(self.unknown(short), st)]

    def _own_step(self, short: str, args: Args, node: ir.Node, st: State) -> Results:
        for value in args.all():
            if self.is_tensor(value, st) or self.provenant(value, st):
                self.backward(value, Args(), node, st, wrapped=True)
        self.escape(args.all(), node, st, short)  # it steps and clears, in which order is its own affair
        return [(self.unknown(short), st)]


_ACTS: dict[str, Callable[[OwnModel, str, Args, ir.Node, State], Results]] = {
    "one_shot_sources": OwnModel._own_source,
    "materialisers": OwnModel._own_materialiser,
    "clip_functions": OwnModel._own_clip,
    "loggers": OwnModel._own_logger,
    "step_wrappers": OwnModel._own_step,
}
