"""Measure gradtrap beside other tools, in one and the same run, on one and the same tree.

    python benchmarks/compare.py TREE --envs FOLDER [--rounds 3] [--only NAME]... [--markdown FILE]

Each tool has an environment of its own in FOLDER, made on the first use (this needs a package index). gradtrap runs in
the environment of this script, so that a checkout can be measured. All are run in turn, round by round, each in a
process of its own and, unless the row says otherwise, on one core; caches are off but where the row says "warm".
What counts is the median of CPU seconds (user and system, children included), and its ratio to `ast.parse` of all files
in the same run; what takes very long is run once. The peak of memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = {
    "flake8": ["flake8"],
    "bugbear": ["flake8", "flake8-bugbear"],
    "torchfix": ["flake8", "torchfix"],
    "torch-preflight": ["torch-preflight"],
    "ruff": ["ruff"],
}
PARSE = "import ast, sys, warnings; warnings.simplefilter('ignore')\nfor p in sys.stdin.read().split('\\0'):\n" + (
    "    try: ast.parse(open(p, 'rb').read())\n    except (SyntaxError, ValueError): pass\n"
)
EDITOR = """
import sys, time
from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
path, rounds = sys.argv[1], int(sys.argv[2])
lines = open(path, encoding="utf-8").read().splitlines(keepends=True)
settings = Settings()
check_source("".join(lines), path, settings)
taken = []
for number in range(rounds):
    at = len(lines) * number // rounds
    text = "".join([*lines[:at], lines[at].rstrip("\\r\\n") + f"  # {number}\\n", *lines[at + 1:]])
    start = time.perf_counter()
    check_source(text, path, settings)
    taken.append(time.perf_counter() - start)
