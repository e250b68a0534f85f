"""The command line: what is checked, what is said, what is written, and how it ends."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Cli, Stub

from flake8_gradtrap import batch, files
from flake8_gradtrap.config import Configuration
from flake8_gradtrap.rule import Rule

TRAP = "f()  # trap GTR301\n"
FIXABLE = "f()  # trap GTR301 fix\n"


def write(path: str, content: str | bytes) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


# -- what is found, and how it ends -----------------------------------------------------------------------------------


def test_exit_codes(cli: Cli, stub: Stub) -> None:
    write("good.py", "x = 1\n")
    write("bad.py", TRAP)
    assert cli("check", "good.py").exit_code == 0
    assert cli("check", "bad.py").exit_code == 1
    assert cli("check", "good.py", "bad.py", "--exit-zero").exit_code == 0
    assert cli("check", "--no-such-option").exit_code == 2


def test_the_formats(cli: Cli, stub: Stub) -> None:
    write("a.py", TRAP)
    assert cli("check", "a.py", "--output-format", "concise").stdout == "a.py:1:1: GTR301 f is a trap [some-trap]\n"
    assert json.loads(cli("check", "a.py", "--output-format", "json").stdout)[0]["filename"] == "a.py"
    full = cli("check", "a.py").stdout
    assert full.startswith("a.py:1:1: GTR301 f is a trap [some-trap]\n")
    assert full.endswith("\nFound 1 trap.\n")
    wrong = cli("check", "a.py", "--output-format", "xml")
    assert wrong.exit_code == 2
    assert "concise" in wrong.stderr


def test_findings_are_sorted_and_told_once(cli: Cli, stub: Stub) -> None:
    write("b.py", "x = 1; g()  # trap GTR301\nf()  # trap GTR401\n")
    write("a.py", "h()  # trap GTR302\n")
    lines = cli("check", "b.py", "a.py", "./b.py", ".", "--output-format=concise").stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["a.py:1:1:", "b.py:1:8:", "b.py:2:1:"]
    finding = batch.not_analysed("a.py", "one")
    assert batch.unique([finding, batch.not_analysed("a.py", "two")]) == (finding,)


def test_selecting(cli: Cli, stub: Stub) -> None:
    write("a.py", "f()  # trap GTR301\ng()  # trap GTR302\nh()  # trap GTR307\ni()  # trap GTR401\n")

    def rows(*options: str) -> list[int]:
        output = cli("check", "a.py", "--output-format=json", *options).stdout
        return [finding["location"]["row"] for finding in json.loads(output)]

    assert rows() == [1, 2, 4]
    assert rows("--select", "GTR3") == [1, 2, 3]
    assert rows("--select=GTR301, GTR4") == [1, 4]
    assert rows("--select=GTR301", "--select=GTR302") == [1, 2]
    assert rows("--ignore=gtr3") == [4]
    assert rows("--extend-select=GTR307", "--ignore=GTR4") == [1, 2, 3]
    assert rows("--preview") == [1, 2, 3, 4]
    assert rows("--select=ALL") == [1, 2, 4]


@pytest.mark.parametrize("option", ["--select", "--ignore", "--extend-select"])
def test_unknown_codes(cli: Cli, stub: Stub, option: str) -> None:
    write("a.py", TRAP)
    result = cli("check", "a.py", option, "GTR3O1")
    assert result.exit_code == 2
    assert result.stderr == f"gradtrap: error: {option}: unknown rule code 'GTR3O1'; did you mean 'GTR301'?\n"
    assert stub.checked == []


def test_unknown_options_name_the_nearest(cli: Cli) -> None:
    result = cli("check", "--selct=GTR301")
    assert result.exit_code == 2
    assert "--select" in result.stderr


def test_statistics(cli: Cli, stub: Stub) -> None:
    write("a.py", TRAP + TRAP)
    write("b.py", "g()  # trap GTR401\n")
    *lines, last = cli("check", ".", "--statistics").stdout.splitlines()
    assert lines[-8:] == [
        "     2  GTR301  some-trap",
        "     1  GTR401  some-trap",
        "Slowest files (CPU seconds):",
        "  0.50  a.py",
        "  0.50  b.py",
        "Given up over budget, and so not judged:",
        "        a.py: train",
        "        b.py: train",
    ]
    assert last.startswith("2 files, 4 functions run, 2 given up over budget, ")
    result = cli("check", ".", "--statistics", "--output-format=json")
    assert len(json.loads(result.stdout)) == 3
    assert "2 files, 4 functions run" in result.stderr


def test_statistics_show_the_ten_slowest_files(cli: Cli, stub: Stub) -> None:
    for number in range(12):
        write(f"{number:02}.py", f"# takes {number / 1000 + 1}\n")
    lines = cli("check", ".", "--statistics").stdout.splitlines()
    at = lines.index("Slowest files (CPU seconds):")
    assert lines[at + 1 : at + 12] == [
        *(f"{number / 1000 + 1:6.2f}  {number:02}.py" for number in range(11, 1, -1)),
        "Given up over budget, and so not judged:",
    ]


# -- what is checked --------------------------------------------------------------------------------------------------


def test_a_missing_path_is_an_error(cli: Cli, stub: Stub) -> None:
    write("a.py", TRAP)
    result = cli("check", "a.py", "b.py")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "gradtrap: error: b.py: no such file or folder\n"
    assert stub.checked == []


def test_folders_are_walked(cli: Cli, stub: Stub) -> None:
    left_out = [".git", ".venv", "venv", "__pycache__", "node_modules", "build", "dist", ".tox", ".hidden"]
    for name in ["b.py", "a.py", "pkg/c.py", "pkg/deep/d.py", "pkg/notes.txt", "pkg/stub.pyi", "zz.py"]:
        write(name, "")
    for folder in left_out:
        write(f"{folder}/x.py", TRAP)
        write(f"pkg/{folder}/x.py", TRAP)
    write("env/pyvenv.cfg", "")
    write("env/lib/x.py", TRAP)
    expected = ["a.py", "b.py", "pkg/c.py", "pkg/deep/d.py", "zz.py"]
    for arguments in (["."], [], ["./"], ["pkg", "zz.py", "b.py", "a.py"]):
        stub.checked.clear()
        assert cli("check", *arguments).exit_code == 0
        assert stub.checked == expected
    # What is named is checked, wherever it lies.
    assert cli("check", "build").exit_code == 1
    assert cli("check", ".venv/x.py").exit_code == 1


def test_excluding(cli: Cli, stub: Stub) -> None:
    for name in ["a.py", "b_gen.py", "old/c.py", "pkg/old/d.py"]:
        write(name, "")
    cli("check", ".", "--exclude", "old,*_gen.py")
    assert stub.checked == ["a.py"]
    stub.checked.clear()
    cli("check", ".", "--exclude", "./old/", "--exclude=pkg/*/d.py")
    assert stub.checked == ["a.py", "b_gen.py"]
    stub.checked.clear()
    cli("check", "old", "--exclude", "old")
    assert stub.checked == ["old/c.py"]


def test_links(cli: Cli, stub: Stub) -> None:
    write("pkg/a.py", "")
    os.symlink("..", "pkg/up")
    os.symlink("a.py", "pkg/same.py")
    os.symlink("nowhere", "pkg/dangling.py")
    os.mkfifo("pkg/pipe.py")
    assert cli("check", ".").exit_code == 0
    assert stub.checked == ["pkg/a.py"]
    assert cli("check", "pkg/dangling.py").exit_code == 1


def test_what_cannot_be_read_or_analysed_does_not_disturb_the_rest(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.py", TRAP)
    write("b.py", "# crash\n")
    write("c.py", TRAP)
    os.symlink("c.py/none", "d.py")
    result = cli("check", "a.py", "b.py", "c.py", "d.py", "--output-format=concise")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "a.py:1:1: GTR301 f is a trap [some-trap]",
        "b.py:1:1: GTR000 not analysed: internal error: RuntimeError: the stub crashed; please report it"
        " [not-analysed]",
        "c.py:1:1: GTR301 f is a trap [some-trap]",
        "d.py:1:1: GTR000 not analysed: the file cannot be read: Not a directory [not-analysed]",
    ]
    assert cli("check", "d.py", "--ignore=GTR000").exit_code == 0


def test_standard_input(cli: Cli, stub: Stub) -> None:
    assert cli("check", "-", "--output-format=concise", input=TRAP).stdout.startswith("-:1:1: GTR301")
    result = cli("check", "-", "--stdin-filename", "src/train.py", input="# ü\n\tf()  # trap GTR301\n")
    assert result.stdout.startswith("src/train.py:2:2: GTR301")
    assert "2 |     f()  # trap GTR301\n  |     ^\n" in result.stdout
    assert cli("check", "-", input="").exit_code == 0
    write("src/pyproject.toml", "[tool.gradtrap]\nignore = ['GTR301']\n")
    assert cli("check", "-", "--stdin-filename", "src/train.py", input=TRAP).exit_code == 0


# -- many processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "2", "0", "auto"])
def test_processes_change_nothing(cli: Cli, stub: Stub, jobs: str) -> None:
    for number in range(5):
        write(f"{number}.py", "x = 1\n" * number + TRAP)
    lines = cli("check", ".", "--output-format=concise", "-j", jobs).stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"{number}.py:{number + 1}:1:" for number in range(5)]


def test_wrong_numbers_of_processes(cli: Cli) -> None:
    assert cli("check", "-j", "many").exit_code == 2
    assert cli("check", "-j", "-1").exit_code == 2


def test_a_process_that_dies_costs_one_file(cli: Cli, stub: Stub) -> None:
    for number in range(5):
        write(f"{number}.py", "# die\n" if number == 2 else TRAP)
    lines = cli("check", ".", "--output-format=concise", "-j2").stdout.splitlines()
    assert lines.pop(2) == "2.py:1:1: GTR000 not analysed: the process that analysed this file died [not-analysed]"
    assert [line.split(" ")[:2] for line in lines] == [[f"{number}.py:1:1:", "GTR301"] for number in (0, 1, 3, 4)]


def test_what_killed_its_process_kills_none_of_ours_the_next_time(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is all that the cache leaves to do."""
    monkeypatch.delenv("GRADTRAP_NO_CACHE")
    for name in "abc":
        write(f"{name}.py", "# die\n" if name == "b" else TRAP)
    first, second = (cli("check", ".", "--output-format=concise", "-j2", "--cache-dir=cache").stdout for _ in range(2))
    assert "b.py:1:1: GTR000 not analysed: the process that analysed this file died" in first
    assert second == first


