"""Leaves of the graph: who is used like one and is none, and how a leaf was lost."""

from __future__ import annotations

from flake8_gradtrap.events import LostLeaf, NonLeafKnown, Site, Thing, UsedAsLeaf
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.registration import MODULES, Registration
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Mapping, Ref, Sym, Tensor, Value

_CHAIN = 6
"""So many operations lie at most between a leaf and what is used in its place."""
_COMPUTED = frozenset({"pass", "op", "mul", "div", "add", "sub", "neg"})
_MOVES = frozenset("to cuda cpu xpu npu float half double bfloat16 type type_as contiguous Variable as_tensor".split())
"""Conversions, which return the tensor itself if there is nothing to convert."""
KNOWING = frozenset({"retain_grad", "register_hook", "is_leaf", "retains_grad"})
"""Methods and attributes of one who knows that a tensor may be no leaf."""


class Leaves(Registration):
    asked = 0
    """The expression whose value is only compared with None, by its identity."""

    def gradient_read(self, value: Value, node: ir.Node, st: State) -> None:
        """`value.grad` is read."""
        if self.asked == id(node):
            self.known_as_computed(value, node, st)
        else:
            self._used_as_leaf(value, ".grad", node, st, node.value if isinstance(node, ir.Attr) else None)

    def known_as_computed(self, value: Value, node: ir.Node, st: State) -> None:
        """The program shows that it knows that a tensor is no leaf, or asks."""
        tensor = st.tensor(value)
        if tensor is not None and tensor.site is not None and self.hears(NonLeafKnown):
            self.emit(NonLeafKnown(self.site(node, st), self.thing(value), tensor.site), st)

    def leaves_optimised(self, params: Value | None, node: ir.Node, st: State, depth: int = 0) -> None:
        """An optimizer is given these parameters."""
        if params is None or depth > 3 or not self.hears(UsedAsLeaf):
            return
        record = st.record(params)
        if isinstance(record, Mapping):
            inner = tuple(value for key, value in record.items if key == Const.of("params"))
        else:
            inner = self.elements(params, st) or ()
        for value in inner:
            self.leaves_optimised(value, node, st, depth + 1)
        if isinstance(record, Tensor):
            self._used_as_leaf(params, "optimizer", node, st)

    def stays(self, value: Value, name: str, args: Args, st: State) -> bool:
        """Whether a new leaf is asked to the CPU, where it was made: it is returned itself."""
        tensor = st.tensor(value)
        if tensor is None or tensor.op != "param" or tensor.owner is not None or tensor.site is None:
            return False
        call = tensor.site.node
        if not isinstance(call, ir.Call) or any(arg.keyword == "device" for arg in call.args):
            return False
        target = args.pos[0] if len(args.all()) == 1 and args.pos else None
        if isinstance(target, Sym) and target.op == "pure torch.device":
            return target.args == (Const.of("cpu"),)
        return target == Const.of("cpu") or (name == "cpu" and not args.all())

    def _used_as_leaf(self, value: Value, by: str, node: ir.Node, st: State, shown: ir.Node | None = None) -> None:
        tensor = st.tensor(value)
        if not self.hears(UsedAsLeaf) or tensor is None or tensor.site is None or tensor.op == "param":
            return
        provenance = self.provenance(st)
        if provenance.history(value) is not True:
            return
        lost = self._lost_leaf(value, st)
        if lost is None and not self._surely_computed(tensor, st):
            return
        ancestors = [inner for part in provenance.ancestors(value) if (inner := st.tensor(part)) is not None]
        updated = any(inner.op in ("grad", "first order") for inner in ancestors)
        thing = Thing(value, self.label(shown) if shown is not None else "")
        self.emit(UsedAsLeaf(self.site(node, st), thing, by, tensor.how, tensor.site, lost, updated), st)

    def _surely_computed(self, tensor: Tensor, st: State) -> bool:
        """Whether a tensor is no leaf, wherever it was before it was moved."""
        inner: Tensor | None = tensor
        for _ in range(_CHAIN):
            if inner is None or _in_place(inner):
                return False
            if inner.op == "pass" and _name(inner) in _MOVES and inner.parents:
                inner = st.tensor(inner.parents[0])
            else:
                return inner.op in _COMPUTED or inner.op == "forward"
        return False

    def _lost_leaf(self, value: Value, st: State) -> LostLeaf | None:
        """The leaf that was made here and of which this was computed; None if there is none, or it may be the leaf."""
        made = last = st.tensor(value)
        moves, new, first = True, False, made
        for _ in range(_CHAIN):
            if made is None or made.site is None or made.is_number or made.op not in _COMPUTED or _in_place(made):
                return None
            sources = [part for part in made.parents if (inner := st.tensor(part)) is not None and inner.op != "leaf"]
            source = st.tensor(sources[0]) if len(sources) == 1 else None
            if source is None or source.site is None:
                return None
            if not self._same_object(made, source):
                new, first = True, made
            moves = moves and _name(made) in _MOVES
            if source.op == "param":
                break
            made = source
        else:
            return None
        if not new or source.owner is not None or self._registered(sources[0], value, st):
            return None
        assert last is not None
        assert last.site is not None
        assert first is not None
        assert first.site is not None
        call = source.site.node
        if moves and not self._made_on_cpu(source):
            return None  # it may be there already
        whole = last.site if _within(last.site.node, call) else None
        if not moves and whole is None:
            return None  # the leaf has a name of its own
        if moves and source.taken and "torch." not in self._spelt(call):
            return None  # made of a tensor, it lies where that does, which may be there already
        given = [arg for arg in call.args if arg.keyword == "requires_grad"] if isinstance(call, ir.Call) else []
        argument = Site(given[0], source.site.caller) if given else None
        return LostLeaf(first.how, first.site, source.site, argument, whole, moves)

    def _made_on_cpu(self, leaf: Tensor) -> bool:
        """Whether a leaf is made where it is asked for, of nothing that could be elsewhere."""
        call = leaf.site.node if leaf.site is not None else None
        if leaf.taken or not isinstance(call, ir.Call) or any(arg.keyword == "device" for arg in call.args):
            return False
        name = self._called_by(call)
        if name in ("Variable", "Parameter") and call.args and isinstance(call.args[0].value, ir.Call):
            call = call.args[0].value
            name = self._called_by(call)
            if any(arg.keyword == "device" for arg in call.args):
                return False
        known = "torch." + name in self.know.lists["tensors.factory"] or name in ("tensor", "from_numpy")
        return known and not name.endswith("_like")

    def _called_by(self, call: ir.Call) -> str:
        """The last part of what a call calls."""
        return self.label(call.func).rpartition(".")[2]

    def _registered(self, leaf: Value, value: Value, st: State) -> bool:
        """Whether a module keeps the leaf, or what was computed of it (GTR702 speaks of that)."""
        return any(
            isinstance(base, Ref)
            and self.kind(base, st) in MODULES
            and (leaf in held.values() or value in held.values())
            for base, held in st.overlay.items()
        )


def _name(tensor: Tensor) -> str:
    """The function or method that made a tensor."""
    return tensor.how.strip(".()").rpartition(".")[2]


def _in_place(tensor: Tensor) -> bool:
    return tensor.how == "[]=" or (_name(tensor).endswith("_") and not _name(tensor).endswith("__"))


def _within(outer: object, inner: object) -> bool:
    """Whether an expression is part of another one."""
    if outer is inner:
        return True
    if isinstance(outer, ir.Call):
        return _within(outer.func, inner) or any(_within(arg.value, inner) for arg in outer.args)
    if isinstance(outer, ir.BinOp):
        return _within(outer.left, inner) or _within(outer.right, inner)
    if isinstance(outer, ir.Attr | ir.Subscript):
        return _within(outer.value, inner)
    return isinstance(outer, ir.UnaryOp) and _within(outer.operand, inner)
