"""Questions about the provenance graph of tensors: has it history, what is it the sum of, what does its graph reach."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import Owners, Site, Term
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.knowledge import knowledge
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Sym, Tensor, Thingy, Tup, Value, named_loss, named_weight, setting

_LIMIT = 400
"""A graph of more operations than this is not followed to its end."""

CUTS = frozenset({"readout", "detach", "rewrap", "forced", "hard", "leaf", "grad", "first order"})
"""Operations whose result has no history, whatever goes in."""


DECISIONS = ("hard", "rounded")
"""The cuts of a term that are steps."""


class Provenance:
    """Provenance as one path sees it. `likely`: unknowns that were computed from something with history. `handed_out`:
    those that unseen code made, which had modules in its hands: they may be parts of those, or come from them.
    `unentered`: those that visible functions returned which were not entered any more.
    """

    def __init__(
        self, state: State, likely: set[Value], data: set[Value], handed_out: set[Value], unentered: set[Value]
    ) -> None:
        self.state = state
        self.likely = likely
        self.data = data
        self.handed_out = handed_out
        self.unentered = unentered
        self._history: dict[Value, bool | None] = {}

    def history(self, value: Value, guess: bool = False) -> bool | None:
        """Whether a value carries a gradient. With `guess`, what unknown code made of a live value does."""
        if guess:
            sure = self.history(value)
            return True if sure is None and self._guess(value, 0) else sure
        if value not in self._history:
            self._history[value] = None
            self._history[value] = self._sure(value)
        return self._history[value]

    def _sure(self, value: Value) -> bool | None:
        if isinstance(value, Const):
            return False
        if isinstance(value, Tup):
            return self._any(value.items)
        live = self.state.conds.get(("live", value))
        if live is not None:
            return bool(live)
        if isinstance(value, Sym) and (value in self.data or value.op.startswith("pure ") or _has_none(value)):
            return False
        tensor = self.state.tensor(value)
        if tensor is None:
            return None
        if tensor.op in CUTS or tensor.mode is False:
            return False
        if tensor.op == "param":
            return True
        if tensor.op == "forward":
            inner = self.history(tensor.parents[0]) if tensor.parents else None
            if inner is False and tensor.parents[0] != Const.of(None):
                return False
            unknown = (
                bool(tensor.parents) and isinstance(tensor.parents[0], Sym) and tensor.parents[0] not in self.likely
            )
            return True if tensor.mode and not unknown else None
        if tensor.op in ("call", "data"):
            return None  # unknown code may have detached it
        if self._whole(tensor) is not None:
            return None if self.history(tensor.parents[0]) is not False else False  # or a part of what it returned
        found = self._any(tensor.parents)
        return found if tensor.mode or found is False else None

    def _any(self, values: tuple[Value, ...]) -> bool | None:
        facts = [self.history(value) for value in values]
        return True if True in facts else None if None in facts else False

    def _guess(self, value: Value, depth: int) -> bool:
        if value in self.likely:
            return True
        tensor = self.state.tensor(value)
        if tensor is None or tensor.mode is False or tensor.op in CUTS or depth > 12:
            return False
        return any(self.history(parent) or self._guess(parent, depth + 1) for parent in tensor.parents)

    # -- the graph below a value --------------------------------------------------------------------------------------

    def graph(self, value: Value) -> Graph:
        """Everything that a backward from this value walks."""
        graph = Graph()
        parted: set[Value] = set()
        unseen: set[Value] = set()  # what unseen code was given: its result need not have gone through that
        stack = [(value, False)]
        while stack and len(graph.reaches) < _LIMIT:
            current, inside = stack.pop()  # inside: within a module whose output counts as a whole
            if current in graph.reaches or isinstance(current, Const):
                continue
            if isinstance(current, Tup):
                stack.extend((item, inside) for item in current.items)
                continue
            tensor = self.state.tensor(current)
            if tensor is None:
                if isinstance(current, Sym) and self.history(current) is not False:
                    graph.reaches.add(current)
                    if current in self.likely or current in self.handed_out or current in self.unentered:
                        graph.incomplete = True
                    if self.state.conds.get(("live", current)):
                        graph.frees.add(current)
                    graph.unknown = True
                continue
            if self.history(current) is False and tensor.op != "forced":
                continue
            graph.reaches.add(current)
            if tensor.op == "forced":
                continue  # a leaf: what it was made of is behind a cut
            whole = self._whole(tensor)
            if whole is not None:
                parted.add(whole)
            if current in unseen:
                unseen.update(tensor.parents)
            elif self.history(current) is True and (tensor.saves or whole is not None) and current not in parted:
                graph.frees.add(current)
            if tensor.op == "forward" and tensor.owner is not None:
                graph.incomplete = graph.incomplete or current in self.likely
                if not inside:
                    graph.owners.add(tensor.owner)
                if tensor.mode:  # else it is frozen, or run without gradients
                    stack.append((tensor.parents[0], True))
                stack.extend((part, inside) for part in tensor.parents[1:])  # on top: what came in is walked first
                continue
            if tensor.op == "param" and not inside:
                graph.owners.add(tensor.owner if tensor.owner is not None else current)
            if tensor.op == "scale":
                graph.scaler = tensor.owner
            if tensor.op == "call":
                graph.unknown = True
                unseen.update(tensor.parents)
                graph.incomplete = graph.incomplete or current in self.likely or current in self.unentered
            if not tensor.taken:
                stack.extend((part, inside) for part in tensor.parents)
        return graph

    def behind(self, graph: Graph, inputs: Iterable[Value]) -> set[Value]:
        """What of a walked graph was computed from these inputs: `autograd.grad` runs (and frees) no more of it."""
        made: dict[Value, list[Value]] = {}
        for value in graph.reaches:
            tensor = self.state.tensor(value)
            stack = list(tensor.parents) if tensor is not None else []
            while stack:
                parent = stack.pop()
                if isinstance(parent, Tup):
                    stack.extend(parent.items)
                else:
                    made.setdefault(parent, []).append(value)
        found: set[Value] = set()
        stack = list(inputs)
        while stack:
            new = [value for value in made.get(stack.pop(), ()) if value not in found]
            found.update(new)
            stack.extend(new)
        return found

    def cut_off(self, value: Value) -> set[Value]:
        """What went into a value no other way than through a cut."""
        live: set[Value] = set()
        cut: set[Value] = set()
        stack = [(value, True)]
        while stack:
            current, flows = stack.pop()
            if current in live or (not flows and current in cut):
                continue
            (live if flows else cut).add(current)
            if len(live) + len(cut) > _LIMIT:
                return set()
            tensor = self.state.tensor(current)
            parents = current.items if isinstance(current, Tup) else tensor.parents if tensor is not None else ()
            flows = flows and (tensor is None or (tensor.op not in CUTS and (tensor.mode is not False)))
            stack.extend((parent, flows) for parent in parents)
        return cut - live

    def _whole(self, tensor: Tensor) -> Value | None:
        """The output of an unseen module of which a tensor is a part: whether the parts share a graph is not known."""
        picks = tensor.how in PICKS or (tensor.how.startswith(".") and not tensor.how.endswith(")"))
        if tensor.op != "pass" or not picks or len(tensor.parents) != 1:
            return None
        source = self.state.tensor(tensor.parents[0])
        while source is not None and source.op == "pass" and source.how in PICKS and len(source.parents) == 1:
            source = self.state.tensor(source.parents[0])  # a part of a part
        if source is None:
            return None
        layer = self.state.record(source.owner)
        if isinstance(layer, Thingy) and layer.what.startswith("torch.nn."):
            return None  # the parts of what a layer of torch returns (an LSTM) have its graph
        # A function that returns several things may have computed each by itself.
        unseen = source.op == "op" if tensor.how == "unpacked" else False
        if source.op == "forward" and source.parents:
            inner = self.state.tensor(source.parents[0])
            unseen = source.parents[0] == Const.of(None) or (inner is not None and inner.op == "call")
        return tensor.parents[0] if unseen else None

    def scaled(self, loss: Value, depth: int = 0) -> bool | None:
        """Whether a gradient scaler has multiplied a loss; None where it has on one of the paths that merged."""
        tensor = self.state.tensor(loss)
        if tensor is None or depth > 12:
            return False
        if tensor.op == "scale":
            return True
        if tensor.op not in ("phi", "pass", "div", "mul", "neg", "add", "sub"):
            return False
        parts = {self.scaled(part, depth + 1) for part in tensor.parents}
        if None in parts or (tensor.op == "phi" and len(parts) > 1):
            return None
        return True in parts

    # -- the parts of a loss ------------------------------------------------------------------------------------------

    def terms(self, loss: Value, walked: bool = False) -> tuple[Term, ...]:
        """The parts of a loss: each cut with its place, and whether it is added or multiplied.

        `walked`: it is back-propagated. If nothing of it is alive, then what was cut was meant to be, whatever it was.
        """
        leaf = self.state.tensor(unscaled(self.state, loss))
        while leaf is not None and leaf.op == "div":
            leaf = self.state.tensor(unscaled(self.state, leaf.parents[0]))
        if walked and leaf is not None and leaf.op == "param" and leaf.taken and leaf.site is not None:
            return (Term("forced", leaf.site, leaf.how, True, whole=True),)
        self._walked = loss if walked else None
        found = list(self._terms(loss, additive=True, seen=set(), depth=0))
        if any(term.cut == "readout" for term in found):
            beside = self._read_beside(loss)
            found = [term for term in found if term.cut != "readout" or term.site.node not in beside]
        live = [term for term in found if not term.cut and term.additive]
        targets = self._targets(loss) if any(term.cut and term.additive for term in found) else frozenset()
        parts: dict[tuple[str, Hashable], Term] = {}
        for term in found:
            if term.site.node in targets and live:
                continue  # what is added is a constant of it: the entropy of a target, beside the cross-entropy
            if term.cut:
                whole = term.additive and not live and self.history(loss) is not True
                had = True if whole and walked and term.had_history is None else term.had_history
                parts.setdefault((term.cut, term.site.node), replace(term, whole=whole, had_history=had))
            elif term.additive and term.addend is not None and term.had_history:
                parts.setdefault(("", term.addend.node), term)
        for value in self.ancestors(loss):
            tensor = self.state.tensor(value)
            if tensor is None or tensor.op != "readout" or tensor.site is None or not tensor.parents:
                continue
            if inner_op(self.state, tensor.parents[0]) == "param":
                if not self._trained_by(tensor.parents[0]):
                    continue
                term = Term("readout", tensor.site, tensor.how, True, False, True)
                parts.setdefault(("readout", tensor.site.node), term)
        return tuple(parts.values())

    _walked: Value | None = None

    def _read_beside(self, loss: Value) -> frozenset[Hashable]:
        """Where values are read out that are terms of the loss themselves, too: `surrogate - surrogate.item()` is a
        zero with a gradient.
        """
        cut = self.cut_off(loss)
        beside: set[Hashable] = set()
        alone: set[Hashable] = set()
        for value in self.ancestors(loss):
            tensor = self.state.tensor(value)
            if tensor is not None and tensor.op == "readout" and tensor.site is not None and tensor.parents:
                (alone if tensor.parents[0] in cut else beside).add(tensor.site.node)
        return frozenset(beside - alone)

    def _trained_by(self, value: Value) -> bool:
        """Whether a parameter belongs to a model that is called for the loss that goes backward, and is trained by it.

        One that stands alone (a temperature, a Lagrange multiplier) has an optimizer and a loss of its own.
        """
        if self._walked is None:
            return True
        while (tensor := self.state.tensor(value)) is not None and tensor.op == "pass":
            value = tensor.parents[0]
        holders = {holder for holder, held in self.state.overlay.items() if value in held.values()}
        if tensor is not None and tensor.owner is not None:
            holders.update(tensor.owner.items if isinstance(tensor.owner, Tup) else (tensor.owner,))
        made = (self.state.tensor(one) for one in self.ancestors(self._walked))
        return any(one.op == "forward" and one.owner in holders for one in made if one is not None)

    def _targets(self, loss: Value) -> frozenset[Hashable]:
        """Where a value was cut that weighs a live one in this loss: it is a target, or a coefficient."""
        found: set[Hashable] = set()
        for value in self.ancestors(loss):
            product = self.state.tensor(value)
            if product is None or product.op != "mul" or not any(map(self._factor, product.parents)):
                continue
            for part in product.parents:
                if self.history(part) is False:
                    cuts = (self.state.tensor(one) for one in self.ancestors(part))
                    found.update(cut.site.node for cut in cuts if cut is not None and cut.op == "detach" and cut.site)
        return frozenset(found)

    def _terms(self, value: Value, additive: bool, seen: set[Value], depth: int) -> Iterator[Term]:
        if value in seen or depth > 40 or isinstance(value, Const):
            return
        seen.add(value)
        if isinstance(value, Tup):
            for item in value.items:
                yield from self._terms(item, additive, seen, depth + 1)
            return
        tensor = self.state.tensor(value)
        if tensor is None or tensor.site is None:
            unseen = isinstance(value, Sym) or tensor is not None  # what a function out of sight returned
            if unseen and additive and self._site is not None:
                yield Term("", self._site)
            return
        site = tensor.site
        self._site = site
        op = tensor.op
        if op in ("readout", "detach", "rewrap", "forced"):
            source = tensor.parents[0] if tensor.parents else Const.of(None)
            on_purpose = op == "readout" and cut_before(self.state, tensor)
            if op in ("readout", "rewrap"):
                source = unread(self.state, source)
            parameter = inner_op(self.state, source) == "param"
            if parameter and (on_purpose or not self._trained_by(source)):
                return
            had = self.history(source, guess=True)
            if had is None and op == "readout" and tensor.mode is True and self._presumed(source, 0):
                had = True
            yield Term(op, site, tensor.how, had, additive, parameter)
            return
        if op == "first order":
            yield Term(op, site, tensor.how, True, additive)
            return
        if op == "hard" and tensor.mode is not False:
            decides = knowledge().decisions.get(tensor.how.strip(".()"))
            if decides is not None:
                yield Term(decides, site, tensor.how, self._decides_on_live(tensor, depth), additive)
            return
        if op in ("hard", "leaf", "grad", "data"):
            return
        if tensor.mode is False and op != "phi":
            if any(self._trainable(parent) for parent in tensor.parents) or op == "forward":
                yield Term("no_grad", site, tensor.how, True, additive)
            return
        if op in ("add", "sub", "phi", "pass", "neg", "scale"):
            yield from self._sum(tensor, additive, seen, depth)
        elif op in ("mul", "div"):
            yield from self._product(tensor, additive, seen, depth)
        elif op == "forward":
            if self.history(value) is False and tensor.parents:
                yield from self._terms(tensor.parents[0], additive, seen, depth + 1)
            elif additive:
                yield Term("", site, had_history=self.history(value))
        elif op == "op" and self.history(value) is False:
            cuts = [term for parent in tensor.parents for term in self._terms(parent, additive, seen, depth + 1)]
            for term in cuts:
                if term.cut in ("detach", "no_grad", "rewrap", "first order", *DECISIONS):
                    # Where it is not known: what it is computed with may be trained, too.
                    yield replace(term, had_history=bool(term.had_history))
        elif additive:
            yield Term("", site, had_history=self.history(value))

    _site: Site | None = None

    def _presumed(self, value: Value, depth: int) -> bool:
        """Whether a value, of which it is not known if it has history, is a loss: a loss function made it, of more
        than data, or it is called so.
        """
        if isinstance(value, Sym):
            return value.op not in ("global", "joined") and "loss" in value.name.lower() and value not in self.data
        tensor = self.state.tensor(value)
        if tensor is None or tensor.mode is not True or self.history(value) is not None or depth > 12:
            return False
        if tensor.op in ("op", "call") and is_loss(tensor.how):
            return True
        if tensor.op in ("add", "sub", "mul", "div", "neg", "pass", "phi"):
            return any(self._presumed(parent, depth + 1) for parent in tensor.parents)
        return False

    def undivided(self, loss: Value) -> Value:
        """The loss behind `unscaled`, also where it is divided by what is no constant: `loss / args.steps`.

        Only where it is plain which of the two is the loss: the other one is not known to come from anything live.
        """
        base = unscaled(self.state, loss)
        tensor = self.state.tensor(base)
        while tensor is not None and tensor.op == "div":
            part, divisor = tensor.parents[0], tensor.parents[-1]
            if not (self.history(part, guess=True) or self._presumed(part, 0)):
                break
            if self.state.tensor(divisor) is not None or self.history(divisor, guess=True):
                break
            base = unscaled(self.state, part)
            tensor = self.state.tensor(base)
        return base

    def _trainable(self, value: Value) -> bool:
        """Whether a value would have history, had its operations been recorded."""
        seen: set[Value] = set()
        work = [value]
        while work:
            value = work.pop()
            if value in seen:
                continue
            seen.add(value)
            tensor = self.state.tensor(value)
            if tensor is None:
                if self.history(value) is True:
                    return True
            elif tensor.op in ("param", "forward"):
                return True
            elif tensor.op not in CUTS:
                work.extend(tensor.parents)
        return False

    def _sum(self, tensor: Tensor, additive: bool, seen: set[Value], depth: int) -> Iterator[Term]:
        live_leaves: set[Value] = set()
        for parent in tensor.parents:
            if self.history(parent) is not False:
                live_leaves |= self.ancestors(parent)
        for parent in tensor.parents:
            record = self.state.tensor(parent)
            if record is not None and record.op == "detach" and tensor.op in ("add", "sub") and record.parents:
                source = record.parents[0]
                if self.ancestors(source) & live_leaves:
                    continue  # straight-through: the same value stands beside it, alive
            beside_live = len(tensor.parents) > 1 and any(
                other is not parent and self.history(other, guess=True) for other in tensor.parents
            )
            subtracted = tensor.op == "sub" and parent == tensor.parents[-1]
            if tensor.op == "sub" and not subtracted:  # all of it is cut: what is alive is measured against it
                target = self.history(parent) is False and self.history(tensor.parents[-1]) is True
            else:
                target = subtracted and self.history(tensor.parents[0]) is not False
            for term in self._terms(parent, additive, seen, depth + 1):
                if target and term.cut in ("detach", "no_grad", "first order", *DECISIONS):
                    continue  # the other side of a difference with a live value is its target
                if term.cut in ("detach", *DECISIONS) and self._stands_beside(tensor, parent):
                    continue
                if term.addend is None and beside_live and tensor.op != "phi":
                    term = replace(term, addend=_operand(tensor, parent))
                yield term

    def _decides_on_live(self, tensor: Tensor, depth: int) -> bool:
        """Whether a decision, or one before it, is about a value that carries a gradient."""
        for parent in tensor.parents:
            inner = self.state.tensor(parent)
            while inner is not None and inner.op == "pass" and len(inner.parents) == 1:
                parent = inner.parents[0]
                inner = self.state.tensor(parent)
            if self.history(parent) is True:
                return True
            if inner is not None and inner.op == "hard" and depth < 40 and self._decides_on_live(inner, depth + 1):
                return True
        return False

    def _stands_beside(self, tensor: Tensor, cut: Value) -> bool:
        """Whether what was cut stands alive beside it (straight-through), or in its place."""
        made = self.ancestors(cut)
        for other in tensor.parents:
            if other is cut or self.history(other) is False:
                continue
            if tensor.op == "phi":
                return True
            inner = self.state.tensor(other)
            while inner is not None and inner.op in ("pass", "neg", "scale") and len(inner.parents) == 1:
                other = inner.parents[0]
                inner = self.state.tensor(other)
            if other in made:
                return True
        return False

    def _product(self, tensor: Tensor, additive: bool, seen: set[Value], depth: int) -> Iterator[Term]:
        left, right = tensor.parents[0], tensor.parents[-1]
        if tensor.op == "div":
            yield from self._terms(left, additive, seen, depth + 1)
            yield from self._terms(right, False, seen, depth + 1)
            return
        facts = (self._factor(left), self._factor(right))
        for mine, beside, other in ((left, right, facts[1]), (right, left, facts[0])):
            for term in self._terms(mine, additive and not other, seen, depth + 1):
                if term.cut == "first order" and additive and self.history(mine) is False:
                    # A penalty that is all without a graph is one, whatever setting it is multiplied with.
                    term = replace(term, additive=self.history(beside) is not True)
                yield term

    def _factor(self, value: Value) -> bool:
        """Whether a factor may carry a gradient: what it is multiplied with is then a coefficient, not a term."""
        if isinstance(value, Sym):
            if value.op in ("+", "-", "*", "/"):
                return any(self._factor(part) for part in value.args if isinstance(part, Value))
            if setting(value) or named_weight(value) or (value.op == "call" and value.name in _NUMBERS):
                return False
            return (
                value in self.likely
                or value.op in ("call", "item", "entry", "member")
                or named_loss(value)
                or bool(self.state.conds.get(("live", value)))
            )
        return self.history(value) is not False

    def ancestors(self, value: Value) -> set[Value]:
        """A value and all that it was computed from, cuts included."""
        found: set[Value] = set()
        stack = [value]
        while stack and len(found) < _LIMIT:
            current = stack.pop()
            if current in found or isinstance(current, Const):
                continue
            found.add(current)
            if isinstance(current, Tup):
                stack.extend(current.items)
            tensor = self.state.tensor(current)
            if tensor is not None:
                stack.extend(tensor.parents)
        return found

    def addends(self, value: Value, into: Value) -> tuple[Value, ...] | None:
        """What `value` adds to `into`: the other additive parts, if `into` is one of its additive parts, else None."""
        if value == into:
            return ()
        tensor = self.state.tensor(value)
        if tensor is None or tensor.op not in ("add", "sub", "mul", "div", "pass", "neg"):
            return None
        parents = tensor.parents[:1] if tensor.op == "div" else tensor.parents
        for place, parent in enumerate(parents):
            inner = self.addends(parent, into)
            if inner is not None:
                others = tuple(other for index, other in enumerate(parents) if index != place)
                if tensor.op in ("mul", "div"):
                    return inner
                return inner + tuple(other for other in others if not isinstance(other, Const))
        return None


PICKS = frozenset({"unpacked", "element", "[key]"})
"""How one of several results is taken."""
"""How a part is taken out of what a module or function returned."""

_NUMBERS = frozenset({"min", "max", "len", "float", "int", "round"})
"""Functions whose results, of what is not known, are numbers."""


def is_loss(name: str) -> bool:
    """Whether a function is a loss by its name."""
    return any(word in name.lower() for word in ("loss", "entropy", "criterion", "nll", "mse", "bce"))


def _has_none(value: Sym) -> bool:
    """Whether an unknown is a tensor's shape, or a number out of it; or the `.data` of something."""
    while value.op in ("entry", "item") and value.args and isinstance(value.args[0], Sym):
        value = value.args[0]
    return value.op == "attr" and value.name in ("shape", "ndim", "device", "dtype", "data")


