"""The loss goes backward inside the autocast block in which it was computed.

## What it does

Reports a backward inside a `with torch.autocast(…)` block.

## Why it is a trap

Autocast is for the forward. The backward of each built-in operation runs in the type of its forward in any case, so for
these it makes no difference where the backward stands (measured in torch 2.13: the same gradients, bit by bit). What
Python code does in the backward is cast, though: the `backward` of a `torch.autograd.Function`, hooks on tensors. An
operation that was kept in float32 on purpose then has a gradient of float16 or bfloat16, and a hook may fail because
its result has another type. torch advises against it. The demo compares the gradient of a function that is computed in
float32 with what it should be.

## Known limits

It is in preview: with built-in operations alone it changes nothing.

False positives: models without code of their own in the backward.

False negatives: autocast as a decorator, or made by a function out of sight (`accelerator.autocast()`).

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
            loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
```

## References

- [Automatic Mixed Precision: autocasting](https://docs.pytorch.org/docs/stable/amp.html#autocasting): backward passes
  under autocast are not recommended
"""

from __future__ import annotations

from typing import Any

from flake8_gradtrap.events import AutocastEntered, AutocastLeft, Backpropagated
from flake8_gradtrap.gradients import Mark, quoted, tagged
from flake8_gradtrap.rule import Rule, Watch, on


class BackwardUnderAutocast(Rule):
    """In memory: the blocks that were "entered", by their number."""

    code = "GTR307"
    name = "backward-under-autocast"
    summary = "The loss goes backward inside the autocast block in which it was computed"
    words = ("autocast",)
    default = False

    @on(AutocastEntered)
    def enters(self, event: AutocastEntered, watch: Watch) -> None:
        depth = len(tagged(watch, "entered"))
        watch.put(
            ("entered", depth), Mark(event.site, walked=frozenset({event.block}), flag=event.enabled is not False)
        )

    @on(AutocastLeft)
    def leaves(self, event: AutocastLeft, watch: Watch) -> None:
        for key, mark in tagged(watch, "entered"):
            if event.block in mark.walked:
                watch.drop(key)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        blocks = tagged(watch, "entered")
        if not blocks or event.opaque or event.through is not None:
            return
        _, inner = max(blocks, key=lambda entry: entry[0][1])
        if inner.flag:
            watch.report(
                event.site,
                f"{quoted(event.loss, 'the loss')} goes backward under autocast (line {watch.line(inner.site)}): what "
                "custom functions and hooks compute in the backward is cast as well, also what was kept in float32; "
                "call `backward()` after the block",
                trace=[("the block begins here", inner.site), ("and it goes backward inside", event.site)],
            )


def in_float32() -> Any:
    """A product that is computed in float32, whatever the type around it."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any) -> Any:
            ctx.save_for_backward(x, weight)
            with torch.autocast(x.device.type, enabled=False):
                return x.float() @ weight.float()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            x, weight = ctx.saved_tensors
            return gradient @ weight.t(), x.t() @ gradient

    return Product.apply


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    product = in_float32()
    weight = torch.randn(64, 64, device=device, requires_grad=True)
    x = torch.randn(256, 64, device=device)
    exact = torch.autograd.grad((x @ weight).square().mean(), weight)[0]
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = product(x, weight).square().mean()
        loss.backward()
    assert weight.grad is not None
    return {"relative error of the gradient": ((weight.grad - exact).norm() / exact.norm()).item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    product = in_float32()
    weight = torch.randn(64, 64, device=device, requires_grad=True)
    x = torch.randn(256, 64, device=device)
    exact = torch.autograd.grad((x @ weight).square().mean(), weight)[0]
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = product(x, weight).square().mean()
    loss.backward()
    assert weight.grad is not None
    return {"relative error of the gradient": ((weight.grad - exact).norm() / exact.norm()).item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["relative error of the gradient"] > 1e-3, "the product of the backward is cast to bfloat16"
    assert fixed["relative error of the gradient"] < 1e-5
