"""The flake8 plugin: the findings of `gradtrap check`, under flake8's own settings."""

from __future__ import annotations

import ast
import contextlib
import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from flake8.exceptions import ExecutionError
from flake8.options.manager import OptionManager
from flake8.style_guide import Decision, DecisionEngine

from flake8_gradtrap import __version__, config
from flake8_gradtrap.batch import Task, check_data, check_text
from flake8_gradtrap.config import (
    FAMILY,
    NOT_ANALYSED,
    Codes,
    ConfigError,
    Settings,
    check_apis,
    check_version,
)
from flake8_gradtrap.gate import is_about_training
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.report import message_of

if TYPE_CHECKING:
    from flake8_gradtrap.cache import Cache
    from flake8_gradtrap.finding import Finding

_OWN = {
    "one_shot_sources": "that return an iterator",
    "materialisers": "that make a list of an iterator",
    "clip_functions": "that clip gradients",
    "loggers": "that read numbers out, and leave gradients alone",
    "step_wrappers": "that take a loss backward, step and clear the gradients",
}
"""The options about a project's own APIs."""
_NO = frozenset({"", "0", "f", "false", "n", "no", "off"})
"""What an environment variable says that says no."""


class Plugin:
    """What flake8 makes for each file."""

    name = "flake8-gradtrap"
    version = __version__
    settings: ClassVar[Settings | None] = None
    _cache: ClassVar[Cache | None] = None
    _saved_by: ClassVar[int] = 0
    """The process that saves the cache when it ends: flake8 does not tell a plugin that it is done."""

    def __init__(self, tree: ast.Module, filename: str, lines: Sequence[str]) -> None:
        self._tree = tree
        self._filename = filename
        self._lines = lines

    @classmethod
    def add_options(cls, option_manager: OptionManager) -> None:
        """The settings of [tool.gradtrap] that flake8 has no option for, under the same names."""
        option_manager.add_option(
            "--preview", action="store_true", default=False, parse_from_config=True,
            help="gradtrap: rules and findings that are off by default, too",
        )  # fmt: skip
        option_manager.add_option(
            "--target-torch", default="", parse_from_config=True, metavar="VERSION",
            help="gradtrap: the version of torch that the code is for",
        )  # fmt: skip
        for name, help in _OWN.items():
            option_manager.add_option(
                f"--{name.replace('_', '-')}", default="", parse_from_config=True, comma_separated_list=True,
                metavar="NAMES", help=f"gradtrap: functions of your own {help}",
            )  # fmt: skip
        option_manager.add_option(
            "--gradtrap-no-cache", action="store_true", default=False, parse_from_config=True,
            help="gradtrap: neither read nor write the cache",
        )  # fmt: skip
        option_manager.add_option(
            "--gradtrap-cache-dir", default="", metavar="FOLDER",  # no setting: a project has no say in where we write
            help="gradtrap: where the cache lies; .gradtrap_cache in the root of the project if not given",
        )  # fmt: skip
        try:
            rules = config.known_rules()
        except ConfigError as error:
            raise ExecutionError(f"gradtrap: {error}") from error
        option_manager.extend_default_ignore([code for code, default in rules.items() if not default])

    @classmethod
    def parse_options(cls, options: Namespace) -> None:
        try:
            apis = check_apis({kind: getattr(options, kind) or () for kind in _OWN})
            version = check_version(options.target_torch) if options.target_torch else None
        except ConfigError as error:
            raise ExecutionError(f"gradtrap: {error}") from error
        if options.preview:
            off = {code for code, default in config.known_rules().items() if not default}
            options.extended_default_ignore = [code for code in options.extended_default_ignore if code not in off]
        cls.settings = Settings(_codes(options), noqa=not options.disable_noqa, apis=apis, target_torch=version)
        cls._save()
        cls._cache = None if cls.settings.codes.enabled <= {NOT_ANALYSED} else _cache(options)

    def run(self) -> Iterator[tuple[int, int, str, type[Plugin]]]:
        settings = self.settings or Settings()
        if settings.codes.enabled <= {NOT_ANALYSED}:
            return
        text = "".join(self._lines)
        if not is_about_training(text, settings.apis):
            return
        for finding in self._findings(text, settings):
            message = f"{finding.code} {message_of(finding)}"
            yield finding.span.row, finding.span.column - 1, message, type(self)

    def _findings(self, text: str, settings: Settings) -> tuple[Finding, ...]:
        """What was found the last time, if nothing has changed since, else what is found now."""
        if self._cache is None or is_notebook(self._filename):
            return check_data(text, self._filename, settings, self._tree).findings
        task = Task(self._filename, settings)
        outcome = self._cache.get(task, text)
        if outcome is None:
            outcome = check_text(task, text, self._tree)
            self._cache.put(task, outcome)
            self._save_at_end()
        return outcome.findings

    @classmethod
    def _save_at_end(cls) -> None:
        """Save the cache when this process ends: flake8's own, or one of its workers, which end without `atexit`."""
        if cls._saved_by != os.getpid():
            from multiprocessing.util import Finalize

            cls._saved_by = os.getpid()
            Finalize(None, cls._save, exitpriority=1)

    @classmethod
    def _save(cls) -> None:
        if cls._cache is not None:
            with contextlib.suppress(Exception):  # nobody is left who could do anything about it
                cls._cache.save()


def _cache(options: Namespace) -> Cache | None:
    """The cache of `gradtrap check`, unless it is off."""
    if options.gradtrap_no_cache or os.environ.get("GRADTRAP_NO_CACHE", "").lower() not in _NO:
        return None
    from flake8_gradtrap.cache import Cache, default_folder

    given = options.gradtrap_cache_dir or os.environ.get("GRADTRAP_CACHE_DIR", "")
    with contextlib.suppress(OSError, ValueError):  # where we are is gone
        return Cache(os.path.realpath(given) if given else default_folder())
    return None


def _codes(options: Namespace) -> Codes:
    """The codes that flake8 would show, decided by flake8 itself, so that no rule runs in vain.

    As on the command line, a preview rule needs to be selected by more than the family's prefix.
    """
    decide = DecisionEngine(options).decision_for
    prefixes = [*(options.select or ()), *(options.extend_select or ())]
    precise = tuple(prefix for prefix in prefixes if len(prefix) > len(FAMILY))
    enabled = {
        code
        for code, default in config.known_rules().items()
        if decide(code) is Decision.Selected and (default or options.preview or code.startswith(precise))
    }
    return Codes(frozenset(enabled), frozenset(code for code in enabled if options.preview or code.startswith(precise)))
