"""What a rule is: a monitor over events, with everything that is said about it in one file.

A rule module in `rules/` defines one subclass of `Rule`. Its methods marked with `@on(Event, …)` are called with each
event of these kinds, in the order of a run, and a `Watch`: the memory of the path that is being run, and the way to
report. A run has many paths (both branches of an `if`): memory is kept for each path, and must only hold immutable
values. Values that differ only in where something happened should compare equal (`field(compare=False)`): paths that
agree merge.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

from flake8_gradtrap.events import Event, Site

F = TypeVar("F", bound=Callable[..., None])


def on(*kinds: type[Event]) -> Callable[[F], F]:
    """Mark a method of a rule as the one that hears events of these kinds."""

    def mark(method: F) -> F:
        method.hears = kinds  # type: ignore[attr-defined]
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Change:
    """One edit that a fix asks for, at the syntax of a site.

    `kind`: "wrap" (put `before` and `after` around the expression), "statement-before" (insert the line `before` in
    front of the statement in which the site stands), "function-top" (insert the line `before` as first statement of the
    function that the site defines), "decorate" (insert the line `before` above its `def`), "delete-statement",
    "delete-argument" (of a call), or "move-before" (move the statement of the site in front of that of `target`).
    `imports`: a module whose name the change uses: it is imported at the top of the file where it is not yet.
    """

    kind: str
    site: Site
    before: str = ""
    after: str = ""
    target: Site | None = None
    imports: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A fix as a rule asks for it."""

    message: str
    changes: tuple[Change, ...]
    safe: bool = True


class Watch(Protocol):
    """What a rule can do while it listens: remember, for the path that is being run, and report."""

    def get(self, key: Hashable, default: Any = None) -> Any: ...
    def put(self, key: Hashable, value: Hashable) -> None: ...
    def drop(self, key: Hashable) -> None: ...
    def items(self) -> Iterable[tuple[Hashable, Any]]: ...
    @property
    def lossy(self) -> bool:
        """Whether something may have been forgotten on this path: the absence of a memory then proves nothing."""
        ...

    def line(self, site: Site) -> int:
        """The line of a site, for messages that name one."""
        ...

    def report(
        self,
        site: Site,
        message: str,
        trace: Iterable[tuple[str, Site]] = (),
        remedy: Remedy | None = None,
        preview: bool = False,
        severity: str | None = None,
    ) -> None:
        """Report a trap. `message`: what happens to the user's training, with the fix."""
        ...


class Rule:
    """Base of all rules. Subclasses set the metadata and mark their handlers with `@on`.

    `code`: GTR and three digits. `name`: kebab-case, reads as "allow …". `summary`: one line for tables. `default`: on
    by default (False: preview). `since`: the version that introduced it. `fix`: "safe", "unsafe" or "" (none).
    """

    code: ClassVar[str]
    name: ClassVar[str]
    summary: ClassVar[str]
    default: ClassVar[bool] = True
    since: ClassVar[str] = "0.1.0"
    fix: ClassVar[str] = ""
    severity: ClassVar[str] = "warning"
    unnecessary: ClassVar[bool] = False
    """What is reported has no effect and can go: editors show it faded."""
    torch: ClassVar[str] = ""
    """The first version of torch in which the trap is one, where that is not so in all: older targets switch it off."""
    unproved: ClassVar[str] = ""
    """Why no training step can show the trap, of a rule that has no demo."""
    at_definition: ClassVar[bool] = False
    """The rule speaks of a definition, whoever calls it: it is told only when the file of the definition is checked."""
    waits: ClassVar[tuple[str, ...]] = ()
    """Attributes, each a dictionary, in which findings wait for the end of a run: one that is given up adds nothing."""
    words: ClassVar[tuple[str, ...]] = ()
    """Identifiers (and traits, see `traits.py`) of which a function must mention at least one for the rule to say
    anything about it.
    """
    roots: ClassVar[tuple[str, ...] | None] = None
    """Identifiers that are a reason to start a run with a function (and not only to enter it when it is called).

    They stand where a finding comes to its end: a read-out does no harm as long as nothing goes backward.
    None: `words`.
    """
    needs: ClassVar[tuple[str, ...]] = ()
    """Identifiers of which such a function (or its class) must mention one, too; none: `roots` say enough."""

    @classmethod
    def doc(cls) -> str:
        """The rule's page: the docstring of its module."""
        module = importlib.import_module(cls.__module__)
        return module.__doc__ or ""

    @classmethod
    def handlers(cls) -> tuple[tuple[type[Event], str], ...]:
        """The kinds of events that the rule hears, each with the name of the method that hears it."""
        return _handlers(cls)  # type: ignore[arg-type]  # a class is hashable


@cache
def _handlers(rule: type[Rule]) -> tuple[tuple[type[Event], str], ...]:
    return tuple((kind, name) for name in dir(rule) for kind in getattr(getattr(rule, name), "hears", ()))


def spoken(by: str) -> str:
    """`by` for a message: a name in backticks, words as they are."""
    return by if "`" in by or " " in by else f"`{by}`"


@cache
def all_rules() -> dict[str, type[Rule]]:
    """Every rule by its code: the modules of `flake8_gradtrap.rules` named gtrNNN_…."""
    from flake8_gradtrap import rules as package

    found: dict[str, type[Rule]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not re.fullmatch(r"gtr\d{3}_\w+", info.name):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__:
                found[value.code] = value
    return dict(sorted(found.items()))
