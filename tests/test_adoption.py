"""Adoption in an old code base: `--add-noqa`, `--baseline`; and `--watch`, progress, what a plain terminal gets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Cli, Stub

from flake8_gradtrap import following
from flake8_gradtrap.finding import Edit, Span
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.notebook import Notebook
from flake8_gradtrap.terminal import Progress

TRAP = "f()  # trap GTR301\n"
CODE = """\
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


def places(cli: Cli, *options: str) -> list[str]:
    lines = cli("check", ".", "--output-format=concise", *options).stdout.splitlines()
    return [" ".join(line.split(" ")[:2]).rstrip(":") for line in lines]


# -- --add-noqa -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f()  # trap GTR301\n", "f()  # trap GTR301  # noqa: GTR301\n"),
        ("f()  # trap GTR301\r\nx = 1", "f()  # trap GTR301  # noqa: GTR301\r\nx = 1"),
        ("f()  # trap GTR301  # noqa: E501\n", "f()  # trap GTR301  # noqa: E501,GTR301\n"),
        ("f(); (g()  # trap GTR401\n)", "f(); (g()  # trap GTR401  # noqa: GTR401\n)"),
        ("x = 'ü'; f()  # trap GTR301", "x = 'ü'; f()  # trap GTR301  # noqa: GTR301"),
        ("a = 1; f()  # trap GTR301   \n", "a = 1; f()  # trap GTR301  # noqa: GTR301   \n"),
    ],
)
def test_comments_are_added(cli: Cli, stub: Stub, before: str, after: str) -> None:
    path = Path("a.py")
    path.write_bytes(before.encode())
    result = cli("check", ".", "--add-noqa")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "Added 1 comment in 1 file.\n"
    assert path.read_bytes().decode() == after
    assert places(cli) == []
    assert cli("check", ".", "--add-noqa").stderr == "Added 0 comments in 0 files.\n"


