"""Modules of the project: what a file defines and imports, and which files of the project its imports resolve to."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

from flake8_gradtrap.interp.ir import Attr, ClassDef, Expression, FunctionDef, Name, Statement
from flake8_gradtrap.interp.ir import Const as Constant
from flake8_gradtrap.interp.knowledge import knowledge
from flake8_gradtrap.interp.values import Api, Class, Const, Func, Sym, Value
from flake8_gradtrap.own import OwnApis, current
from flake8_gradtrap.source import SourceError, SourceFile, TopLevel, decode
from flake8_gradtrap.versions import UNREADABLE, Look, digest, read, stamp

_ROOT_MARKS = (".git", "pyproject.toml", "setup.py", "setup.cfg")
_CLIMB = 8
_FILES = 60
"""So many files are read for the imports of one file."""
_LARGE = 2_000_000
"""Larger files are not read."""

_LIBRARIES = {
    "torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional", "optim": "torch.optim", "np": "numpy",
}  # fmt: skip
"""What names stand for that a `from elsewhere import *` brings along."""

_UNIT_TESTS = re.compile(r"(^|[\\/])tests?[\\/](.*[\\/])?(test_[^\\/]*|[^\\/]*_test|conftest)\.py$")
"""Files of a test suite."""
_RUNNERS = frozenset({"pytest", "unittest"})
_TEST_FOLDER = re.compile(r"(^|[\\/])(unit_?)?tests?[\\/]")
_TEST = re.compile(r"^.*\b(?:if|elif|while|assert|not|and|or|match|case)\b.*$", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")
_USE = re.compile(r"\b([^\W\d]\w*)\.(?=([^\W\d]\w*))")


@dataclass(frozen=True, slots=True)
class ProjectModule(Value):
    """A module of the project, as a value."""

    module: Module = field(compare=False)
    path: str


class Module:
    """A source file as the abstract run sees it: its names at module level, found without running it."""

    def __init__(self, source: SourceFile, project: Project) -> None:
        self.source = source
        self.path = source.path
        self.project = project
        self.definitions: dict[str, TopLevel] = {}
        self.imports: dict[str, tuple[str, str | None, int]] = {}
        """Bound name: (module, name in it or None for the module itself, level)."""
        self.stars: list[tuple[str, int]] = []
        self.constants: dict[str, ast.Constant] = {}
        self._values: dict[str, Value | None] = {}
        self._matter: dict[frozenset[str], frozenset[str]] = {}
        for part in source.toplevel:
            if part.kind in ("function", "class"):
                self.definitions[part.name] = part
        self._contents(source.tree.body)

    def _contents(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.imports[name] = (alias.name if alias.asname else name, None, 0)
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if alias.name == "*":
                        self.stars.append((statement.module or "", statement.level))
                    else:
                        self.imports[alias.asname or alias.name] = (statement.module or "", alias.name, statement.level)
            elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        self.constants[target.id] = statement.value
            elif isinstance(statement, ast.If | ast.With):
                self._contents(statement.body)
            elif isinstance(statement, ast.Try):
                self._contents(statement.body)
                for handler in statement.handlers:
                    for name, value in self._imports_of(handler.body).items():
                        self.imports.setdefault(name, value)

    @staticmethod
    def _imports_of(body: list[ast.stmt]) -> dict[str, tuple[str, str | None, int]]:
        found: dict[str, tuple[str, str | None, int]] = {}
        for statement in body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    found[alias.asname or alias.name] = (statement.module or "", alias.name, statement.level)
        return found

    @cached_property
    def protocol(self) -> dict[str, set[str]]:
        """For the last part of each name or attribute chain, the methods and attributes that are used on it."""
        found: dict[str, set[str]] = {}
        for name, used in _USE.findall(self.source.text):
            found.setdefault(name, set()).add(used)
        return found

    @cached_property
    def tested(self) -> frozenset[str]:
        """The words on the lines of conditions: two values of such a name are told apart."""
        return frozenset(word for line in _TEST.findall(self.source.text) for word in _WORD.findall(line))

    @cached_property
    def of_test_suite(self) -> bool:
        """Whether the file belongs to a test suite: by its name, or it stands beside the tests and imports what runs
        them.
        """
        path = str(self.path)
        if _UNIT_TESTS.search(path):
            return True
        runners = {source.partition(".")[0] for source, _, _ in self.imports.values()} & _RUNNERS
        return "pytest" in runners or (bool(runners) and _TEST_FOLDER.search(path) is not None)

    def names_that_matter(self, words: frozenset[str]) -> frozenset[str]:
        """The functions and methods of this file that mention one of the words, or each other; `forward` and dunders
        aside.
        """
        if words not in self._matter:
            functions = self.source.functions.items()
            mentions = {name: used for name, used in functions if not name.startswith("__") and name != "forward"}
            grown = found = {name for name, used in mentions.items() if not used.isdisjoint(words)}
            while grown:
                grown = {name for name, used in mentions.items() if name not in found and not used.isdisjoint(grown)}
                found = found | grown
            self._matter[words] = frozenset(found)
        return self._matter[words]

    def lookup(self, name: str) -> Value | None:
        """What a name at module level is bound to; None if it is not known."""
        if name in self._values:
            return self._values[name]
        self._values[name] = None  # a cycle of imports ends here
        value = self._find(name)
        self._values[name] = value
        return value

    def known(self, name: str) -> Value | None:
        """What `lookup` has found so far: for what nobody has looked up, nothing is read."""
        return self._values.get(name)

    def _find(self, name: str) -> Value | None:
        if (part := self.definitions.get(name)) is not None:
            if isinstance(outline := part.nodes[0], ast.ClassDef):
                bases = tuple(_base(base) for base in outline.bases if not isinstance(base, ast.Starred))
                return Class(name, id(part), self, bases, frozenset(part.methods), lambda: _body(part))
            statement = _read(part)
            if isinstance(statement, FunctionDef):
                return Func(statement, id(statement), self)
        if name in self.imports:
            module, attribute, level = self.imports[name]
            return self.resolve(module, attribute, level)
        if name in self.constants:
            return Const.of(self.constants[name].value)
        for module, level in self.stars:
            target = self.project.find(module, level, self.path)
            if target is not None and (value := target.lookup(name)) is not None:
                return value
        if name == "torch" or (self.stars and name in _LIBRARIES):
            return Api(_LIBRARIES[name])  # a part of a file, which imports nothing, means torch by `torch`, too
        return None

    def resolve(self, module: str, attribute: str | None, level: int) -> Value:
        """The value of `from module import attribute` (or `import module`): of the project if it is there."""
        name = knowledge().canonical(f"{module}.{attribute}")
        if attribute is not None and not level and knowledge().names_exactly(name):
            return Api(name)  # the library itself is the project: the table says more than its source shows
        target = self.project.find(module, level, self.path)
        if attribute is None:
            return ProjectModule(target, target.path) if target is not None else Api(knowledge().canonical(module))
        if target is not None and (value := target.lookup(attribute)) is not None:
            return value
        below = self.project.find(f"{module}.{attribute}" if module else attribute, level, self.path)
        if below is not None:
            return ProjectModule(below, below.path)
        if target is not None or level:
            return Sym("global", (module, attribute, self.path), attribute)
        return Api(knowledge().canonical(f"{module}.{attribute}"))


def _read(part: TopLevel) -> Statement | None:
    """A definition; None if it cannot be lowered."""
    try:
        return part.slice.statements[0]
    except SourceError:
        return None


def _body(part: TopLevel) -> tuple[Statement, ...]:
    """The body of a class."""
    statement = _read(part)
    return statement.body if isinstance(statement, ClassDef) else ()


def _base(node: ast.expr) -> Expression:
    """A base of a class as far as it is a dotted name (an index dropped); a constant stands for the rest."""
    if isinstance(node, ast.Name):
        return Name(node.id)
    if isinstance(node, ast.Attribute):
        return Attr(_base(node.value), node.attr)
    return _base(node.value) if isinstance(node, ast.Subscript) else Constant(None)


class Project:
    """The files that a run may read: those to which the imports of the checked file resolve, below the project's root.

    `read` is False for text without a place (standard input without a name, a text from elsewhere): nothing is read
    then. `unsaved`: texts that count instead of files, by path.
    """

    def __init__(self, read: bool = True, unsaved: Mapping[str, str] = MappingProxyType({})) -> None:
        self.read = read
        self._unsaved = unsaved
        self._modules: dict[str, Module | None] = {}
        self._roots: dict[str, list[Path]] = {}
        self._found: dict[tuple[str, int, str], Module | None] = {}
        self.looks: dict[str, Look] = {}
        """What the run depends on besides the checked file: files that were read, and places where none was."""

    def let_go(self) -> None:
        """Take the modules apart, when the run is over."""
        for module in self._modules.values():
            if module is not None:
                module.__dict__.clear()

    def _is_there(self, path: Path, there: Callable[[Path], bool]) -> bool:
        try:
            found = there(path)
        except OSError:  # a folder that may not be looked into
            found = False
        self.looks.setdefault(str(path), Look(str(path), "" if found else None))
        return found

    def _search_path(self, directory: Path) -> list[Path]:
        """The directories from which an absolute import may start: the file's own, and its parents up to the root."""
        key = str(directory)
        if key not in self._roots:
            result = [directory]
            current = directory
            for _ in range(_CLIMB):
                if (
                    any(self._is_there(current / mark, Path.exists) for mark in _ROOT_MARKS)
                    or current.parent == current
                ):
                    break
                current = current.parent
                result.append(current)
            else:
                result = result[:3]
            if current.parent == current:
                result = result[:3]
            result += [place / "src" for place in result if self._is_there(place / "src", Path.is_dir)]
            self._roots[key] = result
        return self._roots[key]

    def find(self, dotted: str, level: int, importer: str) -> Module | None:
        """The module of the project that an import names; None for anything else."""
        if not self.read:
            return None
        directory = Path(importer).absolute().parent
        key = (dotted, level, str(directory))
        if key not in self._found:
            self._found[key] = self._locate(dotted, level, directory)
        return self._found[key]

    def _locate(self, dotted: str, level: int, directory: Path) -> Module | None:
        parts = dotted.split(".") if dotted else []
        if level:
            base = directory
            for _ in range(level - 1):
                base = base.parent
            return self._open(base.joinpath(*parts))
        if not parts or parts[0] in ("torch", "numpy", "typing", "os", "sys"):
            return None
        for base in self._search_path(directory):
            found = self._open(base.joinpath(*parts))
            if found is not None:
                return found
        return None

    def _open(self, stem: Path) -> Module | None:
        for path in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
            key = str(path)
            if key not in self._modules:
                self._modules[key] = self._load(path)
            if (module := self._modules[key]) is not None:
                return module
        return None

    def _load(self, path: Path) -> Module | None:
        try:
            if sum(module is not None for module in self._modules.values()) >= _FILES:
                return None
            if (text := self._unsaved.get(str(path))) is not None:
                self.looks[str(path)] = Look(str(path), UNREADABLE)
                return Module(_unsaved_source(str(path), text, current()), self)
            if not self._is_there(path, Path.is_file):
                return None
            status = path.stat()
            if status.st_size > _LARGE:
                self.looks[str(path)] = Look(str(path), "", stamp(status))
                return None
            source, look = _source(str(path), status.st_size, max(status.st_mtime_ns, status.st_ctime_ns), current())
            self.looks[look.path] = look
            return None if source is None else Module(source, self)
        except (OSError, SourceError, ValueError):
            self.looks[str(path)] = Look(str(path), UNREADABLE)
            return None


@lru_cache(maxsize=128)
def _source(path: str, size: int, changed: int, own: OwnApis) -> tuple[SourceFile | None, Look]:
    """A file of the project, None if it is not Python; many files import the same few.

    `size` and `changed` tell one version from another; what a function mentions depends on `own`.
    """
    data, seen = read(path)
    look = Look(path, digest(data), seen)
    try:
        source = SourceFile(path, decode(data)[0])
        _ = source.tree
    except SourceError:
        return None, look
    return source, look


@lru_cache(maxsize=16)
def _unsaved_source(path: str, text: str, own: OwnApis) -> SourceFile:
    return SourceFile(path, text.removeprefix("\ufeff"))
