"""Every rule's demo in real torch: the trapped program shows the mechanism, the fixed one does not."""

from __future__ import annotations

import importlib
import math
import warnings
from types import ModuleType

import pytest

from flake8_gradtrap.rule import all_rules

MODULES: dict[str, ModuleType] = {code: importlib.import_module(rule.__module__) for code, rule in all_rules().items()}
DEMOS = {code: module for code, module in MODULES.items() if hasattr(module, "trapped")}


@pytest.mark.parametrize("code", DEMOS)
def test_trap_and_fix_differ_in_the_mechanism(code: str) -> None:
    pytest.importorskip("torch")
    demo = DEMOS[code]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about traps depends on its version
        trapped, fixed = demo.trapped(), demo.fixed()
    assert trapped.keys() == fixed.keys()
    assert all(isinstance(value, float) and math.isfinite(value) for value in fixed.values())
    demo.check(trapped, fixed)
    with pytest.raises(AssertionError):  # a check that also passes without the trap proves nothing
        demo.check(fixed, fixed)
