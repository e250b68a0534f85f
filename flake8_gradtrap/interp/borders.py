"""Operations with a border at zero, where they are undefined or infinitely steep, and selections that shall hide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from flake8_gradtrap.events import Site
from flake8_gradtrap.interp.activations import short
from flake8_gradtrap.interp.knowledge import Knowledge
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Tensor, Value

_DEEP = 6
_OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}
_WORDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_KEEPS_ZERO = frozenset({"abs", "abs_", "neg", "square", "detach"})
"""What is zero where its argument is."""
_FLAT = frozenset("relu relu_ relu6 threshold clamp clamp_ clamp_min clamp_min_ clip where maximum".split())
"""Operations that let no gradient through where they are flat, not even one that is not a number."""


@dataclass(frozen=True, slots=True)
class Border:
    """An operation that has no finite gradient where `argument` is zero. `inputs`: what a gradient can go into."""

    name: str
    argument: Value
    inputs: tuple[Value, ...]
    site: Site


class Borders:
    """`live`: whether a value carries a gradient."""

    def __init__(self, state: State, know: Knowledge, live: Callable[[Value], bool | None]) -> None:
        self.state = state
        self.know = know
        self.live = live

    def hidden(self, condition: Value, branch: Value, chosen: bool) -> Border | None:
        """The operation in a branch whose border the condition excludes: `torch.log(x)` where `x > 0`.

        `chosen`: the branch is taken where the condition holds.
        """
        excluding = [value for value, op in self._tests(condition, chosen, 0) if not _holds_at_zero(op)]
        if not excluding:
            return None
        for border in self._borders(branch, 0):
            inputs = tuple(part for part in border.inputs if not self._flat(part))
            if inputs and self.base(border.argument) in excluding:
                return replace(border, inputs=inputs)
        return None

    def _flat(self, value: Value) -> bool:
        made = self.state.tensor(self.base(value))
        return made is not None and made.op == "op" and short(made.how) in _FLAT

    def base(self, value: Value) -> Value:
        """What a value is zero with: views, copies and absolute values looked through."""
        tensor = self.state.tensor(value)
        while tensor is not None and tensor.parents and self._keeps(tensor):
            value = tensor.parents[0]
            tensor = self.state.tensor(value)
        return value

    def _keeps(self, tensor: Tensor) -> bool:
        name = short(tensor.how)
        if tensor.op in ("neg", "detach"):
            return True
        if tensor.op in ("mul", "div") and len(tensor.parents) == 2:
            return isinstance(tensor.parents[1], Const)
        if tensor.op == "pass":
            return len(tensor.parents) == 1 and self.know.activations.get(name) == "views"
        return tensor.op == "op" and (name in _KEEPS_ZERO or self.know.activations.get(name) == "views")

    def _tests(self, condition: Value, holds: bool, depth: int) -> Iterator[tuple[Value, tuple[str, Value]]]:
        """What is compared with what where a condition holds (or does not), by the base of what is compared."""
        tensor = self.state.tensor(condition)
        if tensor is None or depth > _DEEP:
            return
        name = short(tensor.how)
        op = _WORDS.get(name, name)
        if tensor.op == "hard" and op in _OPPOSITE and len(tensor.parents) == 2:
            left, right = tensor.parents
            op = op if holds else _OPPOSITE[op]
            for one, sign, other in ((left, op, right), (right, _MIRRORED[op], left)):
                if isinstance(other, Const) or self.state.tensor(one) is not None:  # else it is a bound: a number
                    yield self.base(one), (sign, other)
        elif tensor.op == "hard" and (name == "logical_not" or name.startswith("~") or len(tensor.parents) == 1):
            if name not in ("isnan", "isinf", "isfinite", "any", "all", "nonzero"):
                negated = name == "logical_not" or name not in ("bool", "to")
                yield from self._tests(tensor.parents[0], holds is not negated, depth + 1)
        elif tensor.op == "pass" and len(tensor.parents) == 1:
            yield from self._tests(tensor.parents[0], holds, depth + 1)
        elif name in ("&", "logical_and") if holds else name in ("|", "logical_or"):
            for part in tensor.parents:
                yield from self._tests(part, holds, depth + 1)

    def _borders(self, value: Value, depth: int) -> Iterator[Border]:
        """The operations with a border through which a branch goes backward."""
        tensor = self.state.tensor(value)
        if tensor is None or depth > _DEEP or tensor.site is None or tensor.mode is False:
            return
        border = self.at(tensor)
        if border is not None:
            yield border
        if tensor.op in ("add", "sub", "neg", "mul", "div", "pass", "op") and short(tensor.how) != "where":
            for part in tensor.parents:
                yield from self._borders(part, depth + 1)

    def squares(self, value: Value, depth: int = 0) -> str:
        """What a value that is zero where all its parts are is made of: "squares" or "a variance"; "" if it is not."""
        tensor = self.state.tensor(value)
        if tensor is None or depth > _DEEP or not tensor.parents:
            return ""
        name, first = short(tensor.how), tensor.parents[0]
        if tensor.op == "op" and name in ("**", "pow", "square", "pow_"):
            return "squares" if name == "square" or tensor.parents[1:] == (Const.of(2),) else ""
        if tensor.op == "op" and name in ("var", "nanvar"):
            return "a variance"
        if tensor.op == "mul" and len(tensor.parents) == 2:
            left, right = tensor.parents
            return "squares" if left == right else self.squares(left, depth + 1) if isinstance(right, Const) else ""
        if tensor.op == "add":
            parts = {self.squares(part, depth + 1) for part in tensor.parents}
            constant = any(not self.live(part) for part in tensor.parents)  # it may keep the sum from zero
            return "squares" if parts == {"squares"} and not constant else ""
        if tensor.op == "pass" and (name in ("sum", "mean") or self.know.activations.get(name) == "views"):
            return self.squares(first, depth + 1)
        return ""

    def at(self, tensor: Tensor) -> Border | None:
        """The border of an operation, if it has one."""
        if tensor.site is None or not tensor.parents:
            return None
        name, first = short(tensor.how), tensor.parents[0]
        if tensor.op == "div" and len(tensor.parents) == 2 and not isinstance(tensor.parents[1], Const):
            return Border("the quotient", tensor.parents[1], tensor.parents, tensor.site)
        if tensor.op != "op":
            return None
        if name in ("**", "pow") and len(tensor.parents) == 2:
            return Border("the power", first, (first,), tensor.site) if _steep(tensor.parents[1]) else None
        if self.know.numerics.get(name) in ("log", "root"):
            return Border(f"`{name}`", first, (first,), tensor.site)
        return None


def _steep(exponent: Value) -> bool:
    """Whether a power is infinitely steep at zero, or undefined there."""
    return isinstance(exponent, Const) and exponent.type in (int, float) and exponent.value < 1 and exponent.value != 0


def _holds_at_zero(comparison: tuple[str, Value]) -> bool:
    """Whether zero is among what a comparison lets through; an unknown bound is taken for a small positive number."""
    op, bound = comparison
    if isinstance(bound, Const) and bound.type in (int, float):
        number = float(bound.value)
        return {
            ">": number < 0,
            ">=": number <= 0,
            "<": number > 0,
            "<=": number >= 0,
            "==": number == 0,
            "!=": number != 0,
        }[op]
    return op not in (">",)
