"""The flake8 plugin: the findings of `gradtrap check`, under flake8's own settings."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import ClassVar

from flake8.options.manager import OptionManager
from flake8.style_guide import Decision, DecisionEngine

from flake8_gradtrap import __version__
from flake8_gradtrap.batch import check_data
from flake8_gradtrap.config import FAMILY, NOT_ANALYSED, Codes, Settings, known_rules
from flake8_gradtrap.report import message_of


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
        option_manager.extend_default_ignore([code for code, default in known_rules().items() if not default])

    @classmethod
    def parse_options(cls, options: Namespace) -> None:
        cls.settings = Settings(_codes(options), noqa=not options.disable_noqa)

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
        for code, default in known_rules().items()
        if decide(code) is Decision.Selected and (default or code.startswith(precise))
    }
    return Codes(frozenset(enabled), frozenset(code for code in enabled if code.startswith(precise)))
