"""Functions and classes from outside the project: what `torch_api.toml` says of a full name, acted out."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import replace

from flake8_gradtrap.events import (
    AnomalyDetectionSet,
    AutocastEntered,
    Clipped,
    Differentiated,
    FiniteAsked,
    OptimizerMade,
    ReadOut,
    ScalerMade,
    SchedulerMade,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import HARMLESS, NAMED_PARTS, Args, Dead, Results
from flake8_gradtrap.interp.selecting import gives_indices
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.values import (
    FALSE,
    NONE,
    TRUE,
    Api,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
    infinite,
    of_elsewhere,
)
from flake8_gradtrap.interp.wrappers import Wrappers

_PURE = frozenset(
    "builtins.isinstance builtins.hasattr builtins.callable builtins.issubclass builtins.len builtins.bool "
    "builtins.str builtins.abs builtins.round builtins.type builtins.id torch.cuda.is_available torch.is_tensor "
    "torch.distributed.is_initialized torch.distributed.get_rank torch.distributed.get_world_size builtins.getattr "
    "inspect.isgenerator torch.is_grad_enabled inspect.isgeneratorfunction torch.jit.is_scripting torch.device".split()
)

_ACTS = frozenset({"backward", "zero_grad"})
"""Methods by which an object of another module is known for a loss, or for what holds gradients."""

_SPANS = ("T_max", "num_training_steps")
"""Arguments that say over how many of its steps a scheduler runs."""


_NESTED = 3
"""Copies of modules have copies of their parts, so deep."""

_CLIPS = re.compile(r"(dispatch_|adaptive_)?clip_(grad|gradient)s?(_|$)")
"""What functions are called that clip gradients, and do nothing else."""


ASKS_FINITE = frozenset({"isnan", "isinf", "isfinite", "isneginf", "isposinf", "nan_to_num", "nan_to_num_"})
"""Functions and methods that look for what is not finite, or replace it."""


_PARAMS = Const.of("params")


_NUMBERS = frozenset({"ndarray", "number", "Number", "Real", "generic", "floating", "integer", "float", "int", "str"})
"""Types of what is no tensor, and holds none."""


GRAD_MODE = "grad mode"
"""What `is_grad_enabled` returned: a condition does not ask for it, since nobody knows how the function is called."""


class TorchModel(Wrappers):
    def call_api(self, name: str, args: Args, node: ir.Node, st: State) -> Results:
        name = self.know.canonical(name)
        roles = self.know.roles(name)
        short = name.rpartition(".")[2]
        if name == "builtins.next":
            return self._next(args, node, st)
        if name == "torch.nn.parallel.data_parallel" and len(args.pos) > 1:  # calls it, on each device
            given = args.pos[1]
            return self.call_value(
                args.pos[0], Args(list(given.items) if isinstance(given, Tup) else [given]), node, st
            )
        if name == "torch.is_grad_enabled" and st.mode is not None and IN_DOUBT not in st.conds:
            return [(Sym(GRAD_MODE, (Const.of(st.mode),)), st)]
        if short in ASKS_FINITE and self.hears(FiniteAsked):
            self.emit(FiniteAsked(self.site(node, st)), st)
        if short in _ACTS and not roles and name.count(".") > 1 and of_elsewhere(Api(name)):  # `state.loss.backward()`
            holder = name.rpartition(".")[0]
            return self.call_method(Sym("global", (holder,), holder.rpartition(".")[2]), short, args, node, st)
        if "parameters.remade_by" in roles and args.pos:
            self.parameters_remade(args.pos[0], short, node, st)
        if "iterators.endless" in roles:
            return [(self.new(Iterator(f"`{short}(…)`", tuple(args.pos), endless=True, stamp=st.stamp), st), st)]
        if "iterators.lazy" in roles:
            return [(self.make_lazy(name, args, node, st), st)]
        if "iterators.wrappers" in roles:
            return [(self._wrapped(args, node, st), st)]
        if "iterators.consumers" in roles and (short not in ("max", "min") or len(args.pos) == 1):
            return self.consume(name, args, node, st)
        for prefix, handler in _HANDLERS:
            if prefix in roles and (
                prefix != "makes.module"
                or short[:1].isupper()
                or short.startswith(("from_", "create_", "load", "resnet"))
            ):
                value = handler(self, name, args, node, st)
                if value is not None:
                    return [(value, st)]
        if name in ("builtins.isinstance", "inspect.isgenerator", "torch.is_tensor"):
            return [(self._type_test(name, args, st), st)]
        if name == "builtins.float" and args.pos and isinstance(args.pos[0], Const) and args.pos[0].type is str:
            text = str(args.pos[0].value).lower().lstrip("+-")
            return [(Const.of(float("inf")) if text in ("inf", "infinity") else self.unknown("float"), st)]
        if name == "builtins.len" and args.pos:
            it = st.record(args.pos[0])
            if isinstance(it, Iterator) and it.how == "`iter(…)`":
                return [(self.unknown("len"), st)]  # that of a loader has one
            if isinstance(it, Iterator):
                raise Dead  # an iterator has no length
            if isinstance(it, Listing) and it.items:  # after an append it is another one
                return [(Sym("pure " + name, (args.pos[0], Const.of(len(it.items))), short), st)]
        if name.startswith("numpy.") and args.pos and (t := st.tensor(args.pos[0])) is not None and t.is_number:
            return [(self.make_tensor("pass", (args.pos[0],), node, st, is_number=True, how=short), st)]
        if name == "builtins.range":
            return [(Sym("range", tuple(args.pos)), st)]
        if name == "collections.defaultdict":
            lists = bool(args.pos) and isinstance(args.pos[0], Api) and args.pos[0].name == "builtins.list"
            return [(self.new(Mapping((), False, st.stamp, lists), st), st)]
        if (
            name in ("builtins.max", "builtins.min")
            and (operands := self._operands_of(args, st))
            and any(st.tensor(o) is not None for o in operands)
        ):
            number = all(t.is_number for o in operands if (t := st.tensor(o)) is not None)
            return [(self.make_tensor("pass", operands, node, st, is_number=number, how=short), st)]
        if name == "builtins.exec" and len(args.pos) == 1:
            self._overridden(st)
        if name == "builtins.setattr" and len(args.pos) == 3:
            if args.pos[1] in (Const.of("grad"), Const.of("_grad")):
                self.gradient_assigned(args.pos[0], args.pos[2], node, st)
            elif isinstance(args.pos[1], Const):
                self.attribute_set(args.pos[0], str(args.pos[1].value), args.pos[2], st, node)
                label = f"{self.label(node.args[0].value)}.{args.pos[1].value}" if isinstance(node, ir.Call) else ""
                self.part_assigned(args.pos[0], args.pos[1].value, args.pos[2], st, node, label)
                st.set_attr(args.pos[0], args.pos[1].value, args.pos[2])
            elif self.part(args.pos[2], st) is not None:
                self.handed_over(args.pos[2:], node, st, "setattr")
            return [(NONE, st)]
        if short == "__init__" and args.pos and "makes.module" in self.know.roles(name.removesuffix(".__init__")):
            st.set_attr(args.pos[0], "initialised", TRUE)
        if (
            name == "builtins.getattr"
            and len(args.pos) >= 2
            and isinstance(args.pos[1], Const)
            and isinstance(args.pos[1].value, str)
        ):
            return self.get_attr(args.pos[0], args.pos[1].value, node, st)
        if name == "copy.deepcopy" and args.pos:
            return [(self._copied(args.pos[0], st), st)]
        if name in _PURE:
            # What is fetched under a computed name is called what the program binds it to.
            return [(Sym("pure " + name, tuple(args.pos), "" if short == "getattr" else short), st)]
        if name == "builtins.print":
            for value in args.pos:
                if st.tensor(value) is not None:
                    self.emit(ReadOut(self.site(node, st), self.thing(value), "print"), st)
            return [(NONE, st)]
        if name == "itertools.tee":
            count = args.get(1, "n")
            copies = int(count.value) if isinstance(count, Const) and isinstance(count.value, int) else 2
            return [(Tup(tuple(self._tee(args.pos[0], node, st) for _ in range(copies)) if args.pos else ()), st)]
        if name == "torch.save":
            self.use_state(args.pos[:1], "save", node, st)
        if name == "torch.load":
            loaded = self.unknown("loaded")
            self.loaded.add(loaded)
            return [(loaded, st)]
        if short in ("nullcontext", "autocast"):
            context = self.unknown(short)
            self.plain_contexts.add(context)
            return [(context, st)]
        if name.startswith("torch.nn.init.") and name.endswith("_") and (filled := args.get(0, "tensor")) is not None:
            return [(filled, st)]  # filled without gradients, and returned itself
        if name.startswith("torch.nn.functional.") or (name.startswith("torch.") and name.count(".") == 1):
            return [(self._operation(name, args, node, st), st)]
        return [(self._unseen(name, args, node, st), st)]

    # -- iterators ----------------------------------------------------------------------------------------------------

    def _next(self, args: Args, node: ir.Node, st: State) -> Results:
        if not args.pos:
            return [(self.unknown(), st)]
        record = st.record(args.pos[0])
        if isinstance(record, Iterator):
            results = self.iterate(args.pos[0], "`next`", node, st, whole=False, single=True)
            return results if record.item is not None else [(self.unknown("", "item"), results[0][1])]
        item = self.unknown("", "item")
        self.data.add(item)
        return [(item, st)]

    def _wrapped(self, args: Args, node: ir.Node, st: State) -> Value:
        """`tqdm(x)`: stands for x; around an iterator it is lazy itself."""
        source = args.get(0, "iterable")
        if source is None:
            return self.unknown("progress")
        if isinstance(st.record(source), Iterator):
            return self.make_lazy("builtins.iter", Args([source]), node, st)
        return source

    def _of_optimizer(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        """`amp.master_params(optimizer)`: an iterator over what the optimizer has."""
        optimizer = args.get(0, "optimizer")
        return None if optimizer is None else self.make_parameters(optimizer, name.rpartition(".")[2], node, st)

    def _tee(self, source: Value, node: ir.Node, st: State) -> Value:
        record = st.record(source)
        item = record.item if isinstance(record, Iterator) else None
        return self.new(Listing(None, item, self.owners(source, st), stamp=st.stamp), st)

    def _type_test(self, name: str, args: Args, st: State) -> Value:
        if not args.pos:
            return self.unknown()
        record = st.record(args.pos[0])
        if name == "torch.is_tensor":
            return (
                Sym("pure " + name, tuple(args.pos))
                if record is None
                else Const.of(isinstance(record, Tensor) and not record.is_number)
            )
        if name == "inspect.isgenerator":
            return (
                Const.of(isinstance(record, Iterator)) if record is not None else Sym("pure " + name, tuple(args.pos))
            )
        tests = args.pos[1].items if len(args.pos) > 1 and isinstance(args.pos[1], Tup) else args.pos[1:2]
        names = {test.name.rpartition(".")[2] for test in tests if isinstance(test, Api)}
        if "FullyShardedDataParallel" in names and st.attr(args.pos[0], "sharded") == TRUE:
            return TRUE
        if record is None or len(names) != len(tests):
            return Sym("pure " + name, tuple(args.pos))
        if isinstance(record, Iterator):
            return Const.of(
                bool(names & {"Iterator", "Generator", "Iterable", "GeneratorType", "filter", "map", "zip", "chain"})
            )
        if isinstance(record, Listing):
            return Const.of(bool(names & {"list", "tuple", "Sequence", "Iterable", "Sized", "Collection", "set"}))
        if isinstance(record, Tensor) and record.is_number and names == {"Tensor"}:
            return FALSE
        if isinstance(record, Tensor) and not record.is_number and "Tensor" in names:
            return TRUE
        if isinstance(record, Tensor) and names <= _NUMBERS:
            if names == {"ndarray"} and self._is_array(args.pos[0], st):
                return TRUE
            source = st.behind(args.pos[0])  # what a module returned, or a part of it
            if source is not None and (source.op == "forward" or self.provenance(st).history(args.pos[0], guess=True)):
                return FALSE  # what carries a graph is a tensor
            if self._surely_tensor(args.pos[0], st):
                return FALSE
        if isinstance(record, Mapping):
            return Const.of(bool(names & {"dict", "Mapping", "Iterable", "MutableMapping", "OrderedDict"}))
        return Sym("pure " + name, tuple(args.pos))

    def _copied(self, value: Value, st: State, depth: int = 0) -> Value:
        record = st.record(value)
        if isinstance(record, Thingy) and record.kind == "state":
            return self.unknown("state")
        if isinstance(record, Thingy):
            made = self.new(replace(record, stamp=st.stamp), st)
            for name, part in list(st.overlay.get(value, {}).items()) if record.kind == "module" else ():
                if name == NAMED_PARTS:
                    continue  # the copy has others
                inner = st.record(part)
                whole = isinstance(inner, Thingy) and inner.kind == "module" and part != value and depth < _NESTED
                st.set_attr(made, name, self._copied(part, st, depth + 1) if whole else part)
            return made
        if isinstance(value, Sym) and self.kind(value, st) == "module":
            made = self.new(Thingy("module", what="copy.deepcopy", stamp=st.stamp), st)
            if value in self.modeless:
                self.modeless.add(made)
            return made
        if depth < _NESTED and isinstance(value, Tup):
            return Tup(tuple(self._copied(part, st, depth + 1) for part in value.items))
        if depth < _NESTED and isinstance(record, Listing) and record.items:
            items = tuple(self._copied(part, st, depth + 1) for part in record.items)
            return self.new(
                replace(record, items=items, item=record.item and items[-1], owners=self._union(items, st)), st
            )
        if depth < _NESTED and isinstance(record, Mapping):
            entries = tuple((key, self._copied(part, st, depth + 1)) for key, part in record.items)
            return self.new(replace(record, items=entries), st)
        return value if not isinstance(record, Iterator) else self.unknown()

    def _averaged(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        """`AveragedModel(model)` begins as a copy."""
        model = args.get(0, "model")
        return self._copied(model, st) if model is not None else None

    # -- making things ------------------------------------------------------------------------------------------------

    def _make(self, kind: str, name: str, args: Args, node: ir.Node, st: State, flag: bool | None = None) -> Value:
        return self.new(Thingy(kind, None, None, name, flag, tuple(args.pos), self.site(node, st), st.stamp), st)

    def make_chosen(self, func: Sym, args: Args, node: ir.Node, st: State) -> Value | None:
        """What a variable makes that holds one of several classes of optimizers: `optimizer_class(params, lr=lr)`."""
        if args.get(0, "params") is None or not self.know.conventions["optimizer_class"].search(func.name):
            return None
        return self._make_optimizer("Optimizer", args, node, st)

    def _make_optimizer(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        short = name.rpartition(".")[2]
        if not short[:1].isupper() or name.startswith("torch.optim.swa_utils"):
            return None
        params = args.get(0, "params")
        owners = self.owners(params, st)
        if params is not None:
            self._consume_groups(params, short, node, st)
        optimizer = self.new(
            Thingy("optimizer", None, owners, name, None, tuple(args.pos[:1]), self.site(node, st), st.stamp), st
        )
        momentum = args.get(2, "momentum")
        still = short == "SGD" and (momentum is None or momentum in (Const.of(0), Const.of(0.0))) and not args.more
        self.optimizer_made(optimizer, short, args, node, st, stateful=not still)
        return optimizer

    def optimizer_made(
        self, optimizer: Value, by: str, args: Args, node: ir.Node, st: State, *, stateful: bool
    ) -> None:
        params = args.get(0, "params")
        self.optimized = True
        owners = self.owners(params, st)
        source: frozenset[Value] = frozenset()
        if not owners and params is not None:
            source = frozenset(self._taken_from(params, st))
        older = self._older(owners or source, st)
        self.leaves_optimised(params, node, st)
        decay = args.kw.get("weight_decay", FALSE)
        decays = decay not in (FALSE, Const.of(0), Const.of(0.0))
        thing = self.thing(optimizer)
        self.emit(OptimizerMade(self.site(node, st), thing, owners, older, stateful, by, decays, source), st)

    def _older(self, parts: frozenset[Hashable], st: State) -> bool | None:
        """Whether what an optimizer is given was there before the running iteration, and is not set back in it."""
        if not parts or not st.stamp:
            return None
        return all(isinstance(part, Value) and self._is_older(part, st) for part in parts)

    def _taken_from(self, params: Value, st: State) -> set[Value]:
        """What parameters were asked for, or the list of them, where it is not known whose they are; nothing if that
        is not known, either.
        """
        if params in self.parameters_of:
            return {self.parameters_of[params]}
        record = st.record(params)
        if isinstance(record, Listing) and record.items is None:
            return {params}
        if isinstance(record, Listing | Iterator):
            inner = record.items if isinstance(record, Listing) else record.sources
            parts = [self._taken_from(part, st) if st.tensor(part) is None else {part} for part in inner or ()]
            return set[Value]().union(*parts) if all(parts) else set()
        return {params} if isinstance(params, Sym) and params.op == "param" else set()

    def _is_older(self, part: Value, st: State) -> bool:
        root: Value = part
        while True:
            if st.attr(root, "loaded") == Sym("stamp", st.stamp):
                return False  # a fresh start from saved weights
            record = st.record(root)
            if isinstance(record, Tensor | Thingy | Listing):
                return st.stamp[-1] not in record.stamp
            if not isinstance(root, Sym) or root.op not in ("attr", "member") or not isinstance(root.args[0], Value):
                break
            root = root.args[0]
        if (
            isinstance(root, Sym)
            and root.op in ("call", "derived", "item", "joined")
            and isinstance(root.args[-1], int)
        ):
            return root.args[-1] <= self.begun.get(st.stamp, -1)
        return isinstance(root, Ref) or (isinstance(root, Sym) and root.op in ("param", "global"))

    def _consume_groups(self, params: Value, short: str, node: ir.Node, st: State) -> None:
        """An optimizer iterates its parameters, and those of each group, in which it leaves a list of them."""
        if isinstance(st.record(params), Iterator):
            self.iterated(params, f"`{short}`", node, st, True)
            return
        for group in self.elements(params, st) or ():
            record = st.record(group)
            if isinstance(record, Mapping):
                entries = dict(record.items)
                value = entries.get(_PARAMS)
                if value is not None and isinstance(it := st.record(value), Iterator):
                    self.iterated(value, f"`{short}`", node, st, True)
                    if isinstance(group, Ref):
                        owners = self.owners(value, st)
                        left = Listing(None, it.item, owners, of_parameters=it.of_parameters, stamp=st.stamp)
                        entries[_PARAMS] = self.new(left, st)
                        st.replace(group, replace(record, items=tuple(entries.items())))

    def _make_scaler(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        enabled = args.kw.get("enabled", TRUE)
        scaler = self._make("scaler", name, args, node, st, flag=enabled != FALSE)
        record = st.record(scaler)
        if isinstance(scaler, Ref) and isinstance(record, Thingy):  # `enabled=args.amp`
            st.replace(scaler, replace(record, args=(enabled,) if isinstance(enabled, Sym | Api) else ()))
        numbers = [arg for arg in args.pos[:2] if isinstance(arg, Const) and arg.type in (int, float)]
        chosen = bool(numbers) or "init_scale" in args.kw
        self.emit(ScalerMade(self.site(node, st), self.thing(scaler), *self.switched(enabled), chosen), st)
        return scaler

    def _make_scheduler(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        optimizer = next((arg for arg in args.all() if self.kind(arg, st) == "optimizer"), None)
        site, known = self.site(node, st), () if optimizer is None else (optimizer,)
        scheduler = self.new(Thingy("scheduler", None, None, name, None, known, site, st.stamp), st)
        span = next((args.kw[key] for key in _SPANS if key in args.kw), None)
        if span is None and name.endswith(".CosineAnnealingLR"):
            span = args.get(1)
        self.emit(
            SchedulerMade(
                site,
                self.thing(scheduler),
                self.thing(optimizer) if optimizer is not None else None,
                name,
                self.thing(span) if span is not None else None,
                args.more or "last_epoch" in args.kw,
            ),
            st,
        )
        return scheduler

    def _make_accelerator(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """Accelerate divides each loss by the size of a window that it was told; Fabric does not."""
        told = args.more or any("accumulation" in key for key in args.kw)
        accelerator = self._make("accelerator", name, args, node, st, flag=told and name.startswith("accelerate"))
        self.accelerator_made(accelerator, name, args, node, st)
        return accelerator

    def _make_module(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        short = name.rpartition(".")[2]
        if name.startswith(("torch.nn.functional", "torch.nn.init", "torch.nn.utils", "torch.nn.parallel")):
            return None
        for arg in args.all():
            if isinstance(st.record(arg), Iterator):
                self.iterated(arg, f"`{short}`", node, st, True)
        self.handed_over(args.all(), node, st, short)
        holds = "modules.holders" in self.know.roles(name)
        if args.more:  # of which kinds they are, and not how many
            args = Args([self.new(Listing(tuple(args.pos)), st)] if holds and args.pos else [])
        module = self._make("module", name, args, node, st)
        if holds:
            self.note_named_parts(module, args.pos, st)
        return module

    def _make_lossfn(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        reduction = _reduction(args)
        site = self.site(node, st)
        made = Thingy("lossfn", None, None, name, reduction != "none", tuple(args.pos), site, st.stamp, reduction)
        return self.new(made, st)

    def _make_parameter(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        trainable = args.kw.get("requires_grad", args.get(1) or TRUE)
        op = "leaf" if trainable == FALSE else "param" if isinstance(trainable, Const) else "data"
        return self.make_tensor(op, (), node, st, how="Parameter")

    def _make_ema(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        for value in args.pos[:1]:
            if isinstance(st.record(value), Iterator):
                self.iterated(value, f"`{name.rpartition('.')[2]}`", node, st, True)
        return self._make("ema", name, args, node, st)

    def _same(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        if name == "torch.distributed.fsdp.ShardedGradScaler":
            return None
        if name == "typing.cast":
            return args.get(1, "val")
        self.sharded(name, args, node, st)
        return args.pos[0] if args.pos else args.kw.get("module") or args.kw.get("model")

    def _same_all(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        given = [value for value in (args.get(0, "models"), args.get(1, "optimizers")) if value is not None]
        return Tup(tuple(given)) if len(given) > 1 else given[0] if given else None

    def _context(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        roles = self.know.roles(name)
        flag: bool | None
        if "context.no_grad" in roles:
            flag = False
            if args.pos and isinstance(args.pos[0], Func):
                func = args.pos[0]
                return Func(func.node, func.ident, func.module, func.closure, func.receiver, func.owner, False)
            if args.get(0, "mode") not in (None, TRUE):
                flag = None  # a setting decides
        elif "context.grad" in roles:
            flag = True
        else:
            given = args.get(0, "mode")
            if isinstance(given, Sym) and given.op == GRAD_MODE:
                given = given.args[0] if isinstance(given.args[0], Const) else None  # it is put back
            flag = self.truth(given, st) if given is not None else None
            if isinstance(given, Sym) and given.op in ("attr", "member") and given.name == "training":
                flag = None
        return self.new(Thingy("context", flag=flag, what=name), st)

    def _anomaly(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """`set_detect_anomaly(…)`, `detect_anomaly()`: acts at once; as the context of a block, until its end."""
        given = args.get(0, "mode") if "set_" in name else TRUE
        enabled = bool(given.value) if isinstance(given, Const) else None
        self.emit(AnomalyDetectionSet(self.site(node, st), enabled), st)
        return self._make("anomaly", name, args, node, st)

    def _autocast(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        """`torch.autocast(device, dtype, enabled)`, or `torch.cuda.amp.autocast(enabled, dtype)`."""
        if not self.hears(AutocastEntered):
            return None
        device = args.get(0, "device_type")
        older = device is None or (isinstance(device, Const) and isinstance(device.value, bool))
        enabled = args.get(0, "enabled") if older else args.get(2, "enabled")
        dtype = args.get(1, "dtype", "fast_dtype")
        if dtype is None or dtype == NONE:
            of = "cuda" if older else device.value if isinstance(device, Const) else ""
            told = {"cuda": "float16", "cpu": "bfloat16"}.get(str(of), "")
        else:
            told = dtype.name.rpartition(".")[2] if isinstance(dtype, Api) else ""
        return self._make("autocast", told, Args([enabled] if enabled is not None else []), node, st)

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _clip(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        params = args.get(0, "parameters")
        limit = args.get(1, "max_norm", "clip_value", "value")
        facts = {
            "own": name.startswith("torch."),
            "dropped": self.statement == id(node),
            "checks": args.more or args.get(3, "error_if_nonfinite") not in (None, FALSE),
        }
        self.clip(params, limit, name.rpartition(".")[2], node, st, **facts)
        return self.make_tensor("leaf", (), node, st, how="norm")

    def clip(
        self,
        params: Value | None,
        limit: Value | None,
        by: str,
        node: ir.Node,
        st: State,
        rescales: bool = False,
        **facts: bool,
    ) -> None:
        """Gradients of `params` are clipped: the iterator is consumed, then the clip acts."""
        if params is None:
            return
        record = st.record(params)
        shown = self._shown(node)
        if isinstance(record, Iterator):
            self.iterated(params, f"`{by}`", node, st, True)
        scaled = limit is not None and self._mentions_scale(limit, st)
        self.emit(
            Clipped(
                self.site(node, st),
                self.thing(params, shown),
                by,
                self.owners(params, st),
                infinite(limit),
                rescales or scaled,
                **facts,
            ),
            st,
        )

    def _mentions_scale(self, value: Value, st: State, depth: int = 0) -> bool:
        if depth > 5:
            return False
        if isinstance(value, Sym):
            return "scale" in value.name or any(
                self._mentions_scale(a, st, depth + 1) for a in value.args if isinstance(a, Value)
            )
        tensor = st.tensor(value)
        return tensor is not None and any(self._mentions_scale(parent, st, depth + 1) for parent in tensor.parents)

    def _backward_function(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        loss = args.get(0, "tensors")
        if loss is not None:
            parts = self.elements(loss, st)
            whole = (
                self.make_tensor("add", parts, node, st, how="backward")
                if parts and len(parts) > 1
                else (parts or (loss,))[0]
            )
            self.backward(whole, Args(args.pos[1:], args.kw), node, st)
        return NONE

    def backward(self, loss: Value, args: Args, node: ir.Node, st: State, wrapped: bool = False) -> None:
        raise NotImplementedError

    def _grad_function(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        outputs = args.get(0, "outputs")
        create = args.kw.get("create_graph", args.get(4) or (self.unknown() if args.more else FALSE))
        given = [arg.value for arg in node.args if arg.keyword == "create_graph"] if isinstance(node, ir.Call) else []
        if create == FALSE and given and not isinstance(given[0], ir.Const):
            create = self.unknown()  # a setting, which some callers turn off
        retain = args.kw.get("retain_graph", create)
        inputs = args.get(1, "inputs")
        asked = () if inputs is None else self.elements(inputs, st) or (inputs,)
        seen = bool(asked) and all(st.tensor(one) is not None for one in asked)
        parts = () if outputs is None else self.elements(outputs, st) or (outputs,)
        for part in parts:
            provenance = self.provenance(st)
            graph = provenance.graph(part)
            walked = provenance.behind(graph, asked) if seen else graph.reaches
            kept = None if not isinstance(retain, Const) else bool(retain.value)
            reaches, frees = frozenset(graph.reaches & walked), frozenset(graph.frees & walked)
            self.emit(Differentiated(self.site(node, st), reaches, frees, kept), st)
        if create != FALSE and not isinstance(create, Const):  # first order or second: it is not known
            made = self.make_tensor("call", tuple(parts), node, st, how="autograd.grad")
        elif create != FALSE:
            made = self.make_tensor("op", tuple(parts), node, st, how="autograd.grad", saves=True)
        else:
            made = self.make_tensor("first order", tuple(parts), node, st, how="autograd.grad")
        self.note_unused(made, args, node, st)
        return made

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _factory(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        trainable = args.kw.get("requires_grad", FALSE)
        op = "param" if trainable == TRUE else "leaf" if isinstance(trainable, Const) else "data"
        return self.make_tensor(op, (), node, st, how=name.rpartition(".")[2])

    def _hard(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        return self.make_tensor("hard", tuple(args.pos[:2]), node, st, how=name.rpartition(".")[2])

    def _number(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        return Sym("pure " + name, tuple(args.pos), name.rpartition(".")[2])

    def _pass(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        return self.make_tensor("pass", self._operands_of(args, st), node, st, how=name.rpartition(".")[2])

    def _operands_of(self, args: Args, st: State) -> tuple[Value, ...]:
        operands: list[Value] = []
        for arg in args.all():
            parts = self.elements(arg, st)
            record = st.record(arg)
            if parts is None and isinstance(record, Listing) and record.item is not None:
                parts = (record.item,)
            for part in parts if parts is not None else (arg,):
                if isinstance(part, Api) and of_elsewhere(part):
                    part = Sym("global", (part.name,), part.name.rpartition(".")[2])  # a tensor of another module?
                if isinstance(part, Const | Func | Api):
                    continue
                if isinstance(part, Ref) and st.tensor(part) is None:
                    continue
                operands.append(part)
        return tuple(operands)

    def _readout(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        source = args.get(0)
        if source is None or isinstance(source, Const):
            return None
        if st.tensor(source) is None and not self.is_tensor(source, st):  # at least it is a number now
            return None if name.startswith("numpy.") else self.unknown(name.rpartition(".")[2])
        tensor = st.tensor(source)
        if tensor is not None and tensor.is_number:
            return self.make_tensor("pass", (source,), node, st, is_number=True, how=name.rpartition(".")[2])
        self.gradient_taken(source, f"{name.rpartition('.')[2]}()", node, st)
        reaches = self.numpy_of(source, st) if name.startswith("numpy.") else frozenset()
        self.emit(ReadOut(self.site(node, st), self.thing(source), name.rpartition(".")[2], reaches), st)
        how = self.label(node)
        return self.make_tensor("readout", (source,), node, st, is_number=True, how=how)

    def _binary_call(self, op: str, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        return self.binary(op, args.pos[0], args.pos[1], node, st) if len(args.pos) >= 2 else None

    def _operation(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """Any other function of torch: a differentiable operation on its tensors."""
        operands = self._operands_of(args, st)
        if not operands or not name.rpartition(".")[2][:1].islower():
            return self.unknown(name.rpartition(".")[2])
        short = name.rpartition(".")[2]
        if name == "torch.pow" and len(args.pos) == 2:
            return self.binary("**", args.pos[0], args.pos[1], node, st)
        reduction = _reduction(args) if "reduction" in args.kw or "loss" in short or "entropy" in short else ""
        if args.pos:
            self.measured(args.pos[0], short, node, st)
        self.saved_by_function(name, args, node, st)
        result = self.make_tensor("op", operands, node, st, how=short, saves=True, reduction=reduction)
        self.computed_loss(name, result, args, node, st)
        if args.pos:
            self.numerical(short, result, args.pos, node, st)
        if gives_indices(short, args.pos[1:], args, st, presumed=False):
            return self.with_indices(result, operands[:1], short, node, st)
        return result

    # -- out of sight -------------------------------------------------------------------------------------------------

    def clip_unseen(self, name: str, args: Args, node: ir.Node, st: State) -> Value | None:
        """A function out of sight that says by its name that it clips gradients, and gets nothing to do more with."""
        short = name.rpartition(".")[2]
        if not _CLIPS.match(short) or not args.pos or any(self.kind(arg, st) == "scaler" for arg in args.all()):
            return None
        self.clip(args.pos[0], args.get(1, "max_norm", "clip_value", "value"), short, node, st)
        return self.make_tensor("leaf", (), node, st, how="norm")

    def _overridden(self, st: State) -> None:
        """`exec` of a file at module level, which sets the settings above it anew: none of them is known any more."""
        if len(st.frames) > 1:
            return
        for name, value in list(st.envs[st.frame.env].items()):
            if isinstance(value, Const) and value.type is not type(None):
                st.bind(st.frame.env, name, Sym("global", (self.fresh(),)))

    def _unseen(self, name: str, args: Args, node: ir.Node, st: State) -> Value:
        """A function that is not in the table: it may have done anything to what it was given."""
        if (norm := self.clip_unseen(name, args, node, st)) is not None:
            return norm
        for value in args.all():
            self.measured(value, name.rpartition(".")[2], node, st)
            if st.tensor(value) is not None and name.startswith(("wandb.", "logging.")):
                self.emit(ReadOut(self.site(node, st), self.thing(value), name), st)
        if not name.startswith(HARMLESS):
            self.escape(args.all(), node, st, name)
        short = name.rpartition(".")[2]
        if "loss" in short.lower() and short[:1].isupper():
            return self._make("lossfn", name, args, node, st, flag=None)
        if "makes.engine" in self.know.roles(name):
            return self.engine_made(name, args, node, st)
        return self._unknown_result(short, args, st)


def _reduction(args: Args) -> str:
    """What a loss function of torch makes of the losses of a batch."""
    given = args.kw.get("reduction")
    if given is not None:
        told = given.value if isinstance(given, Const) else ""
        if told != "mean":
            return told if isinstance(told, str) else ""
    if args.kw.get("size_average") == FALSE:
        return "sum"
    if args.kw.get("reduce") == FALSE:
        return "none"
    return "ragged" if "ignore_index" in args.kw else "mean"


_HANDLERS: list[tuple[str, Callable[..., Value | None]]] = [
    ("iterators.of_optimizer", TorchModel._of_optimizer),
    ("makes.scaler", TorchModel._make_scaler),
    ("makes.scheduler", TorchModel._make_scheduler),
    ("makes.optimizer", TorchModel._make_optimizer),
    ("makes.swa", TorchModel._averaged),
    ("makes.lossfn", TorchModel._make_lossfn),
    ("makes.parameter", TorchModel._make_parameter),
    ("makes.ema", lambda model, *rest: model._make_ema(*rest)),
    ("makes.loader", lambda model, *rest: model._make("loader", *rest)),
    ("makes.accelerator", TorchModel._make_accelerator),
    ("gradients.clip", TorchModel._clip),
    ("gradients.backward", TorchModel._backward_function),
    ("gradients.grad", TorchModel._grad_function),
    ("context.no_grad", TorchModel._context),
    ("context.grad", TorchModel._context),
    ("context.set_grad", TorchModel._context),
    ("context.anomaly", TorchModel._anomaly),
    ("context.autocast", TorchModel._autocast),
    ("same.functions", TorchModel._same),
    ("same.all", TorchModel._same_all),
    ("tensors.factory", TorchModel._factory),
    ("tensors.hard", TorchModel._hard),
    ("tensors.number", TorchModel._number),
    ("tensors.rewrap", TorchModel._rewrap),
    ("tensors.variable", TorchModel._variable),
    ("tensors.readout", TorchModel._readout),
    ("tensors.pass", TorchModel._pass),
    ("tensors.add", lambda model, *rest: model._binary_call("+", *rest)),
    ("tensors.sub", lambda model, *rest: model._binary_call("-", *rest)),
    ("tensors.mul", lambda model, *rest: model._binary_call("*", *rest)),
    ("tensors.div", lambda model, *rest: model._binary_call("/", *rest)),
    ("makes.module", TorchModel._make_module),
]
