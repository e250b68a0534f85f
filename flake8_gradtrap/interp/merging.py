"""How paths that meet become one. The more of them there are, the more they may lose by it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from flake8_gradtrap.interp.provenance import CUTS
from flake8_gradtrap.interp.state import MODAL_PARTS, State, oids
from flake8_gradtrap.interp.values import (
    TRUE,
    Const,
    Listing,
    Mapping,
    Record,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
)
from flake8_gradtrap.levels import Level

MANY = 8
"""So many paths are followed side by side; more are merged whatever they differ in."""
FEW = 4
"""From so many paths on, those are merged, too, that differ in what only conditions ask for."""
SOME = 3
"""From so many paths on, those that differ only in tensors, lists, numbers, strings and unknowns are merged."""
_WIDE = 60
"""The outline of a tensor that was made of more kinds of things is not told."""


class Services(Protocol):
    """What merging needs of the abstract run."""

    likely: set[Value]
    data: set[Value]
    modeless: set[Value]
    plain_contexts: set[Value]

    def fresh(self) -> int: ...
    def kind(self, value: Value, st: State) -> str: ...
    def tested(self, st: State) -> frozenset[str]: ...
    def modal(self, module: Value, st: State) -> bool: ...


_MISSING = Const("<missing>", str)
_NOTHING: dict[Any, Any] = {}
_WITNESSES = 8
"""So many things that kept pairs apart are looked at first."""
_CROWD = 16
"""Of so many paths the nearest two are merged first; of more, whichever can be."""
_TRAINED = frozenset({"module", "optimizer", "scaler", "scheduler", "lossfn", "accelerator"})
"""Kinds of things of which it matters which one a path has."""
_ALIKE = frozenset({"optimizer", "scaler", "scheduler", "lossfn"})
"""Kinds of things of which one is as good as another."""


def _plain(value: Value) -> bool:
    """Whether two paths may disagree on this value without losing more than a number, a string or an unknown."""
    return isinstance(value, Sym) or (isinstance(value, Const) and value.type not in (bool, type(None)))


def _number(value: Value) -> bool:
    return isinstance(value, Const) and value.type in (int, float)


class Merger:
    """Merges paths that meet."""

    def __init__(self, core: Services) -> None:
        self.core = core
        self.forced = 0
        self.narrow = False
        """Few paths are kept: the run has taken a part of its steps, and shall come to its end."""
        self.single = False
        """Paths that meet become one: most steps are taken."""
        self._outlines: dict[int, tuple[Tensor, frozenset[Hashable]]] = {}
        self.apart: list[tuple[str, Hashable, Hashable]] = []
        """What kept the last pairs apart: most pairs are tried again and again, and differ in the same things."""
        self.remembering: dict[tuple[int, int], tuple[Any, Hashable, Any, Any]] = {}
        """For pairs of paths, by their numbers, a rule that remembers different things on them, of what, and these."""

    def merge(self, states: list[State]) -> list[State]:
        if len(states) < 2:
            return states
        result: list[State] = []
        for state in states:
            for index, other in enumerate(result):
                merged = self._merged(other, state, Level.QUIET)
                if merged is not None:
                    result[index] = merged
                    break
            else:
                result.append(state)
        some, few, many = (1, 1, 1) if self.single else (1, 1, 2) if self.narrow else (SOME, FEW, MANY)
        if len(result) > some:
            result = self._reduce(result, some, Level.SOFT)
        if len(result) > few:
            result = self._reduce(result, few, Level.FLAGS)
        if len(result) > many:
            self._squeeze(result, many, Level.FIRM)
        if len(result) > many:
            self.forced += 1
            self._squeeze(result, max(many // 2, min(many, 2)), Level.FORCE)
        return result

    def _merged(self, a: State, b: State, level: Level) -> State | None:
        """One path for two, if they may be merged at a level."""
        return None if self._remember_apart(a, b, level) else _Pair(self, a, b, level).merged()

    def _remember_apart(self, a: State, b: State, level: Level) -> bool:
        """Whether a rule that kept two paths apart before still remembers the same on each of them.

        Paths gain objects and lose none, so that is a reason for good, at any level below force.
        """
        known = self.remembering.get((a.number, b.number))
        if known is None or level is Level.FORCE:
            return False
        code, key, x, y = known
        return a.mem.get(code, _NOTHING).get(key, _MISSING) is x and b.mem.get(code, _NOTHING).get(key, _MISSING) is y

    def fewer(self, states: list[State], goal: int) -> list[State]:
        """Merge paths until so many are left, if no rule's memories get lost."""
        result = list(states)
        for level in (Level.SOFT, Level.FLAGS):
            if len(result) > goal:
                result = self._reduce(result, goal, level)
        self._squeeze(result, goal, Level.FIRM)
        return result

    def _reduce(self, states: list[State], goal: int, level: Level) -> list[State]:
        """Merge the paths that can be merged at a level, until so many are left."""
        result: list[State] = []
        for place, state in enumerate(states):
            if len(result) + (len(states) - place) <= goal:
                result.append(state)
                continue
            for index in range(len(result) - 1, -1, -1):
                merged = self._merged(result[index], state, level)
                if merged is not None:
                    result[index] = merged
                    break
            else:
                result.append(state)
        return result

    def _squeeze(self, states: list[State], goal: int, level: Level) -> None:
        """Merge paths until so many are left: first those on which the rules remember the same."""
        if len(states) > _CROWD:  # to compare each with each takes too long
            states[:] = self._reduce(states, max(goal, _CROWD), level)
        measured: dict[tuple[State, State], tuple[int, int]] = {}
        failed: set[tuple[State, State]] = set()
        while len(states) > goal:
            order: list[tuple[tuple[int, int], int, int]] = []
            for j, b in enumerate(states):
                for i, a in enumerate(states[:j]):
                    if (a, b) not in failed and not self._remember_apart(a, b, level):
                        if (a, b) not in measured:
                            measured[a, b] = self._apart(a, b)
                        order.append((measured[a, b], i, j))
            for _, i, j in sorted(order):
                merged = self._merged(states[i], states[j], level)
                if merged is not None:
                    states[i] = merged
                    del states[j]
                    break
                failed.add((states[i], states[j]))
            else:
                return

    def _apart(self, a: State, b: State) -> tuple[int, int]:
        """For how many rules two paths differ in what is remembered, and in how many things that are trained."""
        memory = trained = 0
        for code in a.mem.keys() | b.mem.keys():
            one, two = a.mem.get(code), b.mem.get(code)
            memory += one is not two and one != two
        for number in a.envs.keys() & b.envs.keys():
            mine, theirs = a.envs[number], b.envs[number]
            for name, value in mine.items() if mine is not theirs and mine != theirs else ():
                other = theirs.get(name)
                if other is not value and other is not None and other != value:
                    trained += self.core.kind(value, a) in _TRAINED or self.core.kind(other, b) in _TRAINED
        return memory, trained

    # -- what a rule can see of a tensor ------------------------------------------------------------------------------

    def outline(self, value: Value, st: State) -> frozenset[Hashable]:
        """What a tensor was made of, as far as a rule can see it: whose parameters, which cuts, which unknowns.

        Tensors of equal outlines have a gradient, and are cut, for the same reasons.
        """
        return self._outline(value, st, set())

    def _outline(self, value: Value, st: State, within: set[int]) -> frozenset[Hashable]:
        if isinstance(value, Const):
            return frozenset()
        if isinstance(value, Tup):
            return frozenset[Hashable]().union(*(self._outline(part, st, within) for part in value.items))
        tensor = st.tensor(value)
        if tensor is None or not isinstance(value, Ref):
            live = "likely" if value in self.core.likely else "data" if value in self.core.data else "unknown"
            return frozenset({live} if not isinstance(value, Sym) or self.core.kind(value, st) else ())
        known = self._outlines.get(value)
        if known is not None and known[0] is tensor:
            return known[1]
        if value in within or len(within) > 200:
            return frozenset()
        within.add(value)
        found: set[Hashable] = set()
        for parent in tensor.parents:
            found |= self._outline(parent, st, within)
        live_fact = st.conds.get(("live", value))
        if tensor.op in CUTS:
            alive = any(isinstance(part, tuple) or part == "likely" for part in found)
            found = {(tensor.op, "of a live one")} if alive else {tensor.op}
        elif tensor.op == "param":
            found.add(("param", tensor.owner if tensor.owner is not None else value))
        elif tensor.op in ("forward", "scale"):
            found.add((tensor.op, tensor.owner))
        elif tensor.op in ("call", "data"):
            found.add(tensor.op)
        if live_fact is not None:
            found.add(("live", live_fact))
        if tensor.mode is not True:
            found.add(("mode", tensor.mode))
        if tensor.saves:
            found.add("saves")
        outline = frozenset(found) if len(found) < _WIDE else frozenset({value})
        self._outlines[value] = tensor, outline
        within.discard(value)
        return outline


