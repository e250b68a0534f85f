"""Tensors that were made under `inference_mode`: autograd refuses to save them for a backward."""

from __future__ import annotations

import re

from flake8_gradtrap.events import InferenceTensorSaved, Site, Thing
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Core
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import FALSE, Ref, Sym, Thingy, Value

INFERENCE = ("inference mode",)
"""Assumed on a path within `inference_mode`."""
_CHAIN = 8
"""So many views are looked through."""
_ALLOCATES = frozenset({"forward", "op", "add", "sub", "mul", "div", "neg", "leaf", "hard"})
"""Operations whose result is new, and so an inference tensor where they run under `inference_mode`."""
_PICKS = frozenset({"unpacked", "element", "[key]", "T", "mT"})
_MODEL = re.compile(
    r"(teacher|target|ref|reference|frozen|encoder|backbone|extractor|model|net|network)s?$", re.IGNORECASE
)
"""What is called so, and called, returns a tensor."""
_PASSED = ("torch.nn.Identity", "torch.nn.Flatten", "torch.nn.Unflatten")
"""Layers that return a view of what they are given."""
_PRODUCTS = frozenset({"*", "/", "@"})


class Inference(Core):
    def enters_inference(self, value: Value, st: State) -> None:
        """A block begins in the context `value`."""
        record = st.record(value)
        if isinstance(record, Thingy) and record.what.endswith("inference_mode"):
            if record.flag is False:
                self.infer(st)
            elif record.args[:1] == (FALSE,):
                st.conds.pop(INFERENCE, None)

    def infer(self, st: State) -> None:
        """What is made on this path from now on is an inference tensor."""
        if self.hears(InferenceTensorSaved):
            self.inferring = True
            st.conds[INFERENCE] = True

    def note_inference(self, made: Ref, st: State) -> None:
        """Remember a tensor that is made while `inference_mode` may be on."""
        tensor = st.tensor(made)
        if INFERENCE not in st.conds or tensor is None or tensor.is_number:
            return
        inner = tensor.op in ("pass", "detach") and any(self.inferred(part, st) for part in tensor.parents)
        if (tensor.op in _ALLOCATES or inner) and tensor.site is not None:
            self.inference[made] = tensor.site

    def note_output(self, model: Value, output: Value, node: ir.Node, st: State) -> None:
        """Remember what a model out of sight returns under `inference_mode`, if it is called like one."""
        if not self.inferring or INFERENCE not in st.conds or not isinstance(output, Sym):
            return
        if isinstance(model, Sym) and _MODEL.search(model.name):
            self.inference[output] = self.site(node, st)

    def inferred(self, value: Value, st: State) -> Site | None:
        """Where the inference tensor was made that a value is, or a view of; None if it is none, or may be a copy."""
        for _ in range(_CHAIN):
            if value in self.inference:
                return self.inference[value]
            tensor = st.tensor(value)
            if tensor is None:
                return None
            field = tensor.how.startswith(".") and not tensor.how.endswith(")")
            view = tensor.how in _PICKS or field or tensor.how.strip(".()") in self.know.dropped["views"]
            if len(tensor.parents) != 1 or not (tensor.op == "detach" or (tensor.op == "pass" and view)):
                return None
            value = tensor.parents[0]
        return None

    def saved_by_operator(self, op: str, left: Value, right: Value, node: ir.Node, st: State) -> None:
        """A product saves each of its operands for the gradient of the other one."""
        if self.inferring and op in _PRODUCTS and isinstance(node, ir.BinOp):
            for mine, other, shown in ((left, right, node.left), (right, left, node.right)):
                if self._trained(other, st):
                    self._saved(mine, f"`{op}`", shown, node, st)

    def saved_by_function(self, name: str, args: Args, node: ir.Node, st: State) -> None:
        """A function or loss saves what it is given, where a gradient goes through another argument."""
        if not self.inferring or st.mode is not True or "log_target" in args.kw:
            return
        short = name.rpartition(".")[2]
        if name not in self.know.saved["operands"] and short not in self.know.saved["operands"]:
            return
        given = args.all()
        shown = [arg.value for arg in node.args] if isinstance(node, ir.Call) else []
        for place, value in enumerate(given):
            if any(self._trained(other, st) for other in given if other is not value):
                self._saved(value, f"`{short}`", shown[place] if place < len(shown) else None, node, st)

    def saved_by_module(self, module: Value, args: Args, node: ir.Node, st: State) -> None:
        """A layer saves its input for the gradient of its weights."""
        if not self.inferring or st.mode is not True or self.frozen(module, st) or not isinstance(node, ir.Call):
            return
        layer = st.record(module)
        if isinstance(layer, Thingy) and layer.what == "torch.nn.Sequential":
            inner = [st.record(part) for part in layer.args]
            layer = next((one for one in inner if not (isinstance(one, Thingy) and one.what in _PASSED)), None)
        if isinstance(layer, Thingy) and layer.cls is None and "modules.saving" in self.know.roles(layer.what):
            for value, given in zip(args.pos, node.args, strict=False):
                self._saved(value, f"`{layer.what.rpartition('.')[2]}`", given.value, node, st)

    def _trained(self, value: Value, st: State) -> bool:
        """Whether a gradient goes into a value, or into what a module returned it with."""
        provenance = self.provenance(st)
        while (tensor := st.tensor(value)) is not None and provenance.history(value) is None:
            if tensor.op != "pass" or tensor.how != "unpacked":
                return False
            value = tensor.parents[0]
        return provenance.history(value) is True

    def _saved(self, value: Value, by: str, shown: ir.Node | None, node: ir.Node, st: State) -> None:
        made = self.inferred(value, st) if st.mode is True else None
        if made is not None:
            thing = Thing(value, self.label(shown)) if shown is not None else self.thing(value)
            self.emit(InferenceTensorSaved(self.site(node, st), thing, by, made), st)
