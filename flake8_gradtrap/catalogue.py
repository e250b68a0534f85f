"""Which rules there are, and what this installation of gradtrap consists of, found without importing any of it.

To import the rules takes longer than a warm run may last, so the few facts that settings need are read from their text.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_RULE = re.compile(r"(gtr\d{3})_\w+\.py")
_SINCE = re.compile(rb'^    torch(?:: [^=\n]+)? = "([\d.]+)"', re.MULTILINE)
_OFF = re.compile(rb"^    default(?:: [^=\n]+)? = False$", re.MULTILINE)


@cache
def rule_defaults() -> dict[str, bool]:
    """Every code, and whether it is on by default."""
    found: dict[str, bool] = {}
    for path in sorted(_rule_files()):
        if match := _RULE.fullmatch(path.name):
            found[match[1].upper()] = _OFF.search(path.read_bytes()) is None
    if not found:  # the rules are not files: an installation in an archive
        from flake8_gradtrap.rule import all_rules

        found = {code: rule.default for code, rule in all_rules().items()}
    return found


@cache
def rule_versions() -> dict[str, tuple[int, ...]]:
    """The first version of torch in which a rule's trap is one, of the rules that name it."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(_rule_files()):
        if (match := _RULE.fullmatch(path.name)) and (since := _SINCE.search(path.read_bytes())):
            found[match[1].upper()] = tuple(map(int, since[1].decode().split(".")))
    return found


@cache
def installation() -> str:
    """What tells this installation from another one, of which the findings may differ.

    In a checkout the times of the files count, too: there they are edited.
    """
    import hashlib

    from flake8_gradtrap import __version__, rules

    here = Path(__file__).parent
    edited = any(Path(folder).parent != here for folder in rules.__path__)
    found = [__version__, sys.implementation.cache_tag or "", _libcst()]
    for folder in dict.fromkeys([str(here), *rules.__path__]):
        for top, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(files):
                status = os.stat(os.path.join(top, name))
                found.append(f"{name} {status.st_size} {status.st_mtime_ns if edited else ''}")
    return hashlib.blake2b("\n".join(found).encode(), digest_size=16).hexdigest()


def _libcst() -> str:
    """The version of libcst, which decides what can be fixed, without importing it."""
    found = importlib.util.find_spec("libcst")
    if found is None or found.origin is None:
        return ""
    try:
        return Path(found.origin).with_name("_version.py").read_text(encoding="utf-8")
    except OSError:
        return ""


@cache
def rule_address(code: str) -> str | None:
    """Where the page of a rule can be read: in the documentation that the distribution names, else in its own file."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for address in importlib.metadata.metadata("flake8-gradtrap").get_all("Project-URL") or ():
            label, _, url = address.partition(",")
            if label.strip().lower() == "documentation" and url.strip():
                return f"{url.strip().rstrip('/')}/rules/{code}/"
    files = (path for path in _rule_files() if (match := _RULE.fullmatch(path.name)) and match[1].upper() == code)
    return next((path.absolute().as_uri() for path in files), None)


def _rule_files() -> Iterator[Path]:
    from flake8_gradtrap import rules

    for folder in dict.fromkeys(rules.__path__):
        if os.path.isdir(folder):
            yield from Path(folder).iterdir()
