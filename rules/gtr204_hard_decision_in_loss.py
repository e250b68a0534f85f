"""A loss, or a term of it, is computed from a hard decision: no gradient comes through.

## What it does

Reports a step (`round`, `floor`, `sign`) or a decision (`argmax`, `>`, `==`, `.long()`, the indices of `topk`) on
values that carry a gradient, if what is back-propagated, or a term that is added to it, depends on them in no other
way. Decisions as targets, as masks beside a live value, as rewards that weigh a log-probability, and straight-through
estimators are silent.

## Why it is a trap

The gradient of a step is zero wherever it has one. `round`, `floor`, `ceil` and `sign` are recorded, so `backward()`
runs, and all gradients before the step are exactly zero. `argmax` and comparisons are not recorded: a term that is made
of them is a constant. Accuracy cannot be trained on like this.

## Known limits

False positives: a count that is added to the loss for the log only.

False negatives: a loss that consists of decisions that are not recorded: `backward()` raises by itself, and where
`requires_grad_()` keeps it from raising, GTR209 speaks; a decision in code out of sight; one that stands on some
paths to the `backward()` only.

## Trap

```python
import torch
from torch import nn


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        predicted = model(x).sigmoid().round()  # a gradient of zero from here on
        loss = nn.functional.mse_loss(predicted, y)
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        predicted = model(x).sigmoid()
        loss = nn.functional.mse_loss(predicted, y)
        loss.backward()
        optimizer.step()
        print((predicted.round() == y).float().mean())
```

## References

- [torch.round](https://docs.pytorch.org/docs/stable/generated/torch.round.html)
- [Autograd mechanics: gradients for non-differentiable functions](https://docs.pytorch.org/docs/stable/notes/autograd.html#gradients-for-non-differentiable-functions)
"""

from __future__ import annotations

from collections.abc import Hashable

from flake8_gradtrap.events import Backpropagated, FileEnded, Produced, Site, Term
from flake8_gradtrap.rule import Rule, Watch, on

DECISIONS = ("hard", "rounded")


class HardDecisionInLoss(Rule):
    code = "GTR204"
    name = "hard-decision-in-loss"
    summary = "A loss, or a term of it, depends on what is trained through a hard decision only"
    words = ("backward", "training_step")
    roots = ("backward",)
    waits = ("suspects",)

    def __init__(self) -> None:
        self.always: dict[Hashable, set[Hashable]] = {}
        """For each backward, the decisions that stood before it on all paths."""
        self.suspects: dict[Hashable, tuple[Term, Site]] = {}
        """By decision, the term and where it is back-propagated."""

    @on(Backpropagated)
    def backpropagated(self, event: Backpropagated, watch: Watch) -> None:
        self.judge(event, watch)

    @on(Produced)
    def produced(self, event: Produced, watch: Watch) -> None:
        if event.by == "training_step":
            self.judge(event, watch)

    def judge(self, event: Backpropagated | Produced, watch: Watch) -> None:
        found = [term for term in event.terms if term.cut in DECISIONS and term.additive and term.had_history]
        if all(term.cut == "hard" and term.whole for term in found):
            found = []  # nothing is recorded: backward() raises
        places = {term.site.node for term in found}
        self.always[event.site.node] = self.always.get(event.site.node, places) & places
        for term in found:
            self.suspects.setdefault(term.site.node, (term, event.site))

    @on(FileEnded)
    def ended(self, event: FileEnded, watch: Watch) -> None:
        for place, (term, loss) in self.suspects.items():
            if place in self.always[loss.node]:
                how = term.how.strip("`")
                why = "has a gradient of zero" if term.cut == "rounded" else "has no gradient"
                what = "nothing before it is trained" if term.whole else "the loss does not train this term"
                watch.report(
                    term.site,
                    f"{what}: `{how}` {why}; put what is decided on into the loss itself, or pass the gradient "
                    "straight through: `x + (decided - x).detach()`",
                    trace=[("decided here", term.site), ("back-propagated here", loss)],
                )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(64, 8, device=device)
    y = (x.sum(1, keepdim=True) > 0).float()
    start = model.weight.detach().clone()
    for _ in range(10):
        loss = nn.functional.mse_loss(model(x).sigmoid().round(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"change of the weights": (model.weight.detach() - start).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(64, 8, device=device)
    y = (x.sum(1, keepdim=True) > 0).float()
    start = model.weight.detach().clone()
    for _ in range(10):
        loss = nn.functional.mse_loss(model(x).sigmoid(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"change of the weights": (model.weight.detach() - start).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of the weights"] == 0.0
    assert fixed["change of the weights"] > 0.01
