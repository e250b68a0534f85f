"""A project's own APIs: what its settings say of functions that the torch table cannot know.

A name is the full dotted name of a function or method, as it is imported (`mylib.optim.trainable`,
`mylib.engine.Engine.update`), or `*.name` for a method of that name on anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property

NAME = re.compile(r"(?:\*|[^\W\d]\w*)(?:\.[^\W\d]\w*)+")
"""What such a name looks like."""

_STAND_FOR = {
    "one_shot_sources": frozenset({"parameters"}),
    "clip_functions": frozenset({"clip_grad_norm_"}),
    "step_wrappers": frozenset({"backward", "zero_grad", "step"}),
}
"""The words of torch for which the names of each kind stand: a function that mentions one is worth a run."""


@dataclass(frozen=True)
class OwnApis:
    """Names by what the functions do.

    `one_shot_sources` return an iterator that can be iterated once; `materialisers` a list of what they are given.
    `clip_functions` clip the gradients of their first argument. `loggers` read numbers out of tensors, and leave
    gradients alone. `step_wrappers` take a loss backward, step and clear the gradients.
    """

    one_shot_sources: tuple[str, ...] = ()
    materialisers: tuple[str, ...] = ()
    clip_functions: tuple[str, ...] = ()
    loggers: tuple[str, ...] = ()
    step_wrappers: tuple[str, ...] = ()

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of each name."""
        return {name: kind.name for kind in fields(self) for name in getattr(self, kind.name)}

    @cached_property
    def methods(self) -> dict[str, str]:
        """The kind of each name that is given as `*.name`."""
        return {name.removeprefix("*."): kind for name, kind in self.kinds.items() if name.startswith("*.")}

    @cached_property
    def holders(self) -> frozenset[str]:
        """The full names without their last parts: of classes, where methods are named."""
        return frozenset(name.rpartition(".")[0] for name in self.kinds)

    @cached_property
    def shorts(self) -> frozenset[str]:
        """The last parts of all names."""
        return frozenset(name.rpartition(".")[2] for name in self.kinds)

    @cached_property
    def words(self) -> dict[str, frozenset[str]]:
        """By the last part of a name: the words of torch for which it stands."""
        found: dict[str, frozenset[str]] = {}
        for name, kind in self.kinds.items():
            short = name.rpartition(".")[2]
            found[short] = found.get(short, frozenset()) | _STAND_FOR.get(kind, frozenset())
        return {short: words for short, words in found.items() if words}

    @cached_property
    def mentioned(self) -> re.Pattern[str] | None:
        """Finds a name in a text that stands for a word of torch."""
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(self.words)))})\b") if self.words else None

    def stand_for(self, identifiers: frozenset[str]) -> frozenset[str]:
        """The identifiers, with the words of torch for which some of them stand."""
        if self is NONE:
            return identifiers
        return identifiers.union(*(self.words[name] for name in identifiers & self.words.keys()))


NONE = OwnApis()
_current = NONE


def current() -> OwnApis:
    """Those of the file that is checked."""
    return _current


@contextmanager
def using(apis: OwnApis) -> Iterator[None]:
    """Check with these."""
    global _current
    before, _current = _current, apis
    try:
        yield
    finally:
        _current = before
