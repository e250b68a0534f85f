"""The parent's side of a confirmation: lint, run the child, gather the evidence of all ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flake8_gradtrap
from flake8_gradtrap.config import Configuration
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.runtime.confirm import targets
from flake8_gradtrap.runtime.confirm.evidence import Evidence, merge
from flake8_gradtrap.runtime.confirm.places import statement_of
from flake8_gradtrap.runtime.confirm.rewriting import Wanted
from flake8_gradtrap.runtime.confirm.targets import Target
from flake8_gradtrap.runtime.confirm.verdicts import Judge, Verdict

GRACE = 15.0
"""Seconds that a program gets to end after its time is up."""

_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); from flake8_gradtrap.runtime.confirm.child import main; main({file!r})"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run. `workdir`: "" (here), "temporary", or a folder."""

    target: Target
    arguments: tuple[str, ...] = ()
    steps: int = 50
    timeout: float = 600.0
    workdir: str = ""


@dataclass(slots=True)
class Outcome:
    """What came of it; `verdicts` is empty on all ranks of a node but its first."""

    verdicts: list[Verdict] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    files: list[str] = field(default_factory=list)
    ranks: int = 1
    speaks: bool = True
    problem: str = ""


def confirm(request: Request, configuration: Configuration) -> Outcome:
    """Lint and run a program, and say what the run says of the findings."""
    files = targets.project_files(request.target.file)
    findings, rules = targets.lint(files, configuration)
    rank, local, world = (int(os.environ.get(name, default)) for name, default in _RANK)
    with _shared(world) as folder:
        evidence = folder / f"rank{local}.json"
        problem = _run(request, files, findings, rules, rank, folder, evidence)
        outcome = Outcome(files=files, ranks=world, problem=problem)
        if local != 0:
            outcome.speaks = False
            with contextlib.suppress(OSError):  # the first rank has not waited
                (folder / f"rank{local}.done").touch()
            return outcome
        gathered = _gather(folder, world)
    if not gathered:
        outcome.problem = outcome.problem or "the run left no evidence"
        gathered = [Evidence(failed=True, stopped=outcome.problem)]
    elif len(gathered) < world:
        outcome.problem = f"evidence of {len(gathered)} of {world} ranks"
    outcome.evidence = merge(gathered)
    outcome.verdicts = list(Judge(outcome.evidence).judge(findings))
    return outcome


def first_rank() -> bool:
    """Whether this is the rank that speaks for its node."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


_RANK = (("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))


@contextlib.contextmanager
def _shared(world: int) -> Iterator[Path]:
    """A folder for the evidence: that of all ranks of a node, if there are several."""
    if world == 1:
        with tempfile.TemporaryDirectory(prefix="gradtrap-") as name:
            yield Path(name)
        return
    run = "".join(sign for sign in os.environ.get("TORCHELASTIC_RUN_ID", "") if sign.isalnum())[:40]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"gradtrap-{os.getuid()}-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}-{run}-{attempt}"
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to somebody else")
    try:
        yield folder
    finally:
        if first_rank():
            shutil.rmtree(folder, ignore_errors=True)


def _run(
    request: Request,
    files: Sequence[str],
    findings: Sequence[Finding],
    rules: frozenset[str],
    rank: int,
    folder: Path,
    evidence: Path,
) -> str:
    """Run the child to its end, or to the end of its time; what went wrong, if anything did."""
    root = str(Path(flake8_gradtrap.__file__).parent.parent)
    with contextlib.ExitStack() as stack:
        place = os.getcwd()
        if request.workdir == "temporary":
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="gradtrap-run-"))
        elif request.workdir:
            place = request.workdir
        asked = {
            "file": request.target.file,
            "module": request.target.module,
            "arguments": list(request.arguments),
            "folder": os.getcwd(),
            "steps": request.steps,
            "rules": sorted(rules),
            "files": {file: as_data(rows_of(file, findings)) for file in files},
            "findings": sorted({(one.code, *statement_of(one.filename, one.span.row)) for one in findings}),
            "evidence": str(evidence),
            "started": str(folder / f"started{os.environ.get('LOCAL_RANK', '0')}"),
            "rank": rank,
            "root": root,
        }
        configuration = folder / f"asked{os.environ.get('LOCAL_RANK', '0')}.json"
        configuration.write_text(json.dumps(asked), encoding="utf-8")
        boot = _BOOT.format(root=root, file=str(configuration))
        surroundings = {**os.environ, "TORCH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"}
        child = subprocess.Popen([sys.executable, "-c", boot], cwd=place, env=surroundings)
        return _wait(child, request.timeout, folder / f"started{os.environ.get('LOCAL_RANK', '0')}", evidence)


def _begin(child: subprocess.Popen[bytes], started: Path) -> None:
    """Wait until the program begins: what it takes to import torch is none of its time."""
    while child.poll() is None and not started.exists():
        time.sleep(0.02)


def _wait(child: subprocess.Popen[bytes], timeout: float, started: Path, evidence: Path) -> str:
    def pass_on(number: int, frame: Any) -> None:
        child.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        try:
            _begin(child, started)
            child.wait(timeout or None)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
        except KeyboardInterrupt:  # the child got it, too
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
    finally:
        signal.signal(signal.SIGTERM, before)
        if child.poll() is None:
            child.kill()
            child.wait()
    if evidence.exists():
        return ""
    if child.returncode < 0:
        return f"the program was ended by signal {-child.returncode} before it could say what it saw"
    return f"the program ended at once, with exit code {child.returncode}, before it could say what it saw"


def rows_of(file: str, findings: Sequence[Finding]) -> Wanted:
    """The rows of a file that findings name."""
    reported: dict[int, set[str]] = {}
    traced: dict[int, set[str]] = {}
    for finding in findings:
        if finding.filename == file:
            reported.setdefault(finding.span.row, set()).add(finding.code)
        for step in finding.trace:
            if step.filename == file:
                traced.setdefault(step.span.row, set()).add(finding.code)
    return Wanted(
        {row: frozenset(codes) for row, codes in reported.items()},
        {row: frozenset(codes) for row, codes in traced.items()},
    )


def as_data(wanted: Wanted) -> dict[str, dict[int, list[str]]]:
    return {
        "reported": {row: sorted(codes) for row, codes in wanted.reported.items()},
        "traced": {row: sorted(codes) for row, codes in wanted.traced.items()},
    }


def _gather(folder: Path, world: int) -> list[Evidence]:
    """The evidence of all ranks; those that are late are waited for."""
    deadline = time.monotonic() + (2 * GRACE if world > 1 else 0)
    while True:
        there = [folder / f"rank{number}.json" for number in range(world)]
        there = [path for path in there if path.exists()]
        done = sum((folder / f"rank{number}.done").exists() for number in range(1, world)) + 1
        if done == world or time.monotonic() > deadline:
            return [Evidence.of_json(json.loads(path.read_text(encoding="utf-8"))) for path in there]
        time.sleep(0.05)
