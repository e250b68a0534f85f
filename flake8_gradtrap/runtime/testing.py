"""For a project's own tests: run a few real steps of its training loop, and fail if a trap was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from flake8_gradtrap.runtime.reporting import some
from flake8_gradtrap.runtime.watching import Watch, watch


def assert_trains(
    step: Callable[[], Any],
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    scaler: Any = None,
    *,
    steps: int = 10,
) -> Watch:
    """Call `step()` `steps` times; raise AssertionError with a line for each trap that the steps show.

    `step` does what one iteration of the loop does: forward, backward, clip, step, clearing, in whatever order the loop
    has them. What it returns is let go. Returns the closed watch, with all that was measured.

        def test_it_trains():
            model, optimizer, batches = make_everything()
            assert_trains(lambda: train_step(model, optimizer, next(batches)), model, optimizer)
    """
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with watch(model, optimizer, scaler, every=1) as watched:
        for _ in range(steps):
            step()
    found = watched.problems()
    optimizers = watched.optimizers
    owned = {id(one) for each in optimizers for group in each.param_groups for one in group["params"]}
    if watched.records.steps == 0:
        found.append(f"no optimizer stepped in {steps} calls")
    else:
        still = [
            name
            for name, parameter in model.named_parameters()
            if id(parameter) in owned and parameter.requires_grad and torch.equal(parameter.detach(), before[name])
        ]
        if still:
            found.append(f"in the optimizer, and unchanged after {watched.records.steps} steps: {some(still)}")
    if found:
        raise AssertionError("\n".join([f"{len(found)} problem(s) in {watched.records.steps} steps:", *found]))
    return watched
