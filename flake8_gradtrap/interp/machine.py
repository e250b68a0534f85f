"""The abstract run of one file: what is run, in which order, and on which arguments."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from flake8_gradtrap.events import (
    ClassEnded,
    Cleared,
    Constructed,
    FileEnded,
    IteratorMade,
    Produced,
    RunEnded,
    Site,
    Thing,
    WholeClass,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.calls import LOSS_FUNCTIONS
from flake8_gradtrap.interp.core import CHOSEN, REQUIRES_GRAD, OverBudget, says_what_gets_gradients
from flake8_gradtrap.interp.liveness import Liveness
from flake8_gradtrap.interp.methods import Methods
from flake8_gradtrap.interp.project import Module
from flake8_gradtrap.interp.registration import MODULES
from flake8_gradtrap.interp.state import Frame, State
from flake8_gradtrap.interp.values import TRUE, Class, Const, Func, Iterator, Listing, Mapping, Ref, Sym, Thingy, Value
from flake8_gradtrap.rule import Rule
from flake8_gradtrap.source import TopLevel
from flake8_gradtrap.traits import KEEPS_SEVERAL, OF_CLASSES, REGISTERS

ROOT_BUDGET = 40_000
"""So many steps (expressions and statements evaluated) a root may take, and half as many again at module level: about
half a second.
"""

FILE_BUDGET = 8 * ROOT_BUDGET
"""So many steps all roots of a file may take; the roots that are left then are counted as over budget."""

ONE_SHOT_NAMES = frozenset(
    {"parameters", "params", "named_parameters", "named_params", "param_iter", "model_parameters", "model_params"}
)
_TRAINING = frozenset(
    "backward manual_backward zero_grad clip_grad_norm_ clip_grad_value_ GradScaler parameters named_parameters "
    "optimizer".split()
)
"""Words of functions whose callers are run, too."""

_DRIVING = _TRAINING - {"parameters", "named_parameters"}
"""Words of modules whose makers are run, too: they train themselves."""

_SWITCHES = frozenset({"no_grad", "inference_mode", "set_grad_enabled"})
"""Words of functions that turn gradients off for what they call."""
_WALKS = frozenset({"backward", "manual_backward", "autograd"})
"""Words of functions that need gradients."""
_PROMISES = LOSS_FUNCTIONS | {"forward", "training_step"}
"""Functions that say by their name that what they return goes backward one day."""
_FLAGS = frozenset({type(None), bool})
_ONE_SHOT_TYPES = ("Iterable", "Iterator", "Generator", "_tensor_or_tensors")
_ONE_SHOT_WORDS = ONE_SHOT_NAMES.union(_ONE_SHOT_TYPES)


@dataclass(slots=True)
class Tally:
    """What an abstract run did."""

    functions_run: int = 0
    over_budget: list[str] = field(default_factory=list)
    """The names of functions that were given up."""
    steps: int = 0


class Machine(Methods):
    """Runs a file: its module level, then every function and class that matters and that nothing has entered yet."""

    def __init__(
        self, module: Module, rules: Sequence[type[Rule]], words: frozenset[str], budget: int = ROOT_BUDGET
    ) -> None:
        super().__init__(module, rules, budget)
        self.words = words
        self.root_words, self.root_pairs, self.promised_words = _starting(tuple(rules))
        self.rules = rules
        self.tally = Tally()
        self.base = State()
        self.handed_on: set[int] = set()
        """Functions made within others that nothing visible calls."""
        self.ran: list[tuple[Class, Value, State]] = []
        """The classes whose methods were run, the object on which they were, and its constructor's path."""

    def run(self) -> None:
        parts = self.module.source.toplevel
        relevant = self._relevant(parts)
        sides = self._one_shot(parts)
        if not relevant and not sides:
            return
        self._module_level(parts, relevant.union(sides))
        definitions = [part for part in parts if part.kind in ("function", "class") and part in relevant]
        for part in self._callers_first(definitions, parts):
            value = self.module.lookup(part.name)
            if isinstance(value, Func):
                if value.ident not in self.entered:
                    self._guarded(part.name, lambda value=value: self._function(value))
            elif isinstance(value, Class):
                self._class(value)
        self._closures()
        for part in sides:
            value = self.module.lookup(part.name)
            if isinstance(value, Func):
                self._definition_side(value, None)
            elif isinstance(value, Class):
                for method in self.methods(value).values():
                    self._definition_side(None, (method, value))
        if self.hears(FileEnded):
            self.emit(self._file_ended(parts, relevant), self.base)

    # -- what matters -------------------------------------------------------------------------------------------------

    def _relevant(self, parts: Iterable[TopLevel]) -> set[TopLevel]:
        """The parts in which a finding can come to its end, and those that call them."""
        parts = list(parts)
        found = {part for part in parts if part.kind != "import" and self._starts_in(part)}
        # Callers give context: arguments, gradient mode. A model and its factories need none.
        names = {
            part.name
            for part in found
            if part.name and not part.mentions.isdisjoint(_DRIVING if self._is_module(part) else _TRAINING)
        }
        evaluated = {part.name for part in found if part.kind == "function"}
        found |= self._with_frozen(parts, found)
        changed = True
        while changed:
            changed = False
            for part in parts:
                if part in found or part.kind == "import":
                    continue
                if part.mentions & names or (part.mentions & evaluated and part.mentions & _SWITCHES):
                    found.add(part)
                    if part.name:
                        names.add(part.name)
                        changed = True
        return found

    def _with_frozen(self, parts: Sequence[TopLevel], known: set[TopLevel]) -> set[TopLevel]:
        """The ways into functions that evaluate, if on them something of the project is made that freezes networks:
        whether a forward records a graph depends on that.
        """
        found = {part for part in known if part.kind == "function" and "eval" in part.mentions}
        ways = found
        while ways:
            names = {part.name for part in ways if part.name}
            ways = {part for part in parts if part.kind != "import" and part not in found and part.mentions & names}
            found = found | ways
        mentioned = frozenset[str]().union(*(part.mentions for part in found - known))
        return found if any(map(self._freezes, mentioned)) else set()

    def _freezes(self, name: str) -> bool:
        """Whether a name at module level is a class or function that says which of its parameters get gradients."""
        if name not in self.module.imports and name not in self.module.definitions:
            return False
        value = self.module.lookup(name)
        if isinstance(value, Class):
            contents = value.module.definitions.get(value.name)
            return contents is not None and not contents.mentions.isdisjoint(REQUIRES_GRAD)
        return isinstance(value, Func) and says_what_gets_gradients(value)

    def _one_shot(self, parts: Iterable[TopLevel]) -> list[TopLevel]:
        """The definitions that may have a parameter for a one-shot iterator."""
        if not any(rule.code == "GTR103" for rule in self.rules):
            return []
        parts = [part for part in parts if part.name and not part.mentions.isdisjoint(_ONE_SHOT_WORDS)]
        return [part for part in parts if any(_takes_one_shot(node.args) for node in part.functions)]

    def _needed(self, parts: Iterable[TopLevel], relevant: set[TopLevel]) -> list[TopLevel]:
        """The module level as far as it matters, leads to what does, or touches a name that such code reads."""
        reaching = {part.name for part in relevant if part.name}
        leading: set[TopLevel] = set()
        while more := {part for part in parts if part not in leading and not part.mentions.isdisjoint(reaching)}:
            leading |= more
            reaching |= {part.name for part in more if part.name}
        codes = [part for part in parts if part.kind == "code"]
        words = self.words | {"exec"}  # it may set any name
        needed = {part for part in codes if part in leading or not part.mentions.isdisjoint(words)}
        read = frozenset[str]().union(*(part.mentions for part in relevant | needed))
        while more := {part for part in codes if part not in needed and not part.touches.isdisjoint(read)}:
            needed |= more
            read = read.union(*(part.mentions for part in more))
        return [part for part in codes if part in needed]

    @cached_property
    def _keeping(self) -> frozenset[str]:
        """The classes of the file that put new objects on an attribute in a plain container, if a rule asks."""
        if KEEPS_SEVERAL not in self.root_words:
            return frozenset()
        parts = self.module.source.toplevel
        return frozenset(part.name for part in parts if part.kind == "class" and KEEPS_SEVERAL in part.mentions)

    def _registers_for_base(self, name: str, mentions: frozenset[str]) -> bool:
        """Whether a class registers something and mentions another one that keeps something: perhaps it is its base."""
        return REGISTERS in mentions and not mentions.isdisjoint(self._keeping - {name})

    def _starts_in(self, part: TopLevel) -> bool:
        if part.kind != "class":
            return self._starts(part.mentions - OF_CLASSES)
        if self._registers_for_base(part.name, part.mentions):
            return True
        if not self._starts(part.mentions):
            return False
        if any(self._starts(mentions - OF_CLASSES, part.mentions) for mentions in part.methods.values()):
            return True
        return self._is_module(part) and any(
            self._starts(mentions, part.mentions) for mentions in part.methods.values()
        )

    def _is_module(self, part: TopLevel) -> bool:
        cls = self.module.lookup(part.name) if part.kind == "class" else None
        return isinstance(cls, Class) and self.class_kind(cls) in MODULES

    def _starts(self, mentions: frozenset[str], around: frozenset[str] = frozenset()) -> bool:
        """Whether what is mentioned is a reason to start a run, or for a loss function, one to see what it returns.

        `around`: what the class of a method mentions.
        """
        promising = not mentions.isdisjoint(_PROMISES) and not mentions.isdisjoint(self.promised_words)
        return (
            promising
            or not mentions.isdisjoint(self.root_words)
            or any(
                not mentions.isdisjoint(roots) and not (mentions.isdisjoint(needs) and around.isdisjoint(needs))
                for roots, needs in self.root_pairs
            )
        )

    @staticmethod
    def _callers_first(definitions: Sequence[TopLevel], parts: Iterable[TopLevel]) -> list[TopLevel]:
        """Definitions that no other definition mentions come first: what they call is entered with real arguments."""
        mentioned: set[str] = set()
        for part in parts:
            mentioned |= part.mentions - {part.name}
        free = [part for part in definitions if part.name not in mentioned]
        rest = [part for part in definitions if part.name in mentioned]
        done: list[TopLevel] = list(free)
        while rest:
            waiting: set[str] = set()
            for part in rest:
                waiting |= part.mentions - {part.name}
            ready = [part for part in rest if part.name not in waiting] or rest[:1]
            done += ready
            rest = [part for part in rest if part not in ready]
        return done

    # -- running ------------------------------------------------------------------------------------------------------

    def _guarded(self, name: str, work: object) -> bool:
        """Run within the budget; a run that exceeds it is dropped and noted, and tells nothing. False then."""
        self.tally.functions_run += 1
        if self.tally.steps > FILE_BUDGET:
            self.tally.over_budget.append(name)
            return False
        self.steps = 0
        self.outermost = (0, 0)
        self.runs += 1
        self.began = self.counter
        self.merger.narrow = self.merger.single = False
        self.merger.apart.clear()
        self.merger.remembering.clear()
        self.idle.clear()
        self.helped = 0
        self.limit = math.inf
        entered, reports = set(self.entered), dict(self.reports)
        waiting = self.waiting()
        try:
            work()  # type: ignore[operator]
        except (OverBudget, RecursionError):
            self.tally.over_budget.append(name)
            self.entered = entered  # what was entered may still be run by itself
            self.reports = reports
            self.take_back(waiting)
            if self.outermost[1] < self.steps // 2:
                self.entered.add(self.outermost[0])  # but this one would fail again: it took the most part of the steps
            return False
        finally:
            self.tally.steps += self.steps
        return True

    def give_up(self) -> None:
        """End the run at its next step, and start no other function. Another thread may call this."""
        self.budget = -1
        self.tally.steps = FILE_BUDGET + 1

    def let_go(self) -> None:
        """Take the run apart: what it has made goes in circles, and is found only by a search for garbage otherwise."""
        budget, tally = self.budget, self.tally
        self.__dict__.clear()
        self.budget, self.tally = budget, tally  # somebody may still tell it to give up

    def _module_level(self, parts: Iterable[TopLevel], relevant: set[TopLevel]) -> None:
        self.base.put_names(0, {})
        self.base.frames = (Frame(0),)
        codes = self._needed(parts, relevant)
        if not codes:
            return
        ran = [self.base.fork()]

        def work() -> None:
            nonlocal ran
            read = frozenset(name for part in parts if part.kind != "code" for name in part.mentions)
            self.liveness[0] = Liveness([statement for part in codes for statement in part.slice.statements], read)
            for part in codes:
                ends = self.exec_block(part.slice.statements, ran)
                ran = self.merger.merge([path for path, signal, _ in ends if signal != "raise"])
                if part is not codes[-1] and ran:
                    self.base = ran[0].fork()
            for path in ran:
                self.emit(RunEnded(Site(_last(codes))), path)

        budget = self.budget
        self.budget += budget // 2  # else what it calls would be run again, without what it is called with
        passed = self._guarded("<module>", work)
        self.budget = budget
        if passed and ran:
            self.base = ran[0].fork()
        self.base.mem = {}
        self.base.conds = {
            key: value for key, value in self.base.conds.items() if isinstance(key, tuple) and key[0] == "captured"
        }
        self.base.mode = True
        self.base.stamp = ()
        self.base.frames = (Frame(0),)

    def _arguments(self, func: Func, st: State, assumed: bool = False) -> dict[str, Value]:
        env: dict[str, Value] = {}
        params = func.node.params
        if func.receiver is not None and params:
            env[params[0].name] = func.receiver
            params = params[1:]
        for param in params:
            if param.kind == "starstar":
                env[param.name] = self.new(Mapping((), False), st)
            elif param.kind == "star":
                env[param.name] = self.new(Listing(None, self.unknown(param.name, "param"), shape="tuple"), st)
            elif assumed and self._assumable(param, func):
                env[param.name] = self._assumed(param, func, st)
            else:
                env[param.name] = self.unknown(param.name, "param")
                if isinstance(param.default, ir.Const) and isinstance(param.default.value, int | float):
                    self.data.add(env[param.name])  # a setting: no gradient goes through it
        return env

    def _assumable(self, param: ir.Param, func: Func) -> bool:
        """Whether an argument may be one-shot; its name alone does not say so where all visible callers pass lists, or
        where it is documented as one.
        """
        if not _may_be_one_shot(param) or param.annotation is not None:
            return _may_be_one_shot(param)
        if _documented_as_list(func.node, param.name):
            return False
        kinds = self.handed_kinds.get((func.ident, param.name), set())
        return not kinds <= {"list", "tuple"} if kinds else not self._called_unseen(func)

    def _called_unseen(self, func: Func) -> bool:
        """Whether all callers of a private function are in its file, and none of their calls was run."""
        name = getattr(func.node, "name", "")
        if not name.startswith("_") or name.startswith("__"):
            return False
        parts = self.module.source.toplevel
        methods = ((inner, mentions) for part in parts for inner, mentions in part.methods.items())
        functions = ((part.name, part.mentions) for part in parts if part.kind == "function")
        return any(name in mentions and caller != name for caller, mentions in (*methods, *functions))

    def _assumed(self, param: ir.Param, func: Func, st: State) -> Value:
        """An argument that may be a one-shot iterator, as its name or annotation says."""
        site = Site(func.node)
        of_parameters = "param" in param.name
        item = self.parameter_item(None, site, st) if of_parameters else None
        it = self.new(Iterator(f"the argument `{param.name}`", (), item, of_parameters, None, site), st)
        how = f"the argument `{param.name}`"
        weak = not of_parameters and _of_other_things(param.annotation or "")
        iterable = not of_parameters and re.search(r"\bIterable\b", param.annotation or "") is not None
        thing = Thing(it, param.name)
        self.emit(IteratorMade(site, thing, how, of_parameters, assumed=True, weak=weak, iterable=iterable), st)
        return it

    def root(self, func: Func, st: State, assumed: bool = False) -> list[State]:
        """Run a function that nothing visible calls, on unknown arguments."""
        node = func.node
        assert isinstance(node, ir.FunctionDef)
        st.mode = self._root_mode(func, st)
        env = self._arguments(func, st, assumed)
        if node.is_generator:
            results = self.run_generator(func, tuple(env.items()), node, st)
        else:
            results = self._activate(func, env, None, st)
        return [path for _, path in results]

    def _root_mode(self, func: Func, st: State) -> bool | None:
        """Gradients are on where a function trains or promises a gradient; elsewhere its callers decide."""
        node = func.node
        assert isinstance(node, ir.FunctionDef)
        if node.name in ("forward", "training_step", "__init__") or "loss" in node.name:
            return True
        if "set_grad_enabled" in node.mentions and any(map(_turns_gradients_on, node.body)):
            return None  # they may be off before: else why turn them on?
        cls = self._class_of(func.receiver, st) if func.receiver is not None else None
        lineage = self.lineage(cls) if cls is not None else []
        words = _WALKS | func.module.names_that_matter(_WALKS)
        words = words.union(*(base.module.names_that_matter(_WALKS) for base in lineage if isinstance(base, Class)))
        return None if node.mentions.isdisjoint(words) else True

    def _function(self, func: Func) -> None:
        for path in self.root(func, self.base.fork()):
            self.emit(RunEnded(Site(func.node)), path)

    def _closures(self) -> None:
        """Run what was made within a function and handed to code out of sight, as a trainer's step is."""
        for func, st in list(self.closures.values()):
            node = func.node
            if func.ident in self.entered or func.module is not self.module or not isinstance(node, ir.FunctionDef):
                continue
            if not self._starts(node.mentions - OF_CLASSES):
                continue
            st.mem = {}
            st.stamp = ()
            self.handed_on.add(func.ident)
            self._guarded(node.name, lambda func=func, st=st: self._closure(func, st))

    def _closure(self, func: Func, st: State) -> None:
        for path in self.root(func, st):
            self.emit(RunEnded(Site(func.node)), path)

    def _class(self, cls: Class) -> None:
        kind = self.class_kind(cls)
        if kind in ("optimizer", "scheduler", "function", "dataset", "scaler"):
            return  # what they do to gradients is their business
        methods = self._runnable(cls)
        without = frozenset() if kind in MODULES else OF_CLASSES
        bases = frozenset(base.name for base in self.lineage(cls)[1:] if isinstance(base, Class))
        registers = any(self._registers_for_base(cls.name, method.mentions | bases) for method, _ in methods)
        around = frozenset[str]().union(*(method.mentions for method, _ in methods))
        if not registers and not any(self._starts(method.mentions - without, around) for method, _ in methods):
            return
        starts: list[State] = []
        instance: Value = Ref(0)

        def construct() -> None:
            nonlocal starts, instance
            st = self.base.fork()
            instance = self.new(Thingy(kind, cls, None, cls.name), st)
            found = self.find_method(cls, "__init__")
            starts = [st]
            if found is not None:
                bound = self.bind_method(*found, instance, st)
                if isinstance(bound, Func):
                    paths = self.root(bound, st.fork())
                    _note_choices(instance, paths)
                    starts = _unlike(paths) or [st]
            if self.hears(Constructed):
                for start in starts:
                    self.emit(self.constructed(cls, instance, start), start)

        if not self._guarded(cls.name, construct) or not starts:
            st = self.base.fork()
            instance = self.new(Thingy(kind, cls, None, cls.name), st)
            starts = [st]
        for start in starts:
            self._loosen(cls, instance, start)
        self.ran.append((cls, instance, starts[0]))
        for method, owner in self._methods_callers_first(methods, around):
            if id(method) in self.entered or method.name == "__init__":
                continue
            for start in starts:
                self._guarded(
                    f"{cls.name}.{method.name}",
                    lambda start=start, method=method, owner=owner: self._method(instance, method, owner, start),
                )
        if self.hears(ClassEnded):
            self.emit(self.class_ended(cls, instance), self.base)

    def _loosen(self, cls: Class, instance: Value, st: State) -> None:
        """Forget the None and the flags that the constructor leaves where something else may put another value."""
        held = st.overlay.get(instance, {})
        placeholders = {name for name, value in held.items() if isinstance(value, Const) and value.type in _FLAGS}
        if placeholders:
            files = {base.module.source for base in self.lineage(cls) if isinstance(base, Class)}
            op = "member" if self.kind(instance, st) == "module" else "attr"
            for name in placeholders & frozenset[str]().union(*(file.rebound for file in files)):
                st.set_attr(instance, name, Sym(op, (instance, name), str(name)))  # else a call of it is a method's

    def _file_ended(self, parts: Iterable[TopLevel], relevant: set[TopLevel]) -> FileEnded:
        """The event, with what is known of the classes that were run, and with what was not run."""
        unrun = [part.mentions for part in parts if part.kind == "function" and not self._was_run(part)]
        for part in parts:
            if part.kind == "class" and part not in relevant:
                unrun.extend(part.methods.values())
        given_up = {name.partition(".")[0] for name in self.tally.over_budget}
        unrun += [part.mentions for part in parts if part.name in given_up or "<module>" in given_up]
        called = self.entered - self.handed_on  # nobody knows when those are called
        unrun += [ir.mentions(node) for ident, node in self.inner.items() if ident not in called]
        classes = []
        for cls, instance, st in self.ran:
            for method, _ in self._runnable(cls):
                if id(method) not in self.entered and method.name != "__init__":
                    unrun.append(method.mentions)
            made = tuple(
                Thing(value, f"self.{name}")
                for name, value in st.overlay.get(instance, {}).items()
                if isinstance(value, Ref) and value != instance
            )
            classes.append(WholeClass(self.thing(instance), made, self.seen_whole(cls)))
        return FileEnded(Site(self.module.path), tuple(classes), tuple(unrun))

    def _was_run(self, part: TopLevel) -> bool:
        value = self.module.known(part.name)
        return isinstance(value, Func) and value.ident in self.entered

    def _runnable(self, cls: Class) -> list[tuple[ir.FunctionDef, Class]]:
        """The methods of a class, and those that it inherits from other files."""
        found = [(method, cls) for method in self.methods(cls).values()]
        names = {method.name for method, _ in found}
        for base in self.lineage(cls)[1:]:
            if isinstance(base, Class) and base.module is not cls.module:
                for method in self.methods(base).values():
                    if method.name not in names:
                        names.add(method.name)
                        found.append((method, base))
        return found

    def _methods_callers_first(
        self, methods: Sequence[tuple[ir.FunctionDef, Class]], around: frozenset[str]
    ) -> list[tuple[ir.FunctionDef, Class]]:
        kept = any(KEEPS_SEVERAL in method.mentions for method, _ in methods)  # what is registered elsewhere matters
        relevant = [
            pair
            for pair in methods
            if self._starts(pair[0].mentions, around) or (kept and REGISTERS in pair[0].mentions)
        ]
        names = {method.name for method, _ in relevant}
        # A forward keeps no parts of the module, whatever it is that makes some.
        beyond = {method.name for method, _ in relevant if self._starts(method.mentions - OF_CLASSES, around)}
        callers = [
            pair
            for pair in methods
            if pair not in relevant
            and pair[0].mentions & (beyond if pair[0].name.startswith("forward") else names)
            and pair[0].name != "__init__"
        ]
        everything = callers + relevant
        called = {name for method, _ in everything for name in method.mentions - {method.name}}
        return [p for p in everything if p[0].name not in called] + [p for p in everything if p[0].name in called]

    def _method(self, instance: Value, method: ir.FunctionDef, owner: Class, start: State) -> None:
        bound = self.bind_method(method, owner, instance, start)
        paths = self.root(bound, start.fork())
        for path in paths[:3]:
            if self._keeps_iterator(instance, path):
                # It may be called again on the same object; gradients may have been cleared in between.
                self.emit(Cleared(Site(method), None, None), path)
                for after in self.root(bound, path.fork()):
                    self.emit(RunEnded(Site(method), True, self.thing(instance)), after)
        for path in paths:
            self.emit(RunEnded(Site(method), True, self.thing(instance)), path)

    @staticmethod
    def _keeps_iterator(instance: Value, st: State) -> bool:
        for value in st.overlay.get(instance, {}).values():
            record = st.record(value)
            if isinstance(record, Iterator) and not record.endless:
                return True
        return False

    def _definition_side(self, func: Func | None, method: tuple[ir.FunctionDef, Class] | None) -> None:
        """Run a function as if its caller had handed it a one-shot iterator: only GTR103 listens then."""
        node = func.node if func is not None else method[0] if method is not None else None
        protocol = self.module.protocol  # `params.learning_rate`: settings
        if (
            not isinstance(node, ir.FunctionDef)
            or node.is_generator
            or self._gets_fixtures(node)
            or not any(_may_be_one_shot(param) and not protocol.get(param.name) for param in node.params)
        ):
            return
        self.assumed_runs = True
        try:
            st = self.base.fork()
            bound: Value | None = func
            if method is not None:
                instance = self.new(Thingy(self.class_kind(method[1]), method[1], None, method[1].name), st)
                bound = self.bind_method(*method, instance, st)
            if isinstance(bound, Func):
                target = bound

                def work() -> None:
                    for path in self.root(target, st, assumed=True):
                        self.emit(RunEnded(Site(node)), path)

                self._guarded(node.name, work)
        finally:
            self.assumed_runs = False

    def _gets_fixtures(self, node: ir.FunctionDef) -> bool:
        """Whether pytest calls a function, with what the fixtures of these names return."""
        return node.name.startswith("test_") or any("fixture" in self.label(one) for one in node.decorators)


