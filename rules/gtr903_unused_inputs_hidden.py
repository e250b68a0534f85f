"""Inputs that take no part in a gradient are left out, and nobody learns which.

## What it does

Reports gradients of several inputs, computed with `allow_unused=True`, from which those that are None are left out: a
comprehension with `if g is not None`, or a loop that collects the others.

## Why it is a trap

None says that an input has no part in the output: a layer that the forward does not use, a tensor that was detached, a
list of the wrong parameters. Without `allow_unused` this would raise. Left out, it is hidden, and the gradients that
remain no longer stand where their inputs do: `zip(inputs, gradients)` pairs each one behind the gap with the gradient
of another, shapes permitting.

## Known limits

False positives: gradients of which only the sum or the norm is taken later.

False negatives: gradients that are filtered in a function out of sight.

There is no fix: pair gradients with their inputs before, use zeros for None (`materialize_grads=True`), or leave
`allow_unused` away.

## Trap

```python
import torch


def inner_step(model, loss, rate):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [g for g in gradients if g is not None]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):  # not each with its own
            parameter -= rate * gradient
```

## Fixed

```python
import torch


def inner_step(model, loss, rate):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            parameter -= rate * gradient
```

## References

- [torch.autograd.grad](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad.html)
"""

from __future__ import annotations

from typing import Any

from flake8_gradtrap.events import UnusedDropped
from flake8_gradtrap.rule import Rule, Watch, on


class UnusedInputsHidden(Rule):
    code = "GTR903"
    name = "unused-inputs-hidden"
    summary = "Gradients that are None with allow_unused=True are left out: the rest no longer match their inputs"
    default = False
    words = ("allow_unused",)

    @on(UnusedDropped)
    def dropped(self, event: UnusedDropped, watch: Watch) -> None:
        watch.report(
            event.site,
            "gradients that are None are left out here: which inputs take no part is hidden, and the others no longer "
            "stand where their inputs do; pair them before, or pass `materialize_grads=True` for zeros",
            trace=[
                ("`allow_unused=True` lets an input have no gradient", event.made),
                ("those that have none are left out", event.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(3)]).to(device)
    parameters = list(model.parameters())
    loss = _loss(model, device)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return _measure(loss, parameters, [gradient for gradient in gradients if gradient is not None])


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(3)]).to(device)
    parameters = list(model.parameters())
    loss = _loss(model, device)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True, retain_graph=True)
    return _measure(loss, parameters, list(gradients))


def _loss(model: Any, device: str) -> Any:
    import torch

    inputs = torch.randn(16, 8, device=device)
    return model[2](model[0](inputs)).pow(2).mean()  # the second layer takes no part


def _measure(loss: Any, parameters: list[Any], gradients: list[Any]) -> dict[str, float]:
    import torch

    own = torch.autograd.grad(loss, [parameters[0], parameters[2]])
    expected = [own[0], torch.zeros_like(own[0]), own[1]]
    pairs = list(zip(parameters, gradients, expected, strict=False))
    wrong = sum(not torch.equal(gradient, right) for _, gradient, right in pairs)
    return {"parameters that get the gradient of another": float(wrong), "parameters in pairs": float(len(pairs))}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that get the gradient of another"] == 1.0
    assert trapped["parameters in pairs"] == 2.0
    assert fixed["parameters that get the gradient of another"] == 0.0
    assert fixed["parameters in pairs"] == 3.0
