"""What the abstract run promises whatever it is given: bounds, errors of ours, several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from abstract import PRELUDE, marks, places, run

from flake8_gradtrap.events import Clipped
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.rule import Watch, all_rules, on

# -- bounds -----------------------------------------------------------------------------------------------------------


def labyrinth(loops: int, branches: int) -> str:
    """A function of nested loops full of branches, each of which leaves something else behind."""
    lines = ["def labyrinth(model, loader, criterion, optimizer, flags):", "    kept = {}"]
    for depth in range(loops):
        lines.append("    " * (depth + 1) + f"for i{depth} in loader:")
        for number in range(branches):
            indent, flag = "    " * (depth + 2), depth * branches + number
            lines += [
                f"{indent}if flags[{flag}](i{depth}):",
                f"{indent}    p{flag} = model.parameters()",
                f"{indent}    kept[{flag}] = p{flag}",
                f"{indent}else:",
                f"{indent}    optimizer.zero_grad()",
                f"{indent}    for p in kept[{max(flag - 1, 0)}]:",
                f"{indent}        p.grad = None",
                f"{indent}    criterion(model(i{depth}), {flag}).backward()",
                f"{indent}    optimizer.step()",
            ]
    return "\n".join([*lines, "    return kept", "", ""])


AFTER = """
def setup(model):
    params = model.parameters()
    optimizer = Adam(params)
    clip_grad_norm_(params, 1.0)  # GTR101
    return optimizer
"""


def machine_of(text: str) -> Any:
    from flake8_gradtrap.interp.machine import Machine
    from flake8_gradtrap.interp.project import Module, Project
    from flake8_gradtrap.source import SourceFile

    rules = [rule for rule in all_rules().values() if any(True for _ in rule.handlers())]
    words = frozenset(word for rule in rules for word in rule.words)
    return Machine(Module(SourceFile("train.py", text), Project(read=False)), rules, words)


def test_a_function_over_its_budget_is_left_alone_and_counted() -> None:
    text = PRELUDE + labyrinth(3, 100) + AFTER
    result = run(text)
    assert result.statistics.functions_over_budget >= 1
    assert result.statistics.functions_over_budget < result.statistics.functions_run
    assert places(result.findings) >= marks(text), "the functions after it are still run"


def test_a_long_chain_without_gradients_in_a_loss() -> None:
    chain = "\n".join(
        f"            weight = (weight * 0.5 + weight.roll({number})).clamp(0, 1)" for number in range(150)
    )
    text = f"""
import torch


def train(model, teacher, loader, optimizer):
    for x, y in loader:
        loss = torch.nn.functional.mse_loss(model(x), y)
        with torch.no_grad():
            weight = teacher(x)
{chain}
        loss = loss + weight.mean()
        loss.backward()
        optimizer.step()
"""
    result = run(text)
    assert result.statistics.functions_over_budget == 0
    assert "GTR501" in {finding.code for finding in result.findings}


def test_what_waits_in_a_run_that_is_given_up_is_never_told() -> None:
    first, *rest = labyrinth(3, 100).split("\n")
    suspect = """\
    for x, y in loader:
        optimizer.zero_grad()
        clip_grad_norm_(model.parameters(), 1.0)
        criterion(model(x), y).backward()
        optimizer.step()"""
    told = run("\n".join([PRELUDE, first, suspect, "    return optimizer", AFTER])).findings
    assert "GTR302" in {finding.code for finding in told}
    result = run("\n".join([PRELUDE, first, suspect, *rest, AFTER]))
    assert result.statistics.functions_over_budget >= 1
    assert {finding.code for finding in result.findings} == {"GTR101"}


def test_no_run_takes_more_steps_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.core import Core

    machine = machine_of(PRELUDE + labyrinth(3, 100))
    most = 0
    tick = Core.tick

    def count(self: Core, *arguments: Any) -> None:
        nonlocal most
        tick(self, *arguments)
        most = max(most, self.steps)

    monkeypatch.setattr(Core, "tick", count)
    machine.run()
    assert machine.tally.over_budget
    assert machine.budget // 2 < most <= machine.budget


@pytest.mark.parametrize(
    "program",
    [
        "def f(model, flags):\n    params = model.parameters()\n"
        + "".join(f"    if flags[{n}]:\n        x{n} = {n}\n" for n in range(300))
        + "    return Adam(params)\n",
        "def f(model):\n    params = model.parameters()\n    return Adam(params)" + ".x(1)" * 150 + "\n",
        "def f(model):\n    params = model.parameters()\n" + "".join(f"    a{n} = params\n" for n in range(2000)),
        "def f(model, n):\n    return f(model, f(model, f(iter(model.parameters()), n)))\n",
        "".join(f"def f{n}(model):\n    f{n + 1}(model)\n    f{n + 1}(model)\n\n\n" for n in range(40))
        + "def f40(model):\n    return list(iter(model.parameters()))\n",
        "def f(model):\n    params = model.parameters()\n"
        + "".join("    " * (n + 1) + "for p in params:\n" for n in range(15))
        + "    " * 16
        + "p.grad = None\n",
        "class A(B):\n    pass\n\n\nclass B(A):\n    def step(self, model):\n        return model.parameters()\n",
    ],
    ids=["many branches", "long chain", "many names", "recursion", "doubling calls", "deep loops", "circular bases"],
)
def test_hard_programs_end(program: str) -> None:
    result = run(PRELUDE + program)
    assert all(finding.code != "GTR000" for finding in result.findings)
    assert result.statistics.functions_run >= 1


@pytest.mark.parametrize("expression", ["{{{pairs}}}", "[{parts}]", "save({parts})", "dict({named})", "f'{fields}'"])
def test_many_choices_in_one_expression_do_not_multiply(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of ten things that may be None: a thousand ways, of which few are followed."""
    from flake8_gradtrap.interp.merging import Merger

    most, merge = 0, Merger.merge

    def count(self: Merger, states: list[Any]) -> list[Any]:
        nonlocal most
        most = max(most, len(states))
        return merge(self, states)

    monkeypatch.setattr(Merger, "merge", count)
    parts = [f"None if c{number} is None else c{number}.state_dict()" for number in range(10)]
    made = expression.format(
        pairs=", ".join(f"'c{number}': {part}" for number, part in enumerate(parts)),
        parts=", ".join(parts),
        named=", ".join(f"c{number}={part}" for number, part in enumerate(parts)),
        fields=" ".join(f"{{{part}}}" for part in parts),
    )
    arguments = ", ".join(f"c{number}" for number in range(10))
    text = f"""
def keep(model, save, {arguments}):
    params = model.parameters()
    optimizer = Adam(params)
    state = {made}
    save(state)
    clip_grad_norm_(params, 1.0)  # GTR101
    return optimizer, state
"""
    text = PRELUDE + text
    assert places(run(text).findings) == marks(text)
    assert 1 < most <= 32


