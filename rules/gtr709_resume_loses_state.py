"""Training is resumed from a checkpoint without the state of its optimizer or scheduler.

## What it does

Reports a `load_state_dict` of a model in a program that goes on at the epoch or step of a checkpoint
(`start_epoch = checkpoint["epoch"]`), and steps an optimizer with a state of its own, or a scheduler, whose state is
restored on no path.

## Why it is a trap

The weights are those of epoch 90, and everything else is that of epoch 0. The first steps of Adam have no second moment
to divide by: each weight moves by the full learning rate, whatever its gradient. A scheduler begins its warm-up, or its
highest rate, again. The loss jumps at each resume, so that a run that was interrupted is another run than one that was
not. SGD without momentum has no state, and is silent.

## Known limits

False positives: a state that is on purpose not restored, because the schedule begins anew.

False negatives: what one method restores and another trains; checkpoints that are read out of sight; an epoch that is
only called `epoch`; scalers, which find their scale again after a few skipped steps, are only mentioned.

There is no fix: save the missing `state_dict()`s and load them.

## Trap

```python
import torch


def train(model, loader, criterion, epochs, resume):
    optimizer = torch.optim.Adam(model.parameters())
    start_epoch = 0
    if resume:
        checkpoint = torch.load("last.pt")
        model.load_state_dict(checkpoint["model"])  # and what of the optimizer?
        start_epoch = checkpoint["epoch"] + 1
    for epoch in range(start_epoch, epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        torch.save({"model": model.state_dict(), "epoch": epoch}, "last.pt")
```

## Fixed

```python
import torch


def train(model, loader, criterion, epochs, resume):
    optimizer = torch.optim.Adam(model.parameters())
    start_epoch = 0
    if resume:
        checkpoint = torch.load("last.pt")
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        start_epoch = checkpoint["epoch"] + 1
    for epoch in range(start_epoch, epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, "last.pt")
```

## References

- [Saving and loading a general checkpoint](https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html#saving-loading-a-general-checkpoint-for-inference-and-or-resuming-training)
- [torch.optim.Optimizer.load_state_dict](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from flake8_gradtrap.events import (
    FileEnded,
    OptimizerMade,
    Owners,
    ProgressRestored,
    ScalerMade,
    SchedulerMade,
    SchedulerStepped,
    Site,
    StateRestored,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import overlap, quoted, tagged
from flake8_gradtrap.rule import Rule, Watch, on

_READS = frozenset({"load_state_dict", "load_state", "load_checkpoint"})


@dataclass(frozen=True, slots=True)
class Keeps:
    """Something with a state that was made on this path: an "optimizer", a "scheduler" or a "scaler"."""

    kind: str
    site: Site = field(compare=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """A model that was restored, or where training goes on."""

    site: Site = field(compare=False)
    owners: Owners = None
    label: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Resumed:
    """A restored model that is trained on: where it goes on, and what is used with it that has a state, with labels."""

    model: Restored
    progress: Restored
    used: tuple[tuple[Keeps, str, Site], ...] = ()


class ResumeLosesState(Rule):
    """In memory: "keeps", by what has a state; "model", by what was restored; "progress", where training goes on;
    "stepped".

    What has a state is known by the place where it is made: whatever restores it, on any path, speaks for all.
    """

    code = "GTR709"
    name = "resume-loses-state"
    summary = "Training is resumed from a checkpoint without the state of its optimizer or scheduler"
    default = False
    words = ("load_state_dict", "backward", "manual_backward")
    roots = ("backward", "manual_backward")
    waits = ("resumed",)

    def __init__(self) -> None:
        self.resumed: dict[Hashable, Resumed] = {}
        """By the place where a model is restored."""
        self.kept: set[Hashable] = set()
        """Where that is made of which the state is restored, or set otherwise."""
        self.unclear = False
        """Something is restored of which it cannot be seen what it is."""

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        if event.stateful:
            watch.put(("keeps", event.optimizer.key), Keeps("optimizer", event.site))

    @on(SchedulerMade)
    def scheduled(self, event: SchedulerMade, watch: Watch) -> None:
        if not event.resumed:
            watch.put(("keeps", event.scheduler.key), Keeps("scheduler", event.site))

    @on(ScalerMade)
    def scales(self, event: ScalerMade, watch: Watch) -> None:
        watch.put(("keeps", event.scaler.key), Keeps("scaler", event.site))

    @on(StateRestored)
    def restored(self, event: StateRestored, watch: Watch) -> None:
        keeps = watch.get(("keeps", event.target.key))
        if event.kind == "module":
            watch.put(("model", event.target.key), Restored(event.site, event.owners))
        elif keeps is not None:
            self.kept.add(keeps.site.node)
        else:
            self.unclear = True

    @on(ProgressRestored)
    def progress(self, event: ProgressRestored, watch: Watch) -> None:
        watch.put(("progress",), Restored(event.site, None, event.progress.label))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        if watch.get(("progress",)) is not None:
            watch.put(("stepped",), True)
            self.uses(event.optimizer, event.owners, event.site, watch)
            if event.scaler is not None:
                self.uses(event.scaler, event.owners, event.site, watch)

    @on(SchedulerStepped)
    def schedule(self, event: SchedulerStepped, watch: Watch) -> None:
        keeps = watch.get(("keeps", event.scheduler.key))
        if keeps is None or watch.get(("progress",)) is None:
            return
        if event.given or not watch.get(("stepped",)):
            self.kept.add(keeps.site.node)  # it is told the epoch, or wound on to where training goes on
        else:
            self.uses(event.scheduler, None, event.site, watch)

    def uses(self, thing: Thing, owners: Owners, site: Site, watch: Watch) -> None:
        """Something is used after a model was restored."""
        keeps: Keeps | None = watch.get(("keeps", thing.key))
        for _, model in tagged(watch, "model"):
            if keeps is not None and overlap(model.owners, owners) is not False:
                old = self.resumed.get(model.site.node, Resumed(model, watch.get(("progress",))))
                if all(one.site.node != keeps.site.node for one, _, _ in old.used):
                    used = (keeps, quoted(thing, f"the {keeps.kind}"), site)
                    self.resumed[model.site.node] = replace(old, used=(*old.used, used))

    @on(FileEnded)
    def judge(self, event: FileEnded, watch: Watch) -> None:
        if self.unclear or any(not _READS.isdisjoint(mentions) for mentions in event.unrun):
            return
        places: set[Hashable] = set()
        for resumed in self.resumed.values():
            lost = [one for one in resumed.used if one[0].site.node not in self.kept]
            first = next((one for one in lost if one[0].kind != "scaler"), None)
            if first is not None and resumed.progress.site.node not in places:
                places.add(resumed.progress.site.node)
                self.tell(resumed, lost, first, watch)

    @staticmethod
    def tell(
        resumed: Resumed, lost: list[tuple[Keeps, str, Site]], first: tuple[Keeps, str, Site], watch: Watch
    ) -> None:
        names = list(dict.fromkeys(name for _, name, _ in lost))
        whose = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        begins, each = ("begins", "its") if len(names) == 1 else ("begin", "their")
        watch.report(
            resumed.model.site,
            f"training goes on at `{resumed.progress.label}` of the checkpoint, and {whose} {begins} without {each} "
            f"state, as in a new run; save and load {each} `state_dict()`, too",
            trace=[
                ("the model is restored here", resumed.model.site),
                ("the training goes on where it was", resumed.progress.site),
                (f"{first[1]} is made here, and not restored", first[0].site),
                ("and used here", first[2]),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import io

    import torch
    from torch import nn

    inputs, targets, file, steps = _interrupted(device)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    checkpoint = torch.load(io.BytesIO(file))
    model.load_state_dict(checkpoint["model"])
    start_step = checkpoint["step"]
    before = model.weight.detach().clone()
    for _ in range(start_step, steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    return {"length of the first step after the resume": (model.weight.detach() - before).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import io

    import torch
    from torch import nn

    inputs, targets, file, steps = _interrupted(device)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    checkpoint = torch.load(io.BytesIO(file))
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    start_step = checkpoint["step"]
    before = model.weight.detach().clone()
    for _ in range(start_step, steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    return {"length of the first step after the resume": (model.weight.detach() - before).norm().item()}


def _interrupted(device: str) -> tuple[Any, Any, bytes, int]:
    """A training of 60 steps: its data, its checkpoint, and the step after the next."""
    import io

    import torch
    from torch import nn

    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 60}, file)
    return inputs, targets, file.getvalue(), 61


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    longer = trapped["length of the first step after the resume"]
    assert longer > 5 * fixed["length of the first step after the resume"]
    assert fixed["length of the first step after the resume"] < 0.05  # the learning rate of one weight
