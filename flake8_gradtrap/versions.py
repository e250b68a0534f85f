"""Versions of files: what was read, told apart by its content, and by what the file system says of it.

The content decides. The file system is asked first, so that a file that nobody touched need not be read again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import NamedTuple

LARGEST = 64 << 20
"""So many bytes of a file are read at most."""

_SETTLED = 2_000_000_000
"""A file that changed so many nanoseconds ago may change once more without any sign of it: clocks of file systems tick
in steps of up to two seconds.
"""

UNREADABLE = "?"


class Stamp(NamedTuple):
    """What the file system says of a file. The time of the last change of its inode cannot be set at will."""

    size: int
    modified: int
    changed: int
    inode: int


class Look(NamedTuple):
    """A place that was looked at, and what was there.

    `digest`: of the content, if it was read; "" if it was only seen that there is something (just this, if it has a
    stamp); None: nothing was there; UNREADABLE: what was there could not be read, and next time perhaps can.
    """

    path: str
    digest: str | None
    stamp: Stamp | None = None


def digest(data: bytes) -> str:
    import hashlib  # a run with nothing new does without

    return hashlib.blake2b(data, digest_size=16).hexdigest()


def whole_stamp(status: os.stat_result) -> Stamp | None:
    """The stamp of a file; None for what is no file."""
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def stamp(status: os.stat_result) -> Stamp | None:
    """The stamp of a file; None if it has changed so lately that it proves nothing."""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED:
        return None
    return whole_stamp(status)


def read(path: str) -> tuple[bytes, Stamp | None]:
    """The content of a file and its stamp. OSError for all that has no content of its own: pipes, devices, sockets."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may do something
        raise OSError(errno.EINVAL, "not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    with open(os.open(path, flags), "rb") as stream:
        before = os.fstat(stream.fileno())
        if not stat.S_ISREG(before.st_mode):  # it was replaced meanwhile
            raise OSError(errno.EINVAL, "not a regular file")
        if before.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB")
        data = stream.read(LARGEST + 1)
        after = os.fstat(stream.fileno())
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB")
    same = before.st_mtime_ns == after.st_mtime_ns and len(data) == after.st_size == before.st_size
    return data, stamp(before) if same else None


def says(data: bytes, text: str) -> bool:
    """Whether the bytes of a source file mean this text, of which the lines have plain ends."""
    if data == text.encode(errors="surrogatepass"):
        return True
    from flake8_gradtrap.source import SourceError, decode  # rarely needed

    try:
        return decode(data)[0].replace("\r\n", "\n").replace("\r", "\n") == text
    except SourceError:
        return False
