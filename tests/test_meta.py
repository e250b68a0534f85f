"""What must agree: rule files, codes, fixtures, pages, the README; and the house rules of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from flake8_gradtrap.catalogue import rule_defaults
from flake8_gradtrap.interp.machine import Machine
from flake8_gradtrap.rule import Rule, all_rules

HEADINGS = ["What it does", "Why it is a trap", "Known limits", "Trap", "Fixed", "References"]
FILES = sorted(path for path in (ROOT / "rules").glob("*.py"))
CODE = re.compile(r"GTR\d{3}")
UNWRITTEN = re.compile(r"\bWRITE\b")
"""What docs/new_rule.py leaves to be written."""


def test_every_rule_file_is_one_rule_of_that_name() -> None:
    rules = all_rules()
    assert len(FILES) == len(rules) > 0
    for path in FILES:
        code, name = path.stem[:6].upper(), path.stem[7:].replace("_", "-")
        assert rules[code].name == name
        assert sys.modules[rules[code].__module__].__file__ == str(path)


def test_every_rule_has_fixtures_and_nothing_else_has() -> None:
    folders = {path.name for path in (ROOT / "fixtures").iterdir() if CODE.fullmatch(path.name)}
    assert folders == set(all_rules())


@pytest.mark.parametrize("code", all_rules())
def test_fixtures_show_traps_and_more_look_alikes(code: str) -> None:
    folder = ROOT / "fixtures" / code
    if code == "GTR000":  # its files cannot be read: what is expected of them stands in a file of its own
        assert re.search(r"^trap_\w+\.py:\d+ GTR000$", (folder / "expect.txt").read_text(), re.MULTILINE)
    else:
        assert any(f"# expect: {code}" in path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    assert len(list(folder.rglob("ok_*.py"))) >= 3


def test_pages_and_table_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    pages = {path.stem for path in (ROOT / "docs" / "rules").glob("*.md")}
    assert pages == {"index", *all_rules()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(GTR\d{3})\]", readme, re.MULTILINE) == list(all_rules())


@pytest.mark.parametrize("rule", all_rules().values(), ids=str)
def test_docstrings_are_whole(rule: type[Rule]) -> None:
    first, *rest = rule.doc().strip().splitlines()
    assert first.endswith(".")
    headings = [line.removeprefix("## ") for line in rest if line.startswith("## ")]
    assert headings == HEADINGS
    sections = re.split(r"^## .*\n", rule.doc(), flags=re.MULTILINE)[1:]
    assert all(section.strip() for section in sections)
    for section in sections[HEADINGS.index("Trap") : HEADINGS.index("Fixed") + 1]:
        (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        if rule.code != "GTR000":
            ast.parse(code)


@pytest.mark.parametrize("rule", all_rules().values(), ids=str)
def test_metadata(rule: type[Rule]) -> None:
    assert CODE.fullmatch(rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", rule.name)
    assert rule.summary
    assert "\n" not in rule.summary
    assert rule.fix in ("", "safe", "unsafe")
    assert re.fullmatch(r"\d+\.\d+\.\d+", rule.since)


def test_nothing_is_left_unwritten() -> None:
    texts = [*FILES, *(ROOT / "fixtures").rglob("*.py")]
    assert [path.name for path in texts if UNWRITTEN.search(path.read_text(encoding="utf-8", errors="replace"))] == []


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_know_events_and_no_syntax(path: Path) -> None:
    ours = {name for name in imports(path) if name.startswith("flake8_gradtrap")}
    assert {".".join(name.split(".")[:2]) for name in ours} - {"flake8_gradtrap"} <= {
        "flake8_gradtrap.events",
        "flake8_gradtrap.rule",
        "flake8_gradtrap.finding",
        "flake8_gradtrap.gradients",
        "flake8_gradtrap.keeping",
        "flake8_gradtrap.logarithms",
        "flake8_gradtrap.modes",
        "flake8_gradtrap.waiting",
        "flake8_gradtrap.saved",
        "flake8_gradtrap.traits",
        "flake8_gradtrap.windows",
    }
    theirs = {name.split(".")[0] for name in imports(path) - ours}
    assert theirs.isdisjoint({"ast", "libcst", "tokenize", "click", "rich", "flake8"})


def test_dependencies_point_one_way() -> None:
    package = ROOT / "flake8_gradtrap"
    above = {"batch", "cli", "plugin", "report", "files", "config", "engine", "noqa", "pages", "fixes", "runtime"}
    parts = [*package.glob("interp/*.py"), *package.glob("events/*.py")]
    for path in [*parts, package / "rule.py", package / "finding.py"]:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("flake8_gradtrap.")}
        assert used.isdisjoint(above), path


def test_linting_imports_no_torch() -> None:
    # Rules import it in their demos, which the linter never runs.
    code = "import sys; from flake8_gradtrap.rule import all_rules; print(len(all_rules()), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == f"{len(all_rules())} False\n"


def test_readme_commands_are_those_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\ntests/run\n" in readme
    assert "tests/run\n" in (ROOT / ".ci" / "run").read_text()
    stories = re.search(r"gradtrap check (\S+);.*flake8 --select GTR (\S+)\n", readme)
    assert stories
    assert stories[1] == stories[2]
    assert list((ROOT / stories[1]).rglob("*.py"))


def test_the_catalogue_agrees_with_the_rules() -> None:
    assert rule_defaults() == {code: rule.default for code, rule in all_rules().items()}


def test_no_mixin_of_the_machine_hides_a_method_of_another() -> None:
    """The mixins share one namespace: a method that does not go on to the one it takes the place of hides it."""
    mixins = [cls for cls in Machine.__mro__ if cls.__module__.startswith("flake8_gradtrap.interp")]
    clashes = [
        f"{upper.__qualname__}.{name} hides {lower.__qualname__}.{name}"
        for place, upper in enumerate(mixins)
        for lower in mixins[place + 1 :]
        for name, member in vars(upper).items()
        if callable(member) and name != "__init__" and name in vars(lower)
        if "__class__" not in member.__code__.co_freevars  # it calls `super()`
        if "NotImplementedError" not in vars(lower)[name].__code__.co_names  # declared there, and made elsewhere
    ]
    assert clashes == []
