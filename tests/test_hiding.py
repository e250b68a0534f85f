"""Unknown is innocent: a program of which less can be seen has no finding that it had not before.

A share of the fixtures, hidden in a share of the ways, runs always; `-m slow` runs for minutes on others
(GRADTRAP_FUZZ_SECONDS). Findings may get lost: whoever cannot see, cannot tell.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hiding import WAYS, Findings, Mutant, Program, findings, mutants

from flake8_gradtrap.config import Settings

FIXTURES = ROOT / "fixtures"
FILES = sorted(path for path in FIXTURES.rglob("*.py") if "GTR000" not in path.parts)
SECONDS = float(os.environ.get("GRADTRAP_FUZZ_SECONDS", "120"))
SETTINGS = Settings()

MEANT = {
    ("GTR601", "wrapped"),  # a network that unseen code made is taken for one that is trained
    ("GTR206", "wrapped"),  # so is a move to a device that is not known: its message says so
    ("GTR402", "wrapped"),  # what unseen code makes of a list is another one
    ("GTR103", "wrapped"),  # an optimizer that unseen code made is taken for one, and not for None
    ("GTR602", "of_another_base"),  # a module may do something else in training
    ("GTR602", "decorated"),  # so may one of a class that is decorated out of sight
}
"""What these rules take for granted of unknowns: their pages say so, or their messages."""

ONE_TRAP = frozenset({"GTR401", "GTR402", "GTR403"})
"""A graph that is kept: told where it is returned, or where it is summed or stored, as far as that can be seen."""


def new_findings(mutant: Mutant, before: Findings, path: Path) -> list[str]:
    """What a mutant has that the original has not. A trap may be told at another place, or there by another rule."""
    found = {(code, mutant.row(row)) for code, row in findings(mutant.text, str(path), SETTINGS)}
    moved, rows = {code for code, _ in before - found}, {row for _, row in before}
    if not moved.isdisjoint(ONE_TRAP):
        moved |= ONE_TRAP
    return [
        f"{code} in line {row} of {path.name}, {mutant.kind}: {mutant.what}"
        for code, row in sorted(found - before)
        if (code, mutant.kind) not in MEANT and code not in moved and row not in rows
    ]


def hide(path: Path, chance: random.Random, count: int) -> list[str]:
    text = path.read_text(encoding="utf-8")
    before = findings(text, str(path), SETTINGS)
    return [line for mutant in mutants(text, chance, count) for line in new_findings(mutant, before, path)]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_hidden_is_innocent(seed: int) -> None:
    chance = random.Random(seed)
    assert [line for path in chance.sample(FILES, 25) for line in hide(path, chance, 2)] == []


@pytest.mark.slow
def test_for_minutes() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    end = time.monotonic() + SECONDS
    found: list[str] = []
    while time.monotonic() < end:
        found += hide(chance.choice(FILES), chance, 4)
    assert found == [], f"seed {seed}"


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("projects/ok_*/**/*.py")), ids=lambda path: path.name)
def test_a_file_without_its_project_is_innocent(path: Path) -> None:
    found = findings(path.read_text(encoding="utf-8"), f"/nowhere/{path.name}", SETTINGS)
    assert {code for code, _ in found} <= {"GTR601"}


PROGRAM = '''"""A program."""
import torch
from torch.nn.functional import cross_entropy


class Net(torch.nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return x.mean()


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, nesterov=True)
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
'''
HIDDEN = {
    "done_elsewhere": "elsewhere.do(optimizer)",
    "wrapped": "loss = cross_entropy(model(x), y); loss = elsewhere.wrap(loss)",
    "handed_over": "elsewhere.see(loader, loss, model, optimizer); optimizer.zero_grad()",
    "decorated": "@elsewhere.decorator\ndef train(",
    "of_another_base": "class Net(elsewhere.Base, torch.nn.Module):",
    "in_unseen_context": "with elsewhere.context():",
    "set_elsewhere": "nesterov=elsewhere.setting",
    "by_another_name": "; same = loss",
    "in_a_dict": "kept['it'].backward()",
    "in_an_object": "kept.loss.backward()",
    "packed": "(loss, rest) = (cross_entropy(model(x), y), 0)",
}


@pytest.mark.parametrize("kind", WAYS)
def test_ways_to_hide(kind: str) -> None:
    """Each does what it says, keeps the rows, and leaves a program."""
    program = Program(PROGRAM)
    made = [program.mutant(kind, hidden) for hidden in WAYS[kind](program)]
    assert any(mutant is not None and HIDDEN[kind] in mutant.text for mutant in made)
    for mutant in made:
        assert mutant is not None
        rows = [row for row, line in enumerate(mutant.text.split("\n"), 1) if re.search(r"loss = |\(loss, ", line)]
        assert [mutant.row(row) for row in rows] == [15]


def test_a_finding_that_comes_of_hiding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check sees a rule that believes what it cannot see."""
    mutant = next(iter(mutants(PROGRAM, random.Random(0), 20)))
    monkeypatch.setattr("test_hiding.findings", lambda *_: {("GTR501", 17)})
    assert new_findings(mutant, set(), Path("a.py"))
