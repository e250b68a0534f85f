"""A path of the abstract run: everything that can differ between two ways through the program, and how paths merge."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flake8_gradtrap.events import Site
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
    Thingy,
    Tup,
    Value,
)

MANY = 8
"""So many paths are followed side by side; more are merged by force, and what they disagree on becomes unknown."""
SOME = 3
"""From so many paths on, those that differ only in numbers, strings and unknowns are merged."""


@dataclass(frozen=True, slots=True)
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

    __slots__ = ("changed", "conds", "envs", "frames", "heap", "lossy", "mem", "mode", "overlay", "stamp")

    def __init__(self) -> None:
        self.envs: dict[int, dict[str, Value]] = {}
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
        self.lossy = False
        """Whether paths were merged by force: what is not remembered may have happened all the same."""

    def fork(self) -> State:
        new = State.__new__(State)
        new.envs = {key: dict(env) for key, env in self.envs.items()}
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
        self.heap[ref.oid] = record
        self.changed[ref.oid] = record

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def record(self, value: Value | None) -> Record | None:
        return self.heap.get(value.oid) if isinstance(value, Ref) else None

    def tensor(self, value: Value | None) -> Tensor | None:
        record = self.heap.get(value.oid) if isinstance(value, Ref) else None
        return record if isinstance(record, Tensor) else None


def collect(state: State) -> None:
    """Forget what the rules remember of objects that nothing refers to any more."""
    reached: set[int] = set()
    stack: list[Any] = [value for env in state.envs.values() for value in env.values()]
    for frame in state.frames:
        stack.extend(frame.handed)
        if frame.func is not None and frame.func.receiver is not None:
            stack.append(frame.func.receiver)
    seen: set[Any] = set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if isinstance(current, Ref):
            reached.add(current.oid)
            record = state.heap.get(current.oid)
            if record is not None:
                stack.extend(_parts(record))
        elif isinstance(current, Tup):
            stack.extend(current.items)
        elif isinstance(current, Func) and current.receiver is not None:
            stack.append(current.receiver)
        elif isinstance(current, Sym):
            stack.extend(part for part in current.args if isinstance(part, Value))
        if isinstance(current, Value):
            stack.extend(state.overlay.get(current, {}).values())
    for code, inner in state.mem.items():
        if any(oid not in reached for key in inner for oid in _oids(key)):
            kept = {key: value for key, value in inner.items() if all(oid in reached for oid in _oids(key))}
            state.mem[code] = kept
    for holder in [holder for holder in state.overlay if isinstance(holder, Ref) and holder.oid not in reached]:
        del state.overlay[holder]


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


def _oids(key: Hashable) -> list[int]:
    if isinstance(key, Ref):
        return [key.oid]
    if isinstance(key, tuple):
        return [oid for part in key for oid in _oids(part)]
    return []


_MISSING = Const("<missing>", str)


def _plain(value: Value) -> bool:
    """Whether two paths may disagree on this value without losing more than a number, a string or an unknown."""
    return (
        value is _MISSING
        or isinstance(value, Sym)
        or (isinstance(value, Const) and value.type not in (bool, type(None)))
    )


def _number(value: Value) -> bool:
    return isinstance(value, Const) and value.type in (int, float)


_ALIKE = frozenset({"optimizer", "scaler", "scheduler", "lossfn"})
"""Kinds of things of which one is as good as another, when paths are merged by force."""


def _apart(a: State, b: State) -> int:
    """For how many rules two paths differ in what is remembered."""
    return sum(a.mem.get(code) != b.mem.get(code) for code in a.mem.keys() | b.mem.keys())


def _common(mine: dict[Hashable, Any], theirs: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """What a rule remembers on both of two paths: equal values, and what unequal ones that can `meet` agree on."""
    found: dict[Hashable, Any] = {}
    for key, value in mine.items():
        other = theirs.get(key, _MISSING)
        if other == value:
            found[key] = value
        elif type(other) is type(value) and hasattr(value, "meet"):
            found[key] = value.meet(other)
    return found


class Merger:
    """Merges paths that meet. `fresh` makes an identity for what they disagree on."""

    def __init__(self, fresh: Any) -> None:
        self.fresh = fresh
        self.forced = 0
        self.narrow = False
        """Few paths are kept: the run has taken a part of its steps, and shall come to its end."""
        self.single = False
        """Paths that meet become one: most steps are taken."""

    def merge(self, states: list[State]) -> list[State]:
        if len(states) < 2:
            return states
        result: list[State] = []
        for state in states:
            for index, other in enumerate(result):
                merged = self._pair(other, state, soft=False, force=False)
                if merged is not None:
                    result[index] = merged
                    break
            else:
                result.append(state)
        some, many = (1, 1) if self.single else (1, 2) if self.narrow else (SOME, MANY)
        if len(result) > some:
            result = self._reduce(result, some)
        if len(result) > many:
            self.forced += 1
            self._squeeze(result, max(many // 2, min(many, 2)))
        return result

    def _reduce(self, states: list[State], goal: int) -> list[State]:
        """Merge the paths that differ in numbers, strings and unknowns, until so many are left."""
        result: list[State] = []
        for place, state in enumerate(states):
            if len(result) + (len(states) - place) <= goal:
                result.append(state)
                continue
            for index in range(len(result) - 1, -1, -1):
                merged = self._pair(result[index], state, soft=True, force=False)
                if merged is not None:
                    result[index] = merged
                    break
            else:
                result.append(state)
        return result

    def _squeeze(self, states: list[State], goal: int) -> None:
        """Merge paths by force until so many are left: first those on which the rules remember the same."""
        while len(states) > goal:
            pairs = [(_apart(a, b), i, j) for j, b in enumerate(states) for i, a in enumerate(states[:j])]
            for _, i, j in sorted(pairs):
                merged = self._pair(states[i], states[j], soft=True, force=True)
                if merged is not None:
                    states[i] = merged
                    del states[j]
                    break
            else:
                return

    def _pair(self, a: State, b: State, soft: bool, force: bool) -> State | None:
        if a.frames != b.frames or a.stamp != b.stamp:
            return None
        if not force and (a.mode is not b.mode or a.mem != b.mem):
            return None
        if not force and a.changed != b.changed:
            return None
        differing: list[tuple[str, Any, Hashable, Value, Value]] = []
        if a.envs != b.envs:
            if not soft:
                return None
            for key in a.envs.keys() | b.envs.keys():
                self._differences("env", key, a.envs.get(key, {}), b.envs.get(key, {}), differing)
        if a.overlay != b.overlay:
            if not soft:
                return None
            for holder in a.overlay.keys() | b.overlay.keys():
                mine, theirs = a.overlay.get(holder, {}), b.overlay.get(holder, {})
                if mine is not theirs and mine != theirs:
                    self._differences("overlay", holder, mine, theirs, differing)
        if not force and not all(self._mergeable(a, b, x, y) for _, _, _, x, y in differing):
            return None
        merged = a.fork()
        merged.heap = {**b.heap, **a.heap}
        merged.changed = {**b.changed, **a.changed}
        for where, key, name, x, y in differing:
            value = self._join(merged, a, b, name, x, y)
            if where == "env":
                merged.envs.setdefault(key, {})[str(name)] = value
            else:
                merged.set_attr(key, name, value)
        merged.conds = {key: value for key, value in a.conds.items() if b.conds.get(key, _MISSING) == value}
        if a.mem != b.mem:
            merged.mem = {code: _common(inner, b.mem.get(code, {})) for code, inner in a.mem.items()}
        merged.lossy = a.lossy or b.lossy or force
        if a.mode is not b.mode:
            merged.mode = None
        return merged

    @staticmethod
    def _differences(
        where: str,
        key: Any,
        mine: dict[Any, Value],
        theirs: dict[Any, Value],
        out: list[tuple[str, Any, Hashable, Value, Value]],
    ) -> None:
        for name, x in mine.items():
            y = theirs.get(name, _MISSING)
            if x is not y and x != y:
                out.append((where, key, name, x, y))
        out.extend((where, key, name, _MISSING, y) for name, y in theirs.items() if name not in mine)

    @staticmethod
    def _mergeable(a: State, b: State, x: Value, y: Value) -> bool:
        if _plain(x) and _plain(y):
            return True
        return a.tensor(x) is not None and b.tensor(y) is not None

    def _join(self, merged: State, a: State, b: State, name: Hashable, x: Value, y: Value) -> Value:
        one, two = a.tensor(x), b.tensor(y)
        known = one or two
        if known is not None and (one is not None or _number(x)) and (two is not None or _number(y)):
            # A total starts as a number: beside the tensor that it becomes, it is one that adds nothing.
            oid = self.fresh()
            merged.heap[oid] = Tensor(
                "phi",
                (x, y),
                known.site,
                known.mode,
                all(part is None or part.is_number for part in (one, two)),
                how=known.how,
                stamp=max(part.stamp for part in (one, two) if part is not None),
            )
            return Ref(oid)
        mine, theirs = a.record(x), b.record(y)
        if isinstance(mine, Thingy) and isinstance(theirs, Thingy) and mine.kind == theirs.kind in _ALIKE:
            oid = self.fresh()  # made in one way or another, it is still an optimizer of these parameters
            merged.heap[oid] = Thingy(
                mine.kind,
                None,
                mine.owners if mine.owners == theirs.owners else None,
                mine.what if mine.what == theirs.what else "",
                mine.flag if mine.flag == theirs.flag else None,
                site=mine.site,
                stamp=max(mine.stamp, theirs.stamp),
            )
            return Ref(oid)
        return Sym("joined", (self.fresh(),), name if isinstance(name, str) else "")


def flatten(values: Iterable[Value]) -> list[Value]:
    """The values, tuples taken apart."""
    out: list[Value] = []
    for value in values:
        if isinstance(value, Tup):
            out.extend(flatten(value.items))
        else:
            out.append(value)
    return out
