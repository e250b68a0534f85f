#!/usr/bin/env python3
"""Make the files of a new rule, with all their headings, so that it looks like the others.

    python docs/new_rule.py GTR999 step-without-clearing "An optimizer steps twice and nothing is cleared"

writes `rules/gtr999_step_without_clearing.py` and `fixtures/GTR999/` with one trap and three look-alikes. What is left
to write says WRITE; `tests/test_meta.py` fails while a rule or its fixtures say so. How to go on: docs/write-a-rule.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

RULE = '''\
"""{summary}.

## What it does

WRITE: reports what, and where.

## Why it is a trap

WRITE: what happens to the training, as torch does it.

## Known limits

False positives: WRITE.

False negatives: WRITE.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()  # WRITE: the trap
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## References

- WRITE: [where torch says so](https://docs.pytorch.org/docs/stable/)
"""

from __future__ import annotations

from flake8_gradtrap.events import Stepped
from flake8_gradtrap.rule import Rule, Watch, on


class {classname}(Rule):
    code = "{code}"
    name = "{name}"
    summary = "{summary}"
    words = ("optimizer", "step")  # WRITE: a function that mentions none of these cannot hold the trap

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        """WRITE: what the rule remembers of a path, and when it reports."""


def trapped(device: str = "cpu") -> dict[str, float]:
    """WRITE: a real training step with the trap, and what is measured."""
    import torch

    torch.manual_seed(0)
    return {{"measured": 0.0}}


def fixed(device: str = "cpu") -> dict[str, float]:
    """WRITE: the same step without the trap."""
    import torch

    torch.manual_seed(0)
    return {{"measured": 1.0}}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    """WRITE: the mechanism by which the trap harms; must fail for (fixed, fixed)."""
    assert trapped["measured"] == 0.0
    assert fixed["measured"] > 0.0
'''

FIXTURE = '''\
"""WRITE: {what}"""

import torch


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step(){mark}
'''


def files(code: str, name: str, summary: str) -> dict[Path, str]:
    """The files of a rule, paths relative to the checkout."""
    words = name.split("-")
    fixtures = Path("fixtures") / code
    made = {
        Path("rules") / f"{code.lower()}_{'_'.join(words)}.py": RULE.format(
            code=code, name=name, summary=summary.rstrip("."), classname="".join(word.capitalize() for word in words)
        ),
        fixtures / "trap_write_me.py": FIXTURE.format(what="a loop that holds the trap.", mark=f"  # expect: {code}"),
    }
    for which in ("one", "two", "three"):
        what = "a loop that looks like the trap and is none."
        made[fixtures / f"ok_write_me_{which}.py"] = FIXTURE.format(what=what, mark="")
    return made


def main(arguments: list[str]) -> int:
    usage = 'usage: python docs/new_rule.py GTRnnn the-name-of-it "What it reports, in one line"'
    if len(arguments) != 3:
        print(usage, file=sys.stderr)
        return 2
    code, name, summary = arguments
    if not re.fullmatch(r"GTR\d{3}", code):
        print(f"{code!r} is not a code: GTR and three digits\n{usage}", file=sys.stderr)
        return 2
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", name):
        print(f"{name!r} is not a name: words in lower case, with hyphens between\n{usage}", file=sys.stderr)
        return 2
    taken = [*ROOT.glob(f"rules/{code.lower()}_*.py"), *ROOT.glob(f"fixtures/{code}")]
    if taken:
        print(f"{code} exists: {taken[0].relative_to(ROOT)}", file=sys.stderr)
        return 2
    for path, text in files(code, name, summary).items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"{path.as_posix()} written")
    print("next: write what says WRITE; docs/write-a-rule.md says what to run then")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
