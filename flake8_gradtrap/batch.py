"""Many files: read, checked and fixed, on one core or on all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from flake8_gradtrap.config import NOT_ANALYSED, Settings
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.notebook import Notebook, is_notebook, located
from flake8_gradtrap.source import decode

if TYPE_CHECKING:
    import ast

    from flake8_gradtrap.engine import Statistics

ROUNDS = 10
"""How often a file is checked and fixed, before its fixes are said not to settle."""
MANY = 24
"""From this number of files on, all cores are used."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Task:
    """A file to check. `data`: its content where it is not read from disk. `fix`: which fixes to apply."""

    path: str
    settings: Settings
    data: bytes | None = None
    fix: bool = False
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task. `findings` are those of `new`, which is `old` after `fixed` fixes."""

    path: str
    findings: tuple[Finding, ...]
    statistics: Statistics | None = None
    old: bytes = b""
    new: bytes = b""
    fixed: int = 0
    note: str = ""


def not_analysed(path: str, why: str) -> Finding:
    return Finding(NOT_ANALYSED, "not-analysed", f"not analysed: {why}", path, Span(1, 1, 1, 2), severity="error")


def unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings by file and place, one of each code at a place."""
    first: dict[tuple[str, int, int, int, str], Finding] = {}
    for finding in findings:
        first.setdefault(finding.sort_key(), finding)
    return tuple(first[key] for key in sorted(first))


def check_data(
    data: bytes | str, path: str, settings: Settings, tree: ast.Module | None = None
) -> tuple[tuple[Finding, ...], Statistics | None]:
    """What the engine says of a file; a finding, not an exception, if it fails."""
    try:
        from flake8_gradtrap.engine import check_source

        result = check_source(data, path, settings, tree)
    except Exception as error:
        return internal_error(error, path, settings), None
    return unique(result.findings), result.statistics


def internal_error(error: BaseException, path: str, settings: Settings) -> tuple[Finding, ...]:
    why = f"internal error: {type(error).__name__}: {error}; please report it"
    return _wanted([not_analysed(path, why)], settings)


def check_file(task: Task) -> Outcome:
    """Do one task. Whatever happens, it ends in an outcome."""
    try:
        data = task.data
        if data is None:
            with open(task.path, "rb") as stream:
                data = stream.read()
    except (OSError, ValueError) as error:
        why = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        return Outcome(task.path, _wanted([not_analysed(task.path, why)], task.settings))
    outcome = _check(task, data)
    if task.fix:
        try:
            outcome = _fix(task, outcome)
        except Exception as error:
            outcome = replace(outcome, note=f"internal error: {type(error).__name__}: {error}; please report it")
    outcome = replace(outcome, findings=unique(located(outcome.findings, outcome.new, task.path)))
    if task.data is None and outcome.new == outcome.old:
        outcome = replace(outcome, old=b"", new=b"")  # nobody needs it, and it may have a long way to go
    return outcome


def _wanted(findings: Iterable[Finding], settings: Settings) -> tuple[Finding, ...]:
    return unique(finding for finding in findings if settings.reports(finding))


def _check(task: Task, data: bytes) -> Outcome:
    findings, statistics = check_data(data, task.path, task.settings)
    return Outcome(task.path, findings, statistics, data, data)


# -- fixing -----------------------------------------------------------------------------------------------------------


def applicable(finding: Finding, unsafe: bool) -> bool:
    return finding.fix is not None and (finding.fix.safe or unsafe)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A text after `count` fixes, and what is still found in it."""

    text: str
    findings: tuple[Finding, ...]
    count: int
    note: str


def fix_text(
    text: str,
    findings: tuple[Finding, ...],
    check: Callable[[str], tuple[Finding, ...]],
    unsafe: bool = False,
) -> Fixed:
    """Fix and check in turn until nothing changes, so that a second run has nothing left to do.

    `findings`: what is found in the text; `check`: what is found in another one. Rules whose fixes undo each other, or
    go on for ever, are left out, and the rest is done again without them.
    """
    from flake8_gradtrap.fixes import apply_fixes

    restless: set[str] = set()
    while True:
        current, left, count, seen = text, findings, 0, {text}
        while True:
            fixable = [finding for finding in left if applicable(finding, unsafe)]
            fixes = [finding.fix for finding in fixable if finding.fix and finding.code not in restless]
            new, applied = apply_fixes(current, fixes)
            if new == current:
                note = f"the fixes of {', '.join(sorted(restless))} do not settle" if restless else ""
                return Fixed(current, left, count, note)
            if new in seen or len(seen) > ROUNDS:
                restless |= {finding.code for finding in fixable}
                break
            seen.add(new)
            count += applied
            current, left = new, check(new)


def _fix(task: Task, before: Outcome) -> Outcome:
    if not any(applicable(finding, task.unsafe) for finding in before.findings):
        return before
    text, write = _opened(before.old, task.path)
    fixed = fix_text(
        text, before.findings, lambda new: check_data(new, task.path, task.settings)[0], unsafe=task.unsafe
    )
    new = before.old if fixed.text == text else write(fixed.text)
    return replace(before, findings=fixed.findings, new=new, fixed=fixed.count, note=fixed.note)


def _opened(data: bytes, path: str) -> tuple[str, Callable[[str], bytes]]:
    """The text of a file, and what makes a file of another one."""
    if is_notebook(path):
        notebook = Notebook(data)
        return notebook.cells.text, notebook.write
    text, encoding = decode(data)
    return text, lambda new: new.encode(encoding)


# -- many cores -------------------------------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(tasks: Sequence[Task], jobs: int | None = None) -> list[Outcome]:
    """The outcomes of the tasks, in their order. `jobs`: how many processes; 0: one a core; None: as many as pay."""
    if jobs is None:
        jobs = cores() if len(tasks) >= MANY else 1
    jobs = min(jobs or cores(), len(tasks))
    if jobs <= 1:
        return [check_file(task) for task in tasks]
    outcomes = dict(_in_processes(check_file, tasks, jobs))
    # What a dying process took with it is done again, each in a process of its own.
    for lost in [number for number in range(len(tasks)) if number not in outcomes]:
        done = dict(_in_processes(check_file, [tasks[lost]], 1))
        why = "the process that analysed this file died"
        path = tasks[lost].path
        outcomes[lost] = done.get(0) or Outcome(path, _wanted([not_analysed(path, why)], tasks[lost].settings))
    return [outcomes[number] for number in range(len(tasks))]


def _in_processes(function: Callable[[A], B], items: Sequence[A], jobs: int) -> Iterator[tuple[int, B]]:
    """The results by number, as far as the processes live."""
    from concurrent.futures import Future, ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    numbers: dict[Future[B], int] = {}
    with ProcessPoolExecutor(jobs) as pool:
        with contextlib.suppress(BrokenProcessPool):
            for number, item in enumerate(items):
                numbers[pool.submit(function, item)] = number
        for future in as_completed(numbers):
            with contextlib.suppress(BrokenProcessPool):
                yield numbers[future], future.result()
