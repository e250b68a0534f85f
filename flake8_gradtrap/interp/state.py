"""A path of the abstract run: everything that can differ between two ways through the program."""

from __future__ import annotations

from collections.abc import Container, Hashable, Set
from dataclasses import field
from itertools import count
from typing import Any

from flake8_gradtrap.events import Site
from flake8_gradtrap.fixed import fixed
from flake8_gradtrap.interp.values import (
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Record,
    Ref,
    Stamp,
    Sym,
    Tensor,
    Tup,
    Value,
)

MODAL_PARTS = ("what was added has modes",)
"""What is noted of a holder of modules: whether what was added to it does something else in training."""

IN_DOUBT = ("gradient mode in doubt",)
"""Assumed on a path on which something that cannot be seen decides whether gradients are recorded."""


_numbers = count()


@fixed
class Frame:
    """An activation of a function: its environment, the environments it closes over, the call that made it."""

    env: int
    closure: tuple[int, ...] = ()
    func: Func | None = None
    call: Site | None = None
    handed: frozenset[Value] = frozenset()
    """The values that came in as arguments, and what can be reached from them."""
    globals: frozenset[str] = field(default=frozenset())


class State:
    """One path. Copies are cheap: all that it holds is immutable, only the dictionaries themselves are copied."""

    __slots__ = (
        "changed", "conds", "envs", "frames", "heap", "lossy", "mem", "mode", "number", "overlay", "own", "stamp"
    )  # fmt: skip

    def __init__(self) -> None:
        self.number = next(_numbers)
        """No other path has or had it."""
        self.envs: dict[int, dict[str, Value]] = {}
        """The names that are bound, for each activation. Forks share the inner dicts: they change by `bind` alone."""
        self.own: set[int] = set()
        """The activations whose names no other path shares."""
        self.heap: dict[int, Record] = {}
        self.changed: dict[int, Record] = {}
        """The records that were replaced since they were made: all in which the heaps of two paths can differ."""
        self.overlay: dict[Value, dict[Hashable, Value]] = {}
        """Attributes and elements that were written, for each holder by name (or key). The inner dicts are never
        changed.
        """
        self.mem: dict[str, dict[Hashable, Any]] = {}
        """What each rule remembers on this path, by its code. The inner dicts are never changed."""
        self.conds: dict[Hashable, Any] = {}
        """What was assumed of unknowns on this path."""
        self.mode: bool | None = True
        """Whether gradients are recorded."""
        self.frames: tuple[Frame, ...] = ()
        self.stamp: Stamp = ()
        self.lossy: frozenset[str] = frozenset()
        """The rules whose memories were merged by force: what such a rule does not remember may have happened all the
        same. "" stands for the gradient mode.
        """

    def fork(self) -> State:
        new = State.__new__(State)
        new.number = next(_numbers)
        new.envs = dict(self.envs)
        new.own = set()
        self.own = set()
        new.heap = dict(self.heap)
        new.changed = dict(self.changed)
        new.overlay = dict(self.overlay)
        new.mem = dict(self.mem)
        new.conds = dict(self.conds)
        new.mode = self.mode
        new.frames = self.frames
        new.stamp = self.stamp
        new.lossy = self.lossy
        return new

    def bind(self, env: int, name: str, value: Value) -> None:
        """Bind a name of an activation."""
        if env not in self.own:
            self.envs[env] = dict(self.envs.get(env, ()))
            self.own.add(env)
        self.envs[env][name] = value

    def take_names(self, env: int) -> dict[str, Value]:
        """The names of an activation as they are now: a snapshot that nothing changes."""
        self.own.discard(env)
        return self.envs[env]

    def put_names(self, env: int, names: dict[str, Value]) -> None:
        """Bind these names of an activation, and no others."""
        self.envs[env] = names
        self.own.discard(env)

    def keep_names(self, env: int, kept: Set[str], captured: Set[str] = frozenset()) -> None:
        """Unbind the names of an activation but those that are kept, or that functions made in it have captured."""
        names = self.envs[env]
        if names.keys() <= kept:
            return
        gone = names.keys() - kept - captured
        if gone:
            self.envs[env] = {name: value for name, value in names.items() if name not in gone}
            self.own.add(env)

    def attr(self, holder: Value, name: Hashable) -> Value | None:
        """An attribute or element that was written; None if it was not."""
        inner = self.overlay.get(holder)
        return inner.get(name) if inner is not None else None

    def set_attr(self, holder: Value, name: Hashable, value: Value) -> None:
        self.overlay[holder] = {**self.overlay.get(holder, {}), name: value}

    def drop_attr(self, holder: Value, name: Hashable) -> Value | None:
        inner = self.overlay.get(holder)
        if inner is None or name not in inner:
            return None
        rest = {key: value for key, value in inner.items() if key != name}
        if rest:
            self.overlay[holder] = rest
        else:
            del self.overlay[holder]
        return inner[name]

    def replace(self, ref: Ref, record: Record) -> None:
        """Give an object that exists another record."""
        self.heap[ref] = record
        self.changed[ref] = record

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def record(self, value: Value | None) -> Record | None:
        return self.heap.get(value) if isinstance(value, Ref) else None

    def tensor(self, value: Value | None) -> Tensor | None:
        record = self.heap.get(value) if isinstance(value, Ref) else None
        return record if isinstance(record, Tensor) else None

    def behind(self, value: Value | None, ops: Container[str] = ("pass",)) -> Tensor | None:
        """The tensor of which a value is a view, a move or a part, through operations of these kinds."""
        tensor = self.tensor(value)
        while tensor is not None and tensor.op in ops and len(tensor.parents) == 1:
            tensor = self.tensor(tensor.parents[0])
        return tensor


