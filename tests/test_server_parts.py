"""The parts of the language server: texts as the protocol counts them, checks in the background, settings."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from lsprotocol import types

from flake8_gradtrap.config import ConfigError
from flake8_gradtrap.engine import Surroundings
from flake8_gradtrap.finding import Edit, Span
from flake8_gradtrap.fixes import apply_edits
from flake8_gradtrap.server.actions import wanted
from flake8_gradtrap.server.checking import Checker
from flake8_gradtrap.server.documents import Documents, path_of, uri_of
from flake8_gradtrap.server.settings import EditorSettings, settings_of
from flake8_gradtrap.server.text import Text, differences

ENCODINGS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
WIDTHS = {"utf-8": 1, "utf-16": 2, "utf-32": 4}

contents = st.text(st.sampled_from(list("ab \n\r\f\x0b\u2028ä漢𝛁\ufeff")), max_size=40)
encodings = st.sampled_from(sorted(ENCODINGS))


def position(text: str, offset: int, encoding: str) -> types.Position:
    """Where an offset lies, as the protocol defines it, from the bytes."""
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    line = before.rpartition("\n")[2]
    return types.Position(before.count("\n"), len(line.encode(ENCODINGS[encoding])) // WIDTHS[encoding])


def offsets(text: str) -> list[int]:
    """The places between characters, but not within a line end."""
    return [at for at in range(len(text) + 1) if text[at - 1 : at + 1] != "\r\n"]


# -- text -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(contents, encodings)
def test_every_place_has_its_position(content: str, encoding: str) -> None:
    text = Text(content, encoding)
    mark = len(content) - len(text.source)
    for offset in offsets(content):
        assert text.offset(position(content, offset, encoding)) == offset
        if offset < mark:
            continue
        before = text.source[: offset - mark].replace("\r\n", "\n").replace("\r", "\n")
        row, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
        assert text.position(row, column) == position(content, offset, encoding)


@settings(deadline=None)
@given(contents, contents, encodings, st.data())
def test_an_edit_of_the_client(content: str, new: str, encoding: str, data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.sampled_from(offsets(content))) for _ in range(2))
    where = types.Range(position(content, start, encoding), position(content, end, encoding))
    changed = Text(content, encoding).changed(types.TextDocumentContentChangePartial(where, new))
    assert changed.content == content[:start] + new + content[end:]
    whole = types.TextDocumentContentChangeWholeDocument(new)
    assert Text(content, encoding).changed(whole).content == new


@settings(deadline=None)
@given(contents, contents)
def test_the_difference_of_two_texts(old: str, new: str) -> None:
    edits = differences(old, new)
    assert apply_edits(old, edits) == new
    assert bool(edits) == (old != new)


def test_only_what_differs_is_edited() -> None:
    assert differences("a\nb\nc\n", "a\nbb\nc\n") == [Edit(Span(2, 2, 2, 2), "b")]
    assert differences("x = f(a)\ny\n", "x = f(list(a))\ny\n") == [Edit(Span(1, 7, 1, 8), "list(a)")]
    assert differences("a\r\nb\r\n", "a\r\nc\r\nb\r\n") == [Edit(Span(2, 1, 2, 1), "c\r\n")]
    assert differences("a\n", "a\n") == []


def test_places_that_are_not_there() -> None:
    text = Text("ab\nc")
    assert text.position(1, 99) == types.Position(0, 2)
    assert text.position(7, 1) == types.Position(1, 1)
    assert text.offset(types.Position(0, 99)) == 2
    assert text.offset(types.Position(7, 0)) == 4
    half = Text("𝛁b")
    assert half.offset(types.Position(0, 1)) == 0  # within the first character


# -- documents --------------------------------------------------------------------------------------------------------


def test_paths_and_addresses(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "ä#1.py"
    assert path_of(path.as_uri()) == str(path)
    assert path_of(uri_of(str(path))) == str(path)
    assert path_of("untitled:Untitled-1") == "untitled:Untitled-1"


def test_what_is_unknown_is_ignored() -> None:
    documents = Documents()
    documents.change(types.VersionedTextDocumentIdentifier(uri="file:///x.py", version=2), [])
    notebook = types.VersionedNotebookDocumentIdentifier(uri="file:///x.ipynb", version=2)
    assert documents.change_notebook(notebook, types.NotebookDocumentChangeEvent()) == []
    documents.close("file:///x.py")
    assert list(documents) == []
    assert documents.program("file:///x.py") is None


@pytest.mark.parametrize(
    ("kind", "only", "expected"),
    [
        ("quickfix", None, True),
        ("quickfix", ["quickfix"], True),
        ("quickfix", [types.CodeActionKind.QuickFix], True),
        ("quickfix", [types.CodeActionKind.Empty], True),
        ("quickfix", ["source"], False),
        ("source.fixAll.gradtrap", ["source.fixAll"], True),
        ("source.fixAll.gradtrap", ["source.fixAll.ruff", "source.fixAll.gradtrap"], True),
        ("source.fixAll.gradtrap", ["source.fix"], False),
        ("quickfix", [], False),
    ],
)
def test_kinds_of_actions(kind: str, only: list[str] | None, expected: bool) -> None:
    assert wanted(kind, only) is expected


# -- checks -----------------------------------------------------------------------------------------------------------


class Slow:
    """Checks that last until they are told to end; a job is its number."""

    def __init__(self) -> None:
        self.jobs = 0
        self.begun: list[int] = []
        self.stopped: list[int] = []
        self.gate = threading.Event()

    def job(self, uri: str) -> tuple[int, Surroundings] | None:
        self.jobs += 1
        return None if uri == "gone" else (self.jobs, Surroundings())

    def check(self, job: int, surroundings: Surroundings) -> int:
        self.begun.append(job)
        while not self.gate.wait(0.001):
            if surroundings.stopped:
                self.stopped.append(job)
                break
        return job


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Checker[int, int]]]:
    slow = Slow()
    checker = Checker(slow.job, slow.check)
    yield slow, checker
    slow.gate.set()
    checker.close()


async def begun(slow: Slow, number: int) -> None:
    while len(slow.begun) < number:
        await asyncio.sleep(0.001)


def test_all_who_ask_wait_for_the_same_check(slow: tuple[Slow, Checker[int, int]]) -> None:
    work, checker = slow

    async def main() -> list[int | None]:
        asked = [asyncio.ensure_future(checker.newest("a")) for _ in range(3)]
        await begun(work, 1)
        work.gate.set()
        return [*await asyncio.gather(*asked), await checker.newest("a"), checker.last("a")]

    assert asyncio.run(main()) == [1] * 5
    assert work.jobs == 1
    assert asyncio.run(checker.newest("gone")) is None
    assert checker.last("unknown") is None


def test_an_edit_ends_the_check_of_what_was_before_it(slow: tuple[Slow, Checker[int, int]]) -> None:
    work, checker = slow

    async def main() -> tuple[int | None, float]:
        asked = asyncio.ensure_future(checker.newest("a"))
        await begun(work, 1)
        started = time.monotonic()
        checker.touch("a", 0.05)
        await begun(work, 2)
        delay = time.monotonic() - started
        work.gate.set()
        return await asked, delay

    found, delay = asyncio.run(main())
    assert found == 2
    assert work.stopped == [1]
    assert delay >= 0.05


def test_an_edit_after_a_pause_is_checked_at_once(slow: tuple[Slow, Checker[int, int]]) -> None:
    work, checker = slow

    async def main() -> list[float]:
        delays = []
        for number in (1, 2):
            started = time.monotonic()
            checker.touch("a", 0.2, pause=0.1)
            asked = asyncio.ensure_future(checker.newest("a"))
            await begun(work, number)
            delays.append(time.monotonic() - started)
            asked.cancel()
        return delays

    at_once, in_a_burst = asyncio.run(main())
    assert at_once < 0.2 <= in_a_burst


def test_a_check_ends_when_nobody_waits_any_more(slow: tuple[Slow, Checker[int, int]]) -> None:
    work, checker = slow

    async def main() -> int | None:
        first, second = (asyncio.ensure_future(checker.newest("a")) for _ in range(2))
        await begun(work, 1)
        first.cancel()
        await asyncio.sleep(0.02)
        assert work.stopped == []
        second.cancel()
        while not work.stopped:
            await asyncio.sleep(0.001)
        work.gate.set()
        return await checker.newest("a")

    assert asyncio.run(main()) == 2


def test_what_is_forgotten_is_not_checked(slow: tuple[Slow, Checker[int, int]]) -> None:
    work, checker = slow

    async def main() -> None:
        asked = asyncio.ensure_future(checker.newest("a"))
        await begun(work, 1)
        checker.forget("a")
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(main())
    assert checker.last("a") is None


# -- settings ---------------------------------------------------------------------------------------------------------


def test_what_an_editor_may_say() -> None:
    said = {"select": ["gtr1", "GTR301"], "extendSelect": ["GTR4"], "preview": True, "unsafeFixes": True}
    read, wrong = EditorSettings.read(said | {"path": ["gradtrap"], "trace": {"server": "verbose"}})
    assert wrong == []
    assert read.choice.select == ("GTR1", "GTR301")
    assert read.choice.extend_select == ("GTR4",)
    assert read.choice.preview is True
    assert read.unsafe_fixes
    assert EditorSettings.read(None) == EditorSettings.read({}) == (EditorSettings(), [])
    assert EditorSettings.read(["GTR1"])[1] == ["the settings must be an object, not ['GTR1']"]
    assert EditorSettings.read({"exclude": "x"})[1] == ["'exclude' must be a list of strings"]


def test_which_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.gradtrap]\nexclude = ['old']\n")
    editor = EditorSettings(exclude=("sub/generated", "*_pb2.py"))

    def excluded(name: str, folder: Path = tmp_path) -> bool:
        return settings_of(str(tmp_path / name), str(folder), editor) is None

    assert not excluded("train.py")
    assert not excluded("sub/train.py")
    assert excluded("venv/lib/x.py")
    assert excluded(".hidden/x.py")
    assert excluded("old/sub/x.py")
    assert excluded("sub/generated/x.py")
    assert excluded("sub/x_pb2.py")
    assert not excluded(".hidden/x.py", tmp_path / ".hidden")


def test_a_configuration_that_the_editor_names(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[tool.gradtrap]\nselect = ['GTR4']\n")
    found = settings_of(str(tmp_path / "x.py"), str(tmp_path), EditorSettings(config="other.toml"))
    assert found is not None
    assert "GTR101" not in found.codes.enabled
    with pytest.raises(ConfigError, match="cannot read"):
        settings_of(str(tmp_path / "x.py"), str(tmp_path), EditorSettings(config="none.toml"))


# -- the command ------------------------------------------------------------------------------------------------------


def test_help(cli: Cli) -> None:
    output = cli("server", "--help").stdout
    assert "language server protocol" in output
    assert "docs/editors.md" in output


@pytest.mark.parametrize("missing", ["pygls", "lsprotocol"])
def test_without_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    result = cli("server")
    assert result.exit_code == 2
    assert result.stderr == f"gradtrap: error: the server needs {missing}: pip install 'flake8-gradtrap[lsp]'\n"
