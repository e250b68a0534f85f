"""Clipping thresholds: fixed, or following the norms that a run has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol


class Threshold(Protocol):
    """What decides how long the gradient of a parameter group may be."""

    def limit(self, seen: Sequence[float]) -> float | None:
        """The longest gradient allowed, given the norms seen so far in this group; None: no limit (yet)."""
        ...


@dataclass(frozen=True, slots=True)
class Static:
    """The same limit for every step, after `warmup` steps without one. Raises ValueError unless it is above 0."""

    max_norm: float
    warmup: int = 0

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm must be above 0, not {self.max_norm}")

    def limit(self, seen: Sequence[float]) -> float | None:
        return self.max_norm if len(seen) >= self.warmup else None


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A percentile of the norms of the last `window` steps, times `factor`, between `floor` and `ceiling`.

    No limit but the ceiling in the first `warmup` steps. The norms are those before clipping, and finite; so the limit
    follows the run in both directions (AutoClip, Seetharaman et al. 2020). Raises ValueError for settings that
    contradict each other.
    """

    percentile: float = 90.0
    factor: float = 1.0
    floor: float = 0.0
    ceiling: float = math.inf
    warmup: int = 100
    window: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile must be from 0 to 100, not {self.percentile}")
        if not 0 <= self.floor <= self.ceiling or self.ceiling <= 0:
            raise ValueError(f"floor ({self.floor}) and ceiling ({self.ceiling}) must be 0 <= floor <= ceiling > 0")
        if self.factor <= 0 or self.window < 1 or self.warmup < 0:
            raise ValueError("factor must be above 0, window at least 1, warmup not negative")

    def limit(self, seen: Sequence[float]) -> float | None:
        recent = list(islice(reversed(seen), self.window))
        if len(recent) < max(1, self.warmup):
            return None if math.isinf(self.ceiling) else self.ceiling
        return min(max(percentile(recent, self.percentile) * self.factor, self.floor), self.ceiling)


def percentile(values: Iterable[float], percent: float) -> float:
    """Linear interpolation between the closest ranks, as numpy does. Raises ValueError if there are no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
