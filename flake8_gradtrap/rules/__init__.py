"""A bridge: in a checkout (and in an editable install) the rule modules lie in `rules/` beside the package."""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2] / "rules"
if _checkout.is_dir() and (_checkout.parent / "pyproject.toml").is_file():
    __path__ = [str(_checkout), *__path__]
