"""What gradtrap promises whatever it is given, the test of each promise, and a way to break it that the test must see.

    python tests/promises.py [--only WORD] [--write]

In a copy of the checkout each promise (promises.toml) is broken, and its test is run: it must fail, and pass on the
copy as it is. `--write` makes docs/promises.md of what was seen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
COPIED = "flake8_gradtrap rules fixtures tests docs pyproject.toml README.md action.yml .pre-commit-hooks.yaml".split()
INTRODUCTION = """\
# Promises

What gradtrap promises whatever it is given, the test of each promise (in tests/), and how it was broken in a copy of
the code to see that the test fails. Made by `python tests/promises.py --write`, which writes only what it has seen in
that one run: the test passes on the code as it is, and fails when the promise is broken.
"""


@dataclass(frozen=True)
class Promise:
    """`broken`: how, in words; `file`, `old`, `new`: the same in code. `test`: `file::function`, or with `[a case]`."""

    text: str
    test: str
    broken: str
    file: str
    old: str
    new: str


def promises() -> list[Promise]:
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return [Promise(**one) for one in data["promise"]]


def failing(copy: Path, *tests: str) -> set[str]:
    """Those of some tests that fail in a copy."""
    names = [f"tests/{test.replace('::', '.py::', 1)}" for test in tests]
    # Without the plugins that these tests do not need, which take longer than most of them.
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-c", "none.ini", "-p", "no:cacheprovider", *names]
    command += ["-x"] if len(tests) == 1 else []
    variables = {**os.environ, "PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == 0:
        return set()
    if done.returncode > 1:  # below 0: a crash, which is a failure as well
        sys.exit(f"{tests}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {test for test, name in zip(tests, names, strict=True) if name in done.stdout or len(tests) == 1}


def place(promise: Promise, root: Path = ROOT) -> Path:
    return (root / "flake8_gradtrap" / promise.file).resolve()


def page(kept: list[Promise]) -> str:
    lines = [INTRODUCTION, f"{len(kept)} promises.\n", "| Promise | Test | Broken: seen failing |", "|---|---|---|"]
    lines += [f"| {one.text} | `{one.test}` | {one.broken} (`{one.file.removeprefix('../tests/')}`) |" for one in kept]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only promises, or tests, with this in their text")
    parser.add_argument("--write", action="store_true", help="write docs/promises.md")
    options = parser.parse_args()
    chosen = [one for one in promises() if options.only in one.text or options.only in one.test]
    kept = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary).resolve()
        for name in COPIED:
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy / name)
        (copy / "none.ini").write_text("[pytest]\nmarkers = slow: takes minutes\n")
        wrong = failing(copy, *dict.fromkeys(one.test for one in chosen))
        for one in chosen:
            path = place(one, copy)
            text = path.read_text(encoding="utf-8")
            assert text.count(one.old) == 1, one
            path.write_text(text.replace(one.old, one.new), encoding="utf-8")
            seen = bool(failing(copy, one.test))
            path.write_text(text, encoding="utf-8")
            if seen and one.test not in wrong:
                kept.append(one)
            said = "its test fails as it is" if one.test in wrong else "seen" if seen else "NOT SEEN"
            print(f"{said}: {one.text} ({one.test})", flush=True)
    if options.write:
        PAGE.write_text(page(kept), encoding="utf-8")
    sys.exit(len(kept) != len(chosen))


if __name__ == "__main__":
    main()
