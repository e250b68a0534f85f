"""Which activation made a value: its provenance, followed through views, layers and visible models."""

from __future__ import annotations

from dataclasses import replace

from flake8_gradtrap.events import Activation
from flake8_gradtrap.interp.core import CHOSEN
from flake8_gradtrap.interp.knowledge import Knowledge
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import NONE, TRUE, Const, Listing, Mapping, Sym, Tensor, Thingy, Tup, Value

_DEEP = 24
"""So many operations are followed."""


class Activations:
    """Activations as one path sees them."""

    def __init__(self, state: State, know: Knowledge) -> None:
        self.state = state
        self.know = know

    def of(self, value: Value, depth: int = 0) -> Activation | None:
        """The activation (or linear layer) that made a value; None where it is not known, or one of several."""
        tensor = self.state.tensor(value)
        if tensor is None or depth > _DEEP:
            return None
        if tensor.op == "op":
            return self._by_function(tensor, depth)
        if tensor.op == "forward":
            return self._by_module(tensor, depth)
        if tensor.op == "phi":
            return self._alike(tensor.parents, depth)
        if tensor.op == "pass" and self.is_view(tensor):
            return self._alike(tensor.parents, depth)
        return None

    def unseen(self, value: Value) -> bool:
        """Whether a value is the output of a visible model whose `forward` was not run this time."""
        tensor = self.state.tensor(self._behind_views(value))
        if tensor is None or tensor.op != "forward" or not tensor.parents:
            return False
        record = self.state.record(tensor.owner)
        inner = self.state.tensor(tensor.parents[0])
        ran = inner is not None and inner.op != "call"
        return isinstance(record, Thingy) and record.cls is not None and not ran

    def is_view(self, tensor: Tensor) -> bool:
        return self.know.activations.get(short(tensor.how)) == "views"

    def _alike(self, parents: tuple[Value, ...], depth: int) -> Activation | None:
        """What made several values, if it is the same for all."""
        found = [self.of(parent, depth + 1) for parent in parents if self.state.tensor(parent) is not None]
        first = found[0] if found else None
        if first is None or any(other is None or other.kind != first.kind for other in found):
            return None
        return first if len(found) == len([p for p in parents if not isinstance(p, Const)]) else None

    def _by_function(self, tensor: Tensor, depth: int) -> Activation | None:
        name = short(tensor.how)
        kind = self.know.activations.get(name, "")
        if kind in ("views", "through"):
            return self._alike(tensor.parents[:1], depth)
        return Activation(kind, name, tensor.site) if kind else None

    def _by_module(self, tensor: Tensor, depth: int) -> Activation | None:
        inner = tensor.parents[0] if tensor.parents else NONE
        if inner != NONE:  # what its visible `forward` returned
            found = self.of(inner, depth + 1)
            return self._within(found, tensor.how, tensor.owner) if found is not None else None
        kind = self.kind_of(tensor.owner)
        if kind == "through":
            return self._alike(tensor.parents[1:], depth)
        if kind:
            return Activation(kind, self._name(tensor.owner), tensor.site)
        last = self.last_layer(tensor.owner)
        if last is None or not (kind := self.kind_of(last)):
            return None
        record = self.state.record(last)
        site = record.site if isinstance(record, Thingy) else tensor.site
        return self._within(Activation(kind, self._name(last), site), tensor.how, tensor.owner)

    def _within(self, found: Activation, model: str, owner: Value | None) -> Activation:
        """What a visible model ends with, seen from outside."""
        record = self.state.record(owner)
        return replace(found, model=model, made=record.site if isinstance(record, Thingy) else None)

    def last_layer(self, module: Value | None, depth: int = 0) -> Value | None:
        """The layer that gives a `Sequential` its output."""
        record = self.state.record(module)
        if not isinstance(record, Thingy) or record.what != "torch.nn.Sequential" or module is None or depth > 4:
            return None
        layers: tuple[Value, ...] = record.args
        inner = self.state.record(layers[0]) if len(layers) == 1 else None
        if isinstance(inner, Mapping):
            layers = tuple(value for _, value in inner.items) if inner.closed else ()
        elif isinstance(inner, Listing):
            pairs = inner.items or ()
            layers = tuple(pair.items[1] for pair in pairs if isinstance(pair, Tup) and len(pair.items) == 2)
        changes = self.state.overlay.get(module, {})
        if any(isinstance(key, Const) for key in changes):
            return None
        if "last layer" in changes:
            layers = (changes["last layer"],)
        for layer in reversed(layers):
            if self.kind_of(layer) != "through":
                return self.last_layer(layer, depth + 1) or layer
        return None

    def kind_of(self, module: Value | None) -> str:
        """What a layer of torch makes, by the lists of the table; "" where it is none of them."""
        record = self.state.record(module)
        if module is None or not isinstance(record, Thingy) or record.kind != "module" or record.cls is not None:
            return ""
        if self.state.attr(module, CHOSEN) == TRUE:
            return ""  # as good as any other
        return self.know.role_in("activations", record.what)

    def _name(self, module: Value | None) -> str:
        record = self.state.record(module)
        return record.what.rpartition(".")[2] if isinstance(record, Thingy) else ""

    # -- what a logarithm is taken of ---------------------------------------------------------------------------------

    def logarithm(self, operand: Value, plus_one: bool = False) -> tuple[Activation, bool, bool] | None:
        """The probability of which a logarithm is taken, whether of one minus it, and whether a little is added."""
        operand, guarded = self._shifted(self._behind_views(operand))
        tensor = self.state.tensor(operand)
        if plus_one:
            if tensor is None or tensor.op != "neg":
                return None
            found, complement = self._probability(tensor.parents[0]), True
        elif tensor is not None and (rest := self._complement(tensor)) is not None:
            found, complement = self._probability(rest), True
        else:
            found, complement = self._probability(operand), False
        return (found, complement, guarded) if found is not None else None

    def _behind_views(self, value: Value) -> Value:
        tensor = self.state.tensor(value)
        while tensor is not None and tensor.op == "pass" and len(tensor.parents) == 1 and self.is_view(tensor):
            value = tensor.parents[0]
            tensor = self.state.tensor(value)
        return value

    def _shifted(self, value: Value) -> tuple[Value, bool]:
        """What a small number (or an unknown one) is added to, and whether one is."""
        tensor = self.state.tensor(value)
        if tensor is None or tensor.op not in ("add", "sub"):
            return value, False
        left, right = tensor.parents
        for rest, added in ((left, right), (right, left))[: 2 if tensor.op == "add" else 0]:
            if self.state.tensor(added) is None and not (isinstance(added, Const) and _about(added, 1.0)):
                if isinstance(added, Const) and not 0 < abs(_number(added)) < 0.1:
                    return value, False
                return rest, True
        return value, False

    def _complement(self, tensor: Tensor) -> Value | None:
        """`p`, of `1 - p`."""
        if tensor.op == "sub" and len(tensor.parents) == 2:
            one, rest = tensor.parents
            made = self.state.tensor(one)
            ones = made is not None and made.op == "leaf" and made.how in ("ones", "ones_like", "new_ones")
            return rest if ones or _about(one, 1.0) else None
        if tensor.op == "add" and len(tensor.parents) == 2:
            for part, one in (tensor.parents, tensor.parents[::-1]):
                negative = self.state.tensor(part)
                if _about(one, 1.0) and negative is not None and negative.op == "neg":
                    return negative.parents[0]
        return None

    def _probability(self, value: Value) -> Activation | None:
        """The activation by which a value is a probability."""
        found = self.of(value)
        if found is None:
            return self._by_arctan(self._behind_views(value), 0)
        return found if found.kind in ("softmax", "sigmoid") else None

    def _by_arctan(self, value: Value, depth: int) -> Activation | None:
        """`atan(x) / pi + 0.5` is a probability, too."""
        tensor = self.state.tensor(value)
        if tensor is None or depth > 4:
            return None
        if tensor.op in ("add", "mul", "div", "sub"):
            inner = [part for part in tensor.parents if self.state.tensor(part) is not None]
            return self._by_arctan(inner[0], depth + 1) if len(inner) == 1 else None
        found = self.of(value)
        return found if found is not None and found.kind == "arctan" and depth > 1 else None

    # -- the course of the run ----------------------------------------------------------------------------------------

    def not_training(self) -> bool:
        """Whether the path assumes that a model is not training: what it returns then is not meant for a loss."""
        return any(
            fact is False and isinstance(test, tuple) and isinstance(test[-1], Sym) and test[-1].name == "training"
            for test, fact in self.state.conds.items()
        )


def short(how: str) -> str:
    """The name of the function or method in what made a tensor: `.view()` is `view`."""
    return how.lstrip(".").removesuffix("()")


def _number(value: Value) -> float:
    return float(value.value) if isinstance(value, Const) and value.type in (int, float) else 0.0


def _about(value: Value, number: float) -> bool:
    """Whether a constant is a number, as far as a 32-bit float can tell: `1 + 1e-8` is 1."""
    return abs(_number(value) - number) < 6e-8
