"""Any Python at all: no traceback, every span inside the file, fixes that parse and change nothing the second time.

A small share runs always, on the same inputs each time; `-m slow` runs for minutes on others (GRADTRAP_FUZZ_SECONDS),
and mutates the programs in GRADTRAP_CORPUS as well, if it names a folder.
"""

from __future__ import annotations

import itertools
import os
import random
import time
import warnings
from pathlib import Path

import pytest
from conftest import ROOT
from fuzzing import EVERYTHING, HEAD, NAMES, Lines, keep_promises, mutated, parses, programs, programs_from
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flake8_gradtrap import batch
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.result import Result

FIXTURES = sorted((ROOT / "fixtures").glob("GTR*/*.py"))
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
SECONDS = float(os.environ.get("GRADTRAP_FUZZ_SECONDS", "120"))


@QUICK
@given(programs())
def test_programs_that_are_made_up(text: str) -> None:
    keep_promises(text.encode())


def test_the_programs_are_worth_it() -> None:
    """Most of them can be run, and in many of them something is found and fixed."""
    made = [programs_from(random.Random(seed)) for seed in range(60)]
    assert sum(map(parses, made)) > 25
    assert sum(len(keep_promises(text.encode(), fixes=False)) for text in made if parses(text)) > 40


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    keep_promises(data)
    keep_promises(b"import torch\nloss.backward()\n" + data)


@QUICK
@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.sampled_from(["\n", "\r", "\r\n", "\f\n", "\\\n"])
)
def test_any_text_in_comments_and_strings(text: str, end: str) -> None:
    body = (
        HEAD
        + f"# {text!s}\ns = {text!r}\nfor x in loader:\n    loss = model(x).sum()\n    total += loss; loss.backward()\n"
    )
    keep_promises(body.replace("\n", end if end in ("\r", "\r\n") else "\n").encode())


@pytest.mark.filterwarnings("ignore")
def test_any_valid_python() -> None:
    """Programs of all the grammar, their names exchanged for those of training."""
    hypothesmith = pytest.importorskip("hypothesmith")

    @settings(QUICK, max_examples=40)
    @given(hypothesmith.from_grammar(), st.randoms(use_true_random=False))
    def check(text: str, chance: random.Random) -> None:
        import re

        swapped = re.sub(r"\b[A-Za-z]\w*\b", lambda word: chance.choice([word[0], *NAMES]), text)
        for one in (text, swapped):
            keep_promises(one.encode(errors="replace"))
            keep_promises((HEAD + one + "\nloss.backward()\n").encode(errors="replace"))

    check()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_programs(seed: int) -> None:
    chance = random.Random(seed)
    texts = [path.read_bytes().decode("utf-8", "replace") for path in FIXTURES]
    for _ in range(40):
        keep_promises(mutated(chance.choice(texts), chance.choice(texts), chance).encode(errors="replace"))


@pytest.mark.slow
def test_for_minutes() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    corpus = os.environ.get("GRADTRAP_CORPUS")
    files = [*FIXTURES, *(sorted(Path(corpus).rglob("*.py")) if corpus else ())]
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if time.monotonic() > end:
            break
        if number % 3 == 0:
            text = programs_from(chance)
        else:
            one, other = (chance.choice(files).read_bytes()[:80_000].decode("utf-8", "replace") for _ in "ab")
            text = mutated(one, other, chance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                keep_promises(text.encode(errors="replace"))
            except BaseException:
                Path(f"fuzz-{seed}-{number}.py").write_bytes(text.encode(errors="replace"))
                raise


# -- the tests themselves ---------------------------------------------------------------------------------------------


def test_a_broken_promise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*findings: Finding) -> None:
        monkeypatch.setattr("fuzzing.check_source", lambda *_: Result(findings))

    answer()
    keep_promises(b"x = 1\n")
    for wrong in (Span(3, 1, 3, 1), Span(1, 8, 1, 9), Span(1, 2, 1, 1), Span(0, 1, 1, 1), Span(1, 1, 2, 9)):
        with pytest.raises(AssertionError):
            Lines("x = 1\n").hold(wrong)
        answer(Finding("GTR301", "name", "message", "a.py", wrong))
        with pytest.raises(AssertionError):
            keep_promises(b"x = 1\n")
    answer(batch.not_analysed("a.py", "internal error in x.py:1"))
    with pytest.raises(AssertionError):
        keep_promises(b"x = 1\n")
    answer()
    with pytest.raises(AssertionError):
        keep_promises(b"x = (\n")
    assert EVERYTHING.codes.preview
