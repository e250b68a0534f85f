"""The imports that fixes need: added once, where they may stand, and only where the name is free."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from conftest import Cli

from flake8_gradtrap.fixes import apply_edits
from flake8_gradtrap.imports import needed_import
from flake8_gradtrap.source import SourceFile

EVALUATE = """\
def evaluate(model: nn.Module, loader, criterion):
    model.eval()
    total = 0.0
    for x, y in loader:
        total += criterion(model(x), y).item()
    return total / len(loader)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import torch\nx = 1\n", None),
        ("import torch.nn as nn\nimport torch.optim\n", None),
        ("from torch import nn\nx = 1\n", "import torch\nfrom torch import nn\nx = 1\n"),
        ("import os\nfrom torch import nn\n", "import os\nimport torch\nfrom torch import nn\n"),
        ("import torch as T\n", "import torch\nimport torch as T\n"),
        ("import os\r\nx = 1\r\n", "import torch\r\nimport os\r\nx = 1\r\n"),
        (
            '"""Doc."""\nfrom __future__ import annotations\n\nimport os\n',
            '"""Doc."""\nfrom __future__ import annotations\n\nimport torch\nimport os\n',
        ),
        ('"""Doc."""\n\n\n@d\ndef f(): ...\n', '"""Doc."""\n\n\nimport torch\n@d\ndef f(): ...\n'),
        ("x = 1\n", "import torch\nx = 1\n"),
        ("# %% a cell\nx = 1\n", "# %% a cell\nimport torch\nx = 1\n"),
        ("def f(tensor):\n    import torch as pt\n", "import torch\ndef f(tensor):\n    import torch as pt\n"),
    ],
)
def test_where_an_import_is_added(before: str, after: str | None) -> None:
    edit = needed_import(SourceFile("a.py", before), "torch")
    assert edit is not None
    assert (apply_edits(before, [edit]) if edit.content else None) == after
    if after is not None:
        again = needed_import(SourceFile("a.py", after), "torch")
        assert again is not None
        assert again.content == ""


@pytest.mark.parametrize(
    "text",
    [
        "import jax as torch\n", "from x import torch\n", "def f(torch): ...\n", "torch = 1\n", "class torch: ...\n",
        "def f():\n    import torch\n", "try:\n    import torch\nexcept ImportError:\n    torch = None\n",
        "x = 1; import os\n", "'doc'; import os\n", "", "'doc'\n", "global torch\n",
    ],
)  # fmt: skip
def test_where_none_can_be_added(text: str) -> None:
    assert needed_import(SourceFile("a.py", text), "torch") is None


def test_a_fix_that_needs_an_import(cli: Cli) -> None:
    Path("a.py").write_text(f"from torch import nn\n\n\n{EVALUATE}\n\n{EVALUATE.replace('evaluate', 'test')}")
    assert cli("check", "--fix", "a.py").exit_code == 0
    text = Path("a.py").read_text()
    assert text.startswith("import torch\nfrom torch import nn\n\n\n@torch.no_grad()\ndef evaluate(")
    assert text.count("import torch\n") == 1
    assert text.count("@torch.no_grad()") == 2
    ast.parse(text)
    assert "Fixed" not in cli("check", "--fix", "a.py").stderr


def test_a_fix_that_cannot_have_its_import(cli: Cli) -> None:
    text = f"from torch import nn\nfrom mine import torch\n\n\n{EVALUATE}"
    Path("a.py").write_text(text)
    assert "GTR601" in cli("check", "--fix", "a.py").stdout
    assert Path("a.py").read_text() == text
    late = f"{EVALUATE.replace(': nn.Module', '')}\n\nfrom torch import nn\n"
    Path("a.py").write_text(late)
    assert "GTR601" in cli("check", "--fix", "a.py").stdout
    assert Path("a.py").read_text() == late


def test_an_import_in_a_notebook(cli: Cli) -> None:
    sources = ["%matplotlib inline\nfrom torch import nn", EVALUATE]
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source} for source in sources]
    Path("a.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert cli("check", "--fix", "a.ipynb").exit_code == 0
    first, second = (cell["source"] for cell in json.loads(Path("a.ipynb").read_text())["cells"])
    assert first == "%matplotlib inline\nimport torch\nfrom torch import nn"
    assert second == f"@torch.no_grad()\n{EVALUATE}"
