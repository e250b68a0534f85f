"""Accumulation windows: which conditions ask whether one is full, and which names count towards it."""

from __future__ import annotations

from typing import Any

from flake8_gradtrap.events import Thing, WindowTested
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.snapshots import Snapshots
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import FALSE, NONE, Const, Sym, Value

_ORDER = {"==": True, ">=": True, ">": True, "is": True, "!=": False, "<": False, "<=": False, "is not": False}
"""Comparisons of a counter with the size of its window, and whether they hold when it is full."""


class Windows(Snapshots):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.resets: dict[int, frozenset[str]] = {}
        """For each loop that was run, the names that it counts up and sets back."""
        self.hears_windows = bool(self._listeners.get(WindowTested))

    def window(self, value: Value, node: ir.Node, st: State) -> tuple[Value, bool] | None:
        """Whether a condition asks if an accumulation window is full: its size, and the answer that means "full"."""
        if isinstance(value, Sym) and value.op == "not":
            inner = self.window(value.args[0], node, st)  # type: ignore[arg-type]
            return None if inner is None else (inner[0], not inner[1])
        found: tuple[Value, bool] | None = None
        if isinstance(value, Sym):
            test = value.args[0] if value.op == "==" else value
            if isinstance(test, Sym) and test.op == "%" and isinstance(test.args[1], Value):
                found = test.args[1], value.op == "=="
        if found is None and isinstance(node, ir.Compare) and len(node.rest) == 1 and isinstance(node.left, ir.Name):
            op, right = node.rest[0]
            if op in _ORDER and node.left.id in self.resets.get(st.stamp[-1][0], ()):
                results = self.eval(right, st) if isinstance(right, ir.Name | ir.Attr | ir.Const) else []
                found = (results[0][0], _ORDER[op]) if len(results) == 1 else None
        if found is None or found[0] in (NONE, FALSE) or self.is_length(found[0], st) or self.is_tensor(found[0], st):
            return None
        return None if self.holds_one(found[0], st) else found

    def is_length(self, value: Any, st: State) -> bool:
        """Whether a value is `len(loader)`, or less by some: the length of a batch says nothing of the loop."""
        if isinstance(value, Sym) and value.op == "-":
            return self.is_length(value.args[0], st)
        if not isinstance(value, Sym) or value.op != "pure builtins.len":
            return False
        return not any(part in self.data or st.tensor(part) is not None for part in value.args)  # type: ignore[arg-type]

    def _size_label(self, size: Value, node: ir.Node) -> str:
        """What the size of a window is called where it is tested."""
        if isinstance(node, ir.Compare) and isinstance(node.left, ir.BinOp) and node.left.op == "%":
            node = node.left
        if isinstance(node, ir.BinOp) and node.op == "%":
            return self.label(node.right)
        return str(size.value) if isinstance(size, Const) else getattr(size, "name", "")

    def holds_one(self, size: Value, st: State) -> bool:
        """Whether a window is known to hold a single micro-batch."""
        if isinstance(size, Const):
            return not isinstance(size.value, int | float) or size.value <= 1
        one = Const.of(1)
        assumed = st.conds.get
        return (
            assumed(("truth", Sym(">", (size, one)))) is False
            or assumed(("truth", Sym("<", (size, Const.of(2))))) is True
            or assumed(("truth", Sym("==", (size, one)))) is True
            or assumed(("truth", size)) is False
            or assumed(("isnone", size)) is True
        )

    def tell_window(self, value: Value, node: ir.Node, full: list[State], short: list[State]) -> None:
        """Emit WindowTested on the paths on which a condition holds (`full`) and on which it does not."""
        for holds, paths in ((True, full), (False, short)):
            for path in paths:
                if not path.stamp or (window := self.window(value, node, path)) is None:
                    continue
                size, when = window
                number = float(size.value) if isinstance(size, Const) else None
                every = Thing(size, self._size_label(size, node))
                loop = path.stamp[-1][0]
                self.emit(WindowTested(self.site(node, path), loop, every, number, holds is when), path)


def counted_and_reset(body: tuple[ir.Statement, ...]) -> frozenset[str]:
    """The names that a loop counts up (`n += 1`) and sets to a number."""
    counted: set[str] = set()
    reset: set[str] = set()
    stack: list[ir.Statement] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, ir.AugAssign) and node.op == "+" and isinstance(node.target, ir.Name):
            if isinstance(node.value, ir.Const) and isinstance(node.value.value, int):
                counted.add(node.target.id)
        elif isinstance(node, ir.Assign) and isinstance(node.value, ir.Const) and type(node.value.value) is int:
            reset |= {target.id for target in node.targets if isinstance(target, ir.Name)}
        elif isinstance(node, ir.If):
            stack += [*node.body, *node.orelse]
        elif isinstance(node, ir.With):
            stack += node.body
        elif isinstance(node, ir.Try):
            stack += [*node.body, *node.orelse, *node.final]
    return frozenset(counted & reset)
