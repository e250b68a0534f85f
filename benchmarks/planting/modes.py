"""Traps of gradients of gradients, of the gradient mode and of the training mode."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import LOOPS, Edit, FunctionNode, Loop, Site, Source, dotted
from planting.training import bindings


def bound_names(stmt: ast.stmt) -> list[str]:
    """The names that an assignment binds."""
    if not isinstance(stmt, ast.Assign):
        return []
    return [node.id for target in stmt.targets for node in ast.walk(target) if isinstance(node, ast.Name)]


@kind("create-graph-dropped")
def create_graph_dropped(source: Source) -> Iterator[Site]:
    """A gradient penalty loses `create_graph=True`: its value stays right, and it trains nothing.

    The gradients have a name of their own, of which the same function takes a norm or a square, and which then goes
    backward here or leaves a function that calls itself a penalty.
    """
    for call in source.calls:
        if not re.search(r"(^|\.|_)grad$", dotted(call.func)) or "backward" in dotted(call.func):
            continue
        given = [word for word in call.keywords if word.arg == "create_graph"]
        if not given or not isinstance(given[0].value, ast.Constant) or given[0].value.value is not True:
            continue
        function, stmt = source.function(call), source.statement(call)
        names = bound_names(stmt)
        if function is None or not names or any(word.arg is None for word in call.keywords):
            continue
        text = "\n".join(ast.unparse(part) for part in function.body)
        used = "|".join(map(re.escape, names))
        if not re.search(rf"\b({used})\b[^\n]*(norm|pow\(2|\*\* ?2)|(norm|square)\([^\n]*\b({used})\b", text):
            continue
        called = [other for other in source.calls if dotted(other.func).rpartition(".")[2] == function.name]
        scopes = {source.scope(other) for other in called}
        trains = ".backward(" in text or any(
            ".backward(" in ast.unparse(source.scope_node(scope)) for scope in scopes if scope >= 0
        )
        if trains or ("penalty" in function.name and "return" in text):
            yield Site(
                ("GTR901",),
                call.lineno,
                source.scope(call),
                (Edit(*source.span(given[0].value), "False"),),
                tuple(scopes),
            )


def evaluates(source: Source, function: FunctionNode) -> bool:
    """True where a function calls `.eval()` on something that it also calls, in a loop, and trains nothing."""
    text = ast.unparse(function)
    if re.search(r"\.backward\(|autograd|\.step\(\)|\byield\b|numpy\(\)|np\.(asarray|array)|requires_grad", text):
        return False  # an array of a tensor with a graph cannot be made: that trap would be loud
    put = set(re.findall(r"([\w.]+)\.eval\(\)", text))
    for call in source.calls:
        if source.function(call) is function and dotted(call.func) in put and source.loops(call):
            returned = re.findall(r"^\s*return (.+)$", text, re.MULTILINE)
            return not any(
                re.search(r"(\b|_)(outputs?|logits|preds?|predictions?|y_hat)\b", value) for value in returned
            )
    return False


@kind("no-grad-dropped")
def no_grad_dropped(source: Source) -> Iterator[Site]:
    """An evaluation loses its `no_grad`: a decorator, or a `with` around its loop. Each forward now keeps its graph.

    The function calls `eval()` itself, calls that module in a loop, and trains nothing; nobody who calls it in this
    file has turned gradients off.
    """
    if not source.names_torch:
        return
    for index, function in enumerate(source.functions):
        if not evaluates(source, function) or function.name == "forward":
            continue
        callers = [call for call in source.calls if dotted(call.func).rpartition(".")[2] == function.name]
        if any(source.gradients_off(call) for call in callers):
            continue
        scopes = tuple(source.scope(call) for call in callers)
        off = [part for part in function.decorator_list if re.search(r"no_grad|inference_mode", ast.unparse(part))]
        blocks = [
            node
            for node in source.own(function)
            if isinstance(node, ast.With) and re.search(r"no_grad|inference_mode", ast.unparse(node.items[0]))
        ]
        if len(off) + len(blocks) != 1:
            continue
        if off:
            start = source.starts[off[0].lineno - 1]
            end = source.starts[off[0].end_lineno or off[0].lineno]
            yield Site(("GTR601",), function.lineno, index, (Edit(start, end, ""),), scopes)
        elif len(blocks[0].items) == 1 and any(isinstance(node, LOOPS) for node in ast.walk(blocks[0])):
            yield Site(
                ("GTR601",),
                blocks[0].lineno,
                index,
                (Edit(*source.span(blocks[0].items[0].context_expr), "torch.enable_grad()"),),
                scopes,
            )


_MODED = re.compile(
    r"drop(?!_?last|na\b|_dup)|BatchNorm|InstanceNorm|SyncBN|pretrained *=|from_pretrained|timm|"
    r"torchvision(?!\.(transforms|datasets|utils)| import (transforms|datasets|utils)\b)|"
    r"transformers(?! import get_\w*schedul)|diffusers|monai|resnet|"
    r"create_model|get_model|build|models?\.__dict__",
    re.IGNORECASE,
)
"""What speaks for a model that does something else in training than in evaluation, or for one that cannot be seen."""


def modes_matter(source: Source) -> bool:
    """Whether the model may do something else in the one mode than in the other, by the text of this file and of those
    that it imports from beside it.
    """
    texts = [source.text]
    if source.path is not None:
        for node in ast.walk(source.tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in filter(None, names):
                beside = source.path.parent / (name.replace(".", "/") + ".py")
                if beside.is_file():
                    texts.append(beside.read_text(encoding="utf-8", errors="replace"))
    return any(map(_MODED.search, texts))


@kind("train-dropped")
def train_dropped(source: Source) -> Iterator[Site]:
    """The only `train()` of a loop that also validates is lost: after the first validation, dropout is off.

    The statement is the only `train(…)` of that module in the file, stands in a function that goes backward, or that
    calls one which does, in a loop; and `eval()` is called on the same name in the file.
    """
    calls = [
        call
        for call in source.calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("train", "eval") and len(call.args) < 2
    ]
    trains = [call for call in calls if call.func.attr == "train"]  # type: ignore[attr-defined]
    evals = [call for call in calls if call not in trains]
    if len(trains) != 1 or not evals or ".training" in source.text or not modes_matter(source):
        return
    call = trains[0]
    stmt, function = source.statement(call), source.function(call)
    name = dotted(call.func.value)  # type: ignore[attr-defined]
    if not isinstance(stmt, ast.Expr) or stmt.value is not call or function is None or call.args or call.keywords:
        return
    text = ast.unparse(function)
    same = [other for other in evals if dotted(other.func.value) == name]  # type: ignore[attr-defined]
    if ".backward(" not in text or not same or not re.search(rf"{re.escape(name)}\(", text):
        return
    loops = source.loops(stmt)
    callers = [other for other in source.calls if dotted(other.func).rpartition(".")[2] == function.name]
    if not loops and not any(source.loops(other) for other in callers):
        return
    # a loop that binds the name anew, for each fold, begins with a model that is in training mode
    anew = {loop for bound, _ in bindings(source, source.scope(stmt), name) for loop in source.loops(bound)}
    repeated = set(loops) - anew
    inside = [other for other in same if source.function(other) is function and repeated & set(source.loops(other))]
    helpers = {up.name for other in same if (up := source.function(other)) is not None and up is not function}
    # the validation runs in the same loop: in this function, or beside a call of it
    around = [repeated] if loops else [repeats(source, other, function, name) for other in callers]
    beside = [
        other
        for other in source.calls
        if dotted(other.func).rpartition(".")[2] in helpers
        and any(set(source.loops(other)) & loops_of_one for loops_of_one in around)
    ]
    if inside or beside:
        scopes = tuple(source.scope(other) for other in (*callers, *beside, *same))
        yield Site(("GTR602",), stmt.lineno, source.scope(stmt), (source.remove(stmt),), scopes)


def repeats(source: Source, call: ast.Call, function: FunctionNode, name: str) -> set[Loop]:
    """The loops around a call that do not bind the model anew which the call hands over under this name."""
    loops = set(source.loops(call))
    names = [argument.arg for argument in function.args.args]
    if name not in names or names.index(name) >= len(call.args):
        return loops
    given = dotted(call.args[names.index(name)])
    bound = [stmt for stmt, _ in bindings(source, source.scope(call), given) if not conditional(source, stmt)]
    return loops - {loop for stmt in bound for loop in source.loops(stmt)}


def conditional(source: Source, stmt: ast.stmt) -> bool:
    """Whether a condition within its innermost loop decides whether a statement is run."""
    inner = source.loops(stmt)[:1]
    return any(isinstance(up, ast.If) and up in ast.walk(loop) for up in source.ancestors(stmt) for loop in inner)


SAVES = re.compile(r"(^|\.)(mse_loss|smooth_l1_loss|huber_loss|binary_cross_entropy(_with_logits)?)$")
"""Losses that save both of what they compare."""


@kind("no-grad-to-inference-mode")
def no_grad_to_inference_mode(source: Source) -> Iterator[Site]:
    """What a block under `no_grad` computes is made under `inference_mode`, and a loss has to save it afterwards."""
    for block in ast.walk(source.tree):
        if not isinstance(block, ast.With) or len(block.items) != 1:
            continue
        context = block.items[0].context_expr
        if not isinstance(context, ast.Call) or dotted(context.func) != "torch.no_grad":
            continue
        function = source.function(block)
        if function is None or source.gradients_off(block) or ".backward(" not in ast.unparse(function):
            continue
        last = {name: part for part in block.body for name in bound_names(part)}
        for call in source.calls:
            if source.function(call) is not function or call.lineno <= (block.end_lineno or 0):
                continue
            if not SAVES.search(dotted(call.func)) or source.gradients_off(call) or len(call.args) < 2:
                continue
            given = [part.id for part in call.args[:2] if isinstance(part, ast.Name) and part.id in last]
            if len(given) != 1:
                continue
            value = getattr(last[given[0]], "value", None)
            again = [
                part
                for part in ast.walk(function)
                if given[0] in bound_names(part) and block.end_lineno < part.lineno < call.lineno  # type: ignore[arg-type,operator,attr-defined]
            ]
            computes = isinstance(value, (ast.Call, ast.BinOp)) and not re.search(r"clone|numpy|\.to\(|load|\.cpu\(",
                                                                                  ast.unparse(value))  # fmt: skip
            if computes and not again:
                edit = Edit(*source.span(context.func), "torch.inference_mode")
                yield Site(("GTR208",), call.lineno, source.scope(call), (edit,))
                break
