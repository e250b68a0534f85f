"""Tensors made anew from tensors: which constructors keep the history, and which cut it."""

from __future__ import annotations

from flake8_gradtrap.events import (
    GradientForced,
    Rewrapped,
    Site,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.activations import Activations
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.iteration import Iteration
from flake8_gradtrap.interp.provenance import PICKS, is_loss, unread
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    TRUE,
    Api,
    Const,
    Listing,
    Sym,
    Tup,
    Value,
)

_NO_TENSORS = frozenset(
    "numpy.ndarray builtins.list builtins.tuple builtins.float builtins.int typing.List typing.Tuple typing.Sequence "
    "collections.abc.Sequence".split()
)
"""Types of what is no tensor."""

_ELEMENTWISE = frozenset({"hard", "add", "sub", "mul", "div", "neg", "op"})
"""What makes an array of arrays."""


class Rewrapping(Iteration):
    def _rewrap(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """`torch.tensor(t)`: a copy without history; with `requires_grad=True` a loss is laundered."""
        source = args.get(0, "data")
        short = name.removeprefix("torch.")
        forced = args.kw.get("requires_grad") == TRUE
        sizes = len(args.pos) > 1 and name != "torch.tensor"  # several arguments of a constructor are sizes
        if source is None or sizes:
            return self.make_tensor("param" if forced else "leaf", (), node, st, how=short)
        parts = self.elements(source, st)
        several = parts is not None or isinstance(st.record(source), Listing)
        record = st.record(source)
        if parts is None and isinstance(record, Listing) and record.item is not None:
            parts = (record.item,)
        single = st.tensor(source)
        if not several and name in self.know.lists["tensors.keeps_single"] and (single is None or not single.is_number):
            return self.make_tensor("pass", (source,), node, st, how=short)
        operands = [part for part in (parts if parts is not None else (source,)) if self._wrappable(part, st)]
        if name == "torch.from_numpy":  # of an array that was visibly read out of a tensor
            operands = [part for part in operands if self._is_array(part, st)]
        if not operands:
            return self.make_tensor("param" if forced else "leaf", (), node, st, how=short)
        provenance = self.provenance(st)
        inner = tuple(unread(st, part) for part in operands)
        facts = [provenance.history(part) for part in inner]
        history = True if True in facts else None if None in facts else False
        how = f"{name}(…)"
        if forced:
            computed = any(self.computed(part, st) for part in inner)
            if computed:
                value = self.make_tensor("forced", inner, node, st, how=f"{name}(…, requires_grad=True)", mode=True)
                self.emit(
                    GradientForced(
                        self.site(node, st),
                        Thing(value, self.label(self._shown(node))),
                        f"{name}(…, requires_grad=True)",
                        False,
                    ),
                    st,
                )
                return value
            return self.make_tensor("param", inner, node, st, how=f"{name}(…, requires_grad=True)", taken=True)
        arrays = name == "torch.from_numpy" or any(self._is_array(part, st) for part in operands)
        numbers = all((t := st.tensor(part)) is not None and t.is_number for part in operands) and not arrays
        if numbers:
            return self.make_tensor("pass", tuple(operands), node, st, how=short)
        value = self.make_tensor("rewrap", inner, node, st, how=how)
        if st.mode is not False:
            evaluates = Activations(st, self.know).not_training()  # no loss is made of it: a needless copy at most
            if history and evaluates and several:
                return value
            if history:
                certain = [
                    part for part in operands if st.tensor(part) is not None and not self._may_be_number(part, node, st)
                ]
            else:  # a needless copy, if the source is a tensor for certain
                certain = [part for part in operands if not arrays and self._surely_tensor(part, st)]
            if certain:
                source_thing = Thing(certain[0], self.label(self._shown(node)))
                made = self.thing(value)
                history, site = history and not evaluates, self.site(node, st)
                meant = arrays and all(self._is_meant(part, site.caller, st) for part in operands)
                self.emit(Rewrapped(site, source_thing, made, how, history, several, arrays, meant), st)
        return value

    def _is_meant(self, array: Value, caller: Site | None, st: State) -> bool:
        """Whether an array holds the values of a Parameter, or was computed from what had been read out of tensors."""
        behind, source = st.behind(array), unread(st, array)
        if behind is not None and (behind.op != "readout" or (behind.site and behind.site.caller) != caller):
            return True  # computed, or handed on as an array: targets are made of predictions
        if isinstance(source, Sym) and source.op in ("attr", "member") and isinstance(source.args[0], Value):
            return self.kind(source.args[0], st) == "module"
        tensor = st.tensor(source)
        return tensor is not None and tensor.op == "param"

    def _may_be_number(self, part: Value, node: ir.Node, st: State) -> bool:
        """Whether a value is one of several that a model returned, which need not all be tensors. A loss is one."""
        tensor = st.tensor(part)
        if tensor is None or tensor.how not in PICKS or not tensor.parents:
            return False
        source = st.tensor(tensor.parents[0])
        return source is not None and source.op == "forward" and not is_loss(self.label(self._shown(node)))

    def _surely_tensor(self, value: Value, st: State, depth: int = 0) -> bool:
        """Whether a value is a tensor whatever the unknowns are: torch made it, on every path."""
        tensor = st.tensor(value)
        if tensor is None or tensor.is_number or depth > 12:
            return False
        if tensor.op in ("leaf", "param", "op", "hard", "detach"):
            doubtful = tensor.op == "op" or tensor.how == ".data"  # an attribute of that name has many a thing
            return not doubtful or any(self._surely_tensor(parent, st, depth + 1) for parent in tensor.parents)
        if tensor.op == "phi":
            return all(self._surely_tensor(parent, st, depth + 1) for parent in tensor.parents)
        return tensor.op in ("pass", "add", "sub", "mul", "div", "neg") and any(
            self._surely_tensor(parent, st, depth + 1) for parent in tensor.parents
        )

    def _is_array(self, value: Value, st: State, depth: int = 0) -> bool:
        """Whether a value is a NumPy array that was read out of a tensor, or computed from such arrays."""
        tensor = st.behind(value)
        if tensor is None or tensor.op == "readout" or depth > 20:
            return tensor is not None and tensor.op == "readout" and "numpy" in tensor.how
        parents = [part for part in tensor.parents if st.tensor(part) is not None]
        return bool(parents) and tensor.op in _ELEMENTWISE and all(self._is_array(p, st, depth + 1) for p in parents)

    def _wrappable(self, value: Value, st: State) -> bool:
        for test, fact in st.conds.items():
            if not isinstance(test, tuple) or test[0] != "truth" or not isinstance(test[1], Sym):
                continue
            symbol = test[1]
            asked = symbol.op in ("pure torch.is_tensor", "pure builtins.isinstance") and symbol.args[:1] == (value,)
            if asked and fact is _asks_for_others(symbol):  # known to be no tensor
                return self._is_array(value, st)
        return st.tensor(value) is not None or self.is_tensor(value, st) or value in self.likely

    def _variable(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """`Variable(t)`: the tensor itself; `requires_grad=True` on a computed one launders it."""
        source = args.get(0, "data")
        if source is None:
            return self.make_tensor("leaf", (), node, st)
        trainable = args.get(1, "requires_grad")
        if trainable is not None and not isinstance(trainable, Const):
            return self.make_tensor("data", (), node, st, how="Variable")  # a leaf, or the tensor itself
        if trainable != TRUE:
            return (
                source
                if st.tensor(source) is not None
                else self.make_tensor("pass", (source,), node, st, how="Variable")
            )
        if self.computed(unread(st, source), st) or source in self.likely:
            value = self.make_tensor(
                "forced", (unread(st, source),), node, st, how="Variable(…, requires_grad=True)", mode=True
            )
            thing = Thing(value, self.label(self._shown(node)))
            self.emit(GradientForced(self.site(node, st), thing, "Variable(…, requires_grad=True)", False), st)
            return value
        record = st.tensor(source)
        taken = record is not None and record.op in ("detach", "readout", "rewrap")
        return self.make_tensor("param", (), node, st, how="Variable(…, requires_grad=True)", taken=taken)


def _asks_for_others(test: Sym) -> bool:
    """Whether what passes a type test is no tensor; else, what does not."""
    types = test.args[1] if len(test.args) > 1 else None
    tests = types.items if isinstance(types, Tup) else (types,)
    return all(isinstance(each, Api) and each.name in _NO_TENSORS for each in tests)
