"""Every family of programs."""

from __future__ import annotations

from idioms import clearing, evaluating, losses, recording
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (*clearing.FAMILIES, *recording.FAMILIES, *losses.FAMILIES, *evaluating.FAMILIES)
