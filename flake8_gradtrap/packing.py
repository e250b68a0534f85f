"""Findings as plain lists of numbers and text, for the cache, and back; what does not look right is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step


class Refused(ValueError):
    """Data that no gradtrap has written."""


def pack(value: Any, own: str) -> Any:
    """A finding, or what it consists of, as lists. `own`: the path of its file, which is left out."""
    if dataclasses.is_dataclass(value):
        return [
            None
            if field.name == "filename" and getattr(value, field.name) == own
            else pack(getattr(value, field.name), own)
            for field in dataclasses.fields(value)
        ]
    return [pack(item, own) for item in value] if isinstance(value, tuple) else value


class Unpacker:
    """Makes findings of lists. `own`: the path of their file. `others`: the files that their traces may lead to."""

    def __init__(self, own: str, others: Collection[str]) -> None:
        self._own = own
        self._others = others

    def findings(self, data: Any) -> tuple[Finding, ...]:
        return tuple(self._made(Finding, item) for item in _list(data))

    def _made(self, kind: Any, data: Any) -> Any:
        fields = dataclasses.fields(kind)
        values = _list(data, len(fields))
        return kind(*(self._field(field, value) for field, value in zip(fields, values, strict=True)))

    def _field(self, field: Any, value: Any) -> Any:
        if field.name == "filename":
            if value is None:
                return self._own
            if not isinstance(value, str) or value not in self._others:
                raise Refused("a file that has no part in it")
            return value
        kind = str(field.type)
        if kind.endswith(" | None"):
            if value is None:
                return None
            kind = kind.removesuffix(" | None")
        return _KINDS[kind](self, value)

    def _span(self, value: Any) -> Span:
        if not all(isinstance(number, int) and 0 < number < 1 << 31 for number in _list(value, 4)):
            raise Refused("a place")
        return Span(*value)


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise Refused("a list")
    return value


def _is(kind: type) -> Callable[[Unpacker, Any], Any]:
    def check(_: Unpacker, value: Any) -> Any:
        if type(value) is not kind:
            raise Refused(kind.__name__)
        return value

    return check


def _several(kind: Any) -> Callable[[Unpacker, Any], Any]:
    return lambda unpacker, value: tuple(unpacker._made(kind, item) for item in _list(value))


_KINDS: dict[str, Callable[[Unpacker, Any], Any]] = {
    "str": _is(str),
    "int": _is(int),
    "bool": _is(bool),
    "Span": Unpacker._span,
    "Fix": lambda unpacker, value: unpacker._made(Fix, value),
    "tuple[Step, ...]": _several(Step),
    "tuple[Edit, ...]": _several(Edit),
}
"""How each type of a field is checked, by its annotation."""
