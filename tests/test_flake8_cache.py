"""flake8 and the cache: what is known is not analysed again, and nothing that is wrong with the cache is flake8's."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, Stub
from test_cache import FIXABLE, TRAP, everything, shelves, write
from test_flake8 import Flake8, flake8_main, places

from flake8_gradtrap import cache, store, versions
from flake8_gradtrap.batch import Task, check_file
from flake8_gradtrap.config import Settings

__all__ = ["flake8_main"]

Linted = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def linted(flake8_main: Flake8, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Linted:
    """Runs flake8 with a cache, in a project; gives the places of what it finds, and the files that were analysed.

    As when the process ends, what is new is written at the latest when flake8 is run again.
    """
    monkeypatch.delenv("GRADTRAP_NO_CACHE")
    monkeypatch.setattr(versions, "_SETTLED", 0)
    write("pyproject.toml", "")

    def run(*arguments: str, input: str | None = None) -> tuple[list[str], list[str]]:
        stub.checked.clear()
        found = places(flake8_main(*arguments, input=input))
        checked = [name.removeprefix("./") for name in stub.checked]
        flake8_main("--select=E", "pyproject.toml")
        return found, checked

    return run


AT_A = ["a.py:1:1: GTR301"]


def test_what_is_known_is_not_analysed_again(linted: Linted) -> None:
    write("a.py", TRAP)
    write("pkg/b.py", "x = 1\ng()  # trap GTR401\n")
    both = [*AT_A, "pkg/b.py:2:1: GTR401"]
    found, checked = linted(".", "-j1")
    assert (found, sorted(checked)) == (both, ["a.py", "pkg/b.py"])
    for arguments in ([], ["-j1"], ["a.py", "pkg"], ["--max-line-length=10"]):
        assert linted(*arguments) == (both, [])
    write("a.py", "\n" + TRAP)
    assert linted(".", "-j1") == (["a.py:2:1: GTR301", both[1]], ["a.py"])
    assert linted(".", "-j1") == (["a.py:2:1: GTR301", both[1]], [])


def test_the_command_line_and_flake8_share_it(
    linted: Linted, cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRADTRAP_NO_CACHE", raising=False)
    write("a.py", FIXABLE)
    cli("check", ".")
    assert linted(".") == (AT_A, [])
    write("a.py", "\n" + FIXABLE)
    assert linted(".") == (["a.py:2:1: GTR301"], ["a.py"])
    stub.checked.clear()
    told = json.loads(cli("check", ".", "--output-format=json").stdout)
    assert [finding["location"]["row"] for finding in told] == [2]
    assert stub.checked == []
    assert cli("check", ".", "--fix").exit_code == 0  # fixes are never taken from it
    assert Path("a.py").read_text() == "\nfixed()  # trap GTR301 fix\n"


@pytest.mark.parametrize("form", ["\ufeff{}", "{}\r\n", "# coding: latin-1\n# é\n{}", "# é\r{}", "{}\n\n\f\n"])
def test_files_that_flake8_hands_over_otherwise(linted: Linted, form: str) -> None:
    encoding = "latin-1" if "latin" in form else "utf-8"
    Path("a.py").write_bytes(form.format(TRAP.strip()).encode(encoding))
    found, checked = linted(".")
    assert (len(found), checked) == (1, ["a.py"])
    assert linted(".") == (found, [])
    Path("a.py").write_bytes(form.format(TRAP.strip() + " ").encode(encoding))
    assert linted(".") == (found, ["a.py"])


def test_what_is_not_saved_is_not_taken_from_the_disk(linted: Linted) -> None:
    write("a.py", TRAP)
    assert linted("a.py") == (AT_A, ["a.py"])
    piped = ["-", "--stdin-display-name=a.py"]
    assert linted(*piped, input="x = 1\n") == ([], ["a.py"])
    assert linted(*piped, input="x = 1\n") == ([], ["a.py"])  # nor is it kept
    assert linted(*piped, input=TRAP) == (AT_A, [])
    assert linted("a.py") == (AT_A, [])
    assert linted("-", input=TRAP) == (["stdin:1:1: GTR301"], ["stdin"])
    assert linted("-", input=TRAP) == (["stdin:1:1: GTR301"], ["stdin"])


def test_other_settings_have_answers_of_their_own(linted: Linted) -> None:
    write("a.py", TRAP + "g()  # trap GTR307\nh()  # trap GTR401  # noqa\n")
    runs = [
        (["--select=GTR"], [*AT_A]),
        (["--select=GTR4"], []),
        (["--preview"], [*AT_A, "a.py:2:1: GTR307"]),
        (["--disable-noqa"], [*AT_A, "a.py:3:1: GTR401"]),
        (["--loggers=x.log"], [*AT_A]),
        (["--target-torch=1.0"], [*AT_A]),
    ]
    for arguments, found in runs:
        assert linted("a.py", *arguments) == (found, ["a.py"])
    for arguments, found in runs:
        assert linted("a.py", *arguments) == (found, [])


def test_an_internal_error_is_not_kept(linted: Linted) -> None:
    write("a.py", "# crash\n")
    for _ in range(2):
        assert linted("a.py") == (["a.py:1:1: GTR000"], ["a.py"])


def test_switched_off(linted: Linted, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.py", TRAP)
    for _ in range(2):
        assert linted("a.py", "--gradtrap-no-cache") == (AT_A, ["a.py"])
    write(".flake8", "[flake8]\ngradtrap-no-cache = true\n")
    assert linted("a.py") == (AT_A, ["a.py"])
    Path(".flake8").unlink()
    monkeypatch.setenv("GRADTRAP_NO_CACHE", "1")
    assert linted("a.py") == (AT_A, ["a.py"])
    assert not Path(cache.FOLDER).exists()
    monkeypatch.setenv("GRADTRAP_NO_CACHE", "0")
    linted("a.py")
    assert shelves() != []


def test_another_folder(linted: Linted, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.py", TRAP)
    linted("a.py", "--gradtrap-cache-dir=mine")
    assert linted("a.py", "--gradtrap-cache-dir=mine") == (AT_A, [])
    monkeypatch.setenv("GRADTRAP_CACHE_DIR", "other")
    linted("a.py")
    assert len(shelves("mine")) == len(shelves("other")) == 1
    monkeypatch.delenv("GRADTRAP_CACHE_DIR")
    # A project has no say in where we write.
    write(".flake8", "[flake8]\ngradtrap-cache-dir = ../elsewhere\n")
    linted("a.py")
    assert not Path("../elsewhere").exists()


def test_workers_write_what_they_found(linted: Linted) -> None:
    """All of them at about the same time, into the same file."""
    files = [f"m{number}.py" for number in range(12)]
    for name in files:
        write(name, TRAP)
    found, _ = linted("-j4", ".")
    assert found == sorted(f"{name}:1:1: GTR301" for name in files)
    (shelf,) = shelves()
    assert sorted(json.loads(shelf.read_text())["files"]) == sorted(files)
    assert linted("-j1", ".") == (found, [])


@pytest.mark.parametrize("obstacle", ["file", "link", "pipe", "read-only", "full", "damaged", "no folder"])
def test_a_hostile_cache_is_nothing_to_flake8(
    linted: Linted, obstacle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("a.py", TRAP)
    folder = Path(cache.FOLDER)
    if obstacle == "file":
        folder.write_text("")
    elif obstacle == "link":
        Path("precious").mkdir()
        folder.symlink_to("precious")
    elif obstacle == "pipe":
        os.mkfifo(folder)
    elif obstacle == "damaged":
        linted("a.py")
        shelves()[0].write_bytes(b'{"folder": 1e999')
        assert linted("a.py") == (AT_A, ["a.py"])
        assert linted("a.py") == (AT_A, [])
        return
    elif obstacle == "no folder":

        def gone() -> str:
            raise FileNotFoundError

        monkeypatch.setattr("flake8_gradtrap.cache.default_folder", gone)
    else:

        def fails(*arguments: object, **keywords: object) -> None:
            raise OSError(30 if obstacle == "read-only" else 28, "no")

        monkeypatch.setattr(os, "mkdir" if obstacle == "read-only" else "replace", fails)
    before = everything(tmp_path)
    for _ in range(2):
        assert linted("a.py") == (AT_A, ["a.py"])
    assert everything(tmp_path) == before


# -- several that write ----------------------------------------------------------------------------------------------


@pytest.fixture
def keep(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs that each find something in a file of their own, and write it at the same time."""
    monkeypatch.chdir(tmp_path)
    write("pyproject.toml", "")
    settings = Settings()

    def run(*names: str) -> None:
        caches = []
        for name in names:
            write(name, TRAP)
            caches.append(cache.Cache(cache.FOLDER))
            task = Task(name, settings)
            caches[-1].put(task, check_file(task))
        threads = [threading.Thread(target=one.save) for one in caches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def kept() -> list[str]:
    return sorted(name for shelf in shelves() for name in json.loads(shelf.read_text())["files"])


def test_of_two_that_write_at_once_none_loses(keep: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    write_slowly = store.Store.write

    def write_late(self: store.Store, name: str, data: bytes) -> None:
        time.sleep(0.1)
        write_slowly(self, name, data)

    monkeypatch.setattr(store.Store, "write", write_late)
    keep("a.py", "b.py", "c.py")
    assert kept() == ["a.py", "b.py", "c.py"]


@pytest.mark.parametrize("obstacle", ["held", "link", "pipe", "folder", "no locks"])
def test_a_lock_that_is_not_to_be_had_stops_nobody(
    keep: Callable[..., None], obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    keep("a.py")
    lock = next(Path(cache.FOLDER).glob("*/.lock"))
    handle = -1
    if obstacle == "held":
        handle = os.open(lock, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
    elif obstacle == "no locks":
        monkeypatch.setattr(store, "fcntl", None)
    else:
        lock.unlink()
        if obstacle == "link":
            lock.symlink_to("../../precious")
        elif obstacle == "pipe":
            os.mkfifo(lock)
        else:
            lock.mkdir()
    started = time.monotonic()
    keep("b.py")
    assert time.monotonic() - started < 2
    assert kept() == ["a.py", "b.py"]
    assert not Path("precious").exists()
    if handle >= 0:
        os.close(handle)
