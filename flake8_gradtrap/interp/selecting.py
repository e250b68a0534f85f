"""Operations of torch that return two tensors: the values that they select, and where those stood."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flake8_gradtrap.interp.core import Args
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import Const, Sym, Tup, Value

_ALWAYS = frozenset({"topk", "sort", "kthvalue", "cummax", "cummin", "mode"})
_ALONG_A_DIMENSION = frozenset({"max", "min", "median", "nanmedian"})

_DIMENSION = re.compile(r"(^|_)(dim|axis)", re.IGNORECASE)
"""What a variable is called that says along which dimension."""

_FIELDS = {"values": 0, "indices": 1}
"""Both results by name."""


def gives_indices(name: str, others: Sequence[Value], args: Args, st: State, presumed: bool) -> bool:
    """Whether an operation with these arguments besides its tensor returns indices, too; `max` and its like do where
    they are told a dimension. `presumed`: what is not known to be another tensor is one.
    """
    if name in _ALWAYS:
        return True
    if name not in _ALONG_A_DIMENSION or "other" in args.kw:
        return False
    if not others:
        return "dim" in args.kw or "axis" in args.kw
    dimension = others[0]
    if isinstance(dimension, Const):
        return isinstance(dimension.value, int)
    if st.tensor(dimension) is not None:
        return False
    return presumed or (isinstance(dimension, Sym) and _DIMENSION.search(dimension.name) is not None)


def field_of(base: Value, name: str) -> Value | None:
    """`torch.max(x, 1).indices`: the result that is called so; only these operations make such tuples."""
    place = _FIELDS.get(name)
    return base.items[place] if place is not None and isinstance(base, Tup) and len(base.items) == 2 else None