@cache
def _starting(
    rules: tuple[type[Rule], ...],
) -> tuple[frozenset[str], tuple[tuple[frozenset[str], frozenset[str]], ...], frozenset[str]]:
    """Words that are a reason to start a run: alone; one of these beside one of those; in what promises a loss, since a
    rule looks at what that returns.
    """
    starting: dict[frozenset[str], frozenset[str]] = {}
    for rule in rules:
        needs = frozenset(rule.needs)
        starting[needs] = starting.get(needs, frozenset()).union(rule.words if rule.roots is None else rule.roots)
    alone = starting.pop(frozenset(), frozenset())
    promised = frozenset(
        word for rule in rules if not rule.needs and Produced in dict(rule.handlers()) for word in rule.words
    )
    return alone, tuple((roots, needs) for needs, roots in starting.items()), promised


def _unlike(paths: list[State]) -> list[State]:
    """The first of several paths, and the one that assumes most otherwise: three would take a tenth more time."""
    if len(paths) < 3:
        return paths
    first, rest = paths[0], paths[1:]
    return [first, max(rest, key=lambda path: sum(first.conds.get(key) != fact for key, fact in path.conds.items()))]


def _note_choices(instance: Value, paths: list[State]) -> None:
    """Mark the parts of an instance that a setting chooses, if another choice of it cannot be seen."""
    held = [path.overlay.get(instance, {}) for path in paths]
    for name in frozenset[Hashable]().union(*held) if len(paths) > 1 else ():
        values = [attributes.get(name) for attributes in held]
        if any(isinstance(value, Sym) for value in values):
            for path, value in zip(paths, values, strict=True):
                if isinstance(value, Ref):
                    path.set_attr(value, CHOSEN, TRUE)


