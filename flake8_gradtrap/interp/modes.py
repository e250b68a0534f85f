"""The two modes, as facts of a path: that of a module (`train`, `eval`), and whether gradients are recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flake8_gradtrap.events import Forwarded, GradientModeSet, ModeRead, ModeSet, Site, Thing
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import REQUIRES_GRAD, Args, Core, Results
from flake8_gradtrap.interp.project import Module
from flake8_gradtrap.interp.state import IN_DOUBT, MODAL_PARTS, Frame, State
from flake8_gradtrap.interp.values import FALSE, NONE, Api, Class, Const, Func, Listing, Ref, Sym, Tensor, Thingy, Value

ACTS = frozenset(
    "backward manual_backward step zero_grad autograd grad enable_grad set_grad_enabled requires_grad requires_grad_ "
    "train_step fit optimizer".split()
)
"""Words of functions that do more with gradients than to leave them off."""

_ADAPTS = frozenset(
    "adapt adapt_model fast_adapt inner_adapt inner_loop inner_update inner_steps inner_lr fast_weights "
    "adaptation_steps adapt_steps num_adaptation_steps n_adaptation_steps".split()
)
"""Words of functions that train a copy of the model on what they evaluate, before they do."""


_VOLATILE = frozenset({"volatile"})
"""What turned gradients off until torch 0.4. Since then it does nothing, and torch warns of it."""

_BENCHMARK = re.compile(r"_*(test|bench|profile|measure|time|speed)")
"""Functions that may do nothing but measure time, if they look at a clock."""
_CLOCKS = frozenset({"time", "perf_counter", "process_time", "Event", "timeit", "elapsed_time"})
_TEST_FILE = re.compile(r"(^|[\\/])(test_[^\\/]*|[^\\/]*_test)\.py$")

_MODAL = re.compile(
    r"drop|batch_?norm|instance_?norm|sync_?bn|(^|_)bn|training$|spectral|transformer|multihead|gumbel|noise|quant|rrelu"
    r"|^(lstm|gru|rnn|getattr|eval|import_module)$",
    re.IGNORECASE,
)
"""Words of modules that may do something else in training than in evaluation."""

_WITHOUT_MODES = frozenset(
    "torch math numpy np typing collections functools itertools abc copy dataclasses os sys logging einops __future__ "
    "random warnings time json re enum pathlib types inspect typing_extensions jaxtyping beartype torchtyping "
    "omegaconf hydra scipy sklearn pandas matplotlib PIL cv2 tqdm wandb yaml loguru networkx".split()
)
"""Packages in which there is no module with a mode of its own, but for the layers of torch, which are known by name."""

_PLAIN_CONTEXTS = frozenset(
    "open suppress nullcontext contextlib torch tqdm os io time tempfile pathlib warnings threading multiprocessing "
    "concurrent logging numpy h5py tarfile zipfile gzip pickle sqlite3 mlflow wandb".split()
)
"""Packages and functions whose contexts leave gradients as they are, but for those of torch that the table names."""

_RECORDS = re.compile(
    r"cast|amp\b|amp_|precision|accumul|sync|profil|record|timer|process|progress|lock|device|stream|enable",
    re.IGNORECASE,
)
"""Names of contexts that have another purpose than to turn gradients off."""

_WITHOUT_GRADIENTS = re.compile(r"(on_)?(validation|test|predict)_(model_eval|start|end|step|epoch|batch)(_\w+)?$")
"""Hooks that Lightning calls with gradients off."""

_FORCES = re.compile(r"(^|_)(forces?|stress|virials?)$", re.IGNORECASE)
"""Names of what is a derivative of the model's output, by its input."""

_HOOK = re.compile(r"^on_|_(step|batch|hook|loop)$")
"""What a method is called that a base class calls."""

_NESTED = 3
"""Modules within modules are looked into so deep."""

_PARTS = 40
"""So many classes and functions are looked at, of which a module may be made."""

ROOTS = frozenset({"torch.nn.Module", "builtins.object", "abc.ABC", "typing.Generic", "typing.Protocol"})
"""Base classes that do nothing of their own to what a subclass keeps."""


