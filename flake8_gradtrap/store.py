"""A folder in which a program keeps files that it can do without: written at once or not at all, and nowhere else.

The folder may lie in a project that somebody else has made up. So no link in it is followed, only regular files are
read, and only what has a name of ours is removed. Whatever fails is as if there were nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_LARGEST = 32 << 20
_INNER = re.compile(r"[0-9a-f]{32}")
_LOCK = ".lock"
_FILE = re.compile(r"[0-9a-f]{32}\.json|\.new-\d+-[0-9a-f]{16}|\.lock")
_TAG = "CACHEDIR.TAG"
_OURS = {
    ".gitignore": b"# Made by gradtrap.\n*\n",
    _TAG: b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of gradtrap; see https://bford.info/cachedir\n",
}
_PATIENCE = 2.0
"""So many seconds somebody else may take to write, until we write all the same."""
_OLD = 14 * 24 * 3600
"""What another version has written is removed after so many seconds."""
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | _NOFOLLOW
_BY_HANDLE = {os.open, os.mkdir, os.stat, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd


class _Folder:
    """An open folder. Its files are reached through its handle, so that nobody can put a link in their way.

    Where the system knows no such handles, they are reached by their names.
    """

    def __init__(self, path: str, within: _Folder | None = None) -> None:
        self.path: str = path if within is None else os.path.join(within.path, path)
        name, where = (self.path, {}) if within is None else within.at(path)
        if not stat.S_ISDIR(os.stat(name, follow_symlinks=False, **where).st_mode):
            raise NotADirectoryError(path)
        self.handle = os.open(name, _DIRECTORY | _NOFOLLOW, **where) if _BY_HANDLE else None

    def at(self, name: str) -> tuple[str, dict[str, Any]]:
        """How to call a file of it, with the keywords that go with it."""
        if self.handle is None:
            return os.path.join(self.path, name), {}
        return name, {"dir_fd": self.handle}

    def names(self) -> list[str]:
        return os.listdir(self.path if self.handle is None else self.handle)

    def read(self, name: str) -> bytes:
        called, where = self.at(name)
        if not stat.S_ISREG(os.stat(called, follow_symlinks=False, **where).st_mode):
            raise OSError("not a regular file")
        with open(os.open(called, os.O_RDONLY | _FLAGS, **where), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                raise OSError("not a file of ours")
            return stream.read(_LARGEST)

    def write(self, name: str, data: bytes) -> None:
        """Put a file in the place of whatever has its name, all of it at once."""
        new, where = self.at(f".new-{os.getpid()}-{os.urandom(8).hex()}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666, **where), "wb") as stream:
                stream.write(data)
            if self.handle is None:
                os.replace(new, self.at(name)[0])
            else:
                os.replace(new, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new, **where)
            raise

    def lock(self) -> int:
        """Wait until nobody else holds the lock of this folder, and hold it, until the handle is closed."""
        called, where = self.at(_LOCK)
        handle = os.open(called, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666, **where)
        try:
            until = time.monotonic() + _PATIENCE
            while stat.S_ISREG(os.fstat(handle).st_mode):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.005)
                else:
                    break
        except BaseException:
            os.close(handle)
            raise
        return handle

    def remove_files(self) -> int:
        """Remove the files of ours; how many had something in them."""
        removed = 0
        for name in self.names():
            if _FILE.fullmatch(name):
                called, where = self.at(name)
                os.unlink(called, **where)
                removed += name != _LOCK
        return removed

    def close(self) -> None:
        if self.handle is not None:
            os.close(self.handle)


class Store:
    """The files of one version (`inner`) in a folder (`top`)."""

    def __init__(self, top: str, inner: str) -> None:
        self._top = top
        self._inner = inner
        self._broken = False

    def read(self, name: str) -> bytes | None:
        with contextlib.suppress(OSError, ValueError), self._open(make=False) as folder:
            return folder.read(f"{name}.json")
        return None

    def write(self, name: str, data: bytes) -> None:
        if not self._broken:
            try:
                with self._open(make=True) as folder:
                    folder.write(f"{name}.json", data)
            except (OSError, ValueError):
                self._broken = True  # a full disk, a folder that is read-only: so it will be the next time

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process that asks for it read and write meanwhile: of two that add to a file, one would lose.

        What cannot be locked, or is held for too long, is as if nobody else were there: that costs an answer at most.
        """
        with contextlib.ExitStack() as stack:
            if fcntl is not None and not self._broken:
                with contextlib.suppress(OSError, ValueError):
                    folder = stack.enter_context(self._open(make=True))
                    stack.callback(os.close, folder.lock())
            yield

    @contextlib.contextmanager
    def _open(self, make: bool) -> Iterator[_Folder]:
        with contextlib.ExitStack() as stack:
            made = False
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._top)
                    made = True
            top = self._entered(_Folder(self._top), stack)
            for name, data in _OURS.items() if made else ():
                top.write(name, data)
            called, where = top.at(self._inner)
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(called, **where)
                    self._remove_versions(top, time.time() - _OLD)
            yield self._entered(_Folder(self._inner, top), stack)

    @staticmethod
    def _entered(folder: _Folder, stack: contextlib.ExitStack) -> _Folder:
        stack.callback(folder.close)
        return folder

    def clean(self) -> int:
        """Remove what any version has written, and the folder, if nothing else is in it."""
        with contextlib.ExitStack() as stack:
            top = self._entered(_Folder(self._top), stack)
            removed = self._remove_versions(top, None)
            if {name for name in top.names() if name not in _OURS}:
                return removed
            for name, data in _OURS.items():
                with contextlib.suppress(OSError):
                    if top.read(name) == data:
                        called, where = top.at(name)
                        os.unlink(called, **where)
        with contextlib.suppress(OSError):
            os.rmdir(self._top)
        return removed

    def _remove_versions(self, top: _Folder, before: float | None) -> int:
        """Remove the folders of versions, only those not written to since `before`, if it is given."""
        removed = 0
        for name in top.names():
            if not _INNER.fullmatch(name) or (before is not None and name == self._inner):
                continue
            called, where = top.at(name)
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if before is None or os.stat(called, follow_symlinks=False, **where).st_mtime < before:
                    removed += self._entered(_Folder(name, top), stack).remove_files()
                    os.rmdir(called, **where)
        return removed
