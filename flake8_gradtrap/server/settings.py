"""Settings that the editor gives, and those of the project: which rules run on a file, and which files are left out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flake8_gradtrap.config import Choice, ConfigError, Configuration, Settings, check_codes, nearest

SECTION = "gradtrap"
KEYS = ("select", "ignore", "extendSelect", "preview", "exclude", "config", "isolated", "unsafeFixes")
_OF_CLIENT = frozenset({"command", "enable", "interpreter", "path", "trace"})
"""Settings that an extension keeps in the same section for itself."""


@dataclass(frozen=True)
class EditorSettings:
    """What the editor says; it has the place of the command line, so it decides over pyproject.toml.

    `unsafe_fixes`: whether fixing everything applies unsafe fixes too.
    """

    choice: Choice = field(default_factory=Choice)
    exclude: tuple[str, ...] = ()
    config: str = ""
    isolated: bool = False
    unsafe_fixes: bool = False

    @classmethod
    def read(cls, given: Any) -> tuple[EditorSettings, list[str]]:
        """The settings in what an editor sent, and what is wrong with it. Settings that are wrong do not count."""
        wrong: list[str] = []
        if given is None:
            return cls(), wrong
        if not isinstance(given, Mapping):
            return cls(), [f"the settings must be an object, not {given!r}"]
        for key in given:
            if key not in _OF_CLIENT and key not in KEYS:
                wrong.append(f"unknown setting {key!r}{nearest(str(key), KEYS)}")

        def flag(key: str) -> bool | None:
            value = given.get(key)
            if value is None or isinstance(value, bool):
                return value
            wrong.append(f"{key!r} must be true or false")
            return None

        def strings(key: str) -> tuple[str, ...]:
            value = given.get(key) or []
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return tuple(value)
            wrong.append(f"{key!r} must be a list of strings")
            return ()

        def codes(key: str) -> tuple[str, ...]:
            try:
                return check_codes(strings(key))
            except ConfigError as error:
                wrong.append(f"{key!r}: {error}")
                return ()

        config = given.get("config") or ""
        if not isinstance(config, str):
            wrong.append("'config' must be the path of a file")
            config = ""
        choice = Choice(codes("select") or None, codes("ignore"), codes("extendSelect"), flag("preview"))
        settings = cls(
            choice, strings("exclude"), config, flag("isolated") is True, unsafe_fixes=flag("unsafeFixes") is True
        )
        return settings, wrong


def settings_of(path: str, folder: str, editor: EditorSettings) -> Settings | None:
    """The settings of a file; None if it is excluded. ConfigError if a configuration cannot be used.

    `folder`: the workspace folder in which the file lies. Nothing is kept: a pyproject.toml counts as it is now.
    """
    configuration = _configuration(folder, editor)
    if _excluded(path, folder, configuration):
        return None
    return configuration.for_file(path)


def _configuration(folder: str, editor: EditorSettings) -> Configuration:
    config = Path(folder, os.path.expanduser(editor.config)) if editor.config else None
    exclude = (*editor.exclude, *(os.path.join(folder, pattern) for pattern in editor.exclude if folder))
    return Configuration(editor.choice, exclude, config, editor.isolated)


def _excluded(path: str, folder: str, configuration: Configuration) -> bool:
    """Whether a walk through the folder would leave the file out."""
    if not folder or not path.startswith(folder.rstrip(os.sep) + os.sep):
        return configuration.for_file(path).excludes(path)
    while len(path) > len(folder):
        if configuration.for_file(path).excludes(path):
            return True
        path = os.path.dirname(path)
    return False