@pytest.mark.parametrize(
    "command", [("check", "a.py"), ("check", "--select=GTR3", "a.py"), ("rule", "--all"), ("prove",)]
)
def test_an_installation_without_rules_is_an_error(
    cli: Cli, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flake8_gradtrap.config.rule_defaults", dict)
    write("a.py", TRAP)
    result = cli(*command)
    assert result.exit_code == 2
    assert "this installation of gradtrap is broken: it has no rules; install it again: pip install" in result.stderr


# -- fixing -----------------------------------------------------------------------------------------------------------


def test_fix(cli: Cli, stub: Stub) -> None:
    path = write("a.py", FIXABLE + TRAP)
    path.chmod(0o751)
    result = cli("check", "a.py", "--fix")
    assert path.read_text() == "fixed()  # trap GTR301 fix\n" + TRAP
    assert stat.S_IMODE(path.stat().st_mode) == 0o751
    assert result.exit_code == 1
    assert result.stderr == "Fixed 1 trap in 1 file.\n"
    assert result.stdout.startswith("a.py:2:1: GTR301")
    assert os.listdir() == ["a.py"]
    before = path.stat()
    again = cli("check", "a.py", "--fix")
    assert again.stderr == ""
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    write("b.py", FIXABLE)
    assert cli("check", "b.py", "--fix").exit_code == 0


def test_what_is_fixed_in_one_file_can_matter_to_another(cli: Cli, stub: Stub) -> None:
    path = write("a.py", "f()  # trap GTR301 later\n")
    write("z.py", FIXABLE)
    result = cli("check", ".", "--fix")
    assert path.read_text() == "fixed()  # trap GTR301 later\n"
    assert (result.exit_code, result.stderr) == (0, "Fixed 2 traps in 2 files.\n")


def test_a_second_run_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    """With the real engine and all fixes, on programs of every kind."""
    shutil.copytree(ROOT / "fixtures", tmp_path, dirs_exist_ok=True)
    traps = [str(path) for folder in ("GTR1*", "GTR3*") for path in tmp_path.glob(f"{folder}/trap_*.py")]

    def contents() -> dict[str, bytes]:
        return {path: Path(path).read_bytes() for path in traps}

    before = contents()
    assert "Fixed" in cli("check", "--fix", "--unsafe-fixes", *traps).stderr
    once = contents()
    assert sum(before[path] != once[path] for path in traps) > 10
    assert "Fixed" not in cli("check", "--fix", "--unsafe-fixes", *traps).stderr
    assert contents() == once
    for text in once.values():
        ast.parse(text)


def test_fixes_that_ask_for_another_are_made_in_one_run(cli: Cli, stub: Stub) -> None:
    path = write("a.py", "f()  # trap GTR301 steps\n")
    assert cli("check", "a.py", "--fix").stderr == "Fixed 2 traps in 1 file.\n"
    assert path.read_text() == "fixed()  # trap GTR301 steps\n"


def test_unsafe_fixes_are_asked_for(cli: Cli, stub: Stub) -> None:
    path = write("a.py", "f()  # trap GTR301 unsafe\n")
    assert cli("check", "a.py", "--fix").exit_code == 1
    assert path.read_text().startswith("f()")
    assert cli("check", "a.py", "--unsafe-fixes").exit_code == 1
    assert path.read_text().startswith("f()")
    assert cli("check", "a.py", "--fix", "--unsafe-fixes").exit_code == 0
    assert path.read_text().startswith("fixed()")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbff()  # trap GTR301 fix\r\nx = 1\r\n",
        "# coding: latin-1\nx = 'ü'; f()  # trap GTR301 fix\n".encode("latin-1"),
        b"f()  # trap GTR301 fix",
        b"x = 1\r\nf()  # trap GTR301 fix\ny = 2\n",
        b"if x:\n\tf()  # trap GTR301 fix\x0c\n",
        "x = '名'; f()  # trap GTR301 fix\n".encode(),
    ],
)
def test_what_is_around_a_fix_stays(cli: Cli, stub: Stub, data: bytes) -> None:
    path = write("a.py", data)
    cli("check", "a.py", "--fix")
    assert path.read_bytes() == data.replace(b"f()", b"fixed()")


