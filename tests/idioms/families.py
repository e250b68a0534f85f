"""Every family of programs."""

from __future__ import annotations

from idioms import algorithms, clearing, oneshot, precision, procedures, schedules, several, single, windows
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (
    *algorithms.FAMILIES,
    *clearing.FAMILIES,
    *oneshot.FAMILIES,
    *precision.FAMILIES,
    *procedures.FAMILIES,
    *schedules.FAMILIES,
    *several.FAMILIES,
    *single.FAMILIES,
    *windows.FAMILIES,
)