def test_comments_stand_where_flake8_looks_for_them(cli: Cli, tmp_path: Path) -> None:
    """With the real engine: strings of several lines, several codes on a line, another encoding."""
    text = CODE.replace("params, 1.0)", 'params, 1.0, """\n""")').replace(
        "import torch\n", "# coding: latin-1\nimport torch  # é\n"
    )
    Path("a.py").write_bytes(text.encode("latin-1"))
    assert cli("check", "a.py", "--add-noqa").stderr == "Added 1 comment in 1 file.\n"
    new = Path("a.py").read_bytes().decode("latin-1")
    assert new == text.replace('""")', '""")  # noqa: GTR101')
    assert places(cli) == []
    command = [sys.executable, "-m", "flake8", "--isolated", "--select=GTR", "a.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


def test_where_no_comment_can_stand(cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.py").write_text(TRAP)
    for edit in (None, Edit(Span(1, 1, 1, 1), "x"), Edit(Span(1, 1, 1, 1), "(")):
        monkeypatch.setattr(Noqa, "comment", lambda self, codes, row, edit=edit: edit)
        result = cli("check", "a.py", "--add-noqa")
        assert result.exit_code == 1
        assert "a.py:1:1: GTR301 not hidden: no comment can stand there\n" in result.stderr
        assert Path("a.py").read_text() == TRAP


def test_what_cannot_be_analysed_is_not_hidden(cli: Cli) -> None:
    Path("a.py").write_text("def f(:\n")
    result = cli("check", "a.py", "--add-noqa")
    assert result.exit_code == 1
    assert "GTR000 not hidden: what cannot be analysed" in result.stderr
    assert Path("a.py").read_text() == "def f(:\n"


def test_comments_in_notebooks(cli: Cli) -> None:
    data = (ROOT / "fixtures" / "notebooks" / "finetune.ipynb").read_bytes()
    Path("a.ipynb").write_bytes(data)
    assert cli("check", ".", "--add-noqa").stderr == "Added 3 comments in 1 file.\n"
    changed = Path("a.ipynb").read_bytes()
    assert re.sub(rb"  # noqa: GTR\d{3}", b"", changed) == data
    assert places(cli) == []
    assert [cell.source.count("noqa") for cell in Notebook(changed).cells if "noqa" in cell.source] == [2, 1]


def test_options_that_exclude_each_other(cli: Cli, stub: Stub) -> None:
    Path("a.py").write_text(TRAP)
    for options in (
        ["--add-noqa", "--fix"], ["--add-noqa", "--diff"], ["--update-baseline"],
        ["--add-noqa", "--update-baseline", "--baseline=b.json"],
    ):  # fmt: skip
        assert cli("check", "a.py", *options).exit_code == 2
    assert cli("check", "-", "--add-noqa", input=TRAP).exit_code == 2
    assert cli("check", "-", "--watch", input=TRAP).exit_code == 2
    assert stub.checked == []


# -- --baseline -------------------------------------------------------------------------------------------------------


def test_a_baseline(cli: Cli) -> None:
    Path("a.py").write_text(CODE)
    Path("sub").mkdir()
    Path("sub/b.py").write_text(CODE)
    missing = cli("check", ".", "--baseline=base.json")
    assert missing.exit_code == 2
    assert "base.json: no such file; --update-baseline writes it" in missing.stderr
    assert places(cli) == ["a.py:9:9: GTR101", "sub/b.py:9:9: GTR101"]
    written = cli("check", ".", "--baseline=base.json", "--update-baseline")
    assert (written.exit_code, written.stdout) == (0, "No traps found.\n")
    assert written.stderr == "base.json knows 2 traps in 2 checked files.\n"
    assert places(cli, "--baseline=base.json") == []
    # Moved lines, other indentation, and code around them change nothing.
    Path("a.py").write_text(
        "import os\n\n\n" + CODE.replace("        optimizer.zero", "        # why\n        optimizer.zero")
    )
    assert places(cli, "--baseline=base.json") == []
    # The same trap once more is a new one; so is one in another function.
    Path("a.py").write_text(CODE + CODE.replace("train", "again"))
    assert places(cli, "--baseline=base.json") == ["a.py:19:9: GTR101"]
    # What is fixed is told, and taken out.
    Path("a.py").write_text(CODE.replace("filter(None, model.parameters())", "list(model.parameters())"))
    gone = cli("check", ".", "--baseline=base.json")
    assert gone.exit_code == 0
    assert gone.stderr.startswith("1 trap of the baseline no longer found")
    assert cli("check", "sub", "--baseline=base.json").stderr == ""
    before = Path("base.json").read_text()
    cli("check", "a.py", "--baseline=base.json", "--update-baseline")
    assert list(json.loads(Path("base.json").read_text())["files"]) == ["sub/b.py"]
    Path("a.py").write_text(CODE)
    cli("check", "a.py", "--baseline=base.json", "--update-baseline")
    assert Path("base.json").read_text() == before
    Path("sub/b.py").unlink()
    cli("check", "a.py", "--baseline=base.json", "--update-baseline")
    assert list(json.loads(Path("base.json").read_text())["files"]) == ["a.py"]


def test_a_baseline_counts(cli: Cli, stub: Stub) -> None:
    Path("a.py").write_text(TRAP + TRAP)
    cli("check", ".", "--baseline=base.json", "--update-baseline")
    Path("a.py").write_text("x = 1\n  \n" + TRAP + TRAP)
    assert places(cli, "--baseline=base.json") == []
    Path("a.py").write_text(TRAP + TRAP + TRAP)
    assert places(cli, "--baseline=base.json") == ["a.py:3:1: GTR301"]
    Path("a.py").write_text(TRAP)
    assert cli("check", ".", "--baseline=base.json").stderr.startswith("1 trap of the baseline no longer found")


def test_a_baseline_knows_its_files_from_anywhere(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sub").mkdir()
    Path("sub/b.py").write_text(CODE)
    cli("check", ".", "--baseline=base.json", "--update-baseline")
    monkeypatch.chdir("sub")
    assert places(cli, "--baseline=../base.json") == []
    assert len(places(cli)) == 1


def test_what_cannot_be_analysed_is_never_in_a_baseline(cli: Cli) -> None:
    Path("a.py").write_text("def f(:\n")
    assert cli("check", ".", "--baseline=b.json", "--update-baseline").exit_code == 1
    assert places(cli, "--baseline=b.json") == ["a.py:1:7: GTR000"]


def test_baselines_of_notebooks(cli: Cli) -> None:
    data = json.loads((ROOT / "fixtures" / "notebooks" / "finetune.ipynb").read_bytes())
    Path("a.ipynb").write_text(json.dumps(data))
    cli("check", ".", "--baseline=b.json", "--update-baseline")
    data["cells"].insert(0, {"cell_type": "code", "source": "import os\nos.getcwd()", "metadata": {}, "outputs": []})
    Path("a.ipynb").write_text(json.dumps(data))
    assert len(places(cli)) == 3
    assert places(cli, "--baseline=b.json") == []


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"version": 2, "files": {}}', '{"version": 1, "files": []}', "[" * 100_000,
        '{"version": 1, "files": {"a.py": [{"code": 1, "function": "", "line": "", "count": 1}]}}',
        '{"version": 1, "files": {"a.py": [{"code": "GTR301", "function": "", "line": "", "count": -1}]}}',
        '{"version": 1, "files": {"a.py": 1}}', "\xff",
    ],
)  # fmt: skip
def test_what_is_no_baseline(cli: Cli, stub: Stub, text: str) -> None:
    Path("a.py").write_text(TRAP)
    Path("b.json").write_bytes(text.encode("latin-1"))
    result = cli("check", "a.py", "--baseline=b.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("gradtrap: error: --baseline: b.json: ")
    assert cli("check", "a.py", "--baseline=b.json", "--update-baseline").exit_code == 2
    assert Path("b.json").read_bytes() == text.encode("latin-1")


# -- --watch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
def test_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool) -> None:
    if tells:
        pytest.importorskip("watchfiles")
    (tmp_path / "a.py").write_text("x = 1\n")
    hide = "" if tells else "import sys; sys.modules['watchfiles'] = None; "
    command = [sys.executable, "-c", f"{hide}from flake8_gradtrap.cli import main; main()"]
    command += ["check", "a.py", "--watch", "--output-format=concise", "--isolated", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            assert process.stderr.readline() == "Waiting for changes; Ctrl-C ends it.\n"
            (tmp_path / "notes.txt").write_text("nothing to check\n")
            (tmp_path / "a.py").write_text("def f(:\n")
            assert process.stdout.readline().startswith("a.py:1:7: GTR000")
            assert process.stderr.readline() == "Waiting for changes; Ctrl-C ends it.\n"
            (tmp_path / "pyproject.toml").write_text("[tool.gradtrap]\n")
            assert process.stdout.readline().startswith("a.py:1:7: GTR000")
            assert process.stderr.readline() == "Waiting for changes; Ctrl-C ends it.\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_polling_sees_what_changes_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    steps = [
        lambda: (tmp_path / "a.txt").write_text(""),
        lambda: (tmp_path / ".hidden").mkdir(),
        lambda: (tmp_path / ".hidden" / "b.py").write_text(""),
        lambda: (tmp_path / "b.ipynb").write_text(""),
    ]
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        steps[len(looks)]()
        looks.append(seconds)

    watching = following._poll([str(tmp_path)], sleep)
    next(watching)
    assert not looks
    next(watching)
    assert len(looks) == 4