class _Pair:
    """Two paths that meet, and the attempt to merge them at a level."""

    __slots__ = ("a", "b", "core", "forgetful", "joined", "level", "lost", "merger", "renamed")

    def __init__(self, merger: Merger, a: State, b: State, level: Level) -> None:
        self.merger = merger
        self.core = merger.core
        self.a = a
        self.b = b
        self.level = level
        self.joined: dict[tuple[Value, Value], Value] = {}
        """What stands for a pair of values: the same for the same pair."""
        self.lost: set[int] = set()
        """Things that are trained, or train, which one path has where the other has none: what is remembered of them
        goes with a condition that is forgotten.
        """
        self.forgetful: set[str] = set()
        """The rules that remember different things, where that is merged by force."""
        self.renamed: dict[tuple[int, int], Ref] = {}
        """New names for things that are alike but for their names."""

    def merged(self) -> State | None:
        a, b = self.a, self.b
        if a.frames != b.frames or a.stamp != b.stamp:
            return None
        if a.mode is not b.mode and self.level < Level.FORCE:
            return None
        if self._known_apart():
            return None
        envs: list[tuple[int, str, Value, Value]] = []
        if a.envs != b.envs:
            for number in a.envs.keys() | b.envs.keys():
                ours, others = a.envs.get(number, _NOTHING), b.envs.get(number, _NOTHING)
                for name, x, y in _differences(ours, others) if ours is not others else ():
                    if not self._may_bind(str(name), x, y):
                        self._differ("name", number, name)
                        return None
                    envs.append((number, str(name), x, y))
        attributes: list[tuple[Value, Hashable, Value, Value]] = []
        if a.overlay != b.overlay:
            for holder in a.overlay.keys() | b.overlay.keys():
                mine, theirs = a.overlay.get(holder, {}), b.overlay.get(holder, {})
                for key, x, y in _differences(mine, theirs) if mine is not theirs else ():
                    if self._unshared(holder):
                        continue
                    if not self._may_hold(key, x, y):
                        self._differ("attribute", holder, key)
                        return None
                    attributes.append((holder, key, x, y))
        changed: list[tuple[int, Record, Record]] = []
        if a.changed != b.changed:
            for oid in a.changed.keys() | b.changed.keys():
                one, two = a.heap.get(oid), b.heap.get(oid)
                if one is None or two is None or one is two or one == two:
                    continue
                if not self._records(one, two, str(oid)):
                    return None
                changed.append((oid, one, two))
        memory = self._memory()
        if memory is None:
            return None
        result = a.fork()
        result.heap = {**b.heap, **a.heap}
        result.changed = {**b.changed, **a.changed}
        for oid, one, two in changed:
            result.replace(Ref(oid), self._join_records(result, one, two))
        for number, name, x, y in envs:
            result.bind(number, name, self._join(result, name, x, y))
        for holder in b.overlay.keys() - a.overlay.keys():
            if self._unshared(holder):
                result.overlay[holder] = b.overlay[holder]
        for holder, key, x, y in attributes:
            result.set_attr(holder, key, self._join_attribute(result, key, x, y))
        result.conds = {key: fact for key, fact in a.conds.items() if b.conds.get(key, _MISSING) == fact}
        for key in a.conds.keys() - result.conds.keys() if len(result.conds) < len(a.conds) else ():
            if isinstance(key, tuple) and key[0] == "equals" and key in b.conds:
                result.conds[key] = a.conds[key] | b.conds[key]  # one of these constants, on whichever path
        for number, name, x, y in envs:
            ones, twos = a.conds.get(("equals", x)), b.conds.get(("equals", y))
            if ones and twos:
                result.conds[("equals", result.envs[number][name])] = ones | twos
        result.mem = memory
        result.lossy = a.lossy | b.lossy | self.forgetful
        if a.mode is not b.mode:
            result.mode = None
            result.lossy |= {""}
        return result

    def _differ(self, what: str, where: Hashable, key: Hashable) -> None:
        """Note what keeps the paths apart."""
        found = what, where, key
        known = self.merger.apart
        if found in known:
            known.remove(found)
        known.insert(0, found)
        del known[_WITNESSES:]

    def _known_apart(self) -> bool:
        """Whether something that kept other pairs apart does so with this one: a look at few things, before at all."""
        a, b = self.a, self.b
        for place in self.merger.apart:
            what, where, key = place
            ours: dict[Any, dict[Any, Any]] = a.mem if what == "memory" else a.envs if what == "name" else a.overlay
            others: dict[Any, dict[Any, Any]] = b.mem if what == "memory" else b.envs if what == "name" else b.overlay
            mine, theirs = ours.get(where, _NOTHING), others.get(where, _NOTHING)
            if mine is theirs:
                continue
            x, y = mine.get(key, _MISSING), theirs.get(key, _MISSING)
            if x is not y and x != y and self._kept_apart(what, where, key, x, y):
                if place is not self.merger.apart[0]:
                    self._differ(what, where, key)
                if what == "memory" and all(getattr(one, "meets", Level.FORCE) is Level.FORCE for one in (x, y)):
                    self.merger.remembering[a.number, b.number] = where, key, x, y
                return True
        return False

    def _kept_apart(self, what: str, where: Any, key: Any, x: Any, y: Any) -> bool:
        """Whether the paths may not disagree on what they hold in a place."""
        a, b = self.a, self.b
        if what == "name":
            return not self._may_bind(key, x, y)
        if what == "attribute":
            return not self._unshared(where) and not self._may_hold(key, x, y)
        return (
            self.level < Level.FORCE
            and self._met(*((y, x) if x is _MISSING else (x, y))) is NotImplemented
            and all(oid in a.heap and oid in b.heap for oid in oids(key))
        )

    def _unshared(self, holder: Value) -> bool:
        """Whether something exists on one of the paths only: nothing is lost if it is kept as it is."""
        return isinstance(holder, Ref) and ((holder in self.a.heap) != (holder in self.b.heap))

    # -- what may be merged -------------------------------------------------------------------------------------------

    def _may_bind(self, name: str, x: Value, y: Value) -> bool:
        if x is not _MISSING and y is not _MISSING:
            return self._alike(name, x, y)
        # Whoever reads the name here comes from where it was bound. But what is trained there goes with its condition.
        value, st = (y, self.b) if x is _MISSING else (x, self.a)
        if self.level >= Level.FIRM:
            self._lose(value, st)
            return True
        record = st.record(value)
        if isinstance(record, Tensor):
            return self.level >= Level.SOFT and record.op != "param"
        return not isinstance(record, Thingy) and self.core.kind(value, st) not in _TRAINED

    def _may_hold(self, key: Hashable, x: Value, y: Value) -> bool:
        """Whether the paths may disagree on an attribute or element."""
        if key in ("returned at", "made by", "carried by"):
            return True
        if x is not _MISSING and y is not _MISSING:
            return self._alike(key, x, y)
        value = y if x is _MISSING else x
        if self.level >= Level.FIRM:
            self._lose(value, self.b if x is _MISSING else self.a)
            return True
        tensor = self.a.tensor(value) or self.b.tensor(value)
        if tensor is not None and tensor.op == "param":
            return True  # looked up on one path only
        if self.level >= Level.FLAGS and isinstance(value, Const):
            return True
        if self.level >= Level.SOFT:
            return tensor is not None or _plain(value) or key == "frozen"
        return self._quiet(key, value, value)

    def _lose(self, value: Value, st: State) -> None:
        if isinstance(value, Ref) and isinstance(st.record(value), Thingy) and self.core.kind(value, st) in _TRAINED:
            self.lost.add(value)

    def _alike(self, name: Hashable, x: Value, y: Value) -> bool:
        """Whether one value may stand for two."""
        if x == y or self.level >= Level.FIRM:
            if not self._rename(x, y) and x != y:
                self._lose(x, self.a)
                self._lose(y, self.b)
            return True
        if isinstance(x, Tup) and isinstance(y, Tup):
            return len(x.items) == len(y.items) and all(
                self._alike(name, one, two) for one, two in zip(x.items, y.items, strict=True)
            )
        one, two = self.a.record(x), self.b.record(y)
        if one is not None and two is not None:
            if isinstance(one, Thingy):
                return self._rename(x, y)
            return self._records(one, two, name, x, y)
        if one is not None or two is not None:
            return self.level >= Level.FLAGS and self._tensor_or_unknown(x, y)
        if self.level >= Level.FLAGS:
            return self.core.kind(x, self.a) not in _TRAINED and self.core.kind(y, self.b) not in _TRAINED
        if not (_plain(x) and _plain(y)):
            return False
        return self.level >= Level.SOFT or self._quiet(name, x, y)

    def _tensor_or_unknown(self, x: Value, y: Value) -> bool:
        for value, other, st, there in ((x, y, self.a, self.b), (y, x, self.b, self.a)):
            if st.tensor(value) is not None and isinstance(other, Sym):
                return self.core.kind(other, there) in ("", "tensor")
        return False

    def _quiet(self, name: Hashable, x: Value, y: Value) -> bool:
        """Whether nothing asks for a value, and two of them are of the same kind."""
        if not (_plain(x) and _plain(y)) or (isinstance(name, str) and name in self.core.tested(self.a)):
            return False
        one = "" if isinstance(x, Const) else self.core.kind(x, self.a)
        two = "" if isinstance(y, Const) else self.core.kind(y, self.b)
        if one not in ("", "tensor") or one != two:
            return False
        return (x in self.core.likely) is (y in self.core.likely) and (x in self.core.data) is (y in self.core.data)

    def _rename(self, x: Value, y: Value) -> bool:
        """Note that two things are alike but for their names, if they are: two optimizers of the same parameters."""
        if not isinstance(x, Ref) or not isinstance(y, Ref) or x == y:
            return False
        if (x, y) in self.renamed:
            return True
        one, two = self.a.record(x), self.b.record(y)
        if not isinstance(one, Thingy) or not isinstance(two, Thingy) or one.kind not in _ALIKE:
            return False
        if one.kind != two.kind or one.flag is not two.flag:
            return False
        if (one.owners != two.owners or one.cls != two.cls) and (self.level < Level.FLAGS or one.kind != "optimizer"):
            return False
        if one.what != two.what and one.kind == "lossfn" and self.level < Level.SOFT:
            return False  # what is given to one loss may be wrong for the other
        if x in self.b.heap or y in self.a.heap:
            return False
        self.renamed[x, y] = Ref(self.core.fresh())
        return True

    def _records(
        self, one: Record, two: Record, name: Hashable, x: Value | None = None, y: Value | None = None
    ) -> bool:
        """Whether one record may stand for two."""
        if self.level >= Level.FIRM:
            return True
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            if self.level >= Level.SOFT:
                return one.is_number is two.is_number and (one.op == "scale") is (two.op == "scale")
            return self._same_outline(one, two, x, y)
        if isinstance(one, Listing) and isinstance(two, Listing):
            if (one.shape, one.bounded, one.stamp) != (two.shape, two.bounded, two.stamp):
                return False
            # Whose parameters it has on each path is not told.
            alike = (one.of_parameters, one.owners) == (two.of_parameters, two.owners) or self.level >= Level.FLAGS
            if one.of_parameters is not two.of_parameters and not alike:
                return False
            if one.items is not None and two.items is not None and len(one.items) == len(two.items):
                return all(self._alike(name, p, q) for p, q in zip(one.items, two.items, strict=True))
            if one.items is None and two.items is None and one.item is not None and two.item is not None:
                return self._alike(name, one.item, two.item)
            if self.level < Level.SOFT or not alike:
                return False
            typical = (one.items or (one.item,))[-1], (two.items or (two.item,))[-1]
            return typical[0] is None or typical[1] is None or self._alike(name, typical[0], typical[1])
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            mine, theirs = dict(one.items), dict(two.items)
            if one.default is not two.default or one.stamp != two.stamp:
                return False
            if list(mine) != list(theirs) and self.level < Level.SOFT:
                return False
            return all(self._alike(key, item, theirs[key]) for key, item in mine.items() if key in theirs)
        return False

    def _same_outline(self, one: Tensor, two: Tensor, x: Value | None, y: Value | None) -> bool:
        if (one.stamp, one.is_number, one.scalar, one.mode) != (two.stamp, two.is_number, two.scalar, two.mode):
            return False
        if one.op in ("param", "forced", "grad") or two.op in ("param", "forced", "grad"):
            return False
        if x is None or y is None:
            mine, theirs = (
                frozenset[Hashable]().union(*(self.merger.outline(part, st) for part in record.parents))
                for record, st in ((one, self.a), (two, self.b))
            )
            return mine == theirs and one.op == two.op and one.saves == two.saves
        return self.merger.outline(x, self.a) == self.merger.outline(y, self.b)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _memory(self) -> dict[str, dict[Hashable, Any]] | None:
        """What the rules remember on both paths, and of things that are only on one. None if they contradict."""
        a, b = self.a, self.b
        if a.mem == b.mem and not self.renamed:
            return dict(a.mem)
        firsts = {x: new for (x, _), new in self.renamed.items()}
        seconds = {y: new for (_, y), new in self.renamed.items()}
        result: dict[str, dict[Hashable, Any]] = {}
        for code in a.mem.keys() | b.mem.keys():
            mine, theirs = _renamed(a.mem.get(code, {}), firsts), _renamed(b.mem.get(code, {}), seconds)
            if mine is theirs or mine == theirs:
                result[code] = mine
                continue
            if self.level == Level.FORCE:
                self.forgetful.add(code)
            kept: dict[Hashable, Any] = {}
            for keys, inner, other, heap in ((mine, mine, theirs, b.heap), (theirs, theirs, mine, a.heap)):
                for key in keys:
                    there = other.get(key, _MISSING)
                    if there is inner[key] or there == inner[key]:
                        kept[key] = mine[key]
                    elif (
                        there is _MISSING
                        and any(oid not in heap and oid not in self._new_names() for oid in oids(key))
                        and not (self.lost and any(oid in self.lost for oid in oids(key)))
                    ):
                        kept[key] = inner[key]  # there is no such thing on the other path
                    elif self._whose_differs(key, inner[key], there):
                        kept[key] = None
                    elif (left := self._met(inner[key], there)) is NotImplemented:
                        if self.level < Level.FORCE:
                            self._differ("memory", code, key)
                            return None
                    elif left is not None:
                        kept[key] = left
            if kept:
                result[code] = kept
        return result

    def _whose_differs(self, key: Hashable, value: Any, other: Any) -> bool:
        """Whether a memory says whose an optimizer is that stands for two, and these were of different ones."""
        if not isinstance(key, tuple) or key[0] != "optimizer" or key[1] not in self._new_names():
            return False
        return all(isinstance(owners, frozenset | None) for owners in (value, other))

    def _met(self, value: Any, other: Any) -> Any:
        """What is left of a memory where the other path has another one, or none; NotImplemented where they clash."""
        if not hasattr(value, "meet") or self.level < getattr(value, "meets", Level.FORCE):
            return NotImplemented
        if other is _MISSING:
            return value.meet(None)
        return value.meet(other) if type(other) is type(value) else NotImplemented

    def _new_names(self) -> Iterable[int]:
        return self.renamed.values()

    # -- merging ------------------------------------------------------------------------------------------------------

    def _join_attribute(self, result: State, key: Hashable, x: Value, y: Value) -> Value:
        if key == "frozen":
            return TRUE
        if key == MODAL_PARTS:
            return y if x is _MISSING else x if y is _MISSING else TRUE
        if key in ("returned at", "carried by"):
            return y if x is _MISSING else x
        if key == "made by" and isinstance(x, Sym) and isinstance(y, Sym):
            return Sym("sites", tuple(dict.fromkeys((*x.args, *y.args))))
        if (x is _MISSING or y is _MISSING) and isinstance(y if x is _MISSING else x, Const | Tup):
            return Sym("joined", (self.core.fresh(),), key if isinstance(key, str) else "")
        return self._join(result, key, x, y)

    def _join(self, result: State, name: Hashable, x: Value, y: Value) -> Value:
        if x == y or y is _MISSING:
            return x
        if x is _MISSING:
            return y
        if (x, y) not in self.joined:
            self.joined[x, y] = self._joined(result, name, x, y)
        return self.joined[x, y]

    def _joined(self, result: State, name: Hashable, x: Value, y: Value) -> Value:
        if isinstance(x, Tup) and isinstance(y, Tup) and len(x.items) == len(y.items):
            return Tup(tuple(self._join(result, name, one, two) for one, two in zip(x.items, y.items, strict=True)))
        one, two = self.a.record(x), self.b.record(y)
        both = isinstance(one, Tensor) and isinstance(two, Tensor)
        # A total starts as a number: beside the tensor that it becomes, it is one that adds nothing.
        total = (_number(x) and isinstance(two, Tensor)) or (_number(y) and isinstance(one, Tensor))
        if (both and one.is_number is two.is_number) or total or self._tensor_or_unknown(x, y):  # type: ignore[union-attr]
            return self._new(result, self._phi(one, two, x, y))
        if isinstance(x, Ref) and isinstance(y, Ref) and (new := self.renamed.get((x, y))) is not None:
            assert isinstance(one, Thingy)
            assert isinstance(two, Thingy)
            owners, cls = (one.owners, one.cls) if (one.owners, one.cls) == (two.owners, two.cls) else (None, None)
            what = one.what if one.what == two.what or one.kind != "lossfn" else ""
            result.heap[new] = replace(one, what=what, owners=owners, cls=cls, args=self._args(one, two, one.args))
            return new
        if isinstance(one, Thingy) and isinstance(two, Thingy) and one.kind == two.kind in _ALIKE:
            return self._new(  # made in one way or another, it is still an optimizer of these parameters
                result,
                Thingy(
                    one.kind,
                    None,
                    one.owners if one.owners == two.owners else None,
                    _what(one.what, two.what),
                    one.flag if one.flag == two.flag else None,
                    self._args(one, two),
                    site=one.site,
                    stamp=max(one.stamp, two.stamp),
                ),
            )
        if isinstance(one, Listing | Mapping) and type(one) is type(two) and two is not None:
            return self._new(result, self._join_records(result, one, two))
        unknown = Sym("joined", (self.core.fresh(),), name if isinstance(name, str) else "")
        for marked in (self.core.likely, self.core.data):
            if x in marked and y in marked:
                marked.add(unknown)
        if self._modeless(x, self.a) and self._modeless(y, self.b):
            self.core.modeless.add(unknown)
        if all(
            isinstance(record, Thingy) and record.kind == "autocast" if record else value in self.core.plain_contexts
            for value, record in ((x, one), (y, two))
        ):
            self.core.plain_contexts.add(unknown)
        return unknown

    def _args(self, one: Thingy, two: Thingy, others: tuple[Value, ...] = ()) -> tuple[Value, ...]:
        """What a thing that stands for two was made with: a scheduler goes with what stands for its optimizers."""
        if one.kind != "scheduler":
            return others
        found: list[Value] = []
        for x, y in zip(one.args, two.args, strict=False):
            new = self.renamed.get((x, y)) if isinstance(x, Ref) and isinstance(y, Ref) else None
            if new is not None or x == y:
                found.append(x if new is None else new)
        return tuple(found)

    def _modeless(self, value: Value, st: State) -> bool:
        record = st.record(value)
        module = isinstance(record, Thingy) and record.kind == "module"
        return value in self.core.modeless or (module and not self.core.modal(value, st))

    def _new(self, result: State, record: Record) -> Ref:
        oid = self.core.fresh()
        result.heap[oid] = record
        return Ref(oid)

    @staticmethod
    def _phi(one: Record | None, two: Record | None, x: Value, y: Value) -> Tensor:
        tensors = [record for record in (one, two) if isinstance(record, Tensor)]
        return Tensor(
            "phi",
            (x, y),
            tensors[0].site,
            tensors[0].mode,
            tensors[0].is_number,
            how=tensors[0].how,
            stamp=max(tensor.stamp for tensor in tensors),
        )

    def _join_records(self, result: State, one: Record, two: Record) -> Record:
        """The record of an object that has one on each path."""
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            return self._phi(one, two, self._new(result, one), self._new(result, two))
        if isinstance(one, Listing) and isinstance(two, Listing):
            owners = one.owners if one.owners == two.owners else None
            known: tuple[Value, ...] | None = None
            if one.items is not None and two.items is not None and len(one.items) == len(two.items):
                known = tuple(self._join(result, "", p, q) for p, q in zip(one.items, two.items, strict=True))
            items = [part for part in ((one.items or (one.item,))[-1], (two.items or (two.item,))[-1]) if part]
            item = self._join(result, "", items[0], items[-1]) if items else None
            return Listing(known, item, owners, one.of_parameters, one.bounded and two.bounded, one.stamp, one.shape)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            theirs = dict(two.items)
            same = [key for key, _ in one.items] == list(theirs)
            entries = tuple(
                (key, self._join(result, "", item, theirs[key])) for key, item in one.items if key in theirs
            )
            # Under a key that is not known stands a typical entry: those of two paths are one.
            loose = [
                [(key, item) for key, item in record.items if key not in other and not isinstance(key, Const)][-1:]
                for record, other in ((one, theirs), (two, dict(one.items)))
            ]
            if found := [*loose[0], *loose[1]]:
                entries = (*entries, (found[0][0], self._join(result, "", found[0][1], found[-1][1])))
            return Mapping(entries, one.closed and two.closed and same, one.stamp, one.default)
        return one


def _what(one: str, two: str) -> str:
    """What made a thing that stands for two: of schedules of torch, that they are torch's."""
    schedules = "torch.optim.lr_scheduler"
    both = one.startswith(schedules) and two.startswith(schedules)
    return one if one == two else schedules if both else ""


def _differences(mine: dict[Any, Value], theirs: dict[Any, Value]) -> Iterable[tuple[Hashable, Value, Value]]:
    for name, x in mine.items():
        y = theirs.get(name, _MISSING)
        if x is not y and x != y:
            yield name, x, y
    for name, y in theirs.items():
        if name not in mine:
            yield name, _MISSING, y


def _renamed(inner: dict[Hashable, Any], names: dict[int, Ref]) -> dict[Hashable, Any]:
    """Memory under new names."""
    if not names or not any(oid in names for key in inner for oid in oids(key)):
        return inner
    return {_with_names(key, names): value for key, value in inner.items()}


def _with_names(key: Hashable, names: dict[int, Ref]) -> Hashable:
    if isinstance(key, Ref):
        return names.get(key, key)
    if isinstance(key, tuple):
        return tuple(_with_names(part, names) for part in key)
    return key
