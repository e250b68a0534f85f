"""Notebooks: the mapping between cells and one text, what is no Python in them, and what a fix leaves untouched."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli
from hypothesis import given, settings
from hypothesis import strategies as st

from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.fixes import apply_edits
from flake8_gradtrap.notebook import Cell, Cells, Notebook, percent_cell, readable
from flake8_gradtrap.source import SourceError

MAKE = """\
%%time
!nvidia-smi
import torch
model = torch.nn.Linear(2, 2)
params = filter(lambda p: p.requires_grad, model.parameters())
optimizer = torch.optim.Adam(params)  # café"""
TRAIN = """\
for x, y in loader:
    %time pass
    optimizer.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
"""
SOURCES = [("markdown", "# Training\n%not a magic"), ("code", MAKE), ("code", "%%bash\nfor x in ;"), ("code", TRAIN)]


def notebook(*sources: tuple[str, str], lists: bool = True, **metadata: Any) -> dict[str, Any]:
    cells = []
    for kind, source in sources or SOURCES:
        cell: dict[str, Any] = {
            "cell_type": kind,
            "metadata": {},
            "source": source.splitlines(keepends=True) if lists else source,
        }
        if kind == "code":
            cell |= {"execution_count": 3, "outputs": [{"name": "stdout", "text": ["source\n"]}]}
        cells.append(cell)
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def places(cli: Cli, *arguments: str) -> list[str]:
    return [line.split(" [")[0] for line in cli("check", "--output-format=concise", *arguments).stdout.splitlines()]


# -- cells and text ---------------------------------------------------------------------------------------------------


def test_places() -> None:
    cells = Cells([Cell(2, "a\nb"), Cell(3, "%%html\n<p>"), Cell(5, ""), Cell(9, "c\n\nd\n")])
    assert [cell.number for cell in cells] == [2, 5, 9]
    lines = cells.text.splitlines()
    assert {line: cells.place(row) for row, line in enumerate(lines, 1) if len(line) == 1} == {
        "a": (2, 1),
        "b": (2, 2),
        "c": (9, 1),
        "d": (9, 3),
    }
    for number, row in ((2, 1), (2, 2), (9, 1), (9, 3)):
        assert cells.place(cells.row(number, row) or 0) == (number, row)
    assert cells.row(3, 1) is None
    assert Cells([]).text == ""
    assert Cells([]).place(1) == (1, 1)


LINES = st.sampled_from(
    [
        "x = 1",
        "",
        "%time f()",
        "  !ls \\",
        "y = '''",
        "a?",
        "z = !ls",
        "  # ü",
        "f(",
        ")",
        "%%bash",
        "/ f",
        "cd ..",
        "'",
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())))
def test_what_is_not_edited_comes_back(given: list[tuple[list[str], str, bool]]) -> None:
    made = [
        Cell(number, newline.join(lines) + (newline if ended and lines else ""))
        for number, (lines, newline, ended) in enumerate(given, 1)
    ]
    cells = Cells(made)
    assert cells.sources(cells.text) == {cell.number: cell.source for cell in cells}
    for cell in cells:
        assert len(readable(cell.source).splitlines()) == len(cell.source.splitlines())


@pytest.mark.parametrize(
    "line",
    [
        "%matplotlib inline",
        "  %time f(x)",
        "!pip install torch",
        "!!ls",
        "?print",
        "print?",
        "torch.nn.Linear??",
        "x[0]?",
        "names = !ls",
        "a, b = %sx ls",
        "self.x = %timeit -o f()",
        ", f a b",
        "; f a",
        "/f 1",
        "pip install -q torch",
        "cd ..",
        "time f()",
        "%load_ext autoreload",
    ],
)
def test_what_is_no_python_is_read_as_a_call(line: str) -> None:
    source = f"if x:\n    pass\n{line}\ny = 1\n" if line.strip() == line else f"if x:\n{line}\ny = 1\n"
    with pytest.raises(SyntaxError):
        ast.parse(source)
    read = readable(source)
    ast.parse(read)
    assert "get_ipython()" in read.splitlines()[source.splitlines().index(line)]
    bound = line.partition("=")[0] if " = " in line else ""
    assert read.splitlines()[source.splitlines().index(line)].startswith(bound)


