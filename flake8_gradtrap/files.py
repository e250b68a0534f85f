"""Files: which ones are checked, and how a fixed one is written."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.notebook import ENDING

STDIN = "-"


def discover(paths: Iterable[str], configuration: Configuration) -> list[str]:
    """The files to check, each once, in a fixed order: those that are named, and the programs below named folders."""
    found: dict[str, str] = {}
    for path in paths:
        for file in _walk(path, configuration) if os.path.isdir(path) else [path]:
            if not file.endswith(".pyi"):
                found.setdefault(STDIN if file == STDIN else os.path.realpath(file), file)
    return sorted(found.values())


def _walk(top: str, configuration: Configuration) -> Iterator[str]:
    # Links to folders are not followed, so a loop of them is harmless.
    for folder, folders, files in os.walk(os.path.normpath(top)):
        settings = configuration.for_folder(os.path.abspath(folder))
        folders[:] = sorted(
            name
            for name in folders
            if not settings.excludes(path := os.path.join(folder, name))
            and not os.path.exists(os.path.join(path, "pyvenv.cfg"))
        )
        for name in sorted(files):
            path = os.path.normpath(os.path.join(folder, name))
            if name.endswith((".py", ENDING)) and not settings.excludes(path) and _is_regular(path):
                yield path


def _is_regular(path: str) -> bool:
    """Whether reading it could give a program: a pipe would block, a dangling link leads nowhere."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


class NotWritten(Exception):
    """A file was left as it is; the message says why."""


def replace_file(path: str, old: bytes, new: bytes) -> None:
    """Replace the content of a file at once, unless it is no longer `old`. Its mode stays, a link stays a link."""
    target = os.path.realpath(path)
    temporary = ""
    try:
        if not os.access(target, os.W_OK):
            raise NotWritten("it is not writable")
        mode = os.stat(target).st_mode
        handle, temporary = tempfile.mkstemp(prefix=".gradtrap-", dir=os.path.dirname(target))
        with open(handle, "wb") as stream:
            stream.write(new)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, stat.S_IMODE(mode))
        with open(target, "rb") as stream:
            if stream.read() != old:
                raise NotWritten("it changed since it was read")
        os.replace(temporary, target)
    except OSError as error:
        raise NotWritten(str(error.strerror)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
