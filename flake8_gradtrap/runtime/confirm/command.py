"""What `gradtrap confirm` does with its arguments, and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.report import count
from flake8_gradtrap.runtime.confirm import output
from flake8_gradtrap.runtime.confirm.running import Outcome, Request, confirm, first_rank
from flake8_gradtrap.runtime.confirm.verdicts import CONFIRMED


def run(request: Request, configuration: Configuration, files: dict[str, Path | None], colour: bool) -> int:
    """Confirm, print, write; the exit code."""
    if first_rank():
        what = f"{output.shown(request.target.file)}, {limits(request)}"
        click.echo(f"gradtrap confirm runs your code: {what}", err=True)
    outcome = confirm(request, configuration)
    if not outcome.speaks:
        return 0  # the first rank of the node says it for all
    for name, made in (("--json", output.as_json), ("--sarif", output.as_sarif)):
        file = files.get(name)
        if file is not None:
            file.write_text(json.dumps(made(outcome), indent=2) + "\n", encoding="utf-8")
    show(outcome, colour)
    if any(verdict.verdict == CONFIRMED for verdict in outcome.verdicts):
        return 1
    return 2 if outcome.problem or outcome.evidence.failed else 0


def limits(request: Request) -> str:
    steps = f"at most {count(request.steps, 'optimizer step')}" if request.steps else "to its end"
    time = f", {request.timeout:g} s" if request.timeout else ""
    return steps + time


def show(outcome: Outcome, colour: bool) -> None:
    from rich.console import Console

    console = Console(no_color=not colour, highlight=False, width=None if sys.stdout.isatty() else 140)
    click.echo()
    if outcome.verdicts:
        console.print(output.table(outcome))
    else:
        click.echo(
            f"{output.where(outcome)}: nothing was found in {count(len(outcome.files), 'file')}, and nothing seen"
        )
    for note in (output.ended(outcome), outcome.problem, *outcome.evidence.notes):
        if note:
            click.echo(f"note: {note}", err=True)
    counts: dict[str, int] = {}
    for verdict in outcome.verdicts:
        counts[verdict.verdict] = counts.get(verdict.verdict, 0) + 1
    if counts:
        said = ", ".join(f"{number} {verdict.lower()}" for verdict, number in sorted(counts.items()))
        click.echo(f"\n{said} ({output.where(outcome)})")
