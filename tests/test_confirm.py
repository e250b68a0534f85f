"""`gradtrap confirm`: real training scripts, run with probes.

Each script of fixtures/scripts/ is run once, in a process of its own; what it says is compared with its marks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_fixtures import expected

from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.runtime.confirm.evidence import Evidence, Fired, Measure
from flake8_gradtrap.runtime.confirm.rulings import RULINGS
from flake8_gradtrap.runtime.confirm.verdicts import Judge

torch = pytest.importorskip("torch")

SCRIPTS = sorted((ROOT / "fixtures" / "scripts").glob("*.py"))
TRAPS = [path for path in SCRIPTS if path.name.startswith("trap_")]
FIXED = [path for path in SCRIPTS if path.name.startswith("ok_")]
QUICK = {"ok_look_alikes", "ok_char_transformer", "ok_gan", "ok_online", "ok_two_ranks"}
"""The others are told apart from their trapped twins under `-m slow`."""


@dataclass(frozen=True)
class Run:
    status: int
    said: dict[str, Any]
    output: str

    def verdicts(self, *wanted: str) -> set[tuple[int, str]]:
        return {
            (one["location"]["row"], one["code"])
            for one in self.said["verdicts"]
            if not wanted or one["verdict"] in wanted
        }

    def of(self, code: str) -> dict[str, Any]:
        return next(one for one in self.said["verdicts"] if one["code"] == code)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def confirm(*arguments: str, launcher: tuple[str, ...] = (sys.executable,), cwd: Path = ROOT) -> Run:
    """Run the command in a process of its own."""
    target = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"confirm-{os.getpid()}-{abs(hash(arguments))}.json"
    command = [*launcher, "-m", "flake8_gradtrap", "confirm", "--json", str(target), "--isolated", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=500, check=False)
    said = json.loads(target.read_text()) if target.exists() else {"verdicts": []}
    target.unlink(missing_ok=True)
    return Run(ran.returncode, said, ran.stdout + ran.stderr)


@cache
def of_script(path: Path) -> Run:
    return confirm(str(path))


@pytest.mark.parametrize("path", TRAPS, ids=lambda path: path.stem)
def test_every_trap_of_a_trapped_script_is_confirmed(path: Path) -> None:
    run = of_script(path)
    assert run.verdicts("CONFIRMED") == expected(path), run.output
    assert run.status == 1
    for one in run.said["verdicts"]:
        assert one["evidence"]
        assert 0 < one["trapped"] <= one["hits"]
        assert not one["runtime_only"]
        assert one["unit"], one
        assert one["value"] is not None, one
        assert (one["device"], one["torch"]) == ("cpu", torch.__version__)
    assert run.said["steps"] > 0
    assert run.said["device"] == "cpu"
    assert run.said["torch"] == torch.__version__


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in FIXED],
)
def test_nothing_is_said_of_a_fixed_script(path: Path) -> None:
    run = of_script(path)
    assert run.verdicts() == set(), run.output
    assert run.status == 0
    assert run.said["steps"] > 0
    assert not run.said["notes"]
    assert run.said["events"] > 10


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_norm_that_a_clip_saw_is_the_true_one_times_the_scale() -> None:
    found = of_script(ROOT / "fixtures/scripts/trap_char_transformer.py").of("GTR301")
    assert found["value"] > 300, "the loss scale is 1024"
    assert found["unit"] == "norm"
    assert "(loss scale 1024)" in found["evidence"]


def test_the_weight_of_a_window() -> None:
    found = of_script(ROOT / "fixtures/scripts/trap_cnn_accumulation.py").of("GTR505")
    assert found["value"] == pytest.approx(4.0)
    assert found["trapped"] == found["hits"] == 12


def test_graphs_that_are_held() -> None:
    found = of_script(ROOT / "fixtures/scripts/trap_char_transformer.py").of("GTR401")
    assert found["value"] == 18, "the record pauses with the 20th step: the last of 19 totals holds 18 graphs"


def test_the_page_says_what_decides_for_each_rule() -> None:
    text = (ROOT / "docs" / "confirm.md").read_text()
    rows = dict(re.findall(r"^\| (GTR\d{3}) [\w-]+ \| (.+?) \| \d+ \|", text, re.MULTILINE))
    assert rows == {code: ruling.quantity for code, ruling in RULINGS.items()}
    others = re.search(r"is not observed\n\((.+?)\)", text, re.DOTALL)
    assert others is not None
    assert set(re.findall(r"GTR\d{3}", others[1])) == set(all_rules()) - set(RULINGS)


# -- verdicts ---------------------------------------------------------------------------------------------------------


def evidence(file: Path, code: str, trapped: int, hits: int, fires: bool) -> Evidence:
    """What a run would bring home of line 2 of a file."""
    fired = [Fired(code, str(file), 2, 1, "a trap")] if fires else []
    measures = [Measure(code, str(file), 2, hits, trapped, said="a number")] if hits else []
    return Evidence(fired=fired, measures=measures, visits=[(str(file), 2, 5)])


@pytest.mark.parametrize(
    ("code", "trapped", "hits", "fires", "verdict"),
    [
        ("GTR301", 3, 5, True, "CONFIRMED"),
        ("GTR301", 0, 5, False, "REFUTED"),
        ("GTR301", 0, 5, True, "INCONCLUSIVE"),
        ("GTR301", 3, 5, False, "INCONCLUSIVE"),
        ("GTR301", 0, 0, False, "INCONCLUSIVE"),
        ("GTR401", 0, 1, False, "INCONCLUSIVE"),
        ("GTR801", 0, 0, False, "INCONCLUSIVE"),
    ],
)
def test_both_the_rule_and_its_quantity_confirm(
    code: str, trapped: int, hits: int, fires: bool, verdict: str, tmp_path: Path
) -> None:
    file = tmp_path / "train.py"
    file.write_text("x = 1\ny = 2\n")
    finding = Finding(code, "some-rule", "a trap", str(file), Span(2, 1, 2, 6))
    (found,) = Judge(evidence(file, code, trapped, hits, fires)).judge([finding])
    assert (found.verdict, found.found) == (verdict, True)
    assert found.said


def test_what_only_the_run_has_seen_can_be_hidden_by_a_comment(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("x = 1\ny = 2\n")
    (found,) = Judge(evidence(file, "GTR501", 3, 5, True)).judge([])
    assert (found.verdict, found.found) == ("CONFIRMED", False)
    file.write_text("x = 1\ny = 2  # noqa: GTR501\n")
    assert not list(Judge(evidence(file, "GTR501", 3, 5, True)).judge([]))


# -- the program is the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "trap_char_transformer",
        "ok_look_alikes",
        *(
            pytest.param(f"trap_{name}", marks=pytest.mark.slow)
            for name in "cnn_accumulation actor_critic two_networks".split()
        ),
    ],
)
def test_weights_are_bit_identical_with_and_without_probes(name: str, tmp_path: Path) -> None:
    script = ROOT / "fixtures" / "scripts" / f"{name}.py"
    plain, probed = tmp_path / "plain.pt", tmp_path / "probed.pt"
    subprocess.run([sys.executable, script, "--save", plain], check=True, env=environment(), capture_output=True)
    run = confirm(str(script), "--steps", "0", "--", "--save", str(probed))
    assert run.said["stopped"] is None, run.output
    assert run.said["steps"] > 0
    for one, other in zip(tensors(plain), tensors(probed), strict=True):
        assert torch.equal(one, other)


def tensors(path: Path) -> list[Any]:
    found: list[Any] = []
    stack = [torch.load(path)]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [value[name] for name in sorted(value)]
        elif isinstance(value, list):
            stack += value
        else:
            found.append(value)
    return found


# -- limits -----------------------------------------------------------------------------------------------------------


def test_the_run_ends_after_the_steps_that_were_asked_for() -> None:
    run = confirm(str(ROOT / "fixtures/scripts/trap_gan.py"), "--steps", "5")
    assert run.said["steps"] == 5
    assert run.said["stopped"] == "steps"
    assert run.verdicts("CONFIRMED") == expected(ROOT / "fixtures/scripts/trap_gan.py")
    assert "generator" not in run.output.partition("optimizer steps")[0], "the program was stopped before its last line"


PROGRAM = """\
import argparse
import time

