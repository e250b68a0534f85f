"""`--watch`: wait until a file that matters has changed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ENDINGS = (".py", ".ipynb", "pyproject.toml")
INTERVAL = 0.5
"""So many seconds lie between two looks at the files, where nothing tells us of changes."""


def wait_for_change(paths: Iterable[str], sleep: Callable[[float], None] = time.sleep) -> None:
    """Return when a program or a pyproject.toml below these paths has changed, come or gone."""
    folders = sorted({path if os.path.isdir(path) else os.path.dirname(path) or os.curdir for path in paths})
    try:
        from watchfiles import watch
    except ImportError:
        _poll(folders, sleep)
        return
    for changes in watch(*folders, raise_interrupt=True):
        if any(path.endswith(ENDINGS) for _, path in changes):
            return


def _poll(folders: Iterable[str], sleep: Callable[[float], None]) -> None:
    before = _seen(folders)
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
