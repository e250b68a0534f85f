"""Settings: which rules run on which file.

`Settings` is what an adapter hands to the engine: the codes are already decided. `Configuration` makes one for each
file, from `[tool.gradtrap]` of the nearest pyproject.toml and from the command line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from flake8_gradtrap.catalogue import rule_defaults
from flake8_gradtrap.finding import Finding

FAMILY = "GTR"
NOT_ANALYSED = "GTR000"
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "__pypackages__", "_build", "buck-out", "build", "dist", "node_modules", "site-packages", "venv"}
)
"""Folders that are never walked into, beside hidden ones."""

T = TypeVar("T")


class ConfigError(Exception):
    """A setting that cannot be used; the message says where it stands and what was probably meant."""


# -- codes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codes:
    """The decision about codes: those that are `enabled`, and those whose `preview` findings are shown as well."""

    enabled: frozenset[str]
    preview: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """What one source of settings (a file, the command line) says about codes; None: it says nothing."""

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    preview: bool | None = None


def known_rules() -> dict[str, bool]:
    """Every code, and whether it is on by default."""
    return {NOT_ANALYSED: True} | rule_defaults()


def check_codes(codes: Iterable[str], known: Iterable[str] | None = None, where: str = "") -> tuple[str, ...]:
    """The codes and prefixes in their usual spelling; ConfigError at the first that no rule answers to."""
    names = list(known_rules() if known is None else known)
    checked = []
    for given in codes:
        code = given.strip().upper()
        if code == "ALL":
            code = FAMILY
        if len(code) < len(FAMILY) or not any(name.startswith(code) for name in names):
            raise ConfigError(f"{where}unknown rule code {given!r}{nearest(code, [*names, 'ALL'])}")
        checked.append(code)
    return tuple(checked)


def nearest(given: str, valid: Iterable[str]) -> str:
    """'; did you mean …?' with the valid name that looks most like what was given, '' where none does."""
    match = difflib.get_close_matches(given, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def decide(
    config: Choice = Choice(),
    command_line: Choice = Choice(),
    rules: Mapping[str, bool] | None = None,
) -> Codes:
    """Which codes are on. In each source the longest prefix that fits a code wins, and `ignore` wins a tie.

    The command line decides over the file: its `select` starts afresh, but what the file ignores stays ignored unless
    it is selected as precisely. Preview rules need `preview`, or a selecting prefix longer than the family's.
    """
    everything = known_rules() if rules is None else rules
    preview = config.preview if command_line.preview is None else command_line.preview
    enabled, shown = set(), set()
    for code, default in everything.items():
        # Whatever is selected, a file that could not be read is told, unless it is ignored.
        always = (FAMILY,) if code == NOT_ANALYSED else ()
        file_on = _fit(code, (FAMILY,) if config.select is None else config.select, config.extend_select, always)
        file_off = _fit(code, config.ignore)
        off = _fit(code, command_line.ignore)
        if command_line.select is not None:
            on = _fit(code, command_line.select, command_line.extend_select, always)
            chosen = on > off and on >= file_off
        else:
            on = _fit(code, command_line.extend_select)
            chosen = on > off if on or off else file_on > file_off
            on = max(on, file_on)
        by_code = on > len(FAMILY)
        if chosen and (default or preview or by_code):
            enabled.add(code)
            if preview or by_code:
                shown.add(code)
    return Codes(frozenset(enabled), frozenset(shown))


def _fit(code: str, *prefixes: Iterable[str]) -> int:
    """The length of the longest of these prefixes that the code starts with."""
    return max((len(prefix) for group in prefixes for prefix in group if code.startswith(prefix)), default=0)


# -- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine is told. `Settings()` is the default, `Settings.of(select=["GTR3"])` what `--select GTR3` gives.

    `per_file_ignores`: pairs of a path pattern and prefixes. Patterns, those of `exclude` too, are relative to `root`.
    `noqa`: whether `# noqa` comments are obeyed.
    """

    codes: Codes = field(default_factory=decide)
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exclude: tuple[str, ...] = ()
    root: str = ""
    noqa: bool = True

    @classmethod
    def of(
        cls,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        extend_select: Iterable[str] = (),
        preview: bool = False,
        noqa: bool = True,
    ) -> Settings:
        choice = Choice(
            None if select is None else check_codes(select), check_codes(ignore), check_codes(extend_select), preview
        )
        return cls(decide(command_line=choice), noqa=noqa)

    def codes_for(self, path: str) -> frozenset[str]:
        """The codes that may be reported in this file."""
        off = [prefix for pattern, codes in self.per_file_ignores if self._matches(path, pattern) for prefix in codes]
        if not off:
            return self.codes.enabled
        return frozenset(code for code in self.codes.enabled if not code.startswith(tuple(off)))

    def reports(self, finding: Finding) -> bool:
        """Whether a finding is wanted, as far as its code goes."""
        return finding.code in self.codes_for(finding.filename) and (
            not finding.preview or finding.code in self.codes.preview
        )

    def excludes(self, path: str) -> bool:
        """Whether a file or folder that was come across (not named on the command line) is left out."""
        name = os.path.basename(path)
        if name in SKIPPED_FOLDERS or (name.startswith(".") and name not in (".", "..")):
            return True
        return any(self._matches(path, pattern) for pattern in self.exclude)

    def _matches(self, path: str, pattern: str) -> bool:
        if fnmatch(os.path.basename(path), pattern):
            return True
        full = os.path.abspath(path)
        return fnmatch(full, os.path.join(self.root or os.getcwd(), pattern.removeprefix("./").rstrip("/")))


