"""Whatever it is given: hostile files and folders, files that change meanwhile, and runs that are killed."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Cli, within
from fuzzing import HEAD, LOOP, keep_promises
from killing import killed

from flake8_gradtrap import batch, files, versions
from flake8_gradtrap.batch import Task
from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.result import Result
from flake8_gradtrap.source import decode

TRAP = HEAD + LOOP.format("", "", "")
"""Gradients are clipped before they are unscaled (with a safe fix); a loss with its graph is summed."""


def rows(result: Result, code: str = "GTR301") -> list[int]:
    return [finding.span.row for finding in result.findings if finding.code == code]


CLIP = TRAP.splitlines().index("        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)") + 1


# -- the engine is a function of its arguments ------------------------------------------------------------------------


def test_the_engine_is_picklable_in_and_out() -> None:
    arguments = (TRAP, "nowhere/train.py", Settings.of(select=["ALL"], preview=True))
    sent = pickle.loads(pickle.dumps((check_source, arguments)))
    result = sent[0](*sent[1])
    assert rows(result) == [CLIP]
    assert pickle.loads(pickle.dumps(result)) == result
    again = check_source(*arguments)
    assert (again.findings, again.looks) == (result.findings, result.looks)


def test_text_without_a_place_is_all_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster have no project around a file: nothing is looked up, whatever lies there by chance."""
    monkeypatch.chdir(tmp_path)
    Path("helper.py").write_text("from torch.nn.utils import clip_grad_norm_ as clip\n")
    text = "from helper import clip\n" + TRAP.replace("torch.nn.utils.clip_grad_norm_", "clip")
    assert (rows(check_source(text, "row-17.py", Settings())), check_source(text, "row-17.py", Settings()).looks) == (
        [],
        (),
    )
    Path("train.py").write_text(text)
    assert rows(check_source(text, "train.py", Settings())) == [CLIP + 1]


