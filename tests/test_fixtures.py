"""The fixtures: whole programs in which every expected finding is marked on its line, and what a fix makes of them.

`# expect: GTR101` (or several codes) marks a line of a trap; files called `ok_…` must stay silent. What is expected of
files that cannot carry a mark, because they cannot be read, stands in `expect.txt` beside them: `file:row code`.
`trap_x.fixed` is `trap_x.py` after its safe fixes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.finding import Finding, Fix
from flake8_gradtrap.fixes import apply_fixes
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.source import decode, parse

FIXTURES = ROOT / "fixtures"
FILES = sorted(FIXTURES.rglob("*.py"))
MARK = re.compile(r"#\s*expect:\s*(GTR\d{3}(?:\s*,\s*GTR\d{3})*)")
PREVIEW = {code: Settings.of(extend_select=[code]) for code in all_rules()}
"""A preview rule is on in the folder of its own fixtures; what others say in preview stands in `trap_preview_…`."""

Found = set[tuple[int, str]]


def name(path: Path) -> str:
    return str(path.relative_to(FIXTURES))


@cache
def check(path: Path, data: bytes | None = None) -> tuple[Finding, ...]:
    """The findings of a fixture, as it lies on disk or with other content."""
    return check_source(path.read_bytes() if data is None else data, str(path), settings(path)).findings


def settings(path: Path) -> Settings:
    rule = all_rules().get(path.parent.name)
    preview = rule is not None and (not rule.default or path.name.startswith("trap_preview_"))
    return PREVIEW[path.parent.name] if preview else Settings()


def places(findings: tuple[Finding, ...]) -> Found:
    return {(finding.span.row, finding.code) for finding in findings}


def expected(path: Path) -> Found:
    """What the marks of a fixture say."""
    text = path.read_bytes().decode("utf-8", "replace")
    found = {
        (row, code)
        for row, line in enumerate(re.split("\r\n|\r|\n", text), 1)
        for mark in MARK.findall(line)
        for code in re.findall(r"GTR\d{3}", mark)
    }
    beside = path.with_name("expect.txt")
    if beside.exists():
        for line in beside.read_text(encoding="utf-8").split("\n"):
            if match := re.fullmatch(r"(.+):(\d+) (GTR\d{3})", line):
                assert path.with_name(match[1]).exists(), line
                if match[1] == path.name:
                    found.add((int(match[2]), match[3]))
            else:
                assert not line, line
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_finds_what_is_marked_and_nothing_else(path: Path) -> None:
    findings = check(path)
    detail = "\n".join(f"{finding.span.row}: {finding.code} {finding.message}" for finding in findings)
    assert places(findings) == expected(path), detail
    assert {finding.filename for finding in findings} <= {str(path)}
    for finding in findings:
        assert finding.name == all_rules()[finding.code].name
        assert (finding.span.row, finding.span.column) < (finding.span.end_row, finding.span.end_column)
        assert finding.trace or finding.code == "GTR000"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_names_tell_traps_from_look_alikes(path: Path) -> None:
    """A file called `trap_…` has a mark, one called `ok_…` has none, nor has any file of a project called so."""
    parts = [part for part in path.relative_to(FIXTURES).parts if part.startswith(("trap_", "ok_"))]
    assert parts, "neither a trap nor a look-alike"
    if parts[0].startswith("ok_"):
        assert not expected(path)
    elif parts[0] == path.name:
        assert expected(path)


@pytest.mark.parametrize("path", [path for path in FILES if path.name.startswith("trap_preview_")], ids=name)
def test_a_preview_is_silent_by_default(path: Path) -> None:
    assert check_source(path.read_bytes(), str(path), Settings()).findings == ()


@pytest.mark.parametrize("folder", sorted((FIXTURES / "projects").iterdir()), ids=lambda path: path.name)
def test_a_project_that_is_called_a_trap_has_one(folder: Path) -> None:
    marks = [mark for path in folder.rglob("*.py") for mark in expected(path)]
    assert bool(marks) == folder.name.startswith("trap_")


# -- fixes ------------------------------------------------------------------------------------------------------------


def safe_fixes(findings: tuple[Finding, ...]) -> list[Fix]:
    return [finding.fix for finding in findings if finding.fix is not None and finding.fix.safe]


def fixed(path: Path, data: bytes) -> bytes:
    """The content of a file after one pass of the safe fixes."""
    text, encoding = decode(data)
    findings = check(path) if data == path.read_bytes() else check(path, data)
    return apply_fixes(text, safe_fixes(findings))[0].encode(encoding)


TRAPS = [path for path in FILES if path.parent.name != "GTR000" and expected(path)]
FIXED = sorted(FIXTURES.rglob("*.fixed"))


def test_every_rule_with_a_safe_fix_has_a_fixed_fixture() -> None:
    codes = {code for path in FIXED for _, code in expected(path.with_suffix(".py"))}
    assert codes >= {code for code, rule in all_rules().items() if rule.fix == "safe"}
    assert all(path.with_suffix(".py") in TRAPS for path in FIXED)


@pytest.mark.parametrize("path", FIXED, ids=name)
def test_safe_fixes_make_the_fixed_text(path: Path) -> None:
    source = path.with_suffix(".py")
    assert fixed(source, source.read_bytes()).decode() == path.read_bytes().decode()


@pytest.mark.parametrize("path", TRAPS, ids=name)
def test_safe_fixes_remove_their_findings_and_settle(path: Path) -> None:
    data = path.read_bytes()
    before = check(path)
    new = fixed(path, data)
    if not safe_fixes(before):
        assert new == data
        return
    assert new != data
    parse(decode(new)[0])
    after = check(path, new)
    left = [finding.code for finding in after]
    for code in {finding.code for finding in before if finding.fix is not None and finding.fix.safe}:
        unfixable = sum(finding.code == code and not safe_fixes((finding,)) for finding in before)
        assert left.count(code) <= unfixable
    assert set(left) <= {finding.code for finding in before}, "a fix made another trap"
    assert fixed(path, new) == new
