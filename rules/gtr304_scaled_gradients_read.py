"""The norm of gradients is taken while they are still multiplied by the loss scale.

## What it does

Reports a measure of gradients (`p.grad.norm()`, `torch.norm(p.grad)`, a histogram, `clip_grad_norm_(…, inf)`) between
`scaler.scale(loss).backward()` and `scaler.unscale_(optimizer)`.

## Why it is a trap

Until `unscale_`, or `scaler.step`, divides them, gradients are multiplied by the loss scale: 65,536 at the start, and
whatever the scaler makes of it later. The logged norm is that much too large, and it doubles or halves when the scale
does: a curve that shows the scaler and not the training. In the demo the norm doubles from one step to the next while
the gradients stay what they are.

## Known limits

False positives: a norm that is divided by the scale in a way that cannot be seen.

False negatives: a function that reads the loss scale anywhere is left alone, because it may divide by it; measures in
code that cannot be seen (`wandb.watch`); gradients whose owner is unknown while there are several optimizers. Tests for
infinities and NaN are right while scaled, and silent. A clip is GTR301.

## Trap

```python
import torch


def train(model, loader, criterion, writer):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        for name, p in model.named_parameters():
            writer.add_scalar(f"norm/{name}", p.grad.norm(), step)
        scaler.step(optimizer)
        scaler.update()
```

## Fixed

```python
import torch


def train(model, loader, criterion, writer):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        for name, p in model.named_parameters():
            writer.add_scalar(f"norm/{name}", p.grad.norm(), step)
        scaler.step(optimizer)
        scaler.update()
```

## References

- [Working with unscaled gradients](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-unscaled-gradients)
- [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    GradientMeasured,
    Owners,
    ScaleRead,
    ScalerUpdated,
    Site,
    Stepped,
    Thing,
    Unscaled,
)
from flake8_gradtrap.gradients import (
    TORCH_CLIPS,
    Mark,
    MeetsOptimizers,
    concerns,
    forget,
    forget_touched,
    graph_of,
    lift,
    meet,
    overlap,
    quoted,
    settle,
    tagged,
)
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import WaitingForFile


@dataclass(frozen=True, slots=True)
class Look:
    """A measure of scaled gradients."""

    site: Site
    how: str
    backward: Site
    scaler: Thing | None


class ScaledGradientsRead(MeetsOptimizers, WaitingForFile):
    """In memory: "scaled", by owners and scaler; "measured", by place: scaled gradients that nothing has cleared,
    unscaled or applied since.

    Acquitted: scalers whose scale is read, since what is measured may be divided by it; places of measures by which
    gradients are then clipped or divided by hand.
    """

    code = "GTR304"
    name = "scaled-gradients-read"
    summary = "The norm of gradients is taken while they are still multiplied by the loss scale"
    words = ("GradScaler", "scaler")

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "scaled", "measured")
        elif event.scaler is not None:
            watch.put(("scaled", event.owners, event.scaler.key), Mark(event.site, graph_of(event), event.scaler))

    @on(Unscaled)
    def unscale(self, event: Unscaled, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "measured")

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "measured")

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled", "measured")

    @on(ScalerUpdated)
    def update(self, event: ScalerUpdated, watch: Watch) -> None:
        forget(watch, "scaled", "measured")

    @on(ScaleRead)
    def read(self, event: ScaleRead, watch: Watch) -> None:
        self.acquit(event.scaler.key)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "scaled")

    @on(GradientMeasured)
    def measure(self, event: GradientMeasured, watch: Watch) -> None:
        self.look(event.site, event.owners, event.how, watch)

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.measures_only and event.by in TORCH_CLIPS and not event.dropped:
            self.look(event.site, event.owners, event.by, watch)
        elif not event.own:  # by hand, perhaps by the scale
            for key, site in tagged(watch, "measured"):
                if overlap(key[1], event.owners) is not False:
                    self.acquit(site.node)
            if event.rescales:
                settle(watch, event.owners, "scaled")

    def look(self, site: Site, owners: Owners, how: str, watch: Watch) -> None:
        for key, mark in tagged(watch, "scaled"):
            if overlap(key[1], owners) or (None in (key[1], owners) and concerns(watch, key[1], owners)):
                watch.put(("measured", owners or key[1], site.node), site)
                scaler = mark.scaler.key if mark.scaler is not None else None
                self.suspect((site.node, scaler), partial(self.tell, Look(site, how, mark.site, mark.scaler)))

    def tell(self, look: Look, watch: Watch) -> None:
        place = lift(look.site, look.backward) or look.site
        scaler = quoted(look.scaler, "the scaler")
        call = f"`{look.scaler.label}.unscale_(optimizer)`" if look.scaler and look.scaler.label else "`unscale_`"
        watch.report(
            place,
            f"`{look.how}` of gradients that {scaler} scaled at line {watch.line(look.backward)}: what it shows is too "
            f"large by the loss scale, and changes when the scale does; call {call} before it",
            trace=[
                ("the scaled loss is back-propagated here", look.backward),
                ("its gradients are measured here, still scaled", look.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    """The norm that is logged while the scale doubles and the model stands still."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    norms: list[float] = []
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        norms.extend(p.grad.norm().item() for p in model.parameters() if p.grad is not None)
        scaler.step(optimizer)
        scaler.update()
    return {"first logged norm": norms[0], "second logged norm": norms[1]}


def fixed(device: str = "cpu") -> dict[str, float]:
    """The same, unscaled first."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    norms: list[float] = []
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norms.extend(p.grad.norm().item() for p in model.parameters() if p.grad is not None)
        scaler.step(optimizer)
        scaler.update()
    return {"first logged norm": norms[0], "second logged norm": norms[1]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert abs(fixed["second logged norm"] / fixed["first logged norm"] - 1) < 0.01, "nothing has changed"
    assert 1.98 < trapped["second logged norm"] / trapped["first logged norm"] < 2.02, "the scale has doubled"
    assert trapped["first logged norm"] / fixed["first logged norm"] > 60, "what is logged is multiplied by 64"
