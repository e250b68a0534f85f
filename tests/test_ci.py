"""What docs/ci.md promises: hooks, the action, the snippets, and completion in the shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Cli

from flake8_gradtrap.report import FORMATS
from flake8_gradtrap.rule import all_rules

TRAP = """\
import torch

def train(model, loader):
    params = filter(None, model.parameters())
    optimizer = torch.optim.AdamW(params)
    for x in loader:
        optimizer.zero_grad()
        model(x).sum().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""
CI = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def test_the_hooks(cli: Cli) -> None:
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert set(hooks) == {"gradtrap", "gradtrap-fix"} == set(re.findall(r"- id: ([\w-]+)", CI))
    Path("pyproject.toml").write_text("[tool.gradtrap]\nexclude = ['old']\n")
    Path("old").mkdir()
    for name in ("train.py", "old/train.py"):
        Path(name).write_text(TRAP)
    for hook in hooks.values():
        assert (hook["language"], hook["types_or"]) == ("python", ["python", "jupyter"])
        command, *arguments = hook["entry"].split()
        assert command == "gradtrap"
        result = cli(*arguments, "--output-format=concise", "train.py", "old/train.py")
        assert result.exit_code == ("--fix" not in arguments)
        assert result.stdout.startswith("train.py:9:9: GTR101") is ("--fix" not in arguments)
    assert "list(filter(" in Path("train.py").read_text()
    assert Path("old/train.py").read_text() == TRAP


@pytest.mark.parametrize(("file", "code"), [("", 1), ("report.json", 1)])
def test_the_action(tmp_path: Path, file: str, code: int) -> None:
    """Its last step, as the runner would run it."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    install, check = action["runs"]["steps"]
    assert "$GITHUB_ACTION_PATH" in install["run"]
    names = set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", str(check["env"])))
    assert names == set(action["inputs"])
    bin = tmp_path / "gradtrap" / "bin"
    bin.mkdir(parents=True)
    (bin / "gradtrap").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flake8_gradtrap "$@"\n')
    (bin / "gradtrap").chmod(0o755)
    (tmp_path / "train.py").write_text(TRAP)
    environment = os.environ | {
        "RUNNER_TEMP": str(tmp_path), "PYTHONPATH": str(ROOT), "GRADTRAP_PATHS": "train.py", "GRADTRAP_FILE": file,
        "GRADTRAP_ARGS": "--select GTR1 --isolated", "GRADTRAP_FORMAT": "json" if file else "github",
    }  # fmt: skip
    run = subprocess.run(
        ["bash", "-e", "-c", check["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (code, "")
    if file:
        assert json.loads((tmp_path / file).read_text())[0]["code"] == "GTR101"
    else:
        assert run.stdout.startswith("::warning title=gradtrap (GTR101),file=train.py,line=9")


def test_the_snippets_can_be_run(cli: Cli) -> None:
    Path("train.py").write_text(TRAP)
    for block in re.findall(r"```yaml\n(.*?)```", CI, re.DOTALL):
        assert yaml.safe_load(f"job:\n{block}" if block.startswith(" ") else block)
    commands = re.findall(r"(?:run: |^    - |^)(gradtrap check[^\n#]*)", CI, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        arguments = command.split()[1:]
        result = cli(*arguments)
        assert result.exit_code in (0, 1), command
        for option, file in pairwise(arguments):
            if option == "--output-file":
                assert Path(file).read_text()
    assert "# noqa: GTR101" in Path("train.py").read_text()
    assert re.findall(r"^\| `(\w+)` \|", CI, re.MULTILINE) == list(FORMATS)


def complete(*words: str) -> list[str]:
    """What bash is told for the last of these words."""
    environment = os.environ | {
        "_GRADTRAP_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    code = "from flake8_gradtrap.cli import main; main(prog_name='gradtrap')"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in run.stdout.splitlines()]


def test_completion() -> None:
    assert {"check", "rule", "prove", "clean"} <= set(complete("gradtrap", ""))
    assert {"--select", "--show-settings"} <= set(complete("gradtrap", "check", "--s"))
    assert complete("gradtrap", "check", "--output-format", "g") == ["github", "gitlab"]
    codes = [code for code in all_rules() if code.startswith("GTR3")]
    assert complete("gradtrap", "rule", "GTR3") == codes
    assert complete("gradtrap", "check", "--select", "gtr3") == codes
    assert complete("gradtrap", "check", "--ignore", "GTR1,GTR301") == ["GTR1,GTR301"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell: str) -> None:
    environment = os.environ | {"_GRADTRAP_COMPLETE": f"{shell}_source", "PYTHONPATH": str(ROOT)}
    code = "from flake8_gradtrap.cli import main; main(prog_name='gradtrap')"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"_GRADTRAP_COMPLETE={shell}_complete" in run.stdout
    assert f"_GRADTRAP_COMPLETE={shell}_source gradtrap" in CI
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=run.stdout, text=True, check=False).returncode == 0
