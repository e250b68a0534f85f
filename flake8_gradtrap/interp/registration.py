"""What modules are made of: attributes that torch registers, containers that hide what they hold, and parts that are
handed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flake8_gradtrap.events import (
    Attribute,
    AttributeSet,
    ClassEnded,
    Computed,
    Constructed,
    Part,
    Registered,
    Site,
    Thing,
)
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.core import NAMED_PARTS, Core
from flake8_gradtrap.interp.project import Module
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.interp.values import (
    TRUE,
    Class,
    Const,
    Iterator,
    Listing,
    Mapping,
    Ref,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
)

_NESTED = 3
"""Containers within containers are looked into so deep."""
_CHAIN = 6
"""So many operations lie at most between a Parameter and what is kept of it."""
MODULES = frozenset({"module", "lossfn"})
"""The kinds of things that are modules to torch."""

_COLLECTING = frozenset(
    "parameters named_parameters modules named_modules children named_children state_dict _apply to cuda train".split()
)
"""Methods of a module by which torch finds its parts: a class that defines one of them sees to its parts itself."""

_SAYS_WHICH = re.compile(r"^(?!_*(re)?(set|init)).*(param|optimi[sz]er)")
"""Methods called so (`get_parameters`, `configure_optimizers`; not `reset_parameters`) say what is trained."""


class Registration(Core):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._training: dict[int, bool | None] = {}
        self._namespaces: dict[str, str] = {}

    # -- parts --------------------------------------------------------------------------------------------------------

    def part(self, value: Value, st: State) -> Part | None:
        """A value as a module or Parameter that was made in sight; None if it is neither."""
        record = st.record(value)
        if isinstance(record, Thingy) and record.kind in MODULES:
            name = record.cls.name if record.cls is not None else record.what.rpartition(".")[2]
            frozen = st.attr(value, "frozen") == TRUE
            return Part(Thing(value, name), "module", self.has_parameters(record, st), frozen, record.site)
        if isinstance(record, Tensor) and record.op in ("param", "leaf") and record.how == "Parameter":
            return Part(Thing(value, "Parameter"), "parameter", record.op == "param", False, record.site)
        return None

    def has_parameters(self, record: Thingy, st: State, depth: int = 0) -> bool | None:
        """Whether a module has parameters, or a mode of which it must be told; None where that cannot be seen."""
        if record.cls is not None:
            return self._class_trains(record.cls)
        roles = self.know.roles(record.what)
        if "modules.holders" in roles and depth < _NESTED:
            facts = [
                self.has_parameters(inner, st, depth + 1) if isinstance(inner, Thingy) else True
                for arg in record.args
                for part in self.parts(arg, st)[0]
                if isinstance(part.thing.key, Ref) and (inner := st.record(part.thing.key)) is not None
            ]
            return True if True in facts else None if None in facts or not facts else False
        if "modules.stateless" in roles:
            return False
        return True if "modules.layers" in roles or not record.what.startswith("torch.nn.") else None

    def _class_trains(self, cls: Class, depth: int = 0) -> bool | None:
        """Whether the constructor of a visible class, or of a base, mentions a layer or a class that has one."""
        if cls.ident not in self._training:
            self._training[cls.ident] = None  # a class that is made of itself
            self._training[cls.ident] = self._mentions_layer(cls, depth)
        return self._training[cls.ident]

    def _mentions_layer(self, cls: Class, depth: int) -> bool | None:
        for base in self.lineage(cls):
            contents = base.module.definitions.get(base.name) if isinstance(base, Class) else None
            if contents is None or not isinstance(base, Class):
                continue
            for name in contents.methods.get("__init__", frozenset()):
                if not name[:1].isupper():
                    continue
                if "modules.layers" in self.know.roles("torch.nn." + name):
                    return True
                inner = base.module.lookup(name)
                visible = isinstance(inner, Class) and depth < _NESTED and self.class_kind(inner) in MODULES
                if visible and isinstance(inner, Class) and self._class_trains(inner, depth + 1):
                    return True
        return None

    def parts(self, value: Value, st: State, depth: int = 0) -> tuple[tuple[Part, ...], bool]:
        """The modules and Parameters in a container (or the value itself), and whether it holds nothing else."""
        own = self.part(value, st)
        if own is not None:
            return (own,), True
        record = st.record(value)
        inner: tuple[Value, ...] = ()
        if isinstance(value, Tup):
            inner = value.items
        elif isinstance(record, Listing | Iterator):
            items = record.items if isinstance(record, Listing) else None
            inner = items if items is not None else (record.item,) if record.item is not None else ()
        elif isinstance(record, Mapping):
            inner = tuple(item for _, item in record.items)
        if depth > _NESTED or not inner:
            return (), False
        found: list[Part] = []
        whole = True
        for item in inner:
            more, _ = self.parts(item, st, depth + 1)
            whole = whole and self.part(item, st) is not None
            found.extend(more)
        return tuple(found), whole

    def note_named_parts(self, holder: Value, values: Iterable[Value], st: State) -> None:
        """`nn.ModuleList([encoder, decoder])`: parts that have a name already are used by that name, and what is done
        to the holder is done to them.
        """
        found = [part.thing.key for value in values for part in self.parts(value, st)[0] if part.trains is not False]
        bound = {value for env in st.envs.values() for value in env.values()}
        bound |= {value for held in st.overlay.values() for value in held.values()}
        named = tuple(part for part in found if isinstance(part, Ref) and part in bound)
        if named:
            st.set_attr(holder, NAMED_PARTS, Tup(named if len(named) == len(found) else (*named, holder)))

    def attribute(self, name: str, value: Value, st: State) -> Attribute:
        """An attribute of an instance, as an event tells it."""
        own = self.part(value, st)
        thing = Thing(value, name)
        if own is not None:
            return Attribute(name, thing, own.kind, (own,), True)
        record = st.record(value)
        kind = ""
        if isinstance(value, Tup):
            kind = "tuple"
        elif isinstance(record, Listing):
            kind = "list" if record.shape in ("list", "set", "sorted") else record.shape
        elif isinstance(record, Mapping):
            kind = "dict"
        elif isinstance(record, Tensor):
            return Attribute(name, thing, "" if record.is_number else "tensor")
        if not kind:
            return Attribute(name, thing, "")
        found, whole = self.parts(value, st)
        inner = self.elements(value, st)
        count = len(inner) if inner is not None else None
        named = isinstance(record, Mapping) and all(
            isinstance(key, Const) and isinstance(key.value, str) and key.value.isidentifier()
            for key, _ in record.items
        )
        return Attribute(name, thing, kind, found, whole, count, named)

    def attributes(self, instance: Value, st: State) -> tuple[Attribute, ...]:
        """All that an instance holds."""
        held = st.overlay.get(instance, {})
        return tuple(self.attribute(name, value, st) for name, value in held.items() if isinstance(name, str))

    # -- events -------------------------------------------------------------------------------------------------------

    def attribute_set(
        self, base: Value, name: str, value: Value, st: State, node: ir.Node, target: ir.Node | None = None
    ) -> None:
        """Tell that an attribute of a module is assigned (before it is)."""
        if not self.hears(AttributeSet) and not self.hears(Registered):
            return
        if self.kind(base, st) not in MODULES:
            return
        if isinstance(value, Sym):
            if value.op in ("entry", "item") and isinstance(holder := value.args[0], Value):
                self.handed_over((holder,), node, st, name)  # one of those in a container, it is not known which
            return
        old = st.attr(base, name)
        alone = isinstance(node, ir.Assign) and target in node.targets
        shown = node.value if isinstance(node, ir.Assign) and alone else None
        self.emit(
            AttributeSet(
                self.site(target if target is not None else node, st),
                Thing(base, self.label(target.value) if isinstance(target, ir.Attr) else ""),
                self.attribute(name, value, st),
                self.part(old, st) if old is not None else None,
                self.computed_from(value, st),
                self.site(shown, st) if shown is not None else None,
                isinstance(shown, ir.Sequence | ir.Comp | ir.DictDisplay | ir.Call),
                st.attr(base, "initialised") == TRUE,
                self.namespace(st),
            ),
            st,
        )

    def computed_from(self, value: Value, st: State) -> Computed | None:
        """The new Parameter that a tensor was computed from, if it is another tensor for certain."""
        made = st.tensor(value)
        how, site = "", None
        for _ in range(_CHAIN):
            if made is None or made.is_number or made.op not in ("pass", "op", "mul", "div", "add", "sub", "neg"):
                return None
            sources = [part for part in made.parents if (inner := st.tensor(part)) is not None and inner.op != "leaf"]
            if len(sources) != 1 or made.site is None:
                return None
            source = st.tensor(sources[0])
            assert source is not None
            if not self._same_object(made, source):
                how, site = made.how, made.site
            if source.op == "param":
                own = source.how == "Parameter" and site is not None
                return Computed(Thing(sources[0], "Parameter"), how, site, source.site) if own else None
            made = source
        return None

    def _same_object(self, made: Tensor, source: Tensor) -> bool:
        """Whether a conversion may return the tensor itself, because it already is where and what is asked for."""
        call = made.site.node if made.site is not None else None
        if made.op != "pass" or not isinstance(call, ir.Call) or not isinstance(call.func, ir.Attr):
            return False
        name = call.func.attr
        if name in ("contiguous", "float", "type", "type_as", "as_tensor", "requires_grad_", "cpu"):
            return True
        if name not in ("to", "cuda", "half", "double", "bfloat16"):
            return False
        origin = self._spelt(source.site.node) if source.site is not None else ""
        if name != "to":
            return name in origin
        target = next((arg for arg in call.args if arg.keyword in (None, "device", "dtype")), None)
        text = self._spelt(target.value) if target is not None else ""
        if not text or "type" in text or "float32" in text or text.endswith("torch.float"):
            return True
        return text in origin or ("cpu" in text and "cuda" not in origin)

    def _spelt(self, node: object) -> str:
        """What the program writes at a call, arguments and all."""
        if isinstance(node, ir.Call):
            inner = ", ".join(f"{arg.keyword or ''}={self._spelt(arg.value)}" for arg in node.args)
            return f"{self._spelt(node.func)}({inner})"
        if isinstance(node, ir.Attr):
            return f"{self._spelt(node.value)}.{node.attr}"
        return self.label(node) if isinstance(node, ir.Node) else ""

    def handed_over(self, values: Iterable[Value], node: ir.Node, st: State, how: str = "") -> None:
        """Tell that modules or Parameters become part of a module, or may; of a ParameterList, whose they are."""
        if not self.hears(Registered):
            return
        values = tuple(values)
        # Of a list, any element may be the one.
        several = (value.args[0] for value in values if isinstance(value, Sym) and value.op == "entry")
        values = (*values, *(one for one in several if isinstance(one, Value)))
        found = tuple(part for value in values for part in self.parts(value, st)[0])
        if how in ("ParameterList", "ParameterDict"):
            owners = (owner for value in values for owner in self.owners(value, st) or ())
            found += tuple(part for owner in owners if isinstance(owner, Ref) and (part := self.part(owner, st)))
        if found:
            self.emit(Registered(self.site(node, st), found, how), st)

    def escape(
        self, values: Iterable[Value], node: ir.Node, st: State, to: str = "", *, harmless: bool = False
    ) -> None:
        values = list(values)
        super().escape(values, node, st, to, harmless=harmless)
        self.handed_over(values, node, st, to)

    def constructed(self, cls: Class, instance: Value, st: State) -> Constructed:
        attributes = self.attributes(instance, st)
        return Constructed(
            Site((cls.module.path, cls.name)), Thing(instance, cls.name), self.class_kind(cls), attributes
        )

    def class_ended(self, cls: Class, instance: Value) -> ClassEnded:
        """The event, with what the class mentions where it says which parameters it has, or moves them itself."""
        found: frozenset[str] = frozenset()
        for base in self.lineage(cls):
            if isinstance(base, Class):
                for name in base.defines:
                    if name in _COLLECTING or _SAYS_WHICH.search(name):
                        found |= self.methods(base)[name].mentions
        site = Site((cls.module.path, cls.name))
        return ClassEnded(site, Thing(instance, cls.name), self.class_kind(cls), found)

    # -- names --------------------------------------------------------------------------------------------------------

    def namespace(self, st: State) -> str:
        """What the file that runs calls `torch.nn`; "" where it has no name for it."""
        func = st.frame.func
        module: Module = func.module if func is not None else self.module
        if module.path not in self._namespaces:
            bound = [
                name for name, source in module.imports.items() if source[:2] in (("torch", "nn"), ("torch.nn", None))
            ]
            whole = "torch.nn" if "torch" in module.imports else ""
            self._namespaces[module.path] = bound[0] if bound else whole
        return self._namespaces[module.path]

    # -- provided by the other parts of the machine -------------------------------------------------------------------

    def lineage(self, cls: Class) -> list[Value]:
        raise NotImplementedError

    def methods(self, cls: Class) -> dict[str, ir.FunctionDef]:
        raise NotImplementedError

    def class_kind(self, cls: Class) -> str:
        raise NotImplementedError