# -- progress and plain terminals -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_told_on_a_terminal_when_it_takes_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]

    def shown(stream: io.StringIO, step: float) -> str:
        now[0] = 0.0
        with Progress("files", stream, lambda: now[0]) as progress:
            for done in range(1, 11):
                now[0] += step
                progress(done, 10)
        return stream.getvalue()

    slow = shown(Terminal(), 0.5)
    assert "\r[####................] 2/10 files" in slow
    assert slow.isascii()
    assert slow.endswith("\r" + " " * len("[####................] 10/10 files") + "\r")
    assert shown(Terminal(), 0.01) == ""
    assert shown(io.StringIO(), 0.5) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal(), 0.5) == ""


def on_terminal(folder: Path, *arguments: str, **environment: str) -> bytes:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flake8_gradtrap", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | environment
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=folder, env=variables):
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):
            while part := os.read(ours, 10_000):
                parts.append(part)
        os.close(ours)
    return b"".join(parts)


def test_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    plain = on_terminal(tmp_path, "check", "a.py", "--isolated", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert plain.isascii()
    assert b"`filter(...)` is created here" in plain
    assert b"\\u2026" not in plain
    assert b"\x1b" not in plain
    rich = on_terminal(tmp_path, "check", "a.py", "--isolated", PYTHONIOENCODING="utf-8", NO_COLOR="1")
    assert "`filter(…)` is created here" in rich.decode()
    page = on_terminal(tmp_path, "rule", "GTR101", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert page.isascii()
    assert b"\\u" not in page
