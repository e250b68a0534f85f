"""Libraries around torch that keep, split or scale gradients, and measures that are taken of gradients."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.events import AcceleratorMade, GradientMeasured, GradientReadOut, GradientUsed, WrapperMade
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.numerics import Numerics
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import NONE, TRUE, Api, Const, Thingy, Tup, Value

_MEASURES = frozenset({"norm", "vector_norm", "mean", "std", "var", "max", "add_histogram", "Histogram"})
"""What takes the measure of a gradient, by its short name."""

_SCALES = frozenset({"fp16", "16", "16-mixed", 16})
"""Precisions in which a loss scale is at work."""


_NEAR = 12
"""How many values are looked at below one that may be the measure of a gradient."""


class Wrappers(Numerics):
    def sharded(self, name: str, args: Args, node: ir.Node, st: State) -> None:
        """FSDP (v1) splits the parameters of a module among processes, unless it is told not to."""
        module = args.get(0, "module")
        strategy = args.get(2, "sharding_strategy")
        if module is None or not name.endswith(".FullyShardedDataParallel"):
            return
        st.set_attr(module, "sharded", TRUE)
        told = strategy.name.rpartition(".")[2] if isinstance(strategy, Api) else ""
        shards = told.endswith("_SHARD") and told != "NO_SHARD"
        if shards or (strategy in (None, NONE) and not args.more):
            self.emit(WrapperMade(self.site(node, st), self.leaves(module, st), "FSDP"), st)

    def engine_made(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """`deepspeed.initialize`: an engine around a model, with an optimizer, a loader and a scheduler."""
        model = args.get(1, "model")
        given = (self.leaves(model, st) if model is not None else None) or frozenset()
        engine = self.new(Thingy("module", what=name, site=self.site(node, st), stamp=st.stamp), st)
        self.emit(WrapperMade(self.site(node, st), given | {engine}, "DeepSpeed"), st)
        return Tup((engine, *(self.unknown(part) for part in ("optimizer", "loader", "scheduler"))))

    def accelerator_made(self, accelerator: Value, name: str, args: Args, node: ir.Node, st: State) -> None:
        by = "Accelerate" if name.startswith("accelerate") else "Fabric"
        precision = args.get(2, "mixed_precision") if by == "Accelerate" else args.get(4, "precision")
        scales: bool | None = None
        if isinstance(precision, Const) and precision != NONE:
            scales = precision.value in _SCALES
        self.emit(AcceleratorMade(self.site(node, st), self.thing(accelerator), by, scales), st)

    def measured(self, value: Value, how: str, node: ir.Node, st: State) -> None:
        """Tell that a measure of gradients is taken, unless a clip of one's own does it to know how much to clip."""
        if how not in _MEASURES or not self.hears(GradientMeasured):
            return
        tensor = st.tensor(value)
        while tensor is not None and tensor.op in ("detach", "pass") and len(tensor.parents) == 1:
            tensor = st.tensor(tensor.parents[0])
        if tensor is None or tensor.op != "grad" or not tensor.parents:
            return
        if any(frame.func is not None and "clip" in getattr(frame.func.node, "name", "") for frame in st.frames):
            return
        self.emit(GradientMeasured(self.site(node, st), self.owners(tensor.parents[0], st), how), st)

    def gradients_used(self, operands: Iterable[Value], how: str, node: ir.Node, st: State) -> None:
        """Tell of the gradients among the operands of an operation, unless it only takes their measure."""
        if how.strip(".()").rpartition(".")[2] in _MEASURES or not self.hears(GradientUsed):
            return
        for operand in operands:
            tensor = st.tensor(operand)
            if tensor is not None and tensor.op == "grad" and tensor.parents:
                self.emit(GradientUsed(self.site(node, st), self.owners(tensor.parents[0], st)), st)

    def gradient_taken(self, value: Value, how: str, node: ir.Node, st: State) -> None:
        """Tell that a value of a gradient is read out, if it is that of one of the parameters that are iterated."""
        if not self.hears(GradientReadOut):
            return
        found: set[Value] = set()
        stack, seen = [value], 0
        while stack and seen < _NEAR:
            tensor = st.tensor(stack.pop())
            seen += 1
            if tensor is None or tensor.is_number:
                continue
            if tensor.op == "grad":
                found.update(tensor.parents)
            else:
                stack.extend(tensor.parents)
        parameter = st.tensor(found.pop()) if len(found) == 1 else None
        if parameter is not None and parameter.op == "param" and parameter.how == "a parameter":
            self.emit(GradientReadOut(self.site(node, st), how, self.comprehending > 0), st)
