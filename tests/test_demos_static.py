"""The abstract run over the rules' own programs: their demos, and the examples in their pages."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.rule import Rule, all_rules

RULES = [rule for rule in all_rules().values() if rule.code != "GTR000"]
BESIDE = {"GTR103": {"GTR101"}}
"""What a rule's trap may also be, seen from another side: a one-shot argument is reused at its call, too."""


def on(rule: type[Rule]) -> Settings:
    """The default settings, and the rule itself if it is a preview."""
    return Settings.of(extend_select=() if rule.default else [rule.code])


@cache
def within(rule: type[Rule], function: str) -> tuple[Finding, ...]:
    """The findings inside a function of a rule's file."""
    path = inspect.getfile(rule)
    text = Path(path).read_text(encoding="utf-8")
    (node,) = (part for part in ast.parse(text).body if isinstance(part, ast.FunctionDef) and part.name == function)
    findings = check_source(text, path, on(rule)).findings
    assert all(finding.code != "GTR000" for finding in findings)
    assert node.end_lineno is not None
    return tuple(finding for finding in findings if node.lineno <= finding.span.row <= node.end_lineno)


def example(rule: type[Rule], heading: str) -> tuple[Finding, ...]:
    """The findings in an example of a rule's page."""
    match = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", rule.doc(), re.MULTILINE | re.DOTALL)
    assert match
    return check_source(match[1], f"{rule.code}_{heading}.py", on(rule)).findings


def show(findings: tuple[Finding, ...]) -> str:
    return "\n".join(f"{finding.span.row}: {finding.code} {finding.message}" for finding in findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_demo_s_trap_is_found(rule: type[Rule]) -> None:
    findings = within(rule, "trapped")
    codes = {finding.code for finding in findings}
    assert codes - BESIDE.get(rule.code, set()) == {rule.code}, show(findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_nothing_is_found_in_the_fixed_demo(rule: type[Rule]) -> None:
    findings = within(rule, "fixed")
    assert not findings, show(findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_trap_of_the_page_is_found(rule: type[Rule]) -> None:
    findings = example(rule, "Trap")
    codes = {finding.code for finding in findings}
    assert codes - BESIDE.get(rule.code, set()) == {rule.code}, show(findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_nothing_is_found_in_the_fixed_example_of_the_page(rule: type[Rule]) -> None:
    findings = example(rule, "Fixed")
    assert not findings, show(findings)