import torch
from helper import clipped

parser = argparse.ArgumentParser()
parser.add_argument("--sleep", type=float, default=0.0)
parser.add_argument("--fail", action="store_true")
parser.add_argument("--late", action="store_true")
arguments = parser.parse_args()


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for step in range(6):
        loss = model(torch.ones(2, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clipped(model)
        optimizer.step()
        total += loss
        time.sleep(arguments.sleep)
    if arguments.fail:
        raise ValueError("the data are missing")
    if arguments.late:
        late(model, optimizer)
    print("total", total.item())


def late(model, optimizer):
    for step in range(3):
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    assert __import__("sys").modules["__main__"].train is train
    train(torch.nn.Linear(3, 1))
"""

HELPER = """\
import inspect

import torch


def clipped(model):
    assert inspect.getsource(clipped).startswith("def clipped")
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text(HELPER)
    return tmp_path


def test_what_did_not_run_is_not_reached(project: Path) -> None:
    run = confirm(str(project / "main.py"))
    assert {(one["code"], one["verdict"]) for one in run.said["verdicts"]} == {
        ("GTR401", "CONFIRMED"),
        ("GTR501", "NOT REACHED"),
    }, run.output
    run = confirm(str(project / "main.py"), "--", "--late")
    assert {one["verdict"] for one in run.said["verdicts"]} == {"CONFIRMED"}, run.output


def test_a_program_that_fails_is_said_to(project: Path) -> None:
    run = confirm(str(project / "main.py"), "--select", "GTR501", "--", "--fail")
    assert run.status == 2
    assert "the program ended with ValueError: the data are missing" in run.output
    assert "in train" in run.output, "its own traceback is shown"
    assert "confirm/" not in run.output, "and nothing of ours in it"


def test_a_program_that_takes_too_long_is_ended(project: Path) -> None:
    run = confirm(str(project / "main.py"), "--timeout", "8", "--", "--sleep", "8")
    assert run.said["stopped"] == "timeout", run.output
    assert run.said["steps"] < 6


def test_a_module_is_run_as_python_does(project: Path) -> None:
    (project / "package").mkdir()
    (project / "package" / "__init__.py").write_text("")
    (project / "package" / "helper.py").write_text(HELPER)
    (project / "package" / "train.py").write_text(PROGRAM.replace("from helper", "from .helper"))
    run = confirm("-m", "package.train", "--", "--late", cwd=project)
    assert len(run.verdicts("CONFIRMED")) == 2, run.output


def test_a_temporary_folder_takes_what_a_program_writes(project: Path) -> None:
    path = project / "main.py"
    path.write_text(PROGRAM + '    open("left_behind.txt", "w").close()\n')
    confirm(str(path), "--workdir", "temporary", cwd=project)
    assert not (project / "left_behind.txt").exists()


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    assert confirm(str(tmp_path / "missing.py")).status == 2
    assert confirm("-m", "missing.module").status == 2
    assert confirm().status == 2


def test_sarif(project: Path) -> None:
    target = project / "out.sarif"
    confirm(str(project / "main.py"), "--sarif", str(target))
    said = json.loads(target.read_text())
    results = said["runs"][0]["results"]
    assert said["version"] == "2.1.0"
    assert {one["kind"] for one in results} == {"fail", "notApplicable"}
    assert all(one["locations"][0]["physicalLocation"]["region"]["startLine"] > 0 for one in results)
    assert all(one["properties"]["torch"] == torch.__version__ for one in results)
    confirmed = next(one for one in results if one["kind"] == "fail")
    assert f"hits, 6 optimizer steps, cpu, torch {torch.__version__})" in confirmed["message"]["text"]


# -- what is recorded -------------------------------------------------------------------------------------------------


def test_of_a_long_run_a_sample_is_recorded_and_what_is_new(tmp_path: Path) -> None:
    script = ROOT / "fixtures" / "scripts" / "trap_late.py"
    plain, probed = tmp_path / "plain.pt", tmp_path / "probed.pt"
    command = [sys.executable, script, "--epoch", "150", "--save", plain]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    run = confirm(str(script), "--steps", "0", "--", "--epoch", "150", "--save", str(probed))
    assert run.verdicts("CONFIRMED") == expected(script), run.output
    assert run.said["steps"] == 300
    assert 20 <= run.said["recorded"] < 80
    assert f"300 optimizer steps, {run.said['recorded']} of them recorded, cpu" in run.output
    for one, other in zip(tensors(plain), tensors(probed), strict=True):
        assert torch.equal(one, other)


STAMPED = """\
import torch
from torch import nn

HOOKS = []


def hook(function):
    HOOKS.append(function)
    return function


@hook
def clear(optimizer, **rest):
    optimizer.zero_grad()


def main():
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(12):
        net(torch.randn(8, 4)).square().mean().backward()
        for function in HOOKS:
            function(optimizer=optimizer)
        optimizer.step()


main()
"""


def test_a_trap_that_only_the_run_shows(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(STAMPED)
    run = confirm(str(tmp_path / "train.py"))
    assert run.status == 1
    (found,) = run.said["verdicts"]
    assert (found["code"], found["verdict"], found["runtime_only"]) == ("GTR502", "CONFIRMED", True), run.output
    assert "the step found 0 of 2 gradients" in run.output
    assert "12 of 12 hits" in run.output


# -- several ranks ----------------------------------------------------------------------------------------------------

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


@pytest.mark.skipif(sys.platform == "win32", reason="gloo under torchrun is tested on Linux")
def test_the_evidence_of_two_ranks_is_one() -> None:
    path = ROOT / "fixtures" / "scripts" / "trap_two_ranks.py"
    run = confirm(str(path), launcher=TORCHRUN)
    assert run.verdicts("CONFIRMED") == expected(path), run.output
    assert run.said["ranks"] == 2
    found = run.of("GTR502")
    assert found["hits"] == 40, "the first 20 of 30 steps on each rank"
    assert (run.said["steps"], run.said["recorded"]) == (30, 20)
    assert found["evidence"].startswith("rank 0: ")
    assert run.output.count("gradtrap confirm runs your code") == 1
    assert confirm(str(path.with_name("ok_two_ranks.py")), launcher=TORCHRUN).status == 0
