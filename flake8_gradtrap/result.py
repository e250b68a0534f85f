"""What the engine answers: plain data, which any process can hand to any other."""

from __future__ import annotations

from dataclasses import dataclass

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.versions import Look


@dataclass(frozen=True, slots=True)
class Statistics:
    """What it took to check a file."""

    functions_run: int = 0
    functions_over_budget: int = 0
    seconds: float = 0.0
    over_budget: tuple[str, ...] = ()
    """The names of these functions."""


@dataclass(frozen=True, slots=True)
class Result:
    """The findings of a file, in the order of their places, and what it took to find them."""

    findings: tuple[Finding, ...]
    statistics: Statistics = Statistics()
    looks: tuple[Look, ...] = ()
    """What else of the project they depend on."""
    settled: bool = True
    """Whether the same file would give the same again: not after an error of ours, or where memory ran out."""

    @property
    def consulted(self) -> frozenset[str]:
        """The files of the project that had a part in it, by their content or by not being there."""
        return frozenset(look.path for look in self.looks)
