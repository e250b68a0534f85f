"""Every family of programs."""

from __future__ import annotations

from idioms import clearing, recording
from idioms.grammar import Family

FAMILIES: tuple[Family, ...] = (*clearing.FAMILIES, *recording.FAMILIES)
