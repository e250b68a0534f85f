"""`requires_grad` is put on a computed loss, so that `backward()` stops complaining.

## What it does

Reports `Variable(loss, requires_grad=True)`, `torch.tensor(loss, requires_grad=True)`, `loss.requires_grad = True`,
`loss.requires_grad_()`, `.detach().requires_grad_()` on a value without a live graph, where that value, or a sum with
it, is then back-propagated, or returned by a loss function or a `training_step`.

## Why it is a trap

`backward()` raised "element 0 of tensors does not require grad and does not have a grad_fn". The error was right: the
graph was lost before. With `requires_grad` forced, the loss becomes a leaf of its own. `backward()` succeeds, writes
a gradient of 1 into `loss.grad`, and no parameter receives any. The optimizer finds `grad` None everywhere and skips
every parameter. A loss is printed in each step, and the model keeps its initial weights for good.

`requires_grad_()` on a loss with a live graph changes nothing (and `loss.requires_grad = True` on one raises): so the
line is either useless or fatal.

## Known limits

False positives: none known. Inputs that are optimised (adversarial examples, latents, prompts) are leaves in front of
a live graph, and silent.

False negatives: what a `forward` returns is only reported where its backward is in sight; a value of which it is not
known whether it has a graph.

There is no automatic fix: the graph must be kept alive where it is lost, which is another line.

## Trap

```python
import torch


def train(model, loader, criterion, optimizer):
    for inputs, targets in loader:
        optimizer.zero_grad()
        with torch.no_grad():
            outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.requires_grad = True  # backward() runs now, and trains nothing
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, optimizer):
    for inputs, targets in loader:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
```

## References

- [torch.Tensor.requires_grad_](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.requires_grad_.html)
- [torch.Tensor.is_leaf](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.is_leaf.html)
- [Autograd mechanics: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from flake8_gradtrap.events import Backpropagated, GradientForced, Produced, Site
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Forced:
    """A computed value on which `requires_grad` was put."""

    sure: bool
    event: GradientForced = field(compare=False)


class LossLaundered(Waiting):
    """Acquitted: places where a value with a live graph is made to require a gradient on some path."""

    code = "GTR209"
    name = "loss-laundered"
    summary = "requires_grad is put on a computed loss: backward() runs and trains nothing"
    severity = "error"
    words = ("requires_grad", "requires_grad_", "Variable")
    roots = ("backward",)

    @on(GradientForced)
    def forced(self, event: GradientForced, watch: Watch) -> None:
        if event.live is True:
            self.acquit(event.site.node)
        else:
            watch.put(event.value.key, Forced(event.live is False, event))

    @on(Backpropagated)
    def backpropagated(self, event: Backpropagated, watch: Watch) -> None:
        known = watch.get(event.loss.key)
        if known is not None and known.sure:
            self.launders(known.event.site, known.event.how, True, event)
        else:
            self.parts(event, watch)

    @on(Produced)
    def produced(self, event: Produced, watch: Watch) -> None:
        """A `forward` may return a new leaf on purpose (split learning, checkpointing); a loss function may not."""
        if event.by != "forward":
            known = watch.get(event.value.key)
            if known is not None and known.sure:
                self.launders(known.event.site, known.event.how, True, event)
            else:
                self.parts(event, watch)

    def parts(self, event: Backpropagated | Produced, watch: Watch) -> None:
        weighted = isinstance(event, Backpropagated) and event.weight is not None  # then it may be no loss at all
        unsure = {known.event.site for _, known in watch.items() if not known.sure}
        for term in event.terms:
            if term.cut != "forced" or not term.additive:
                continue
            if term.had_history or (term.whole and not weighted and term.site not in unsure):
                self.launders(term.site, term.how, term.whole, event)

    def launders(self, site: Site, how: str, whole: bool, event: Backpropagated | Produced) -> None:
        self.suspect(site.node, partial(self.tell, site, how, whole, event))

    @staticmethod
    def tell(site: Site, how: str, whole: bool, event: Backpropagated | Produced, watch: Watch) -> None:
        what = f"`{how.strip('`')}`" if how else "this"
        if whole:
            message = f"`backward()` runs and trains nothing: {what} makes a leaf of a loss that has lost its graph; "
        else:
            message = f"the loss does not train this term: {what} makes a leaf of a value that has lost its graph; "
        watch.report(
            site,
            message + "delete it, and keep the graph alive where the loss is computed",
            trace=[
                ("a computed value is made to require a gradient here", site),
                ("returned as the loss here" if isinstance(event, Produced) else "back-propagated here", event.site),
            ],
            severity="error",
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16)
    model = nn.Sequential(body, nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)

    initial = body.weight.detach().clone()
    for _ in range(5):
        outputs = model(inputs).data
        loss = nn.functional.mse_loss(outputs, targets)
        loss.requires_grad = True
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (body.weight.detach() - initial).norm()
    return {"change of the weights": moved.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16)
    model = nn.Sequential(body, nn.Tanh(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)

    initial = body.weight.detach().clone()
    for _ in range(5):
        outputs = model(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (body.weight.detach() - initial).norm()
    return {"change of the weights": moved.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of the weights"] == 0.0
    assert fixed["change of the weights"] > 1e-3
