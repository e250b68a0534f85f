"""What is written in place: into which tensors, and which recorded operations have saved what they held before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flake8_gradtrap.events import Overwritten, Owners, Rebound, Thing
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Core
from flake8_gradtrap.interp.provenance import Provenance
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.values import Class, Const, Ref, Sym, Tensor, Thingy, Value

_LEAVES_VALUES = frozenset(
    "requires_grad_ detach_ share_memory_ unsqueeze_ squeeze_ t_ transpose_ swapaxes_ swapdims_ as_strided_ rename_ "
    "resize_ resize_as_ set_ retain_grad_".split()
)
"""Methods of that ending which change no value."""

_PRODUCTS = frozenset({"@", "matmul", ".matmul", "mm", ".mm", "bmm", ".bmm"})


def in_place(name: str) -> bool:
    """Whether a method of tensors of this name changes the values in place."""
    return name.endswith("_") and not name.endswith("__") and name not in _LEAVES_VALUES


class Overwriting(Core):
    def class_kind(self, cls: Class) -> str:
        raise NotImplementedError

    def overwritten(
        self,
        value: Value,
        how: str,
        given: Iterable[Value],
        node: ir.Node,
        st: State,
        shown: ir.Node | None,
        before: Ref | None = None,
    ) -> None:
        """Tell that a tensor is changed in place. `before`: the record of what it held, if it has another one now."""
        if not self.hears(Overwritten) or not isinstance(value, Ref):
            return
        written, data = self._behind_data(before if before is not None else value, st)
        written = written if data else value
        old = st.tensor(written if data or before is None else before)
        if old is None or not isinstance(written, Ref) or old.is_number or self._optimizing(st):
            return
        leaf = old.op == "param"
        provenance = self.provenance(st)
        needed = set(self._savers(written, written if data or before is None else before, old, st, provenance))
        if leaf:
            needed |= self.needed_parameters(frozenset({old.owner or written}), st)
        if how == "=" and not any(written in provenance.ancestors(part) for part in given):
            needed = set()  # whoever swaps values for others puts back what was there
        if not leaf and not needed:
            return
        by_gradient = leaf and any(self._of_gradients(part, st, provenance) for part in given)
        names = ".".join(getattr(frame.func.node, "name", "") for frame in st.frames if frame.func is not None)
        thing = Thing(written, self.label(shown)) if shown is not None else self.thing(written)
        self.emit(
            Overwritten(
                self.site(node, st), thing, how, leaf, data, None if IN_DOUBT in st.conds else st.mode, by_gradient,
                frozenset(needed), names,
            ),
            st,
        )  # fmt: skip

    def _behind_data(self, value: Value, st: State) -> tuple[Value, bool]:
        """The tensor whose `.data` a value is, and whether it is one."""
        tensor = st.tensor(value)
        if tensor is not None and tensor.op == "detach" and tensor.how == ".data":
            return tensor.parents[0], True
        return value, False

    def _optimizing(self, st: State) -> bool:
        """Whether an optimizer of the program is at work: how it writes parameters is its business."""
        return any(
            frame.func is not None and frame.func.owner is not None and self.class_kind(frame.func.owner) == "optimizer"
            for frame in st.frames
        )

    def _of_gradients(self, value: Value, st: State, provenance: Provenance) -> bool:
        """Whether a value was computed from gradients."""
        for part in provenance.ancestors(value):
            tensor = st.tensor(part)
            if tensor is not None and tensor.op in ("grad", "first order"):
                return True
        return False

    def _savers(self, value: Ref, own: Ref, old: Tensor, st: State, provenance: Provenance) -> Iterator[Value]:
        """The recorded operations that have saved a tensor: the one that made it, and those that took it."""
        if old.mode is True and self._saves(old, "result", st) and provenance.history(own) is True:
            yield own
        for oid, record in st.heap.items():
            if not isinstance(record, Tensor) or record.mode is not True or value not in record.parents:
                continue
            if oid not in (own, value) and self._saves_operand(record, value, st, provenance):
                yield Ref(oid)

    def _saves(self, tensor: Tensor, which: str, st: State) -> bool:
        """Whether an operation of one tensor saves its "input" or its "result"."""
        record = st.record(tensor.owner) if tensor.op == "forward" else None
        if isinstance(record, Thingy):
            name = record.what
            return record.cls is None and name in self.know.saved["layers_" + which]
        return tensor.op == "op" and tensor.how.removeprefix(".") in self.know.saved[which]

    def _saves_operand(self, tensor: Tensor, value: Value, st: State, provenance: Provenance) -> bool:
        """Whether an operation has saved one of its operands: where another one's gradient needs it."""
        if tensor.op == "forward":
            return value in tensor.parents[1:] and self._saves(tensor, "input", st)
        if tensor.op in ("mul", "div") or (
            tensor.op == "op" and tensor.how in ("@", ".matmul", "matmul", ".mm", "bmm")
        ):
            if len(tensor.parents) != 2:
                return False
            left, right = tensor.parents
            if tensor.op == "div" and value == right and not isinstance(left, Const):
                return True in (provenance.history(left), provenance.history(right))
            others = [right] if value == left else []
            others += [left] if value == right else []
            return any(provenance.history(other) is True for other in others)
        if tensor.op != "op" or not tensor.parents or tensor.parents[0] != value:
            return False
        if tensor.how == "**":
            return len(tensor.parents) == 2 and isinstance(tensor.parents[1], Const) and bool(provenance.history(value))
        return self._saves(tensor, "input", st) and provenance.history(value) is True

    def needed_parameters(self, owners: Owners, st: State) -> set[Value]:
        """The recorded forwards whose backward needs the parameters of these owners as they are now."""
        if not owners or not self.hears(Overwritten):
            return set()
        provenance = self.provenance(st)
        found: set[Value] = set()
        for oid, record in st.heap.items():
            if not isinstance(record, Tensor) or record.op != "forward" or record.mode is not True:
                continue
            if record.owner is None or provenance.history(Ref(oid)) is not True:
                continue
            leaves = self.leaves(record.owner, st)
            if leaves and leaves <= owners and self._needs_parameters(record, st, provenance):
                found.add(Ref(oid))
        return found

    def _needs_parameters(self, tensor: Tensor, st: State, provenance: Provenance) -> bool:
        """Whether the backward of a forward multiplies with its parameters: behind its first layer, it does."""
        assert tensor.owner is not None
        module = st.record(tensor.owner)
        if not isinstance(module, Thingy):
            return isinstance(tensor.owner, Sym)  # a model that is not seen has more than one layer
        if module.cls is not None:
            return False  # its layers are asked one by one
        if "modules.layers" in self.know.roles(module.what) and "Dropout" not in module.what:
            return any(provenance.history(part) is True for part in tensor.parents[1:])
        if module.what == "torch.nn.Sequential":
            layers = [st.record(part) for part in module.args]
            inner = [part for part in layers if isinstance(part, Thingy) and self._has_weights(part)]
            behind = any(provenance.history(part) is True for part in tensor.parents[1:])
            return len(inner) > 1 or (bool(inner) and behind)
        return not module.what.startswith("torch.nn.")

    def _has_weights(self, module: Thingy) -> bool:
        return "modules.layers" in self.know.roles(module.what) and "Dropout" not in module.what

    def rebound(self, old: Value | None, value: Value, name: str, node: ir.Node, st: State) -> None:
        """Tell where a name is given `w - lr * w.grad` of the `w` that it held."""
        if not isinstance(old, Ref) or not isinstance(value, Ref) or not self.hears(Rebound):
            return
        before, after = st.tensor(old), st.tensor(value)
        if before is None or after is None or after.op not in ("add", "sub") or after.parents[0] != old:
            return
        if after.mode is not True or after.is_number or st.attr(old, "keeps its gradient") is not None:
            return
        if IN_DOUBT in st.conds:
            return
        for part in self.provenance(st).ancestors(after.parents[-1]):
            tensor = st.tensor(part)
            if tensor is not None and tensor.op == "grad" and tensor.parents == (old,):
                self.emit(Rebound(self.site(node, st), Thing(old, name), Thing(value, name), before.op == "param"), st)
                return