class Modes(Core):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.modal_classes: dict[int, bool] = {}
        """For each class, whether its modules may do something else in the one mode than in the other."""
        self.quieted = 0
        """How often gradients were turned off so far."""

    def class_kind(self, cls: Class) -> str:
        raise NotImplementedError

    def set_mode(self, module: Value, name: str, args: Args, node: ir.Node, st: State) -> None:
        """`module.eval()` and `module.train(…)`."""
        if not self.hears(ModeSet):
            return
        training: bool | None = name == "train"
        given = args.get(0, "mode")
        if training and given is not None:
            training = bool(given.value) if isinstance(given, Const) else None
        shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
        setup = any(getattr(frame.func.node, "name", "") == "__init__" for frame in st.frames if frame.func is not None)
        parts, around, matters = self._parts(module, st), holders(module), self.modal(module, st)
        if training is not False and parts:
            parts |= self._other_names(module, st)
        self.emit(ModeSet(self.site(node, st), self.thing(module, shown), training, parts, around, setup, matters), st)

    def _parts(self, module: Value, st: State) -> frozenset[Value]:
        if isinstance(module, Sym) and module.op == "item" and len(module.args) == 1:
            return frozenset()  # an element of what is iterated: any of several
        leaves = self.leaves(module, st) or frozenset()
        return frozenset(part for part in (module, *leaves) if isinstance(part, Value))

    def _other_names(self, module: Value, st: State) -> frozenset[Value]:
        """What an attribute that nothing has set yet may be another name of."""
        if not isinstance(module, Sym) or module.op not in ("attr", "member") or len(module.args) != 2:
            return frozenset()
        base, name = module.args
        func = st.frame.func
        aliases = (func.module if func is not None else self.module).source.aliases.get(str(name), frozenset())
        others = {st.attr(base, other) or Sym(module.op, (base, other), other) for other in aliases}  # type: ignore[arg-type]
        return frozenset(others)

    def modal(self, module: Value, st: State, depth: int = 0) -> bool:
        """Whether a module may do something else in training than in evaluation: what cannot be seen may."""
        if module in self.modeless:
            return False
        if isinstance(module, Sym) and module.op == "entry" and isinstance(module.args[0], Ref) and depth <= _NESTED:
            return self.modal(module.args[0], st, depth + 1)  # `self.layers[:-1]`: what holds it has no modes
        record = st.record(module)
        if isinstance(record, Tensor):
            return False  # a Parameter
        if isinstance(record, Listing):
            parts = record.items if record.items is not None else (record.item,) if record.item is not None else ()
            return not parts or any(self.modal(part, st, depth) for part in parts)
        if not isinstance(record, Thingy) or depth > _NESTED:
            return True
        if record.cls is not None:
            held = st.overlay.get(module, {})
            if (not held and depth == 0) or self._class_is_modal(record.cls):
                return True  # its constructor was not run
            return any(self.modal(part, st, depth + 1) for part in held.values() if self.kind(part, st) == "module")
        roles = self.know.roles(record.what)
        if "modules.holders" in roles:
            added = st.attr(module, MODAL_PARTS)
            if added is None and not record.args:
                return True
            return added not in (None, FALSE) or any(self.modal(part, st, depth + 1) for part in record.args)
        return "modules.stateless" not in roles and "modules.same_in_both_modes" not in roles

    def note_added(self, holder: Value, parts: Iterable[Value], st: State) -> None:
        """Parts are put into a holder of modules, which may have modes by them."""
        owner = st.frame.func.owner if st.frame.func is not None else None
        plain = owner is not None and not self._class_is_modal(owner)
        modal = st.attr(holder, MODAL_PARTS) not in (None, FALSE) or any(
            self.modal(part, st, 1)
            for part in parts  # what a class has made of one of several classes, has no modes if it mentions none
            if not (plain and isinstance(part, Sym) and part.op == "call")
        )
        st.set_attr(holder, MODAL_PARTS, Const.of(modal))

    def _class_is_modal(self, cls: Class) -> bool:
        """Whether a class, or anything that it mentions, may ask for the mode, as far as its words say."""
        if cls.ident not in self.modal_classes:
            waiting: list[tuple[Module, str]] = [(cls.module, cls.name)]
            seen: set[tuple[str, str]] = set()
            found = False
            while waiting and not found:
                module, name = waiting.pop()
                contents = module.definitions.get(name)
                if contents is None or len(seen) > _PARTS or any(map(_MODAL.search, contents.mentions)):
                    found = True
                    break
                for word in contents.mentions:
                    value = module.lookup(word) if word in module.definitions or word in module.imports else None
                    if isinstance(value, Class | Func) and (value.module.path, word) not in seen:
                        seen.add((value.module.path, word))
                        waiting.append((value.module, getattr(value, "name", "") or word))
                    elif word in module.imports and isinstance(value, Api):
                        package = value.name.partition(".")[0]  # of its own package too much is unknown
                        found = found or not (package in _WITHOUT_MODES or package in Path(module.path).parts)
            self.modal_classes[cls.ident] = found
        return self.modal_classes[cls.ident]

    def own_train(self, module: Value, args: Args, node: ir.Node, st: State) -> None:
        """A module's own `train` is called: what it does with its parts is its business; `train(False)` evaluates."""
        if not self.hears(ModeSet) or self.kind(module, st) != "module":
            return
        parts = self._parts(module, st)
        if args.get(0, "mode") == FALSE:
            matters = self.modal(module, st)
            self.emit(ModeSet(self.site(node, st), self.thing(module), False, parts, matters=matters), st)
        else:
            self.emit(ModeSet(self.site(node, st), self.thing(module), None, parts), st)

    def mode_unknown(self, node: ir.Node, st: State) -> None:
        """What is called may put any module into any mode."""
        if self.hears(ModeSet):
            self.emit(ModeSet(self.site(node, st), Thing(Sym("any", (id(node),)), ""), None), st)

    def read_mode(self, module: Value, node: ir.Node, st: State) -> None:
        """`module.training` is read, and not by the module itself."""
        if self.hears(ModeRead) and not (st.frame.func is not None and st.frame.func.receiver == module):
            self.emit(ModeRead(self.site(node, st), self.thing(module)), st)

    def forwarded(self, module: Value, result: Value, node: ir.Node, st: State, quieted: int | None = None) -> None:
        """A module was called; what other modules call in their `forward` is a part of theirs. `quieted`: how often
        gradients had been turned off when its own, visible `forward` began.
        """
        if not self.hears(Forwarded):
            return
        for frame in st.frames:
            if frame.func is not None and frame.func.owner is not None and frame.func.node.name == "forward":  # type: ignore[union-attr]
                return
        outputs = frozenset(part for part in self.reachable(result, st) if st.tensor(part) is not None)
        undecided = IN_DOUBT in st.conds or self.frozen(module, st)
        started = st.frames[1].func if len(st.frames) > 1 else None
        left = started is not None and started.ident in self.stalled  # its caller was run, and could not enter it
        forgotten = st.mode is None and ("" in st.lossy or left)  # else nobody in sight has turned them off
        provenance = self.provenance(st)
        live = any(provenance.history(one) for one in outputs)
        undecided = undecided or (quieted is not None and quieted != self.quieted and not live)
        cut = bool(outputs) and all(
            provenance.history(output) is False for output in outputs
        )  # in the `forward` itself
        recorded = False if st.mode is False or cut else None if undecided or forgotten else True
        func = st.frame.func
        function, definition, only_looks = "", None, False
        if func is not None and isinstance(func.node, ir.FunctionDef):
            function, definition = func.node.name, Site(func.node)
            acts = ACTS | func.module.names_that_matter(ACTS)
            only_looks = func.node.mentions.isdisjoint(acts)
        if recorded and (_mentions(st.frame, REQUIRES_GRAD) or any(_mentions(frame, _ADAPTS) for frame in st.frames)):
            recorded = None
        if recorded and st.mode is None and (self._of_framework(module, st) or self._called_without(started, st)):
            recorded = None
        if recorded and self._differentiates(module, st):
            recorded = None
        shown = node.func if isinstance(node, ir.Call) else None
        site, thing, around = self.site(node, st), self.thing(module, shown), holders(module)
        probes = id(node) in (self.statement, self.unread) or self.in_a_test(st)
        volatile = any(_mentions(frame, _VOLATILE) for frame in st.frames)
        volatile = volatile or (func is None and "volatile" in self.module.source.text)
        for_callers = started is not None and self._by_callers(started)
        forwarded = Forwarded(
            site, thing, outputs, recorded, around, function, definition, only_looks, probes, volatile, for_callers
        )
        self.emit(forwarded, st)

    def _by_callers(self, func: Func) -> bool:
        """Whether a function is a method of a module, and no hook: its callers decide whether gradients are on."""
        if func.owner is None or self.class_kind(func.owner) != "module":
            return False
        trained_for = any(isinstance(one, Api) and "Lightning" in one.name for one in self.lineage(func.owner))
        return not (trained_for and _HOOK.search(getattr(func.node, "name", "")))

    def in_a_test(self, st: State) -> bool:
        """Whether what runs is a test of the program: what it keeps, it keeps for a few steps."""
        return any(map(self._tests, st.frames))

    def on_trial(self, st: State) -> bool:
        """Whether steps are only taken to try the program out, in a test or to measure its time."""
        return self.in_a_test(st) or any(
            frame.func is not None
            and _BENCHMARK.match(getattr(frame.func.node, "name", ""))
            and _mentions(frame, _CLOCKS)
            for frame in st.frames
        )

    def _of_framework(self, module: Value, st: State) -> bool:
        """Whether a class from which the running one inherits made a module, in a way that cannot be seen: it calls the
        hooks, too, and may have turned gradients off.
        """
        func = st.frame.func
        if not isinstance(module, Sym) or func is None or len(module.args) != 2 or module.args[0] != func.receiver:
            return False
        if not _HOOK.search(getattr(func.node, "name", "")):
            return False
        record = st.record(func.receiver)
        if not isinstance(record, Thingy) or record.cls is None or record.kind == "module":
            return False
        bases = self.lineage(record.cls)
        if all(isinstance(base, Api) and base.name in ROOTS for base in bases[1:]):
            return False
        return not any(module.args[1] in base.module.source.stored for base in bases if isinstance(base, Class))

    def _called_without(self, started: Func | None, st: State) -> bool:
        """Whether what runs is a hook of a class from out of sight, such as those that Lightning calls without
        gradients: `validation_step`, `on_test_epoch_end`.
        """
        if started is None or not _WITHOUT_GRADIENTS.match(getattr(started.node, "name", "")):
            return False
        record = st.record(started.receiver) if started.receiver is not None else None
        return isinstance(record, Thingy) and record.cls is not None and not self.seen_whole(record.cls)

    def seen_whole(self, cls: Class) -> bool:
        """Whether every base of a class is visible, or does nothing of its own."""
        return all(
            isinstance(base, Class) or (isinstance(base, Api) and base.name in ROOTS) for base in self.lineage(cls)
        )

    def _differentiates(self, module: Value, st: State) -> bool:
        """Whether a model that cannot be seen may need gradients in its forward, as one that gives forces does."""
        record = st.record(module)
        if isinstance(record, Thingy) and record.cls is not None:
            return False
        if any(_speaks_of(frame, _FORCES) for frame in st.frames):
            return True
        return any(
            part.kind == "class" and {"autograd", "grad"} <= part.methods.get("forward", frozenset())
            for part in self.module.definitions.values()
        )

    def _tests(self, frame: Frame) -> bool:
        """Whether a function tests the program: one of a test suite, or a `test_…` that asserts or takes nothing."""
        if frame.func is None or not isinstance(node := frame.func.node, ir.FunctionDef):
            return self.module.of_test_suite
        path = str(frame.func.module.path)
        if frame.func.module.of_test_suite:
            return True
        if not node.name.startswith("test_"):
            return False
        given = [param for param in node.params if param.name != "self"]
        return _asserts(node) or (not given and bool(_TEST_FILE.search(path)))

    def lineage(self, cls: Class) -> list[Value]:
        raise NotImplementedError  # of another part of the machine

    def numpy_of(self, value: Value, st: State) -> frozenset[Value]:
        """The graph of a tensor that becomes a NumPy array, which torch refuses if there is one."""
        return frozenset(self.provenance(st).graph(value).reaches) if self.hears(Forwarded) else frozenset()

    def switch_gradients(self, value: Value, node: ir.Node, st: State) -> None:
        """A statement that only makes a `set_grad_enabled(…)`: it acts as it is made, until another one does."""
        record = st.record(value)
        if not isinstance(record, Thingy) or record.kind != "context":
            return
        if "context.set_grad" not in self.know.roles(record.what):
            return
        if record.flag is None:
            st.conds[IN_DOUBT] = True
        else:
            st.conds.pop(IN_DOUBT, None)
            st.mode = record.flag
        self.emit(GradientModeSet(self.site(node, st), record.flag), st)

    def on_context(self, context: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        """`torch.no_grad().__enter__()`: nothing ends it but its own `__exit__`."""
        if name == "__enter__":
            st.set_attr(context, "mode before", Const.of(st.mode))
            self.enter_context(context, st)
            return [(context, st)]
        record = st.record(context)
        if name == "__call__" and args.pos and isinstance(func := args.pos[0], Func) and isinstance(record, Thingy):
            return [(replace(func, no_grad=record.flag), st)]
        if name == "__exit__":
            before = st.drop_attr(context, "mode before")
            st.mode = before.value if isinstance(before, Const) else None
            st.conds.pop(IN_DOUBT, None)
            return [(NONE, st)]
        return None

    def in_unseen_context(self, node: ir.Expression, entered: Value, st: State) -> None:
        """A block is run under a context that cannot be seen: it may turn gradients off, unless its name says what
        else it does.
        """
        shown: ir.Node = node
        while isinstance(shown, ir.Call | ir.Attr):
            shown = shown.func if isinstance(shown, ir.Call) else shown.value
        root = shown.id if isinstance(shown, ir.Name) else ""
        module = st.frame.func.module if st.frame.func is not None else self.module
        origin = module.imports.get(root, (root, None, 0))[0].partition(".")[0]
        plain = origin in _PLAIN_CONTEXTS or entered in self.plain_contexts
        if isinstance(entered, Sym) and not plain and not _RECORDS.search(self.label(node)):
            st.conds[IN_DOUBT] = "unseen"
            if st.mode is False:
                st.mode = None  # it may turn them on

    def enter_context(self, context: Value, st: State) -> bool:
        """Whether a value is a context that sets the gradient mode; then it does."""
        record = st.record(context)
        if not isinstance(record, Thingy) or record.kind != "context":
            return False
        if record.flag is None:
            st.conds[IN_DOUBT] = True
        else:
            st.mode = record.flag
            self.quieted += record.flag is False
        return True


def _mentions(frame: Frame, words: frozenset[str]) -> bool:
    node = frame.func.node if frame.func is not None else None
    return isinstance(node, ir.FunctionDef) and not node.mentions.isdisjoint(words)


def _speaks_of(frame: Frame, words: re.Pattern[str]) -> bool:
    node = frame.func.node if frame.func is not None else None
    return isinstance(node, ir.FunctionDef) and any(map(words.search, node.mentions))


def _asserts(node: ir.FunctionDef) -> bool:
    """Whether a function checks what it computes, at the top of its body or in a block there."""
    if any(name.startswith(("assert", "raises")) for name in node.mentions):
        return True
    waiting = list(node.body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ir.Assert):
            return True
        waiting.extend(getattr(statement, "body", ()))
    return False


def holders(module: Value) -> tuple[Value, ...]:
    """What a part that is named by its holder belongs to: `model` of `model.encoder.layers[0]`, and so on."""
    found: list[Value] = []
    while isinstance(module, Sym) and module.op in ("attr", "member", "entry") and isinstance(module.args[0], Value):
        module = module.args[0]
        found.append(module)
    return tuple(found)
