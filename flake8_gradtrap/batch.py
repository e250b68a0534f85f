"""Many files: read, checked and fixed, on one core or on all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flake8_gradtrap.config import NOT_ANALYSED, Settings
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.result import Result, Statistics
from flake8_gradtrap.versions import Look, Stamp, digest, read, says

if TYPE_CHECKING:
    import ast

    from flake8_gradtrap.cache import Cache

ROUNDS = 10
"""How often a file is checked and fixed, before its fixes are said not to settle."""
MANY = 24
"""From this number of files on, all cores are used."""
LONG = 1000
"""From this number of files on, another process works even if it is the only one: it is replaced in time."""


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
    version: tuple[str, Stamp | None] | None = None
    """The digest of the content that was read from disk, and its stamp."""
    looks: tuple[Look, ...] = ()
    settled: bool = True
    """As in `Result`."""


def not_analysed(path: str, why: str) -> Finding:
    return Finding(NOT_ANALYSED, "not-analysed", f"not analysed: {why}", path, Span(1, 1, 1, 2), severity="error")


def unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings by file and place, one of each code at a place."""
    first: dict[tuple[str, int, int, int, str], Finding] = {}
    for finding in findings:
        first.setdefault(finding.sort_key(), finding)
    return tuple(first[key] for key in sorted(first))


def check_data(data: bytes | str, path: str, settings: Settings, tree: ast.Module | None = None) -> Result:
    """What the engine says of a file; a finding, not an exception, if it fails."""
    try:
        from flake8_gradtrap.engine import check_source

        result = check_source(data, path, settings, tree)
    except Exception as error:
        return Result(internal_error(error, path, settings), settled=False)
    return replace(result, findings=unique(result.findings))


def internal_error(error: BaseException, path: str, settings: Settings) -> tuple[Finding, ...]:
    why = f"internal error: {type(error).__name__}: {error}; please report it"
    if isinstance(error, MemoryError):
        why = "there is too little memory to analyse the file"
    return _wanted([not_analysed(path, why)], settings)


def check_text(task: Task, text: str, tree: ast.Module | None = None) -> Outcome:
    """What comes of a task whose file somebody else has read: its text, without a byte order mark and with plain ends
    of lines. The version is that on the disk, if it says the same.
    """
    from flake8_gradtrap.notebook import located

    result = check_data(text, task.path, task.settings, tree)
    findings = unique(located(result.findings, text.encode(errors="surrogatepass"), task.path))
    version = None
    with contextlib.suppress(OSError, ValueError):
        data, seen = read(task.path)
        version = (digest(data), seen) if says(data, text) else None
    return Outcome(task.path, findings, result.statistics, version=version, looks=result.looks, settled=result.settled)


def check_file(task: Task) -> Outcome:
    """Do one task. Whatever happens, it ends in an outcome."""
    try:
        return _done(task)
    except Exception as error:
        return Outcome(task.path, internal_error(error, task.path, task.settings), settled=False)


def _done(task: Task) -> Outcome:
    try:
        data, seen = read(task.path) if task.data is None else (task.data, None)
    except (OSError, ValueError) as error:
        why = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        return Outcome(task.path, _wanted([not_analysed(task.path, why)], task.settings), settled=False)
    outcome = _check(task, data)
    if task.fix:
        try:
            outcome = _fix(task, outcome)
        except Exception as error:
            outcome = replace(outcome, note=f"internal error: {type(error).__name__}: {error}; please report it")
    from flake8_gradtrap.notebook import located  # not needed for what the cache knows

    outcome = replace(outcome, findings=unique(located(outcome.findings, outcome.new, task.path)))
    if task.data is None and outcome.new == outcome.old:
        # Nobody needs the content, and it may have a long way to go.
        outcome = replace(outcome, old=b"", new=b"", version=(digest(data), seen))
    return outcome


def _wanted(findings: Iterable[Finding], settings: Settings) -> tuple[Finding, ...]:
    return unique(finding for finding in findings if settings.reports(finding))


def _check(task: Task, data: bytes) -> Outcome:
    result = check_data(data, task.path, task.settings)
    return Outcome(
        task.path, result.findings, result.statistics, data, data, looks=result.looks, settled=result.settled
    )


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
        text, before.findings, lambda new: check_data(new, task.path, task.settings).findings, unsafe=task.unsafe
    )
    new = before.old if fixed.text == text else write(fixed.text)
    return replace(before, findings=fixed.findings, new=new, fixed=fixed.count, note=fixed.note)


def _opened(data: bytes, path: str) -> tuple[str, Callable[[str], bytes]]:
    """The text of a file, and what makes a file of another one."""
    from flake8_gradtrap.notebook import Notebook
    from flake8_gradtrap.source import decode

    if is_notebook(path):
        notebook = Notebook(data)
        return notebook.cells.text, notebook.write
    text, encoding = decode(data)
    return text, lambda new: new.encode(encoding)


# -- many files -------------------------------------------------------------------------------------------------------


def run(
    tasks: Sequence[Task],
    jobs: int | None = None,
    cache: Cache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """The outcomes of the tasks, in their order. `jobs`: how many processes; 0: one a core; None: as many as pay.

    `progress` is told after each how many are done, and of how many.
    """
    outcomes: dict[int, Outcome] = {}
    if cache is not None:
        cache.look_again()
        outcomes = cache.known(tasks)
    left = [number for number in range(len(tasks)) if number not in outcomes]
    try:
        for number, outcome in _work(tasks, left, jobs):
            outcomes[number] = outcome
            if progress is not None:
                progress(len(outcomes), len(tasks))
            if cache is not None:
                cache.put(tasks[number], outcome)
    finally:
        if cache is not None:
            cache.save()
    return [outcomes[number] for number in range(len(tasks))]


def _work(tasks: Sequence[Task], left: Sequence[int], jobs: int | None) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of some tasks, by their numbers."""
    if not left:
        return
    if jobs is None or jobs == 0:
        from flake8_gradtrap.pool import cores

        jobs = cores() if jobs == 0 or len(tasks) >= MANY else 1
    # Of several files even the only one that is left goes to another process: it may be the one that killed its own.
    if (jobs == 1 or len(tasks) == 1) and len(left) < LONG:
        for number in left:
            yield number, check_file(tasks[number])
        return
    from flake8_gradtrap.pool import each

    for place, done in each(check_file, [tasks[number] for number in left], jobs, _prepare):
        task = tasks[left[place]]
        died = not_analysed(task.path, "the process that analysed this file died")
        yield left[place], done or Outcome(task.path, _wanted([died], task.settings), settled=False)


def _prepare() -> None:
    """Import what every process will need."""
    with contextlib.suppress(Exception):  # who cannot import it will say so for each file
        import flake8_gradtrap.engine
        import flake8_gradtrap.interp.machine  # noqa: F401
        from flake8_gradtrap.rule import all_rules

        all_rules()
