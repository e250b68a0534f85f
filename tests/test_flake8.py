"""The flake8 plugin: the findings of `gradtrap check` at the same places, under flake8's settings."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flake8.utils
import pytest
from conftest import ROOT, Cli, Stub
from flake8.main.cli import main

Flake8 = Callable[..., list[str]]


@pytest.fixture
def flake8_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Flake8:
    """Runs flake8 in this process, in an empty folder, and without a cache unless a test asks for one; gives the lines
    of its output that are about traps.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADTRAP_NO_CACHE", "1")
    points = importlib.metadata.entry_points(group="flake8.extension", name="GTR")
    assert [point.value for point in points] == ["flake8_gradtrap.plugin:Plugin"], "pip install -e . is missing"

    def run(*arguments: str, input: str | None = None) -> list[str]:
        if input is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
            flake8.utils.stdin_get_value.cache_clear()
        main(list(arguments))
        output, errors = capfd.readouterr()
        assert errors == ""
        return [line for line in output.splitlines() if " GTR" in line]

    return run


def places(lines: list[str]) -> list[str]:
    """`file:row:column: code` of each line."""
    return sorted(" ".join(line.split()[:2]).removeprefix("./") for line in lines)


SOURCE = """\
x = 1; f()  # trap GTR301
if x:
\tg()  # trap GTR302
é = "名"; h()  # trap GTR401
i()  # trap GTR307
j()  # trap GTR301  # noqa
k()  # trap GTR301  # noqa: GTR3
l()  # trap GTR301  # noqa: E501
m(); \"\"\"
# noqa
\"\"\"; n()  # trap GTR301
"""


