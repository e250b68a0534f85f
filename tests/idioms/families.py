"""Every family of programs."""

from __future__ import annotations

from idioms import (
    adversaries,
    algorithms,
    clearing,
    derivatives,
    evaluating,
    frozen,
    losses,
    modules,
    oneshot,
    phases,
    policies,
    precision,
    procedures,
    recording,
    schedules,
    several,
    single,
    values,
    windows,
)
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (
    *adversaries.FAMILIES,
    *algorithms.FAMILIES,
    *clearing.FAMILIES,
    *derivatives.FAMILIES,
    *evaluating.FAMILIES,
    *frozen.FAMILIES,
    *losses.FAMILIES,
    *modules.FAMILIES,
    *oneshot.FAMILIES,
    *phases.FAMILIES,
    *policies.FAMILIES,
    *precision.FAMILIES,
    *procedures.FAMILIES,
    *recording.FAMILIES,
    *schedules.FAMILIES,
    *several.FAMILIES,
    *single.FAMILIES,
    *values.FAMILIES,
    *windows.FAMILIES,
)
