"""How a loss is weighed: what divides or multiplies the means of which it is made, before it goes backward."""

from __future__ import annotations

import re
from collections.abc import Hashable

from flake8_gradtrap.events import Site, Weights
from flake8_gradtrap.interp.provenance import CUTS, Provenance
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Sym, Tensor, Tup, Value, setting

_DEEP = 30


class Weighing:
    """One walk down from a loss."""

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.state = provenance.state
        self.by: set[Hashable] = set()
        self.ragged = False
        """Whether a mean was met that may be over another number in each batch."""
        self.seen = True
        """Whether nothing was met that another call would have shown."""
        self._known: dict[tuple[Value, float | None, bool], float | None] = {}

    def weights(self, loss: Value) -> Weights:
        share = self._share(loss, 1.0, 0)
        uneven = _uneven(self.state, loss, frozenset(), 0, {}) if self.ragged else frozenset()
        return Weights(share, frozenset(self.by), uneven, self.seen)

    def _share(self, value: Value, share: float | None, depth: int, term: bool = False) -> float | None:
        """The greatest constant that alone weighs a mean below a value; None if there is none. `share`: what weighs
        the value itself, None where that is unknown. `term`: it is one of the terms of a sum.
        """
        if depth > _DEEP or isinstance(value, Const):
            return None
        key = (value, share, term)
        if key not in self._known:  # many ways lead down to what several paths have in common
            self._known[key] = None
            self._known[key] = self._found(value, share, depth, term)
        return self._known[key]

    def _found(self, value: Value, share: float | None, depth: int, term: bool) -> float | None:
        if isinstance(value, Tup):
            return self._most(value.items, share, depth, term)
        tensor = self.state.tensor(value)
        if value in self.provenance.unentered:
            self.seen = False
        if tensor is None:
            return self._of_unknown(value, share, depth, term) if isinstance(value, Sym) else None
        if tensor.op in CUTS or tensor.op == "param" or (tensor.is_number and tensor.op != "scale"):
            return None
        if tensor.op in ("mul", "div"):
            return self._product(tensor, share, depth, term)
        if tensor.op == "phi":
            found = [self._share(part, share, depth + 1, term) for part in tensor.parents]
            return None if None in found else max((part for part in found if part is not None), default=None)
        if tensor.op in ("add", "sub", "scale", "neg"):
            return self._most(tensor.parents, share, depth, term or tensor.op in ("add", "sub"))
        if tensor.op == "pass":
            if tensor.how == "unpacked" and self._unseen_model(tensor.parents[0]):
                return None  # `loss, output = model(x)`: it may as well be a sum
            inner = self._most(tensor.parents, share, depth, term)
            if tensor.how in ("mean", ".mean()", ".nanmean()"):
                return share
            return None if tensor.how in ("sum", ".sum()", ".nansum()", "nansum") else inner
        if tensor.op == "forward":
            seen = tensor.parents and tensor.parents[0] != Const.of(None)
            return self._share(tensor.parents[0], share, depth + 1, term) if seen else share
        if tensor.op == "call":
            self._most(tensor.parents, share, depth, term)
            return share if _named_loss(tensor.how) else None
        self._most(tensor.parents, share, depth, term)
        self.ragged = self.ragged or tensor.reduction == "ragged"
        mean = tensor.reduction in ("mean", "ragged") or (not tensor.reduction and _named_loss(tensor.how))
        return share if mean else None

    def _unseen_model(self, value: Value) -> bool:
        """Whether a value is what a model returned that was not entered."""
        tensor = self.state.tensor(value)
        return tensor is not None and tensor.op == "forward" and tensor.parents[:1] in ((), (Const.of(None),))

    def _of_unknown(self, value: Sym, share: float | None, depth: int, term: bool) -> float | None:
        if value.op in ("*", "/", "+", "-"):
            parts = tuple(part for part in value.args if isinstance(part, Value))
            if value.op in ("*", "/"):
                self._weigh(value)
                return None
            return self._most(parts, share, depth, term)
        if value.op in ("joined", "item") or "loss" not in value.name.lower():
            return None  # joined: of several values; one of several that a call returned may as well be a sum
        known = self.provenance
        # What unseen code computed may have been divided there; what a model returns is not.
        return share if value.op != "call" or value in known.likely - known.handed_out else None

    def _most(self, values: tuple[Value, ...], share: float | None, depth: int, term: bool) -> float | None:
        found = [self._share(value, share, depth + 1, term) for value in values]
        return max((part for part in found if part is not None), default=None)

    def _product(self, tensor: Tensor, share: float | None, depth: int, term: bool) -> float | None:
        left, right = tensor.parents[0], tensor.parents[-1]
        most: list[float] = []
        self.ragged = self.ragged or tensor.op == "div"  # by what may count tokens
        for value, other, divides in ((left, right, tensor.op == "div"), (right, left, False)):
            if tensor.op == "div" and value is right and value is not left:
                continue
            weighed: float | None = None
            if isinstance(other, Const) and isinstance(other.value, int | float):
                weighed = _times(share, float(other.value), divides)
            else:
                self._weigh(other)
                if term and not divides and weighs_a_term(other):
                    weighed = share
            if isinstance(value, Const):
                continue
            found = self._share(value, weighed, depth + 1, term)
            if found is not None:
                most.append(found)
        return max(most, default=None)

    def _weigh(self, value: Value) -> None:
        """Note what weighs the loss, and what that was computed from."""
        stack: list[Hashable] = [value]
        while stack and len(self.by) < 200:
            part = stack.pop()
            if part in self.by or not isinstance(part, Value):
                continue
            self.by.add(part)
            tensor = self.state.tensor(part)
            if tensor is not None:
                stack.extend(tensor.parents)
            elif isinstance(part, Sym):
                stack.extend(part.args)
            elif isinstance(part, Tup):
                stack.extend(part.items)


