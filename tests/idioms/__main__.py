"""Which ways to write a correct program raise a false alarm, and which hide a trap.

    python tests/idioms [FAMILY]... [--pairs] [--mixed N] [--seed N] [--run] [--show WAY]

First each way alone, then, with `--pairs`, two at a time; a pair is told only where neither of its ways does it alone.
`--mixed`: so many programs of ways chosen by chance. `--run`: run the programs in torch instead, which must not
raise. `--show`: print programs, `dimension=way,…` each, `plain` for the plain one, `+trap` behind it for a trap.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from idioms.families import FAMILIES
from idioms.grammar import Family, seen

SETTINGS = Settings()
Differs = dict[str, str]


def codes(text: str, settings: Settings = SETTINGS) -> list[tuple[str, int, str]]:
    """Code, row and message of what is found in a program."""
    result = check_source(seen(text), "/nowhere/train.py", settings)
    return [(found.code, found.span.row, found.message) for found in result.findings]


def told(differs: Differs) -> str:
    return ",".join(f"{name}={way}" for name, way in differs.items()) or "plain"


def within(small: Differs, large: Differs) -> bool:
    return small.items() <= large.items()


def shrunk(differs: Differs, still: Callable[[Differs], bool]) -> Differs:
    """As many dimensions as can be are plain, and it is still so."""
    for name in list(differs):
        smaller = {other: way for other, way in differs.items() if other != name}
        if still(smaller):
            differs = smaller
    return differs


def alarmed(family: Family, code: str, differs: Differs) -> bool:
    return code in {found for found, _, _ in codes(family.program(differs))}


def hidden(family: Family, trap: str, differs: Differs) -> bool:
    """Whether a trap is not found in a program of these ways."""
    plain, trapped = family.program(differs), family.program(differs, trap)
    return (
        plain != trapped and not codes(plain) and family.traps[trap][0] not in {code for code, _, _ in codes(trapped)}
    )


def judge(family: Family, programs: Iterable[Differs]) -> Iterator[str]:
    """The smallest programs with a false alarm, and the smallest in which a trap is missed."""
    false: dict[str, list[Differs]] = {}
    missed: dict[str, list[Differs]] = {}
    count: Counter[str] = Counter()
    for differs in map(family.differing, programs):
        count["correct"] += 1
        alarms = codes(family.program(differs))
        count["with a false alarm"] += bool(alarms)
        for code, _, message in alarms:
            if not any(within(known, differs) for known in false.setdefault(code, [])):
                small = shrunk(differs, partial(alarmed, family, code))
                false[code].append(small)
                yield f"  FALSE  {told(small)}: {code}: {message}"
        before = {code for code, _, _ in alarms}
        for trap, (code, _) in family.traps.items():
            if code in before or family.program(differs, trap) == family.program(differs):
                continue
            count["trapped"] += 1
            if code in {found for found, _, _ in codes(family.program(differs, trap))}:
                count["found"] += 1
            elif not any(within(known, differs) for known in missed.setdefault(trap, [])):
                small = shrunk(differs, partial(hidden, family, trap))
                missed[trap].append(small)
                yield f"  MISSED {told(small)} +{trap} ({code})"
    yield f"{family.name}: {dict(count)}"


def run(family: Family, programs: Iterable[Differs]) -> Iterator[str]:
    """Run each program in torch: what raises is no correct program."""
    for differs in programs:
        text, start = family.program(differs), time.process_time()
        here = Path.cwd()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(folder)
            try:
                exec(compile(text, "train.py", "exec"), {"__name__": "__main__"})
            except Exception as error:  # any mistake in a program is told
                yield f"  RAISES {told(differs)}: {type(error).__name__}: {error}"
            finally:
                os.chdir(here)
        if (spent := time.process_time() - start) > 5:
            yield f"  SLOW   {told(differs)}: {spent:.1f} s"


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[FAMILY]...")
@click.option("--pairs", is_flag=True)
@click.option("--mixed", default=0)
@click.option("--seed", default=0)
@click.option("--run", "runs", is_flag=True)
@click.option("--show", multiple=True)
def main(names: tuple[str, ...], pairs: bool, mixed: int, seed: int, runs: bool, show: tuple[str, ...]) -> None:
    for family in [family for family in FAMILIES if not names or family.name in names]:
        if show:
            for wanted in show:
                ways, _, trap = wanted.partition("+")
                differs = dict(part.split("=") for part in ways.split(",")) if ways != "plain" else {}
                text = family.program(differs, trap)
                print(text, *codes(text), sep="\n")
            continue
        programs: list[Differs] = [{}, *family.single()]
        if pairs:
            programs += family.pairs()
        chance = random.Random(seed)
        programs += [family.mixed(chance) for _ in range(mixed)]
        if runs:
            print(*run(family, programs), sep="\n")
            continue
        for line in judge(family, programs):
            print(line, flush=True)


main()
