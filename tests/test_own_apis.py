"""A project's own APIs: what the settings say of a function is what the abstract run takes it for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import check_source
from flake8_gradtrap.own import NONE, OwnApis

HEAD = """\
import torch
import helpers
from helpers import frozen, trainable
from trainlib import Engine, optimize


def train(model, loader, criterion, scaler, tracker):
"""
OWN = OwnApis(
    one_shot_sources=("helpers.trainable",),
    materialisers=("helpers.frozen",),
    clip_functions=("helpers.squeeze", "*.shrink"),
    loggers=("*.keep_all", "helpers.tell"),
    step_wrappers=("trainlib.optimize", "trainlib.Engine.go"),
)
LOOP = """\
    params = {params}
    optimizer = torch.optim.AdamW(params)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""
SCALED = """\
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        optimizer.zero_grad()
        scaler.scale(criterion(model(x), y)).backward()
        {clip}
        scaler.step(optimizer)
        scaler.update()
"""
LAUNDERED = """\
    for x, y in loader:
        loss = criterion(model(x), y)
        loss = torch.tensor(loss.item(), requires_grad=True)
        {step}
"""
LOGGED = """\
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader:
        loss = criterion(model(x), y)
        {log}
        loss.backward()
        optimizer.step()
"""


def found(body: str, own: OwnApis = NONE, path: str = "train.py", head: str = HEAD) -> list[tuple[int, str]]:
    """The codes by the row in the body."""
    result = check_source(head + body, path, Settings(apis=own))
    return [(finding.span.row - head.count("\n"), finding.code) for finding in result.findings]


@pytest.mark.parametrize(
    ("body", "before", "after"),
    [
        (LOOP.format(params="trainable(model)"), [], [(6, "GTR101")]),
        (LOOP.format(params="helpers.trainable(model, decay=True)"), [], [(6, "GTR101")]),
        (LOOP.format(params="list(trainable(model))"), [], []),
        (LOOP.format(params="helpers.others(model)"), [], []),
        (LOOP.format(params="frozen(trainable(model))"), [], []),
        (LOOP.format(params="filter(None, model.parameters())"), [(6, "GTR101")], [(6, "GTR101")]),
        (LOOP.format(params="frozen(filter(None, model.parameters()))"), [], []),
        (SCALED.format(clip="helpers.squeeze(model.parameters(), 1.0)"), [], [(5, "GTR301")]),
        (SCALED.format(clip="tracker.shrink(model.parameters())"), [], [(5, "GTR301")]),
        (SCALED.format(clip="helpers.other(model.parameters())"), [], []),
        (SCALED.format(clip="scaler.unscale_(optimizer); helpers.squeeze(model.parameters())"), [], []),
        (LAUNDERED.format(step="optimize(loss)"), [], [(3, "GTR209")]),
        (LAUNDERED.format(step="Engine(model).go(loss)"), [], [(3, "GTR209")]),
        (LAUNDERED.format(step="Engine(model).look(loss)"), [], []),
        (LAUNDERED.format(step="optimize(criterion(model(x), y))"), [], []),
        (LOGGED.format(log="tracker.keep_all(loss, optimizer)"), [], [(5, "GTR501")]),
        (LOGGED.format(log="helpers.tell(optimizer)"), [], [(5, "GTR501")]),
        (LOGGED.format(log="helpers.work(optimizer)"), [], []),
    ],
)
def test_what_settings_say(body: str, before: list[tuple[int, str]], after: list[tuple[int, str]]) -> None:
    assert found(body) == before
    assert found(body, OWN) == after
    assert found(body) == before


HELPERS = """\
def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


class Clipper:
    def squeeze(self, parameters):
        return self.backend(parameters)
"""


def test_settings_say_more_than_a_function_that_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text(HELPERS)
    path = tmp_path / "train.py"
    body = LOOP.format(params="trainable(model)")
    path.write_text(HEAD + body)
    assert found(body, path=str(path)) == []
    assert found(body, OWN, path=str(path)) == [(6, "GTR101")]
    body = SCALED.format(clip="helpers.Clipper().squeeze(model.parameters())")
    path.write_text(HEAD + body)
    assert found(body, path=str(path)) == []
    own = OwnApis(clip_functions=("helpers.Clipper.squeeze",))
    assert found(body, own, path=str(path)) == [(5, "GTR301")]
    assert found(body, OwnApis(clip_functions=("other.Clipper.squeeze",)), path=str(path)) == []


def test_functions_of_the_same_file_are_named_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "tools" / "train.py"
    path.parent.mkdir()
    head = HELPERS + "import torch\n\n\ndef train(model, loader, criterion):\n"
    body = LOOP.format(params="trainable(model)")
    path.write_text(head + body)
    for name in ("tools.train.trainable", "train.trainable"):
        assert found(body, OwnApis(one_shot_sources=(name,)), str(path), head) == [(6, "GTR101")]
    assert found(body, OwnApis(one_shot_sources=("train.trainables", "rain.trainable")), str(path), head) == []


def test_a_file_that_speaks_of_nothing_but_own_apis_is_run() -> None:
    head = "from helpers import trainable\n\n\ndef count(model):\n"
    body = "    items = trainable(model)\n    for item in items:\n        print(item)\n    return len(list(items))\n"
    assert found(body, NONE, head=head) == []
    assert found(body, OWN, head=head) == [(4, "GTR101")]
