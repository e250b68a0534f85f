"""`[tool.gradtrap]` of a pyproject.toml: read, checked, and wrong settings told with their file and line."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from flake8_gradtrap import config
from flake8_gradtrap.config import (
    SKIPPED_FOLDERS,
    Choice,
    ConfigError,
    Settings,
    check_apis,
    check_codes,
    check_version,
    nearest,
)
from flake8_gradtrap.own import OwnApis

T = TypeVar("T")

OWN = {name: name.replace("_", "-") for name in OwnApis.__dataclass_fields__}
"""The keys of a project's own APIs."""
KEYS = (
    "select", "extend-select", "ignore", "preview", "per-file-ignores", "exclude", "force-exclude", "target-torch",
    *OWN.values(),
)  # fmt: skip


def read_table(path: Path, data: bytes) -> Table | None:
    """The `[tool.gradtrap]` of a file; None where it has none."""
    if b"gradtrap" not in data:
        return None
    try:
        text = data.decode("utf-8-sig")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    except ValueError as error:  # TOMLDecodeError, and numbers of too many digits
        raise ConfigError(f"{path}: invalid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    tools = document.get("tool")
    if not isinstance(tools, dict) or "gradtrap" not in tools:
        return None
    return Table(path, text, tools["gradtrap"])


class Table:
    """The settings in `[tool.gradtrap]`, checked."""

    def __init__(self, path: Path, text: str, table: Any) -> None:
        self._path = path
        self._text = text
        if not isinstance(table, dict):
            raise self._error(("gradtrap",), "tool.gradtrap must be a table")
        for key in table:
            if key not in KEYS:
                raise self._error((key,), f"unknown key {key!r} in [tool.gradtrap]{nearest(key, KEYS)}")
        self._table: dict[str, Any] = table
        self.choice = Choice(
            None if "select" not in table else self._codes("select"),
            self._codes("ignore"),
            self._codes("extend-select"),
            self._get("preview", bool, "true or false"),
        )
        per_file = self._get("per-file-ignores", dict, "a table of patterns") or {}
        self.per_file_ignores = tuple(
            (pattern, self._codes("per-file-ignores", pattern, codes)) for pattern, codes in per_file.items()
        )
        self.exclude = self._strings("exclude")
        self.force_exclude = self._get("force-exclude", bool, "true or false")
        version = self._get("target-torch", str, "a string, such as '2.4'")
        self.target_torch = None if version is None else self._checked(("target-torch",), check_version, version)
        given = {kind: self._strings(key) for kind, key in OWN.items()}
        for number, (kind, key) in enumerate(OWN.items(), 1):
            for name in given[kind]:
                so_far = {one: given[one] for one in [*OWN][: number - 1]} | {kind: (name,)}
                self._checked((key, name), check_apis, so_far)
        self.apis = check_apis(given)

    def _get(self, key: str, kind: type[T], what: str) -> T | None:
        value = self._table.get(key)
        if value is None or isinstance(value, kind):
            return value
        raise self._error((key,), f"{key!r} must be {what}")

    def _strings(self, key: str, inner: str = "", value: Any = None) -> tuple[str, ...]:
        value = self._table.get(key, []) if value is None else value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self._error((key, inner) if inner else (key,), f"{(inner or key)!r} must be a list of strings")

    def _codes(self, key: str, inner: str = "", value: Any = None) -> tuple[str, ...]:
        checked: tuple[str, ...] = ()
        for given in self._strings(key, inner, value):
            place = (key, inner, given) if inner else (key, given)
            checked += self._checked(place, lambda code: check_codes([code]), given)
        return checked

    def _checked(self, place: tuple[str, ...], check: Callable[[Any], T], value: Any) -> T:
        try:
            return check(value)
        except ConfigError as error:
            raise self._error(place, str(error)) from error

    def _error(self, place: tuple[str, ...], message: str) -> ConfigError:
        return ConfigError(f"{self._path}:{_line(self._text, place)}: {message}")


# -- settings as text ------------------------------------------------------------------------------------------------


def settings_text(path: str, settings: Settings) -> str:
    """The settings of a file or folder, as `--show-settings` shows them: what a [tool.gradtrap] would say, and more."""
    names = config.known_rules()
    codes = settings.codes_for(path)
    lines = [
        f"# {path}",
        f"# read from: {settings.origin or 'no file; defaults and the command line'}",
        f"# patterns are relative to: {settings.root or os.getcwd()}",
        "[tool.gradtrap]",
        f"select = {_list(sorted(codes))}",
        f"ignore = {_list(sorted(set(names) - codes))}",
        f"# findings that are off by default are shown of: {', '.join(sorted(settings.codes.preview)) or 'no rule'}",
        f"exclude = {_list(settings.exclude)}",
        f"# and: .* {' '.join(sorted(SKIPPED_FOLDERS))}",
        f"force-exclude = {str(settings.force_exclude).lower()}",
    ]
    if settings.target_torch is not None:
        lines.append(f'target-torch = "{".".join(map(str, settings.target_torch))}"')
    lines += [f"{key} = {_list(getattr(settings.apis, kind))}" for kind, key in OWN.items()]
    per_file: dict[str, list[str]] = {}
    for pattern, prefixes in settings.per_file_ignores:
        per_file.setdefault(pattern, []).extend(prefixes)
    if per_file:
        lines += ["", "[tool.gradtrap.per-file-ignores]"]
        lines += [f"{json.dumps(pattern, ensure_ascii=False)} = {_list(given)}" for pattern, given in per_file.items()]
    return "\n".join(lines) + "\n"


def _list(values: Iterable[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)


# -- lines ------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|\#[^\n]*|[\w-]+|\n|.', re.DOTALL
)


def _line(text: str, place: tuple[str, ...]) -> int:
    """The line on which a place in `[tool.gradtrap]` stands: a key, then keys or values in it.

    tomllib does not tell where it found what, so the words of the text are gone through: the name of the table first,
    then, in their order, those of the place. Comments do not count.
    """
    tokens = list(_words(text))
    words = [word for word, _ in tokens]
    pairs = list(pairwise(words))
    header = pairs.index(("tool", "gradtrap")) + 1 if ("tool", "gradtrap") in pairs else words.index("gradtrap")
    at, row = header + 1, tokens[header][1]
    for wanted in (part for part in place if part != "gradtrap"):
        found = next((number for number in range(at, len(tokens)) if tokens[number][0] == wanted), None)
        if found is None:
            break
        at, row = found + 1, tokens[found][1]
    return row


def _words(text: str) -> Iterator[tuple[str, int]]:
    """The bare words and strings of a TOML text, with their lines. Words in strings of other tables are strings."""
    row = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token[0] in "\"'":
            yield _string(token), row
        elif token[0].isalnum() or token[0] in "_-":
            yield token, row
        row += token.count("\n")


def _string(token: str) -> str:
    try:
        return str(tomllib.loads(f"x = {token}")["x"])
    except tomllib.TOMLDecodeError:
        return token