@pytest.mark.parametrize(
    ("program", "deepest"),
    [
        ("def first(params):\n    first(params)\n    return list(params)\n", 3),
        (
            "def first(params):\n    return second(params)\n\n\ndef second(params):\n    return list(first(params))\n",
            4,
        ),
        ("".join(f"def f{n}(params):\n    return f{n + 1}(params)\n\n\n" for n in range(40)), 7),
    ],
    ids=["itself", "each other", "a long chain"],
)
def test_calls_are_entered_to_a_certain_depth(program: str, deepest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    seen = []
    enter = Machine.enter

    def count(self: Machine, func: Any, args: Any, node: Any, st: Any) -> Any:
        seen.append(len(st.frames))
        return enter(self, func, args, node, st)

    monkeypatch.setattr(Machine, "enter", count)
    name = program.partition("(")[0].removeprefix("def ")
    machine = machine_of(
        PRELUDE + program + "def f40(params):\n    return list(params)\n\n\n"
        f"def go(model):\n    {name}(model.parameters())\n    return Adam(model.parameters())\n"
    )
    machine.run()
    assert 2 < max(seen) <= deepest
    assert not machine.tally.over_budget


def test_a_property_runs_once_on_each_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    ran: list[str] = []
    activate = Machine._activate_all

    def count(self: Machine, func: Any, entries: Any, node: Any) -> Any:
        ran.extend([func.node.name] * len(entries))
        return activate(self, func, entries, node)

    monkeypatch.setattr(Machine, "_activate_all", count)
    program = """
class Trainer:
    def __init__(self, model, wrapped):
        self.model = model
        self.wrapped = wrapped

    @property
    def clear(self):
        return self.plain if self.wrapped else self.guarded

    def plain(self):
        pass

    def guarded(self):
        pass

def fit(model, wrapped, first):
    trainer = Trainer(model, wrapped)
    optimizer = Adam(model.parameters())
    if first:
        optimizer.zero_grad()
    trainer.clear()
    model(1).sum().backward()
    optimizer.step()
"""
    machine_of(PRELUDE + program).run()
    assert ran.count("clear") == 2


# -- errors of ours ---------------------------------------------------------------------------------------------------

BOTH = """
def train(model, loader, criterion, optimizer, scaler):
    params = model.parameters()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        print(sum(p.numel() for p in params))  # GTR101
"""


def test_an_error_in_a_rule_is_one_finding_that_names_it_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    @on(Clipped)
    def clip(self: object, event: Clipped, watch: Watch) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(all_rules()["GTR301"], "clip", clip)
    text = PRELUDE + BOTH
    failures = [finding for finding in run(text).findings if finding.code == "GTR000"]
    assert len(failures) == 1
    assert "GTR301" in failures[0].message
    assert "it broke" in failures[0].message
    assert failures[0].span.row == text.split("\n").index("        clip_grad_norm_(model.parameters(), 1.0)") + 1
    assert places(run(text).findings) - {(failures[0].span.row, "GTR000")} == marks(text)


@pytest.mark.parametrize("where", ["__init__", "_function"])
def test_an_error_in_the_abstract_run_is_one_finding(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    def fail(self: object, *arguments: object) -> None:
        raise KeyError("an assumption")

    monkeypatch.setattr(Machine, where, fail)
    (finding,) = run(PRELUDE + BOTH).findings
    assert finding.code == "GTR000"
    assert f"internal error in {Path(__file__).name}" in finding.message
    assert "an assumption" in finding.message


def test_what_was_found_before_an_error_in_the_abstract_run_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    function = Machine._function

    def fail_late(self: Machine, *arguments: object) -> None:
        if self.reports:
            raise KeyError("an assumption")
        function(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Machine, "_function", fail_late)
    alone = {finding.code for finding in run(PRELUDE + BOTH).findings}
    both = run(PRELUDE + BOTH + BOTH.replace("train", "again")).findings
    assert alone
    assert {finding.code for finding in both} == alone | {"GTR000"}


# -- several files ----------------------------------------------------------------------------------------------------

HELPER = """\
from torch.optim import Adam


def make_optimizer(parameters, lr):
    return Adam(parameters, lr=lr)


def clip(parameters, limit):
    total = sum(p.grad.norm() ** 2 for p in parameters) ** 0.5
    for p in parameters:
        p.grad.mul_(limit / total)


def by_itself(model):
    params = model.parameters()
    count = sum(p.numel() for p in params)
    return Adam(params), count
"""

MAIN = """\
from torch import nn

from helper import by_itself, clip, make_optimizer


def train(model, loader, criterion):
    optimizer, _ = by_itself(model)
    params = filter(lambda p: p.requires_grad, model.parameters())
    other = make_optimizer(params, 0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        clip(model.parameters(), 1.0)  # GTR101
        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101
        optimizer.step()
    return other
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "train.py").write_text(MAIN)
    return tmp_path


def check(path: Path) -> tuple[Finding, ...]:
    return run(path.read_text(), str(path)).findings


def test_a_trap_in_a_helper_is_told_at_the_call(project: Path) -> None:
    findings = check(project / "train.py")
    assert places(findings) == marks(MAIN)
    first, second = findings
    assert {step.filename for step in first.trace} == {str(project / "train.py"), str(project / "helper.py")}
    assert "helper" not in second.message
    assert all(finding.filename == str(project / "train.py") for finding in findings)


def test_what_a_helper_does_all_by_itself_is_told_where_it_stands(project: Path) -> None:
    rows = HELPER.split("\n")
    alone = rows.index("    return Adam(params), count") + 1
    definition = rows.index("    for p in parameters:") + 1
    assert places(check(project / "helper.py")) == {(alone, "GTR101"), (definition, "GTR103")}


def test_no_trap_is_told_twice(project: Path) -> None:
    told = [(f.filename, f.span.row, f.code) for name in ("train.py", "helper.py") for f in check(project / name)]
    assert len(told) == len(set(told)) == 4


def test_a_call_of_a_helper_in_a_loop_is_one_finding(project: Path) -> None:
    step = "        optimizer.step()\n"
    text = MAIN.replace(step, f"        clip(model.parameters(), 2.0)  # GTR101\n{step}")
    (project / "train.py").write_text(text)
    assert places(check(project / "train.py")) == marks(text)
    assert len(check(project / "train.py")) == len(marks(text))


def test_a_helper_that_makes_a_list_is_silent_in_both_files(project: Path) -> None:
    listed = HELPER.replace("limit):\n", "limit):\n    parameters = list(parameters)\n")
    (project / "helper.py").write_text(listed)
    assert {finding.code for finding in check(project / "helper.py")} == {"GTR101"}  # what it does by itself
    rows = [finding.span.row for finding in check(project / "train.py")]
    assert rows == [MAIN.split("\n").index("        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101") + 1]


def test_a_helper_that_cannot_be_read_is_unknown(project: Path) -> None:
    (project / "helper.py").write_bytes(b"def clip(:\n")
    clip = MAIN.split("\n").index("        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101") + 1
    (finding,) = check(project / "train.py")
    assert (finding.span.row, finding.code) == (clip, "GTR101")
    assert "from the second time on" in finding.message  # whatever `make_optimizer` does, the first step uses it up


def test_a_text_without_a_place_reads_no_other_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "train.py").unlink()
    clip_call = MAIN.split("\n").index("        clip(model.parameters(), 1.0)  # GTR101") + 1
    assert (clip_call, "GTR101") not in places(run(MAIN, "stdin").findings)


def test_imports_in_a_circle_end(project: Path) -> None:
    (project / "helper.py").write_text("from train import train\n" + HELPER)
    assert places(check(project / "train.py")) == marks(MAIN)
