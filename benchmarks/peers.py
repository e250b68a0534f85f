"""What other tools say of the trapped lines in fixtures/, rule by rule.

    python benchmarks/peers.py --envs FOLDER

Each tool has an environment of its own in FOLDER, made on the first use (this needs a package index), and runs with all
its rules on. A trap counts as found if the tool reports, anywhere in the same outermost function (or, at the level of
the module, outside of functions), something that RELATED says is about that trap. The fixtures are gradtrap's own: they
show what a tool looks for, not how well it finds it in code that nobody wrote for a test.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from compare import environment

ROOT = Path(__file__).resolve().parents[1]
RELATED = {
    "TG001": {"GTR401", "GTR402", "GTR403"},  # tensor stored with its graph
    "TG002": {"GTR601"},  # evaluation without no_grad
    "TG003": {"GTR501"},  # backward in a loop without zero_grad
    "TG005": {"GTR803"},  # softmax before a loss of logits
    "TG006": {"GTR803"},  # binary cross-entropy with the wrong activation
    "TG007": {"GTR407"},  # synchronisation inside a loop in the training step
    "TG011": {"GTR602"},  # eval() with no matching train()
    "TG014": {"GTR505"},  # accumulation without dividing the loss
    # TorchFix, flake8-bugbear and ruff have no rule about any of gradtrap's traps.
}
Place = tuple[str, int]


def said(envs: Path) -> Iterator[tuple[str, Place, str]]:
    """The tool, the place and the code of everything that the other tools report."""
    command = [str(environment(envs, "torch-preflight") / "torch-preflight"), "check", "fixtures", "--format", "json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for each in json.loads(run.stdout)["diagnostics"]:
        yield "torch-preflight", (each["path"], each["line"]), each["code"]
    command = [str(environment(envs, "torchfix") / "torchfix"), "--select", "ALL", "fixtures"]
    yield from lines("TorchFix", command)
    command = [str(environment(envs, "bugbear") / "flake8"), "--isolated", "--select", "B", "--extend-select", "B9"]
    yield from lines("flake8-bugbear", [*command, "-j1", "fixtures"])
    command = [str(environment(envs, "ruff") / "ruff"), "check", "--isolated", "--no-cache", "--preview"]
    yield from lines("ruff", [*command, "--select", "ALL", "--output-format", "concise", "fixtures"])


def lines(tool: str, command: list[str]) -> Iterator[tuple[str, Place, str]]:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for match in re.finditer(r"^(\S+\.py):(\d+):\d+: (\w[\w-]*)", run.stdout, re.MULTILINE):
        yield tool, (match[1], int(match[2])), match[3]


def traps() -> Iterator[tuple[str, Place, range | None]]:
    """Each trapped line: the code, the place, and the lines of the outermost function around it."""
    for path in sorted((ROOT / "fixtures").rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.is_relative_to(ROOT / "fixtures" / "GTR000"):
            continue  # what nobody can read
        marked = [(row, line) for row, line in enumerate(text.splitlines(), 1) if "# expect: GTR" in line]
        for row, line in marked:
            for code in re.findall(r"GTR\d{3}", line.partition("# expect: ")[2]):
                yield code, (path.relative_to(ROOT).as_posix(), row), around(functions(text), row)


def functions(text: str) -> list[range]:
    found = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, found)]
    return sorted((range(node.lineno, (node.end_lineno or 0) + 1) for node in nodes), key=lambda rows: rows.start)


def around(spans: list[range], row: int) -> range | None:
    return next((rows for rows in spans if row in rows), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, required=True, help="where the environments of the tools are")
    envs = parser.parse_args().envs.resolve()
    marked = list(traps())
    spans = {file: functions((ROOT / file).read_text(encoding="utf-8")) for _, (file, _), _ in marked}
    reports = list(said(envs))
    by_file: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for tool, (file, row), code in reports:
        by_file[file].append((tool, row, code))
    total: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for code, (file, _), rows in marked:
        total[code] += 1
        here = {
            tool
            for tool, row, other in by_file[file]
            if code in RELATED.get(other, ()) and around(spans[file], row) == rows
        }
        found.update((tool, code) for tool in here)
    print("| Rule | Trapped lines | Found by |\n|---|---|---|")
    for code in sorted(total):
        finders = [f"{tool} {number}" for (tool, which), number in sorted(found.items()) if which == code]
        related = [peer for peer, codes in RELATED.items() if code in codes]
        if related:
            print(f"| {code} | {total[code]} | {', '.join(finders) or '0'} ({', '.join(related)}) |")
    asked = sum(total[code] for code in set().union(*RELATED.values()))
    print(f"\n{sum(total.values())} trapped lines of {len(total)} rules; {asked} of rules that another tool has, too")
    for tool in ("torch-preflight", "TorchFix", "flake8-bugbear", "ruff"):
        number = sum(count for (name, _), count in found.items() if name == tool)
        quiet = [code for name, (file, _), code in reports if name == tool and Path(file).name.startswith("ok_")]
        about = sum(code in RELATED for code in quiet)
        print(f"{tool}: {number} traps found; in look-alikes {len(quiet)} reports, {about} of its rules above")


if __name__ == "__main__":
    main()