def collect(state: State) -> None:
    """Forget objects that nothing refers to any more: what the rules remember of them, and that they changed."""
    reached: set[int] = set()
    stack: list[Any] = [value for env in state.envs.values() for value in env.values()]
    for frame in state.frames:
        stack.extend(frame.handed)
        if frame.func is not None and frame.func.receiver is not None:
            stack.append(frame.func.receiver)
    heap, overlay = state.heap, state.overlay
    seen: set[int] = set()
    """Values that are no references, by identity: most are the same object, and to hash them costs more."""
    while stack:
        current = stack.pop()
        if isinstance(current, Ref):
            if current in reached:
                continue
            reached.add(current)
            record = heap.get(current)
            if record is not None:
                stack.extend(_parts(record))
            if current in overlay:
                stack.extend(overlay[current].values())
            continue
        if isinstance(current, Const) or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Tup):
            stack.extend(current.items)
        elif isinstance(current, Func):
            if current.receiver is not None:
                stack.append(current.receiver)
        elif isinstance(current, Sym):
            stack.extend(part for part in current.args if isinstance(part, Value))
        if isinstance(current, Value) and current in overlay:
            stack.extend(overlay[current].values())
    for code, inner in state.mem.items():
        if any(oid not in reached for key in inner for oid in oids(key)):
            kept = {key: value for key, value in inner.items() if all(oid in reached for oid in oids(key))}
            state.mem[code] = kept
    for holder in [holder for holder in state.overlay if isinstance(holder, Ref) and holder not in reached]:
        del state.overlay[holder]
    for oid in [oid for oid in state.changed if oid not in reached]:
        del state.changed[oid]


def _parts(record: Record) -> list[Value]:
    if isinstance(record, Tensor):
        return [*record.parents, *([record.owner] if record.owner is not None else [])]
    if isinstance(record, Iterator):
        return [*record.sources, *([record.item] if record.item is not None else [])]
    if isinstance(record, Listing):
        return [*(record.items or ()), *([record.item] if record.item is not None else [])]
    if isinstance(record, Mapping):
        return [part for pair in record.items for part in pair]
    return [*record.args, *(part for part in record.owners or () if isinstance(part, Value))]


def oids(key: Hashable) -> list[int]:
    if isinstance(key, Ref):
        return [key]
    if isinstance(key, tuple):
        found: list[int] = []
        for part in key:
            if isinstance(part, Ref):
                found.append(part)
            elif isinstance(part, tuple):
                found += oids(part)
        return found
    return []
