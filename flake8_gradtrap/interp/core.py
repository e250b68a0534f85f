"""What all parts of the abstract run share: making things, naming them, typing unknowns, and emitting events."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Differentiated,
    Escaped,
    Event,
    ModeSet,
    OptimizerMade,
    Owners,
    ScalerUpdated,
    Site,
    Stepped,
    Thing,
    Unscaled,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.knowledge import knowledge
from flake8_gradtrap.interp.liveness import Liveness
from flake8_gradtrap.interp.merging import Merger
from flake8_gradtrap.interp.pathwatch import PathWatch, Report
from flake8_gradtrap.interp.project import Module
from flake8_gradtrap.interp.provenance import Graph, Provenance
from flake8_gradtrap.interp.state import Frame, State
from flake8_gradtrap.interp.values import (
    TRUE,
    Class,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Method,
    Record,
    Ref,
    Stamp,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
    named_loss,
    setting,
)
from flake8_gradtrap.rule import Rule

_PLAIN_IN_FORWARD = frozenset({"backward", "loss", "losses", "criterion", "math", "tensor", "params", "next", "scaler"})
"""Words that are common in the `forward` of ordinary models, and no reason to run it."""

_ACTS = (Backpropagated, Cleared, Clipped, Differentiated, OptimizerMade, ScalerUpdated, Stepped, Unscaled)
"""What happens to gradients: a helper that does it is entered each time."""

_WALKS = frozenset({"backward", "manual_backward", "autograd", "zero_grad"})
"""Words of a `forward` that does more than to compute."""

_ACTING = re.compile(r"backward|step|optim|minimi|train(?!ed)|fit|clear|zero|engine|update", re.IGNORECASE)
"""What something is called that may do more, when a `forward` hands a loss to it."""

TRAINED = frozenset({"module", "optimizer", "scaler", "lossfn"})
"""Kinds of things that take part in training."""

KEEPS = re.compile(
    r"(^|_)(ckpt|checkpoint|snapshot)(s|er|ing)?(_(manager|mgr|handler|saver|keeper|io))?$"
    r"|^(maybe_)?(save|dump|log|print|write|record|plot|evaluate|validate|valid|test|generate|sample)(_|$)"
    r"|^eval(_|$)|checkpoint$|^state_dict$|^from_pretrained$"
)
"""Names of functions that write things down or measure them, by convention: they leave gradients alone."""

_SAVES = re.compile(r"^_*(maybe_)?(save|dump|checkpoint)(_|$)", re.IGNORECASE)
"""What a function is called that writes things to a file."""

_METRIC = re.compile(
    r"(^|[._])((compute|calc|get)_)?(metrics?|accuracy|accuracies|acc|score)(_(fn|func))?$", re.IGNORECASE
)
"""What a function is called that measures predictions: whatever it gets, it leaves gradients alone."""

AVERAGES = re.compile(r"(^|[._])(ema|swa|moving_averages?)([._]|$)", re.IGNORECASE)
"""What keeps a running average of parameters is called so: it reads parameters, and leaves gradients alone."""

MEASURES = re.compile(
    r"(^|_)(meters?|metrics?|tracker|logger|averager?|stats|pbar|progress(_bar)?|monitor|history|writer)$",
    re.IGNORECASE,
)
"""What keeps numbers is called so: it has no use for a loss but its value."""

_KINDS: dict[type[Value], str] = {Const: "const", Tup: "tuple", Func: "function", Method: "function", Class: "class"}
"""What values of these types are, whatever they hold."""

_NO_LOSS = frozenset({"forward", "pass", "leaf", "data", "hard", "detach"})
"""Operations of which a loss is hardly the result."""

HARMLESS = (
    "builtins.",
    "os.",
    "logging.",
    "weakref.",
    "gc.",
    "time.",
    "json.",
    "math.",
    "random.",
    "numpy.",
    "wandb.",
    "pathlib.",
    "shutil.",
    "sys.",
    "matplotlib.",
    "torch.save",
    "torch.distributed.",
)
"""Libraries and functions that do nothing to gradients."""

REQUIRES_GRAD = frozenset({"requires_grad", "requires_grad_"})
"""Words of what says which parameters, or which inputs, get gradients."""

CHOSEN = ("one of several",)
"""What is noted of a part of an instance that a setting chooses, where another choice cannot be seen."""

NAMED_PARTS = ("parts that have a name",)
"""What is noted of a `ModuleList` or `Sequential`: the modules in it that are used by another name, too."""

OPERAND_PATHS = 16
"""Of more paths than these the parts of one expression are merged: ten choices in a dict would make a thousand."""
Results = list[tuple[Value, State]]


End = tuple[State, str, Value | None]
"""A path, how it left the block ("" at its end, "break", "continue", "return", "raise"), and what it returned."""


class OverBudget(Exception):
    """A run took more steps than it may."""


class Stalled(Exception):
    """A call took more steps than a helper may."""


class Dead(Exception):
    """The path ends here: the program raises for certain."""


@dataclass(slots=True)
class Args:
    """The arguments of a call: positional ones, keywords, and whether more came through `*` or `**`."""

    pos: list[Value] = field(default_factory=list)
    kw: dict[str, Value] = field(default_factory=dict)
    more: bool = False

    def get(self, index: int, *names: str) -> Value | None:
        if 0 <= index < len(self.pos):
            return self.pos[index]
        for name in names:
            if name in self.kw:
                return self.kw[name]
        return None

    def all(self) -> list[Value]:
        return [*self.pos, *self.kw.values()]


def says_what_gets_gradients(func: Func) -> bool:
    """Whether a function freezes parameters, or thaws them."""
    return not ir.mentions(func.node).isdisjoint(REQUIRES_GRAD)


def clips_by_name(st: State) -> bool:
    """Whether a function that runs is called a clip: what it multiplies gradients by is there to limit them."""
    return any(frame.func is not None and "clip" in getattr(frame.func.node, "name", "") for frame in st.frames)


def _leaves_alone(frame: Frame) -> bool:
    """Whether a module's `forward` runs, which computes something, or a function that saves something, as its name
    says: what it calls does not clear, step or go backward.
    """
    func = frame.func
    if func is None or not isinstance(func.node, ir.FunctionDef) or not func.node.mentions.isdisjoint(_WALKS):
        return False
    return (func.node.name == "forward" and func.owner is not None) or _SAVES.search(func.node.name) is not None


class Core:
    """State and services of one abstract run over one file; the other parts of the machine inherit from it."""

    def __init__(self, module: Module, rules: Sequence[type[Rule]], budget: int) -> None:
        self.module = module
        self.know = knowledge()
        self.budget = budget
        self.entry_words = frozenset(word for rule in rules for word in rule.words)
        """Visible functions that mention one of these are entered."""
        self.forward_words = self.entry_words - _PLAIN_IN_FORWARD
        self.steps = 0
        self.counter = 0
        self.reports: dict[tuple[str, int], Report] = {}
        self.failures: list[tuple[str, Site, str]] = []
        self.handed_out: set[Value] = set()
        """What a method out of sight handed out of something: parts of a model that has another name."""
        self.likely: set[Value] = set()
        """Unknowns that unknown code computed from something with history."""
        self.kinds: dict[Value, str] = {}
        """The kinds of unknowns that are known by where they come from: a module's submodule."""
        self._kinds_of_names: dict[str, tuple[str, str]] = {}
        """For a name, the kind of thing that is called so in this file, and anywhere."""
        self.handed_kinds: dict[tuple[int, str], set[str]] = {}
        """For each parameter of a function that was called visibly, the kinds of its arguments."""
        self.modeless: set[Value] = set()
        """Unknowns that are one of several modules, all of which do the same in training as in evaluation."""
        self.data: set[Value] = set()
        """Unknowns that come from a data loader."""
        self.plain_contexts: set[Value] = set()
        """Unknowns that are contexts which leave gradients as they are: `nullcontext()`."""
        self.optimized = False
        """Whether an optimizer was made."""
        self.inferring = False
        """Whether the run has been within `inference_mode`."""
        self.gradients_read = False
        """Whether the program has read any `.grad`."""
        self.inference: dict[Value, Site] = {}
        """The tensors that were made there, and where."""
        self.begun: dict[Stamp, int] = {}
        """How many things were made when an iteration began."""
        self.over_parts: set[Hashable] = set()
        """Loops that go over models or optimizers."""
        self.over_few: set[Hashable] = set()
        """Loops over the few things that are written where they begin."""
        self.parameters_of: dict[Value, Value] = {}
        """For an iterator over parameters, what was asked for them."""
        self.loaded: set[Value] = set()
        """What `torch.load` returned."""
        self.entered: set[int] = set()
        """Functions that were run by a visible call (or as a root)."""
        self.inner: dict[int, ir.FunctionDef | ir.Lambda] = {}
        """The functions and lambdas that were made within others."""
        self.closures: dict[int, tuple[Func, State]] = {}
        """Those of them that matter, and the path on which each was made first."""
        self.merger = Merger(self)
        self.liveness: dict[int, Liveness] = {}
        self.runs = 0
        """How many roots were run so far."""
        self.began = 0
        """The last identity that was given before the root that is running."""
        self.at = 0
        """The statement or expression that is evaluated, by its identity."""
        self.statement = 0
        """The expression that is a statement by itself, by its identity."""
        self.unread = 0
        """The expression of whose value only the shape is asked, or nothing (`_ = …`), by its identity."""
        self.comprehending = 0
        """How many comprehensions are being run, one in the other."""
        self.born: dict[tuple[Hashable, ...], list[int]] = {}
        """The identities of objects, by where they are made and what they are then."""
        self.outermost = (0, 0)
        """The root, or the function that the module level called last, and the steps that were taken until then."""
        self.limit: float = math.inf
        """The step at which the innermost helper is left."""
        self.helped = 0
        """How many steps helpers have taken."""
        self.stalled: set[int] = set()
        """Helpers that took too many steps."""
        self.dear: set[int] = set()
        """Statements that took many steps on some path."""
        self.idle: dict[int, int] = {}
        """For each function, in how many calls it did nothing to gradients."""
        self.unrecorded: set[Value] = set()
        """What code out of sight returned while gradients were off."""
        self.unentered: set[Value] = set()
        """What visible functions returned that were not entered any more: there are other calls that were."""
        self.plain: set[int] = set()
        """Helpers whose results did not carry a gradient in some call."""
        self.acts = 0
        """How many things were done to gradients so far."""
        self.bodies: dict[int, Callable[[Value, State], list[State]]] = {}
        """What the `yield` of a generator runs that is a context: the block under it, by the generator's names."""
        self.assumed_runs = False
        """Whether the run in progress is one for the definition's side, with arguments that may be one-shot."""
        self._handlers: dict[tuple[str, type], Any] = {}
        """The methods for the kinds of nodes, by what they do."""
        self._listeners: dict[type[Event], list[tuple[str, Any, PathWatch]]] = {}
        self.monitors: list[Rule] = []
        for rule in rules:
            watch, instance = PathWatch(self, rule.code), rule()
            self.monitors.append(instance)
            for kind, method in rule.handlers():
                self._listeners.setdefault(kind, []).append((rule.code, getattr(instance, method), watch))

    # -- making things ------------------------------------------------------------------------------------------------

    def fresh(self) -> int:
        self.counter += 1
        return self.counter

    def new(self, record: Record, st: State) -> Ref:
        """A new object. Paths that make the same thing at the same place name it alike, and can merge afterwards."""
        birth = (
            self.runs,
            self.at,
            tuple([id(frame.call.node) for frame in st.frames if frame.call is not None]),
            record,
        )
        for oid in (names := self.born.setdefault(birth, [])):
            if oid not in st.heap:
                break
        else:
            oid = self.fresh()
            names.append(oid)
        st.heap[oid] = record
        return Ref(oid)

    def unknown(self, name: str = "", op: str = "call") -> Sym:
        return Sym(op, (self.fresh(),), name)

    def make_tensor(self, op: str, parents: tuple[Value, ...], node: ir.Node, st: State, **more: Any) -> Ref:
        more.setdefault("mode", st.mode)
        made = self.new(Tensor(op, parents, self.site(node, st), stamp=st.stamp, **more), st)
        if self.inferring and st.mode is False:
            self.note_inference(made, st)
        if self.gradients_read and op not in ("grad", "hard"):
            self.gradients_used(parents, str(more.get("how", "")), node, st)
        return made

    def provenance(self, st: State) -> Provenance:
        return Provenance(st, self.likely, self.data, self.handed_out, self.unentered)

    # -- places and names ---------------------------------------------------------------------------------------------

    def site(self, node: ir.Node, st: State) -> Site:
        return Site(node, st.frames[-1].call if st.frames else None)

    def line(self, site: Site) -> int:
        node = site.node
        assert isinstance(node, ir.Node)
        return node.unit.places.span(node).row if node.unit is not None else 1

    def label(self, node: ir.Node | None, depth: int = 0) -> str:
        """What the program writes at a node, for messages."""
        if isinstance(node, ir.Name):
            return node.id
        if isinstance(node, ir.Attr):
            return f"{self.label(node.value, depth)}.{node.attr}"
        if isinstance(node, ir.Subscript):
            return f"{self.label(node.value, depth)}[{self.label(node.index, depth)}]"
        if isinstance(node, ir.Const):
            return repr(node.value) if len(repr(node.value)) < 20 else "…"
        if isinstance(node, ir.Call):
            if depth > 1:
                return f"{self.label(node.func, depth)}(…)"
            inner = ", ".join(
                f"{arg.keyword}={self.label(arg.value, depth + 1)}"
                if arg.keyword
                else arg.star + self.label(arg.value, depth + 1)
                for arg in node.args
            )
            return f"{self.label(node.func, depth)}({inner if len(inner) <= 40 else '…'})"
        if isinstance(node, ir.BinOp):
            return f"{self.label(node.left, depth + 1)} {node.op} {self.label(node.right, depth + 1)}"
        if isinstance(node, ir.Starred | ir.Await):
            return self.label(node.value, depth)
        return "…"

    def thing(self, value: Value, node: ir.Node | None = None) -> Thing:
        return Thing(value, self.label(node) if node is not None else getattr(value, "name", ""))

    def with_indices(self, values: Value, source: tuple[Value, ...], how: str, node: ir.Node, st: State) -> Tup:
        """What a selection along a dimension returns: the values, and where they stood, which has no history."""
        return Tup((values, self.make_tensor("hard", source, node, st, how=how)))

    # -- kinds --------------------------------------------------------------------------------------------------------

    def kind(self, value: Value, st: State) -> str:
        """What kind of thing a value is: a record's kind, or what protocol and name say of an unknown."""
        if isinstance(value, Ref):
            record = st.heap.get(value)
            return "" if record is None else record.kind
        return self.kind_of_unknown(value) if isinstance(value, Sym) else _KINDS.get(type(value), "")

    def submodule(self, holder: Hashable, key: Hashable) -> Sym:
        """A module inside a module, a `ModuleList` or a `Sequential`."""
        part = Sym("entry", (holder, key), "module")
        self.kinds[part] = "module"
        return part

    def kind_of_unknown(self, value: Sym) -> str:
        known = self.kinds.get(value)
        if known is not None:
            return known
        name = value.name
        if not name:
            return ""
        found = self._kinds_of_names.get(name)
        if found is None:
            found = self._kinds_of_names[name] = self._kind_of_name(name)
        kind, by_name = found
        return "" if by_name == "tensor" and setting(value) else kind

    def _kind_of_name(self, name: str) -> tuple[str, str]:
        """What kind of thing is called so here, by what is done with it; and by the name alone."""
        by_name = self.know.kind_by_name(name)
        done = self.module.protocol.get(name)
        if not done:
            return by_name, by_name
        kind = self.know.kind_by_protocol(done)
        if kind == "tensor" and done & {"parameters", "named_parameters"} and not done & {"backward", "item"}:
            return by_name or "module", by_name  # `model.requires_grad_(True)`
        if kind == "tensor" and done & {"step", "module", "save_checkpoint", "parameters", "prepare"}:
            return by_name or "engine", by_name
        if kind == "tensor" and by_name in ("module", "accelerator", "scaler", "optimizer"):
            return by_name, by_name
        if kind == "optimizer" and by_name == "module" and done & {"backward", "train", "eval", "parameters"}:
            return by_name, by_name  # an engine around a model, on some paths
        if not kind and by_name == "optimizer" and not done & {"step", "zero_grad", "param_groups"}:
            return "", by_name
        return kind or by_name, by_name

    def note_kinds(self, func: Func, args: Args, st: State) -> None:
        """Note what kinds of things a visible call hands over."""
        names = [param.name for param in func.node.params][func.receiver is not None :]
        for name, value in (*zip(names, args.pos, strict=False), *args.kw.items()):
            self.handed_kinds.setdefault((func.ident, name), set()).add(self.kind(value, st))

    def is_tensor(self, value: Value, st: State) -> bool:
        return isinstance(value, Ref | Sym) and self.kind(value, st) == "tensor"

    def provenant(self, value: Value, st: State) -> bool:
        """Whether a value takes part in the provenance graph."""
        kind = self.kind(value, st)
        if kind == "tensor" or not isinstance(value, Sym):
            return kind == "tensor"
        return not kind and (value in self.likely or value in self.handed_out or named_loss(value))

    def owners(self, value: Value | None, st: State) -> Owners:
        """Whose parameters (gradients) a value stands for."""
        if value is None:
            return None
        record = st.record(value)
        if isinstance(record, Iterator | Listing):
            if record.owners is not None:
                return record.owners
            if isinstance(record, Listing) and record.of_parameters and record.items is None:
                return None  # those of an unknown optimizer: the typical element is nobody's
            parts = (
                record.sources
                if isinstance(record, Iterator)
                else record.items or ((record.item,) if record.item else ())
            )
            return self._union(parts, st)
        if isinstance(record, Mapping):
            params = [item for key, item in record.items if key == Const.of("params")]
            return self._union(params, st) if params else self._union([item for _, item in record.items], st)
        if isinstance(record, Thingy):
            if record.kind == "optimizer":
                return record.owners
            if record.kind in ("module", "instance"):
                return self.leaves(value, st)
            return None
        if isinstance(record, Tensor):
            if record.op == "param":
                if record.owner is not None:
                    return self.leaves(record.owner, st)
                return frozenset({value}) if record.how != "a parameter" else None  # of an unknown optimizer's
            if record.op in ("leaf", "data"):
                return frozenset({value})
            return None
        if isinstance(value, Tup):
            return self._union(value.items, st)
        if isinstance(value, Sym):
            if value.op == "parameters":
                holder = value.args[0]
                return frozenset({holder}) if isinstance(holder, Value) else None
            if self.kind(value, st) == "module":
                return self.leaves(value, st)
        return None

    def leaves(self, module: Value, st: State, depth: int = 0) -> Owners:
        """The modules of which a module is made, as far as they can be seen: what an owner of gradients is compared by.

        None for a part of an unknown module: it is not known what else belongs to the whole.
        """
        if isinstance(module, Tup):
            return frozenset(module.items)
        if module in self.handed_out:
            return None
        if isinstance(module, Sym):
            if module.op == "joined":
                return None  # one of several, and so may be any
            holder = module.args[0] if module.op in ("attr", "member", "entry") and module.args else None
            of_another = isinstance(holder, Value) and self.kind(holder, st) == "module"
            return None if of_another else frozenset({module})
        found: set[Hashable] = set()
        record = st.record(module)
        if isinstance(named := st.attr(module, NAMED_PARTS), Tup) and depth < 4:
            for part in named.items:
                found |= {module} if part == module else self.leaves(part, st, depth + 1) or frozenset()
        if isinstance(record, Thingy) and record.cls is not None and depth < 4:
            for name, part in st.overlay.get(module, {}).items():
                if part == module or name == "frozen":
                    continue
                inner = st.record(part)
                if isinstance(inner, Thingy) and inner.kind == "module":
                    found |= self.leaves(part, st, depth + 1) or frozenset()
                elif isinstance(inner, Tensor) and inner.op == "param":
                    found.add(module if inner.owner == module else part)  # read out of it: known only by its name
        return frozenset(found) if found else frozenset({module})

    def frozen(self, module: Value, st: State) -> bool:
        """Whether `requires_grad` was taken from a module's parameters (from some of them, at least)."""
        leaves = self.leaves(module, st) or frozenset()
        return any(st.attr(part, "frozen") == TRUE for part in (module, *leaves) if isinstance(part, Value))

    def mark_frozen(self, parameter: Tensor, st: State) -> None:
        """`requires_grad` is taken from a parameter: the module that it came from is frozen, in part at least."""
        owner = parameter.owner
        for one in owner.items if isinstance(owner, Tup) else (owner,) if owner is not None else ():
            st.set_attr(one, "frozen", TRUE)

    def owners_of(self, graph: Graph, st: State) -> Owners:
        """Whose gradients a backward through a graph fills."""
        modules = graph.whose()
        if modules is None:
            return None
        found: set[Hashable] = set()
        for module in modules:
            parts = self.leaves(module, st) if isinstance(module, Value) else None
            if parts is None:
                return None
            found |= parts
        return frozenset(found)

    def known_owners(self, graph: Graph, st: State) -> frozenset[Hashable]:
        """The owners whose gradients a backward fills for certain, where there may be others."""
        found: set[Hashable] = set()
        for module in graph.owners:
            found |= (self.leaves(module, st) if isinstance(module, Value) else None) or frozenset()
        return frozenset(found)

    def _union(self, values: Iterable[Value], st: State) -> Owners:
        found: set[Hashable] = set()
        for value in values:
            if isinstance(value, Const | Func | Method):
                continue
            owners = self.owners(value, st)
            if owners is None:
                return None
            found |= owners
        return frozenset(found) if found else None

    def reachable(self, value: Value, st: State, depth: int = 0, attributes: bool = False) -> set[Value]:
        """A value and what it holds: elements, sources, entries, and the attributes of visible instances if asked."""
        found = {value}
        if depth > 3:
            return found
        inner: tuple[Value, ...] = ()
        record = st.record(value)
        if isinstance(value, Tup):
            inner = value.items
        elif isinstance(value, Method):
            inner = (value.receiver,)
        elif isinstance(record, Iterator):
            inner = record.sources
        elif isinstance(record, Listing):
            inner = record.items or ()
        elif isinstance(record, Mapping):
            inner = tuple(item for _, item in record.items)
        elif isinstance(record, Thingy) and attributes:
            held = st.overlay.get(value, {})
            inner = (
                tuple(held.values()) if record.cls is not None else (held[NAMED_PARTS],) if NAMED_PARTS in held else ()
            )
        for part in inner:
            if part not in found:
                found |= self.reachable(part, st, depth + 1, attributes)
        return found

    def one_of(self, item: Value, source: Value, st: State) -> Value:
        """A typical element of a container. Where that holds several known models or optimizers, and only this one
        would be met, it is an unknown one: what is done to it may be done to any of them.
        """
        if not isinstance(item, Ref | Tup | Method) or not (crowd := self.trained(source, st)):
            return item
        if isinstance(item, Tup):
            return Tup(tuple(self.one_of(part, source, st) for part in item.items))
        mine = self.trained(item, st)
        kinds = {self.kind(part, st) for part in mine}
        others = {part for part in crowd - mine if self.kind(part, st) in kinds}
        return self.unknown(min(kinds), "item") if mine and others else item

    def trained(self, value: Value, st: State) -> set[Value]:
        """The models, optimizers and scalers that a container holds, or that a value is."""
        record = st.record(value)
        if not isinstance(value, Tup | Method) and not isinstance(record, Iterator | Listing | Mapping | Thingy):
            return set()
        return {part for part in self.reachable(value, st) if isinstance(part, Ref) and self.kind(part, st) in TRAINED}

    # -- events -------------------------------------------------------------------------------------------------------

    def hears(self, kind: type[Event]) -> bool:
        """Whether any rule listens to events of a kind: those that cost something are made for a listener only."""
        return kind in self._listeners

    def switched(self, given: Value | None) -> tuple[bool | None, Thing | None]:
        """What an argument `enabled` says, and which value decides where that is not known."""
        if given is None or isinstance(given, Const):
            return given is None or bool(given.value), None
        return None, self.thing(given)

    def tested(self, st: State) -> frozenset[str]:
        """The names that conditions of the running file ask for."""
        func = st.frame.func
        return (self.module if func is None else func.module).tested

    def emit(self, event: Event, st: State) -> None:
        """Let every rule that listens hear an event; an error in a rule is kept, and the others go on."""
        if (
            isinstance(event, _ACTS)
            or (isinstance(event, ModeSet) and event.training is not False)  # evaluation puts nothing right
            or (
                isinstance(event, Escaped)
                and any(isinstance(thing.key, Value) and self.kind(thing.key, st) in TRAINED for thing in event.things)
            )
        ):
            self.acts += 1
        for code, handler, watch in self._listeners.get(type(event), ()):
            watch.state = st
            try:
                handler(event, watch)
            except (OverBudget, Stalled, Dead):
                raise
            except Exception as error:
                self.failures.append((code, event.site, f"{type(error).__name__}: {error}"))

    def modal(self, module: Value, st: State, depth: int = 0) -> bool:
        """Whether a module may do something else in training than in evaluation; in `modes`."""
        raise NotImplementedError

    def waiting(self) -> list[tuple[Rule, str, dict[Any, Any]]]:
        """The findings that wait in the rules."""
        return [(rule, name, dict(getattr(rule, name))) for rule in self.monitors for name in rule.waits]

    def take_back(self, waiting: list[tuple[Rule, str, dict[Any, Any]]]) -> None:
        """A run was given up: it has not shown what would prove its findings innocent, so they wait no more."""
        for rule, name, before in waiting:
            setattr(rule, name, before)

    def escape(
        self, values: Iterable[Value], node: ir.Node, st: State, to: str = "", *, harmless: bool = False
    ) -> None:
        """Tell that things were handed to code that cannot be seen. `harmless`: which leaves gradients alone."""
        if AVERAGES.search(to) or any(KEEPS.search(name) for name in to.split(".")[-2:]):
            return
        values, things = tuple(values), []
        harmless = harmless or _METRIC.search(to) is not None
        harmless = harmless or (_ACTING.search(to) is None and any(map(_leaves_alone, st.frames)))
        computes = id(node) != self.statement
        measured = MEASURES.search(to.rpartition(".")[0].partition("[")[0]) is not None
        for value in values:
            for part in self.reachable(value, st, attributes=True):
                tensor = st.tensor(part)
                if tensor is not None and tensor.is_number:
                    continue  # a number leads to nothing: whoever has it can do nothing to a gradient
                unknown_loss = isinstance(part, Sym) and named_loss(part) and part.name.endswith("loss")  # no meter
                if isinstance(part, Ref) or unknown_loss or (isinstance(part, Sym) and self.kind(part, st)):
                    kept = measured and (isinstance(st.record(part), Mapping) or self.kind(part, st) == "tensor")
                    mild, label = harmless or kept or self._harmless(part, st), getattr(part, "name", "")
                    only = computes and (unknown_loss or self._only_tensors(part, st))
                    things.append(Thing(part, label, mild, only))
                if tensor is not None and tensor.op == "grad" and not to.startswith("torch."):  # it may clear it
                    things += [Thing(owner) for owner in self.owners(tensor.parents[0], st) or ()]
        if things:
            modules = tuple(value for value in values if self.kind(value, st) == "module")
            self.emit(Escaped(self.site(node, st), tuple(things), to, modules), st)

    def _harmless(self, value: Value, st: State) -> bool:
        """Whether who gets a value gets hold of no module, no optimizer and no loss. Elements that are known are
        told by themselves."""
        record = st.record(value)
        if isinstance(record, Mapping):
            items = [item for _, item in record.items]
            return (record.closed or len(items) > 0) and all(self._mere_data(item, st) for item in items)
        if isinstance(record, Listing):
            return record.items is not None or (record.item is not None and self._harmless(record.item, st))
        return isinstance(record, Tensor) and record.op in _NO_LOSS

    def _only_tensors(self, value: Value, st: State) -> bool:
        """Whether a value is a computed tensor, or a collection of such, of numbers and of words."""
        record = st.record(value)
        if isinstance(record, Tensor):
            return record.op not in ("param", "leaf", "grad")
        if isinstance(record, Mapping):
            return record.closed and all(self._only_tensors(item, st) for _, item in record.items)
        if isinstance(record, Listing):
            parts = (record.item,) if record.items is None else record.items
            return all(part is not None and self._only_tensors(part, st) for part in parts)
        return isinstance(value, Const) or (
            isinstance(value, Tup) and all(self._only_tensors(part, st) for part in value.items)
        )

    def _mere_data(self, value: Value, st: State) -> bool:
        """Whether an element of a dict is a number, a word or a batch, as far as can be seen."""
        if isinstance(value, Tup):
            return all(self._mere_data(part, st) for part in value.items)
        if isinstance(value, Sym):
            return not self.kind(value, st) and not named_loss(value) and value not in self.handed_out
        tensor = st.tensor(value)
        number = tensor is not None and tensor.is_number
        return number or isinstance(value, Const) or (isinstance(value, Ref) and self._harmless(value, st))

    def tick(self, amount: int = 1) -> None:
        self.steps += amount
        if self.limit < math.inf:
            self.helped += amount
        elif self.steps < self.budget // 8:
            return
        own = self.steps - self.helped
        if own > self.budget // 8 or self.steps > 2 * self.budget // 5:
            self.merger.narrow = True
            self.merger.single = own > 2 * self.budget // 5 or self.steps > 3 * self.budget // 5
        if self.steps > self.budget:
            raise OverBudget
        if self.steps > self.limit:
            raise Stalled

    def handler(self, what: str, kind: type) -> Any:
        """The method that does something with nodes of a kind: `eval_Call`; None if there is none."""
        try:
            return self._handlers[what, kind]
        except KeyError:
            found = self._handlers[what, kind] = getattr(self, what + kind.__name__, None)
            return found

    def eval_many(self, nodes: Iterable[ir.Expression], st: State) -> list[tuple[list[Value], State]]:
        """The expressions in order, each on every path that the ones before it lead to."""
        results: list[tuple[list[Value], State]] = [([], st)]
        for node in nodes:
            following: list[tuple[list[Value], State]] = []
            for values, path in results:
                pairs = self.eval(node, path)
                if len(pairs) == 1:
                    values.append(pairs[0][0])
                    following.append((values, pairs[0][1]))
                else:
                    following.extend(([*values, value], after) for value, after in pairs)
            results = following if len(following) <= OPERAND_PATHS else self._fewer(following)
        return results

    def _fewer(self, results: list[tuple[list[Value], State]]) -> list[tuple[list[Value], State]]:
        """Merge the paths on which the first parts of an expression were evaluated."""
        parts = Sym("operands", (self.fresh(),))
        for values, path in results:
            for index, value in enumerate(values):
                path.set_attr(parts, str(index), value)
        count = len(results[0][0])
        return [
            ([path.drop_attr(parts, str(index)) or self.unknown() for index in range(count)], path)
            for path in self.merger.merge([path for _, path in results])
        ]

    def elements(self, value: Value, st: State) -> tuple[Value, ...] | None:
        """The elements of a container, if all are known."""
        if isinstance(value, Tup):
            return value.items
        record = st.record(value)
        return record.items if isinstance(record, Listing) else None

    def item_of(self, value: Value, st: State) -> Value | None:
        record = st.record(value)
        return record.item if isinstance(record, Listing | Iterator) else None

    # -- provided by the other parts of the machine -------------------------------------------------------------------

    def eval(self, node: ir.Expression, st: State) -> Results:
        raise NotImplementedError

    def binary(self, op: str, left: Value, right: Value, node: ir.Node, st: State) -> Value:
        raise NotImplementedError

    def gradients_used(self, operands: Iterable[Value], how: str, node: ir.Node, st: State) -> None:
        raise NotImplementedError

    def note_inference(self, made: Ref, st: State) -> None:
        raise NotImplementedError

    def root_taken(self, how: str, operand: Value, node: ir.Node, st: State) -> None:
        raise NotImplementedError

    def again(self, item: Value, st: State) -> Value:
        raise NotImplementedError

    def exec_block(self, body: tuple[ir.Statement, ...], live: list[State]) -> list[End]:
        raise NotImplementedError

    def call_value(self, func: Value, args: Args, node: ir.Node, st: State) -> Results:
        raise NotImplementedError

    def call_method(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results:
        raise NotImplementedError

    def optimizer_made(
        self, optimizer: Value, by: str, args: Args, node: ir.Node, st: State, *, stateful: bool
    ) -> None:
        """Tell that an optimizer was made, by torch or by a visible class; in `torch_model`."""
        raise NotImplementedError

    def make_chosen(self, func: Sym, args: Args, node: ir.Node, st: State) -> Value | None:
        raise NotImplementedError

    def call_api(self, name: str, args: Args, node: ir.Node, st: State) -> Results:
        raise NotImplementedError

    def iterate(
        self, value: Value, by: str, node: ir.Node, st: State, whole: bool | None = True, single: bool = False
    ) -> Results:
        raise NotImplementedError

    def assign(self, target: ir.Expression, value: Value, st: State, node: ir.Node) -> list[State]:
        raise NotImplementedError

    def get_attr(self, base: Value, name: str, node: ir.Node, st: State) -> Results:
        raise NotImplementedError
