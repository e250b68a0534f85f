"""Classes of the abstract run: bases, methods, attributes and instances."""

from __future__ import annotations

from flake8_gradtrap.events import Constructed, ScaleRead
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import Args, Results
from flake8_gradtrap.interp.leaves import KNOWING
from flake8_gradtrap.interp.project import ProjectModule
from flake8_gradtrap.interp.selecting import field_of
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.statements import Statements, methods_of
from flake8_gradtrap.interp.values import (
    NONE,
    Api,
    Class,
    Const,
    Func,
    Listing,
    Method,
    Super,
    Sym,
    Tensor,
    Thingy,
    Value,
    of_elsewhere,
)

_BASE_KINDS = {
    "torch.nn.Module": "module",
    "lightning.pytorch.LightningModule": "module",
    "lightning.LightningModule": "module",
    "torch.optim.Optimizer": "optimizer",
    "torch.optim.optimizer.Optimizer": "optimizer",
    "torch.amp.GradScaler": "scaler",
    "torch.utils.data.Dataset": "dataset",
    "torch.utils.data.IterableDataset": "dataset",
    "torch.utils.data.DataLoader": "loader",
    "torch.autograd.Function": "function",
    "builtins.dict": "dictlike",
}


DELEGATES = frozenset({"super", "optimizer", "optim", "base_optimizer", "inner_optimizer", "_optimizer"})
"""Words of an optimizer's `step` that calls another one's."""


