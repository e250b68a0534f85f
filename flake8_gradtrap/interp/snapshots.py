"""States of modules: `state_dict()`, what shares its memory, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.events import StateTaken, StateUsed
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Results
from flake8_gradtrap.interp.resuming import Resuming
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Func, Listing, Mapping, Tensor, Thingy, Tup, Value

_GATHERS = frozenset({"state_dict_type", "FullStateDictConfig", "StateDictOptions", "get_model_state_dict", "zero"})
"""Words of functions in which a state is gathered from several processes: a copy."""


class Snapshots(Resuming):
    def take_state(self, module: Value, node: ir.Node, st: State) -> Value:
        """`module.state_dict()`: its tensors are those of the module."""
        func = st.frame.func
        mentions = ir.mentions(func.node) if func is not None else frozenset()
        if not self.hears(StateTaken) or mentions & _GATHERS:
            return self.unknown("state_dict")
        owners = self.leaves(module, st)
        state = self.new(
            Thingy("state", None, owners, "state_dict", None, (module,), self.site(node, st), st.stamp), st
        )
        self.emit(StateTaken(self.site(node, st), self.thing(state, node), owners, False, self.copier(st)), st)
        return state

    def copier(self, st: State) -> str:
        """What the file that runs calls `copy.deepcopy`."""
        func = st.frame.func
        imports = (func.module if func is not None else self.module).imports
        for name, (source, inner, _) in imports.items():
            if (source, inner) == ("copy", "deepcopy"):
                return name
            if (source, inner) == ("copy", None):
                return f"{name}.deepcopy"
        return ""

    def entry(self, state: Value, node: ir.Node, st: State) -> Value:
        """A tensor in a state: without history, in the memory of the module."""
        return self.make_tensor("detach", (state,), node, st, how="entry")

    def shared(self, value: Value, st: State) -> tuple[Value, bool] | None:
        """The state whose memory a tensor shares, and whether it was asked onto the CPU; None if it is a copy."""
        moved = False
        for _ in range(6):
            tensor = st.tensor(value)
            if tensor is None or len(tensor.parents) != 1:
                return None
            if tensor.how == "entry":
                return tensor.parents[0], moved
            if tensor.how not in (".cpu()", ".to()", ".detach()", ".data"):
                return None
            moved = moved or tensor.how in (".cpu()", ".to()")
            if tensor.how == ".to()" and not self._to_cpu(tensor):
                return None
            value = tensor.parents[0]
        return None

    @staticmethod
    def _to_cpu(tensor: Tensor) -> bool:
        call = tensor.site.node if tensor.site is not None else None
        if not isinstance(call, ir.Call) or len(call.args) != 1:
            return False
        target = call.args[0].value
        if isinstance(target, ir.Call) and target.args:
            target = target.args[0].value
        return isinstance(target, ir.Const) and target.value == "cpu"

    def dict_of(self, entry: Value, node: ir.Node, st: State) -> Value | None:
        """A dict that a comprehension makes of a state's entries, if it shares their memory."""
        found = self.shared(entry, st) if self.hears(StateTaken) else None
        state = st.record(found[0]) if found is not None else None
        if found is None or not isinstance(state, Thingy) or state.kind != "state":
            return None
        made = self.new(
            Thingy("state", None, state.owners, "dict", None, state.args, self.site(node, st), st.stamp), st
        )
        self.emit(StateTaken(self.site(node, st), self.thing(made), state.owners, found[1]), st)
        return made

    def use_state(self, values: Iterable[Value], how: str, node: ir.Node, st: State) -> None:
        """Tell what becomes of states: those that are given, and those in containers that are."""
        if not self.hears(StateUsed):
            return
        for value in values:
            for part in self.reachable(value, st):
                record = st.record(part)
                if isinstance(record, Thingy) and record.kind == "state":
                    self.emit(StateUsed(self.site(node, st), self.thing(part), how), st)

    def on_state(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        if name in ("items", "values"):
            entry = self.entry(receiver, node, st)
            item = Tup((self.unknown("key", "item"), entry)) if name == "items" else entry
            return [(self.new(Listing(None, item, stamp=st.stamp), st), st)]
        if name in ("get", "pop", "setdefault"):
            return [(self.entry(receiver, node, st), st)]
        if name == "copy":
            return [(receiver, st)]  # another dict of the same tensors
        return [(self.unknown(name), st)]

    def left_with(self, func: Func, value: Value, st: State) -> None:
        """Tell of states that leave the run with what a function returns."""
        if len(st.frames) == 2 and self.hears(StateUsed):
            record = st.record(value)
            if isinstance(value, Tup) or isinstance(record, Thingy | Mapping | Listing):
                self.use_state((value,), "return", func.node, st)
