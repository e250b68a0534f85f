"""Files: which ones are checked, and how a fixed one is written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.kinds import NOTEBOOK

STDIN = "-"


def discover(paths: Iterable[str], configuration: Configuration) -> list[str]:
    """The files to check, each once, in a fixed order: those that are named, and the programs below named folders."""
    found: dict[str, str] = {}
    for path in paths:
        if os.path.isdir(path):
            for file, real in _walk(os.path.normpath(path), os.path.realpath(path), configuration):
                found.setdefault(real, file)
        elif path == STDIN:
            found.setdefault(STDIN, path)
        elif not path.endswith(".pyi") and not configuration.for_file(path).leaves_out(path):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def _walk(top: str, real: str, configuration: Configuration) -> Iterator[tuple[str, str]]:
    """The programs below a folder, each with its real path, with as few questions to the file system as will do."""
    waiting = [(top, real)]
    while waiting:
        folder, real = waiting.pop()
        settings = configuration.for_folder(os.path.abspath(folder))
        prefix = "" if folder == os.curdir else os.path.join(folder, "")
        for entry in _entries(folder):
            name = entry.name
            path = prefix + name
            # Links to folders are not followed, so a loop of them is harmless.
            if entry.is_dir(follow_symlinks=False):
                if not settings.excludes(path) and not os.path.exists(os.path.join(path, "pyvenv.cfg")):
                    waiting.append((path, os.path.join(real, name)))
            elif name.endswith((".py", NOTEBOOK)) and not settings.excludes(path) and _is_regular(entry):
                yield path, os.path.realpath(path) if entry.is_symlink() else os.path.join(real, name)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # it is gone, or closed to us
        return []


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether reading it could give a program: a pipe would block, a dangling link leads nowhere."""
    try:
        return entry.is_file()
    except OSError as error:
        return isinstance(error, PermissionError)


class NotWritten(Exception):
    """A file was left as it is; the message says why."""


def replace_file(path: str, old: bytes, new: bytes) -> None:
    """Replace the content of a file at once, unless it is no longer `old`. Its mode stays, a link stays a link."""
    import tempfile

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
