"""Traps of what a module registers, and of states that are kept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, FunctionNode, Site, Source, dotted

LAYER = re.compile(
    r"\b(nn\.)?(Linear|Conv\d?d|ConvTranspose\dd|Embedding|LSTM|GRU|RNN|LSTMCell|GRUCell|LayerNorm|BatchNorm\dd|GroupNorm"
    r"|MultiheadAttention|TransformerEncoderLayer|Parameter)\("
)


def constructor(source: Source, node: ast.AST) -> tuple[FunctionNode, ast.ClassDef] | None:
    """The `__init__` in which a node stands and its class, if that is a module by its bases."""
    function = source.function(node)
    holder = source.parent.get(function) if function is not None else None
    if function is None or function.name != "__init__" or not isinstance(holder, ast.ClassDef):
        return None
    if not any(re.search(r"(^|\.)(Module|LightningModule)$", dotted(base)) for base in holder.bases):
        return None
    return function, holder


def attribute_of(stmt: ast.stmt, value: ast.expr) -> str:
    """The `self.x` that is given just this value; "" if it is none."""
    if not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1 or stmt.value is not value:
        return ""
    name = dotted(stmt.targets[0])
    return name if re.fullmatch(r"self\.\w+", name) else ""


def has_layers(source: Source, text: str) -> bool:
    """Whether a text makes a layer, or an object of a class of this file whose text does."""
    if LAYER.search(text):
        return True
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and re.search(rf"\b{re.escape(node.name)}\(", text):
            bases = [dotted(base) for base in node.bases]
            if any(base.endswith("Module") for base in bases) and LAYER.search(ast.unparse(node)):
                return True
    return False


@kind("module-list-to-list")
def module_list_to_list(source: Source) -> Iterator[Site]:
    """`nn.ModuleList([…])` on an attribute becomes the list, with what it visibly holds: layers with parameters."""
    for call in source.calls:
        if not re.search(r"(^|\.)ModuleList$", dotted(call.func)) or call.keywords or len(call.args) > 1:
            continue
        found = constructor(source, call)
        name = attribute_of(source.statement(call), call)
        if found is None or not name:
            continue
        function, holder = found
        text = ast.unparse(holder)
        if re.search(r"lpips|perceptual", name, re.IGNORECASE):
            continue  # of a network that is only loaded
        if len(re.findall(rf"{re.escape(name)} = ", text)) != 1 or re.search(
            rf"(ModuleList|Sequential)\([^\n]*{re.escape(name)}\b|add_module|setattr|register", text
        ):
            continue
        if call.args:
            given = call.args[0]
            if not isinstance(given, (ast.List, ast.ListComp)) or not has_layers(source, ast.unparse(given)):
                continue
            if isinstance(given, ast.List) and len(given.elts) < 2:
                continue
            new = source.segment(given)
        else:
            grown = re.findall(rf"{re.escape(name)}\.append\((.*)\)", ast.unparse(function))
            if not any(has_layers(source, one) for one in grown):
                continue
            new = "[]"
        yield Site(("GTR701",), call.lineno, source.scope(call), (Edit(*source.span(call), new),))


@kind("parameter-moved")
def parameter_moved(source: Source) -> Iterator[Site]:
    """`self.x = nn.Parameter(…)` becomes `nn.Parameter(…).cuda()`, a plain tensor."""
    for call in source.calls:
        if not re.search(r"(^|\.)Parameter$", dotted(call.func)) or constructor(source, call) is None:
            continue
        name = attribute_of(source.statement(call), call)
        if not name or re.search(r"requires_grad=(?!True)|cuda", ast.unparse(call)):
            continue  # perhaps not to be trained
        holder = source.parent[source.function(call)]  # type: ignore[index]
        if len(re.findall(rf"{re.escape(name)} = ", ast.unparse(holder))) == 1:
            end = source.span(call)[1]
            yield Site(("GTR702",), call.lineno, source.scope(call), (Edit(end, end, ".cuda()"),))


@kind("deepcopy-dropped")
def deepcopy_dropped(source: Source) -> Iterator[Site]:
    """`best = copy.deepcopy(model.state_dict())` inside of a training loop becomes an alias, and is used after it."""
    for call in source.calls:
        if not re.search(r"(^|\.)deepcopy$", dotted(call.func)) or len(call.args) != 1:
            continue
        inner, stmt, function = call.args[0], source.statement(call), source.function(call)
        if not isinstance(inner, ast.Call) or not re.search(r"(model|net)\w*\.state_dict$", dotted(inner.func)):
            continue
        loops = source.loops(call)
        if not loops or not isinstance(stmt, ast.Assign) or stmt.value is not call:
            continue
        name = dotted(stmt.targets[0])
        outermost = ast.unparse(loops[-1])
        scope = source.scope_node(source.scope(call)) if function is None else function
        used = re.search(rf"(load_state_dict|save)\([^\n]*{re.escape(name)}\b|return[^\n]*{re.escape(name)}\b",
                         ast.unparse(scope))  # fmt: skip
        called = [one for one in source.functions if re.search(rf"\b{one.name}\(", outermost)]
        texts = "\n".join(ast.unparse(one) for one in called)
        called += [one for one in source.functions if re.search(rf"\b{one.name}\(", texts)]
        trains = "\n".join([outermost, *(ast.unparse(one) for one in called)])
        if name and used and ".backward(" in trains and ".step(" in trains:
            yield Site(("GTR710",), call.lineno, source.scope(call), (Edit(*source.span(call), source.segment(inner)),))


@kind("result-discarded")
def result_discarded(source: Source) -> Iterator[Site]:
    """`x = x.to(device)` of an element of a batch becomes `x.to(device)`."""
    for stmt in ast.walk(source.tree):
        if not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1 or not isinstance(stmt.targets[0], ast.Name):
            continue
        name, call = stmt.targets[0].id, stmt.value
        if not isinstance(call, ast.Call) or dotted(call.func) not in (f"{name}.to", f"{name}.cuda", f"{name}.detach"):
            continue
        if not source.owns_lines(stmt) or not source.loops(stmt):
            continue
        loop = source.loops(stmt)[0]
        unpacked = isinstance(loop, ast.For) and any(
            isinstance(node, ast.Tuple) and name in {dotted(part) for part in node.elts}
            for node in ast.walk(loop.target)
        )
        if unpacked and isinstance(loop, ast.For) and "oader" in ast.unparse(loop.iter):
            yield Site(("GTR708",), stmt.lineno, source.scope(stmt), (Edit(*source.span(stmt), source.segment(call)),))


@kind("layer-replaced")
def layer_replaced(source: Source) -> Iterator[Site]:
    """A layer of the model is replaced right after the optimizer was given `model.parameters()`, which trains it."""
    for call in source.calls:
        if not re.search(r"(^|\.)(optim\.\w+|Adam\w*|SGD|RMSprop|Adagrad)$", dotted(call.func)) or not call.args:
            continue
        given, stmt = call.args[0], source.statement(call)
        model = dotted(given.func).removesuffix(".parameters") if isinstance(given, ast.Call) else ""
        if not isinstance(given, ast.Call) or not dotted(given.func).endswith(".parameters") or not model:
            continue
        if not isinstance(stmt, ast.Assign) or stmt.value is not call or not source.owns_lines(stmt):
            continue
        name = dotted(stmt.targets[0])
        function = source.function(call)
        scope: ast.AST = source.scope_node(source.scope(call))
        if name.startswith("self.") and function is not None:
            scope = source.parent[function]
        text = ast.unparse(scope)
        built = len(re.findall(rf"\b{re.escape(name)} = ", text)) > 1
        if not name or built or f"{name}.step(" not in text or ".backward(" not in text or "nn" not in source.text:
            continue
        if not re.search(r"^import torch\.nn as nn|^from torch import [^\n]*\bnn\b", source.text, re.MULTILINE):
            continue
        end = source.span(stmt)[1]
        added = f"\n{source.indent(stmt)}{model}.head = nn.Linear(8, 8)"
        line = (stmt.end_lineno or stmt.lineno) + 1
        yield Site(("GTR703",), line, source.scope(call), (Edit(end, end, added),))
