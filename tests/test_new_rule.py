"""The scaffold of a new rule: what it makes loads, reads like the others, and is refused until it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_meta import HEADINGS, UNWRITTEN

ARGUMENTS = ["GTR999", "step-without-clearing", "An optimizer steps twice and nothing is cleared"]


def scaffold(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (checkout / "docs").mkdir(exist_ok=True)
    script = checkout / "docs" / "new_rule.py"
    script.write_text((ROOT / "docs" / "new_rule.py").read_text(encoding="utf-8"), encoding="utf-8")
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_files_of_a_new_rule(tmp_path: Path) -> None:
    run = scaffold(tmp_path, *ARGUMENTS)
    assert (run.stderr, run.returncode) == ("", 0)
    made = sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py") if path.parent.name != "docs"
    )
    assert made == [
        "fixtures/GTR999/ok_write_me_one.py",
        "fixtures/GTR999/ok_write_me_three.py",
        "fixtures/GTR999/ok_write_me_two.py",
        "fixtures/GTR999/trap_write_me.py",
        "rules/gtr999_step_without_clearing.py",
    ]
    for name in made:
        assert name in run.stdout
        assert UNWRITTEN.search((tmp_path / name).read_text(encoding="utf-8"))


def test_the_rule_loads_and_has_the_headings(tmp_path: Path) -> None:
    scaffold(tmp_path, *ARGUMENTS)
    rule = tmp_path / "rules" / "gtr999_step_without_clearing.py"
    space: dict[str, object] = {"__name__": "gtr999"}
    exec(compile(rule.read_text(encoding="utf-8"), str(rule), "exec"), space)
    made = space["StepWithoutClearing"]
    assert (made.code, made.name, made.summary) == tuple(ARGUMENTS)  # type: ignore[attr-defined]
    assert re.findall(r"^## (.*)$", str(space["__doc__"]), re.MULTILINE) == HEADINGS
    measured = space["trapped"](), space["fixed"]()  # type: ignore[operator]
    space["check"](*measured)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        space["check"](measured[1], measured[1])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["GTR99", *ARGUMENTS[1:]], "'GTR99' is not a code"),
        (["GTR999", "StepTwice", "x"], "'StepTwice' is not a name"),
        (ARGUMENTS[:2], "usage: "),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], said: str) -> None:
    run = scaffold(tmp_path, *arguments)
    assert run.returncode == 2
    assert said in run.stderr
    assert not (tmp_path / "rules").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    scaffold(tmp_path, *ARGUMENTS)
    run = scaffold(tmp_path, *ARGUMENTS)
    assert (run.returncode, run.stderr) == (2, "GTR999 exists: rules/gtr999_step_without_clearing.py\n")
