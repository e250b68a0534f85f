"""What an editor adds to a check: texts that are not saved, and an early end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import Surroundings, check_source
from flake8_gradtrap.interp.machine import Machine

PREVIEW = Settings.of(preview=True, ignore=["GTR312"])
BY_CODE = Settings.of(select=["GTR101"])

TRAIN = """\
import torch
from helper import trainable


def train(model, loader, optimizer):
    params = trainable(model)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).sum().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""
GENERATOR = "def trainable(model):\n    return (p for p in model.parameters() if p.requires_grad)\n"
LIST = "def trainable(model):\n    return [p for p in model.parameters() if p.requires_grad]\n"


def codes(path: Path, text: str = TRAIN, **unsaved: str) -> list[str]:
    texts = {str(path.with_name(f"{name}.py")): text for name, text in unsaved.items()}
    result = check_source(text, str(path), Settings(), surroundings=Surroundings(texts))
    return [finding.code for finding in result.findings]


def test_unsaved_text_counts_instead_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    (tmp_path / "helper.py").write_text(GENERATOR)
    assert codes(path) == ["GTR101"]
    assert codes(path, helper=LIST) == []
    assert codes(path, helper="def (") == []  # as a file that cannot be parsed
    (tmp_path / "helper.py").unlink()
    assert codes(path) == []
    assert codes(path, helper=GENERATOR) == ["GTR101"]


def test_a_file_that_was_never_saved_has_a_place_if_the_editor_says_so(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    (tmp_path / "helper.py").write_text(GENERATOR)
    assert codes(path) == []
    assert codes(path, train=TRAIN) == ["GTR101"]


def test_the_files_that_had_a_part_are_told(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    missing = check_source(TRAIN, str(path), Settings())
    assert str(tmp_path / "helper.py") in missing.consulted
    assert check_source(TRAIN, "<unknown>", Settings()).consulted == frozenset()
    assert check_source("x = (", str(path), Settings()).consulted == frozenset()


def many_functions(number: int) -> str:
    """A file that takes seconds."""
    body = TRAIN.partition("\n\n\n")[2]
    return "import torch\nfrom helper import trainable\n" + "".join(
        f"\n\n{body.replace('def train', f'def train_{index}')}" for index in range(number)
    )


class Impatient(Surroundings):
    """Ends its check as soon as three functions were run."""

    def watch(self, machine: Machine) -> None:
        super().watch(machine)
        threading.Thread(target=self._wait, args=(machine,)).start()

    def _wait(self, machine: Machine) -> None:
        while machine.tally.functions_run < 3:
            time.sleep(0.001)
        self.stop()


def test_a_check_ends_early() -> None:
    text = many_functions(400)
    stopped = check_source(text, "train.py", Settings(), surroundings=Impatient()).statistics
    assert stopped.functions_run == 400
    assert stopped.functions_over_budget > 10

    before = Surroundings()
    before.stop()
    assert check_source(TRAIN, "train.py", Settings(), surroundings=before).statistics.functions_over_budget == 1


def test_findings_in_a_test_suite_are_previews() -> None:
    lines = ["import torch", "def test_ema(model):", "    optimizer = torch.optim.SGD(model.parameters(), lr=1)"]
    lines += [
        "    params = model.parameters()",
        "    model(1).backward()",
        "    torch.nn.utils.clip_grad_norm_(params, 1)",
    ]
    text = "\n".join([*lines, "    torch.nn.utils.clip_grad_norm_(params, 2)", ""])
    told = {
        path: [len(check_source(text, path, settings).findings) for settings in (Settings(), PREVIEW, BY_CODE)]
        for path in ("train.py", "tests/train.py", "tests/test_train.py", "pkg/test/deep/ema_test.py")
    }
    suite = [0, 1, 1]
    assert told == {
        "train.py": [1, 1, 1],
        "tests/train.py": [1, 1, 1],
        "tests/test_train.py": suite,
        "pkg/test/deep/ema_test.py": suite,
    }
    assert check_source(f"import pytest\n{text}", "check.py", Settings()).findings == ()
    run = [check_source(text, "tests/test_train.py", told).statistics.functions_run for told in (Settings(), PREVIEW)]
    assert run == [0, 1]
