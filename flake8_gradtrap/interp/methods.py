"""Methods of things whose class is not visible: tensors, optimizers, scalers, modules, containers, wrappers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Emptied,
    FiniteAsked,
    GradientReadOut,
    ReadOut,
    ResultDropped,
    ScaleRead,
    ScalerUpdated,
    SchedulerStepped,
    Stepped,
    SumBackpropagated,
    Thing,
    UnreducedBackpropagated,
    Unscaled,
    Weights,
)
from flake8_gradtrap.gradients import TORCH_CLIPS
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.carrying import carried
from flake8_gradtrap.interp.classes import DELEGATES
from flake8_gradtrap.interp.conditions import OBJECTS
from flake8_gradtrap.interp.containers import Containers
from flake8_gradtrap.interp.core import Args, Dead, Results, clips_by_name, says_what_gets_gradients
from flake8_gradtrap.interp.overwriting import in_place
from flake8_gradtrap.interp.selecting import gives_indices
from flake8_gradtrap.interp.state import IN_DOUBT, State
from flake8_gradtrap.interp.torch_model import ASKS_FINITE
from flake8_gradtrap.interp.values import (
    FALSE,
    NONE,
    TRUE,
    Api,
    Const,
    Func,
    Iterator,
    Listing,
    Ref,
    Super,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
    of_elsewhere,
)
from flake8_gradtrap.interp.weights import Weighing, summed, unreduced

_GRAPHS = frozenset({"dgl", "torch_geometric", "torch_cluster", "ogb", "graphbolt"})
"""Packages whose batches are graphs: their `to` may work in place."""

_QUIET = frozenset(
    "state_dict load_state_dict train eval to cuda named_parameters parameters size log info debug warning print "
    "add_scalar add_scalars log_metrics set_description set_postfix format join split keys items values get copy "
    "get_last_lr set_epoch write add_image add_histogram".split()
)


_OF_LOSSES = frozenset({"backward", "item"})
"""Methods of a loss, and of no loss function."""

_OF_TENSORS = frozenset("view reshape permute unsqueeze shape dim ndim numel flatten".split())
"""What tensors have, and batches of graphs or of words do not."""

_WRITES = frozenset("copy_ add_ sub_ lerp_ addcmul_ addcdiv_ index_copy_ clamp_ normal_ uniform_".split())
"""Methods that only tensors have: they change the tensor itself, and keep nothing of what they are given."""


_SCALE_SETTINGS = frozenset(
    f"{verb}_{name}" for verb in ("get", "set") for name in ("growth_factor", "backoff_factor", "growth_interval")
)
"""How a scaler is told how its scale shall change: no update of it."""

_BEGINNINGS = ("param", "leaf", "data")
"""Operations with which a graph begins: what they made holds no graph."""

_ADDS = frozenset({"add_module", "register_module", "register_parameter", "append", "extend", "insert"})
"""Methods by which a module gets another part."""

_BOUNDS = frozenset({"clamp", "clamp_min", "clamp_max"})
"""What leaves a number what it counts."""

_STEPS = frozenset({"step", "step_and_update_lr"})
"""Methods of an optimizer that apply the gradients, and may set the next learning rate, too."""
_PREPARES = TORCH_CLIPS | {"zero_grad"}
"""Words of a step that limits or clears the gradients itself."""


class Methods(Containers):
    def call_method(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results:
        if name == "__setattr__" and len(args.pos) == 2:
            return self.call_api("builtins.setattr", Args([receiver, *args.pos]), node, st)
        if name in ASKS_FINITE and self.hears(FiniteAsked):
            self.emit(FiniteAsked(self.site(node, st)), st)
        if self.know.own.kinds and (own := self.own_method(receiver, name, st)):
            return self.own_call(own, name, receiver, args, node, st)
        kind = self.kind(receiver, st)
        if name == "backward" and kind == "const":
            raise Dead  # a placeholder that is still to be written
        if kind in OBJECTS and isinstance(receiver, Sym):
            if st.conds.get(("isnone", receiver)):
                raise Dead  # this path does not exist
            st.conds[("truth", receiver)] = True
        if isinstance(receiver, Super):
            kind = self.class_kind(receiver.owner)
            receiver = receiver.receiver
            if name == "__init__":
                st.set_attr(receiver, "initialised", TRUE)
                self.handed_over(args.all(), node, st, name)
        if (
            name in self.know.lists["iterators.of_parameters"]
            and kind in ("module", "", "instance", "ema")
            and self._holds_parameters(receiver, st)
        ):
            return [(self.make_parameters(receiver, name, node, st), st)]
        if name == "backward" and not args.pos and "loss" in args.kw:  # `booster.backward(loss=…)`
            args = Args([args.kw["loss"]], {key: value for key, value in args.kw.items() if key != "loss"}, args.more)
        handed = (
            bool(args.pos)
            and args.pos[0] != receiver
            and isinstance(receiver, Sym)
            and st.tensor(args.pos[0]) is not None
        )
        tape = self.know.conventions["tape"]
        if name == "backward" and args.pos and tape.search(self._called(node).rpartition(".")[0]):
            self.escape(args.all(), node, st, name)  # another library's: it keeps gradients of its own
            return [(NONE, st)]
        if name == "backward" and args.pos and (kind != "tensor" or handed):
            self._engine_backward(receiver, kind, args, node, st)
            return [(NONE, st)]
        if name == "manual_backward" and args.pos:
            self.backward(args.pos[0], Args(args.pos[1:], args.kw), node, st, wrapped=True)
            return [(NONE, st)]
        if name in _OF_LOSSES and isinstance(receiver, Sym) and kind in ("", "lossfn"):
            kind = "tensor"  # what `loss_fn(…)` returned, if it is called so itself
        handler: Callable[..., Results | None] | None = getattr(self, "on_" + kind, None) if kind else None
        if handler is not None:
            results = handler(receiver, name, args, node, st)
            if results is not None:
                return results
        return [(self._unknown_method(receiver, name, args, node, st), st)]

    def _holds_parameters(self, receiver: Value, st: State) -> bool:
        """Whether a receiver can be a module: an unknown that is asked for its parameters is one."""
        record = st.record(receiver)
        if isinstance(record, Thingy):
            if record.kind == "instance":  # of a class of which a base is out of sight
                return record.cls is None or any(of_elsewhere(base) for base in self.lineage(record.cls))
            return record.kind in ("module", "lossfn")
        return isinstance(receiver, Sym)

    def _unknown_method(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Value:
        if self.statement == id(node):
            self._dropped(receiver, name, args, node, st)
        self.groups_changed(receiver, name, args, node, st)
        if (entry := self.entry_loaded(receiver, name, args)) is not None:
            return entry
        if name == "load_state_dict":
            self.restored(receiver, "", node, st)
        if name == "train" and not args.pos:
            self.set_mode(receiver, name, args, node, st)  # nothing else says that it is a module
        if name == "zero_grad":
            self.emit(Cleared(self.site(node, st), None, None), st)
            return NONE
        if name in ("append", "appendleft", "add") and len(args.all()) == 1 and isinstance(receiver, Sym):
            label = self.label(node.func.value) if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else ""
            self._keep(receiver, args.pos[-1], name, args, node, st, label)
            return NONE
        if name == "enter_context" and len(args.pos) == 1:
            self.enter_context(args.pos[0], st)
        if name == "clear" and isinstance(receiver, Sym):
            self.emit(Emptied(self.site(node, st), self.thing(receiver)), st)
            return NONE
        if name in ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_"):
            record = st.record(args.pos[0]) if args.pos else None
            if isinstance(record, Iterator):
                self.iterated(args.pos[0], f"`{name}`", node, st, True)
            self.escape([receiver, *args.all()], node, st, name)
            return self.unknown(name)
        if name == "__call__" and (norm := self.clip_unseen(self._called(node), args, node, st)) is not None:
            return norm
        if isinstance(receiver, Sym) and self.know.activations.get(name, "views") != "views" and len(args.all()) < 2:
            return self.make_tensor("op", (receiver,), node, st, how="." + name, saves=True)
        for value in args.all():
            self.measured(value, name, node, st)
            if st.tensor(value) is not None and name in _QUIET:
                self.emit(ReadOut(self.site(node, st), self.thing(value), name), st)
        if name not in _QUIET and name not in _WRITES:
            misjudged = name == "__call__" and st.tensor(receiver) is not None  # what is called is no tensor
            self.escape([*args.all()] if misjudged else [receiver, *args.all()], node, st, self._called(node) or name)
        if isinstance(receiver, Sym) and name in self.know.methods["number"]:
            return Sym("pure " + name, (receiver, *args.pos), name)
        if isinstance(receiver, Sym) and (name in self.know.methods["pass"] or name in _BOUNDS):
            value = Sym("derived", (self.fresh(),), receiver.name)
            for group in (self.data, self.likely):
                if receiver in group:
                    group.add(value)
            return value
        result = self._unknown_result(name if name != "__call__" else getattr(receiver, "name", ""), args, st)
        if name == "__call__":
            self.note_output(receiver, result, node, st)
        else:
            self._note_handed_out(name, result)
        return result

    def _note_handed_out(self, name: str, value: Value) -> None:
        """Note what a method returned that hands out what somebody has already."""
        if self.know.conventions["hands_out"].search(name):
            self.handed_out.add(value)

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _dropped(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> None:
        """Tell that a method of a tensor is called as a statement, and does nothing but return another one."""
        copies, views = self.know.dropped["copies"], self.know.dropped["views"]
        if name not in copies | views or "out" in args.kw or not self.hears(ResultDropped):
            return
        if self._torch_made(receiver, st) or self._from_loader(receiver):
            shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
            if isinstance(shown, ir.Call) and name in ("to", "cuda"):
                return  # made here, moved and dropped: the device is being warmed up
            self.emit(ResultDropped(self.site(node, st), self.thing(receiver, shown), name, name in views), st)

    def _torch_made(self, value: Value, st: State, depth: int = 0) -> bool:
        """Whether a function of torch returned a value, or it was computed with one that it returned."""
        tensor = st.tensor(value)
        if tensor is None or tensor.is_number or depth > 12:
            return False
        if tensor.op == "phi":
            return all(self._torch_made(parent, st, depth + 1) for parent in tensor.parents)
        element = tensor.how == "element"
        if tensor.op in ("op", "pass") and tensor.how.isidentifier() and tensor.how != "unpacked" and not element:
            return True
        inner = any(self._torch_made(parent, st, depth + 1) for parent in tensor.parents)
        if element or tensor.how == "autograd.grad":
            return inner or not element
        return tensor.op in ("leaf", "param", "hard", "grad") or (inner and tensor.op not in ("forward", "call"))

    def _from_loader(self, value: Value) -> bool:
        """Whether an unknown is an element of a batch on which nothing is used that tensors do not have."""
        if not isinstance(value, Sym) or value not in self.data:
            return False
        if value.op != "derived" and (value.op != "item" or len(value.args) != 2):
            return False
        used = self.module.protocol.get(value.name, set())
        if self.know.conventions["no_tensor"].search(value.name) and used.isdisjoint(_OF_TENSORS):
            return False
        if any(source.partition(".")[0] in _GRAPHS for source, _, _ in self.module.imports.values()):
            return False
        return bool(value.name) and used <= self.know.method_role.keys() | self.know.methods["attributes"]

    def on_tensor(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        tensor = st.tensor(receiver)
        if self.statement == id(node):
            self._dropped(receiver, name, args, node, st)
        if name == "backward":
            self.backward(receiver, args, node, st)
            return [(NONE, st)]
        if name == "requires_grad_":
            flag = args.get(0, "requires_grad")
            self.froze(receiver, flag, node, st)
            if flag is None or flag == TRUE:
                self.force(receiver, node, st, f"{self.label(node)}")
            elif flag == FALSE and tensor is not None and tensor.op == "param":
                self.mark_frozen(tensor, st)
            return [(receiver, st)]
        self.measured(receiver, name, node, st)
        if tensor is not None and tensor.op == "grad":
            return self._on_gradient(receiver, tensor, name, args, node, st)
        if name == "retain_grad":
            st.set_attr(receiver, "keeps its gradient", TRUE)
            return [(NONE, st)]
        if in_place(name) and tensor is not None:
            shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
            if isinstance(shown, ir.Attr) and shown.attr == "data":
                shown = shown.value
            self.overwritten(receiver, f".{name}()", args.all(), node, st, shown)
            if tensor.op == "param":
                return [(receiver, st)]  # a leaf that is updated in place (under no_grad) is still that leaf
        if name == "register_hook":
            return [(self.unknown(name), st)]
        role = self.know.method_role.get(name)
        if role is None:
            if name.startswith("__"):
                return None
            if tensor is not None and tensor.op == "call":
                return [
                    (self.make_tensor("call", (receiver, *self._operands_of(args, st)), node, st, how="." + name), st)
                ]
            if name == "pow" and args.pos:
                return [(self.binary("**", receiver, args.pos[0], node, st), st)]
            operands = (receiver, *self._operands_of(args, st))
            output = self.make_tensor("op", operands, node, st, how="." + name, saves=True)
            first = args.pos[:1] if name == "where" else []  # `x.where(condition, y)`
            self.numerical(name, output, [*first, receiver, *args.pos[len(first) :]], node, st)
            if (args.pos or args.kw) and gives_indices(name, args.pos, args, st, presumed=True):
                return [(self.with_indices(output, (receiver,), f".{name}()", node, st), st)]
            return [(output, st)]
        number = tensor is not None and tensor.is_number
        if role == "readout":
            if number:
                return [(self.make_tensor("pass", (receiver,), node, st, is_number=True, how=f".{name}()"), st)]
            self.gradient_taken(receiver, f".{name}()", node, st)
            reaches = self.numpy_of(receiver, st) if name == "numpy" else frozenset()
            self.emit(ReadOut(self.site(node, st), self.thing(receiver), f".{name}()", reaches), st)
            mode = False if receiver in self.unrecorded else st.mode
            return [
                (self.make_tensor("readout", (receiver,), node, st, is_number=True, how=f".{name}()", mode=mode), st)
            ]
        if role == "number":
            return [(Sym("pure " + name, (receiver, *args.pos), name), st)]
        if role == "detach":
            value = self.make_tensor("detach", (receiver,), node, st, is_number=number, how=f".{name}()")
            if name == "detach_" and isinstance(receiver, Ref) and tensor is not None:
                made = st.heap[value]
                assert isinstance(made, Tensor)
                st.replace(receiver, replace(made, parents=(self.new(tensor, st),)))
                return [(receiver, st)]
            return [(value, st)]
        if role == "hard":
            return [(self.make_tensor("hard", (receiver,), node, st, how=f".{name}()"), st)]
        if role == "clears":
            return [(self.make_tensor("leaf", (), node, st, how=name), st)]
        if role in ("add", "sub", "mul", "div") and args.pos:
            result = self.binary(
                {"add": "+", "sub": "-", "mul": "*", "div": "/"}[role], receiver, args.pos[0], node, st
            )
            if name.endswith("_") and isinstance(receiver, Ref) and isinstance(result, Ref) and tensor is not None:
                new = st.heap[result]
                if isinstance(new, Tensor):
                    old = self.new(tensor, st)
                    parents = tuple(old if part == receiver else part for part in new.parents)
                    st.replace(receiver, replace(new, parents=parents, stamp=tensor.stamp))
                return [(receiver, st)]
            return [(result, st)]
        if gives_indices(name, args.pos, args, st, presumed=True):
            values = self.make_tensor("pass", (receiver,), node, st, how=f".{name}()")
            return [(self.with_indices(values, (receiver,), f".{name}()", node, st), st)]
        if (
            name == "to"
            and args.pos
            and isinstance(args.pos[0], Api)
            and args.pos[0].name in ("torch.long", "torch.int64", "torch.bool")
        ):
            return [(self.make_tensor("hard", (receiver,), node, st, how=".to()"), st)]
        if name in ("to", "cpu") and self.stays(receiver, name, args, st):
            return [(receiver, st)]
        return [(self.make_tensor("pass", (receiver,), node, st, is_number=number, how=f".{name}()"), st)]

    def _on_gradient(self, receiver: Value, tensor: Tensor, name: str, args: Args, node: ir.Node, st: State) -> Results:
        """`p.grad.…`: cleared, clipped or rescaled in place, or only looked at."""
        owners = self.owners(tensor.parents[0], st) if tensor.parents else None
        if name == "zero_":
            self.emit(Cleared(self.site(node, st), None, owners, True), st)
        elif name in ("fill_", "set_", "copy_") and not any(
            self._of_gradients(part, st, self.provenance(st)) for part in args.pos
        ):
            values = [owner for owner in owners or () if isinstance(owner, Value)]
            self.escape(values, node, st, "a gradient set by hand")
        elif name in ("clamp_", "mul_", "div_", "copy_", "clip_"):
            rescales = name != "clamp_" and not clips_by_name(st)
            self.emit(
                Clipped(self.site(node, st), self.thing(receiver, node), f"`.grad.{name}`", owners, rescales=rescales),
                st,
            )
        elif name in ("detach_", "data", "detach", "clone", "view", "reshape", "float"):
            if name == "clone":
                self.gradients_used((receiver,), name, node, st)
            return [(self.make_tensor("grad", tensor.parents, node, st, how=f".{name}()"), st)]
        elif self.know.method_role.get(name) == "readout":
            self.gradient_taken(receiver, f".{name}()", node, st)
            return [(self.make_tensor("leaf", (), node, st, is_number=True, how=f".{name}()"), st)]
        elif not name.endswith("_"):
            self.gradients_used((receiver,), name, node, st)
        of = (receiver,) if self.hears(GradientReadOut) else ()
        return [(self.make_tensor("leaf", of, node, st, how=f".{name}()"), st)]

    def backward(
        self,
        loss: Value,
        args: Args,
        node: ir.Node,
        st: State,
        wrapped: bool = False,
        weighs: bool = False,
        through: Thing | None = None,
    ) -> None:
        """`loss.backward(…)`: what it walks, frees, and leaves gradients in. `weighs`: it may divide the loss."""
        retain_value = args.kw.get("retain_graph", args.get(1))
        create = args.kw.get("create_graph", FALSE)
        if retain_value is None:
            retain_value = create
        retain: bool | None = (
            bool(retain_value.value) if isinstance(retain_value, Const) else self.truth(retain_value, st)
        )
        provenance = self.provenance(st)
        graph = provenance.graph(loss)
        graph.reaches.add(loss)
        base = provenance.undivided(loss)
        leaf = (bottom := st.tensor(base)) is not None and bottom.op == "param"  # it keeps nothing that could be freed
        if (isinstance(base, Sym) and base.op != "global") or not (graph.frees or isinstance(base, Sym) or leaf):
            graph.frees.add(base)
        for value in self.elements(told, st) or (told,) if (told := args.kw.get("inputs")) is not None else ():
            self.known_as_computed(value, node, st)  # they are given gradients, leaves or not
        record = st.tensor(loss)
        weight = args.get(0, "gradient", "grad_tensors")
        scaled: bool | None = graph.scaler is not None
        if (not scaled and (graph.unknown or wrapped)) or provenance.scaled(loss) is None:
            scaled = None  # where paths have merged, what is scaled on one of them may not be on the other
        scaler = self.thing(graph.scaler) if scaled and graph.scaler is not None else None
        shown = (
            node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) and not wrapped else None
        )
        owners = self.owners_of(graph, st)
        asked = _asks_to_retain(node) and create == FALSE
        self.emit(
            Backpropagated(
                self.site(node, st), self.thing(loss, shown), frozenset(graph.reaches), frozenset(graph.frees), retain,
                provenance.terms(loss, walked=True), owners, scaler, scaled,
                self.thing(weight) if weight is not None and not isinstance(weight, Const) else None,
                recorded=record.mode if record is not None else None,
                creates=create == TRUE,
                weights=Weighing(provenance).weights(loss) if self.hears_windows and not weighs else Weights(),
                through=through,
                carried=carried(graph, provenance, st),
                asked=asked,
                outlives=asked and self._held_elsewhere(graph.reaches, st),
                partial=graph.unknown,
                sure=self.known_owners(graph, st) if owners is None else owners,
                begins=frozenset(value for value in graph.reaches if self._begins(value, st)),
            ),
            st,
        )  # fmt: skip
        if not weighs and self.hears(SumBackpropagated) and (place := summed(st, loss)) is not None:
            self.emit(SumBackpropagated(self.site(node, st), self.thing(loss, shown), place), st)
        if weight is None and self.hears(UnreducedBackpropagated) and (made := unreduced(st, loss)) is not None:
            assert made.site is not None
            self.emit(UnreducedBackpropagated(self.site(node, st), self.thing(loss, shown), made.how, made.site), st)
        st.conds.pop(IN_DOUBT, None)  # gradients are on
        for frame in st.frames:
            st.set_attr(Sym("frame", (frame.env,)), "backward", TRUE)
        nowhere = isinstance(loss, Sym) and loss.op == "global"  # bound nowhere in sight: each time another one
        if not nowhere and (record is None or not record.is_number):
            st.conds[("live", loss)] = True  # else backward would have raised

    def _held_elsewhere(self, graph: set[Value], st: State) -> bool:
        """Whether a part of a graph has a name out of the running function, or is an attribute."""
        made = {part for part in graph if part in self.likely or ((t := st.tensor(part)) and t.op not in _BEGINNINGS)}
        names = (held.values() for env, held in st.envs.items() if env != st.frame.env)
        parts = (held.values() for holder, held in st.overlay.items() if holder not in graph)
        return any(value in made for held in (*names, *parts) for value in held)

    def _begins(self, value: Value, st: State) -> bool:
        """Whether a part of a graph is a Parameter, or an unknown that nothing seen was computed into."""
        tensor = st.tensor(value)
        return tensor.op == "param" if tensor is not None else value not in self.likely

    def _engine_backward(self, receiver: Value, kind: str, args: Args, node: ir.Node, st: State) -> None:
        """`engine.backward(loss)`: Accelerate and Fabric do just that; others may do more."""
        if kind == "accelerator":
            record = st.record(receiver)
            weighs = not isinstance(record, Thingy) or record.flag is not False
            through = self.thing(receiver)
            self.backward(args.pos[0], Args([], args.kw), node, st, wrapped=True, weighs=weighs, through=through)
            if "optimizer" in args.kw:  # for more than to go backward
                self.escape([args.kw["optimizer"]], node, st, "backward")
            return
        loss = args.pos[0]
        graph = self.provenance(st).graph(loss)
        graph.reaches.add(loss)
        thing = self.thing(loss)
        event = Backpropagated(
            self.site(node, st),
            thing,
            frozenset(graph.reaches),
            retains=None,
            terms=self.provenance(st).terms(loss, walked=True),
            opaque=True,
            scaled=None,
        )
        self.emit(event, st)
        self.escape([receiver], node, st, "backward")

    # -- optimizers and scalers ---------------------------------------------------------------------------------------

    def on_optimizer(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        thing = self.thing(
            receiver, node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
        )
        owners = self.owners(receiver, st)
        if name in _STEPS:
            closure = args.get(0, "closure") if name == "step" else None
            needed = frozenset[Hashable](self.needed_parameters(owners, st)) if closure is None else frozenset()
            if isinstance(closure, Func):
                results = self.call_value(closure, Args(), node, st)
                for _, path in results:
                    self.emit(Stepped(self.site(node, path), thing, owners, closure=True), path)
                return [(NONE, path) for _, path in results]
            given, trial = closure is not None, self.on_trial(st)
            self.emit(Stepped(self.site(node, st), thing, owners, closure=given, needed=needed, trial=trial), st)
            return [(NONE, st)]
        if name == "zero_grad":
            self.emit(Cleared(self.site(node, st), thing, owners, _leaves_zeros(args)), st)
            return [(NONE, st)]
        if name in ("state_dict", "load_state_dict", "add_param_group", "train", "eval", "__call__"):
            if name == "load_state_dict":
                self.restored(receiver, "optimizer", node, st)
            if name == "add_param_group":
                self.group_added(receiver, args.get(0, "param_group"), node, st)
            if name == "add_param_group" and args.pos:
                self._consume_groups(self.new(Listing((args.pos[0],)), st), "add_param_group", node, st)
            if name != "__call__":
                return [(self.unknown(name), st)]
        return None

    def own_step(self, base: Value, step: Value, args: Args, node: ir.Call, st: State) -> bool:
        """A visible optimizer's own `step` applies the gradients, unless it leaves that to another one.

        Whether that says all: where such a step clips or clears gradients itself, the order in it is its own affair.
        """
        record = st.record(base)
        if not (isinstance(record, Thingy) and record.kind == "optimizer" and isinstance(step, Func)):
            return False
        if not isinstance(step.node, ir.FunctionDef) or step.node.mentions & DELEGATES or args.all():
            return False
        shown = node.func.value if isinstance(node.func, ir.Attr) else None
        self.emit(Stepped(self.site(node, st), self.thing(base, shown), self.owners(base, st)), st)
        return bool(step.node.mentions & _PREPARES)

    def _wrapped_optimizer(self, value: Value, st: State) -> Value:
        """The one optimizer that an instance of a visible class keeps; else the value itself."""
        record = st.record(value)
        if not (isinstance(record, Thingy) and record.kind == "instance" and record.cls is not None):
            return value
        held = {part for part in st.overlay.get(value, {}).values() if self.kind(part, st) == "optimizer"}
        return held.pop() if len(held) == 1 and "step" in record.cls.defines else value

    def on_scaler(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        record = st.record(receiver)
        enabled = record.args[0] if isinstance(record, Thingy) and record.args else None
        if enabled is not None and name == "scale" and args.pos and self.truth(enabled, st) is None:
            # What is asked about later, `if args.amp: scaler.step(...)`, has to agree with what was scaled here.
            on, off_paths = self.split(enabled, st)
            for path in off_paths:  # also where the reason is forgotten
                if isinstance(record, Thingy) and isinstance(receiver, Ref):
                    path.replace(receiver, replace(record, flag=False))
            return [pair for path in on for pair in self._scale(args, receiver, node, path)] + [
                (args.pos[0], path) for path in off_paths
            ]
        off = enabled is not None and self.truth(enabled, st) is False
        if isinstance(record, Thingy) and (record.flag is False or off):
            if name == "scale" and args.pos:
                return [(args.pos[0], st)]
            if name == "step" and args.pos:
                return self.on_optimizer(args.pos[0], "step", Args(args.pos[1:]), node, st)
            return [(self.unknown(name), st)]
        scaler = self.thing(
            receiver, node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
        )
        site = self.site(node, st)
        if name == "scale" and args.pos:
            return self._scale(args, receiver, node, st)
        stepped = self._wrapped_optimizer(args.pos[0], st) if args.pos else None
        if (
            name in ("unscale_", "step", "unscale")
            and stepped is not None
            and (name != "step" or self.kind(stepped, st) in ("optimizer", ""))
        ):
            shown = node.args[0].value if isinstance(node, ir.Call) and node.args else None
            optimizer, owners = self.thing(stepped, shown), self.owners(stepped, st)
            if name == "step":
                needed = frozenset[Hashable](self.needed_parameters(owners, st))
                self.emit(Stepped(site, optimizer, owners, scaler, needed=needed, trial=self.on_trial(st)), st)
            else:
                self.emit(Unscaled(site, scaler, optimizer, owners), st)
            return [(NONE, st)]
        if name == "update":
            self.emit(ScalerUpdated(site, scaler, bool(args.all())), st)
            return [(NONE, st)]
        if name == "load_state_dict":
            self.restored(receiver, "scaler", node, st)
        if name == "get_scale":
            self.emit(ScaleRead(site, scaler), st)
        if name == "is_enabled":
            return [(Sym("pure is_enabled", (receiver,), name), st)]
        if name in ("get_scale", "state_dict", "load_state_dict") or name in _SCALE_SETTINGS:
            return [(Sym("call", (self.fresh(),), "scale" if name == "get_scale" else name), st)]
        return None

    def _scale(self, args: Args, scaler: Value, node: ir.Node, st: State) -> Results:
        record = st.record(scaler)
        if isinstance(record, Thingy) and record.args and self.truth(record.args[0], st) is False:
            return [(args.pos[0], st)]
        if self.elements(args.pos[0], st) is not None:
            return [(self.unknown("scaled"), st)]
        return [(self.make_tensor("scale", (args.pos[0],), node, st, owner=scaler, how="scale"), st)]

    def on_accelerator(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        if name in ("clip_grad_norm_", "clip_grad_value_", "clip_gradients"):
            params = args.get(1, "optimizer") if name == "clip_gradients" else args.get(0, "parameters")
            self.clip(params, None, name, node, st, rescales=True)
            return [(self.make_tensor("leaf", (), node, st, how="norm"), st)]
        if name in (
            "prepare",
            "setup",
            "prepare_model",
            "setup_module",
            "setup_dataloaders",
            "prepare_optimizer",
            "setup_optimizers",
        ):
            return [(args.pos[0] if len(args.pos) == 1 else Tup(tuple(args.pos)), st)]
        if name == "unscale_gradients":
            optimizer = args.get(0, "optimizer")
            known = self.thing(optimizer) if optimizer is not None and self.kind(optimizer, st) == "optimizer" else None
            owners = self.owners(optimizer, st) if known is not None else None
            self.emit(Unscaled(self.site(node, st), self.thing(receiver), known, owners), st)
            return [(NONE, st)]
        if name in ("unwrap_model",):
            return [(args.pos[0] if args.pos else self.unknown(), st)]
        if name in (
            "accumulate",
            "autocast",
            "no_sync",
            "no_backward_sync",
            "main_process_first",
            "print",
            "log",
            "wait_for_everyone",
            "barrier",
            "log_dict",
            "seed_everything",
            "save_state",
        ):
            return [(self.unknown(name), st)]
        if (
            name in ("gather", "gather_for_metrics", "reduce", "all_reduce", "all_gather")
            and args.pos
            and st.tensor(args.pos[0]) is not None
        ):
            return [(self.make_tensor("leaf", (), node, st, how=name), st)]
        return None

    # -- modules ------------------------------------------------------------------------------------------------------

    def on_module(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        if name == "zero_grad":
            self.emit(Cleared(self.site(node, st), None, self.leaves(receiver, st), _leaves_zeros(args)), st)
            return [(NONE, st)]
        if name in self.know.lists["same.module_methods"]:
            if name == "requires_grad_":
                self.froze(receiver, args.get(0, "requires_grad"), node, st)
                st.set_attr(receiver, "frozen", TRUE if args.get(0, "requires_grad") == FALSE else FALSE)
            elif name in ("train", "eval"):
                self.set_mode(receiver, name, args, node, st)
            elif name == "apply" and args.pos:
                function = args.pos[0]
                if isinstance(function, Func) and says_what_gets_gradients(function):
                    return [(receiver, path) for _, path in self.enter(function, Args([receiver]), node, st)]
            return [(receiver, st)]
        if name in ("add_module", "append", "register_module") and args.pos:
            st.set_attr(receiver, "last layer", args.pos[-1])
        if name == "state_dict":
            return [(self.take_state(receiver, node, st), st)]
        if name == "load_state_dict":
            self.restored(receiver, "module", node, st)
            self.use_state(args.all(), "load", node, st)
        if name in self.know.lists["parameters.remade_by_methods"] or (
            name == "load_state_dict" and args.get(2, "assign") == TRUE
        ):
            self.parameters_remade(receiver, name, node, st)
        if name in (
            "load_state_dict",
            "register_buffer",
            "add_module",
            "register_module",
            "register_parameter",
            "append",
            "extend",
            "insert",
            "no_sync",
            "named_modules",
        ):
            if name == "load_state_dict" and st.stamp:
                for part in self.leaves(receiver, st) or frozenset({receiver}):
                    if isinstance(part, Value):
                        st.set_attr(part, "loaded", Sym("stamp", st.stamp))
            if name in _ADDS:
                self.note_added(receiver, args.all()[-1:], st)
                self.parts_added(receiver, args.all(), name, node, st)
            self.handed_over(args.all(), node, st, name)
            return [(self.unknown(name), st)]
        if name == "clip_grad_norm_":
            self.emit(
                Clipped(self.site(node, st), self.thing(receiver), name, self.leaves(receiver, st), rescales=True), st
            )
            return [(self.unknown(name), st)]
        if name == "clip_gradients" and (clipped := args.get(0, "optimizer")) is not None:  # Lightning's own
            self.clip(clipped, None, name, node, st, rescales=True)
            return [(NONE, st)]
        if self.know.conventions["trains"].search(name):
            return None
        if name == "__call__":
            for arg in args.all():
                if isinstance(st.record(arg), Iterator):
                    self.escape([arg], node, st, name, harmless=True)
            self.saved_by_module(receiver, args, node, st)
            output = self.output(receiver, NONE, args, node, st)
            self.forwarded(receiver, output, node, st)
            return [(output, st)]
        if name in self.know.methods["number"]:
            return [(Sym("pure " + name, (receiver, *args.pos), name), st)]
        value = self.unknown(name)
        if st.mode is False and self.know.conventions["computes"].search(name):
            self.forwarded(receiver, value, node, st)
        if st.mode is not False:
            self.likely.add(value)
        self._note_handed_out(name, value)
        return [(value, st)]

    def on_lossfn(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        if name != "__call__":
            return self.on_module(receiver, name, args, node, st)
        record = st.record(receiver)
        if isinstance(record, Thingy) and record.flag is None:  # not torch's: it may return anything
            return [(self._unknown_result(self._called(node), args, st), st)]
        operands = self._operands_of(args, st)
        reduction = record.reduction if isinstance(record, Thingy) else ""
        if isinstance(record, Thingy):
            self.saved_by_function(record.what, args, node, st)
        made = self.make_tensor("op", operands, node, st, how=self._called(node), saves=True, reduction=reduction)
        if isinstance(record, Thingy):
            self.computed_loss(record.what, made, args, node, st)
        return [(made, st)]

    def on_ema(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        for arg in args.all():
            if isinstance(st.record(arg), Iterator):
                self.iterated(arg, f"`{self.label(node.func) if isinstance(node, ir.Call) else name}`", node, st, True)
        return [(self.unknown(name), st)]

    def on_scheduler(self, receiver: Value, name: str, args: Args, node: ir.Node, st: State) -> Results | None:
        record = st.record(receiver)
        if name == "load_state_dict":
            self.restored(receiver, "scheduler", node, st)
        if name == "step":
            shown = node.func.value if isinstance(node, ir.Call) and isinstance(node.func, ir.Attr) else None
            made = isinstance(record, Thingy) and bool(record.args)
            optimizer = self.thing(record.args[0]) if isinstance(record, Thingy) and made else None
            by = record.what if isinstance(record, Thingy) else ""
            given = bool(args.all()) or args.more
            self.emit(SchedulerStepped(self.site(node, st), self.thing(receiver, shown), optimizer, by, given), st)
        return [(self.unknown(name), st)]


def _leaves_zeros(args: Args) -> bool:
    """Whether a `zero_grad` is asked for zeros, where None would be the default."""
    return args.get(0, "set_to_none") == FALSE


def _asks_to_retain(node: ir.Node) -> bool:
    """Whether a backward says `retain_graph=True`, and not a setting that somebody decides."""
    return isinstance(node, ir.Call) and any(
        arg.keyword == "retain_graph" and isinstance(arg.value, ir.Const) and arg.value.value is True
        for arg in node.args
    )
