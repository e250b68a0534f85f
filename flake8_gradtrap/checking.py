"""What `gradtrap check` does: find the files, check or fix them, and show what came of it."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from flake8_gradtrap import batch, files, report
from flake8_gradtrap.batch import Outcome, Task
from flake8_gradtrap.cache import Cache
from flake8_gradtrap.config import ConfigError, Configuration
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.report import count
from flake8_gradtrap.terminal import Progress, colour, plain


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    paths: tuple[str, ...]
    configuration: Callable[[], Configuration]
    stdin_filename: str | None
    fix: bool
    unsafe_fixes: bool
    diff: bool
    add_noqa: bool
    baseline: Path | None
    update_baseline: bool
    output_format: str
    output_file: Path | None
    statistics: bool
    jobs: int | None
    cache: Cache | None


def run(options: Options) -> bool:
    """Do it once; whether there is something to tell. ConfigError where a setting is wrong."""
    started = time.perf_counter()
    tasks = _tasks(options)
    known = None
    if options.baseline is not None:
        from flake8_gradtrap.baseline import Baseline

        fresh = options.update_baseline and not options.baseline.exists()
        known = Baseline.empty(options.baseline) if fresh else Baseline.read(options.baseline)
    work = _fix if options.fix and not options.diff else _run
    outcomes = work(tasks, options.jobs, options.cache)
    piped = next((outcome for task, outcome in zip(tasks, outcomes, strict=True) if task.data is not None), None)
    for outcome in outcomes:
        if outcome.note:
            click.echo(f"{outcome.path}: not fixed: {outcome.note}", err=True)
    if options.diff:
        _show_diff(outcomes)
        return any(outcome.fixed for outcome in outcomes)
    findings: Sequence[Finding] = batch.unique(finding for outcome in outcomes for finding in outcome.findings)
    given: Mapping[str, bytes] = {} if piped is None else {piped.path: piped.new}
    sources = report.Sources(given)
    if options.add_noqa:
        return _add_noqa(findings)
    checked = [outcome.path for outcome in outcomes]
    if known is not None and options.update_baseline:
        number = known.update(findings, checked, sources)
        what = f"{count(number, 'trap')} in {count(len(checked), 'checked file')}"
        click.echo(f"{options.baseline} knows {what}.", err=True)
    if known is not None:
        findings, gone = known.new(findings, checked, sources)
        if gone:
            what = f"{count(gone, 'trap')} of the baseline no longer found: --update-baseline takes them out."
            click.echo(what, err=True)
    echoes = options.fix and piped is not None
    if echoes and piped is not None:
        sys.stdout.buffer.write(piped.new)
        sys.stdout.buffer.flush()
    _show(findings, sources, options.output_format, options.unsafe_fixes, echoes, options.output_file)
    if options.statistics:
        seconds = time.perf_counter() - started
        _show_statistics(outcomes, seconds, err=options.output_format not in report.FOR_PEOPLE or echoes)
    return bool(findings)


def follow(options: Options) -> None:
    """Do it again whenever something changes, until the user ends it."""
    from flake8_gradtrap.following import changes

    try:
        for _ in changes(options.paths):
            if sys.stdout.isatty():
                click.clear()
            try:
                run(options)
            except ConfigError as error:
                click.echo(f"gradtrap: error: {error}", err=True)
            click.echo("Waiting for changes; Ctrl-C ends it.", err=True)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None


def _tasks(options: Options) -> list[Task]:
    configuration = options.configuration()
    tasks = []
    for path in files.discover(options.paths, configuration):
        name, data = path, None
        if path == files.STDIN:
            name, data = options.stdin_filename or files.STDIN, sys.stdin.buffer.read()
        fix = options.fix or options.diff
        tasks.append(batch.Task(name, configuration.for_file(name), data, fix, options.unsafe_fixes))
    return tasks


def _run(tasks: Sequence[Task], jobs: int | None, cache: Cache | None) -> list[Outcome]:
    with Progress("files") as progress:
        return batch.run(tasks, jobs, cache, progress)


def _add_noqa(findings: Sequence[Finding]) -> bool:
    """Hide what was found; whether something is left."""
    from flake8_gradtrap.silencing import silence

    lines, changed, left = 0, 0, 0
    for path in dict.fromkeys(finding.filename for finding in findings):
        try:
            done = silence(path, [finding for finding in findings if finding.filename == path])
        except files.NotWritten as error:
            click.echo(f"{path}: not written: {error}", err=True)
            left += 1
            continue
        lines, changed, left = lines + done.lines, changed + bool(done.lines), left + len(done.left)
        for finding, why in done.left:
            where = ":".join(report.place(finding.filename, finding.span, finding.cell))
            click.echo(f"{where}: {finding.code} not hidden: {why}", err=True)
    click.echo(f"Added {count(lines, 'comment')} in {count(changed, 'file')}.", err=True)
    return left > 0


def _fix(tasks: Sequence[Task], jobs: int | None, cache: Cache | None) -> list[Outcome]:
    """Fix and write the files until none changes: what is fixed in one file can matter to another."""
    todo = list(tasks)
    fixed: Counter[str] = Counter()
    notes: dict[str, str] = {}
    for _ in range(batch.ROUNDS):
        outcomes = _run(todo, jobs, cache)
        written = 0
        for number, outcome in enumerate(outcomes):
            if outcome.new == outcome.old:
                continue
            if todo[number].data is not None:
                todo[number] = replace(todo[number], data=outcome.new)
            else:
                try:
                    files.replace_file(outcome.path, outcome.old, outcome.new)
                except files.NotWritten as error:
                    notes[outcome.path] = str(error)
                    todo[number] = replace(todo[number], fix=False)
                    outcomes[number] = batch.check_file(todo[number])
                    continue
            fixed[outcome.path] += outcome.fixed
            written += 1
        if written == 0 or len(todo) == 1:
            break
    if fixed:
        what = f"Fixed {count(fixed.total(), 'trap')} in {count(len(fixed), 'file')}."
        click.echo(what, err=True)
    return [replace(outcome, note=notes.get(outcome.path, outcome.note)) for outcome in outcomes]


# -- output -----------------------------------------------------------------------------------------------------------


def _show(
    findings: Sequence[Finding], sources: report.Sources, format: str, unsafe: bool, err: bool, file: Path | None
) -> None:
    coloured = colour(err) and file is None
    text = report.render(format, findings, sources, report.Style(coloured), unsafe)
    if file is not None:
        try:
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"--output-file: {file}: {error.strerror}") from None
        return
    click.echo(plain(text, err), nl=False, err=err, color=coloured)


def _show_diff(outcomes: Sequence[Outcome]) -> None:
    import difflib

    changed = [outcome for outcome in outcomes if outcome.new != outcome.old]
    for outcome in changed:
        for name, before, after in _pairs(outcome):
            for line in difflib.unified_diff(before, after, name, name):
                click.echo(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n", nl=False)
    fixed = sum(outcome.fixed for outcome in changed)
    left = sum(len(outcome.findings) for outcome in outcomes)
    what = f"Would fix {count(fixed, 'trap')} in {count(len(changed), 'file')}; {left} would be left."
    click.echo(what, err=True)


def _pairs(outcome: Outcome) -> Iterator[tuple[str, list[str], list[str]]]:
    """The names and the lines of a file, or of each cell of a notebook, before and after its fixes."""
    from flake8_gradtrap.notebook import Notebook
    from flake8_gradtrap.source import decode

    if is_notebook(outcome.path):
        new = {cell.number: cell.source for cell in Notebook(outcome.new).cells}
        for cell in Notebook(outcome.old).cells:
            if new[cell.number] != cell.source:
                before, after = (
                    [*text.splitlines(keepends=True)[:-1], f"{text.splitlines()[-1]}\n"]
                    for text in (cell.source, new[cell.number])
                )
                yield f"{outcome.path}:cell {cell.number}", before, after
        return
    before, after = (list(io.StringIO(decode(data)[0], newline="")) for data in (outcome.old, outcome.new))
    yield outcome.path, before, after


SLOWEST = 10
"""So many of the slowest files are shown by --statistics."""
SLOW = 0.01
"""Of what takes fewer seconds nobody needs to know."""


def _show_statistics(outcomes: Sequence[Outcome], seconds: float, err: bool) -> None:
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    names = {finding.code: finding.name for finding in findings}
    for code, number in sorted(Counter(finding.code for finding in findings).items()):
        click.echo(f"{number:6}  {code}  {names[code]}", err=err)
    gathered = [(outcome.path, outcome.statistics) for outcome in outcomes if outcome.statistics is not None]
    slowest = sorted(gathered, key=lambda pair: -pair[1].seconds)[:SLOWEST]
    if slowest and slowest[0][1].seconds >= SLOW:
        click.echo("Slowest files (CPU seconds):", err=err)
    for path, one in slowest:
        if one.seconds >= SLOW:
            click.echo(f"{one.seconds:6.2f}  {report.printable(path)}", err=err)
    over = [(path, name) for path, one in gathered for name in one.over_budget]
    if over:
        click.echo("Given up over budget, and so not judged:", err=err)
    for path, name in over:
        click.echo(f"        {report.printable(path)}: {report.printable(name)}", err=err)
    parts = (
        count(len(outcomes), "file"),
        f"{count(sum(one.functions_run for _, one in gathered), 'function')} run",
        f"{sum(one.functions_over_budget for _, one in gathered)} given up over budget",
        f"{seconds:.2f} s",
    )
    click.echo(", ".join(parts), err=err)
