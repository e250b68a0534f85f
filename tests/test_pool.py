"""Many processes: nothing is lost, nothing is done out of order, and what dies or grows takes nothing with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, Cli, Stub

from flake8_gradtrap import batch, pool
from flake8_gradtrap.batch import Task
from flake8_gradtrap.config import Settings

LOG = "GRADTRAP_TEST_LOG"


def work(item: int) -> tuple[int, int]:
    """Ends its process over 13, and by a signal over 17, as the system does where memory runs out."""
    with open(os.environ[LOG], "a") as stream:
        stream.write(f"{item}\n")
    if item == 13:
        os._exit(3)
    if item == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)])
def test_only_what_kills_its_process_is_lost(log: Path, jobs: int) -> None:
    results = dict(pool.each(work, range(100), jobs))
    assert sorted(results) == list(range(100))
    assert [number for number, result in results.items() if result is None] == sorted({13, 17})
    assert all(result is None or result[0] == number for number, result in results.items())
    tries = Counter(map(int, log.read_text().split()))
    assert max(tries.values()) == 2
    assert sum(tries.values()) <= 100 + 2 * (pool._AHEAD * jobs + 1)


def test_a_process_that_has_grown_is_replaced(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [number for number in range(40) if number not in (13, 17)]
    monkeypatch.setattr(pool, "LARGE", 1 << 40)  # a worker is as large as the process of the tests, from the start
    assert len({result[1] for _, result in pool.each(work, items, 1) if result}) == 1
    monkeypatch.setattr(pool, "LARGE", 0)
    assert len({result[1] for _, result in pool.each(work, items, 1) if result}) == 1
    monkeypatch.setattr(pool, "_ROOM", -1)
    results = dict(pool.each(work, items, 1))
    assert sorted(result[0] for result in results.values() if result) == items
    assert len({result[1] for result in results.values() if result}) > 1


def test_a_result_that_cannot_be_sent_costs_its_item() -> None:
    results = dict(pool.each(hide, range(8), 2))
    assert results == {number: None if number == 5 else number for number in range(8)}


def hide(item: int) -> object:
    return (lambda: item) if item == 5 else item


@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_no_process_can_be_started_the_work_is_done_in_this_one(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None at all, one of two, or both, which then die, and there is no other."""
    fork, started = os.fork, [0]

    def limited() -> int:
        started[0] += 1
        if started[0] > left:
            raise BlockingIOError("Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", limited)
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: CONTEXT)
    before = multiprocessing.active_children()
    results = dict(pool.each(die_elsewhere if left == 2 else os.path.basename, [f"a/{n}" for n in range(20)], 2))
    lost = [number for number, result in results.items() if result is None]
    assert len(lost) in (range(1, 9) if left == 2 else [0])
    assert all(results[number] == str(number) for number in range(20) if number not in lost)
    assert multiprocessing.active_children() == before


CONTEXT = multiprocessing.get_context("fork")
HERE = os.getpid()


def die_elsewhere(path: str) -> str:
    if os.getpid() != HERE:
        os._exit(3)
    return os.path.basename(path)


def test_where_there_are_no_semaphores_the_work_is_done_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise NotImplementedError("This platform lacks a functioning sem_open implementation")

    monkeypatch.setattr(pool, "ProcessPoolExecutor", none)
    assert dict(pool.each(abs, [-1, -2], 2)) == {0: 1, 1: 2}


def test_an_interrupt_that_comes_while_processes_start_shows_no_traceback() -> None:
    program = (
        "import os, signal\n"
        "from flake8_gradtrap import pool\n"
        "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "print(sorted(pool.each(abs, range(20), 2)) == [(n, n) for n in range(20)])\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_size() -> None:
    before = pool.size()
    ballast = bytearray(os.urandom(1)) * (80 << 20)
    assert pool.size() - before > 60 << 20
    assert len(ballast)


def test_one_job_and_many_files_use_another_process(cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        Path(f"{name}.py").write_text("f()  # trap GTR301\n")
    monkeypatch.setattr(batch, "LONG", 3)
    assert len(json.loads(cli("check", ".", "-j1", "--output-format=json").stdout)) == 3
    assert stub.checked == []  # not in this one
    monkeypatch.setattr(batch, "LONG", 4)
    assert len(json.loads(cli("check", ".", "-j1", "--output-format=json").stdout)) == 3
    assert stub.checked == ["a.py", "b.py", "c.py"]


@pytest.mark.parametrize("where", ["engine._analyse", "interp.machine.Machine.run", "batch._check"])
def test_where_memory_runs_out_the_file_is_told(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def analyse(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"flake8_gradtrap.{where}", analyse)
    path = tmp_path / "a.py"
    path.write_text("import torch\nloss.backward()\n")
    result = batch.check_file(Task(str(path), Settings()))
    assert [finding.message for finding in result.findings] == [
        "not analysed: there is too little memory to analyse the file"
    ]
    assert not result.settled


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = (
        "import os, time\n"
        "from flake8_gradtrap import pool\n"
        "def work(item):\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    time.sleep(0.2)\n"
        "for _ in pool.each(work, range(10_000), 2): pass\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        workers = {int(process.stdout.readline()) for _ in range(6)}
        process.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(pool.cores() < 2, reason="needs two cores")
def test_two_processes_are_worth_1_7(tmp_path: Path) -> None:
    source = Path(__file__).with_name("..") / "fixtures"
    programs = [path.read_bytes() for path in sorted(source.resolve().glob("GTR*/*.py"))]
    tasks = []
    for number, program in enumerate(programs):
        path = tmp_path / f"m{number}.py"
        path.write_bytes(program)
        tasks.append(Task(str(path), Settings()))
    batch._prepare()
    seconds = {1: [0.0] * 0, 2: [0.0] * 0}
    for _ in range(3):
        for jobs, taken in seconds.items():
            start = time.perf_counter()
            batch.run(tasks, jobs)
            taken.append(time.perf_counter() - start)
    assert min(seconds[1]) / min(seconds[2]) >= 1.7, seconds
