"""Traps of numerics: an activation before a loss that applies its own, logarithms of activations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import FUNCTIONS, Edit, FunctionNode, Site, Source, dotted, is_reference, last_name
from planting.training import bindings

ACTIVATED = re.compile(r"softmax|sigmoid|prob", re.I)
MEASURES = re.compile(r"eval|valid|test|infer|predict|metric", re.I)
LOSSES = {"cross_entropy": "softmax", "CrossEntropyLoss": "softmax"}
BINARY = {"binary_cross_entropy_with_logits": "sigmoid", "BCEWithLogitsLoss": "sigmoid"}


def unmoved(value: ast.expr) -> ast.expr:
    """What is moved to a device: `Net()` of `Net().to(device)`."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in ("cuda", "to"):
        value = value.func.value
    return value


def criteria(source: Source, classes: set[str]) -> set[str]:
    """The names to which the file assigns a loss of these classes of torch, and nothing else."""
    found: set[str] = set()
    other: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign):
            value = unmoved(node.value)
            of_torch = isinstance(value, ast.Call) and re.fullmatch(
                r"((torch\.)?nn\.)?(" + "|".join(classes) + ")", dotted(value.func)
            )
            names = {dotted(target) for target in node.targets}
            (found if of_torch else other).update(names)
    return found - other


def handed_in(source: Source, function: FunctionNode, name: str) -> bool:
    """Whether a name is a parameter of a function that no function of the file calls with that name as its own."""
    if name not in {arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}:
        return False
    for call in source.calls:
        around = source.function(call)
        if dotted(call.func).rpartition(".")[2] == function.name and around is not function:
            scope = source.tree if around is None else around
            if re.search(rf"^\s*{re.escape(name)} = ", ast.unparse(scope), re.MULTILINE):
                return False
    return True


def trains(source: Source, call: ast.Call) -> bool:
    """Whether the function around a loss back-propagates it to train, and not to measure time, or says that it computes
    one.
    """
    function = source.function(call)
    if function is None or MEASURES.search(function.name) or source.gradients_off(call):
        return False
    called = {last_name(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    if "backward" in called:
        return not (called & {"default_timer", "perf_counter", "synchronize"} and "step" not in called)
    return function.name == "training_step"


def losses(source: Source, names: dict[str, str]) -> Iterator[tuple[ast.Call, ast.expr, str]]:
    """Calls of losses of torch that take logits: the call, what it is given, and the activation that it applies."""
    functional = {name for name in names if name.islower()}
    made = {name: {part for part in names if part == name} for name in names if not name.islower()}
    held = {held: names[cls] for cls, one in made.items() for held in criteria(source, one)}
    for call in source.calls:
        name = dotted(call.func)
        function = source.function(call)
        if name in held:
            if function is not None and handed_in(source, function, name):
                continue  # what is called so elsewhere may be another one
            activation = held[name]
        elif name.rpartition(".")[2] in functional and re.match(r"(F|nn\.functional|torch\.nn\.functional)\.", name):
            activation = names[name.rpartition(".")[2]]
        else:
            continue
        given = call.args[0] if call.args else None
        if given is None or isinstance(given, ast.Starred) or len(call.args) + len(call.keywords) < 2:
            continue
        if trains(source, call):
            yield call, given, activation


def touched(source: Source, call: ast.Call, given: ast.expr) -> bool:
    """Whether an activation is applied already, as far as the text shows."""
    text = source.segment(given)
    if ACTIVATED.search(text):
        return True
    scope = source.scope(call)
    values = bindings(source, scope, dotted(given)) if is_reference(given) else []
    return any(value is not None and ACTIVATED.search(ast.unparse(value)) for _, value in values)


@kind("activation-at-loss")
def activation_at_loss(source: Source) -> Iterator[Site]:
    """The loss applies its own softmax or sigmoid: what is put before it is one too many."""
    if not source.names_torch:
        return
    for call, given, activation in losses(source, LOSSES | BINARY):
        if touched(source, call, given):
            continue
        start, end = source.span(given)
        dim = ", dim=1" if activation == "softmax" else ""
        edits = (Edit(start, start, f"torch.{activation}("), Edit(end, end, f"{dim})"))
        yield Site(("GTR803",), call.lineno, source.scope(call), edits)


@kind("activation-in-model")
def activation_in_model(source: Source) -> Iterator[Site]:
    """The last line of a model's `forward` applies the activation; the loss of its output applies it again."""
    if not source.names_torch:
        return
    classes = {
        node.name: node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and any(last_name(base) == "Module" for base in node.bases)
    }
    made: dict[str, set[str]] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign):
            value = unmoved(node.value)
            cls = last_name(value.func) if isinstance(value, ast.Call) else ""
            for target in node.targets:
                made.setdefault(dotted(target), set()).add(cls if cls in classes else "")
    for call, given, activation in losses(source, LOSSES | BINARY):
        if touched(source, call, given):
            continue
        values = [given]
        if is_reference(given):
            bound = bindings(source, source.scope(call), dotted(given))
            values = [value for _, value in bound if value is not None] if len(bound) == 1 else []
        (value,) = values if len(values) == 1 else (None,)
        if not isinstance(value, ast.Call) or len(names := made.get(dotted(value.func), set())) != 1 or "" in names:
            continue
        (name,) = names
        forward = next(
            (part for part in classes[name].body if isinstance(part, FUNCTIONS) and part.name == "forward"), None
        )
        if forward is None or ACTIVATED.search(ast.unparse(forward)):
            continue
        returns = [node for node in source.own(forward) if isinstance(node, ast.Return)]
        if len(returns) != 1 or returns[0].value is None or isinstance(returns[0].value, (ast.Tuple, ast.Dict)):
            continue
        start, end = source.span(returns[0].value)
        dim = ", dim=1" if activation == "softmax" else ""
        edits = (Edit(start, start, f"torch.{activation}("), Edit(end, end, f"{dim})"))
        yield Site(("GTR803",), returns[0].lineno, source.scope(returns[0]), edits, (source.scope(call),))
