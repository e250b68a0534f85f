"""Promises are kept: each has a test that fails when the promise is broken (`promises.py`)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT
from promises import PAGE, Promise, page, place, promises

PROMISES = promises()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.text)
def test_what_is_broken_to_see_the_test_fail_is_there(promise: Promise) -> None:
    text = place(promise).read_text(encoding="utf-8")
    assert text.count(promise.old) == 1, "tests/promises.toml says what to replace: say it of the code as it is now"
    file, _, function = promise.test.partition("::")
    name = function.partition("[")[0]
    assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")


def test_the_page_tells_all_of_them() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(PROMISES), "python tests/promises.py --write"


@pytest.mark.slow
def test_each_is_seen_to_fail_when_it_is_broken() -> None:
    run = subprocess.run([sys.executable, ROOT / "tests" / "promises.py"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
