"""Traps of one-shot iterators."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from planting.kinds import kind
from planting.source import Edit, Loop, Site, Source, dotted, is_reference, last_name
from planting.training import bindings, clip_call

PARAMETER_METHODS = {
    f"{prefix}{name}" for prefix in ("", "named_") for name in ("parameters", "buffers", "modules", "children")
}
LAZY = {"zip", "enumerate", "map", "filter", "chain", "tqdm"}
EAGER = {"list", "sum", "any", "all", "min", "max", "sorted", "set", "tuple", "dict", "frozenset"}
OPTIMIZER_CALL = re.compile(
    r"(\boptim\.\w+|\b(Fused|CPU)?(Adam|AdamW|SGD|RMSprop|Adagrad|LAMB|Lamb|RAdam|LBFGS)|optimizer_class)$"
)
STEPWISE = re.compile(r"step|update|clip|zero_grad|sync|ema|copy|store|restore|train_|learn|optimi[sz]e", re.I)


def lazy_form(source: Source, value: ast.expr) -> str | None:
    """The text of a one-shot iterator over the same parameters as a list of them."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "list":
        if len(value.args) != 1 or value.keywords:
            return None
        argument = value.args[0]
        if (
            isinstance(argument, ast.Call)
            and last_name(argument.func) in PARAMETER_METHODS
            and not isinstance(argument.func, ast.Name)
        ):
            return source.segment(argument)
        if isinstance(argument, ast.GeneratorExp) or (
            isinstance(argument, ast.Call) and last_name(argument.func) in {"filter", "map", "chain"}
        ):
            text = source.segment(argument)
            return text if re.search(r"\.(named_)?parameters\(\)", text) else None
        return None
    if isinstance(value, ast.ListComp):
        text = source.segment(value)
        return f"({text[1:-1]})" if re.search(r"\.(named_)?parameters\(\)", text) else None
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        parts: list[str] = []
        node: ast.expr = value
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts.insert(0, lazy_form(source, node.right) or "")
            node = node.left
        parts.insert(0, lazy_form(source, node) or "")
        return f"(p for ps in ({', '.join(parts)}) for p in ps)" if all(parts) else None
    return None


def how_used(source: Source, use: ast.AST) -> str:
    """What a use does with an iterator: "iterates" it, "passes" it on, or "fails" on what only a list can do."""
    parent = source.parent[use]
    if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is use:
        return "iterates"
    if isinstance(parent, ast.Starred):
        return how_used(source, parent)
    if isinstance(parent, ast.keyword):
        call = source.parent[parent]
        assert isinstance(call, ast.Call)
        return "iterates" if clip_call(call) or OPTIMIZER_CALL.search(dotted(call.func)) else "passes"
    if isinstance(parent, ast.Call) and use in parent.args:
        name = last_name(parent.func)
        if name in {"len", "reversed", "isinstance", "print", "id", "type"}:
            return "fails"
        if name in EAGER or isinstance(use, ast.Starred):
            return "iterates"
        if name in LAZY:
            return "iterates" if how_used(source, parent) == "iterates" else "passes"
        if clip_call(parent) is parent or OPTIMIZER_CALL.search(dotted(parent.func)):
            return "iterates"
        return "passes"
    if isinstance(parent, ast.Dict):
        for key, value in zip(parent.keys, parent.values, strict=True):
            if value is use and isinstance(key, ast.Constant) and key.value == "params":
                return (
                    "iterates"
                    if any(
                        isinstance(u, ast.Call) and OPTIMIZER_CALL.search(dotted(u.func)) for u in source.ancestors(use)
                    )
                    else "passes"
                )
        return "passes"
    if isinstance(parent, ast.Return):
        return "passes"
    return "fails"


