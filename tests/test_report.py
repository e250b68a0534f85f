"""The output formats, letter by letter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.report import FORMATS, Sources, Style, render
from flake8_gradtrap.report.full import summary, underline

SOURCE = """\
params = filter(wanted, model.parameters())
optimizer = AdamW(params)
for batch in loader:
\tclip(params, 1.0)
"""
FIX = Fix("make it a list", (Edit(Span(1, 10, 1, 10), "list("), Edit(Span(1, 44, 1, 44), ")")), safe=True)
FINDING = Finding(
    "GTR101",
    "one-shot-iterator-reused",
    "`params` is used up",
    "train.py",
    Span(4, 7, 4, 13),
    (
        Step("`filter(...)` is made here", "train.py", Span(1, 10, 1, 44)),
        Step("`AdamW` uses it up", "train.py", Span(2, 19, 2, 25)),
    ),
    FIX,
)
PLAIN = Style()


def show(*findings: Finding, source: str = SOURCE, style: Style = PLAIN, format: str = "full") -> str:
    return render(format, findings, Sources({"train.py": source.encode()}), style)


def test_full() -> None:
    assert (
        show(FINDING)
        == """\
train.py:4:7: GTR101 `params` is used up [one-shot-iterator-reused]
  |
4 |     clip(params, 1.0)
  |          ^^^^^^
  |
  1. train.py:1: `filter(...)` is made here
     | params = filter(wanted, model.parameters())
  2. train.py:2: `AdamW` uses it up
     | optimizer = AdamW(params)
  help: fix available with --fix: make it a list

Found 1 trap (1 fixable with --fix).
"""
    )


def test_full_of_several_rows() -> None:
    source = "".join(f"    x{row} = (\n" for row in range(1, 20))
    finding = Finding("GTR101", "n", "m", "train.py", Span(9, 10, 11, 7))
    assert (
        show(finding, source=source)
        == """\
