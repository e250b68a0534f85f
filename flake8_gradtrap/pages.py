"""The rules for people: a page a rule, with what its demo measured, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.rule import Rule
from flake8_gradtrap.terminal import number

_FIXES = {"safe": "`--fix`", "unsafe": "`--fix --unsafe-fixes`", "": "none"}
_FAMILIES = {
    "0": "The file itself",
    "1": "One-shot iterators",
    "2": "Broken gradient path",
    "3": "Clipping and mixed precision",
    "4": "Graph kept alive",
    "5": "The step",
    "6": "Modes",
    "7": "Parameters and their optimizer",
    "8": "Numerics",
    "9": "Gradients of gradients",
}


def page(rule: type[Rule], picture: str = "") -> str:
    """What `gradtrap rule CODE` shows and docs/rules/CODE.md holds, in Markdown. `picture`: a file to show with the
    figures.
    """
    default = "on by default" if rule.default else "preview: off until `--preview`, or selected by code"
    facts = f"{default} · fix: {_FIXES[rule.fix]} · since {rule.since}"
    facts += f" · for torch {rule.torch} or newer" if rule.torch else ""
    text, heading, links = rule.doc().strip().partition("## References\n")
    parts = [f"# {rule.code} {rule.name}", f"*{facts[0].upper()}{facts[1:]}*", text.rstrip(), *_proof(rule, picture)]
    return "\n\n".join([*parts, heading + links]).rstrip() + "\n"


def _proof(rule: type[Rule], picture: str) -> Iterator[str]:
    """What the demo of a rule measured, with the trap and without."""
    if rule.unproved:
        yield f"## Proof\n\nNone: {rule.unproved}."
        return
    stored = figures()
    proof = next((each for each in stored.get("proofs", ()) if each["code"] == rule.code), None)
    if proof is None:
        return
    yield "## Proof"
    where = f"{stored['device']} ({stored['device_name']}), torch {stored['torch']}"
    yield (
        f"Real training steps, with the trap and without, from the same seed and data: {where}. "
        f"`gradtrap prove {rule.code}` measures it again."
    )
    rows = ["| What is measured | Trapped | Fixed |", "|---|---:|---:|"]
    for quantity, trapped in proof["trapped"].items():
        rows.append(f"| {quantity} | {number(float(trapped))} | {number(float(proof['fixed'][quantity]))} |")
    yield "\n".join(rows)
    if picture:
        yield f"![What the trap makes of each quantity, as a multiple of its value without the trap]({picture})"


@cache
def figures() -> dict[str, Any]:
    """What `gradtrap prove --json` wrote when the figures of the pages were measured (docs/figures.py)."""
    return json.loads(files("flake8_gradtrap").joinpath("figures.json").read_text("utf-8"))  # type: ignore[no-any-return]


def address(rule: type[Rule]) -> str | None:
    """Where the rule can be read, for programs that want an address."""
    return rule_address(rule.code)


def families(rules: Iterable[type[Rule]]) -> Iterator[tuple[str, list[type[Rule]]]]:
    """The rules by the first digit of their codes, with what they have in common."""
    for digit, members in groupby(rules, lambda rule: rule.code[3]):
        yield _FAMILIES[digit], list(members)


def table(rules: Iterable[type[Rule]], folder: str = "docs/rules/") -> str:
    """A table of rules, in Markdown; `folder`: where their pages are."""
    rows = ["| Code | Name | What it finds | Default | Fix |", "|---|---|---|---|---|"]
    for rule in rules:
        cells = (
            f"[{rule.code}]({folder}{rule.code}.md)",
            rule.name,
            rule.summary.rstrip(".").replace("|", r"\|"),
            "on" if rule.default else "preview",
            rule.fix or "-",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
