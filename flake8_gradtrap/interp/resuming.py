"""What a program takes out of a checkpoint: states that are loaded into things, and where training goes on."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flake8_gradtrap.events import ProgressRestored, StateRestored, Thing
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.replacing import Replacing
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Sym, Value

_COUNTS = r"(epochs?|steps?|iters?|iterations?|updates?)"
_KEPT = re.compile(rf"^(?!.*best)(.*[_\W])?{_COUNTS}([_\W]|$)", re.IGNORECASE)
"""What a checkpoint calls how far the training was."""
_BEGINS = re.compile(
    rf"(start|begin|init|initial|resumed?|current|curr|cur|global|completed|last)_?{_COUNTS}$|{_COUNTS}_(start|begin|offset)$"
    rf"|^(step|iteration)s?_?(so_far|done)$",
    re.IGNORECASE,
)
"""What the epoch or step is called at which a training begins."""
_NESTED = 4
"""So deep is what is computed of it looked into."""
_STATE = frozenset({"state", "param_groups", "last_epoch", "_step_count", "_step"})
_LOADS = re.compile(r"load|restore|resume", re.IGNORECASE)
_STATEFUL = frozenset({"optimizer", "scheduler", "scaler", "accelerator", "engine", "instance"})


class Resuming(Replacing):
    def progress_bound(self, name: str, value: Value, node: ir.Node, st: State) -> None:
        """A name is given a value: perhaps the epoch of a checkpoint, at which training goes on."""
        if not self.loaded or not _BEGINS.search(name) or not self.hears(ProgressRestored):
            return
        if self._kept(value, 0):
            self.emit(ProgressRestored(self.site(node, st), Thing(value, name)), st)

    def _kept(self, value: object, depth: int) -> bool:
        """Whether a value was computed from the epoch or step in a checkpoint."""
        if not isinstance(value, Sym) or depth > _NESTED:
            return False
        if value.op == "entry" and len(value.args) == 2 and isinstance(key := value.args[1], Const):
            return isinstance(key.value, str) and bool(_KEPT.search(key.value)) and self._of_checkpoint(value.args[0])
        return any(self._kept(part, depth + 1) for part in value.args)

    def _of_checkpoint(self, value: object) -> bool:
        while isinstance(value, Sym) and value.op == "entry":
            value = value.args[0]
        return isinstance(value, Value) and value in self.loaded

    def entry_loaded(self, receiver: Value, name: str, args: Args) -> Sym | None:
        """`checkpoint.get("epoch", 0)`."""
        if name not in ("get", "pop") or not args.pos or not isinstance(key := args.pos[0], Const):
            return None
        return Sym("entry", (receiver, key), str(key.value)) if self._of_checkpoint(receiver) else None

    def state_assigned(self, base: Value, name: str, node: ir.Node, st: State) -> None:
        """`scheduler.last_epoch = …` and its kin: the program sets the state itself."""
        if name in _STATE and (kind := self.kind(base, st)) in ("optimizer", "scheduler"):
            self.restored(base, kind, node, st)

    def escape(
        self, values: Iterable[Value], node: ir.Node, st: State, to: str = "", *, harmless: bool = False
    ) -> None:
        values = list(values)
        if self.hears(StateRestored) and _LOADS.search(to.rpartition(".")[2]):
            for value in values:
                if self.kind(value, st) in _STATEFUL:
                    self.emit(StateRestored(self.site(node, st), self.thing(value), ""), st)
        super().escape(values, node, st, to, harmless=harmless)

    def restored(self, target: Value, kind: str, node: ir.Node, st: State) -> None:
        """`target.load_state_dict(…)`."""
        if self.hears(StateRestored):
            shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
            owners = self.owners(target, st) if kind in ("module", "optimizer") else None
            self.emit(StateRestored(self.site(node, st), self.thing(target, shown), kind, owners), st)
