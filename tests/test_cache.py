"""The cache: what it spares, what it notices, and what somebody who made it up can do with it, which is nothing."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli, Stub, within
from killing import killed

from flake8_gradtrap import batch, cache, versions
from flake8_gradtrap.batch import Task
from flake8_gradtrap.config import Settings
from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.packing import Refused, Unpacker, pack

TRAP = "f()  # trap GTR301\n"
FIXABLE = "f()  # trap GTR301 fix\n"

CLIP = """\
import torch


def clip(parameters, limit):
    torch.nn.utils.clip_grad_norm_(parameters, limit)
"""
TRAIN = """\
import torch
from helper import clip


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        clip(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
"""


def write(name: str, content: str, age: float = 10.0) -> Path:
    """A file that was written some time ago, as most are."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files settle at once: the time at which an inode changed cannot be set, and tests do not wait."""
    monkeypatch.setattr(versions, "_SETTLED", 0)


@pytest.fixture
def cached(cli: Cli, stub: Stub, old: None, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`gradtrap check` with the stub engine, in a project, with a cache."""
    monkeypatch.delenv("GRADTRAP_NO_CACHE")
    write("pyproject.toml", "")
    return lambda *arguments, **keywords: cli("check", "--output-format=json", *arguments, **keywords)


@pytest.fixture
def checked(stub: Stub) -> Callable[[], list[str]]:
    """The files that the engine has seen since it was last asked."""

    def take() -> list[str]:
        seen = sorted(stub.checked)
        stub.checked.clear()
        return seen

    return take


def shelves(folder: str = cache.FOLDER) -> list[Path]:
    return sorted(Path(folder).glob("*/*.json"))


def everything(folder: Path, but: str = cache.FOLDER) -> dict[str, bytes | str]:
    """All files and links below a folder, but not those of the cache."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if but not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file())
    }


# -- what it spares and what it notices -------------------------------------------------------------------------------


def test_a_file_that_did_not_change_is_not_analysed_again(cached: Cli, checked: Callable[[], list[str]]) -> None:
    write("a.py", TRAP)
    write("pkg/b.py", FIXABLE + "g()  # trap GTR401\n")
    write("pkg/c.py", "x = 1\n")
    cold = cached(".")
    assert checked() == ["a.py", "pkg/b.py", "pkg/c.py"]
    for arguments in ([], ["./"], ["a.py", "pkg"], ["-j2"], ["--statistics"]):
        warm = cached(*arguments)
        assert checked() == []
        assert (warm.exit_code, json.loads(warm.stdout)) == (1, json.loads(cold.stdout))
    assert cached(".", "--output-format=full").stdout.endswith("Found 3 traps (1 fixable with --fix).\n")
    assert cached("pkg/c.py").exit_code == 0


def test_what_changed_is_analysed_again(
    cached: Cli, checked: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.py", TRAP)
    write("b.py", TRAP)
    cached(".")
    checked()
    write("a.py", "x = 1\n")
    assert json.loads(cached(".").stdout)[0]["filename"] == "b.py"
    assert checked() == ["a.py"]
    # As long as before, and as old.
    status = os.stat("a.py")
    Path("a.py").write_text("x = 2\n")
    os.utime("a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    cached(".")
    assert checked() == ["a.py"]
    # Other settings.
    cached(".", "--select=GTR4")
    assert checked() == ["a.py", "b.py"]
    cached(".")
    cached(".", "--select=GTR4")
    cached(".", "--exclude=b.py")
    assert checked() == []
    write("pyproject.toml", "[tool.gradtrap]\nignore = ['GTR301']\n")
    assert cached(".").stdout == "[]\n"
    assert checked() == ["a.py", "b.py"]
    # From elsewhere.
    write("sub/b.py", TRAP)
    write("sub/pyproject.toml", "[tool.gradtrap]\n")
    cached("sub")
    checked()
    os.chdir("sub")
    cached(".", "--cache-dir=../.gradtrap_cache")
    os.chdir("..")
    assert checked() == []
    # Another version.
    monkeypatch.setattr(cache, "installation", lambda: "0" * 32)
    cached(".")
    assert checked() == ["a.py", "b.py", "sub/b.py"]


def test_a_file_that_was_only_touched_is_read_and_not_analysed(
    cached: Cli, checked: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.py", TRAP)
    cached(".")
    checked()
    reads: list[str] = []
    read = versions.read
    monkeypatch.setattr(cache, "read", lambda path: reads.append(path) or read(path))  # type: ignore[func-returns-value]
    os.utime(path, (1, 1))
    cached(".")
    assert (checked(), [Path(one).name for one in reads]) == ([], ["a.py"])
    cached(".")
    assert len(reads) == 1


def test_a_file_that_has_just_changed_is_read_again(
    cached: Cli, checked: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes between two ticks of the clock of a file system leave the same times."""
    monkeypatch.setattr(versions, "_SETTLED", 3_600_000_000_000)
    write("a.py", TRAP)
    cached(".")
    checked()
    shelf = json.loads(shelves()[0].read_text())
    assert shelf["files"]["a.py"][1] is None
    cached(".")
    assert checked() == []


def test_the_cache_knows_this_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flake8_gradtrap import catalogue

    catalogue.installation.cache_clear()
    first = catalogue.installation()
    catalogue.installation.cache_clear()
    monkeypatch.setattr("flake8_gradtrap.rules.__path__", [str(tmp_path)])
    (tmp_path / "gtr999_new.py").write_text("x = 1\n")
    second = catalogue.installation()
    os.utime(tmp_path / "gtr999_new.py", (1, 1))
    catalogue.installation.cache_clear()
    assert len({first, second, catalogue.installation()}) == 3
    catalogue.installation.cache_clear()


# -- what else the answer depends on ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: None) -> Callable[[], tuple[list[str], list[str]]]:
    """A project; called, it is checked with the real engine: what is found, and which files were analysed for it."""
    monkeypatch.chdir(tmp_path)
    write("pyproject.toml", "")
    write("train.py", TRAIN)
    write("other.py", TRAIN.replace("from helper import clip", "clip = torch.nn.utils.clip_grad_norm_"))
    analysed: list[str] = []
    check = batch.check_file
    monkeypatch.setattr(batch, "check_file", lambda task: analysed.append(task.path) or check(task))  # type: ignore[func-returns-value]

    def run() -> tuple[list[str], list[str]]:
        analysed.clear()
        tasks = [Task(str(path.name), settings) for path in sorted(tmp_path.glob("*.py"))]
        outcomes = batch.run(tasks, 1, cache.Cache(str(tmp_path / cache.FOLDER)))
        found = [
            f"{finding.filename}:{finding.span.row} {finding.code}" for one in outcomes for finding in one.findings
        ]
        return found, list(analysed)

    settings = Settings.of(select=["GTR301"])
    return run


def test_dependents_of_a_changed_file_are_analysed_again(project: Callable[[], tuple[list[str], list[str]]]) -> None:
    write("helper.py", CLIP)
    both = ["other.py:12 GTR301", "train.py:12 GTR301"]
    assert project() == (both, ["helper.py", "other.py", "train.py"])
    assert project() == (both, [])
    write("helper.py", CLIP.replace("    torch.nn", "    return  # torch.nn"))
    assert project() == (both[:1], ["helper.py", "train.py"])
    assert project() == (both[:1], [])
    write("helper.py", CLIP)
    assert project() == (both, ["helper.py", "train.py"])
    os.unlink("helper.py")
    assert project() == (both[:1], ["train.py"])
    assert project() == (both[:1], [])
    # Where nothing was, now something is.
    write("helper/__init__.py", CLIP)
    assert project() == (both, ["train.py"])
    write("helper/__init__.py", "from .deep import clip\n")
    assert project() == (both[:1], ["train.py"])
    write("helper/deep/__init__.py", CLIP)
    assert project() == (both, ["train.py"])
    write("helper.py", "def clip(*args): pass\n")
    assert project() == (both[:1], ["helper.py", "train.py"])


def test_traces_into_other_files_survive(project: Callable[[], tuple[list[str], list[str]]], tmp_path: Path) -> None:
    write("helper.py", CLIP)
    task = Task("train.py", Settings.of(select=["GTR301"]))
    results = [batch.run([task], 1, cache.Cache(cache.FOLDER))[0].findings for _ in range(2)]
    assert results[0] == results[1]
    assert {step.filename for step in results[0][0].trace} == {"train.py", str(tmp_path / "helper.py")}
    assert results[1][0].fix == results[0][0].fix


# -- what is not kept -------------------------------------------------------------------------------------------------


def test_what_may_be_otherwise_next_time_is_not_kept(cached: Cli, checked: Callable[[], list[str]]) -> None:
    write("a.py", "# crash\n")
    write("b.py", TRAP)
    assert "internal error" in cached(".").stdout
    checked()
    cached(".")
    assert checked() == ["a.py"]
    write("c.py", "# die\n")
    for _ in range(2):
        assert "the process that analysed this file died" in cached("a.py", "b.py", "c.py", "-j2").stdout
    assert list(json.loads(shelves()[0].read_text())["files"]) == ["b.py"]


def test_standard_input_is_not_kept(cached: Cli, checked: Callable[[], list[str]]) -> None:
    write("a.py", "x = 1\n")
    cached(".")
    checked()
    assert "GTR301" in cached("-", "--stdin-filename=a.py", input=TRAP).stdout
    assert checked() == ["a.py"]
    assert cached("a.py").stdout == "[]\n"


def test_a_run_that_is_broken_off_was_not_in_vain(
    cached: Cli, checked: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write(f"{name}.py", TRAP)
    check = batch.check_file

    def stop(task: Task) -> batch.Outcome:
        if task.path == "c.py":
            raise KeyboardInterrupt
        return check(task)

    with monkeypatch.context() as patch:
        patch.setattr(batch, "check_file", stop)
        assert cached(".").exit_code != 0
    assert checked() == ["a.py", "b.py"]
    cached(".")
    assert checked() == ["c.py", "d.py"]


def test_files_that_are_gone_are_forgotten(cached: Cli) -> None:
    write("a.py", TRAP)
    write("b.py", TRAP)
    cached(".")
    os.unlink("a.py")
    write("c.py", TRAP)
    cached(".")
    assert list(json.loads(shelves()[0].read_text())["files"]) == ["b.py", "c.py"]


# -- where it lies ----------------------------------------------------------------------------------------------------


def test_where_it_lies(cached: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("pkg/a.py", TRAP)
    cached(".", "--no-cache")
    assert not Path(cache.FOLDER).exists()
    monkeypatch.chdir("pkg")
    cached(".")
    monkeypatch.chdir("..")
    assert sorted(path.name for path in Path(cache.FOLDER).iterdir() if path.is_file()) == [
        ".gitignore",
        "CACHEDIR.TAG",
    ]
    assert Path(cache.FOLDER, ".gitignore").read_text().endswith("\n*\n")
    assert len(shelves()) == 1
    cached(".", "--cache-dir=elsewhere")
    assert len(shelves("elsewhere")) == 1
    monkeypatch.setenv("GRADTRAP_CACHE_DIR", str(tmp_path / "third"))
    cached(".")
    assert len(shelves("third")) == 1
    Path("second").mkdir()
    os.symlink("second", "link")
    cached(".", "--cache-dir=link")
    assert len(shelves("second")) == 1
    assert not Path("second/.gitignore").exists()


def test_cleaning(cached: Cli, cli: Cli) -> None:
    write("a.py", TRAP)
    cached(".")
    inner = shelves()[0].parent
    before = everything(Path())
    assert "Removed 1 file from" in cli("clean").stdout
    assert not Path(cache.FOLDER).exists()
    assert "No cache in" in cli("clean").stdout
    assert everything(Path()) == before
    # What is not ours stays.
    cached(".")
    write(f"{inner}/notes.txt", "mine")
    write(f"{cache.FOLDER}/notes.txt", "mine")
    write(f"{cache.FOLDER}/{'a' * 31}/{'b' * 32}.json", "mine")
    os.symlink("..", f"{cache.FOLDER}/{'c' * 32}")
    cli("clean")
    assert everything(Path()) == before
    assert {str(path.relative_to(cache.FOLDER)) for path in Path(cache.FOLDER).rglob("*") if path.is_file()} == {
        ".gitignore",
        "CACHEDIR.TAG",
        "notes.txt",
        f"{inner.name}/notes.txt",
        f"{'a' * 31}/{'b' * 32}.json",
    }
    write("home/b.py", "x = 1\n")
    assert "No cache" in cli("clean", "--cache-dir=home").stdout
    assert Path("home/b.py").exists()


def test_a_path_that_leads_up_from_a_link(cached: Cli, checked: Callable[[], list[str]]) -> None:
    write("a.py", "x = 1\n")
    write("far/deep/b.py", "x = 1\n")
    write("far/a.py", TRAP)
    os.symlink("far/deep", "link")
    cached("a.py")
    assert checked() == ["a.py"]
    for _ in range(2):
        assert len(json.loads(cached("link/../a.py").stdout)) == 1
    assert checked() == ["link/../a.py"]


def test_old_versions_are_removed(cached: Cli) -> None:
    write("a.py", TRAP)
    for name, age in (("a" * 32, 20), ("b" * 32, 10)):
        write(f"{cache.FOLDER}/{name}/{'0' * 32}.json", "{}")
        os.utime(f"{cache.FOLDER}/{name}", (time.time() - age * 24 * 3600,) * 2)
    cached(".")
    assert not Path(cache.FOLDER, "a" * 32).exists()
    assert Path(cache.FOLDER, "b" * 32).exists()


@pytest.mark.parametrize("obstacle", ["file", "read-only", "full"])
def test_a_cache_that_cannot_be_written_is_no_error(
    cached: Cli, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.py", TRAP)
    if obstacle == "file":
        write(cache.FOLDER, "")
    else:

        def fails(*arguments: object, **keywords: object) -> None:
            raise OSError(30 if obstacle == "read-only" else 28, "no")

        monkeypatch.setattr(os, "mkdir" if obstacle == "read-only" else "replace", fails)
    for _ in range(2):
        result = cached(".")
        assert (result.exit_code, len(json.loads(result.stdout)), result.stderr) == (1, 1, "")


# -- damaged, or made up ----------------------------------------------------------------------------------------------


def nodes(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON document, as a container and a key."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from nodes(data[key])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"folder": 1e999}', b"1" * 9999]
)
def test_a_damaged_cache_is_a_cold_run(cached: Cli, checked: Callable[[], list[str]], content: bytes) -> None:
    write("a.py", TRAP)
    cold = cached(".").stdout
    checked()
    shelves()[0].write_bytes(content)
    assert cached(".").stdout == cold
    assert checked() == ["a.py"]
    assert cached(".").stdout == cold
    assert checked() == []


def test_no_damage_makes_it_fail(cached: Cli) -> None:
    """Each part of the cache replaced by what should not be there: the run ends as if there were none, or as before."""
    write("a.py", FIXABLE)
    cold = cached(".").stdout
    whole = json.loads(shelves()[0].read_text())
    whole["looks"] = [[str(Path("x.py").absolute()), None, None], [str(Path("a.py").absolute()), "", [1, 2, 3, 4]]]
    whole["files"]["a.py"][2] = [0]
    number = 0
    for value in (None, True, -1, 10**30, "x", "\ud800", "\0", [], [[]], {}, {"x": []}, 1.5):
        for place in range(len(list(nodes(whole)))):
            broken = copy.deepcopy(whole)
            container, key = list(nodes(broken))[place]
            if isinstance(container[key], str) and isinstance(value, str) and key != "folder":
                continue  # another text is not damage
            container[key] = value
            shelves()[0].write_text(json.dumps(broken))
            result = cached(".")
            told = json.loads(result.stdout)
            assert len(told) == len(json.loads(cold)) or value == [], (place, value)  # nothing found: an answer, too
            number += 1
    assert number > 200


def test_a_cache_writes_nothing_into_a_program(cached: Cli, checked: Callable[[], list[str]]) -> None:
    path = write("a.py", FIXABLE)
    cached(".")
    checked()
    shelf = shelves()[0]
    shelf.write_text(shelf.read_text().replace('"fixed"', '"import os; os.system(0)"'))
    assert "os.system" not in cached(".", "--diff").stdout
    assert checked() != []
    assert cached(".", "--fix").exit_code == 0
    assert path.read_text() == "fixed()  # trap GTR301 fix\n"


def test_a_cache_shows_no_other_file(cached: Cli, checked: Callable[[], list[str]], tmp_path: Path) -> None:
    write("a.py", TRAP)
    secret = write("secret.txt", "password\n")
    cached(".")
    shelf = shelves()[0]
    whole = json.loads(shelf.read_text())
    finding = whole["files"]["a.py"][3][0]
    names = list(Finding.__dataclass_fields__)
    step = finding[names.index("trace")][0]
    step[list(Step.__dataclass_fields__).index("filename")] = str(secret.absolute())
    for looks in ([], [[str(secret.absolute()), "0" * 32, None]], [[str(secret.absolute()), "", None]]):
        whole["looks"], whole["files"]["a.py"][2] = looks, list(range(len(looks)))
        shelf.write_text(json.dumps(whole))
        checked()
        assert "password" not in cached(".", "--output-format=full").stdout
        assert checked() == ["a.py"]


def test_no_link_in_a_cache_is_followed(cached: Cli, cli: Cli, tmp_path: Path) -> None:
    write("project/pyproject.toml", "")
    write("project/a.py", TRAP)
    precious = write("precious/keep.txt", "mine")
    folder = Path("project", cache.FOLDER)
    os.chdir("project")
    # The folder of the cache is a link.
    os.symlink("../precious", cache.FOLDER)
    assert cached(".").exit_code == 1
    cli("clean")
    os.chdir("..")
    assert os.listdir("precious") == ["keep.txt"]
    folder.unlink()
    # The folder of this version is one.
    os.chdir("project")
    cached(".")
    inner = shelves()[0].parent
    name = shelves()[0].name
    content = shelves()[0].read_bytes()
    cli("clean")
    os.mkdir(cache.FOLDER)
    os.symlink("../../precious", inner)
    os.rename(write(f"../precious/{name}", ""), f"../precious/{name}")
    cached(".")
    cli("clean")
    assert Path("../precious", name).read_bytes() == b""
    os.unlink(f"../precious/{name}")
    os.unlink(inner)
    # A file in it is one.
    inner.mkdir()
    os.symlink(precious.absolute() if precious.is_absolute() else "../../../precious/keep.txt", inner / name)
    cached(".")
    os.chdir("..")
    assert precious.read_text() == "mine"
    assert os.listdir("precious") == ["keep.txt"]
    assert not Path("project", inner, name).is_symlink()
    assert json.loads(Path("project", inner, name).read_text())["files"].keys() == json.loads(content)["files"].keys()


def test_killed_while_writing_it_is_old_or_new_and_never_less(cached: Cli) -> None:
    write("a.py", TRAP)
    cached(".")
    (shelf,) = shelves()
    old = shelf.read_bytes()
    write("a.py", "x = 1\n" + TRAP)
    told = json.loads(cached("--no-cache", ".").stdout)
    seen = set()
    for calls in range(300):
        shelf.write_bytes(old)
        if not killed(lambda: cached("."), calls, "store.py"):
            break
        seen.add(shelf.read_bytes())
    assert calls > 30
    assert len(seen) == 2
    assert old in seen
    assert json.loads(shelf.read_bytes())["files"].keys() == {"a.py"}
    assert json.loads(cached(".").stdout) == told
    assert all(json.loads(one) for one in seen)


def test_a_pipe_in_a_cache_blocks_nobody(cached: Cli) -> None:
    write("a.py", TRAP)
    cached(".")
    shelf = shelves()[0]
    shelf.unlink()
    os.mkfifo(shelf)
    with within(60):
        assert cached(".").exit_code == 1
    assert shelf.is_file()
    # Neither does one that an answer is said to depend on.
    os.mkfifo("pipe")
    whole = json.loads(shelf.read_text())
    whole["looks"], whole["files"]["a.py"][2] = [[str(Path("pipe").absolute()), "0" * 32, None]], [0]
    shelf.write_text(json.dumps(whole))
    assert cached(".").exit_code == 1


def test_nothing_is_written_outside(cached: Cli) -> None:
    write("pkg/a.py", FIXABLE)
    write("b.py", TRAP)
    before = everything(Path())
    for arguments in (["."], ["pkg"], [".", "-j2"], ["pkg/../b.py"]):
        cached(*arguments)
        assert everything(Path()) == before


# -- packing ----------------------------------------------------------------------------------------------------------


def test_findings_are_packed_whole() -> None:
    fix = Fix("do", (Edit(Span(1, 2, 3, 4), "x\ud800", 3), Edit(Span(1, 1, 1, 1), "")), True)
    steps = (Step("one", "a.py", Span(1, 1, 1, 2)), Step("two", "/b.py", Span(9, 9, 9, 9), 2))
    findings = (
        Finding("GTR301", "name", "message\n", "a.py", Span(1, 1, 2, 2), steps, fix, "error", True, 4),
        Finding("GTR302", "name", "", "a.py", Span(1, 1, 2, 2)),
    )
    packed = json.loads(json.dumps(pack(findings, "a.py")))
    assert Unpacker("a.py", ["/b.py"]).findings(packed) == findings
    assert Unpacker("c/a.py", ["/b.py"]).findings(packed)[0].filename == "c/a.py"
    with pytest.raises(Refused):
        Unpacker("a.py", []).findings(packed)


# -- several runs, and what a warm one costs --------------------------------------------------------------------------


def gradtrap(*arguments: str, folder: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """`gradtrap` in a process of its own; `code` is run after it."""
    program = f"import sys\nfrom flake8_gradtrap.cli import main\ntry:\n main()\nfinally:\n {code or 'pass'}\n"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    variables.pop("GRADTRAP_NO_CACHE", None)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_two_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    for number in range(6):
        (tmp_path / f"m{number}.py").write_text("x = (\n" if number == 3 else f"x = {number}\n")
    program = (
        "import subprocess, sys\n"
        "from flake8_gradtrap import cache\n"
        "cache._EVERY = 1\n"
        "from flake8_gradtrap.cli import main\n"
        "main(['check', '.', '--output-format=concise'])\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    variables.pop("GRADTRAP_NO_CACHE", None)
    for _ in range(3):
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", program], cwd=tmp_path, env=variables, stdout=-1, stderr=-1, text=True
            )
            for _ in range(3)
        ]
        ends = [(*run.communicate(), run.returncode) for run in runs]
        assert len(set(ends)) == 1
        assert ends[0][1:] == ("", 1)
        assert "m3.py:1:5: GTR000" in ends[0][0]
        (shelf,) = tmp_path.glob(f"{cache.FOLDER}/*/*.json")
        assert set(json.loads(shelf.read_text())["files"]) == {f"m{number}.py" for number in range(6)}
        (tmp_path / "m0.py").write_text("y = 1\n")


HEAVY = (
    "libcst",
    "rich",
    "torch",
    "flake8",
    "flake8_gradtrap.interp",
    "flake8_gradtrap.events",
    "flake8_gradtrap.engine",
)


def test_a_warm_run_and_help_import_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.gradtrap]\nselect = ['GTR301', 'GTR000']\n")
    (tmp_path / "helper.py").write_text(CLIP)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "broken.py").write_text("x = (\n")
    show = f"print(*[name for name in {HEAVY} if name in sys.modules])"
    cold = gradtrap("check", ".", folder=tmp_path, code=show)
    assert cold.stdout.splitlines()[-1] == "libcst flake8_gradtrap.interp flake8_gradtrap.events flake8_gradtrap.engine"
    for arguments in (
        ["check", "."],
        ["check", ".", "--output-format=json"],
        ["--help"],
        ["check", "--help"],
        ["--version"],
    ):
        run = gradtrap(*arguments, folder=tmp_path, code=show)
        assert (run.stdout.splitlines()[-1], run.stderr) == ("", "")
    assert gradtrap("check", ".", folder=tmp_path).stdout == cold.stdout.rpartition("libcst ")[0]


@pytest.mark.slow
def test_a_warm_run_over_5000_files_is_short(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    for number in range(5000):
        folder = tmp_path / f"pkg{number // 500}" / f"sub{number // 50 % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"m{number}.py").write_text(f"from . import m{number + 1}\nx = {number}\n")
    time.sleep(versions._SETTLED / 1e9)
    gradtrap("check", ".", folder=tmp_path)
    show = "import time; print(time.process_time())"
    assert min(float(gradtrap("check", ".", folder=tmp_path, code=show).stdout.split()[-1]) for _ in range(5)) < 0.5
