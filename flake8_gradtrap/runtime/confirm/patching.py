"""Functions of torch behind hooks, for as long as a run is watched."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from flake8_gradtrap.runtime.confirm.tracer import Tracer


class Patching:
    """Base of what puts hooks around functions, and takes them away again."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _around(self, owner: Any, name: str, hook: Callable[..., Any], always: bool = False) -> None:
        """Let `hook(call, *args, **kwargs)` stand around a function; `call` runs it.

        `always`: also while the recording pauses, because it is rare, or something rests on it later.
        """
        original = getattr(owner, name)
        tracer, fresh = self.tracer, self.tracer.where.fresh

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not (tracer.active or always or (fresh(sys._getframe(1)) and tracer.surprise())) or not tracer.here:
                return original(*args, **kwargs)
            return hook(original, *args, **kwargs)

        setattr(owner, name, wrapped)
        self._undo.append(lambda: setattr(owner, name, original))
