"""The two modes, as facts of a path: that of a module (`train`, `eval`), and whether gradients are recorded."""

from __future__ import annotations

from flake8_gradtrap.events import Forwarded, GradientModeSet, ModeRead, ModeSet, Site
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Core, Results
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import NONE, Const, Sym, Thingy, Value

ACTS = frozenset(
    "backward manual_backward step zero_grad autograd grad enable_grad set_grad_enabled requires_grad requires_grad_ "
    "train_step fit optimizer".split()
)
"""Words of functions that do more with gradients than to leave them off."""

IN_DOUBT = ("gradient mode in doubt",)
"""Assumed on a path on which a setting that cannot be seen decides whether gradients are recorded."""


class Modes(Core):
    def set_mode(self, module: Value, name: str, args: Args, node: ir.Node, st: State) -> None:
        """`module.eval()` and `module.train(…)`."""
        if not self.hears(ModeSet):
            return
        training: bool | None = name == "train"
        given = args.get(0, "mode")
        if training and given is not None:
            training = bool(given.value) if isinstance(given, Const) else None
        shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
        setup = any(getattr(frame.func.node, "name", "") == "__init__" for frame in st.frames if frame.func is not None)
        parts, around = self._parts(module, st), holders(module)
        self.emit(ModeSet(self.site(node, st), self.thing(module, shown), training, parts, around, setup), st)

    def _parts(self, module: Value, st: State) -> frozenset[Value]:
        if isinstance(module, Sym) and module.op == "item" and len(module.args) == 1:
            return frozenset()  # an element of what is iterated: any of several
        leaves = self.leaves(module, st) or frozenset()
        return frozenset(part for part in (module, *leaves) if isinstance(part, Value))

    def own_train(self, module: Value, node: ir.Node, st: State) -> None:
        """A module's own `train` is called: what it does with its parts is its business."""
        if self.hears(ModeSet) and self.kind(module, st) == "module":
            self.emit(ModeSet(self.site(node, st), self.thing(module), None, self._parts(module, st)), st)

    def read_mode(self, module: Value, node: ir.Node, st: State) -> None:
        """`module.training` is read, and not by the module itself."""
        if self.hears(ModeRead) and not (st.frame.func is not None and st.frame.func.receiver == module):
            self.emit(ModeRead(self.site(node, st), self.thing(module)), st)

    def forwarded(self, module: Value, result: Value, node: ir.Node, st: State) -> None:
        """A module was called; what other modules call in their `forward` is a part of theirs."""
        if not self.hears(Forwarded):
            return
        for frame in st.frames:
            if frame.func is not None and frame.func.owner is not None and frame.func.node.name == "forward":  # type: ignore[union-attr]
                return
        outputs = frozenset(part for part in self.reachable(result, st) if st.tensor(part) is not None)
        undecided = IN_DOUBT in st.conds or self.frozen(module, st)
        forgotten = st.mode is None and st.lossy  # else nobody in sight has turned them off
        recorded = False if st.mode is False else None if undecided or forgotten else True
        func = st.frame.func
        function, definition, only_looks = "", None, False
        if func is not None and isinstance(func.node, ir.FunctionDef):
            function, definition = func.node.name, Site(func.node)
            acts = ACTS | func.module.names_that_matter(ACTS)
            only_looks = func.node.mentions.isdisjoint(acts)
        shown = node.func if isinstance(node, ir.Call) else None
        site, thing, around = self.site(node, st), self.thing(module, shown), holders(module)
        self.emit(Forwarded(site, thing, outputs, recorded, around, function, definition, only_looks), st)

    def numpy_of(self, value: Value, st: State) -> frozenset[Value]:
        """The graph of a tensor that becomes a NumPy array, which torch refuses if there is one."""
        return frozenset(self.provenance(st).graph(value).reaches) if self.hears(Forwarded) else frozenset()

    def switch_gradients(self, value: Value, node: ir.Node, st: State) -> None:
        """A statement that only makes a `set_grad_enabled(…)`: it acts as it is made, until another one does."""
        record = st.record(value)
        if not isinstance(record, Thingy) or record.kind != "context":
            return
        if "context.set_grad" not in self.know.roles(record.what):
            return
        if record.flag is None:
            st.conds[IN_DOUBT] = True
        else:
            st.conds.pop(IN_DOUBT, None)
            st.mode = record.flag
        self.emit(GradientModeSet(self.site(node, st), record.flag), st)

    def on_context(self, context: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        """`torch.no_grad().__enter__()`: nothing ends it but its own `__exit__`."""
        if name == "__enter__":
            st.set_attr(context, "mode before", Const.of(st.mode))
            self.enter_context(context, st)
            return [(context, st)]
        if name == "__exit__":
            before = st.drop_attr(context, "mode before")
            st.mode = before.value if isinstance(before, Const) else None
            st.conds.pop(IN_DOUBT, None)
            return [(NONE, st)]
        return None

    def enter_context(self, context: Value, st: State) -> bool:
        """Whether a value is a context that sets the gradient mode; then it does."""
        record = st.record(context)
        if not isinstance(record, Thingy) or record.kind != "context":
            return False
        if record.flag is None:
            st.conds[IN_DOUBT] = True
        else:
            st.mode = record.flag
        return True


def holders(module: Value) -> tuple[Value, ...]:
    """What a part that is named by its holder belongs to: `model` of `model.encoder.layers[0]`, and so on."""
    found: list[Value] = []
    while isinstance(module, Sym) and module.op in ("attr", "member", "entry") and isinstance(module.args[0], Value):
        module = module.args[0]
        found.append(module)
    return tuple(found)
