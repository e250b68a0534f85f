"""Run gradtrap over real repositories, and write its findings down for reading.

    python benchmarks/scan.py CORPUS_DIR... --out FOLDER [-j 2] [--sample N] [--select CODE]... [--settings JSON]

CORPUS_DIR is a folder of checkouts (or one). Each repository is read by a process of its own. FOLDER then holds
`findings.jsonl` (one finding a line, with its trace) and `report.txt`: each finding with twelve lines of source on
either side, and its trace, in an order that the seed shuffles, so that a reader who stops early has read a fair sample.
Printed: findings by code, files, CPU seconds, the slowest files, GTR000, and tracebacks (exit 1 where there was one).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import sys
import time
import tokenize
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

CONTEXT = 12
SKIPPED_FOLDERS = {".git", "site-packages", "node_modules", "__pycache__"}


@dataclass
class Repository:
    """What a run over one repository gave."""

    name: str
    findings: list[dict[str, Any]] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each file."""
    lines: int = 0
    started: float = 0.0
    """CPU seconds that the imports took, once a process."""


def repositories(folder: Path) -> list[Path]:
    """One checkout, by what lies in it (or beside it: NAME.meta); else each folder in it is one."""
    signs = (".git", "README*", "readme*", "LICENSE*", "setup.*", "*.py")
    if folder.with_name(f"{folder.name}.meta").exists() or any(any(folder.glob(sign)) for sign in signs):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in SKIPPED_FOLDERS)


def as_record(finding: Any, repository: str) -> dict[str, Any]:
    return {
        "repository": repository,
        "code": finding.code,
        "path": finding.filename,
        "row": finding.span.row,
        "column": finding.span.column,
        "end_row": finding.span.end_row,
        "message": finding.message,
        "fix": finding.fix.message if finding.fix else None,
        "trace": [
            {"path": step.filename, "row": step.span.row, "column": step.span.column, "message": step.message}
            for step in finding.trace
        ],
    }


def scan(task: tuple[Path, dict[str, Any]]) -> Repository:
    """Check every Python file of one repository, with the clock running for each."""
    folder, options = task
    result = Repository(folder.name)
    start = time.process_time()
    check = checker(options)
    result.started = time.process_time() - start
    for path in sorted(folder.rglob("*.py")):
        if SKIPPED_FOLDERS & set(path.relative_to(folder).parts) or not path.is_file():
            continue
        text = text_of(path)
        if text is None:
            continue
        result.lines += text.count("\n")
        start = time.process_time()
        try:
            result.findings += [as_record(finding, folder.name) for finding in check(text, str(path))]
        except Exception:
            result.tracebacks.append(f"{path}\n{traceback.format_exc()}")
        result.seconds[str(path)] = time.process_time() - start
    return result


def text_of(path: Path) -> str | None:
    """The text of a file; None where it cannot be decoded (the command line answers those with GTR000 itself)."""
    try:
        with tokenize.open(path) as handle:
            return handle.read()
    except (SyntaxError, UnicodeDecodeError):
        return None


def checker(options: dict[str, Any]) -> Any:
    """gradtrap as (text, path) -> findings, with its defaults or the codes that were asked for."""
    from flake8_gradtrap.config import Settings
    from flake8_gradtrap.engine import check_source

    settings = Settings(**options)

    def check(text: str, path: str) -> Any:
        return check_source(text, path, settings).findings

    return check


def excerpt(path: str, first: int, last: int, marks: dict[int, str]) -> str:
    """The lines around a finding: `>` where it stands, the number of its step where the trace passes."""
    lines = (text_of(Path(path)) or "").split("\n")
    rows = range(max(1, first - CONTEXT), min(len(lines), last + CONTEXT) + 1)
    return "\n".join(
        f"{'>' if first <= row <= last else ' '}{marks.get(row, ''):>3} {row:5} | {lines[row - 1]}" for row in rows
    )