@kind("list-dropped")
def list_dropped(source: Source) -> Iterator[Site]:
    """A list of parameters becomes the iterator that it was made from, and is iterated again.

    The name has one binding; its uses do nothing that only a list can do (an index, `len`, `+`: these would fail
    loudly, which is no silent trap); and two of them iterate it on one path, or one does in a loop that the binding
    stands outside of. The same for an attribute of `self` that a method which runs in each step iterates.
    """
    for assign in ast.walk(source.tree):
        if not isinstance(assign, ast.Assign) or len(assign.targets) != 1:
            continue
        lazy = lazy_form(source, assign.value)
        if lazy is None:
            continue
        target = assign.targets[0]
        scope = source.scope(assign)
        region: ast.AST = source.scope_node(scope)
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            owner = next((up for up in source.ancestors(assign) if isinstance(up, ast.ClassDef)), None)
            if owner is None:
                continue
            region = owner
        elif not isinstance(target, ast.Name):
            continue
        name = dotted(target)
        same = [
            node
            for node in ast.walk(region)
            if isinstance(node, (ast.Name, ast.Attribute)) and dotted(node) == name and not _is_argument(source, node)
        ]
        if sum(isinstance(node.ctx, (ast.Store, ast.Del)) for node in same) != 1:
            continue
        uses = sorted((node for node in same if isinstance(node.ctx, ast.Load)), key=lambda n: (n.lineno, n.col_offset))
        how = {use: how_used(source, use) for use in uses}
        if "fails" in how.values():
            continue
        iterating = [use for use in uses if how[use] == "iterates"]
        if isinstance(target, ast.Attribute):
            # Methods run again and again, so one that iterates the attribute in each step is enough.
            function = source.functions
            again = any(
                source.scope(use) != scope and STEPWISE.search(function[source.scope(use)].name) for use in iterating
            )
        else:
            outer = set(source.loops(assign))
            again = any(
                source.scope(use) == scope and set(_loops_that_repeat(source, use)) - outer for use in iterating
            ) or any(
                not source.exclusive(one, two) and not source.branch_ends(one, _common(source, one, two))
                for index, one in enumerate(iterating)
                for two in iterating[index + 1 :]
            )
        if again:
            scopes = tuple(sorted({source.scope(use) for use in iterating}))
            yield Site(("GTR101",), assign.lineno, scope, (Edit(*source.span(assign.value), lazy),), scopes)


@kind("iterator-shared")
def iterator_shared(source: Source) -> Iterator[Site]:
    """The optimizer and the clip get one and the same iterator, where each had a fresh call: the clip then clips
    nothing.

    The other way to the trap of a dropped `list`, and far more frequent in real code. Both calls are `M.parameters()`
    of the same M in one function; the optimizer is built in front of the clip on every path to it, and M is not bound
    in between.
    """
    for call in source.calls:
        if not OPTIMIZER_CALL.search(dotted(call.func)) or not call.args or last_name(call.func) == "optimizer_class":
            continue
        built = source.statement(call)
        first = call.args[0]
        if not _is_parameters(first) or not isinstance(built, ast.Assign) or not source.owns_lines(built):
            continue
        scope = source.scope(call)
        block = source.block(built)
        for other in source.calls:
            if clip_call(other) is None or not other.args or ast.unparse(other.args[0]) != ast.unparse(first):
                continue
            if source.scope(other) != scope or other.lineno <= built.lineno:
                continue
            stmt = next((up for up in (source.statement(other), *source.ancestors(other)) if up in block), None)
            if stmt is None or block.index(stmt) <= block.index(built):
                continue
            model = dotted(first.func.value)  # type: ignore[attr-defined]
            if any(built.lineno <= bind.lineno <= other.lineno for bind, _ in bindings(source, scope, model)):
                continue
            if "trained_params" in source.text:
                continue
            edits = (
                source.insert_before(built, f"trained_params = {source.segment(first)}"),
                Edit(*source.span(first), "trained_params"),
                Edit(*source.span(other.args[0]), "trained_params"),
            )
            yield Site(("GTR101",), built.lineno, scope, edits)
            break


def _is_argument(source: Source, node: ast.AST) -> bool:
    """True where a name is that of an argument of the inner function in which it stands: another thing altogether."""
    function = source.function(node)
    return (
        function is not None
        and isinstance(node, ast.Name)
        and node.id in {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    )


def _is_parameters(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "parameters"
        and not node.args
        and is_reference(node.func.value)
    )


def _loops_that_repeat(source: Source, use: ast.AST) -> list[Loop]:
    """The loops that iterate a use again each time; the loop that runs over the use itself iterates it once."""
    return [loop for loop in source.loops(use) if not (isinstance(loop, ast.For) and use in ast.walk(loop.iter))]


def _common(source: Source, one: ast.AST, two: ast.AST) -> ast.AST:
    others = set(source.ancestors(two))
    return next(up for up in source.ancestors(one) if up in others)