def test_the_same_findings_at_the_same_places(cli: Cli, stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text(SOURCE)
    Path("b.py").write_bytes(b"\xef\xbb\xbf" + SOURCE.replace("\n", "\r\n").encode())
    Path("c.py").write_text("# flake8: noqa\n" + SOURCE)
    for options in ([], ["--select=GTR"], ["--select=GTR3"], ["--select=GTR301", "--ignore=GTR3"], ["--ignore=GTR302"]):
        ours = places(cli("check", ".", "--output-format=concise", *options).stdout.splitlines())
        assert places(flake8_main(".", *options)) == ours
        assert ours
    assert [place for place in places(flake8_main(".", "--select=GTR")) if place.startswith("a")] == [
        "a.py:1:8: GTR301",
        "a.py:3:2: GTR302",
        "a.py:4:10: GTR401",
        "a.py:8:1: GTR301",
    ]


def test_the_same_findings_on_real_input(tmp_path: Path) -> None:
    """With the real engine, in other processes."""
    fixtures = ROOT / "fixtures"
    traps = [str(path) for path in fixtures.glob("*/trap_[a-e]*.py") if path.parent.name != "GTR000"]
    traps += [str(path) for path in fixtures.glob("projects/trap_*/**/*.py")]

    def run(*command: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", *command, *traps],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "GRADTRAP_NO_CACHE": "1"}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, "")
        return places(done.stdout.splitlines())

    ours = run("flake8_gradtrap", "check", "--isolated", "--output-format=concise")
    assert run("flake8", "--isolated", "--select=GTR") == ours
    assert len(ours) > 30


def test_messages(stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text("f()  # trap GTR301\n")
    assert flake8_main("a.py") == ["a.py:1:1: GTR301 f is a trap"]


def test_standard_input(stub: Stub, flake8_main: Flake8) -> None:
    assert places(flake8_main("-", input="f()  # trap GTR301\n")) == ["stdin:1:1: GTR301"]
    lines = flake8_main("-", "--stdin-display-name=src/train.py", input="f()  # trap GTR301\n")
    assert places(lines) == ["src/train.py:1:1: GTR301"]
    assert stub.checked == ["stdin", "src/train.py"]


def test_many_processes(stub: Stub, flake8_main: Flake8) -> None:
    for number in range(6):
        Path(f"{number}.py").write_text("f()  # trap GTR301\n")
    assert places(flake8_main("-j3", ".")) == [f"{number}.py:1:1: GTR301" for number in range(6)]


def test_comments_can_be_disabled(stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text("f()  # trap GTR301  # noqa\ng()  # trap GTR401  # noqa: GTR401\n")
    assert flake8_main("a.py") == []
    assert places(flake8_main("a.py", "--disable-noqa")) == ["a.py:1:1: GTR301", "a.py:2:1: GTR401"]


def test_preview_rules(stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text("f()  # trap GTR301\ng()  # trap GTR307\n")
    on = ["a.py:1:1: GTR301"]
    assert places(flake8_main("a.py")) == on
    assert places(flake8_main("a.py", "--select=GTR")) == on
    assert places(flake8_main("a.py", "--ignore=E501")) == on  # which replaces the default ignore list
    assert places(flake8_main("a.py", "--extend-select=GTR307")) == [*on, "a.py:2:1: GTR307"]
    assert places(flake8_main("a.py", "--select=GTR3")) == [*on, "a.py:2:1: GTR307"]
    assert places(flake8_main("a.py", "--select=GTR307")) == ["a.py:2:1: GTR307"]


@pytest.mark.parametrize(
    "options", ["--select=E,F", "--extend-ignore=GTR", "--ignore=GTR", "--select=E --extend-select=F"]
)
def test_nothing_runs_where_nothing_can_be_reported(stub: Stub, flake8_main: Flake8, options: str) -> None:
    Path("a.py").write_text("f()  # trap GTR301\n")
    assert flake8_main("a.py", *options.split()) == []
    assert stub.checked == []
    assert flake8_main("a.py") != []
    assert stub.checked == ["a.py"]


def test_per_file_ignores_and_settings_in_a_file(stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text("f()  # trap GTR301\n")
    Path("b.py").write_text("f()  # trap GTR301\ng()  # trap GTR401\n")
    Path(".flake8").write_text("[flake8]\nextend-ignore = GTR4\nper-file-ignores =\n    a.py: GTR3\n")
    assert places(flake8_main(".")) == ["b.py:1:1: GTR301"]


def test_preview_as_a_setting(stub: Stub, flake8_main: Flake8) -> None:
    Path("a.py").write_text("f()  # trap GTR301\ng()  # trap GTR307\n")
    both = ["a.py:1:1: GTR301", "a.py:2:1: GTR307"]
    assert places(flake8_main("a.py", "--preview")) == both
    assert places(flake8_main("a.py", "--preview", "--select=GTR")) == both
    assert places(flake8_main("a.py", "--preview", "--extend-ignore=GTR307")) == both[:1]
    Path(".flake8").write_text("[flake8]\npreview = true\n")
    assert places(flake8_main("a.py")) == both


OWN = """\
import torch
from helpers import trainable

def train(model, loader):
    params = trainable(model)
    optimizer = torch.optim.AdamW(params)
    for x in loader:
        optimizer.zero_grad()
        model(x).sum().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""


def test_own_apis_and_the_version_of_torch(flake8_main: Flake8, cli: Cli) -> None:
    Path("a.py").write_text(OWN)
    assert flake8_main("a.py", "--select=GTR") == []
    expected = ["a.py:10:9: GTR101"]
    assert places(flake8_main("a.py", "--select=GTR", "--one-shot-sources=helpers.trainable, x.y")) == expected
    Path(".flake8").write_text(
        "[flake8]\nselect = GTR\none-shot-sources =\n    helpers.trainable,\n    helpers.other\n"
    )
    assert places(flake8_main("a.py")) == expected
    Path("pyproject.toml").write_text("[tool.gradtrap]\none-shot-sources = ['helpers.trainable']\n")
    assert places(cli("check", "a.py", "--output-format=concise").stdout.splitlines()) == expected
    Path(".flake8").unlink()
    late = OWN.replace("for x", "scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)\n    for x")
    Path("b.py").write_text(late.replace("model(x).sum()", "scheduler.step()\n        model(x).sum()"))
    assert "GTR504" in "".join(flake8_main("b.py", "--select=GTR"))
    assert flake8_main("b.py", "--select=GTR", "--target-torch=1.0.1") == []


@pytest.mark.parametrize("option", ["--loggers=log", "--target-torch=new", "--loggers=a.b --materialisers=a.b"])
def test_wrong_settings_end_flake8(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text(OWN)
    assert main(["--isolated", str(tmp_path / "a.py"), *option.split()]) == 1
    output = capsys.readouterr().out
    assert "There was a critical error during execution of Flake8" in output
    assert "gradtrap: " in output


LOADED = """\
import sys
from flake8.main.cli import main
main(["--isolated", "-j1", "a.py", *sys.argv[1:]])
names = ("torch", "libcst", "rich", "flake8_gradtrap.cache", "flake8_gradtrap.rule", "flake8_gradtrap.engine")
print(*[name for name in names if name in sys.modules])
"""


def test_linting_with_flake8_loads_no_engine_where_it_is_not_wanted(tmp_path: Path) -> None:
    def loaded(source: str, *arguments: str) -> list[str]:
        (tmp_path / "a.py").write_text(source)
        variables = {name: value for name, value in os.environ.items() if name != "GRADTRAP_NO_CACHE"}
        run = subprocess.run(
            [sys.executable, "-c", LOADED, *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=variables, check=True,
        )  # fmt: skip
        return [name.removeprefix("flake8_gradtrap.") for name in run.stdout.splitlines()[-1].split()]

    trap = OWN.replace("trainable(model)", "(p for p in model.parameters())")
    assert loaded(trap, "--select=E") == []
    assert loaded("x = 1\n") == ["cache"]
    assert loaded(trap) == ["libcst", "cache", "rule", "engine"]
    assert loaded(trap) == ["cache"]
    assert loaded(trap, "--gradtrap-no-cache") == ["libcst", "rule", "engine"]