_OF_TERM = re.compile(
    r"(^|_)(weights?|wt|coefs?|coeffs?|coefficients?|lambdas?\d*|ratios?|alpha\d*|beta\d*|gamma\d*|w\d*)(_|$)",
    re.IGNORECASE,
)
"""What a setting is called that weighs one of several losses."""


_OF_WINDOW = re.compile(r"acc?um|micro|step|iter|freq|batch|scale|norm", re.IGNORECASE)


def weighs_a_term(value: Value) -> bool:
    """Whether a factor is a setting that weighs one loss against others (`kl_weight`, `args.lambda_l1`,
    `config.ratios["dice"]`), and has nothing to do with how many micro-batches are added up.
    """
    while isinstance(value, Sym) and value.op in ("attr", "entry", "item", "param", "global", "derived"):
        if _OF_WINDOW.search(value.name):
            return False
        if _OF_TERM.search(value.name):
            return True
        inner = value.args[0] if value.args else None
        if not isinstance(inner, Value):
            return False
        value = inner
    return False


_Weights = frozenset[Hashable]
_Means = frozenset[_Weights]


def _uneven(
    state: State, value: Value, by: _Weights, depth: int, known: dict[tuple[Value, _Weights], _Means]
) -> _Means:
    """What weighs each mean below a value that is over another number in each batch; `by`: what weighs the value."""
    if (value, by) not in known:
        known[value, by] = frozenset()
        known[value, by] = _uneven_below(state, value, by, depth, known)
    return known[value, by]


def _uneven_below(
    state: State, value: Value, by: _Weights, depth: int, known: dict[tuple[Value, _Weights], _Means]
) -> _Means:
    tensor = state.tensor(value)
    if tensor is None or depth > _DEEP or tensor.op in CUTS or tensor.is_number:
        return frozenset()
    if tensor.reduction == "ragged" or _masked_mean(state, tensor):
        return frozenset({by})
    if tensor.op in ("mul", "div") and len(tensor.parents) == 2:
        left, right = tensor.parents
        found = _uneven(state, left, by | _weighers(right), depth + 1, known)
        return found if tensor.op == "div" else found | _uneven(state, right, by | _weighers(left), depth + 1, known)
    if tensor.op == "pass" and tensor.how in ("sum", ".sum()"):
        return frozenset()  # of several means: they may be those of the whole window
    if tensor.op in ("add", "sub", "neg", "scale", "pass", "phi", "forward"):
        return frozenset().union(*(_uneven(state, part, by, depth + 1, known) for part in tensor.parents))
    return frozenset()


def _weighers(value: Value) -> frozenset[Hashable]:
    """What a weight is computed from, beside numbers and settings."""
    if isinstance(value, Sym) and (value.op in _ARITHMETIC or value.op.startswith("pure builtins.")):
        return frozenset().union(*(_weighers(part) for part in value.args if isinstance(part, Value)))
    known = isinstance(value, Const) or (isinstance(value, Sym) and setting(value))
    return frozenset() if known else frozenset({value})


