"""What several test files share: a stub of the engine, and the command line run in this process."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: what we start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there: threads that wait for a busy core spin

import pytest
from click.testing import CliRunner, Result

from flake8_gradtrap.cli import main
from flake8_gradtrap.config import Settings
from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.result import Result as Answer
from flake8_gradtrap.result import Statistics
from flake8_gradtrap.source import decode

RULES = {"GTR000": True, "GTR301": True, "GTR302": True, "GTR307": False, "GTR401": True, "GTR406": False}
"""Codes, and whether they are on by default, for the tests that are not about the rules themselves."""

ROOT = Path(__file__).parents[1]

Cli = Callable[..., Result]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """The test fails where this takes longer. (An alarm that nobody handles would end the process of all the tests.)"""

    def late(*_: object) -> None:
        pytest.fail(f"not done in {seconds} s")  # no Exception: nobody in between takes it for an error of the system

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs `gradtrap` with these arguments, in an empty folder, and without a cache unless a test asks for one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADTRAP_NO_CACHE", "1")

    def run(*arguments: str, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(main, list(arguments), input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flake8_gradtrap.config.known_rules", lambda: RULES)


@dataclass(frozen=True)
class Stub:
    """What the stub engine did."""

    checked: list[str]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, rules: None) -> Stub:
    """An engine that finds what comments ask for, so that what is around it is tested whatever the rules say.

    `word()  # trap GTR301` is a finding at `word`. A word behind the code asks for a fix: `fix` for a safe one that
    writes `fixed` instead, `unsafe` for an unsafe one, `breaks` for one after which the file no longer parses, `grows`
    for one that never comes to an end, `swaps` for one between `f` and `g`, `steps` for one from `f` over `g`, `later`
    for one that is there once z.py is fixed. `# takes 2` says how many seconds it took. `# crash` in a file makes the
    engine raise, `# die` ends its process.
    """
    done = Stub([])
    multiprocessing.set_start_method("fork", force=True)  # so that other processes have the stub too

    def check_source(data: bytes | str, path: str, settings: Settings, tree: object = None) -> object:
        done.checked.append(path)
        if isinstance(data, bytes):
            data, _ = decode(data)
        if "# crash" in data:
            raise RuntimeError("the stub crashed")
        if "# die" in data:
            os.kill(os.getpid(), signal.SIGKILL)
        found = []
        for row, line in enumerate(io.StringIO(data, newline=None), 1):
            for match in re.finditer(r"(?!fixed)\b(\w+)\(\)\s*# trap (GTR\d{3}) ?(\w*)", line):
                word, code, kind = match.groups()
                swapped = "f" if word == "g" else "g"
                new = {"fix": "fixed", "unsafe": "fixed", "breaks": "(", "grows": f"{word}x", "swaps": swapped}.get(
                    kind
                )
                if kind == "steps":
                    new = "g" if word == "f" else "fixed"
                if kind == "later":
                    new = "fixed" if "fixed" in Path(path).with_name("z.py").read_text() else None
                span = Span(row, match.start() + 1, row, match.end(1) + 1)
                fix = Fix("write it right", (Edit(span, new),), kind != "unsafe") if new else None
                steps = (Step("here it begins", path, Span(1, 1, 1, 2)), Step("here it ends", path, span))
                found.append(Finding(code, "some-trap", f"{word} is a trap", path, span, steps, fix))
        comments = Noqa(data if settings.noqa else "")
        findings = tuple(
            finding
            for finding in found
            if settings.reports(finding) and not comments.hides(finding.code, finding.span.row)
        )
        seconds = float((re.search("# takes (.*)", data) or [0, 0.5])[1])
        return Answer(findings, Statistics(2, 1, seconds, ("train",)))

    module = ModuleType("flake8_gradtrap.engine")
    module.check_source = check_source  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flake8_gradtrap.engine", module)
    monkeypatch.setattr("flake8_gradtrap.plugin.is_about_training", lambda text, apis: True)  # what it checks is not
    return done
