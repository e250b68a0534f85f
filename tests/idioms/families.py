"""Every family of programs."""

from __future__ import annotations

from idioms import (
    adversaries,
    clearing,
    derivatives,
    evaluating,
    frozen,
    losses,
    modules,
    phases,
    policies,
    recording,
    values,
)
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (
    *clearing.FAMILIES,
    *recording.FAMILIES,
    *losses.FAMILIES,
    *evaluating.FAMILIES,
    *policies.FAMILIES,
    *values.FAMILIES,
    *frozen.FAMILIES,
    *phases.FAMILIES,
    *derivatives.FAMILIES,
    *adversaries.FAMILIES,
    *modules.FAMILIES,
)
