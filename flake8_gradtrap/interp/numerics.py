"""What the rules about numerics hear of: losses and what made their input, operations that are undefined somewhere."""

from __future__ import annotations

from flake8_gradtrap.events import LogarithmTaken, LossComputed
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.activations import Activations
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.rewrapping import Rewrapping
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Value


class Numerics(Rewrapping):
    def numerical(self, name: str, operand: Value, node: ir.Node, st: State) -> None:
        """Tell of an operation that is undefined somewhere, if what it is given gets there."""
        kind = self.know.numerics.get(name)
        if kind in ("log", "log1p") and self.hears(LogarithmTaken):
            found = Activations(st, self.know).logarithm(operand, plus_one=kind == "log1p")
            if found is not None:
                activation, complement, guarded = found
                trains = self.provenance(st).history(operand) if st.mode is not False else False
                self.emit(
                    LogarithmTaken(self.site(node, st), self.thing(operand), activation, complement, guarded, trains),
                    st,
                )

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
                self.provenance(st).history(given) if st.mode is not False else False,
            ),
            st,
        )
