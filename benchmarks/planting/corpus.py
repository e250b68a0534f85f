"""The corpus: files, plants, and whether each is found."""

from __future__ import annotations

import ast
import difflib
import random
import re
import time
import tokenize
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import click

from planting.kinds import KINDS
from planting.source import FUNCTIONS, MAX_LINES, MAX_PLANTS, SKIPPED_FOLDERS, Site, Source, last_name


@dataclass
class Plant:
    """One trap in one file, and what became of it."""

    kind: str
    repo: str
    path: str
    site: Site
    found: bool = False
    masked: bool = False
    error: str = ""
    new: list[str] = field(default_factory=list)
    """The new findings, as `CODE:row`."""
    seconds: float = 0.0

    def where(self) -> str:
        return f"{self.path}:{self.site.line}"


def is_repository(folder: Path) -> bool:
    """True for one checkout, by what lies in it (or beside it: NAME.meta); else its folders are checkouts."""
    signs = (".git", "README*", "readme*", "LICENSE*", "setup.*", "*.py")
    return folder.with_name(f"{folder.name}.meta").exists() or any(any(folder.glob(sign)) for sign in signs)


def python_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(repository, file) of every Python file that is not a test."""
    single = is_repository(folder)
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder)
        if SKIPPED_FOLDERS & set(inner.parts) or re.match(r"(test_.*|.*_test|conftest)\.py$", path.name):
            continue
        if path.is_file():
            yield (folder.name if single else inner.parts[0]), path


def read(path: Path) -> Source | None:
    """A file that can be planted in, or None."""
    try:
        with tokenize.open(path) as handle:
            text = handle.read()
        if "torch" not in text or text.count("\n") > MAX_LINES:
            return None
        source = Source(text, path)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    return source if source.uses_torch else None


def sites(source: Source, kinds: Iterable[str], seed: int) -> dict[str, list[Site]]:
    """The sites of each kind whose planted text still parses; of many, three that the seed chooses."""
    found: dict[str, list[Site]] = {}
    for name in kinds:
        good = []
        for site in KINDS[name](source):
            function = source.scope_node(site.scope)
            if isinstance(function, FUNCTIONS) and function.name.startswith("test_"):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ast.parse(source.apply(site.edits))
            except SyntaxError:
                continue
            if site not in good:
                good.append(site)
        if len(good) > MAX_PLANTS:
            good = random.Random(f"{seed}:{name}:{len(source.text)}").sample(good, MAX_PLANTS)
        if good:
            found[name] = sorted(good, key=lambda site: site.line)
    return found


def survey(task: tuple[str, Path, tuple[str, ...], int]) -> list[Plant]:
    repo, path, kinds, seed = task
    source = read(path)
    if source is None:
        return []
    found = sites(source, kinds, seed)
    return [Plant(name, repo, str(path), site) for name, group in found.items() for site in group]


def limited(plants: list[Plant], limit: int | None, seed: int) -> list[Plant]:
    """At most `limit` plants of each kind, taken from one repository after the other."""
    if limit is None:
        return plants
    chosen: list[Plant] = []
    for name in KINDS:
        by_repo: dict[str, list[Plant]] = defaultdict(list)
        for plant in plants:
            if plant.kind == name:
                by_repo[plant.repo].append(plant)
        rng = random.Random(f"{seed}:{name}")
        queues = [rng.sample(group, len(group)) for group in by_repo.values()]
        rng.shuffle(queues)
        taken = 0
        while any(queues) and taken < limit:
            for queue in queues:
                if queue and taken < limit:
                    chosen.append(queue.pop())
                    taken += 1
    return chosen


Checker = Callable[[str, Path], list[tuple[str, int]]]


@cache
def gradtrap_checker(codes: tuple[str, ...]) -> Checker:
    """gradtrap with its defaults, as (code, row) of each finding; and where none of these codes is on by default, with
    them.
    """
    from flake8_gradtrap.config import Settings, known_rules
    from flake8_gradtrap.engine import check_source

    settings = Settings() if any(known_rules()[code] for code in codes) else Settings.of(extend_select=codes)

    def check(text: str, path: Path) -> list[tuple[str, int]]:
        return [(finding.code, finding.span.row) for finding in check_source(text, path, settings).findings]

    return check


def moved_rows(old: list[str], new: list[str]) -> dict[int, int]:
    """Where the untouched lines of a file are in its planted text."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    rows = {row: row for row in range(1, head + 1)}
    middle = difflib.SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail], autojunk=False)
    for match in middle.get_matching_blocks():
        rows |= {head + match.a + i + 1: head + match.b + i + 1 for i in range(match.size)}
    return rows | {len(old) - i: len(new) - i for i in range(tail)}


