"""Losses are scaled although autocast casts to bfloat16, which needs no scaling.

## What it does

Reports a `GradScaler` that is switched on and whose scaled losses are computed under `torch.autocast` with
`dtype=torch.bfloat16`.

## Why it is a trap

A loss is scaled so that small gradients do not become 0 in float16. bfloat16 has the range of float32: a gradient of
1e-9 becomes 0 in float16, and stays what it is in bfloat16 (measured). So the scaler protects from nothing, and costs:
`scaler.step` looks for inf in all gradients and waits for the device, and since none is ever found, the scale doubles
every 2,000 steps, until the scaled loss itself overflows. From then on good steps are skipped again and again, for
nothing. Every clip and log of gradients must unscale them first as well. The demo counts the steps that are skipped.

## Known limits

It is in preview: what is lost is time, and few steps.

False positives: a model that is itself float16, or code of its own in float16 under this autocast.

False negatives: a type that a setting decides; a scaler that is handed in, or that another setting than autocast's
switches on; autocast as a decorator, or made by code out of sight.

## Trap

```python
import torch


def train(model, loader, criterion):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
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

- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
- [Automatic Mixed Precision examples](https://docs.pytorch.org/docs/stable/notes/amp_examples.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from flake8_gradtrap.events import (
    AutocastEntered,
    AutocastLeft,
    Backpropagated,
    IterationStarted,
    ScalerMade,
    Site,
    Thing,
)
from flake8_gradtrap.gradients import quoted, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Switched:
    """A scaler, or a block under autocast: whether it is on, and what decides that where it is not known."""

    site: Site = field(compare=False)
    on: bool | None
    switch: Hashable = None
    dtype: str = ""
    left: bool = False

    def goes_with(self, scaler: Switched) -> bool:
        """Whether a block is under autocast whenever the scaler is on."""
        return bool(scaler.on) or (scaler.switch is not None and scaler.switch == self.switch)


class ScalerWithBfloat16(Waiting):
    """In memory: scalers that were "made", by their keys, and the blocks under autocast since the last backward
    ("cast").

    Acquitted: scalers of a loss that on some path is computed in another type.
    """

    code = "GTR309"
    name = "scaler-with-bfloat16"
    summary = "Losses are scaled although autocast casts to bfloat16, which needs no scaling"
    words = ("autocast",)
    default = False

    @on(ScalerMade)
    def made(self, event: ScalerMade, watch: Watch) -> None:
        watch.put(("made", event.scaler.key), Switched(event.site, event.enabled, key_of(event.switch)))

    @on(AutocastEntered)
    def enters(self, event: AutocastEntered, watch: Watch) -> None:
        if event.enabled is not False:
            block = Switched(event.site, event.enabled, key_of(event.switch), event.dtype)
            watch.put(("cast", event.block), block)

    @on(AutocastLeft)
    def leaves(self, event: AutocastLeft, watch: Watch) -> None:
        block = watch.get(("cast", event.block))
        if block is not None:
            watch.put(("cast", event.block), replace(block, left=True))

    @on(IterationStarted)
    def iteration(self, event: IterationStarted, watch: Watch) -> None:
        self.forget_left(watch)

    @staticmethod
    def forget_left(watch: Watch) -> None:
        for key, block in tagged(watch, "cast"):
            if block.left:
                watch.drop(key)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        blocks = [block for _, block in tagged(watch, "cast")]
        self.forget_left(watch)
        if event.scaler is None or not blocks:
            return
        made = watch.get(("made", event.scaler.key))
        if made is None:
            return
        if any(block.dtype != "bfloat16" for block in blocks):
            self.acquit(made.site.node)
        elif all(block.goes_with(made) for block in blocks):
            tell = partial(self.tell, made.site, blocks[-1].site, event.site, event.scaler)
            self.suspect(made.site.node, tell)

    @staticmethod
    def tell(made: Site, block: Site, backward: Site, scaler: Thing, watch: Watch) -> None:
        watch.report(
            made,
            f"{quoted(scaler, 'the scaler')} scales what autocast computes in bfloat16 (line {watch.line(block)}), "
            "which has the range of float32: nothing is gained, each step waits for the device, and once the scale has "
            "grown too far, good steps are skipped; go without a scaler",
            trace=[
                ("the scaler is made here", made),
                ("autocast casts to bfloat16 here", block),
                ("and the scaled loss goes backward here", backward),
            ],
        )


def key_of(switch: Thing | None) -> Hashable:
    return switch.key if switch is not None else None


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    # As after a quarter of a million steps; then it doubles with each step, and not every 2,000.
    scaler = torch.amp.GradScaler(device, init_scale=2.0**120, growth_interval=1)
    taken = 0
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = (model(torch.ones(4, 8, device=device)) + 4).float().square().mean()
        scaler.scale(loss).backward()
        before = model.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        taken += int(not torch.equal(model.weight, before))
    return {"steps": 20.0, "steps that were taken": float(taken)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    taken = 0
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = (model(torch.ones(4, 8, device=device)) + 4).float().square().mean()
        loss.backward()
        before = model.weight.detach().clone()
        optimizer.step()
        taken += int(not torch.equal(model.weight, before))
    return {"steps": 20.0, "steps that were taken": float(taken)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["steps that were taken"] < trapped["steps"], "the scale has grown too far"
    assert fixed["steps that were taken"] == fixed["steps"]
