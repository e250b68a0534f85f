"""`# noqa` comments: what they hide, and that flake8 hides the same."""

from __future__ import annotations

import argparse
import tokenize

import pytest
from flake8.processor import FileProcessor
from flake8.violation import Violation

from flake8_gradtrap.fixes import apply_edits
from flake8_gradtrap.noqa import Noqa


def hidden(text: str, code: str = "GTR301") -> list[int]:
    """The rows in which a finding with this code is hidden."""
    comments = Noqa(text)
    return [row for row in range(1, len(text.splitlines()) + 1) if comments.hides(code, row)]


@pytest.mark.parametrize(
    ("comment", "hides"),
    [
        ("# noqa", True),
        ("# NoQA", True),
        ("# noqa : GTR999", True),
        ("# noqa: GTR301", True),
        ("# noqa:GTR301", True),
        ("# noqa: E501,GTR301", True),
        ("# noqa: E501 GTR301", True),
        ("# noqa: E501, GTR301", True),
        ("# noqa: GTR3", True),
        ("# noqa: gtr301", True),
        ("# noqa: GTR302", False),
        ("# noqa: E501", False),
        ("# noqa: GTR3011", False),
        ("# type: ignore  # noqa: GTR301", True),
        ("# noqa: GTR301 (clipped on purpose)", True),
        ("# noqa: the reason", True),
        ("# nothing", False),
        ("# qa", False),
    ],
)
def test_on_its_line(comment: str, hides: bool) -> None:
    assert hidden(f"x = 1\ny = 2  {comment}\nz = 3\n") == ([2] if hides else [])


TEXTS = {
    "brackets": "f(\n    1,\n    2,\n)  # noqa\ng()\n",
    "brackets, in the middle": "f(\n    1,  # noqa: GTR301\n    2,\n)\n",
    "string": 'f("""\n# one\n""")  # noqa: GTR301\ng()\n',
    "string that holds it": 'f("""\n# noqa\n""")\ng()\n',
    "backslash": "x = 1 + \\\n    2  # noqa: GTR301\ny = 2\n",
    "no final newline": "x = 1\ny = 2  # noqa",
    "not tokenizable": "x = (\n# noqa\n",
    "not tokenizable, string": 'x = 1  # noqa\ny = """\n',
    "form feed": "x = 1\n\x0cy = 2  # noqa\nz = 3\n",
    "CRLF": "x = 1\r\ny = 2  # noqa\r\nz = 3\r\n",
    "two comments": "x = 1  # noqa: E501  # noqa: GTR301\n",
    "blocks": "if a:\n    f()  # noqa\nelse:\n    g()\nh()  # noqa: GTR4\n",
    "nested strings": "f('''a\n''', '''b\n''', # noqa\n 3)\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_same_rows_as_flake8(name: str) -> None:
    text = TEXTS[name].replace("\r\n", "\n")
    lines = text.splitlines(keepends=True) if "\x0c" not in text else [f"{line}\n" for line in text.split("\n")[:-1]]
    options = argparse.Namespace(hang_closing=False, indent_size=4, max_line_length=79, max_doc_length=None, verbose=0)
    processor = FileProcessor("train.py", options, lines)
    theirs = []
    for row, line in enumerate(lines, 1):
        found = Violation("GTR301", "train.py", row, 1, "", processor.noqa_line_for(row) or line)
        if found.is_inline_ignored(disable_noqa=False):
            theirs.append(row)
    ours = hidden(TEXTS[name])
    if name == "two comments":  # flake8 reads the first alone
        assert (theirs, ours) == ([], [1])
    else:
        assert ours == theirs


def test_in_the_whole_file() -> None:
    assert hidden("x = 1\n# flake8: noqa\ny = 2\n") == [1, 2, 3]
    assert hidden("x = 1\n  # FLAKE8: NOQA\n") == [1, 2]
    assert hidden("x = 1\n# flake8: noqa: E501, GTR3\n") == [1, 2]
    assert hidden("x = 1\n# flake8: noqa: E501\n") == []
    assert hidden("x = 1  # flake8: noqa\n") == []
    assert hidden("x = 1\n# flake8: noqa: GTR3\n", "GTR401") == []


def test_nothing_is_read_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> object:
        raise AssertionError("tokenized")

    monkeypatch.setattr(tokenize, "generate_tokens", never)
    assert hidden("x = 1\n" * 5) == []
    with pytest.raises(AssertionError, match="tokenized"):
        hidden("x = 1  # noqa: GTR301\n")


def test_rows_that_are_not_there() -> None:
    comments = Noqa("x = 1  # noqa\n")
    assert [comments.hides("GTR301", row) for row in (0, 1, 2)] == [False, True, False]


HIDDEN = {
    "plain": ("x = 1\ny = 2\n", 2, "x = 1\ny = 2  # noqa: GTR301\n"),
    "another code": ("y = 2  # noqa: E501 (long)\n", 1, "y = 2  # noqa: E501,GTR301 (long)\n"),
    "another comment": ("y = 2  # why\n", 1, "y = 2  # why  # noqa: GTR301\n"),
    "brackets": ("f(\n    1,\n)\n", 2, "f(\n    1,  # noqa: GTR301\n)\n"),
    "string": ('f("""\na\n""", 1,\n  2)\n', 1, 'f("""\na\n""", 1,  # noqa: GTR301\n  2)\n'),
    "backslash": ("x = 1 + \\\n    2\ny = 2\n", 1, "x = 1 + \\\n    2  # noqa: GTR301\ny = 2\n"),
    "CRLF": ("x = 1\r\ny = 2 \r\n", 2, "x = 1\r\ny = 2  # noqa: GTR301 \r\n"),
    "no final newline": ("y = 2", 1, "y = 2  # noqa: GTR301"),
    "form feed": ("\x0cy = 2\nz = 3\n", 1, "\x0cy = 2  # noqa: GTR301\nz = 3\n"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_comment_that_hides(name: str) -> None:
    before, row, after = HIDDEN[name]
    edit = Noqa(before).comment(["GTR301"], row)
    assert edit is not None
    assert apply_edits(before, [edit]) == after
    assert row in hidden(after)
    assert row not in hidden(before)


def test_no_comment_where_none_can_stand() -> None:
    assert Noqa("x = 1\n").comment(["GTR301"], 2) is None
    assert Noqa("x = (1 + \\\n").comment(["GTR301"], 1) is None
