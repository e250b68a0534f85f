"""`gradtrap prove`: what the demos measured, how it is judged, and what is said when it cannot be run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from conftest import Cli

from flake8_gradtrap.rule import Rule, all_rules

pytest.importorskip("torch")
from flake8_gradtrap.runtime import prove


class Example(Rule):
    code = "GTR999"
    name = "an-example"
    summary = "An example"
    words: ClassVar[tuple[str, ...]] = ()


def demo(trapped: float, fixed: float, check: Any) -> ModuleType:
    module = ModuleType("demo")
    module.__dict__.update(trapped=lambda device: {"norm": trapped}, fixed=lambda device: {"norm": fixed}, check=check)
    return module


def less(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["norm"] < fixed["norm"], "the norm is not smaller"


def test_pass_fail_and_error() -> None:
    proof = prove.prove_one(Example, demo(1.0, 2.0, less), "cpu")
    assert (proof.verdict, proof.why, list(proof.rows()), proof.ok) == ("PASS", "", [("norm", 1.0, 2.0)], True)
    proof = prove.prove_one(Example, demo(2.0, 2.0, less), "cpu")
    assert (proof.verdict, proof.ok) == ("FAIL", False)
    assert proof.why.startswith("the norm is not smaller")
    proof = prove.prove_one(Example, demo(1.0, 2.0, lambda trapped, fixed: None), "cpu")
    assert (proof.verdict, proof.why) == ("FAIL", "the check passes without the trap, too: it proves nothing")
    proof = prove.prove_one(Example, demo(1.0, 2.0, lambda trapped, fixed: fixed["nrom"]), "cpu")
    assert (proof.verdict, proof.why, proof.ok) == ("ERROR", "KeyError: 'nrom'", False)


def test_a_rule_without_a_demo_says_why() -> None:
    proof = prove.prove_one(all_rules()["GTR000"], ModuleType("no_demo"), "cpu")
    assert (proof.verdict, proof.ok) == ("NONE", True)
    assert "nothing to run" in proof.why
    for rule in all_rules().values():
        has_demo = hasattr(importlib.import_module(rule.__module__), "trapped")
        assert has_demo != bool(rule.unproved), rule.code


def test_the_random_state_of_the_caller_stays() -> None:
    import torch

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    list(prove.prove([all_rules()["GTR501"]], "cpu"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1024.0, "1,024"), (4.8841e-05, "4.884e-05"), (float("inf"), "inf"), (0.26, "0.26"), (2e9, "2e+09")],
)
def test_numbers(value: float, shown: str) -> None:
    assert prove.number(value) == shown


def test_ratio_says_nothing_over_zero() -> None:
    assert prove.ratio(1.0, 0.0) is None
    assert prove.ratio(float("nan"), 1.0) is None
    assert prove.ratio(1.0, 4.0) == 0.25


def test_table_json_and_plot(cli: Cli, tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    run = cli("prove", "GTR301,501", "GTR000", "--device", "cpu", "--json", str(figures), "--plot", str(picture))
    assert run.exit_code == 2  # 501 is no code
    assert "unknown rule '501'" in run.stderr
    run = cli(
        "prove", "GTR301,gradients-never-cleared", "GTR000", "--device", "cpu", "--json", str(figures),
        "--plot", str(picture),
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "first norm seen by the clip" in run.stdout
    assert "2 traps proved" in run.stdout
    assert "torch 2." in run.stdout.splitlines()[0]
    found = json.loads(figures.read_text())
    assert found["device"] == "cpu"
    assert [(proof["code"], proof["verdict"]) for proof in found["proofs"]] == [
        ("GTR301", "PASS"),
        ("GTR501", "PASS"),
        ("GTR000", "NONE"),
    ]
    trapped, fixed = (found["proofs"][0][arm]["first norm seen by the clip"] for arm in ("trapped", "fixed"))
    assert 1000 < trapped / fixed < 1050
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_failed_proof_ends_with_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = prove.Proof("GTR301", "clip-before-unscale", "FAIL", "expected a factor of 1024", (("norm", 1.0),))
    monkeypatch.setattr(prove, "prove", lambda rules, device: iter([broken]))
    run = cli("prove", "GTR301", "--device", "cpu")
    assert run.exit_code == 1
    assert "0 traps proved, 1 not: GTR301" in run.stdout
    assert "expected a factor of 1024" in run.stdout


def test_what_cannot_be_run_is_said(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cli("prove", "GTR301", "--json", str(tmp_path / "no" / "f.json"))
    assert (run.exit_code, run.stderr) == (2, f"gradtrap: error: --json: {tmp_path / 'no'}: no such folder\n")
    monkeypatch.setattr(prove.torch, "cuda", SimpleNamespace(is_available=lambda: False))
    run = cli("prove", "GTR301", "--device", "cuda")
    assert run.exit_code == 2
    assert "no CUDA device is available" in run.stderr
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = cli("prove", "GTR301")
    assert run.exit_code == 2
    assert "prove needs torch: pip install 'flake8-gradtrap[runtime]'" in run.stderr