train.py:9:10: GTR101 m [n]
   |
 9 |     x9 = (
   |          ^
10 |     x10 = (
   |     ^^^^^^^
11 |     x11 = (
   |     ^^
   |

Found 1 trap.
"""
    )
    long = show(Finding("GTR101", "n", "m", "train.py", Span(1, 1, 19, 3)), source=source)
    assert "6 |     x6 = (\n" in long
    assert "x7" not in long
    assert "  | ...\n" in long


def test_full_without_source() -> None:
    finding = Finding("GTR000", "not-analysed", "the file cannot be read", "nowhere.py", Span(1, 1, 1, 1))
    assert (
        show(finding)
        == """\
nowhere.py:1:1: GTR000 the file cannot be read [not-analysed]

Found 0 traps; 1 place could not be analysed.
"""
    )


def test_nothing_found() -> None:
    assert show() == "No traps found.\n"
    assert show(format="concise") == ""
    assert show(format="json") == "[]\n"


def test_the_count_at_the_end() -> None:
    unsafe = Finding("GTR102", "n", "m", "a.py", Span(1, 1, 1, 2), fix=Fix("", (), safe=False))
    none = Finding("GTR103", "n", "m", "a.py", Span(1, 1, 1, 2))
    assert (
        summary([FINDING, unsafe, none]) == "Found 3 traps (1 fixable with --fix, 1 more with --fix --unsafe-fixes).\n"
    )
    assert summary([FINDING, unsafe, none], unsafe=True) == "Found 3 traps (2 fixable with --fix).\n"
    assert summary([unsafe]) == "Found 1 trap (1 fixable with --fix --unsafe-fixes).\n"
    assert summary([none]) == "Found 1 trap.\n"
    assert "help: fix available with --fix --unsafe-fixes\n" in show(unsafe)


def test_concise() -> None:
    line = "train.py:4:7: GTR101 `params` is used up [one-shot-iterator-reused]\n"
    assert show(FINDING, FINDING, format="concise") == line + line


def test_json() -> None:
    assert json.loads(show(FINDING, format="json")) == [
        {
            "code": "GTR101",
            "name": "one-shot-iterator-reused",
            "message": "`params` is used up",
            "filename": "train.py",
            "location": {"row": 4, "column": 7},
            "end_location": {"row": 4, "column": 13},
            "url": rule_address("GTR101"),
            "fix": {
                "applicability": "safe",
                "message": "make it a list",
                "edits": [
                    {
                        "content": "list(",
                        "location": {"row": 1, "column": 10},
                        "end_location": {"row": 1, "column": 10},
                    },
                    {
                        "content": ")",
                        "location": {"row": 1, "column": 44},
                        "end_location": {"row": 1, "column": 44},
                    },
                ],
            },
            "trace": [
                {
                    "message": "`filter(...)` is made here",
                    "filename": "train.py",
                    "location": {"row": 1, "column": 10},
                },
                {"message": "`AdamW` uses it up", "filename": "train.py", "location": {"row": 2, "column": 19}},
            ],
            "cell": None,
        }
    ]
    assert json.loads(show(replace(FINDING, fix=None), format="json"))[0]["fix"] is None


def test_colours_only_when_asked() -> None:
    for format in FORMATS:
        assert "\x1b" not in show(FINDING, format=format)
    coloured = show(FINDING, style=Style(colour=True))
    assert "\x1b[1;31mGTR101\x1b[0m" in coloured
    assert "\x1b[1;31m         ^^^^^^\x1b[0m" in coloured


@pytest.mark.parametrize(
    ("line", "start", "end", "shown", "carets"),
    [
        ("x = f(y)", 5, 9, "x = f(y)", "    ^^^^"),
        ("\tx = 1", 2, 3, "    x = 1", "    ^"),
        ("a\tb", 1, 4, "a    b", "^^^^^^"),
        ("名 = f()", 5, 8, "名 = f()", "     ^^^"),
        ("e\N{COMBINING ACUTE ACCENT} = 1", 6, 7, "e\N{COMBINING ACUTE ACCENT} = 1", "    ^"),
        ("x", 2, 3, "x", " ^"),
        ("x = 1   ", 1, 2, "x = 1", "^"),
        ("x\x1b[31m = 1", 1, 2, "x\N{REPLACEMENT CHARACTER}[31m = 1", "^"),
        ("x\x0cy", 3, 4, "x\N{REPLACEMENT CHARACTER}y", "  ^"),
    ],
)
def test_carets_stand_under_what_they_mean(line: str, start: int, end: int, shown: str, carets: str) -> None:
    assert underline(line, start, end) == (shown, carets)


@pytest.mark.parametrize("start", [1, 30, 500, 990])
def test_long_lines_are_cut(start: int) -> None:
    line = "".join(f"{number:04}," for number in range(200))
    shown, carets = underline(line, start, start + 5)
    assert len(shown) < 170
    first = carets.index("^")
    assert shown[first : first + 5] == line[start - 1 : start + 4]
    shown, carets = underline(line, start, 1001)
    assert len(carets) < 170


def test_what_is_printed_cannot_steer_the_terminal() -> None:
    evil = Finding(
        "GTR101", "n", "a\x1b]0;b\nc\u202e", "\x1b[2Jx.py", Span(1, 1, 1, 2), (Step("\x07", "y\x9b", Span(1, 1, 1, 1)),)
    )
    for format in ("full", "concise"):
        text = show(evil, format=format)
        assert not any(char in text for char in "\x1b\x07\x9b\u202e")
    assert json.loads(show(evil, format="json"))[0]["message"] == evil.message


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\xef\xbb\xbfx = 1\r\ny = 2\r\n", "y = 2"),
        ("# coding: latin-1\ny = 'ü'\n".encode("latin-1"), "y = 'ü'"),
        (b"x = 1\n\xff\xfe\n", "\xff\xfe"),
        (b"x = '\x0c'\ny = 2", "y = 2"),
    ],
)
def test_lines_of_any_file(tmp_path: Path, data: bytes, line: str) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(data)
    sources = Sources()
    assert sources.line(str(path), 2) == line
    assert sources.line(str(path), 3) == ""
    assert sources.line(str(path), 0) == ""
    assert sources.line(str(tmp_path / "none.py"), 1) == ""


def test_the_first_row_has_no_mark_of_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert Sources().line(str(path), 1) == "x = 1"
