"""The flake8 plugin: the findings of `gradtrap check`, under flake8's own settings."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import ClassVar

from flake8.exceptions import ExecutionError
from flake8.options.manager import OptionManager
from flake8.style_guide import Decision, DecisionEngine

from flake8_gradtrap import __version__, config
from flake8_gradtrap.batch import check_data
from flake8_gradtrap.config import (
    FAMILY,
    NOT_ANALYSED,
    Codes,
    ConfigError,
    Settings,
    check_apis,
    check_version,
)
from flake8_gradtrap.report import message_of

_OWN = {
    "one_shot_sources": "that return an iterator",
    "materialisers": "that make a list of an iterator",
    "clip_functions": "that clip gradients",
    "loggers": "that read numbers out, and leave gradients alone",
    "step_wrappers": "that take a loss backward, step and clear the gradients",
}
"""The options about a project's own APIs."""


class Plugin:
    """What flake8 makes for each file."""

    name = "flake8-gradtrap"
    version = __version__
    settings: ClassVar[Settings | None] = None

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
        option_manager.extend_default_ignore([code for code, default in config.known_rules().items() if not default])

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

    def run(self) -> Iterator[tuple[int, int, str, type[Plugin]]]:
        settings = self.settings or Settings()
        if settings.codes.enabled <= {NOT_ANALYSED}:
            return
        for finding in check_data("".join(self._lines), self._filename, settings, self._tree).findings:
            text = f"{finding.code} {message_of(finding)}"
            yield finding.span.row, finding.span.column - 1, text, type(self)


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
