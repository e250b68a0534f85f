"""The real run: what training steps say about a trap. Needs torch (extra `runtime`); the linter never imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flake8_gradtrap.runtime.clipping import Dynamic, Static
    from flake8_gradtrap.runtime.watching import Watch, watch

__all__ = ["Dynamic", "Static", "Watch", "watch"]

_PLACES = {"Dynamic": "clipping", "Static": "clipping", "Watch": "watching", "watch": "watching"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: `gradtrap confirm` needs torch only in the process that runs the program."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
