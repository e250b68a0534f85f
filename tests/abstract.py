"""Programs with a trap, and look-alikes without one, for the tests of the abstract run.

Where a finding is expected, its line ends with `# GTR101`; all other lines must stay silent.
"""

from __future__ import annotations

import re
import textwrap

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import Result, check_source
from flake8_gradtrap.finding import Finding

PRELUDE = """\
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, SGD
"""


def run(text: str, path: str = "train.py") -> Result:
    return check_source(text, path, Settings())


def marks(text: str) -> set[tuple[int, str]]:
    return {
        (row, code)
        for row, line in enumerate(text.split("\n"), 1)
        for mark in re.findall(r"# (GTR\d{3}(?:, GTR\d{3})*)$", line)
        for code in mark.split(", ")
    }


def places(findings: tuple[Finding, ...]) -> set[tuple[int, str]]:
    return {(finding.span.row, finding.code) for finding in findings}


def verify(program: str) -> tuple[Finding, ...]:
    text = PRELUDE + textwrap.dedent(program)
    compile(text, "train.py", "exec")
    findings = run(text).findings
    assert places(findings) == marks(text), "\n".join(f"{f.span.row}: {f.code} {f.message}" for f in findings)
    return findings


class Twins:
    """Pairs of programs: in one a trap is, in the other none."""

    def __init__(self) -> None:
        self.traps: dict[str, str] = {}
        self.look_alikes: dict[str, str] = {}

    def __call__(self, name: str, trap: str, look_alike: str) -> None:
        assert marks(trap), name
        assert not marks(look_alike), name
        self.traps[name], self.look_alikes[name] = trap, look_alike
