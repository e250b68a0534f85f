"""The rules for people: a page a rule, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterable

from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.rule import Rule

_FIXES = {"safe": "`--fix`", "unsafe": "`--fix --unsafe-fixes`", "": "none"}


def page(rule: type[Rule]) -> str:
    """What `gradtrap rule CODE` shows and docs/rules/CODE.md holds, in Markdown."""
    default = "on by default" if rule.default else "preview: off until `--preview`, or selected by code"
    facts = f"{default} · fix: {_FIXES[rule.fix]} · since {rule.since}"
    facts += f" · for torch {rule.torch} or newer" if rule.torch else ""
    return f"# {rule.code} {rule.name}\n\n*{facts[0].upper()}{facts[1:]}*\n\n{rule.doc().strip()}\n"


def address(rule: type[Rule]) -> str | None:
    """Where the rule can be read, for programs that want an address."""
    return rule_address(rule.code)


def table(rules: Iterable[type[Rule]]) -> str:
    """The table of rules in the README, in Markdown."""
    rows = ["| Code | Name | What it finds | Default | Fix |", "|---|---|---|---|---|"]
    for rule in rules:
        cells = (
            f"[{rule.code}](docs/rules/{rule.code}.md)",
            rule.name,
            rule.summary.rstrip(".").replace("|", r"\|"),
            "on" if rule.default else "preview",
            rule.fix or "-",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
