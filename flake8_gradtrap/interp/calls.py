"""Calls of the abstract run: visible functions are entered with their arguments, visible classes instantiated."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from flake8_gradtrap.events import Forwarded, FunctionLeft, IteratorMade, LogarithmTaken, Produced, Site
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.activations import Activations
from flake8_gradtrap.interp.classes import Classes
from flake8_gradtrap.interp.core import HARMLESS, TRAINED, Args, Core, Results, Stalled
from flake8_gradtrap.interp.inference import INFERENCE
from flake8_gradtrap.interp.liveness import Liveness
from flake8_gradtrap.interp.state import IN_DOUBT, Frame, State
from flake8_gradtrap.interp.values import (
    FALSE,
    NONE,
    Api,
    Class,
    Const,
    Func,
    Iterator,
    Listing,
    Mapping,
    Method,
    Sym,
    Tensor,
    Thingy,
    Tup,
    Value,
    setting,
)

DEPTH = 6
"""So many calls are entered within each other."""

SHORT = 25
"""A function of so few identifiers is entered in any case."""

_PLAIN_DECORATORS = frozenset(
    "abc builtins click contextlib dataclasses functools hydra numba pytest typer typing typing_extensions".split()
)
"""Packages whose decorators leave gradients as they are."""

LOSS_FUNCTIONS = frozenset({"compute_loss", "get_loss", "loss_fn", "criterion", "loss_function", "calc_loss", "loss"})
"""Functions that promise a loss by their name."""

OFTEN = 3
"""A function that did nothing to gradients in so many calls is not entered again when helpers have taken many steps."""

SHARE = 7
"""The part of the steps that a helper which does not train may take."""

_DIFFERENTIATES = frozenset({"autograd", "backward", "grad"})
"""Words of a function that may go backward through what it computes, further down."""

_ARRAYS = frozenset({"numpy", "tolist"})
"""Words of a function that may return arrays or lists, and no tensors."""

_CUTTING = frozenset({"detach", "detach_", "data", "no_grad"})
"""What a `forward` mentions that may cut off what it is given."""

_MODES = frozenset({"train", "super"})
"""Words of functions that may put a module back into training mode, themselves or as their class's base does."""

LEAST = 600
"""So many steps it may take in any case, if its caller has twice as many left."""

VERBS = frozenset(
    "backward manual_backward autograd grad zero_grad zero_ step update unscale_ clip_grad_norm clip_grad_norm_ "
    "clip_grad_value_ "
    "requires_grad_ apply map func fn closure".split()
)
"""Words without which a function does nothing to gradients."""

TRAINS = frozenset({"backward", "manual_backward", "zero_grad"})

ACTS = frozenset(
    "backward manual_backward zero_grad clip_grad_norm clip_grad_norm_ clip_grad_value_ clip_grads_with_norm_ "
    "GradScaler scaler parameters named_parameters params requires_grad requires_grad_ set_grad_enabled loss losses "
    "criterion".split()
)
"""Words of functions that act on gradients, whatever they are given. The others say something of a tensor that is
handed in.
"""


SETTLES = frozenset({"zero_grad", "unscale_"})
"""Words of functions that put right what others began; no finding begins with them, so no rule waits for them."""

Entered = tuple[Args, State]
"""The arguments with which a function is entered on a path, and the path."""


