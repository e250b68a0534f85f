"""Gradients that are None because their input took no part (`allow_unused=True`), and are left out afterwards."""

from __future__ import annotations

from flake8_gradtrap.events import Site, UnusedDropped
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Core
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import TRUE, Sym, Value

_UNUSED = "may be unused"
_SAME_VALUES = frozenset({"view", "reshape", "flatten", "contiguous", "ravel", "clone", "detach"})
"""Methods after which a gradient is still one."""
_COLLECTS = frozenset({"append", "extend"})


class Unused(Core):
    def note_unused(self, made: Value, args: Args, node: ir.Node, st: State) -> None:
        """`autograd.grad` returned gradients, of which some may be None."""
        if not self.hears(UnusedDropped) or args.kw.get("allow_unused") != TRUE or args.kw.get("materialize_grads"):
            return
        inputs = args.get(1, "inputs")
        if inputs is not None and st.tensor(inputs) is None:  # of a single tensor there is nothing to leave out
            st.set_attr(made, _UNUSED, Sym("site", (self.site(node, st),)))

    def comprehended(self, node: ir.Comp, source: Value, st: State) -> None:
        """`[g for g in gradients if g is not None]`."""
        clause = node.fors[0]
        if node.kind in ("list", "gen") and len(node.fors) == 1 and isinstance(clause.target, ir.Name):
            name = clause.target.id
            if any(_asks(test, name, "is not") for test in clause.ifs) and _is_gradient(node.elt, name):
                self._dropped_none(source, node, st)

    def looped(self, node: ir.For, source: Value, st: State) -> None:
        """A loop that collects gradients and goes on to the next where one is None."""
        if not isinstance(node.target, ir.Name) or not node.body or not isinstance(skip := node.body[0], ir.If):
            return
        name = node.target.id
        skips = _asks(skip.test, name, "is") and [type(part) for part in skip.body] == [ir.Continue]
        if skips and any(_collects(part, name) for part in node.body[1:]):
            self._dropped_none(source, skip, st)

    def _dropped_none(self, source: Value, node: ir.Node, st: State) -> None:
        mark = st.attr(source, _UNUSED)
        if isinstance(mark, Sym) and isinstance(made := mark.args[0], Site):
            self.emit(UnusedDropped(self.site(node, st), made), st)


def _asks(test: ir.Expression, name: str, op: str) -> bool:
    """Whether a test compares a name with None."""
    if not isinstance(test, ir.Compare) or len(test.rest) != 1 or not isinstance(test.left, ir.Name):
        return False
    asked, other = test.rest[0]
    return test.left.id == name and asked == op and isinstance(other, ir.Const) and other.value is None


def _is_gradient(node: ir.Expression, name: str) -> bool:
    """Whether an expression is what a name holds, in whatever shape."""
    while isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) and node.func.attr in _SAME_VALUES:
        node = node.func.value
    return isinstance(node, ir.Name) and node.id == name


def _collects(statement: ir.Statement, name: str) -> bool:
    """Whether a statement appends what a name holds to a list."""
    if not isinstance(statement, ir.ExprStmt) or not isinstance(call := statement.value, ir.Call):
        return False
    grows = isinstance(call.func, ir.Attr) and call.func.attr in _COLLECTS
    return grows and any(_is_gradient(arg.value, name) for arg in call.args)
