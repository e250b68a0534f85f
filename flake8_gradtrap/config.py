"""Settings: which rules run on which file.

`Settings` is what an adapter hands to the engine: the codes are already decided. `Configuration` makes one for each
file, from `[tool.gradtrap]` of the nearest pyproject.toml and from the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from flake8_gradtrap.catalogue import rule_defaults, rule_versions
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.own import NAME, NONE, OwnApis

FAMILY = "GTR"
NOT_ANALYSED = "GTR000"
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "__pypackages__", "_build", "buck-out", "build", "dist", "node_modules", "site-packages", "venv"}
)
"""Folders that are never walked into, beside hidden ones."""


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
    """Every code, and whether it is on by default. ConfigError where there is no rule: nothing would ever be found."""
    rules = rule_defaults()
    if not rules:
        raise ConfigError(
            "this installation of gradtrap is broken: it has no rules; "
            "install it again: pip install --force-reinstall flake8-gradtrap"
        )
    return {NOT_ANALYSED: True} | rules


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
    import difflib

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
    `force_exclude`: files that are named are left out, too. `apis`: the project's own functions. `target_torch`: the
    version of torch that the code is for. `noqa`: whether `# noqa` comments are obeyed. `origin`: the file they are of.
    """

    codes: Codes = field(default_factory=decide)
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exclude: tuple[str, ...] = ()
    root: str = ""
    noqa: bool = True
    force_exclude: bool = False
    apis: OwnApis = NONE
    target_torch: tuple[int, ...] | None = None
    origin: str = ""

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
        if self.target_torch is not None:
            off += [code for code, since in rule_versions().items() if self.target_torch < since]
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

    def leaves_out(self, path: str) -> bool:
        """Whether a file that is named is left out all the same: it, or a folder in which it lies below the root."""
        if not self.force_exclude:
            return False
        full, root = os.path.abspath(path), self.root or os.getcwd()
        while full != root and full != os.path.dirname(full):
            if self.excludes(full):
                return True
            full = os.path.dirname(full)
        return False

    def _matches(self, path: str, pattern: str) -> bool:
        if fnmatch(os.path.basename(path), pattern):
            return True
        full = os.path.abspath(path)
        return fnmatch(full, os.path.join(self.root or os.getcwd(), pattern.removeprefix("./").rstrip("/")))


PER_FILE = re.compile(r"(?P<pattern>.+):(?P<codes>[^:]+)")


def split_per_file(values: Iterable[str], where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`PATTERN:CODE` pairs as settings; pairs without a pattern in front belong to the one before."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for value in values:
        match = PER_FILE.fullmatch(value)
        if match is None and (not found or not value.strip()):
            raise ConfigError(f"{where}{value!r} is no PATTERN:CODE")
        pattern, code = (match["pattern"], match["codes"]) if match else (found[-1][0], value)
        found.append((pattern.strip(), check_codes([code], where=where)))
    return tuple(found)


def check_version(text: str) -> tuple[int, ...]:
    """A version of torch (`2.4`) as numbers."""
    if not re.fullmatch(r"\d+(\.\d+){0,2}", text.strip()):
        raise ConfigError(f"{text!r} is no version of torch, such as '2.4'")
    return tuple(int(part) for part in text.strip().split("."))


def check_apis(kinds: Mapping[str, Iterable[str]]) -> OwnApis:
    """The project's own APIs by their kind; each name can stand for one."""
    given = {kind: tuple(name.strip() for name in names) for kind, names in kinds.items()}
    seen: dict[str, str] = {}
    for kind, names in given.items():
        for name in names:
            check_api(name)
            if seen.setdefault(name, kind) != kind:
                both = " and ".join(key.replace("_", "-") for key in (seen[name], kind))
                raise ConfigError(f"{name!r} is in {both}: it can be one of them")
    return OwnApis(**given) if seen else NONE


def check_api(name: str) -> None:
    if not NAME.fullmatch(name.strip()):
        short = name.strip().rpartition(".")[2]
        hint = f"; for a method of that name, write '*.{short}'" if short.isidentifier() else ""
        raise ConfigError(f"{name!r} is no full name of a function, such as 'package.module.function'{hint}")


class Configuration:
    """The settings of each file: `[tool.gradtrap]` of the pyproject.toml nearest to it, then the command line."""

    def __init__(
        self,
        command_line: Choice = Choice(),
        exclude: tuple[str, ...] = (),
        config: Path | None = None,
        isolated: bool = False,
        per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = (),
        force_exclude: bool | None = None,
    ) -> None:
        self._command_line = command_line
        self._exclude = exclude
        self._per_file_ignores = per_file_ignores
        self._force_exclude = force_exclude
        self._isolated = isolated
        self._folders: dict[str, Settings] = {}
        self._spelt: dict[str, Settings] = {}
        self._forced = None if config is None else self._from_file(config, must=True)

    def for_file(self, path: str) -> Settings:
        folder = os.path.dirname(path)
        if folder not in self._spelt:
            self._spelt[folder] = self.for_folder(os.path.abspath(folder))
        return self._spelt[folder]

    def for_path(self, path: str) -> Settings:
        """The settings of a file, or of the files in a folder."""
        return self.for_folder(os.path.abspath(path)) if os.path.isdir(path) else self.for_file(path)

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
        return Settings(
            decide(command_line=self._command_line),
            self._per_file_ignores,
            self._exclude,
            force_exclude=bool(self._force_exclude),
        )

    def _from_file(self, path: Path, must: bool = False) -> Settings | None:
        try:
            data = path.read_bytes()
        except OSError as error:
            if must:
                raise ConfigError(f"cannot read {path}: {error.strerror}") from error
            return None
        from flake8_gradtrap.pyproject import read_table

        table = read_table(path, data)
        if table is None:
            if must:
                raise ConfigError(f"{path}: there is no [tool.gradtrap]")
            return None
        forced = table.force_exclude if self._force_exclude is None else self._force_exclude
        return Settings(
            decide(table.choice, self._command_line),
            table.per_file_ignores + self._per_file_ignores,
            table.exclude + self._exclude,
            os.path.abspath(path.parent),
            force_exclude=bool(forced),
            apis=table.apis,
            target_torch=table.target_torch,
            origin=os.path.abspath(path),
        )
