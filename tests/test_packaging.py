"""What is shipped: the wheel, built from the sdist as from the checkout, works far from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from flake8_gradtrap import __version__
from flake8_gradtrap.rule import all_rules

SCRIPT = """\
import torch


def train(model, loader, optimizer, scaler, loss_fn):
    for inputs, targets in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = loss_fn(model(inputs), targets)
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
"""


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh virtual environment with the wheel in it; what it depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    # Paths in a .pth file come last, and .pth files in these folders (an editable install of ours) are not read.
    (site,) = folder.glob("lib/*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    pip = ("-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--no-deps", "--no-index")
    run(sys.executable, *pip, "--quiet", "--ignore-installed", wheel, cwd=folder)
    return folder / "bin"


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info" not in name}


def test_the_wheel_holds_the_package_and_the_rules(wheel: Path) -> None:
    assert wheel.name == f"flake8_gradtrap-{__version__}-py3-none-any.whl"
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "flake8_gradtrap").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    rules = {f"flake8_gradtrap/rules/{path.name}" for path in (ROOT / "rules").glob("*.py")}
    assert "flake8_gradtrap/interp/torch_api.toml" in package
    assert rules
    assert members(wheel) == package | rules


def test_a_wheel_built_from_the_checkout_is_the_same(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (direct,) = tmp_path.glob("*.whl")
    assert members(direct) == members(wheel)


def test_the_sdist_holds_what_the_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in ("README.md", "LICENSE", "pyproject.toml", "tests/run", "tests/test_packaging.py", "docs/generate.py"):
        assert name in names
    assert any(name.startswith("fixtures/GTR301/") for name in names)
    assert not any(name.startswith((".venv", ".git/")) or name.endswith(".pyc") for name in names)


def test_it_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import flake8_gradtrap, flake8_gradtrap.rule as rule; print(flake8_gradtrap.__file__, *rule.all_rules())"
    file, *codes = run(installed / "python", "-c", where, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert codes == list(all_rules())
    assert run(installed / "gradtrap", "--version", cwd=tmp_path) == f"gradtrap, version {__version__}\n"
    assert "## Why it is a trap" in run(installed / "gradtrap", "rule", "GTR301", cwd=tmp_path)


def test_it_finds_a_trap_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    output = run(installed / "gradtrap", "check", "--output-format=json", "train.py", cwd=tmp_path, status=1)
    (finding,) = json.loads(output)
    assert (finding["code"], finding["location"]) == ("GTR301", {"row": 10, "column": 9})
    flake8 = (installed / "python", "-m", "flake8", "--isolated")
    output = run(*flake8, "--select=GTR", "train.py", cwd=tmp_path, status=1)
    assert output == f"train.py:10:9: GTR301 {finding['message']}\n"
    assert f"flake8-gradtrap: {__version__}" in run(*flake8, "--version", cwd=tmp_path).replace("\n", "")
