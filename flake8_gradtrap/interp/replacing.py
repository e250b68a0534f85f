"""Which parameters a module has changes after it was made: parts are replaced or added, names hold another module,
parameters are frozen, and optimizers are told of new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flake8_gradtrap.events import GroupAdded, Owners, ParametersFrozen, ParametersReplaced, Thing
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.leaves import Leaves
from flake8_gradtrap.interp.registration import MODULES
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import FALSE, TRUE, Const, Listing, Ref, Sym, Tensor, Thingy, Value

_DEPTH = 4
"""So deep it is looked whether a module is made of another one."""
_GROWS = frozenset({"append", "extend", "insert", "add", "update"})


class Replacing(Leaves):
    # -- other parts --------------------------------------------------------------------------------------------------

    def part_assigned(self, base: Value, name: object, value: Value, st: State, node: ir.Node, label: str) -> None:
        """An attribute or element of `base` is going to be a new module or Parameter."""
        if not self.optimized or not self.hears(ParametersReplaced):
            return
        held = self.leaves(base, st) if self.kind(base, st) in MODULES else None
        around = self._around(base)
        if held is None and (not around or self.kind(around[-1], st) not in MODULES):
            return
        if held is None:
            held = next((leaves for holder in around if (leaves := self.leaves(holder, st))), None)
        gained = self._gained(value, st)
        if held and gained and gained.isdisjoint(held):
            where = Thing((base, name), label)
            apart = not isinstance(base, Sym) and held != frozenset({base})
            self.emit(ParametersReplaced(self.site(node, st), where, held, gained, told_apart=apart), st)

    def parts_added(self, base: Value, values: Iterable[Value], how: str, node: ir.Node, st: State) -> None:
        """`module.add_module(…)` and its kin."""
        if self.optimized and self.hears(ParametersReplaced):
            shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
            for value in values:
                self.part_assigned(base, (how, value), value, st, node, self.label(shown) if shown is not None else "")

    def module_rebound(self, old: Value | None, value: Value, label: str, node: ir.Node, st: State) -> None:
        """A name or attribute that held a module is going to hold another one, which was made without it."""
        record = st.record(value)
        loaded = value in self.loaded
        if old is None or old == value or not (loaded or (isinstance(record, Thingy) and record.kind == "module")):
            return
        if not self.optimized or self.kind(old, st) != "module" or not self.hears(ParametersReplaced):
            return
        if loaded:
            self.kinds[value] = "module"
        gained = self.leaves(value, st) if not self._made_of(value, old, st) else None
        held = self.leaves(old, st)
        if held and gained and gained.isdisjoint(held):
            self.emit(ParametersReplaced(self.site(node, st), Thing(old, label), held, gained, whole=True), st)

    def parameters_remade(self, module: Value, how: str, node: ir.Node, st: State) -> None:
        """A method or function of a library puts new Parameters into the place of those that a module has."""
        if not self.optimized or not self.hears(ParametersReplaced):
            return
        held = self.leaves(module, st)
        around = self._around(module)
        if held is None:
            held = next((leaves for holder in around if (leaves := self.leaves(holder, st))), None)
        if held:
            place = Thing((module, how), self.thing(module).label)
            self.emit(ParametersReplaced(self.site(node, st), place, held, frozenset({(module, how)}), how=how), st)

    def _gained(self, value: Value, st: State, depth: int = 0) -> Owners:
        """The parameters that come with a value that was made in sight; None if there are none."""
        record = st.record(value)
        if isinstance(record, Tensor):
            return frozenset({value}) if record.op == "param" and record.owner is None else None
        if not isinstance(record, Thingy) or record.kind not in MODULES:
            return None
        roles = self.know.roles(record.what) if record.cls is None else frozenset[str]()
        if "modules.holders" in roles:
            found = frozenset[object]()
            for arg in record.args if depth < _DEPTH else ():
                for part in self.parts(arg, st)[0]:
                    if isinstance(part.thing.key, Value):
                        found |= self._gained(part.thing.key, st, depth + 1) or frozenset()
            return found | {value} if found else None
        if record.what.startswith("torch.nn.Dropout") or st.attr(value, "frozen") == TRUE:
            return None
        return self.leaves(value, st) if self.has_parameters(record, st) else None

    def _made_of(self, module: Value, inner: Value, st: State, depth: int = 0) -> bool:
        """Whether a module is made of another one."""
        record = st.record(module)
        if module == inner:
            return True
        if not isinstance(record, Thingy) or depth > _DEPTH:
            return False
        parts = [*record.args, *st.overlay.get(module, {}).values()]
        reached = {found for part in parts for found in self.reachable(part, st)}
        return any(inner in self._around(part) or self._made_of(part, inner, st, depth + 1) for part in reached)

    @staticmethod
    def _around(module: Value) -> tuple[Value, ...]:
        """What a part that is named by its holder belongs to."""
        found: list[Value] = []
        while isinstance(module, Sym) and module.op in ("attr", "member", "entry") and module.args:
            if not isinstance(module.args[0], Value):
                break
            module = module.args[0]
            found.append(module)
        return tuple(found)

    # -- frozen ones --------------------------------------------------------------------------------------------------

    def froze(self, value: Value, flag: Value | None, node: ir.Node, st: State) -> None:
        """`requires_grad` of a module's parameters is set."""
        if self.hears(ParametersFrozen):
            frozen = True if flag == FALSE else False if flag in (None, TRUE) else None
            self.emit(ParametersFrozen(self.site(node, st), self.thing(value), self.owners(value, st), frozen), st)

    # -- optimizers that are told -------------------------------------------------------------------------------------

    def group_added(self, optimizer: Value | None, params: Value | None, node: ir.Node, st: State) -> None:
        """An optimizer is given more parameters."""
        record = st.record(optimizer) if optimizer is not None else None
        if isinstance(optimizer, Ref) and isinstance(record, Thingy) and record.owners is not None:
            more = self.owners(params, st)
            st.replace(optimizer, replace(record, owners=record.owners | more if more is not None else None))
        if self.hears(GroupAdded):
            thing = self.thing(optimizer) if optimizer is not None else None
            self.emit(GroupAdded(self.site(node, st), thing, self.owners(params, st)), st)

    def groups_changed(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> None:
        """A method of `optimizer.param_groups`, or of the list of parameters in one of them, is called."""
        if name in _GROWS and args.pos and self.of_groups(receiver, st):
            self.group_added(None, args.pos[0], node, st)

    def of_groups(self, value: Value, st: State) -> bool:
        """Whether a value is the list of groups of an optimizer, or that of the parameters in a group."""
        record = st.record(value)
        if isinstance(record, Listing):
            return record.shape == "param_groups"
        return isinstance(value, Sym) and value.op == "entry" and value.args[1:] == (Const.of("params"),)