def _operand(tensor: Tensor, parent: Value) -> Site | None:
    """Where an operand of a sum stands; the sum itself where the operands do not show."""
    site = tensor.site
    if site is None:
        return None
    node = site.node
    left = bool(tensor.parents) and tensor.parents[0] == parent
    if isinstance(node, ir.BinOp):
        return Site(node.left if left else node.right, site.caller)
    if isinstance(node, ir.AugAssign):
        return Site(node.value, site.caller)
    return site


def inner_op(state: State, value: Value) -> str:
    """The operation that made a value, views and casts looked through."""
    tensor = state.tensor(value)
    while tensor is not None and tensor.op == "pass" and len(tensor.parents) == 1:
        value = tensor.parents[0]
        tensor = state.tensor(value)
    return tensor.op if tensor is not None else ""


def unscaled(state: State, loss: Value) -> Value:
    """The loss behind `scaler.scale(loss)` or `loss / steps`: going backward twice through that is what raises."""
    tensor = state.tensor(loss)
    while tensor is not None and tensor.parents and not tensor.is_number:
        constant = len(tensor.parents) == 2 and isinstance(tensor.parents[1], Const)
        if tensor.op not in ("scale", "neg") and not (tensor.op in ("mul", "div") and constant):
            break
        loss = tensor.parents[0]
        tensor = state.tensor(loss)
    return loss


def unread(state: State, value: Value) -> Value:
    """The tensor behind a number or array that was read out of it, and behind a detach for that purpose."""
    tensor = state.tensor(value)
    while tensor is not None and tensor.op in ("readout", "pass", "detach") and len(tensor.parents) == 1:
        value = tensor.parents[0]
        tensor = state.tensor(value)
    return value


def cut_before(state: State, tensor: Tensor) -> bool:
    """Whether what is read out as a number, which needs no detach, was detached all the same: its author says so."""
    return "numpy" not in tensor.how and bool(tensor.parents) and inner_op(state, tensor.parents[0]) == "detach"


@dataclass(slots=True)
class Graph:
    """What a backward walks: the tensors it reaches, the operations it frees, the modules that get gradients."""

    reaches: set[Value] = field(default_factory=set)
    frees: set[Value] = field(default_factory=set)
    owners: set[Value] = field(default_factory=set)
    scaler: Value | None = None
    unknown: bool = False
    incomplete: bool = False
    """A part was computed out of sight, perhaps by modules that are not seen here."""

    def whose(self) -> Owners:
        """The modules whose parameters get gradients; None if there may be others."""
        return frozenset(self.owners) if self.owners and not self.incomplete else None
