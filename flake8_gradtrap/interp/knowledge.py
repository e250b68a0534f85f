"""The torch table, read once, in the form in which the abstract run asks it."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable
from copy import copy
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from flake8_gradtrap.own import NONE, OwnApis, current


class Knowledge:
    """What `torch_api.toml` says: which lists a full name is in, and how unknowns are typed."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.own = NONE
        self.aliases: dict[str, str] = data["aliases"]
        self.lists: dict[str, frozenset[str]] = {}
        exact: dict[str, list[str]] = {}
        patterns: list[tuple[re.Pattern[str], str]] = []
        sections = (
            "makes", "same", "context", "iterators", "gradients", "tensors", "modules", "activations", "losses",
            "parameters",
        )  # fmt: skip
        for section in sections:
            for key, names in data[section].items():
                label = f"{section}.{key}"
                self.lists[label] = frozenset(names)
                for name in names:
                    if "*" in name:
                        patterns.append((re.compile(fnmatch.translate(name)), label))
                    else:
                        exact.setdefault(name, []).append(label)
        self._exact = exact
        self._patterns = patterns
        self.methods: dict[str, frozenset[str]] = {
            key: frozenset(names) for key, names in data["tensor_methods"].items()
        }
        self.dropped: dict[str, frozenset[str]] = {key: frozenset(names) for key, names in data["dropped"].items()}
        self.saved: dict[str, frozenset[str]] = {key: frozenset(names) for key, names in data["saved"].items()}
        self.method_role: dict[str, str] = {
            name: key for key, names in data["tensor_methods"].items() for name in names
        }
        self.activations: dict[str, str] = {
            name.rpartition(".")[2]: kind
            for kind, names in data["activations"].items()
            for name in names
            if name.rpartition(".")[2][:1].islower() or kind == "views"
        }
        """The kind of what a function or method of this short name makes."""
        self.numerics: dict[str, str] = {name: key for key, names in data["numerics"].items() for name in names}
        """The list of `numerics` that a function or method of this short name is in."""
        self.decisions: dict[str, str] = {name: key for key, names in data["decisions"].items() for name in names}
        """"rounded" or "hard", by the short name of what decides."""
        self.protocol: list[tuple[str, frozenset[str]]] = [
            (kind, frozenset(needed)) for kind, groups in data["protocol"].items() for needed in groups
        ]
        self.names: list[tuple[str, re.Pattern[str]]] = [
            (kind, re.compile(text)) for kind, text in data["names"].items()
        ]
        self.conventions: dict[str, re.Pattern[str]] = {
            key: re.compile(text) for key, text in data["conventions"].items()
        }

    @lru_cache(maxsize=20_000)  # noqa: B019 - one instance lives as long as the process
    def canonical(self, name: str) -> str:
        """The name after `aliases`: `torch.cuda.amp.GradScaler` is `torch.amp.GradScaler`."""
        if name in self.aliases:
            return self.aliases[name]
        head = name
        while "." in head:
            head = head.rpartition(".")[0]
            if head in self.aliases:
                return self.aliases[head] + name[len(head) :]
        return name

    @lru_cache(maxsize=20_000)  # noqa: B019
    def roles(self, name: str) -> frozenset[str]:
        """The lists that a canonical full name is in, as "section.key"."""
        found = set(self._exact.get(name, ()))
        found.update(label for pattern, label in self._patterns if pattern.match(name))
        return frozenset(found)

    @lru_cache(maxsize=20_000)  # noqa: B019
    def role_in(self, section: str, name: str) -> str:
        """The list of a section that a canonical full name is in; "" if none."""
        start = section + "."
        return next((label.removeprefix(start) for label in self.roles(name) if label.startswith(start)), "")

    def names_exactly(self, name: str) -> bool:
        """Whether a canonical full name is in a list as such, and not by a pattern."""
        return name in self._exact

    @lru_cache(maxsize=20_000)  # noqa: B019
    def kind_by_name(self, name: str) -> str:
        """The kind of thing that is conventionally called so; "" if none."""
        for kind, pattern in self.names:
            if pattern.search(name):
                return kind
        return ""

    def kind_by_protocol(self, done: Iterable[str]) -> str:
        """The kind of thing that these methods are called on; "" if they do not say."""
        methods = frozenset(done)
        for kind, needed in self.protocol:
            if needed <= methods:
                return kind
        return ""

    def extended(self, own: OwnApis) -> Knowledge:
        """The table and a project's own APIs."""
        result = copy(self)
        result.own = own
        result._exact = self._exact | {name: self._exact.get(name, []) for name in own.kinds}
        return result


def knowledge() -> Knowledge:
    """The table, with the own APIs of the file that is checked."""
    own = current()
    return _table() if own is NONE else _extended(own)


@cache
def _extended(own: OwnApis) -> Knowledge:
    return _table().extended(own)


@cache
def _table() -> Knowledge:
    text = (files("flake8_gradtrap.interp") / "torch_api.toml").read_text(encoding="utf-8")
    return Knowledge(tomllib.loads(text))