class Calls(Classes):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._acting: dict[int, bool] = {}

    def grad_mode(self, func: Func) -> bool | None:
        """The gradient mode that the decorators of a function set; None: they set none."""
        node = func.node
        if func.no_grad is not None or not isinstance(node, ir.FunctionDef):
            return func.no_grad
        mode: bool | None = None
        for decorator in node.decorators:
            call = decorator.func if isinstance(decorator, ir.Call) else decorator
            text = self.label(call)
            if isinstance(call, ir.Name):
                value = func.module.lookup(call.id)
                name = value.name if isinstance(value, Api) else text
            else:
                name = self._dotted(call, func)
            name = self.know.canonical(name)
            roles = self.know.roles(name)
            if (
                "context.no_grad" in roles
                or name.endswith((".no_grad", ".inference_mode"))
                or text in ("no_grad", "inference_mode")
            ):
                mode = False
            elif "context.grad" in roles:
                mode = True
        return mode

    def _infers(self, func: Func) -> bool:
        """Whether a function is decorated with `inference_mode`."""
        decorators = func.node.decorators if isinstance(func.node, ir.FunctionDef) else ()
        calls = [one.func if isinstance(one, ir.Call) else one for one in decorators]
        return any(self.label(call).rpartition(".")[2] == "inference_mode" for call in calls)

    def _decorated(self, func: Func) -> bool:
        """Whether a decorator that is not known may have turned gradients off. A backward would not run then."""
        if not isinstance(func.node, ir.FunctionDef) or not func.node.mentions.isdisjoint(TRAINS):
            return False
        return not all(self._plain(one, func) for one in func.node.decorators)

    def _plain(self, decorator: ir.Expression, func: Func) -> bool:
        """Whether a decorator is one of Python, or of a library that knows nothing of gradients."""
        node = decorator.func if isinstance(decorator, ir.Call) else decorator
        while isinstance(node, ir.Attr):
            node = node.value
        if not isinstance(node, ir.Name):
            return False
        value = func.module.lookup(node.id)
        if isinstance(value, Api):
            return value.name.partition(".")[0] in _PLAIN_DECORATORS
        return value is None and node.id in ("staticmethod", "classmethod", "property")

    def _dotted(self, node: ir.Node, func: Func) -> str:
        if isinstance(node, ir.Attr):
            return f"{self._dotted(node.value, func)}.{node.attr}"
        if isinstance(node, ir.Name):
            value = func.module.lookup(node.id)
            return value.name if isinstance(value, Api) else node.id
        return ""

    # -- attributes ---------------------------------------------------------------------------------------------------

    # -- calling ------------------------------------------------------------------------------------------------------

    def call_value(self, func: Value, args: Args, node: ir.Node, st: State) -> Results:
        self.tick()
        if isinstance(func, Func):
            return self.enter(func, args, node, st)
        if isinstance(func, Class):
            return self.instantiate(func, args, node, st)
        if isinstance(func, Api):
            if func.name == "builtins.super":
                return [(self._super(args, st), st)]
            return self.call_api(func.name, args, node, st)
        if isinstance(func, Method):
            return self.call_method(func.receiver, func.name, args, node, st)
        if isinstance(func, Sym) and func.op == "pure builtins.getattr" and func.args[0] == Api("torch.nn"):
            return self.call_api("torch.nn.Module", args, node, st)  # a layer whose class is chosen by its name
        if isinstance(func, Sym) and (chosen := self.make_chosen(func, args, node, st)) is not None:
            return [(chosen, st)]
        kind = self.kind(func, st)
        record = st.record(func)
        if isinstance(record, Thingy) and record.cls is not None:
            name = "forward" if kind in ("module", "lossfn") else "__call__"
            found = self.find_method(record.cls, "__call__") or self.find_method(record.cls, name)
            if found is not None:
                bound = self.bind_method(*found, func, st)
                if kind == "module" and isinstance(bound, Func):
                    return self._forward(func, bound, args, node, st)
                return self.call_value(bound, args, node, st)
        return self.call_method(func, "__call__", args, node, st)

    def _forward(self, module: Value, bound: Func, args: Args, node: ir.Node, st: State) -> Results:
        """Call a visible module: its `forward` runs, and what it returns is the module's output."""
        results: Results = []
        quieted = self.quieted
        if self.matters(bound, args, st):
            cuts = not _CUTTING.isdisjoint(ir.mentions(bound.node))
            for value, path in self.enter(bound, args, node, st):
                results.append((self._output(module, value, args, node, path, cuts), path))
        else:
            results.append((self.output(module, NONE, args, node, st), st))
        for value, path in results:
            self.forwarded(module, value, node, path, quieted)
        return results

    def _output(self, module: Value, value: Value, args: Args, node: ir.Node, st: State, cuts: bool = False) -> Value:
        record = st.record(value)
        if isinstance(value, Tup):
            return Tup(tuple(self._output(module, part, args, node, st, cuts) for part in value.items))
        if isinstance(record, Listing):
            items = (
                tuple(self._output(module, part, args, node, st, cuts) for part in record.items)
                if record.items is not None
                else None
            )
            item = self._output(module, record.item, args, node, st, cuts) if record.item is not None else None
            return self.new(Listing(items, items[0] if items else item, stamp=st.stamp), st)
        if isinstance(record, Mapping):
            entries = tuple((key, self._output(module, item, args, node, st, cuts)) for key, item in record.items)
            return self.new(Mapping(entries, record.closed, st.stamp), st)
        if isinstance(record, Tensor) and (record.is_number or record.op in ("readout", "hard")):
            return value  # a number, or an index: no output of the module goes with it
        if isinstance(value, Const | Func) or (record is not None and not isinstance(record, Tensor)):
            return value
        return self.output(module, value, args, node, st, cuts)

    def output(self, module: Value, value: Value, args: Args, node: ir.Node, st: State, cuts: bool = False) -> Value:
        """The output of a module: `value` is what its visible `forward` returned, None where that is not seen. `cuts`:
        it may cut off what it is given.
        """
        inputs = tuple(part for arg in args.all() for part in self.reachable(arg, st) if self.provenant(part, st))
        if value == NONE and any("detach" in name and given != FALSE for name, given in args.kw.items()):
            inputs = ()  # the caller asks an unseen module to cut them off, or a setting does
        elif cuts and inputs and not isinstance(value, Const):
            without = self.provenance(st).cut_off(value)
            inputs = tuple(part for part in inputs if part not in without)
        doubtful = st.conds.get(IN_DOUBT) == "unseen" or self.frozen(module, st)
        mode = None if st.mode and doubtful else st.mode
        output = self.make_tensor(
            "forward", (value, *inputs), node, st, owner=module, how=self._called(node), saves=True, mode=mode
        )
        if any(isinstance(arg, Sym) and arg.op in ("joined", "member") for arg in args.all()):
            self.likely.add(output)  # what came in may be another module's: its owners are not all known
        return output

    def _called(self, node: ir.Node) -> str:
        return self.label(node.func) if isinstance(node, ir.Call) else ""

    # -- entering a function ------------------------------------------------------------------------------------------

    def enter(self, func: Func, args: Args, node: ir.Node, st: State) -> Results:
        """Run a visible function on actual arguments; what it returns, on each path that returns."""
        return self.enter_together(func, [(args, st)], node)

    def enter_together(self, func: Func, calls: Sequence[Entered], node: ir.Node) -> Results:
        """Run a visible function on several paths at once: they merge in it, as they do around it."""
        results: Results = []
        groups: dict[Hashable, list[Entered]] = {}
        for args, st in calls:
            left = self._left_out(func, args, node, st)
            if left is not None:
                results += left
            else:
                key = st.frames, st.stamp, st.mode, IN_DOUBT in st.conds, INFERENCE in st.conds
                groups.setdefault(key, []).append((args, st))
        for group in groups.values():
            results += self._enter_group(func, group, node)
        return results

    def _enter_group(self, func: Func, calls: Sequence[Entered], node: ir.Node) -> Results:
        if self._steps_through(func):
            return self._activate_all(func, [(self.bind(func, args, st), st) for args, st in calls], node)
        idle = self.idle.get(func.ident, 0)
        often = self.helped > self.budget // SHARE // 2 and idle >= OFTEN
        results: Results = []
        if self.limit == math.inf and (often or (self.helped > self.budget // SHARE and idle > 0)):
            name = self._called(node).rpartition(".")[2]
            for args, st in calls:
                self._forget_assigned(func, st)
                plain = func.ident in self.plain
                result = self.unknown(name) if plain else self._unentered_result(func, name, args, st)
                self.unentered.add(result)
                results.append((result, st))
            return results
        if func.ident in self.stalled or (self.limit == math.inf and self.helped > 2 * self.budget // SHARE):
            for args, st in calls:
                self._forget_assigned(func, st)
                results += self._out_of_sight(func, args, node, st)
            self.unentered.update(result for result, _ in results)
            return results
        return self._within_limits(func, calls, node)

    def _left_out(self, func: Func, args: Args, node: ir.Node, st: State) -> Results | None:
        """What a visible call gives that is not entered: a generator, one that says nothing; None: it is entered."""
        depth = len(st.frames)
        if node is not None:
            self.note_kinds(func, args, st)
        if func.receiver is not None and getattr(func.node, "name", "") == "train":
            self.own_train(func.receiver, args, node, st)
        if _abstract(func.node) or not self.matters(func, args, st):
            return self._out_of_sight(func, args, node, st)
        if depth > DEPTH or sum(frame.func is not None and frame.func.ident == func.ident for frame in st.frames) > 0:
            return self._out_of_sight(func, args, node, st)
        if isinstance(func.node, ir.FunctionDef) and func.node.is_generator:
            return [(self._generator(func, args, node, st), st)]
        return None

    def _out_of_sight(self, func: Func, args: Args, node: ir.Node, st: State) -> Results:
        """A visible call that is not entered: it may do anything with its arguments, and what it mentions of `self`."""
        if self._may_act(func):
            held = st.overlay.get(func.receiver, {}) if func.receiver is not None else {}
            own = [held[name] for name in ir.mentions(func.node) & held.keys()]
            self.escape(args.all(), node, st, self._called(node))
            Core.escape(self, own, node, st, self._called(node))  # and is registered nowhere by that
        bound = func.receiver is not None and getattr(func.node, "name", "") != "__init__"
        switches = not _MODES.isdisjoint(ir.mentions(func.node))
        if switches and (bound or any(self.kind(arg, st) == "module" for arg in args.all())):
            self.mode_unknown(node, st)
        return [(self._unentered_result(func, self._called(node).rpartition(".")[2], args, st), st)]

    def _unentered_result(self, func: Func, name: str, args: Args, st: State) -> Value:
        if not _ARRAYS.isdisjoint(ir.mentions(func.node)):
            return self.unknown(name)  # it may return no tensors
        if self.grad_mode(func) is not False:
            return self._unknown_result(name, args, st)
        result = self.unknown(name)  # no gradient goes through what its decorator says is made without
        self.data.add(result)
        return result

    def _forget_assigned(self, func: Func, st: State) -> None:
        """What a method that was run before, and is not entered any more, would compute anew for its attributes."""
        if func.receiver is None or not isinstance(func.node, ir.FunctionDef):
            return
        held = st.overlay.get(func.receiver, {})
        for name in func.node.mentions & func.module.source.rebound & held.keys():
            tensor = st.tensor(held[name])
            if tensor is not None and tensor.stamp and tensor.op != "param":
                st.set_attr(func.receiver, name, self.unknown(name, "member"))

    def _may_act(self, func: Func) -> bool:
        """Whether a function that is not entered may act on gradients, by its words and by those of what it calls."""
        if func.ident not in self._acting:
            values = [func, *(func.module.lookup(name) for name in ir.mentions(func.node) & func.module.imports.keys())]
            self._acting[func.ident] = any(self._names_an_act(value) for value in values)
        return self._acting[func.ident]

    @staticmethod
    def _names_an_act(value: Value | None) -> bool:
        if isinstance(value, Func):
            return bool(ir.mentions(value.node) & (VERBS | value.module.names_that_matter(VERBS)))
        if isinstance(value, Api):  # what is used of torch itself is among the words
            return not (value.name + ".").startswith((*HARMLESS, "torch."))
        return not isinstance(value, Const)

    def _steps_through(self, func: Func) -> bool:
        """Whether a function trains, by its words or by those of what it calls: it may take all steps."""
        mentions = func.node.mentions if isinstance(func.node, ir.FunctionDef) else frozenset()
        return bool(mentions & TRAINS or mentions & func.module.names_that_matter(TRAINS))

    def _within_limits(self, func: Func, calls: Sequence[Entered], node: ir.Node) -> Results:
        """Run a helper that does not train. One that takes too many steps is left, and not entered again."""
        before = [(args, st.fork()) for args, st in calls]
        acts, entered, limit, waiting = self.acts, set(self.entered), self.limit, self.waiting()
        left = min(limit, self.budget) - self.steps
        self.limit = self.steps + max(left // SHARE, min(left // 2, LEAST))
        try:
            results = self._activate_all(func, [(self.bind(func, args, st), st) for args, st in calls], node)
        except Stalled:
            self.stalled.add(func.ident)
            self.entered = entered  # what was entered may still be run by itself
            results = []
        finally:
            self.limit = limit
        if not results:  # if it came to its end: more likely a test was misjudged than that the program ends
            mentions = func.node.mentions if isinstance(func.node, ir.FunctionDef) else frozenset()
            if mentions & _DIFFERENTIATES:
                self.take_back(waiting)
            return [pair for args, st in before for pair in self._out_of_sight(func, args, node, st)]
        self.idle[func.ident] = self.idle.get(func.ident, 0) + 1 if self.acts == acts else -1_000
        if not all(self.provenance(path).history(value, guess=True) for value, path in results):
            self.plain.add(func.ident)
        return results

    def matters(self, func: Func, args: Args, st: State) -> bool:
        """Whether a visible call is worth entering: what it mentions, what it is given, how short it is."""
        node = func.node
        if not isinstance(node, ir.FunctionDef) or node.is_generator:
            return True
        if node.name == "forward":
            words = self.forward_words | func.module.names_that_matter(self.entry_words)
            return bool(node.mentions & words) or len(node.mentions) <= SHORT // 2
        acts = self.entry_words & ACTS
        if node.mentions & acts or node.mentions & func.module.names_that_matter(acts):
            return True
        if node.mentions & SETTLES or node.mentions & func.module.names_that_matter(SETTLES):
            return True
        if "train" in node.mentions and "eval" in self.entry_words and func.receiver is not None:
            return True  # it may put back into training mode what another method has put out of it
        if st.mode is not True and "eval" in node.mentions & self.entry_words:
            return True  # it evaluates something, and that no gradients are recorded is all that it is given
        given = [*args.all(), *([func.receiver] if func.receiver is not None else [])]
        if any(isinstance(st.record(arg), Iterator) for arg in given) or len(node.mentions) <= SHORT:
            return True
        if not any(self._trains(arg, st) for arg in (*given, *self._free(func, st))):
            return False
        if node.name == "__init__":
            return True  # it keeps what it is given
        return bool(node.mentions & self.entry_words or node.mentions & func.module.names_that_matter(self.entry_words))

    def _free(self, func: Func, st: State) -> list[Value]:
        """The values of the names that a function takes from those around it, and from the module that is run."""
        mentions = func.node.mentions if isinstance(func.node, ir.FunctionDef) else frozenset()
        envs = (*func.closure, 0) if func.module is self.module else func.closure
        return [env[name] for number in envs for env in [st.envs.get(number, {})] for name in mentions & env.keys()]

    def _trains(self, value: Value, st: State) -> bool:
        """Whether a value, or an attribute of a visible instance, takes part in training."""
        record = st.record(value)
        parts = st.overlay.get(value, {}).values() if isinstance(record, Thingy) and record.cls is not None else ()
        return any(self.provenant(part, st) or self.kind(part, st) in TRAINED for part in (value, *parts))

    def _unknown_result(self, name: str, args: Args, st: State) -> Value:
        provenance = self.provenance(st)
        live = tuple(arg for arg in args.all() if self.provenant(arg, st) and provenance.history(arg, guess=True))
        value = self.unknown(name)
        models = any(self.kind(arg, st) == "module" for arg in args.all())
        if any(self._holds_modules(arg, st) for arg in args.all()):
            self.handed_out.add(value)
        result: Value = value
        if live and self.kind_of_unknown(value) in ("", "tensor", "lossfn"):  # called like the function that made it
            result = self.new(Tensor("call", live, None, st.mode, how=name, stamp=st.stamp), st)
        if st.mode is False:
            self.unrecorded.add(result)
        elif models or (live and result is value):
            self.likely.add(result)
        return result

    def _holds_modules(self, value: Value, st: State) -> bool:
        """Whether a value is a module, or a visible instance or a collection with one among its parts."""
        if isinstance(value, Const | Sym):
            return isinstance(value, Sym) and self.kind(value, st) == "module" and not setting(value)
        return any(self.kind(part, st) == "module" for part in self.reachable(value, st, attributes=True))

    def bind(self, func: Func, args: Args, st: State) -> dict[str, Value]:
        """The environment in which a function starts."""
        params = func.node.params
        env: dict[str, Value] = {}
        positional = list(args.pos)
        if func.receiver is not None:
            positional.insert(0, func.receiver)
        keywords = dict(args.kw)
        for param in params:
            if param.kind in ("posonly", "pos"):
                if positional:
                    env[param.name] = positional.pop(0)
                elif param.name in keywords:
                    env[param.name] = keywords.pop(param.name)
                else:
                    env[param.name] = self._missing(param, func, args, st)
            elif param.kind == "star":
                if args.more:
                    env[param.name] = self.new(
                        Listing(None, positional[0] if positional else None, stamp=st.stamp, shape="tuple"), st
                    )
                else:
                    env[param.name] = Tup(tuple(positional))
                positional = []
            elif param.kind == "kw":
                env[param.name] = (
                    keywords.pop(param.name) if param.name in keywords else self._missing(param, func, args, st)
                )
            else:
                entries = tuple((Const.of(name), value) for name, value in keywords.items())
                env[param.name] = self.new(Mapping(entries, not args.more, st.stamp), st)
        return env

    def _missing(self, param: ir.Param, func: Func, args: Args, st: State) -> Value:
        if param.default is None or args.more:
            return self.unknown(param.name, "param")
        return self.default(param.default, func)

    def default(self, node: ir.Expression, func: Func) -> Value:
        """The value of a parameter's default: a constant, a dotted name, or an unknown."""
        if isinstance(node, ir.Const):
            return Const.of(node.value)
        if isinstance(node, ir.Name):
            return func.module.lookup(node.id) or self.unknown(node.id)
        if isinstance(node, ir.UnaryOp) and isinstance(node.operand, ir.Const) and node.op == "-":
            return Const.of(-node.operand.value)
        if isinstance(node, ir.Sequence) and not node.elts and node.kind == "tuple":
            return Tup(())
        return self.unknown("", "default")

    def _activate(self, func: Func, env: dict[str, Value], node: ir.Node | None, st: State) -> Results:
        """Run a function's body in an environment; `node` is the call, None where nothing visible calls it."""
        return self._activate_all(func, [(env, st)], node)

    def _activate_all(
        self, func: Func, entries: Sequence[tuple[dict[str, Value], State]], node: ir.Node | None
    ) -> Results:
        """Run a function's body on paths that come to it from one place, in one mode, each with its environment."""
        self.entered.add(func.ident)
        first = entries[0][1]
        if len(first.frames) == 1:
            self.outermost = func.ident, self.steps
        env_id = self.fresh()
        handed: set[Value] = set()
        for env, st in entries:
            for name, value in env.items():
                if name != "self":
                    handed |= self.reachable(value, st)
        call = Site(node, first.frames[-1].call if first.frames else None) if node is not None else None
        frame = Frame(env_id, func.closure, func, call, frozenset(handed))
        mode = first.mode
        if func.ident not in self.liveness and isinstance(func.node, ir.FunctionDef):
            self.liveness[func.ident] = Liveness(func.node.body)
        declared = self.grad_mode(func)
        infers = declared is False and INFERENCE not in first.conds and self._infers(func)
        restores = declared is not None  # else what `set_grad_enabled` does in it outlives it
        doubts = declared is None and IN_DOUBT not in first.conds and self._decorated(func)
        for env, st in entries:
            st.put_names(env_id, env)
            st.frames = (*st.frames, frame)
            if infers:
                self.infer(st)
            if declared is not None:
                st.mode = declared
            if doubts:
                st.conds[IN_DOUBT] = True
        self.quieted += declared is False
        results: Results = []
        if isinstance(func.node, ir.Lambda):
            for _, st in entries:
                for result, path in self.eval(func.node.body, st):
                    results.append((result, self._leave(path, mode if restores else path.mode, env_id)))
            return results
        live = self.merger.merge([st for _, st in entries])
        for path, signal, given in self.exec_block(func.node.body, live):
            if signal == "raise":
                continue
            returned = given if given is not None else NONE
            self._left(func, returned, path)
            if doubts:
                path.conds.pop(IN_DOUBT, None)
            if infers:
                path.conds.pop(INFERENCE, None)
            results.append((returned, self._leave(path, mode if restores else path.mode, env_id)))
        return self.gather_returns(results)

    def gather_returns(self, results: Results) -> Results:
        results = self.gather(results)
        if len(results) <= 3:
            return results
        # Many different values: what they have in common is not worth a path each.
        tensors = [(value, path) for value, path in results if path.tensor(value) is not None]
        rest = [(value, path) for value, path in results if path.tensor(value) is None]
        merged: Results = []
        for group in (tensors, rest):
            if len(group) <= 2:
                merged.extend(group)
                continue
            key = Sym("returned", (self.fresh(),))
            for value, path in group:
                path.set_attr(key, "value", value)
            for path in self.merger.merge([path for _, path in group]):
                merged.append((path.drop_attr(key, "value") or NONE, path))
        return merged

    def _leave(self, st: State, mode: bool | None, env_id: int) -> State:
        st.frames = st.frames[:-1]
        st.mode = mode
        st.drop_attr(Sym("frame", (env_id,)), "returned at")
        st.drop_attr(Sym("frame", (env_id,)), "backward")
        if ("captured", env_id) not in st.conds:
            st.envs.pop(env_id, None)
        return st

    def _left(self, func: Func, value: Value, st: State) -> None:
        """Say what leaves a function: its values, and whether they are a loss or a module's output."""
        node = func.node
        assert isinstance(node, ir.FunctionDef)
        frame_key = Sym("frame", (st.frame.env,))
        mark = st.attr(frame_key, "returned at")
        site = mark.args[0] if isinstance(mark, Sym) and isinstance(mark.args[0], Site) else self.site(node, st)
        self.left_with(func, value, st)
        values = self.tensors_in(value, st)
        if st.attr(frame_key, "backward") is not None:
            record = st.record(value)
            entries = (
                [item for _, item in record.items if st.tensor(item) is not None] if isinstance(record, Mapping) else []
            )
            history = self.provenance(st).history
            for part in [*values, *entries]:
                if history(part):
                    st.set_attr(part, "made by", Sym("sites", (site,)))
        by = self.promise(func, st)
        if by and values:
            provenance = self.provenance(st)
            for part in values:
                terms = provenance.terms(part)
                if by == "penalty":  # of other terms, its callers decide
                    terms = tuple(term for term in terms if term.cut == "first order")
                elif by == "forward" and st.frame.call is not None:  # what was cut before is not its business
                    terms = tuple(term for term in terms if not term.cut or within(term.site, st.frame.call))
                walked = provenance.graph(part).reaches if self.hears(LogarithmTaken) else ()
                self.emit(Produced(site, self.thing(part), by, terms, frozenset(walked)), st)
        record = st.record(value)
        if by and isinstance(record, Mapping):  # whoever gets a dict of losses may go backward through any
            for _, part in record.items:
                if part not in values and st.tensor(part) is not None:
                    self.emit(Produced(site, self.thing(part), by), st)
        reaches: set[Value] = set()
        if values and self.hears(Forwarded) and by != "forward":
            for part in values:
                reaches |= self.provenance(st).graph(part).reaches
        self.emit(FunctionLeft(site, node.name, tuple(self.thing(part) for part in values), frozenset(reaches)), st)

    def tensors_in(self, value: Value, st: State) -> list[Value]:
        parts = []
        for part in value.items if isinstance(value, Tup) else (value,):
            record = st.record(part)
            if isinstance(record, Tensor) or (isinstance(part, Sym) and self.kind(part, st) == "tensor"):
                parts.append(part)
            elif isinstance(record, Mapping):
                parts.extend(
                    item for key, item in record.items if key == Const.of("loss") and st.tensor(item) is not None
                )
        return parts

    def promise(self, func: Func, st: State) -> str:
        """What differentiable result a function promises: "forward", "training_step", "loss", "penalty", or ""."""
        by = "" if st.mode is False else self._promised(func)
        return "" if by and Activations(st, self.know).not_training() else by

    def _promised(self, func: Func) -> str:
        """What it promises in training, by its name."""
        node = func.node
        if not isinstance(node, ir.FunctionDef):
            return ""
        promises = node.name in ("forward", "training_step")
        if promises and func.owner is not None and self.class_kind(func.owner) in ("module", "lossfn"):
            return node.name
        if node.name in LOSS_FUNCTIONS:
            return "loss"
        if "penalty" in node.name:
            return "penalty"
        return ""

    # -- generators ---------------------------------------------------------------------------------------------------

    def _generator(self, func: Func, args: Args, node: ir.Node, st: State) -> Value:
        assert isinstance(func.node, ir.FunctionDef)
        env = self.bind(func, args, st)
        endless = any(isinstance(part, ir.While) and part.endless for part in func.node.body)
        how = f"the generator `{func.node.name}(…)`"
        of_parameters = bool(func.node.mentions & self.know.lists["iterators.of_parameters"])
        made = Iterator(
            how, (), None, of_parameters, None, self.site(node, st), (func, tuple(env.items())), endless, stamp=st.stamp
        )
        it = self.new(made, st)
        if not endless and not self._is_context_manager(func):
            self.emit(IteratorMade(self.site(node, st), self.thing(it, node), how, of_parameters), st)
        return it

    def _is_context_manager(self, func: Func) -> bool:
        assert isinstance(func.node, ir.FunctionDef)
        return any("contextmanager" in self.label(d) or "fixture" in self.label(d) for d in func.node.decorators)

    def run_generator(self, func: Func, env: tuple[tuple[str, Value], ...], node: ir.Node, st: State) -> Results:
        """Run the body of a generator to its end; what it yields last."""
        if len(st.frames) > DEPTH or any(
            frame.func is not None and frame.func.ident == func.ident for frame in st.frames
        ):
            return [(self.unknown("", "item"), st)]
        self.entered.add(func.ident)
        assert isinstance(func.node, ir.FunctionDef)
        env_id = self.fresh()
        st.put_names(env_id, dict(env))
        handed = frozenset(part for _, value in env for part in self.reachable(value, st))
        st.frames = (
            *st.frames,
            Frame(env_id, func.closure, func, Site(node, st.frames[-1].call if st.frames else None), handed),
        )
        mode, stamp = st.mode, st.stamp
        declared = self.grad_mode(func)  # torch turns gradients off each time a decorated generator goes on
        if declared is not None:
            st.mode = declared
        doubts = declared is None and IN_DOUBT not in st.conds and self._decorated(func)
        if doubts:
            st.conds[IN_DOUBT] = True
        results: Results = []
        key = (Sym("frame", (env_id,)), "yielded")
        for path, signal, _ in self.exec_block(func.node.body, [st]):
            if signal != "raise":
                item = path.drop_attr(*key) or self.unknown("", "item")
                path.stamp = stamp
                if doubts:
                    path.conds.pop(IN_DOUBT, None)
                results.append((item, self._leave(path, mode, env_id)))
        return results[:2]


def _abstract(node: ir.FunctionDef | ir.Lambda) -> bool:
    """Whether a function is only there to be overridden: it has no body, or one that raises NotImplementedError."""
    if not isinstance(node, ir.FunctionDef) or len(node.body) > 2:
        return False
    for part in node.body:
        text = isinstance(part, ir.ExprStmt) and isinstance(part.value, ir.Const)
        if not text and not isinstance(part, ir.Raise | ir.Pass):
            return False
    return True


def within(site: Site, call: Site) -> bool:
    """Whether something happened in the function that a call entered, or in what that called."""
    around = site.caller
    while around is not None and around != call:
        around = around.caller
    return around is not None