def describe(number: int, record: dict[str, Any]) -> str:
    """One finding as a reader wants it: place, message, trace, source; steps far away get three lines of their own."""
    parts = [f"{'=' * 110}\n[{number}] {record['code']} {record['path']}:{record['row']}:{record['column']}"]
    parts.append(f"    {record['message']}")
    marks: dict[int, str] = {}
    far: list[str] = []
    for index, step in enumerate(record["trace"], 1):
        parts.append(f"    {index}. {step['path']}:{step['row']}  {step['message']}")
        near = record["row"] - CONTEXT <= step["row"] <= record["end_row"] + CONTEXT
        if step["path"] == record["path"] and near:
            marks[step["row"]] = f"{marks[step['row']]},{index}" if step["row"] in marks else str(index)
        else:
            lines = (text_of(Path(step["path"])) or "").split("\n")
            rows = range(max(1, step["row"] - 1), min(len(lines), step["row"] + 1) + 1)
            far.append(
                "\n".join(f" {index if row == step['row'] else '':>3} {row:5} : {lines[row - 1]}" for row in rows)
            )
    if record["fix"]:
        parts.append(f"    fix: {record['fix']}")
    return "\n".join([*parts, excerpt(record["path"], record["row"], record["end_row"], marks), *far, ""])


@click.command()
@click.argument("corpus", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for what is found."
)
@click.option("--select", multiple=True, help="Only findings of codes that start so (may be repeated).")
@click.option("--exclude", help="Leave out findings in paths that match this regular expression.")
@click.option("--sample", type=int, help="Put only so many findings into the report (all are in findings.jsonl).")
@click.option("--settings", "options", default="{}", help="Keyword arguments of Settings, as JSON.")
@click.option("--seed", default=0, show_default=True, help="The order of the report.")
@click.option("-j", "--jobs", default=2, show_default=True, help="Processes.")
def main(
    corpus: tuple[Path, ...],
    out: Path,
    select: tuple[str, ...],
    exclude: str | None,
    sample: int | None,
    options: str,
    seed: int,
    jobs: int,
) -> None:
    """Run gradtrap over the repositories in CORPUS, and write its findings to a folder for reading."""
    if out.resolve().is_relative_to(Path(__file__).resolve().parent.parent):
        raise click.UsageError(f"--out {out}: text of the corpus is never written into the checkout")
    os.makedirs(out, exist_ok=True)
    tasks = [(repo.resolve(), json.loads(options)) for folder in corpus for repo in repositories(folder)]
    with multiprocessing.Pool(jobs, maxtasksperchild=1) as pool:
        results = list(pool.imap(scan, tasks, chunksize=1))

    findings = [
        record
        for result in results
        for record in result.findings
        if (not select or record["code"].startswith(select)) and not (exclude and re.search(exclude, record["path"]))
    ]
    with (out / "findings.jsonl").open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(record) + "\n" for record in findings)
    order = random.Random(seed).sample(findings, len(findings))[:sample]
    described = [describe(number, record) for number, record in enumerate(order, 1)]
    (out / "report.txt").write_text("\n".join(described), encoding="utf-8")
    tracebacks = [text for result in results for text in result.tracebacks]
    (out / "tracebacks.txt").write_text("\n".join(tracebacks), encoding="utf-8")
    summary(results, findings)
    click.echo(f"wrote {len(findings)} findings to {out / 'findings.jsonl'}, {len(order)} to {out / 'report.txt'}")
    sys.exit(1 if tracebacks else 0)


def summary(results: list[Repository], findings: list[dict[str, Any]]) -> None:
    for result in results:
        codes = Counter(record["code"] for record in findings if record["repository"] == result.name)
        listed = "  ".join(f"{code} {count}" for code, count in sorted(codes.items()))
        cpu = sum(result.seconds.values())
        click.echo(f"{result.name:50} {len(result.seconds):5} files {result.lines:8} lines {cpu:7.1f} s  {listed}")
    click.echo()
    by_code = Counter(record["code"] for record in findings)
    for code, count in sorted(by_code.items()):
        repos = len({record["repository"] for record in findings if record["code"] == code})
        click.echo(f"{code} {count:5} in {repos} repositories")
    files = sum(len(result.seconds) for result in results)
    lines = sum(result.lines for result in results)
    cpu = sum(sum(result.seconds.values()) for result in results)
    click.echo(f"{len(findings)} findings, {files} files, {lines} lines, {cpu:.1f} CPU seconds in the checker")
    slowest = sorted(((s, path) for result in results for path, s in result.seconds.items()), reverse=True)[:5]
    for seconds, path in slowest:
        click.echo(f"  slow: {seconds:6.2f} s {path}")
    tracebacks = [text for result in results for text in result.tracebacks]
    click.echo(f"GTR000: {by_code['GTR000']}, tracebacks: {len(tracebacks)}")
    for text in tracebacks[:3]:
        click.echo(text)


if __name__ == "__main__":
    main()
