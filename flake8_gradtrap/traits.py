"""Traits: what the syntax of a function shows before anything is run, as words that a rule can wait for.

Identifiers say too little of some traps: every model mentions `Linear`, few put a list of layers on `self`. A trait is
a cheap look at the tree of a function, behind a cheaper look at its text; it may show where there is no trap, and has
to show where there may be one. Traits stand among the words of a rule (`Rule.words`, `Rule.roots`) and among those that
a function mentions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache

KEEPS_SEVERAL = "<keeps several>"
"""New objects are put on an attribute in a list, a tuple or a dict."""
REGISTERS = "<registers>"
"""What an attribute holds is given to a module, or registered by a call."""
COMPUTES_PARAMETER = "<computes a parameter>"
"""A new Parameter is computed with before it is kept."""
COMPUTES_LEAF = "<computes a leaf>"
"""A new tensor that requires a gradient is computed with before it is kept."""
DROPS_RESULT = "<drops a result>"
"""A method of tensors that returns a new one is called, and what it returns is dropped."""
WRITES_DATA = "<writes through data>"
"""Something is written in place through `.data`."""

KEEPS_ITERATOR = "<keeps an iterator>"
"""An iterator of parameters, or another one beside it, may be used for more than the loop for which it is made."""
REWRAPS = "<rewraps>"
"""A tensor is made of something that is not written there."""

_LEAVES = frozenset({"requires_grad", "requires_grad_", "Parameter"})
_LEAF = re.compile(r"requires_grad\s*=\s*True|requires_grad_\(|\bParameter\(")
_MODULES = frozenset({"nn"})
OF_CLASSES = frozenset({KEEPS_SEVERAL, REGISTERS})
"""Traits that matter only in the methods of a module."""

_WRITES_DATA = re.compile(
    r"\.data\b(?:\[[^\]\n]*\])?\s*(?:[-+*/@%&|^]|//|\*\*)?=(?!=)|\.data(?:\[[^\]\n]*\])?\.[a-z]\w*_\("
)
_FILLS = re.compile(r"=\s*(?:[\[{(]|list\(|dict\(|tuple\(|\w*OrderedDict\()|\.(?:append|insert|extend)\(|\]\s*=|\+=")
_MAKES = re.compile(r"[A-Z]\w*\(|(?:make|build|create|get|new|init)\w*\(|deepcopy|conv\w+\(")
_CONTAINERS = frozenset({"list", "dict", "tuple", "OrderedDict", "defaultdict"})
_GROWS = frozenset({"append", "insert", "extend", "update", "setdefault"})
_MAKER = re.compile(r"_?[A-Z]|_*(?:make|build|create|get|new|init)|.*(?:conv|block|layer|mlp|clone|copy|net|head)")
_METHOD = re.compile(r"_?[A-Z]|_*(?:make|build|create|get|new|init)|deepcopy$")
"""Calls that may make a module: of a name, and of an attribute (`self.conv(x)` is one in a forward)."""
_COLLECTING = frozenset("ModuleList ModuleDict Sequential ParameterList ParameterDict".split())
_REGISTERING = _COLLECTING | frozenset("add_module register_module register_parameter setattr __setattr__".split())
_ITERATORS = frozenset({"parameters", "named_parameters"})
_USES_UP = frozenset("all any dict float frozenset int len list max min next set sorted sum tuple".split())
"""What takes an iterator, and returns something else."""
_COMPUTES = frozenset("F f math np numpy nn random torch".split())
"""Modules whose functions return no iterator."""
_REWRAPPING = frozenset("tensor FloatTensor DoubleTensor HalfTensor from_numpy new_tensor Variable".split())
_WRAPS = _REWRAPPING | {"Tensor", "LongTensor", "as_tensor"}
_REWRAPS = re.compile(rf"\b(?:{'|'.join(sorted(_WRAPS))})\(\s*[a-zA-Z_]")
"""Where one is given a name, the syntax need not be looked at."""
_REGISTERS = re.compile(rf"\b(?:{'|'.join(sorted(_REGISTERING))})\(")


def words_of(word: str) -> frozenset[str]:
    """The identifiers of which a text must contain one for a word or a trait to be in it."""
    if word in OF_CLASSES:
        return _MODULES
    if word == COMPUTES_PARAMETER:
        return frozenset({"Parameter"})
    if word == WRITES_DATA:
        return frozenset({"data"})
    if word == COMPUTES_LEAF:
        return _LEAVES
    if word == KEEPS_ITERATOR:
        return _ITERATORS
    if word == REWRAPS:
        return _REWRAPPING
    return _droppable() if word == DROPS_RESULT else frozenset({word})


def traits(nodes: Iterable[ast.AST], text: str, words: frozenset[str]) -> frozenset[str]:
    """The traits of some syntax, of which `text` holds the source, and `words` the identifiers in it."""
    found = set()
    if "self" in words and _FILLS.search(text) and _MAKES.search(text) and _keeps_several(nodes):
        found.add(KEEPS_SEVERAL)
    if "self" in words and not words.isdisjoint(_REGISTERING) and _REGISTERS.search(text):
        found.add(REGISTERS)
    if "Parameter(" in text and any(_computes(node, _is_parameter) for top in nodes for node in ast.walk(top)):
        found.add(COMPUTES_PARAMETER)
    if (
        not words.isdisjoint(_LEAVES)
        and _LEAF.search(text)
        and any(_computes(node, _is_leaf) for top in nodes for node in ast.walk(top))
    ):
        found.add(COMPUTES_LEAF)
    if not words.isdisjoint(_droppable()) and _dropping().search(text) and any(map(_drops, _statements(nodes))):
        found.add(DROPS_RESULT)
    if "data" in words and _WRITES_DATA.search(text):
        found.add(WRITES_DATA)
    if not words.isdisjoint(_ITERATORS) and _keeps_iterator(nodes, words):
        found.add(KEEPS_ITERATOR)
    if not words.isdisjoint(_REWRAPPING) and (_REWRAPS.search(text) or _rewraps(nodes)):
        found.add(REWRAPS)
    return frozenset(found)


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The statements, in their order, and those in their blocks."""
    waiting = list(nodes)[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("finalbody", "cases", "handlers", "orelse", "body"):
            inner = getattr(node, block, ())
            if isinstance(inner, list):
                waiting.extend(reversed(inner))


# -- several things on an attribute -----------------------------------------------------------------------------------


def _keeps_several(nodes: Iterable[ast.AST]) -> bool:
    """Whether an attribute is given, or grows, a container of things that are made here, or such a one is returned."""
    made: set[str] = set()
    """Names that hold something new."""
    many: set[str] = set()
    """Names that hold several such."""
    kept: set[str] = set()
    """Names whose values are put on an attribute."""
    collecting: dict[str, bool] = {}
    """Whether an attribute only ever holds a container here that registers what it is given."""
    computes = any(getattr(top, "name", "").startswith("forward") for top in nodes)
    """What it returns are tensors."""
    for statement in _statements(nodes):
        node = statement.value if isinstance(statement, ast.Expr) else statement
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            several = _several(node.value, made)
            for target in targets:
                if isinstance(target, ast.Attribute):
                    if several:
                        return True
                    name = _own(target)
                    collecting[name] = collecting.get(name, True) and _collects(node.value)
                    if isinstance(node.value, ast.Name):
                        kept.add(node.value.id)
                elif isinstance(target, ast.Name):
                    if several:
                        many.add(target.id)
                    elif _new(node.value, made):
                        made.add(target.id)
                elif isinstance(target, ast.Subscript) and _new(node.value, made):
                    if isinstance(target.value, ast.Attribute) and not collecting.get(_own(target.value)):
                        return True
                    if isinstance(target.value, ast.Name):
                        many.add(target.value.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GROWS:
            if any(_new(arg, made) or _several(arg, made) for arg in node.args):
                if isinstance(node.func.value, ast.Attribute) and not collecting.get(_own(node.func.value)):
                    return True
                if isinstance(node.func.value, ast.Name):
                    many.add(node.func.value.id)
        elif isinstance(node, ast.Return) and node.value is not None and not computes:
            if _several(node.value, made):
                return True
            if isinstance(node.value, ast.Name):
                kept.add(node.value.id)
    return not many.isdisjoint(kept)


def _own(node: ast.Attribute) -> str:
    """What an attribute of `self` is called; of something else, as the program writes it."""
    return node.attr if isinstance(node.value, ast.Name) and node.value.id == "self" else ast.unparse(node)


def _collects(node: ast.AST) -> bool:
    """Whether an expression makes a container that registers what it holds."""
    if not isinstance(node, ast.Call):
        return False
    return (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in _COLLECTING


def _new(node: ast.AST, made: set[str]) -> bool:
    """Whether an expression may make an object with a state of its own."""
    if isinstance(node, ast.Name):
        return node.id in made
    if isinstance(node, ast.IfExp):
        return _new(node.body, made) or _new(node.orelse, made)
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in _CONTAINERS:
        return False
    inner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if any(isinstance(arg, ast.Call) and _new(arg, made) for arg in node.args):
        return True  # `weight_norm(nn.Conv1d(…))`
    return bool((_MAKER if inner is None else _METHOD).match(name)) or (inner is not None and _new(inner, made))


def _several(node: ast.AST, made: set[str]) -> bool:
    """Whether an expression is a plain container of such objects."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return any(_new(part, made) or _several(part, made) for part in node.elts)
    if isinstance(node, ast.Dict):
        return any(_new(part, made) or _several(part, made) for part in node.values)
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return _new(node.elt, made) or _several(node.elt, made)
    if isinstance(node, ast.DictComp):
        return _new(node.value, made) or _several(node.value, made)
    if isinstance(node, ast.BinOp):
        return _several(node.left, made) or _several(node.right, made)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CONTAINERS:
        return any(_several(part, made) for part in node.args)
    return False


# -- iterators that are kept ------------------------------------------------------------------------------------------


def _keeps_iterator(nodes: Iterable[ast.AST], words: frozenset[str]) -> bool:
    """Whether something that may be a one-shot iterator is more than looped over where it is made.

    A name for what a call returns, an attribute that is looped over, an argument of a call: each may be one.
    """
    spelt = False
    used: set[int] = set()
    """What is looped over, or used up by a call, there and then."""
    for node in (inner for top in nodes for inner in ast.walk(top)):  # around what it holds
        if isinstance(node, ast.For | ast.AsyncFor):
            if isinstance(node.iter, ast.Attribute | ast.Subscript):
                return True
            used.update(map(id, _sources(node.iter)))
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp):
            used.update(id(source) for part in node.generators for source in _sources(part.iter))
        elif isinstance(node, ast.GeneratorExp):
            if id(node) not in used:
                return True
            used.update(id(source) for part in node.generators for source in _sources(part.iter))
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if isinstance(node.func, ast.Name) and name in _USES_UP:
                used.update(map(id, node.args))
            if name in _ITERATORS:
                spelt = True
                if id(node) not in used:
                    return True
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            if node.value is not None and _may_iterate(node.value):
                return True
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            return True
    return not spelt  # by another name


def _sources(node: ast.AST) -> Iterator[ast.AST]:
    """What a loop over an expression draws from."""
    yield node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("enumerate", "zip"):
        yield from node.args


def _may_iterate(node: ast.AST) -> bool:
    """Whether an expression may give an iterator that did not exist before."""
    if isinstance(node, ast.IfExp):
        return _may_iterate(node.body) or _may_iterate(node.orelse)
    if isinstance(node, ast.BoolOp):
        return any(map(_may_iterate, node.values))
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id not in _USES_UP
        start = node.func
        while isinstance(start, ast.Attribute):
            start = start.value
        return not isinstance(start, ast.Name) or start.id not in _COMPUTES
    return isinstance(node, ast.GeneratorExp | ast.Await | ast.Lambda | ast.NamedExpr)


# -- tensors that are made anew ---------------------------------------------------------------------------------------


def _rewraps(nodes: Iterable[ast.AST]) -> bool:
    """Whether a constructor of tensors is called with more than constants, or is handed on itself."""
    every = [inner for top in nodes for inner in ast.walk(top)]
    called = {id(node.func) for node in every if isinstance(node, ast.Call)}
    bound = {node.arg for node in every if isinstance(node, ast.arg)}
    bound |= {node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    spelt = False
    for node in every:
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            spelt = spelt or name in _REWRAPPING
            data = (*node.args, *(given.value for given in node.keywords if given.arg in ("data", None)))
            if name in _WRAPS and not all(map(_is_written, data)):
                return True
        elif isinstance(node, ast.Attribute):
            spelt = spelt or node.attr in _REWRAPPING
            if node.attr in _WRAPS and id(node) not in called:
                return True
        elif isinstance(node, ast.Name):
            spelt = spelt or node.id in _REWRAPPING
            if node.id in _WRAPS and id(node) not in called and node.id not in bound:
                return True
        elif isinstance(node, ast.alias) and node.name in _WRAPS:
            return True
    return not spelt and bound.isdisjoint(_REWRAPPING)  # by another name


def _is_written(node: ast.AST) -> bool:
    """Whether a value is written where it stands."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_written, node.elts))
    if isinstance(node, ast.UnaryOp):
        return _is_written(node.operand)
    return isinstance(node, ast.Constant)


# -- parameters that are computed with --------------------------------------------------------------------------------


def _is_parameter(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == "Parameter"


def _is_leaf(node: ast.AST) -> bool:
    """Whether a new tensor is asked to require a gradient where it is made."""
    if not isinstance(node, ast.Call):
        return False
    if _is_parameter(node) or (isinstance(node.func, ast.Attribute) and node.func.attr == "requires_grad_"):
        return True
    return any(
        given.arg == "requires_grad" and isinstance(given.value, ast.Constant) and given.value.value is True
        for given in node.keywords
    )


def _computes(node: ast.AST, test: Callable[[ast.AST], bool]) -> bool:
    """Whether a node does something with a new Parameter or leaf, other than to keep or register it."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return test(node.value)
    if isinstance(node, ast.BinOp):
        return test(node.left) or test(node.right)
    if isinstance(node, ast.UnaryOp):
        return test(node.operand)
    if isinstance(node, ast.Assign):
        return test(node.value) and any(isinstance(target, ast.Name) for target in node.targets)
    if isinstance(node, ast.Call) and not test(node):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name[:1].islower() and name != "register_parameter" and any(test(arg) for arg in node.args)
    return False


# -- results that are dropped -----------------------------------------------------------------------------------------


@cache
def _droppable() -> frozenset[str]:
    from flake8_gradtrap.interp.knowledge import knowledge

    return knowledge().dropped["copies"] | knowledge().dropped["views"]


@cache
def _dropping() -> re.Pattern[str]:
    return re.compile(r"(?m)^\s*[\w.\[\]'\"]+\.(?:" + "|".join(sorted(_droppable())) + r")\(")


def _drops(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    func = node.value.func
    if not isinstance(func, ast.Attribute) or func.attr not in _droppable():
        return False
    holder = func.value
    name = holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
    return name != "self" and not _of_another_kind(name)


def _of_another_kind(name: str) -> bool:
    """Whether something is called like a module, or another thing that moves itself."""
    from flake8_gradtrap.interp.knowledge import knowledge

    return bool(name) and bool(knowledge().kind_by_name(name))
