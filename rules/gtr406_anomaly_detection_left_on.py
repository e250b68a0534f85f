"""Anomaly detection of autograd is on while a model trains.

## What it does

Reports `torch.autograd.set_detect_anomaly(True)`, or a block under `torch.autograd.detect_anomaly()`, if a loop goes
backward while it is on, and no setting or condition decides about it.

## Why it is a trap

It is a tool to find where a NaN comes from, and nothing to train with: for each operation of the forward, Python's
stack is formatted and kept with the graph, and each gradient of each operation is searched for NaN, which waits for the
GPU. In the demo, each node of the graph carries the text of a stack. A step of a small model takes twice as long.

## Known limits

False positives: a script that is meant for debugging.

False negatives: `Trainer(detect_anomaly=True)` of Lightning; a condition that is always true.

There is no fix: whether the line goes away, or under a setting, is for you to say.

## Trap

```python
import torch


def train(model, loader, criterion):
    torch.autograd.set_detect_anomaly(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, debug=False):
    torch.autograd.set_detect_anomaly(debug)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## References

- [torch.autograd.set_detect_anomaly](https://docs.pytorch.org/docs/stable/autograd.html#torch.autograd.set_detect_anomaly)
- [Performance tuning: disable debugging APIs](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#disable-debugging-apis)
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from flake8_gradtrap.events import AnomalyDetectionSet, Backpropagated, FileEnded, Site, Stepped
from flake8_gradtrap.gradients import InLoops, Mark, tagged
from flake8_gradtrap.rule import Watch, on


class AnomalyDetectionLeftOn(InLoops):
    """In memory: "on", where it was switched on. A backward that also runs without it: a condition decides."""

    code = "GTR406"
    name = "anomaly-detection-left-on"
    summary = "Autograd's anomaly detection is on while a model trains"
    default = False
    words = ("set_detect_anomaly", "detect_anomaly")

    def __init__(self) -> None:
        self.slowed: dict[Hashable, tuple[Site, Site, frozenset[Hashable]]] = {}
        """Backwards that run with it: where it was switched on, where they stand, and in which loops."""
        self.trains: set[Hashable] = set()
        """The innermost loops in which an optimizer steps."""
        self.free: set[Hashable] = set()
        """Backwards that run without it, on whatever path."""

    @on(AnomalyDetectionSet)
    def switched(self, event: AnomalyDetectionSet, watch: Watch) -> None:
        if event.enabled:
            watch.put(("on",), Mark(event.site))
        else:
            watch.drop(("on",))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        mark: Mark | None = watch.get(("on",))
        if mark is None:
            self.free.add(event.site.node)
        else:
            self.slowed.setdefault(event.site.node, (mark.site, event.site, self.running(watch)))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        loops = tagged(watch, "active")
        if loops:
            self.trains.add(loops[-1][0][1])

    @on(FileEnded)
    def ended(self, event: FileEnded, watch: Watch) -> None:
        for place, (switched, backward, loops) in self.slowed.items():
            if place not in self.free and not loops.isdisjoint(self.trains):
                watch.report(
                    switched,
                    f"autograd's anomaly detection is on while line {watch.line(backward)} trains: every operation "
                    "keeps the text of its stack, every gradient is searched for NaN; switch it on only to debug",
                    trace=[("it is switched on here", switched), ("and slows this backward down", backward)],
                )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    with torch.autograd.set_detect_anomaly(True):
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

    nodes: set[Any] = set()
    found: set[Any] = {loss.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found for parent, _ in node.next_functions if parent is not None} - nodes
    stacks = [node.metadata["traceback_"] for node in nodes if "traceback_" in node.metadata]
    return {"nodes that keep a stack": float(len(stacks)), "lines of stack": float(sum(map(len, stacks)))}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    with torch.autograd.set_detect_anomaly(False):
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

    nodes: set[Any] = set()
    found: set[Any] = {loss.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found for parent, _ in node.next_functions if parent is not None} - nodes
    stacks = [node.metadata["traceback_"] for node in nodes if "traceback_" in node.metadata]
    return {"nodes that keep a stack": float(len(stacks)), "lines of stack": float(sum(map(len, stacks)))}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["nodes that keep a stack"] >= 4, "each operation of the forward keeps the stack that called it"
    assert fixed["nodes that keep a stack"] == fixed["lines of stack"] == 0