def new_findings(
    source: Source, planted: Source, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """What the planted text has and the untouched text does not.

    A finding on a line that the edit touches has no row to be matched by: there, as many of a code as before are not
    new.
    """
    rows = moved_rows(source.lines, planted.lines)
    kept = set(rows.values())
    expected = Counter((code, rows[row]) for code, row in before if row in rows)
    loose = Counter(code for code, row in before if row not in rows)
    fresh = []
    for code, row in after:
        if expected[code, row] > 0:
            expected[code, row] -= 1
        elif row not in kept and loose[code] > 0:
            loose[code] -= 1
        else:
            fresh.append((code, row))
    return fresh


def in_place(planted: Source, site: Site, row: int) -> bool:
    """True where a row lies in the function of the edit (or of a use), or at a call of it."""
    owner = -1
    for index, function in enumerate(planted.functions):
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        if first <= row <= (function.end_lineno or first):
            owner = index
            if index in (site.scope, *site.more_scopes):
                return True
    if owner in (site.scope, *site.more_scopes):
        return True
    if site.scope < 0:
        return False
    name = planted.functions[site.scope].name
    return any(last_name(c.func) == name and c.lineno <= row <= (c.end_lineno or c.lineno) for c in planted.calls)


def judge(task: tuple[str, list[Plant]]) -> list[Plant]:
    """Check a file untouched, then with each of its plants."""
    path, plants = task
    source = read(Path(path))
    assert source is not None
    untouched: dict[Checker, list[tuple[str, int]]] = {}
    for plant in plants:
        check = gradtrap_checker(plant.site.codes)
        text = source.apply(plant.site.edits)
        planted = Source(text)
        start = time.process_time()
        try:
            if check not in untouched:
                untouched[check] = check(source.text, Path(path))
                start = time.process_time()
            before, after = untouched[check], check(text, Path(path))
        except Exception:
            plant.error = traceback.format_exc()
            continue
        plant.seconds = time.process_time() - start
        fresh = new_findings(source, planted, before, after)
        plant.new = [f"{code}:{row}" for code, row in fresh]
        plant.found = any(code in plant.site.codes and in_place(planted, plant.site, row) for code, row in fresh)
        if not plant.found:
            plant.masked = any(code in plant.site.codes and in_place(planted, plant.site, row) for code, row in after)
    return plants


def diff(plant: Plant, context: int = 3) -> str:
    source = read(Path(plant.path))
    assert source is not None
    lines = difflib.unified_diff(
        source.lines, source.apply(plant.site.edits).split("\n"), plant.path, "planted", lineterm="", n=context
    )
    return "\n".join(lines)


def write_out(plants: list[Plant], folder: Path) -> None:
    """The planted files and their diffs, for reading. The folder must lie outside of the checkout."""
    checkout = Path(__file__).resolve().parent.parent
    if folder.resolve().is_relative_to(checkout):
        raise click.UsageError(f"--out {folder}: files of the corpus are never written into the checkout")
    for plant in plants:
        name = f"{plant.repo}__{Path(plant.path).stem}__{plant.site.line}"
        target = folder / plant.kind
        target.mkdir(parents=True, exist_ok=True)
        source = read(Path(plant.path))
        assert source is not None
        (target / f"{name}.py").write_text(source.apply(plant.site.edits), encoding="utf-8")
        (target / f"{name}.diff").write_text(diff(plant, 12) + "\n", encoding="utf-8")