class Configuration:
    """The settings of each file: `[tool.gradtrap]` of the pyproject.toml nearest to it, then the command line."""

    def __init__(
        self,
        command_line: Choice = Choice(),
        exclude: tuple[str, ...] = (),
        config: Path | None = None,
        isolated: bool = False,
    ) -> None:
        self._command_line = command_line
        self._exclude = exclude
        self._isolated = isolated
        self._folders: dict[str, Settings] = {}
        self._forced = None if config is None else self._from_file(config, must=True)

    def for_file(self, path: str) -> Settings:
        return self.for_folder(os.path.dirname(os.path.abspath(path)))

    def for_folder(self, path: str) -> Settings:
        """The settings of the files in a folder (an absolute path)."""
        if self._forced is not None:
            return self._forced
        if self._isolated:
            return self._defaults
        if path not in self._folders:
            found = self._from_file(Path(path, "pyproject.toml"))
            if found is None:
                parent = os.path.dirname(path)
                found = self._defaults if parent == path else self.for_folder(parent)
            self._folders[path] = found
        return self._folders[path]

    @cached_property
    def _defaults(self) -> Settings:
        return Settings(decide(command_line=self._command_line), exclude=self._exclude)

    def _from_file(self, path: Path, must: bool = False) -> Settings | None:
        try:
            data = path.read_bytes()
        except OSError as error:
            if must:
                raise ConfigError(f"cannot read {path}: {error.strerror}") from error
            return None
        table = _read_table(path, data)
        if table is None:
            if must:
                raise ConfigError(f"{path}: there is no [tool.gradtrap]")
            return None
        choice, per_file_ignores, exclude = table.values()
        return Settings(
            decide(choice, self._command_line), per_file_ignores, exclude + self._exclude, os.path.abspath(path.parent)
        )


# -- pyproject.toml ---------------------------------------------------------------------------------------------------


def _read_table(path: Path, data: bytes) -> _Table | None:
    """The `[tool.gradtrap]` of a file; None where it has none."""
    if b"gradtrap" not in data:
        return None
    try:
        text = data.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: invalid TOML: {error}") from error
    tools = document.get("tool")
    if not isinstance(tools, dict) or "gradtrap" not in tools:
        return None
    return _Table(path, text, tools["gradtrap"])


class _Table:
    """The keys of `[tool.gradtrap]`, checked; errors name the file and the line."""

    keys = ("select", "ignore", "extend-select", "preview", "per-file-ignores", "exclude")

    def __init__(self, path: Path, text: str, table: Any) -> None:
        self._path = path
        self._lines = text.splitlines()
        if not isinstance(table, dict):
            raise self._error("gradtrap", "tool.gradtrap must be a table")
        for key in table:
            if key not in self.keys:
                raise self._error(key, f"unknown key {key!r} in [tool.gradtrap]{nearest(key, self.keys)}")
        self._table: dict[str, Any] = table

    def values(self) -> tuple[Choice, tuple[tuple[str, tuple[str, ...]], ...], tuple[str, ...]]:
        preview = self._get("preview", bool, "true or false")
        per_file = self._get("per-file-ignores", dict, "a table of patterns") or {}
        choice = Choice(
            None if "select" not in self._table else self._codes("select"),
            self._codes("ignore"),
            self._codes("extend-select"),
            preview,
        )
        ignores = tuple((pattern, self._codes("per-file-ignores", codes)) for pattern, codes in per_file.items())
        return choice, ignores, self._strings("exclude")

    def _get(self, key: str, kind: type[T], what: str) -> T | None:
        value = self._table.get(key)
        if value is None or isinstance(value, kind):
            return value
        raise self._error(key, f"{key!r} must be {what}")

    def _strings(self, key: str, value: Any = None) -> tuple[str, ...]:
        value = self._table.get(key, []) if value is None else value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self._error(key, f"{key!r} must be a list of strings")

    def _codes(self, key: str, value: Any = None) -> tuple[str, ...]:
        checked: tuple[str, ...] = ()
        for given in self._strings(key, value):
            try:
                checked += check_codes([given])
            except ConfigError as error:
                raise self._error(key, str(error), given) from error
        return checked

    def _error(self, key: str, message: str, value: str | None = None) -> ConfigError:
        return ConfigError(f"{self._path}:{self._line(key, value)}: {message}")

    def _line(self, key: str, value: str | None) -> int:
        """The line of a key, or of a value behind it. tomllib does not tell: the text is searched."""
        quoted = rf"""["']?{re.escape(key)}["']?"""
        name = re.compile(rf"^\s*(?:\[?tool\.gradtrap\.)?{quoted}\s*[]=.]|[{{,]\s*{quoted}\s*=")
        start = next((n for n, line in enumerate(self._lines) if re.search(r"\bgradtrap\b", line)), 0)
        start = next((n for n in range(start, len(self._lines)) if name.search(self._lines[n])), start)
        if value is not None:
            literal = re.compile(rf"""["']{re.escape(value)}["']""")
            start = next((n for n in range(start, len(self._lines)) if literal.search(self._lines[n])), start)
        return start + 1