@pytest.mark.parametrize(
    "source",
    [
        "x = (a\n  % b)\n",
        "x = '''\n%time\n!ls\n'''\n",
        'x = """a\\"""\n!ls\n"""\n',
        "x = a \\\n  % b\n",
        "x = 'it?'\n",
        "x != y\nx %= 2\n",
        "# what?\n",
        "f(\n  '(',\n  1\n)\n",
        "time = 1\ntime = time in x\n",
        "ls = 1\nls -l\n",
        "cd = 2; cd - 1\n",
        "x = y  # =! z\n",
        "r'\\'\nx = 1 # %\n",
    ],
)
def test_python_stays_as_it_is(source: str) -> None:
    assert readable(source) == source


def test_a_shell_line_goes_on_behind_a_backslash() -> None:
    read = readable("!pip install \\\n  torch \\\n  numpy\nx = 1\n")
    assert read.splitlines()[0].startswith("get_ipython()")
    ast.parse(read)
    assert read.splitlines()[3] == "x = 1"


def test_findings_are_told_where_they_are_in_their_cell() -> None:
    cells = Cells([Cell(1, "a = 1\nb = 2"), Cell(3, "c = 3\nd = 4\n")])
    row = cells.row(3, 2) or 0
    finding = Finding(
        "GTR101", "n", f"used up at line 3; see line {row}; line 9 elsewhere", "x.ipynb", Span(row, 1, row, 5),
        (Step("made", "x.ipynb", Span(2, 1, 2, 2)), Step("in line 9", "y.py", Span(9, 1, 9, 2))),
        Fix("see line 2", (Edit(Span(3, 1, 4, 1), ""),), True),
    )  # fmt: skip
    told = cells.located(finding)
    assert (told.cell, told.span) == (3, Span(2, 1, 2, 5))
    assert told.message == "used up at line 2 of cell 1; see line 2; line 9 elsewhere"
    assert [(step.cell, step.span.row, step.message) for step in told.trace] == [(1, 1, "made"), (None, 9, "in line 9")]
    assert told.fix
    assert told.fix.message == "see line 1 of cell 1"
    assert told.fix.edits == (Edit(Span(2, 1, 3, 1), "", cell=1),)
    assert apply_edits("a = 1\nb = 2\n", told.fix.edits) == "a = 1\n"


def test_edits_that_cross_a_border_are_refused() -> None:
    cells = Cells([Cell(1, "a = 1"), Cell(2, "b = 2")])
    with pytest.raises(SourceError):
        cells.sources(cells.text.replace("# %%gradtrap cell 2\n", ""))


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_trap_across_cells(cli: Cli) -> None:
    Path("a.ipynb").write_text(json.dumps(notebook()))
    message = (
        "GTR101 clips nothing: `params` was used up by `Adam` at line 6 of cell 2; make it a list at line 5 of cell 2"
    )
    assert places(cli) == [f"a.ipynb:cell 4:5:5: {message}"]
    assert places(cli, "a.ipynb") == places(cli)
    full = cli("check").stdout
    assert "5 |     torch.nn.utils.clip_grad_norm_(params, 1.0)\n  |     ^^^" in full
    assert "1. a.ipynb:cell 2:5: " in full
    (finding,) = json.loads(cli("check", "--output-format=json").stdout)
    assert (finding["cell"], finding["location"]) == (4, {"row": 5, "column": 5})
    assert [edit["cell"] for edit in finding["fix"]["edits"]] == [2, 2]
    assert [step["cell"] for step in finding["trace"]] == [2, 2, 4]
    data = json.dumps(notebook()).encode()
    piped = cli("check", "-", "--stdin-filename=b.ipynb", "--output-format=concise", input=data).stdout
    assert piped.startswith("b.ipynb:cell 4:5:5: GTR101")


