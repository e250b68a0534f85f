"""Correct programs are silent, however they are written; `python tests/idioms` tells which way of writing raised it."""

from __future__ import annotations

import random

import pytest
from idioms.families import FAMILIES
from idioms.grammar import Family, seen

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source

SETTINGS = Settings()
MIXED = 5
"""Programs of ways chosen by chance, besides those that differ in one way."""


def alarms(family: Family, differs: dict[str, str]) -> list[str]:
    result = check_source(seen(family.program(differs)), "/nowhere/train.py", SETTINGS)
    return [f"{differs}: {found.code} in line {found.span.row}: {found.message}" for found in result.findings]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_correct_program_is_silent(family: Family) -> None:
    chance = random.Random(family.name)
    programs = [{}, *family.single(), *(family.mixed(chance) for _ in range(MIXED))]
    assert [line for differs in programs for line in alarms(family, differs)] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_traps_of_a_plain_program_are_found(family: Family) -> None:
    for trap, (code, _) in family.traps.items():
        result = check_source(seen(family.program(trap=trap)), "/nowhere/train.py", SETTINGS)
        assert [found.code for found in result.findings] == [code], trap


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_pair_of_ways_is_silent(family: Family) -> None:
    assert [line for differs in family.pairs() for line in alarms(family, differs)] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_programs_run_in_torch(family: Family, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    for differs in [{}, *family.single()]:
        exec(compile(family.program(differs), "train.py", "exec"), {"__name__": "__main__"})
