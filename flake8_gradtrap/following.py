"""`--watch`: wait until a file that matters has changed. What changes while the files are checked is not missed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ENDINGS = (".py", ".ipynb", "pyproject.toml")
INTERVAL = 0.5
"""So many seconds lie between two looks at the files, where nothing tells us of changes."""
BEAT = 200
"""So many milliseconds after its start a watch is known to have begun."""


def changes(paths: Iterable[str], sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield when the watch has begun, and whenever a program or a pyproject.toml below these paths has changed, come or
    gone since the last time.
    """
    folders = sorted({path if os.path.isdir(path) else os.path.dirname(path) or os.curdir for path in paths})
    try:
        from watchfiles import watch
    except ImportError:
        yield from _poll(folders, sleep)
        return
    begun = False
    for found in watch(*folders, raise_interrupt=True, yield_on_timeout=True, rust_timeout=BEAT):
        if not begun or any(path.endswith(ENDINGS) for _, path in found):
            begun = True
            yield


def _poll(folders: Iterable[str], sleep: Callable[[float], None]) -> Iterator[None]:
    while True:
        before = _seen(folders)
        yield
        while _seen(folders) == before:
            sleep(INTERVAL)


def _seen(folders: Iterable[str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for folder in folders:
        for top, inner, names in os.walk(folder):
            inner[:] = [name for name in inner if not name.startswith(".") and name not in ("node_modules", "venv")]
            for name in names:
                if name.endswith(ENDINGS):
                    with contextlib.suppress(OSError):
                        status = Path(top, name).stat()
                        found[os.path.join(top, name)] = (status.st_mtime_ns, status.st_size)
    return found
