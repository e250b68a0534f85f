"""What the rules about numerics hear of: losses and what made their input, operations that are undefined somewhere."""

from __future__ import annotations

from collections.abc import Sequence

from flake8_gradtrap.events import BorderHidden, LogarithmTaken, LossComputed, RootTaken
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.activations import Activations
from flake8_gradtrap.interp.borders import Borders
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.rewrapping import Rewrapping
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.values import Value


class Numerics(Rewrapping):
    def numerical(self, name: str, result: Value, operands: Sequence[Value], node: ir.Node, st: State) -> None:
        """Tell of an operation that is undefined somewhere, if what it is given gets there."""
        kind, operand = self.know.numerics.get(name), operands[0]
        if kind == "where" and len(operands) > 1 and self.hears(BorderHidden) and st.mode is not False:
            self._selection(name, operands, node, st)
        if kind == "root" and name.startswith("sqrt"):
            self.root_taken(f"`{name}`", operand, node, st)
        if kind in ("log", "log1p") and self.hears(LogarithmTaken):
            found = Activations(st, self.know).logarithm(operand, plus_one=kind == "log1p")
            if found is not None:
                activation, complement, guarded = found
                trains = self.provenance(st).history(operand) if st.mode is not False else False
                site, given, made = self.site(node, st), self.thing(operand), self.thing(result)
                self.emit(LogarithmTaken(site, given, made, activation, complement, guarded, trains), st)

    def root_taken(self, how: str, operand: Value, node: ir.Node, st: State) -> None:
        """Tell of a root that can be one of zero."""
        if self.hears(RootTaken) and st.mode is not False and (kind := self._squares(operand, st)):
            trains = self.provenance(st).history(operand, guess=True)
            self.emit(RootTaken(self.site(node, st), f"{how} of {kind}", trains), st)

    def _squares(self, operand: Value, st: State) -> str:
        return Borders(st, self.know, self.provenance(st).history).squares(operand)

    def _selection(self, name: str, operands: Sequence[Value], node: ir.Node, st: State) -> None:
        """Tell what a selection hides: of `torch.where(c, x, y)`, or `x.masked_fill(c, 0)`."""
        if name == "where":
            condition, branches = operands[0], zip(operands[1:3], (True, False), strict=False)
        else:
            condition, branches = operands[1], zip(operands[:1], (False,), strict=True)
        borders = Borders(st, self.know, self.provenance(st).history)
        for branch, chosen in branches:
            border = borders.hidden(condition, branch, chosen)
            if border is not None:
                facts = [self.provenance(st).history(part, guess=True) for part in border.inputs]
                trains = True if True in facts else None if None in facts else False
                self.emit(BorderHidden(self.site(node, st), border.name, border.site, trains), st)

    def computed_loss(self, name: str, result: Value, args: Args, node: ir.Node, st: State) -> None:
        """Tell that a loss of torch was computed, and what made its input."""
        expects = self.know.role_in("losses", name) if self.hears(LossComputed) else ""
        given = args.get(0, "input", "log_probs", "inputs")
        if not expects or given is None:
            return
        activations = Activations(st, self.know)
        made = None if activations.not_training() else activations.of(given)
        self.emit(
            LossComputed(
                self.site(node, st),
                self.thing(result),
                name.rpartition(".")[2],
                expects,
                self.thing(given, node.args[0].value if isinstance(node, ir.Call) and node.args else None),
                made,
                self.provenance(st).history(given) if st.mode is not False and IN_DOUBT not in st.conds else False,
                made is None and activations.unseen(given),
            ),
            st,
        )
