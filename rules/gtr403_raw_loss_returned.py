"""A step function that has called `backward()` returns the live loss, and its caller keeps it.

## What it does

Reports the `return` of a loss with its history by a function that has itself back-propagated it, where a visible
caller sums it or stores it beyond its next iteration. Without such a caller in sight the finding is a preview, as where
the caller puts the loss on an attribute: that keeps the nodes of one step, until the next takes their place.

## Why it is a trap

The function's work with the graph is done, and the caller only wants the number. With the loss it gets the whole
graph: its saved tensors are freed, its nodes are not, and a sum or a list of such losses holds them all. In the demo
that is seven nodes for each step of a two-layer model.

## Known limits

False positives: in preview, a function whose callers all print the loss, or overwrite it.

False negatives: a caller in code that cannot be seen; a function that gets its backward done by another one.

There is no fix: whether `.detach()` or `.item()` is better depends on the callers.

## Trap

```python
import torch


def train_step(model, optimizer, criterion, x, y):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for x, y in loader:
        total += train_step(model, optimizer, criterion, x, y)
    return total
```

## Fixed

```python
import torch


def train_step(model, optimizer, criterion, x, y):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for x, y in loader:
        total += train_step(model, optimizer, criterion, x, y)
    return total
```

## References

- [Frequently asked questions: my model reports "out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory)
- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [torch.Tensor.item](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.item.html)
"""

from __future__ import annotations

import re

from flake8_gradtrap.events import Accumulated, FunctionLeft, Site, Stored, Thing
from flake8_gradtrap.gradients import quoted, tagged
from flake8_gradtrap.keeping import KeepsGraph, Kept, place_of
from flake8_gradtrap.rule import Watch, on

EXPECTED = re.compile(r"training_step|compute_loss|closure|_closure|<lambda>|lambda|forward|backward")
"""Functions of which a framework, or an optimizer, expects the live loss."""


class RawLossReturned(KeepsGraph):
    code = "GTR403"
    name = "raw-loss-returned"
    summary = "A step function returns the loss with its graph, and the caller keeps it"
    words = ("backward",)

    @on(Accumulated)
    def accumulated(self, event: Accumulated, watch: Watch) -> None:
        if event.made_by:
            self.keep(event, watch)
        else:
            self.extend(event, watch)

    @on(Stored)
    def stored(self, event: Stored, watch: Watch) -> None:
        if event.made_by:
            self.keep(event, watch)

    @on(FunctionLeft)
    def leave(self, event: FunctionLeft, watch: Watch) -> None:
        """A function that nobody in sight called: what becomes of its loss is not known."""
        if event.site.caller is not None or EXPECTED.fullmatch(event.function.rpartition(".")[2]):
            return
        for value in event.values:
            walks = [walk for _, walk in tagged(watch, "walk") if value.key in walk.tensors and not walk.retains]
            if walks:
                self.returned(event, value, walks[-1].site, watch)
                return

    def returned(self, event: FunctionLeft, value: Thing, backward: Site, watch: Watch) -> None:
        watch.report(
            event.site,
            f"{quoted(value, 'the loss')} was back-propagated at line {watch.line(backward)} and is returned with its "
            "graph, which a caller that keeps it keeps too; return `.detach()` or `.item()`",
            trace=[("it is back-propagated here", backward), ("and returned with its graph", event.site)],
            preview=True,
        )

    def tell(self, kept: Kept, trained: bool, watch: Watch) -> None:
        assert kept.made_by is not None
        place = place_of(kept)
        how = "stores" if kept.by else "sums"
        held = "the nodes of every step pile up"
        if kept.by == "attribute":  # the next step's takes its place
            held = "its nodes live until the next one takes its place"
        watch.report(
            kept.made_by,
            f"this returns a loss that was already back-propagated with its graph, and the caller {how} it at line "
            f"{watch.line(place)}: {held}; return `.detach()` or `.item()`",
            trace=[
                *([("it is back-propagated here", kept.backward)] if kept.backward is not None else []),
                ("returned here, with its graph", kept.made_by),
                ("and kept here, beyond the iteration", place),
            ],
            preview=kept.by == "attribute",
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    total = torch.zeros((), device=device)
    for _ in range(10):
        total += train_step(x, y)

    nodes, found = set(), {total.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the caller holds": float(len(nodes - {None})), "mean loss": total.item() / 10}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    total = torch.zeros((), device=device)
    for _ in range(10):
        total += train_step(x, y)

    nodes, found = set(), {total.grad_fn}
    while found:
        nodes |= found
        found = {parent for node in found if node is not None for parent, _ in node.next_functions} - nodes
    return {"graph nodes that the caller holds": float(len(nodes - {None})), "mean loss": total.item() / 10}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["graph nodes that the caller holds"] >= 10 * 5, "the sum holds the graph of each of the ten steps"
    assert fixed["graph nodes that the caller holds"] == 0
    assert trapped["mean loss"] == fixed["mean loss"], "the value is the same"