class Classes(Statements):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._methods: dict[int, dict[str, ir.FunctionDef]] = {}
        self._bases: dict[int, list[Value]] = {}

    def methods(self, cls: Class) -> dict[str, ir.FunctionDef]:
        """The methods that a class defines itself."""
        if cls.ident not in self._methods:
            self._methods[cls.ident] = methods_of(cls.read())
        return self._methods[cls.ident]

    def bases(self, cls: Class) -> list[Value]:
        """The values of a class's bases: visible classes and APIs."""
        if cls.ident not in self._bases:
            self._bases[cls.ident] = []
            self._bases[cls.ident] = [self.static(base, cls) for base in cls.bases]
        return self._bases[cls.ident]

    def bind_bases(self, cls: Class, st: State) -> None:
        """Find the bases of a class inside of a function by the names that the function has bound."""
        names = [base for base in cls.bases if isinstance(base, ir.Name | ir.Attr)]
        if st.frame.func is not None and len(names) == len(cls.bases):
            self._bases[cls.ident] = [self.eval(base, st)[0][0] for base in names]

    def static(self, node: ir.Expression, cls: Class) -> Value:
        """The value of a dotted name at module level, without running anything."""
        if isinstance(node, ir.Name):
            return cls.module.lookup(node.id) or Api("builtins." + node.id)
        if isinstance(node, ir.Attr):
            base = self.static(node.value, cls)
            if isinstance(base, Api):
                return Api(self.know.canonical(f"{base.name}.{node.attr}"))
            if isinstance(base, ProjectModule):
                return base.module.lookup(node.attr) or self.unknown(node.attr, "global")
        if isinstance(node, ir.Subscript):
            return self.static(node.value, cls)
        return self.unknown()

    def lineage(self, cls: Class) -> list[Value]:
        """A class and its bases, nearest first; APIs included."""
        result: list[Value] = []
        queue: list[Value] = [cls]
        while queue and len(result) < 20:
            current = queue.pop(0)
            if current in result:
                continue
            result.append(current)
            if isinstance(current, Class):
                queue.extend(self.bases(current))
        return result

    def class_kind(self, cls: Class) -> str:
        for base in self.lineage(cls):
            if isinstance(base, Api):
                if base.name in _BASE_KINDS:
                    return _BASE_KINDS[base.name]
                for kind in ("scheduler", "lossfn", "optimizer", "module"):
                    if f"makes.{kind}" in self.know.roles(base.name):
                        return kind
                if base.name.endswith(("LightningModule", "PreTrainedModel", "ModelMixin")):
                    return "module"
        return "instance"

    def find_method(self, cls: Class, name: str, after: Class | None = None) -> tuple[ir.FunctionDef, Class] | None:
        """The method of a class or of a visible base; with `after`, only behind that class in the lineage."""
        waiting = after is not None
        for base in self.lineage(cls):
            if waiting:
                waiting = base != after
                continue
            if not isinstance(base, Class) and (not isinstance(base, Api) or of_elsewhere(base)) and base != cls:
                return None  # a base out of sight comes first, and may have the method
            if isinstance(base, Class) and name in base.defines and name in self.methods(base):
                return self.methods(base)[name], base
        return None

    def bind_method(self, node: ir.FunctionDef, owner: Class, receiver: Value, st: State) -> Func:
        """A method as it is called. `receiver`: the object through which, or the class."""
        decorators = {part.id for part in node.decorators if isinstance(part, ir.Name)}
        first: Value | None = receiver
        if "classmethod" in decorators:
            first = receiver if isinstance(receiver, Class) else self._class_of(receiver, st) or owner
        elif "staticmethod" in decorators or isinstance(receiver, Class):
            first = None
        return Func(node, id(node), owner.module, owner.closure, first, owner)

    def get_attr(self, base: Value, name: str, node: ir.Node, st: State, called: bool = False) -> Results:
        written = st.attr(base, name)
        if written is not None:
            return [(written, st)]
        if base == NONE and called and name in ("step", "zero_grad") and isinstance(node, ir.Attr):
            return self._set_since(node.value, name, st)
        if isinstance(base, Api):
            return [(Api(self.know.canonical(f"{base.name}.{name}")), st)]
        if isinstance(base, ProjectModule):
            return [(base.module.lookup(name) or Sym("global", (base.path, name), name), st)]
        if isinstance(base, Class):
            method = self.find_method(base, name)
            return [(self.bind_method(*method, base, st) if method else Sym("attr", (base, name), name), st)]
        if isinstance(base, Super):
            cls = self._class_of(base.receiver, st) or base.owner
            method = self.find_method(cls, name, after=base.owner) or self.find_method(
                base.owner, name, after=base.owner
            )
            if method:
                return [(self.bind_method(*method, base.receiver, st), st)]
            return [(Method(base, name), st)]
        if not called and (field := field_of(base, name)) is not None:
            return [(field, st)]
        record = st.record(base)
        if isinstance(record, Thingy) and record.cls is not None:
            found = self._instance_attr(base, record.cls, name, node, st)
            if found is not None:
                return found
        if isinstance(record, Tensor) or (not called and self.kind(base, st) == "tensor"):
            return [(self._tensor_attr(base, name, node, st, called), st)]
        if called:
            attr = Sym("attr", (base, name), name)
            kinds = ("lossfn", "module") if isinstance(record, Thingy) and record.kind == "instance" else ("lossfn",)
            if isinstance(record, Thingy) and record.cls is not None and self.kind_of_unknown(attr) in kinds:
                return [(attr, st)]  # something that it holds is called: no method of its own
            return [(Method(base, name), st)]
        if isinstance(record, Thingy) and record.kind == "optimizer" and name == "param_groups":
            return [(self.new(Listing(None, None, record.owners, True, shape="param_groups"), st), st)]
        if isinstance(base, Sym) and name == "param_groups":
            return [(self.new(Listing(None, None, None, True, shape="param_groups"), st), st)]
        if isinstance(record, Thingy) and record.kind == "module" and name == "module":
            return [(base, st)]
        if isinstance(base, Sym) and name == "module" and self.kind(base, st) == "module":
            return [(base, st)]
        if name == "optimizer" and isinstance(base, Sym) and self.kind(base, st) == "optimizer":
            return [(base, st)]  # what a framework wraps
        if name == "_per_optimizer_states":
            self.escape([base], node, st, name)  # the program looks after the scaler's stages itself
        if name in ("_scale", "_growth_tracker") and self.kind(base, st) == "scaler":
            self.emit(ScaleRead(self.site(node, st), self.thing(base)), st)
        if (kind := self.kind(base, st)) == "optimizer" and name in ("step", "zero_grad"):
            return [(Method(base, name), st)]  # it is called later
        if name == "zero_grad" and (kind == "module" or isinstance(base, Sym)):
            return [(Method(base, name), st)]
        if name in ("weight", "bias") and self.kind(base, st) == "module":
            return [(self.parameter(base, name, node, st), st)]
        if name == "training" and self.kind(base, st) == "module":
            self.read_mode(base, node, st)
        attr = Sym("member" if self.kind(base, st) == "module" else "attr", (base, name), name)
        if base in self.data:
            self.data.add(attr)
        elif base in self.likely and not called:
            self.likely.add(attr)
        return [(attr, st)]

    def _set_since(self, node: ir.Expression, name: str, st: State) -> Results:
        """The method of an optimizer that was None when it was last seen: code out of sight has set the attribute."""
        if not isinstance(node, ir.Attr):
            return [(Method(NONE, name), st)]
        results: Results = []
        for holder, path in self.eval(node.value, st):
            since = Sym("attr", (holder, node.attr), node.attr)
            known = self.kind(since, path) == "optimizer"
            if known:
                path.set_attr(holder, node.attr, since)
            results.append((Method(since if known else NONE, name), path))
        return results

    def parameter(self, module: Value, name: str, node: ir.Node, st: State) -> Value:
        """A parameter of a module, by name; the same one each time."""
        value = self.make_tensor("param", (), node, st, owner=module, how=name)
        st.set_attr(module, name, value)
        return value

    def _tensor_attr(self, base: Value, name: str, node: ir.Node, st: State, called: bool) -> Value:
        record = st.tensor(base)
        if name in KNOWING:
            self.known_as_computed(base, node, st)
        if called and name in self.know.method_role:
            return Method(base, name)
        if name == "data" and record is not None and record.op == "grad":
            return self.make_tensor("grad", record.parents, node, st, how=".grad.data")
        if name == "data":
            return self.make_tensor(
                "detach", (base,), node, st, how=".data", is_number=bool(record and record.is_number)
            )
        if name in ("grad", "_grad"):
            self.gradients_read = True
            self.gradient_read(base, node, st)
            return self.make_tensor("grad", (base,), node, st, how=".grad")
        if name in ("T", "mT", "real", "imag", "H"):
            return self.make_tensor("pass", (base,), node, st, how="." + name)
        if called:
            return Method(base, name)
        attr = Sym("attr", (base, name), name)
        if name == "requires_grad":
            history = self.provenance(st).history(base)
            return Const.of(history) if history is not None else attr
        if (
            record is not None
            and record.op in ("forward", "call", "pass", "op")
            and name not in self.know.methods["number"]
        ):
            if name in ("shape", "device", "dtype", "ndim", "is_cuda", "grad_fn", "is_leaf", "requires_grad", "size"):
                return attr
            return self.make_tensor("pass", (base,), node, st, how="." + name)  # a field of what a model returned
        return attr

    def _class_of(self, value: Value, st: State) -> Class | None:
        record = st.record(value)
        return record.cls if isinstance(record, Thingy) else None

    def _instance_attr(self, base: Value, cls: Class, name: str, node: ir.Node, st: State) -> Results | None:
        method = self.find_method(cls, name)
        if method is None:
            return None
        definition, owner = method
        bound = self.bind_method(definition, owner, base, st)
        if self._is_property(definition):
            return self.call_value(bound, Args(), node, st)
        return [(bound, st)]

    def _is_property(self, definition: ir.FunctionDef) -> bool:
        return any(self.label(d).rpartition(".")[2] in ("property", "cached_property") for d in definition.decorators)

    def runs_when_read(self, base: Value, name: str, st: State) -> bool:
        """Whether an attribute is a property: to read it runs a function, on whatever paths that leads to."""
        record = st.record(base)
        if not isinstance(record, Thingy) or record.cls is None or st.attr(base, name) is not None:
            return False
        method = self.find_method(record.cls, name)
        return method is not None and self._is_property(method[0])

    def _super(self, args: Args, st: State) -> Value:
        frame = st.frame
        if frame.func is not None and frame.func.owner is not None and frame.func.receiver is not None:
            return Super(frame.func.owner, frame.func.receiver)
        return self.unknown("super")

    def instantiate(self, cls: Class, args: Args, node: ir.Node, st: State) -> Results:
        kind = self.class_kind(cls)
        if kind == "dictlike" or any(
            isinstance(base, Api) and base.name in ("typing.NamedTuple", "enum.Enum") for base in self.lineage(cls)
        ):
            return [(self.unknown(cls.name), st)]
        owners = self.owners(args.get(0, "params"), st) if kind == "optimizer" else None
        thing = Thingy(kind, cls, owners, cls.name, site=self.site(node, st), stamp=st.stamp)
        instance = self.new(thing, st)
        if kind == "optimizer" and (params := args.get(0, "params")) is not None:
            self.iterate(params, f"`{cls.name}`", node, st)
        within = any(
            frame.func is not None
            and frame.func.owner is not None
            and getattr(frame.func.node, "name", "") == "__init__"
            and self.class_kind(frame.func.owner) == "module"
            for frame in st.frames
        )
        if kind in ("module", "lossfn"):
            self.handed_over(args.all(), node, st, cls.name)
        if kind == "module" and within:
            return [(instance, st)]  # the parts of a part are not told apart
        found = self.find_method(cls, "__init__")
        if found is None:
            self._dataclass_fields(cls, instance, args, st)
            return [(instance, st)]
        bound = self.bind_method(*found, instance, st)
        if kind == "optimizer":
            self.note_kinds(bound, args, st)
            self._dataclass_fields(cls, instance, args, st)
            self._own_optimizer(cls, instance, args, node, st)
            return [(instance, st)]
        results: Results = [(instance, path) for _, path in self.call_value(bound, args, node, st)]
        if cls.closure and self.hears(Constructed):  # a class inside of a function is no root
            for _, path in results:
                self.emit(self.constructed(cls, instance, path), path)
            self.emit(self.class_ended(cls, instance), st)
        return results

    def _own_optimizer(self, cls: Class, optimizer: Value, args: Args, node: ir.Node, st: State) -> None:
        """Tell that a visible optimizer was made, if it steps itself: one around another leaves that to it."""
        step, params = self.find_method(cls, "step"), args.get(0, "params")
        if step is None or params is None or self.kind(params, st) == "optimizer":
            return
        if step[0].mentions.isdisjoint(DELEGATES):
            stateful = "state" in step[0].mentions
            self.optimizer_made(optimizer, cls.name, args, node, st, stateful=stateful)

    def _dataclass_fields(self, cls: Class, instance: Value, args: Args, st: State) -> None:
        names = [
            part.target.id for part in cls.read() if isinstance(part, ir.AnnOnly) and isinstance(part.target, ir.Name)
        ]
        for name, value in [*zip(names, args.pos, strict=False), *args.kw.items()]:
            st.set_attr(instance, name, value)