def _turns_gradients_on(statement: ir.Statement) -> bool:
    """Whether a statement is `torch.set_grad_enabled(True)`."""
    call = statement.value if isinstance(statement, ir.ExprStmt) else None
    return (
        isinstance(call, ir.Call)
        and isinstance(call.func, ir.Attr)
        and call.func.attr == "set_grad_enabled"
        and [arg.value.value for arg in call.args if isinstance(arg.value, ir.Const)] == [True]
    )


def _takes_one_shot(arguments: ast.arguments) -> bool:
    return any(
        _one_shot(arg.arg, None if arg.annotation is None else ast.unparse(arg.annotation))
        for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    )


def _may_be_one_shot(param: ir.Param) -> bool:
    return param.kind not in ("star", "starstar") and _one_shot(param.name, param.annotation)


def _documented_as_list(node: ir.Node, name: str) -> bool:
    """Whether the docstring gives a parameter the type of a list: in the ways of NumPy, Google and Sphinx."""
    definition = node.origin
    text = ast.get_docstring(definition) if isinstance(definition, ast.FunctionDef) else None
    if text is None:
        return False
    ways = rf"{name}\s*(?::|\()\s*|:type\s+{name}\s*:\s*|:param\s+(?=\w+\s+{name}\s*:)"
    found = re.search(rf"^\s*(?:{ways})((?:list|tuple|sequence)\b.*)", text, re.MULTILINE | re.IGNORECASE)
    return found is not None and re.search(r"iter|generator", found[1], re.IGNORECASE) is None


def _one_shot(name: str, annotation: str | None) -> bool:
    """Whether a parameter's annotation, or without one its name, says that it may be a one-shot iterator."""
    if annotation is not None:
        text = annotation.strip("\"'")
        outer = text.partition("[")[0].rpartition(".")[2]
        return outer in _ONE_SHOT_TYPES or ("Iterable[" in text and outer in ("Union", "Optional"))
    return name in ONE_SHOT_NAMES


def _of_other_things(annotation: str) -> bool:
    """Whether an annotation promises any iterable, and elements that are plainly not what is trained or trained on."""
    found = re.search(r"\bIterable\[(.+)\]", annotation)
    return found is not None and re.search(r"tensor|param|module|batch|array|any", found[1], re.IGNORECASE) is None


def _last(codes: Sequence[TopLevel]) -> ir.Node:
    statements = codes[-1].slice.statements
    return statements[-1] if statements else ir.Pass()