def test_a_fix_that_breaks_the_file_is_left_out(cli: Cli, stub: Stub) -> None:
    path = write("a.py", "f()  # trap GTR301 breaks\ng()  # trap GTR301 fix\nh()  # trap GTR301 fix\n")
    result = cli("check", "a.py", "--fix")
    assert path.read_text() == "f()  # trap GTR301 breaks\nfixed()  # trap GTR301 fix\nfixed()  # trap GTR301 fix\n"
    assert result.stderr == "Fixed 2 traps in 1 file.\n"
    assert result.exit_code == 1


@pytest.mark.parametrize("kind", ["grows", "swaps"])
def test_fixes_that_never_settle_are_left_out(cli: Cli, stub: Stub, kind: str) -> None:
    path = write("a.py", f"f()  # trap GTR401 {kind}\ng()  # trap GTR301 fix\n")
    result = cli("check", "a.py", "--fix")
    assert path.read_text() == f"f()  # trap GTR401 {kind}\nfixed()  # trap GTR301 fix\n"
    assert result.stderr == "Fixed 1 trap in 1 file.\na.py: not fixed: the fixes of GTR401 do not settle\n"
    assert result.stdout.startswith("a.py:1:1: GTR401 f is")
    again = cli("check", "a.py", "--fix")
    assert again.stderr == "a.py: not fixed: the fixes of GTR401 do not settle\n"
    assert again.stdout == result.stdout


