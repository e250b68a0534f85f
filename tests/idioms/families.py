"""Every family of programs."""

from __future__ import annotations

from idioms import (
    algorithms,
    clearing,
    evaluating,
    losses,
    oneshot,
    precision,
    procedures,
    recording,
    schedules,
    several,
    single,
    windows,
)
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (
    *algorithms.FAMILIES,
    *clearing.FAMILIES,
    *evaluating.FAMILIES,
    *losses.FAMILIES,
    *oneshot.FAMILIES,
    *precision.FAMILIES,
    *procedures.FAMILIES,
    *recording.FAMILIES,
    *schedules.FAMILIES,
    *several.FAMILIES,
    *single.FAMILIES,
    *windows.FAMILIES,
)
