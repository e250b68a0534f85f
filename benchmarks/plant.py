"""Plant one trap in a copy of a real training file, and ask whether gradtrap finds it.

    python benchmarks/plant.py CORPUS_DIR... [--kind KIND]... [--limit N] [--seed N] [--json OUT] [--show-missed]
    python benchmarks/plant.py CORPUS_DIR... --dry-run --out FOLDER      only write the planted files and their diffs

CORPUS_DIR is a folder of checkouts of real repositories (or one checkout). Nothing of it is changed, nothing is copied
into this repository: a trap is planted in the text of one file in memory, and the checker reads that text under the
file's own path, so that what the file imports from its project still resolves.

Sites are found by syntax, with the standard library's `ast`, and by nothing of gradtrap, so that the measure does not
share the mistakes of what it measures. Planting is an edit of the text. Each kind below says why its edit is a real
trap where it is made; a site where that could not be told from the text is not used. At most three plants of a kind
per file.

A plant is *found* when a finding that the untouched file does not have carries an expected code, and stands in the
function of the edit (or of a use of what was edited, or at module level for module-level code), or at a call of that
function in the same file. *Masked* are plants where the untouched file has that finding at that place already: they
are not counted.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from planting.corpus import Plant, diff, judge, limited, python_files, survey, write_out
from planting.kinds import KINDS


def as_json(plant: Plant) -> dict[str, Any]:
    record = asdict(plant)
    record["line"], record["expected"] = plant.site.line, list(plant.site.codes)
    del record["site"]
    record["diff"] = diff(plant)
    return record


@click.command()
@click.argument("corpus", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Only this kind (may be repeated)."
)
@click.option("--limit", type=int, help="At most so many plants of each kind, spread over the repositories.")
@click.option("--seed", default=0, show_default=True, help="Chooses among many sites.")
@click.option(
    "--json", "json_out", type=click.Path(dir_okay=False, path_type=Path), help="Write every plant to this file."
)
@click.option("--show-missed", is_flag=True, help="Print place and diff of each miss.")
@click.option("--dry-run", is_flag=True, help="Only count the plants (and write them, with --out).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for planted files and diffs.")
@click.option("-j", "--jobs", default=2, show_default=True, help="Processes.")
def main(
    corpus: tuple[Path, ...],
    kinds: tuple[str, ...],
    limit: int | None,
    seed: int,
    json_out: Path | None,
    show_missed: bool,
    dry_run: bool,
    out: Path | None,
    jobs: int,
) -> None:
    """Plant one trap at a time in the real training code of CORPUS, and count how many gradtrap finds."""
    chosen = kinds or tuple(KINDS)
    tasks = [(repo, path.resolve(), chosen, seed) for folder in corpus for repo, path in python_files(folder)]
    with multiprocessing.Pool(jobs) as pool:
        surveyed = [plant for group in pool.imap(survey, tasks, chunksize=8) for plant in group]
        plants = limited(surveyed, limit, seed)
        if out is not None:
            write_out(plants, out)
        if not dry_run:
            by_path: dict[str, list[Plant]] = defaultdict(list)
            for plant in plants:
                by_path[plant.path].append(plant)
            plants = [plant for group in pool.imap_unordered(judge, by_path.items()) for plant in group]
            plants.sort(key=lambda plant: (plant.kind, plant.path, plant.site.line))
    report(chosen, surveyed, plants, dry_run, len(tasks))
    if json_out is not None:
        json_out.write_text(json.dumps([as_json(plant) for plant in plants], indent=1) + "\n", encoding="utf-8")
    if show_missed and not dry_run:
        for plant in plants:
            if not plant.found and not plant.masked:
                click.echo(
                    f"\n{'=' * 100}\nMISSED {plant.kind} {plant.where()}  expected {' or '.join(plant.site.codes)}"
                )
                click.echo(f"new findings: {', '.join(plant.new) or 'none'}\n{plant.error}{diff(plant)}")
    sys.exit(1 if any(plant.error for plant in plants) else 0)


def report(chosen: Iterable[str], surveyed: list[Plant], plants: list[Plant], dry_run: bool, files: int) -> None:
    click.echo(f"{files} files, {len({plant.path for plant in surveyed})} with a place for a trap")
    columns = ["chosen", "repos"] if dry_run else ["planted", "masked", "found", "missed", "errors", "rate"]
    click.echo(f"{'kind':22} {'eligible':>8} " + " ".join(f"{column:>8}" for column in columns))
    for name in chosen:
        eligible = sum(plant.kind == name for plant in surveyed)
        mine = [plant for plant in plants if plant.kind == name]
        if dry_run:
            click.echo(f"{name:22} {eligible:8} {len(mine):8} {len({plant.repo for plant in mine}):8}")
            continue
        masked = sum(plant.masked for plant in mine)
        found = sum(plant.found for plant in mine)
        errors = sum(bool(plant.error) for plant in mine)
        counted = len(mine) - masked
        rate = f"{100 * found / counted:.1f}%" if counted else "-"
        counts = f"{len(mine):8} {masked:8} {found:8} {counted - found:8} {errors:8} {rate:>8}"
        click.echo(f"{name:22} {eligible:8} {counts}")
    if not dry_run:
        click.echo(f"CPU seconds in the checker on planted files: {sum(plant.seconds for plant in plants):.1f}")


if __name__ == "__main__":
    main()