def test_what_hides_findings_in_files_hides_them_in_notebooks(cli: Cli) -> None:
    hidden = TRAIN.replace("1.0)", "1.0)  # noqa: GTR101")
    Path("a.ipynb").write_text(json.dumps(notebook(("code", MAKE), ("code", hidden))))
    Path("b.ipynb").write_text(json.dumps(notebook(("code", MAKE + "\n# flake8: noqa"), ("code", TRAIN))))
    assert places(cli) == []


@pytest.mark.parametrize(
    "form",
    [
        {"indent": 1, "ensure_ascii": False}, {"indent": 2}, {"indent": None}, {"separators": (",", ":")},
        {"indent": "\t", "sort_keys": True},
    ],
)  # fmt: skip
@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_fix_changes_its_line_and_nothing_else(cli: Cli, form: dict[str, Any], lists: bool, mark: str) -> None:
    old, new = (
        "filter(lambda p: p.requires_grad, model.parameters())",
        "list(filter(lambda p: p.requires_grad, model.parameters()))",
    )
    text = mark + json.dumps(notebook(lists=lists), **form) + "\n"
    path = Path("a.ipynb")
    path.write_text(text, encoding="utf-8", newline="")
    diff = cli("check", "--diff").stdout
    assert diff.startswith("--- a.ipynb:cell 2\n+++ a.ipynb:cell 2\n")
    assert f"-params = {old}\n+params = {new}\n" in diff
    assert " !nvidia-smi\n" in diff
    assert path.read_bytes() == text.encode()
    assert cli("check", "--fix").exit_code == 0
    assert path.read_bytes().decode() == text.replace(old, new)
    assert json.loads(path.read_text("utf-8-sig"))["cells"][3]["source"] == (TRAIN.splitlines(True) if lists else TRAIN)
    once = path.read_bytes()
    assert "Fixed" not in cli("check", "--fix").stderr
    assert path.read_bytes() == once


def test_odd_spellings_stay(cli: Cli) -> None:
    """Lines which a program would write otherwise: escapes, blanks between items, Windows' line ends."""
    lines = [json.dumps(line) for line in MAKE.splitlines(keepends=True)]
    lines[2] = lines[2].replace("i", "\\u0069")
    source = "[ " + " ,\r\n\t".join(lines) + " ]"
    train = json.dumps({"cell_type": "code", "source": TRAIN})
    text = f'{{"cells": [{{"source": {source}, "cell_type": "code"}}, {train}]}}'
    Path("a.ipynb").write_bytes(text.encode())
    assert cli("check", "--fix").exit_code == 0
    changed = Path("a.ipynb").read_bytes().decode()
    assert changed == text.replace("filter(", "list(filter(").replace("parameters())", "parameters()))")


def test_lines_that_a_fix_adds_and_takes_away() -> None:
    made = Notebook(json.dumps(notebook(("code", "a\nb"), ("code", "!x\nc\n")), indent=1).encode())
    text = made.cells.text.replace("b\n", "").replace("c\n", "c\nd\ne\n")
    cells = json.loads(made.write(text))["cells"]
    assert [cell["source"] for cell in cells] == [["a"], ["!x\n", "c\n", "d\n", "e\n"]]
    emptied = Notebook(b'{"cells": [{"cell_type": "code", "source": []}]}')
    assert json.loads(emptied.write(emptied.cells.text + "x = 1\n"))["cells"][0]["source"] == ["\n", "x = 1"]


