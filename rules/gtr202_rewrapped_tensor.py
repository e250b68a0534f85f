"""An existing tensor is wrapped in a new one, which has no history.

## What it does

Reports `torch.tensor(t)`, `torch.tensor([t1, t2])`, `torch.Tensor([t1, t2])`, `torch.FloatTensor([…])`,
`torch.from_numpy(t.detach().numpy())` and their like of an existing tensor, and says which of two it is:

- the result is a term of what is back-propagated: the gradient is cut there (an error);
- it is not: a copy that should be written as one (a remark).

## Why it is a trap

`torch.tensor` copies values and knows no history: the result has no `grad_fn`, and what it was computed from gets no
gradient through it. torch warns of `torch.tensor(t)` ("To copy construct from a tensor"), and of a list of tensors
with history once a process ("Converting a tensor with requires_grad=True to a scalar"); of a list of tensors without,
never. A list also costs one synchronisation with the device for each element.

`torch.as_tensor(t)` of a tensor, and `torch.Tensor(t)` and `torch.FloatTensor(t)` of one tensor, keep the history
(measured with torch 2.13). `torch.as_tensor([t1, t2])` does not.

## Known limits

False positives: a copy without history that is meant, and better written `t.detach().clone()`.

False negatives: values of which it is not known that they are tensors; results that reach the backward in another
function, out of sight, are called wasteful copies.

There is no automatic fix: `torch.stack`, `clone` and `to` mean different things for the gradient.

## Trap

```python
import torch
from torch import nn


def train(body, loader, criterion):
    heads = nn.ModuleList([nn.Linear(16, 4), nn.Linear(16, 4)])
    optimizer = torch.optim.SGD([*body.parameters(), *heads.parameters()], lr=0.1)
    for inputs, targets in loader:
        optimizer.zero_grad()
        features = body(inputs)
        losses = [criterion(head(features), targets) for head in heads]
        loss = features.pow(2).mean() + torch.tensor(losses).mean()  # the heads are not trained
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(body, loader, criterion):
    heads = nn.ModuleList([nn.Linear(16, 4), nn.Linear(16, 4)])
    optimizer = torch.optim.SGD([*body.parameters(), *heads.parameters()], lr=0.1)
    for inputs, targets in loader:
        optimizer.zero_grad()
        features = body(inputs)
        losses = [criterion(head(features), targets) for head in heads]
        loss = features.pow(2).mean() + torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
```

## References

- [torch.tensor](https://docs.pytorch.org/docs/stable/generated/torch.tensor.html)
- [torch.stack](https://docs.pytorch.org/docs/stable/generated/torch.stack.html)
- [torch.as_tensor](https://docs.pytorch.org/docs/stable/generated/torch.as_tensor.html)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from flake8_gradtrap.events import Backpropagated, GradientForced, Produced, Rewrapped, RunEnded, Site, Term
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.traits import REWRAPS
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy without history of which it is not known yet what becomes of it."""

    event: Rewrapped = field(compare=False)


@dataclass(frozen=True, slots=True)
class Settled:
    """A copy about which everything is said, or which is another rule's."""


class RewrappedTensor(Waiting):
    """Acquitted: places that wrap what has no history on some path."""

    code = "GTR202"
    name = "rewrapped-tensor"
    summary = "An existing tensor is wrapped in a new one, which has no history"
    words = ("tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "from_numpy", "new_tensor", "Variable", "backward")
    roots = (REWRAPS, "backward")

    @on(Rewrapped)
    def rewrapped(self, event: Rewrapped, watch: Watch) -> None:
        if event.had_history is False and event.several:
            self.acquit(event.site.node)
        if watch.get(event.site.node) is None:
            watch.put(event.site.node, Copy(event))

    @on(GradientForced)
    def forced(self, event: GradientForced, watch: Watch) -> None:
        """What is made to require a gradient is GTR209's, or an input that is optimised."""
        watch.put(event.site.node, Settled())
        for node, copy in list(watch.items()):
            if isinstance(copy, Copy) and copy.event.result.key == event.value.key:
                watch.put(node, Settled())

    @on(Backpropagated, Produced)
    def arrived(self, event: Backpropagated | Produced, watch: Watch) -> None:
        for term in event.terms:
            copy = watch.get(term.site.node)
            if term.cut != "rewrap" or not term.additive or not term.had_history or isinstance(copy, Settled):
                continue
            if isinstance(event, Produced) and event.by == "forward" and copy and copy.event.array:
                continue  # a tokenizer or a quantizer: its output is no part of a gradient path by intention
            watch.put(term.site.node, Settled())
            self.suspect(term.site.node, partial(self.tell, term, event, copy.event if copy else None))

    @staticmethod
    def tell(term: Term, event: Backpropagated | Produced, copy: Rewrapped | None, watch: Watch) -> None:
        how = copy.how if copy else term.how
        raises = term.whole and isinstance(event, Backpropagated)
        watch.report(
            term.site,
            f"`{how.strip('`') or 'this'}` copies values without history: "
            + (
                "`backward()` raises, there is nothing to differentiate"
                if raises
                else "the loss does not train this term"
            )
            + f"; use {instead(copy)}",
            trace=[
                ("a copy without history is made here", term.site),
                ("returned here" if isinstance(event, Produced) else "back-propagated here", event.site),
            ],
            severity="error",
        )

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for node, copy in watch.items():
            if isinstance(copy, Copy):
                self.suspect(node, partial(remark, copy.event, copy.event.site))
        super().ended(event, watch)


def remark(event: Rewrapped, site: Site, watch: Watch) -> None:
    """Say that a copy is wasteful, where nothing is back-propagated through it."""
    how = event.how.strip("`") or "this"
    if event.meant:
        return
    if event.had_history:
        watch.report(
            site,
            f"`{how}` of a tensor copies it without its history: write {plainly(event)}, or {instead(event)}",
            trace=[("a copy without history is made here", site)],
            severity="info",
        )
    elif not event.several and "numpy" not in how:
        watch.report(
            site,
            f"`{how}` of a tensor is a needless copy; write `.clone()`, or `.to(…)` for another type",
            trace=[("a tensor is copied here", site)],
            severity="info",
        )


def instead(event: Rewrapped | None) -> str:
    """What keeps the history."""
    if event is None:
        return "the tensor itself, or `torch.stack([…])` of several, which keep the gradient"
    if event.several:
        return "`torch.stack([…])`, which keeps the gradient"
    return "the tensor itself (`.clone()`, `.to(…)`), which keeps the gradient"


def plainly(event: Rewrapped) -> str:
    """What says that no history is wanted."""
    return "`torch.stack([…]).detach()`" if event.several else "`.detach()`"


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    near = nn.Linear(16, 4).to(device)
    far = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *near.parameters(), *far.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = near.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        near_loss = nn.functional.cross_entropy(near(features), classes)
        far_loss = nn.functional.cross_entropy(far(features), classes)
        loss = main_loss + torch.tensor([near_loss, far_loss], device=device).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (near.weight.detach() - initial).norm()
    return {"change of an auxiliary head": moved.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    near = nn.Linear(16, 4).to(device)
    far = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *near.parameters(), *far.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = near.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        near_loss = nn.functional.cross_entropy(near(features), classes)
        far_loss = nn.functional.cross_entropy(far(features), classes)
        loss = main_loss + torch.stack([near_loss, far_loss]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (near.weight.detach() - initial).norm()
    return {"change of an auxiliary head": moved.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of an auxiliary head"] == 0.0
    assert fixed["change of an auxiliary head"] > 1e-3