def test_a_file_that_changed_is_not_written(cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.py", FIXABLE)
    write("b.py", FIXABLE)
    run = batch.run

    def run_and_edit(tasks: list[batch.Task], *_: object) -> list[batch.Outcome]:
        outcomes = run(tasks)
        if path.read_text() == FIXABLE:
            path.write_text(TRAP + FIXABLE)
        return outcomes

    monkeypatch.setattr(batch, "run", run_and_edit)
    result = cli("check", "a.py", "b.py", "--fix", "--output-format=concise")
    assert path.read_text() == TRAP + FIXABLE
    assert "a.py: not fixed: it changed since it was read\n" in result.stderr
    assert "Fixed 1 trap in 1 file.\n" in result.stderr
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == ["a.py:1:1:", "a.py:2:1:"]


def test_a_file_that_is_read_only_is_not_written(cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.py", FIXABLE)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write everything
    assert "a.py: not fixed: it is not writable\n" in cli("check", "a.py", "--fix").stderr
    assert path.read_text() == FIXABLE


def test_a_link_stays_a_link(cli: Cli, stub: Stub) -> None:
    path = write("real/a.py", FIXABLE)
    os.symlink("real/a.py", "link.py")
    assert cli("check", "link.py", "--fix").exit_code == 0
    assert os.path.islink("link.py")
    assert path.read_text().startswith("fixed()")


def test_nothing_is_left_behind_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text("old")

    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(files.NotWritten, match="No space left"):
        files.replace_file(str(path), b"old", b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.py"]


def test_diff(cli: Cli, stub: Stub) -> None:
    path = write("a.py", b"x = 1\r\nf()  # trap GTR301 fix")
    write("b.py", TRAP)
    result = cli("check", ".", "--diff")
    assert result.exit_code == 1
    assert (
        result.stdout_bytes == b"--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n x = 1\r\n-f()  # trap GTR301 fix\n"
        b"\\ No newline at end of file\n+fixed()  # trap GTR301 fix\n\\ No newline at end of file\n"
    )
    assert result.stderr == "Would fix 1 trap in 1 file; 1 would be left.\n"
    assert path.read_bytes() == b"x = 1\r\nf()  # trap GTR301 fix"
    assert cli("check", "b.py", "--diff").exit_code == 0
    assert cli("check", ".", "--diff", "--exit-zero").exit_code == 0
    assert cli("check", ".", "--diff", "--fix").exit_code == 1
    assert path.read_bytes() == b"x = 1\r\nf()  # trap GTR301 fix"


def test_fixing_standard_input(cli: Cli, stub: Stub) -> None:
    result = cli("check", "-", "--fix", input=b"f()  # trap GTR301 fix\r\n" + TRAP.encode())
    assert result.stdout_bytes == b"fixed()  # trap GTR301 fix\r\n" + TRAP.encode()
    assert "-:2:1: GTR301" in result.stderr
    assert result.exit_code == 1
    result = cli("check", "-", "--fix", input="x = 1\n")
    assert (result.exit_code, result.stdout) == (0, "x = 1\n")


# -- the other commands -----------------------------------------------------------------------------------------------


class SomeTrap(Rule):
    """A rule for the tests."""

    code, name, summary, fix = "GTR301", "some-trap", "What it finds", "safe"

    @classmethod
    def doc(cls) -> str:
        return "First line.\n\n## What it does\n\nIt finds.\n"


def test_rule(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flake8_gradtrap.rule.all_rules", lambda: {"GTR301": SomeTrap})
    proof = {"code": "GTR301", "trapped": {"norm": 1461.029}, "fixed": {"norm": 1.427}}
    measured = {"device": "cpu", "device_name": "x86_64", "torch": "2.13.0", "proofs": [proof]}
    monkeypatch.setattr("flake8_gradtrap.pages.figures", lambda: measured)
    facts = "*On by default · fix: `--fix` · since 0.1.0*"
    expected = f"# GTR301 some-trap\n\n{facts}\n\nFirst line.\n\n## What it does\n\nIt finds.\n\n## Proof\n\n"
    expected += "Real training steps, with the trap and without, from the same seed and data: "
    expected += "cpu (x86_64), torch 2.13.0. `gradtrap prove GTR301` measures it again.\n\n"
    expected += "| What is measured | Trapped | Fixed |\n|---|---:|---:|\n| norm | 1461 | 1.427 |\n"
    for argument in ("GTR301", "gtr301", "some-trap", "--all"):
        result = cli("rule", argument)
        assert (result.exit_code, result.stdout) == (0, expected)
    unknown = cli("rule", "GTR3O1")
    assert unknown.exit_code == 2
    assert unknown.stderr == "gradtrap: error: unknown rule 'GTR3O1'; did you mean 'GTR301'?\n"
    assert "did you mean 'some-trap'" in cli("rule", "some-tarp").stderr
    assert cli("rule").exit_code == 2
    assert cli("rule", "GTR301", "--all").exit_code == 2


def test_rule_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flake8_gradtrap.rule.all_rules", lambda: {"GTR301": SomeTrap})
    monkeypatch.setattr("flake8_gradtrap.cli.colour", lambda: True)
    output = cli("rule", "GTR301").stdout
    assert "What it does" in output
    assert "#" not in output


def on_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """The output of `gradtrap` that writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flake8_gradtrap", *arguments]
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    variables |= {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | environment
    with subprocess.Popen(command, stdout=theirs, cwd=folder, env=variables) as process:
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # Linux says so at the end
            while part := os.read(ours, 10_000):
                parts.append(part)
        os.close(ours)
    assert process.returncode == 1
    return b"".join(parts).decode()


def test_colours_on_a_terminal_only(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(:\n")
    assert "\x1b[" in on_terminal(tmp_path, "check", "a.py")
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        output = on_terminal(tmp_path, "check", "a.py", **variables)
        assert "\x1b" not in output
        assert "GTR000" in output


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").stdout == "gradtrap, version 0.1.0\n"
    assert "rule" in cli("--help").stdout
    assert "--unsafe-fixes" in cli("check", "--help").stdout


def test_importing_the_command_line_is_cheap() -> None:
    code = """\
import sys
import flake8_gradtrap.cli
print([name for name in ("torch", "rich", "libcst", "flake8", "numpy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == "[]\n"


def test_output_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    (tmp_path / "名.py").write_text("def f(:\n")
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flake8_gradtrap", "check", "--output-format=concise", "."]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.startswith("\\u540d.py:1:")


def test_discovery_asks_the_configuration_of_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("a/pyproject.toml", "[tool.gradtrap]\nexclude = ['x.py']\n")
    write("a/x.py", "")
    write("b/x.py", "")
    assert files.discover(["."], Configuration()) == ["b/x.py"]
