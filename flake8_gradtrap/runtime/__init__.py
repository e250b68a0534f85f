"""The real run: what training steps say about a trap. Needs torch (extra `runtime`); the linter never imports this."""

from flake8_gradtrap.runtime.clipping import Dynamic, Static
from flake8_gradtrap.runtime.watching import Watch, watch

__all__ = ["Dynamic", "Static", "Watch", "watch"]