@pytest.mark.parametrize(
    ("data", "place", "why"),
    [
        (b"{\n  x}", "2:3", "no valid JSON"),
        (b"[]", "1:1", "has no cells"),
        (b'{"cells": 1}', "1:1", "has no cells"),
        (b'{"worksheets": []}', "1:1", "older than format 4"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', "1:1", "the source of cell 1 is no text"),
        (b'{"cells": [{"cell_type": "code"}]}', "1:1", "the source of cell 1 is no text"),
        (b"\xff\xfe", "1:1", "not UTF-8"),
        (b"[" * 200_000, "1:1", "nested too deeply"),
        (b'{"cells": [1, {"cell_type": "code", "source": ["x = (\\n"]}]}', "cell 2:1:5", "syntax error"),
        (b'{"cells": [{"cell_type": "code", "source": "\\ud800 = 1"}]}', "cell 1:1:1", ""),
        (b'{"cells": [{"cell_type": "code", "source": "x = \\u0000"}]}', "cell 1:1:1", ""),
    ],
)
def test_what_cannot_be_read_is_one_finding(cli: Cli, data: bytes, place: str, why: str) -> None:
    Path("a.ipynb").write_bytes(data)
    for options in ([], ["--fix"], ["--diff"]):
        result = cli("check", "--output-format=concise", *options)
        assert "Traceback" not in result.output
    (line,) = places(cli)
    assert line.startswith(f"a.ipynb:{place}: GTR000 ")
    assert why in line
    assert Path("a.ipynb").read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b'{"cells": []}',
        json.dumps(notebook(("code", "x <- 1"), kernelspec={"language": "R"})).encode(),
        json.dumps(notebook(("code", "x <- 1"), language_info={"name": "R"})).encode(),
        b'{"cells": [{"cell_type": "code", "source": "let x;", "metadata": {"vscode": {"languageId": "javascript"}}}]}',
        b'{"cells": [{"cell_type": "raw", "source": "x ="}, {}, 3]}',
    ],
)
def test_notebooks_without_python(cli: Cli, data: bytes) -> None:
    Path("a.ipynb").write_bytes(data)
    assert places(cli) == []


# -- percent scripts --------------------------------------------------------------------------------------------------


def test_cells_of_a_percent_script() -> None:
    text = "# ---\n# jupyter:\n# ---\n\n# %% [markdown]\n# text\n\n# %%\nx = 1\n#%%\ny = 2\n"
    assert [percent_cell(text, row) for row in (6, 8, 9, 10, 11)] == [1, 2, 2, 3, 3]
    assert [percent_cell("x = 1\n# %%\ny = 2\n", row) for row in (1, 2, 3, 9)] == [1, 2, 2, 2]
    assert percent_cell("x = 1  # %%\n# %%time\n", 1) is None


def test_a_percent_script_is_plain_python_that_says_its_cell(cli: Cli) -> None:
    make = MAKE.replace("%%time\n!", "# !")
    Path("a.py").write_text(f"# %%\n{make}\n# %% train\n{TRAIN}".replace("    %time pass\n", ""), encoding="utf-8")
    message = "GTR101 clips nothing: `params` was used up by `Adam` at line 6; make it a list at line 5"
    output = cli("check", "--output-format=concise").stdout
    assert output == f"a.py:11:5: {message} [one-shot-iterator-reused] (cell 2)\n"
    (finding,) = json.loads(cli("check", "--output-format=json").stdout)
    assert (finding["cell"], finding["location"]) == (2, {"row": 11, "column": 5})


def test_the_notebook_among_the_fixtures(cli: Cli) -> None:
    """As Jupyter wrote it. What is expected stands in the cells, as in other fixtures."""
    path = ROOT / "fixtures" / "notebooks" / "finetune.ipynb"
    expected = [
        (f"cell {number}:{row}", line.partition("# expect: ")[2].split()[0])
        for number, cell in enumerate(json.loads(path.read_bytes())["cells"], 1)
        for row, line in enumerate("".join(cell["source"]).splitlines(), 1)
        if "# expect: " in line and cell["cell_type"] == "code"
    ]
    assert len(expected) > 2
    found = [(*line.split(".ipynb:")[1].split(":")[:3], line.split(": ")[1][:6]) for line in places(cli, str(path))]
    assert [(f"{cell}:{row}", code) for cell, row, _, code in found] == expected