taken.sort()
print(len(lines), taken[len(taken) // 2], taken[len(taken) * 95 // 100])
"""


@dataclass
class Row:
    """One way to run one tool. `before` puts things into place; None of `command` is the tree."""

    name: str
    command: list[str]
    before: Callable[[], None] = lambda: None
    input: str = ""
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak: int = 0


def files_of(tree: Path) -> list[Path]:
    hidden = {".git", ".venv", "venv", "build", "dist", "node_modules", "__pycache__"}
    return sorted(
        path for path in tree.rglob("*.py") if path.is_file() and hidden.isdisjoint(path.relative_to(tree).parts)
    )


def environment(folder: Path, name: str) -> Path:
    """The programs of a tool; installed if they are not there."""
    place = folder / name
    if not (place / "bin").is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", *PACKAGES[name]], check=True)
    return place / "bin"


def version(command: list[str]) -> str:
    run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return " ".join(run.stdout.split())


def run_once(row: Row, folder: Path, variables: dict[str, str]) -> None:
    row.before()
    with tempfile.TemporaryFile("w+") as given:
        given.write(row.input)
        given.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(
            row.command, cwd=folder, env=variables, stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit(f"{row.name}: exit code {process.returncode}\n{error.decode()[-2000:]}")
    row.wall.append(time.perf_counter() - start)
    row.cpu.append(usage.ru_utime + usage.ru_stime)
    row.peak = max(row.peak, usage.ru_maxrss)


def rows_of(tree: Path, files: list[Path], envs: Path, scratch: Path) -> Iterator[Row]:
    gradtrap = [sys.executable, "-m", "flake8_gradtrap", "check", str(tree), "--isolated", "--exit-zero"]
    gradtrap += ["--output-format=concise"]
    flake8 = ["--isolated", "--exit-zero", "--jobs=1", str(tree)]
    cache = [f"--cache-dir={scratch / 'cache'}"]

    def prime() -> None:
        if not (scratch / "cache").exists():
            subprocess.run([*gradtrap, *cache], check=True, stdout=subprocess.DEVNULL)

    def edit() -> None:
        prime()
        copies = scratch / "edited"
        if not copies.exists():
            shutil.copytree(tree, copies, ignore=shutil.ignore_patterns(".git"), symlinks=True)
            subprocess.run(edited, check=True, stdout=subprocess.DEVNULL)
        path = copies / files[len(files) // 2].relative_to(tree)
        path.write_bytes(path.read_bytes() + b"\n# edited\n")

    edited = [*gradtrap[:4], str(scratch / "edited"), *gradtrap[5:], f"--cache-dir={scratch / 'other'}"]
    listed = "\0".join(map(str, files))
    yield Row("`ast.parse` of all files", [sys.executable, "-c", PARSE], input=listed)
    yield Row("gradtrap, cold", [*gradtrap, "--no-cache", "-j1"])
    yield Row("gradtrap, cold, two processes", [*gradtrap, "--no-cache", "-j2"])
    yield Row("gradtrap, warm", [*gradtrap, *cache], prime)
    yield Row("gradtrap, one file edited", edited, edit)
    yield Row("flake8", [str(environment(envs, "flake8") / "flake8"), *flake8])
    plugged = [sys.executable, "-m", "flake8", *flake8]
    yield Row("flake8 with gradtrap, cold", [*plugged, "--gradtrap-no-cache"])
    yield Row("flake8 with gradtrap, warm", [*plugged, f"--gradtrap-{cache[0][2:]}"], prime)
    yield Row("flake8 with flake8-bugbear", [str(environment(envs, "bugbear") / "flake8"), *flake8])
    yield Row("flake8 with TorchFix", [str(environment(envs, "torchfix") / "flake8"), *flake8])
    yield Row("torch-preflight", [str(environment(envs, "torch-preflight") / "torch-preflight"), "check", str(tree)])
    ruff = [str(environment(envs, "ruff") / "ruff"), "check", "--isolated", "--no-cache", "--exit-zero", str(tree)]
    yield Row("ruff (its default rules)", ruff)


def table(rows: list[Row]) -> str:
    parse = statistics.median(rows[0].cpu)
    lines = ["| | CPU seconds | Ratio to `ast.parse` | Wall seconds | Peak MB |", "|---|---|---|---|---|"]
    for row in rows:
        cpu, wall = statistics.median(row.cpu), statistics.median(row.wall)
        lines.append(f"| {row.name} | {cpu:.2f} | {cpu / parse:.1f} | {wall:.2f} | {row.peak / 1024:.0f} |")
    return "\n".join(lines) + "\n"


def derived(rows: list[Row]) -> str:
    """What the targets speak of."""
    by_name = {row.name: row for row in rows}

    def ratio(one: str, other: str, of: str = "cpu") -> str:
        if one not in by_name or other not in by_name:
            return "not measured"
        # Round by round: what else the machine does changes from one to the next.
        pairs = zip(getattr(by_name[one], of), getattr(by_name[other], of), strict=False)
        return f"{statistics.median(first / second for first, second in pairs):.2f}"

    return (
        f"- gradtrap, cold, over `ast.parse`: {ratio('gradtrap, cold', '`ast.parse` of all files')}\n"
        f"- flake8 with gradtrap over flake8, cold: {ratio('flake8 with gradtrap, cold', 'flake8')}\n"
        f"- the same, warm: {ratio('flake8 with gradtrap, warm', 'flake8')}\n"
        f"- one process over two, wall: {ratio('gradtrap, cold', 'gradtrap, cold, two processes', 'wall')}\n"
        f"- TorchFix over gradtrap, cold: {ratio('flake8 with TorchFix', 'gradtrap, cold')}\n"
        f"- torch-preflight over gradtrap, cold: {ratio('torch-preflight', 'gradtrap, cold')}\n"
    )


def editor(files: list[Path], rounds: int, variables: dict[str, str]) -> str:
    """The time from an edit to the findings, in a process that stays: of the training file nearest to 1,000 lines."""
    trains = [path for path in files if b"backward" in path.read_bytes()]
    if not trains:
        return ""
    path = min(trains, key=lambda one: abs(one.read_bytes().count(b"\n") - 1000))
    command = [sys.executable, "-c", EDITOR, str(path), str(rounds)]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    lines, half, most = run.stdout.split()
    half_ms, most_ms = (f"{float(seconds) * 1000:.0f} ms" for seconds in (half, most))
    return f"- an edit to a file of {lines} lines: {half_ms}, 95th percentile {most_ms}\n"


def curve(tree: Path, files: list[Path], sizes: list[int], scratch: Path, variables: dict[str, str]) -> str:
    """CPU seconds and memory over the number of lines: of copies of the tree, the last one of a part of its files.

    The files are taken in an order of chance, always the same, so that a small number of lines is like a large one.
    """
    files = random.Random(0).sample(files, len(files))
    lines = ["| Lines | Files | CPU seconds | Per 1,000 lines | Peak MB |", "|---|---|---|---|---|"]
    for size in sizes:
        place = scratch / f"curve{size}"
        done = number = 0
        while done < size:
            path = files[number % len(files)]
            source = path.read_bytes()
            target = place / f"part{number // len(files)}" / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source)
            done += source.count(b"\n")
            number += 1
        command = [sys.executable, "-m", "flake8_gradtrap", "check", str(place), "--isolated", "--exit-zero"]
        row = Row(f"{done}", [*command, "--no-cache", "-j1", "--output-format=concise"])
        run_once(row, place, variables)
        per = row.cpu[0] / done * 1000
        print(f"{done} lines: {row.cpu[0]:.2f} s, {row.peak / 1024:.0f} MB", file=sys.stderr, flush=True)
        lines.append(f"| {done:,} | {number:,} | {row.cpu[0]:.1f} | {per:.3f} | {row.peak / 1024:.0f} |")
        shutil.rmtree(place)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--envs", type=Path, required=True, help="where the environments of the tools are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=100, help="what takes more CPU seconds is run once")
    parser.add_argument("--only", action="append", help="only rows whose name contains this (and `ast.parse`)")
    parser.add_argument("--edits", type=int, default=40, help="how many edits of a file are measured")
    parser.add_argument("--curve", type=int, nargs="*", default=[], metavar="LINES", help="measure so many lines, too")
    parser.add_argument("--markdown", type=Path, help="write the tables to a file, too")
    options = parser.parse_args()
    tree, envs = options.tree.resolve(), options.envs.resolve()
    files = files_of(tree)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GRADTRAP_")}
    variables["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        os.environ["PYTHONPATH"] = variables["PYTHONPATH"]
        rows = list(rows_of(tree, files, envs, scratch))
        if options.only:
            rows = [rows[0], *(row for row in rows[1:] if any(part in row.name for part in options.only))]
        for number in range(options.rounds):
            for row in rows:
                if number and row.cpu[0] > options.patience:
                    continue
                run_once(row, scratch, variables)
                print(f"round {number + 1}: {row.name}: {row.cpu[-1]:.2f} s", file=sys.stderr, flush=True)
        total = sum(path.read_bytes().count(b"\n") for path in files)
        versions = [version([str(environment(envs, name) / name)]) for name in ("ruff",)]
        versions += [version([str(environment(envs, "torchfix") / "flake8")])]
        versions += [version([str(environment(envs, "torch-preflight") / "torch-preflight")])]
        text = (
            f"{len(files)} files, {total:,} lines; Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"median of {options.rounds} rounds; {'; '.join(versions)}.\n\n{table(rows)}\n{derived(rows)}"
        )
        text += editor(files, options.edits, variables) if options.edits else ""
        if options.curve:
            text += f"\n{curve(tree, files, options.curve, scratch, variables)}"
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
