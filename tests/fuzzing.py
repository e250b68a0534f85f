"""What holds for any input, and where the inputs come from: programs that are made up, and mutated real ones."""

from __future__ import annotations

import ast
import random
import re
import time
import warnings
from collections.abc import Callable
from itertools import pairwise

from hypothesis import strategies as st

from flake8_gradtrap.batch import fix_text
from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.source import SourceError, decode, line_starts

EVERYTHING = Settings.of(select=["ALL"], preview=True)
SECONDS = 20.0
"""No input may take longer, on whatever machine this runs."""


def parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "a.py", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def keep_promises(data: bytes, path: str = "a.py", fixes: bool = True) -> tuple[Finding, ...]:
    """Check any content, and that the answer is one; what was found."""
    start = time.process_time()
    findings = check_source(data, path, EVERYTHING).findings
    assert time.process_time() - start < SECONDS
    try:
        text = decode(data)[0]
    except SourceError:
        text = data.decode("utf-8", "replace")
        assert [finding.code for finding in findings] == ["GTR000"]
    internal = [finding for finding in findings if "internal error" in finding.message]
    assert not internal, internal
    if not parses(text):
        assert [finding.code for finding in findings] == ["GTR000"]
    lines = Lines(text)
    for finding in findings:
        assert finding.filename == path
        lines.hold(finding.span)
        for step in finding.trace:
            if step.filename == path:
                lines.hold(step.span)
        for edit in finding.fix.edits if finding.fix is not None else ():
            lines.hold(edit.span)
    if fixes and any(finding.fix is not None for finding in findings):

        def check(changed: str) -> tuple[Finding, ...]:
            return check_source(changed, path, EVERYTHING).findings

        once = fix_text(text, findings, check, unsafe=True)
        assert parses(once.text)
        assert fix_text(once.text, check(once.text), check, unsafe=True).text == once.text
    return findings


class Lines:
    """The lines of a text, as Python counts them."""

    def __init__(self, text: str) -> None:
        starts = [*line_starts(text), len(text) + 1]
        self._lengths = [end - start for start, end in pairwise(starts)]

    def hold(self, span: Span) -> None:
        """Whether a span lies inside the text, its end not before its start."""
        assert 1 <= span.row <= span.end_row <= len(self._lengths), span
        assert 1 <= span.column <= self._lengths[span.row - 1] + 1, span
        assert 1 <= span.end_column <= self._lengths[span.end_row - 1] + 1, span
        assert (span.row, span.column) <= (span.end_row, span.end_column), span


# -- programs that are made up ----------------------------------------------------------------------------------------

NAMES = (
    "model net optimizer opt scaler loss total losses x y out params scheduler ema i k step self batch state".split()
)
EXPRESSIONS = """
{n}.parameters()|({n} for {n} in {e})|[{e} for {n} in {e}]|{e} + {e}|{e} * 0.5|{e} / {e}|{n}({e})
{n}({e}, {e})|{e}.item()|{n}.detach()|{n}.data|{n}.grad|torch.tensor({e})|{n}.mean()|{n}.to({e})|{n}.clone()
float({e})|sum({e})|list({e})|iter({e})|{n}.state_dict()|copy.deepcopy({e})|torch.optim.SGD({e}, lr=0.1)
torch.optim.AdamW({n}.parameters())|torch.amp.GradScaler("cuda")|torch.cuda.amp.GradScaler(enabled={e})
nn.Linear(4, 4)|nn.Sequential({e}, {e})|nn.ModuleList([{e}])|nn.Parameter({e})
torch.nn.functional.cross_entropy({e}, {e})|torch.log({e})|torch.sigmoid({e})|{n}.softmax(-1)|{n}[{e}]|{n}.{n}
{n}|0|1|None|True|(not {e})|({e} if {e} else {e})|(lambda *{n}: {e})|(lambda: {e})()|{{**{n}}}|{{{e}: {e}}}
(i % 4 == 0)|({e} is {e})|f"{{{n}}}"|itertools.chain({n}, {e})|filter({e}, {e})|zip({e}, {e})|map({n}, {e})
({n} := {e})|({e}, {e})|{n}.backward|{n} @ {n}|{n}[-1:]|torch.autograd.grad({n}, {e}, create_graph={e})
{n}.requires_grad_()|torch.no_grad()|super().{n}({e})|print({e})|(yield {e})|len({e})|enumerate({e})
range({e})|next({e}, None)|{n}.norm()|torch.stack([{e}])|{n}.view(-1)|{n}.numpy()|isinstance({e}, {n})
"""
_EXPRESSIONS = [part for line in EXPRESSIONS.strip().splitlines() for part in line.split("|")]
STATEMENTS = """
{n} = {e}|{n}, *{n} = {e}|{n}: {n} = {e}|{n} += {e}|{n}.{n} = {e}|{n}[{e}] = {e}|self.{n} = {e}|{e}
{e}.backward()|{e}.backward(retain_graph={e})|{n}.zero_grad()|{n}.step()|{n}.step({e})
scaler.scale({e}).backward()|scaler.step({n})|scaler.unscale_({n})|scaler.update()
torch.nn.utils.clip_grad_norm_({e}, 1.0)|{n}.train()|{n}.eval()|{n}.append({e})|{n}.data.copy_({e})
{n}.load_state_dict({e})|return {e}|yield {e}|break|continue|pass|raise {n}|assert {e}|del {n}|global {n}
import {n}|from {n} import {n}|from . import {n}|torch.autograd.set_detect_anomaly(True)
torch.set_grad_enabled({e})|{n}.grad = None|with torch.no_grad(): {n} = {e}|if {e}: return|if {n}: {n}.step()
type {n} = {n}|nonlocal {n}|for p in {e}: p.grad = {e}
"""
_STATEMENTS = [part for line in STATEMENTS.strip().splitlines() for part in line.split("|")]
HEADERS = """
if {e}:|else:|elif {e}:|for {n} in {e}:|for {n}, {n} in enumerate({e}):|while {e}:|while True:
with {e} as {n}:|with torch.no_grad():|with torch.autocast("cuda"):|try:|except {n} as {n}:|finally:
def {n}({n}, *{n}):|def {n}(self, {n}={e}):|def forward(self, x):|def __init__(self):|class {n}(nn.Module):
class {n}({n}):|@torch.no_grad()|@property|async def {n}({n}):|match {e}:|def train({n}, {n}):
"""
_HEADERS = [part for line in HEADERS.strip().splitlines() for part in line.split("|")]
HEAD = "import copy, itertools, torch\nfrom torch import nn\n"
LOOP = """\
def train(model, loader, criterion, *args):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    total = 0
    for i, (x, y) in enumerate(loader):
        with torch.autocast("cuda"):
            loss = criterion(model(x), y)
{}        scaler.scale(loss).backward()
{}        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
{}        total += loss
"""
"""A training loop, in need of more statements."""