@pytest.mark.parametrize("command", [("flake8_gradtrap", "check"), ("flake8", "--select=GTR", "-j2")])
def test_what_is_read_is_never_imported_nor_run(command: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever its name is, and whatever looks like a setting of ours."""
    names = "train helper conftest setup sitecustomize torch libcst click gradtrap gtr999_mine".split()
    for name in names:
        mark = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n"
        (tmp_path / f"{name}.py").write_text(mark + "import torch, helper\n" + TRAP)
    (tmp_path / "pyproject.toml").write_text("[tool.gradtrap]\nloggers = ['helper.log', 'train.log']\n")
    run = subprocess.run(
        [sys.executable, "-P", "-m", *command, "."], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.count("GTR301") == len(names)
    assert not (tmp_path / "ran").exists()


# -- odd content ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (b"\xef\xbb\xbf" + TRAP.encode(), CLIP),
        (TRAP.replace("\n", "\r\n").encode(), CLIP),
        (TRAP.replace("\n", "\r").encode(), CLIP),
        (b"\xef\xbb\xbf# coding: utf-8\r\n" + TRAP.replace("\n", "\r\n").encode(), CLIP + 1),
        (f"# coding: latin-1\n# \xe9\n{TRAP}".encode("latin-1"), CLIP + 2),
        (f"# \x0b \x1c \u2028 \x85\ns = '\u2028'\n{TRAP}".encode(), CLIP + 2),
        (TRAP.replace("\ndef", "\n\f\ndef").encode(), CLIP + 1),
        (TRAP.replace("    ", "\t").encode(), CLIP),
        (TRAP.rstrip("\n").encode(), CLIP),
        (b"x = 1\n" * 100_000 + TRAP.encode(), CLIP + 100_000),
        (f"s = '{'x' * 2_000_000}'\n{TRAP}".encode(), CLIP + 1),
        (f"x = [{'1, ' * 100_000}]\n{TRAP}".encode(), CLIP + 1),
        (f"s = '\U0001d465\u0301\u202e'\n{TRAP}".encode(), CLIP + 1),
    ],
    ids=[
        "byte-order-mark", "crlf", "cr", "mark-cookie-crlf", "latin-1", "other-breaks", "form-feed", "tabs", "no-end",
        "100000-lines", "huge-string", "huge-line", "wide",
    ],
)  # fmt: skip
def test_odd_content_is_read_as_python_reads_it(data: bytes, row: int) -> None:
    found = keep_promises(data, fixes=len(data) < 10_000)
    (span,) = [finding.span for finding in found if finding.code == "GTR301"]
    assert (span.row, span.end_row) == (row, row)
    line = re.split("\r\n|\r|\n", decode(data)[0])[row - 1]
    assert line[span.column - 1 : span.end_column - 1] == "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


@pytest.mark.parametrize(
    "data",
    [
        b"import torch\nx = (\n",
        b"import torch\n\xff\xfe\n",
        b"# coding: nonsense\nimport torch\n",
        b"# coding: rot13\nimport torch\n",
        b"import torch\nx = 1\0\n",
        TRAP.encode("utf-16"),
        b"import torch\n" + b"(" * 5000,
        b"import torch\n\tx = 1\n",
        b"import torch\ns = '''\n",
        b"import torch\n\\",
        b"\x1bLJ\x02" * 10,
    ],
)
def test_what_is_no_python_is_one_finding(data: bytes) -> None:
    assert [finding.code for finding in keep_promises(data)] == ["GTR000"]


DEEP = 5000


@pytest.mark.parametrize(
    "text",
    [
        f"x = {'(' * 150}1{')' * 150}\n",
        f"x = {'[' * DEEP}{']' * DEEP}\n",
        f"x = {'-' * DEEP}loss.backward()\n",
        f"x = {'not ' * DEEP}loss\n",
        f"x = loss{' + loss' * DEEP}\n",
        f"x = loss{'.data' * DEEP}\n",
        f"x = loss{'(1)' * DEEP}\n",
        f"x = loss{'[0]' * DEEP}\n",
        f"x = {'lambda: ' * DEEP}loss\n",
        f"x = {'a if b else ' * DEEP}loss\n",
        f"x = {'a and ' * DEEP}loss\n",
        f"x = {'a < ' * DEEP}loss\n",
        f"{'a = ' * DEEP}loss\n",
        "".join(f"{' ' * depth}if x:\n" for depth in range(99)) + " " * 99 + "loss.backward()\n",
        "".join(f"{' ' * depth}def f(x):\n" for depth in range(99)) + " " * 99 + "loss.backward()\n",
        "".join(f"{' ' * depth}class C:\n" for depth in range(99)) + " " * 99 + "loss.backward()\n",
        "if x:\n    pass\n" + "elif x:\n    loss.backward()\n" * DEEP,
        "def f(x):\n    return f(f(x))\nf(f)\nloss.backward()\n",
        "class A(B): pass\nclass B(A): pass\nA().step()\nloss.backward()\n",
        "class A(A): pass\nA().parameters()\nloss.backward()\n",
        "x = [loss]\nx.append(x)\nx = [x, x]\nfor y in x:\n    for z in y:\n        z.backward()\n",
        "f = lambda: f\nf()()()\nloss.backward()\n",
        "".join(f"def f{n}(x):\n    f{n + 1}(x)\n    f{n + 1}(x)\n" for n in range(60))
        + "def f60(x):\n    x.backward()\nf0(loss)\n",
        "for i in a:\n"
        + "".join(f"    if c{n}: x{n} = loss{n}.backward()\n    else: optimizer{n}.step()\n" for n in range(200)),
    ],
    ids=range(24),
)
def test_depth_and_recursion_are_bounded(text: str) -> None:
    """An answer in bounded time, on a stack that stays as low as it is."""
    limit = sys.getrecursionlimit()
    programs = [text, f"{HEAD}{text}", f"{TRAP}{text}", f"{HEAD}def train(model, loss):\n    pass\n{text}"]
    if text.count("\n") == 1:  # where a fix is, too
        programs.append(TRAP.replace("        scaler.step", f"        {text}        scaler.step"))
    for whole in programs:
        found = keep_promises(whole.encode())
        assert sys.getrecursionlimit() == limit
        assert all(finding.code != "GTR000" or "nested" in finding.message for finding in found)


# -- odd files and folders --------------------------------------------------------------------------------------------


def concise(cli: Cli, *arguments: str) -> list[str]:
    result = cli("check", "--output-format=concise", *arguments)
    assert result.exit_code in (0, 1)
    return result.stdout.splitlines()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_is_no_file_is_told_and_blocks_nobody(cli: Cli, jobs: str) -> None:
    Path("a.py").write_text(TRAP)
    os.mkfifo("pipe.py")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.py")
        with within(60):
            assert [line for line in concise(cli, ".", f"-j{jobs}") if "GTR000" in line] == []
            named = concise(cli, "a.py", "pipe.py", "socket.py", "/dev/zero", f"-j{jobs}")
    assert [line.partition("GTR000")[2] for line in named if "GTR000" in line] == [
        " not analysed: the file cannot be read: not a regular file [not-analysed]"
    ] * 3
    assert any(line.startswith(f"a.py:{CLIP}:") for line in named)


def test_a_file_that_is_too_large_is_not_read(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("sparse.py", "wb") as stream:
        stream.truncate(1 << 40)
    assert concise(cli, ".") == [
        "sparse.py:1:1: GTR000 not analysed: the file cannot be read: larger than 64 MiB [not-analysed]"
    ]
    monkeypatch.setattr(versions, "LARGEST", 10)
    Path("sparse.py").write_text("x = 1\n")
    assert concise(cli, ".") == []


def test_loops_of_links_come_to_an_end(cli: Cli) -> None:
    Path("pkg/deep").mkdir(parents=True)
    Path("pkg/a.py").write_text(TRAP)
    os.symlink("..", "pkg/up")
    os.symlink("../../pkg", "pkg/deep/pkg")
    os.symlink("self.py", "self.py")
    os.symlink("two.py", "one.py")
    os.symlink("one.py", "two.py")
    assert {line.partition(":")[0] for line in concise(cli, ".")} == {"pkg/a.py"}
    assert "Too many levels of symbolic links" in concise(cli, "one.py")[0]


def test_a_tree_that_is_very_deep_is_walked(cli: Cli, tmp_path: Path) -> None:
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("a.py").write_text(TRAP)
        os.chdir(tmp_path)
        lines = concise(cli, ".", "--cache-dir=cache")
    finally:  # nobody else could remove it
        os.chdir(tmp_path)
        while os.path.isdir("d"):
            os.chdir("d")
        os.unlink("a.py")
        while os.getcwd() != str(tmp_path):
            os.chdir("..")
            os.rmdir("d")
    assert any(line.startswith("d/" * 1200 + f"a.py:{CLIP}:") for line in lines)


@pytest.mark.parametrize(
    "name", ["new\nline.py", "\x1b[31mred.py", "sp ace:1:1.py", "-x.py", "\udcff.py", "é\u202e.py", ".py"]
)
@pytest.mark.parametrize("format", ["concise", "full", "json"])
def test_odd_names(cli: Cli, name: str, format: str) -> None:
    Path("pkg").mkdir()
    Path("pkg", name).write_text(TRAP)
    for _ in range(2):
        result = cli("check", f"pkg/{name}", f"--output-format={format}", "--cache-dir=cache")
        assert result.exit_code == 1
        assert "\x1b" not in result.stdout
        assert "\u202e" not in result.stdout or format == "json"
        if format == "concise":
            assert len(result.stdout.splitlines()) == len(concise(cli, f"pkg/{name}"))
        if format == "json":
            assert {finding["filename"] for finding in json.loads(result.stdout)} == {f"pkg/{name}"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_is_closed_to_us(cli: Cli) -> None:
    Path("a.py").write_text(TRAP)
    Path("b.py").write_text(TRAP)
    os.chmod("a.py", 0)
    assert "Permission denied" in concise(cli, ".")[0]


# -- what changes meanwhile -------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_when_its_turn_comes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.py").write_text(TRAP)
    Path("b.py").write_text(TRAP)
    discover = files.discover

    def and_delete(*arguments: object) -> list[str]:
        found = discover(*arguments)  # type: ignore[arg-type]
        os.unlink("a.py")
        return found

    monkeypatch.setattr(files, "discover", and_delete)
    lines = concise(cli, ".")
    assert (
        lines[0] == "a.py:1:1: GTR000 not analysed: the file cannot be read: No such file or directory [not-analysed]"
    )
    assert lines[1].startswith("b.py")


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SETTLED", 0)
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    assert versions.read(str(path))[1] is not None
    fstat = os.fstat
    calls: list[int] = []

    def grown(handle: int) -> os.stat_result:
        calls.append(handle)
        if len(calls) == 2:
            with open(path, "a") as stream:
                stream.write("y = 2\n")
        return fstat(handle)

    monkeypatch.setattr(os, "fstat", grown)
    assert versions.read(str(path))[1] is None


def test_a_file_that_becomes_a_pipe_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    status = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_: status)
    with within(30), pytest.raises(OSError, match="not a regular file"):
        versions.read(str(path))


def test_where_memory_is_short_the_file_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    """Under a limit of the system, not of ours: in one process, and in several."""
    (tmp_path / "a.py").write_text(TRAP)
    (tmp_path / "b.py").write_text("import torch\nx = [" + "f(1, [2, 3]), " * 700_000 + "]\nloss.backward()\n")
    (tmp_path / "c.py").write_text(TRAP)
    for jobs in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "flake8_gradtrap",
            "check",
            "--output-format=concise",
            "--no-cache",
            f"-j{jobs}",
        ]

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))

        run = subprocess.run(
            [*command, "a.py", "b.py", "c.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=300, check=False, preexec_fn=limit,
        )  # fmt: skip
        assert run.returncode == 1, run.stderr
        lines = run.stdout.splitlines()
        assert [line.split(":")[0] for line in lines if " GTR301 " in line] == ["a.py", "c.py"]
        assert [line.split(":")[0] for line in lines if " GTR000 " in line] == ["b.py"], lines
        assert "Traceback" not in run.stderr


# -- killed -----------------------------------------------------------------------------------------------------------


def test_killed_while_fixing_a_file_is_old_or_new_and_never_less(cli: Cli, tmp_path: Path) -> None:
    """The process is killed before every call that it makes to write."""
    old = TRAP.encode()
    new = TRAP.replace("        torch.nn", "        scaler.unscale_(optimizer)\n        torch.nn").encode()
    path = tmp_path / "train.py"
    path.write_bytes(old)
    cli("check", "--diff", "train.py")  # what it needs is imported once
    seen = set()
    for calls in range(80):
        path.write_bytes(old)
        path.chmod(0o640)
        if not killed(lambda: cli("check", "--fix", "--select=GTR301", "train.py"), calls, "files.py", "replace_file"):
            break
        seen.add(path.read_bytes())
        assert path.stat().st_mode & 0o777 == 0o640
    assert calls > 10
    assert seen == {old, new}
    assert path.read_bytes() == new
    assert path.stat().st_mode & 0o777 == 0o640


def processes_of(group: int) -> list[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*") if group_of(path) == group]


def group_of(path: Path) -> int:
    try:
        return int(path.joinpath("stat").read_text().rpartition(")")[2].split()[2])
    except OSError:  # it has ended meanwhile
        return -1


def test_an_interrupted_run_ends_at_once(tmp_path: Path) -> None:
    """Control-C goes to all processes of a terminal: none stays, and no traceback is shown."""
    for number in range(200):
        (tmp_path / f"m{number}.py").write_text(TRAP * 3)
    process = subprocess.Popen(
        [sys.executable, "-m", "flake8_gradtrap", "check", ".", "-j2", "--no-cache"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-1, stderr=-1, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(processes_of(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # they have only just been made
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert output == ""
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# -- many files -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_stays_below_300_mb_whatever_the_number_of_files(tmp_path: Path) -> None:
    fixtures = [path.read_bytes() for path in sorted((ROOT / "fixtures").glob("GTR*/*.py"))]
    tasks = []
    for number in range(4 * len(fixtures)):
        path = tmp_path / f"m{number}.py"
        path.write_bytes(fixtures[number % len(fixtures)])
        tasks.append(Task(str(path), Settings()))
    batch.run(tasks, 1)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) << 10
    assert peak < 300 << 20