_ARITHMETIC = frozenset({"*", "/", "+", "-", "//", "**"})


def _masked_mean(state: State, tensor: Tensor) -> bool:
    """`(losses * mask).sum() / mask.sum()`."""
    if tensor.op != "div" or len(tensor.parents) != 2:
        return False
    whole, count = tensor.parents
    if (added := state.tensor(count)) is not None and added.op == "add":  # a small number, against none
        count = next((part for part in added.parents if not isinstance(part, Const)), count)
    summed_up = state.tensor(whole)
    if summed_up is None or summed_up.op != "pass" or summed_up.how not in ("sum", ".sum()"):
        return False
    product = state.tensor(summed_up.parents[0])
    if product is None or product.op != "mul":
        return False
    counted = state.tensor(count)
    if counted is not None:
        return counted.op == "pass" and counted.how in ("sum", ".sum()") and counted.parents[0] in product.parents
    names = {part.name for part in product.parents if isinstance(part, Sym) and part.name}
    return isinstance(count, Sym) and count.op == "derived" and count.name in names


_SAME_SIZE = frozenset(
    "to cuda cpu float half double bfloat16 type type_as clone contiguous view reshape flatten squeeze "
    "unsqueeze".split()
)
"""Views and copies with as many elements."""


def summed(state: State, loss: Value) -> Site | None:
    """Where a loss is summed over the batch, if nothing then weighs or averages the sum."""
    return _summed(state, loss, 0, set())


def _summed(state: State, loss: Value, depth: int, seen: set[Value]) -> Site | None:
    tensor = state.tensor(loss)
    if tensor is None or depth > _DEEP or not tensor.parents or loss in seen:
        return None
    seen.add(loss)
    if tensor.reduction == "sum":
        return tensor.site
    if tensor.op in ("mul", "div"):
        left, right = tensor.parents[0], tensor.parents[-1]
        for value, other in ((left, right), (right, left)) if tensor.op == "mul" else ():
            if isinstance(other, Const) and isinstance(other.value, int | float) and abs(other.value) >= 1:
                return _summed(state, value, depth + 1, seen)
        return None
    if tensor.op == "forward" and tensor.parents[0] != Const.of(None):
        return _summed(state, tensor.parents[0], depth + 1, seen)
    if tensor.op == "pass" and tensor.how == ".sum()":
        inner = state.tensor(tensor.parents[0])
        if inner is not None and inner.reduction == "none":
            return tensor.site
    if tensor.op in ("add", "sub", "neg", "scale"):
        found = (_summed(state, part, depth + 1, seen) for part in tensor.parents)
        return next((site for site in found if site is not None), None)
    return None


def unreduced(state: State, loss: Value) -> Tensor | None:
    """The loss function that made a loss for each sample, if nothing reduces them."""
    return _unreduced(state, loss, 0, {})


def _unreduced(state: State, loss: Value, depth: int, known: dict[Value, Tensor | None]) -> Tensor | None:
    if loss not in known:  # many ways lead down to what several paths have in common
        known[loss] = None
        known[loss] = _not_reduced(state, loss, depth, known)
    return known[loss]


def _not_reduced(state: State, loss: Value, depth: int, known: dict[Value, Tensor | None]) -> Tensor | None:
    tensor = state.tensor(loss)
    if tensor is None or depth > _DEEP or not tensor.parents:
        return None
    if tensor.op == "op":
        return tensor if tensor.reduction == "none" else None
    if tensor.op == "forward":
        return _unreduced(state, tensor.parents[0], depth + 1, known)
    found = [_unreduced(state, part, depth + 1, known) for part in tensor.parents]
    if tensor.op in ("add", "sub", "mul", "div", "neg", "scale"):
        return next((one for one in found if one is not None), None)
    if tensor.op == "phi" or (tensor.op == "pass" and len(found) == 1 and tensor.how.strip(".()") in _SAME_SIZE):
        return found[0] if None not in found else None
    return None


def _times(share: float | None, factor: float, divides: bool) -> float | None:
    if share is None or (divides and factor == 0):
        return None
    return abs(share / factor if divides else share * factor)


def _named_loss(how: str) -> bool:
    last = how.lower().rpartition(".")[2]
    return any(word in last for word in ("loss", "criterion", "entropy", "nll", "mse", "bce", "crit"))
