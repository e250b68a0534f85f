"""Kinds of files, by their names."""

from __future__ import annotations

NOTEBOOK = ".ipynb"


def is_notebook(path: str) -> bool:
    return path.endswith(NOTEBOOK)