class Author:
    """Writes programs about training, of which each choice is made by `choose` (from 0 to below a number)."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose

    def program(self) -> str:
        parts = [self._block(0) for _ in range(self._choose(4))]
        loop = LOOP.format(*(self._block(2) if self._choose(2) else "" for _ in range(3)))
        parts.insert(self._choose(len(parts) + 1), loop)
        return HEAD + "".join(parts)

    def _pick(self, options: list[str]) -> str:
        return options[self._choose(len(options))]

    def _fill(self, text: str, depth: int) -> str:
        return (
            re.sub(r"\{([ne])\}", lambda match: self._pick(NAMES) if match[1] == "n" else self._expression(depth), text)
            .replace("{{", "{")
            .replace("}}", "}")
        )

    def _expression(self, depth: int) -> str:
        if depth > 2 or self._choose(3) == 0:
            return self._pick(NAMES)
        return self._fill(self._pick(_EXPRESSIONS), depth + 1)

    def _block(self, depth: int) -> str:
        indent = "    " * depth
        lines = []
        for _ in range(1 + self._choose(4)):
            if depth < 4 and self._choose(3) == 0:
                lines.append(self._compound(depth))
            else:
                lines.append(f"{indent}{self._fill(self._pick(_STATEMENTS), 0)}\n")
        return "".join(lines)

    def _compound(self, depth: int) -> str:
        indent = "    " * depth
        header = self._fill(self._pick(_HEADERS), 0)
        if header.startswith("@"):
            header += f"\n{indent}def {self._pick(NAMES)}(self, x):"
        if header.startswith("match"):
            cases = ("None", "[x, *y]", "{'k': x}", "torch.Tensor()", "1 | 2", "_")
            arms = [f"{indent}    case {self._pick(list(cases))}:\n{self._block(depth + 2)}" for _ in range(2)]
            return f"{indent}{header}\n{''.join(arms)}"
        before, after = "", ""
        if header.startswith(("else", "elif")):
            before = f"{indent}if {self._expression(0)}:\n{self._block(depth + 1)}"
        elif header.startswith(("except", "finally")):
            before = f"{indent}try:\n{self._block(depth + 1)}"
        elif header == "try:":
            after = f"{indent}except Exception:\n{self._block(depth + 1)}"
        return f"{before}{indent}{header}\n{self._block(depth + 1)}{after}"


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Programs about training; most of them parse."""
    return Author(lambda limit: draw(st.integers(0, limit - 1))).program()


def programs_from(chance: random.Random) -> str:
    return Author(chance.randrange).program()


# -- real programs, mutated -------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def mutated(text: str, other: str, chance: random.Random) -> str:
    """A program after some accidents; parts of another one may have got into it."""
    for _ in range(1 + chance.randrange(4)):
        lines = text.splitlines(keepends=True) or ["\n"]
        at, to = chance.randrange(len(lines)), chance.randrange(len(lines))
        kind = chance.randrange(12)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(to, lines[at])
        elif kind == 2:
            lines[at], lines[to] = lines[to], lines[at]
        elif kind == 3:
            lines[at] = chance.choice(["    ", "\t", " ", "\f"]) + lines[at]
        elif kind == 4:
            lines[at] = lines[at].removeprefix("    ")
        elif kind == 5:
            tokens = _TOKEN.findall(lines[at])
            if tokens:
                del tokens[chance.randrange(len(tokens))]
            lines[at] = "".join(tokens)
        elif kind == 6:
            names = re.findall(r"[^\W\d]\w*", text) or ["x"]
            one, two = chance.choice(names), chance.choice(names)
            lines = [re.sub(rf"\b{re.escape(one)}\b", two, "".join(lines))]
        elif kind == 7:
            theirs = other.splitlines(keepends=True) or ["\n"]
            start = chance.randrange(len(theirs))
            lines[at:at] = theirs[start : start + 1 + chance.randrange(20)]
        elif kind == 8:
            indent = re.match(r"[ \t]*", lines[at])
            statement = Author(chance.randrange)._fill(chance.choice(_STATEMENTS), 0)
            lines.insert(at, f"{indent[0] if indent else ''}{statement}\n")
        elif kind == 9:
            offset = chance.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:offset] + chance.choice("\\\"'()[]{}:,.*#\x00\xa0é\u2028𝒙\r\n") + lines[at][offset:]
        elif kind == 10:
            lines = ["".join(lines)[: chance.randrange(len(text) + 1)]]
        else:
            end = chance.choice(["\r\n", "\r", "\n"])
            lines = [line.rstrip("\r\n") + end for line in lines]
        text = "".join(lines)
    return text
