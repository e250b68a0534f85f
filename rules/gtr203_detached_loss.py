"""What is back-propagated, or a term of it, was detached from its graph.

## What it does

Reports a loss, or one of its additive terms, that was cut by `.detach()`, `.data`, `.detach_()`, or computed under
`no_grad`, `inference_mode` or `set_grad_enabled(False)`. If all of the loss is cut, the finding is at `backward()`,
else where the term is cut.

## Why it is a trap

A detached term is a constant. Its value is in the printed loss, which may even fall, and its gradient is zero: what
only it would train keeps its initial values. As long as another term is alive, `backward()` succeeds and torch says
nothing. If all of the loss is cut, `backward()` raises "element 0 of tensors does not require grad", and the message
of the finding says so.

## Known limits

False positives: a constant that is added on purpose, for a loss that reads well in the log.

False negatives: a term that a condition detaches (`if epoch < warmup`), and that is alive otherwise; detached factors
(stop-gradient weights are made so), targets, teachers and straight-through estimators are silent, also where they were
not meant; terms that were cut in code out of sight.

## Trap

```python
import torch
from torch import nn


def train(head, loader, criterion):
    centres = nn.Parameter(torch.randn(10, 16))
    optimizer = torch.optim.SGD([centres, *head.parameters()], lr=0.1)
    for embedding, labels in loader:
        optimizer.zero_grad()
        main_loss = criterion(head(embedding), labels)
        distance = (embedding - centres[labels]).pow(2).mean().detach()
        loss = main_loss + 0.1 * distance  # the centres are not trained
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(head, loader, criterion):
    centres = nn.Parameter(torch.randn(10, 16))
    optimizer = torch.optim.SGD([centres, *head.parameters()], lr=0.1)
    for embedding, labels in loader:
        optimizer.zero_grad()
        main_loss = criterion(head(embedding), labels)
        distance = (embedding - centres[labels]).pow(2).mean()
        loss = main_loss + 0.1 * distance
        loss.backward()
        optimizer.step()
        print(distance.detach())
```

## References

- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [torch.no_grad](https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html)
- [Autograd mechanics: locally disabling gradient computation](https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation)
"""

from __future__ import annotations

from functools import partial

from flake8_gradtrap.events import Backpropagated, GradientForced, GradientModeSet, Produced, Term
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting

CUTS = ("detach", "no_grad")


class DetachedLoss(Waiting):
    """Acquitted, because a condition decides (`if self.training`) and the path of the finding may take no step:
    backwards that on some path have a loss of which nothing was computed with gradients off, or that is not cut as a
    whole; addends that are alive on some path.
    """

    code = "GTR203"
    name = "detached-loss"
    summary = "What is back-propagated, or a term of it, was detached from its graph"
    words = ("detach", "detach_", "no_grad", "inference_mode", "set_grad_enabled", "backward")
    roots = ("backward",)

    @on(GradientForced)
    def forced(self, event: GradientForced, watch: Watch) -> None:
        if not event.live:
            watch.put(event.value.key, "forced")  # GTR209 speaks of it

    @on(GradientModeSet)
    def switched(self, event: GradientModeSet, watch: Watch) -> None:
        watch.put("switched off", event.enabled is not True)

    @on(Backpropagated)
    def backpropagated(self, event: Backpropagated, watch: Watch) -> None:
        off_by_statement = event.recorded is False and watch.get("switched off")  # GTR604 speaks of it
        if watch.get(event.loss.key) is None and not off_by_statement:
            self.weigh([term for term in event.terms if term.cut in CUTS and term.additive], event)

    @on(Produced)
    def produced(self, event: Produced, watch: Watch) -> None:
        """A loss function may return a wholly detached value (for the log); a `forward` may stop gradients."""
        alive = any(not term.cut for term in event.terms)
        if alive and event.by != "forward" and watch.get(event.value.key) is None:
            cuts = [term for term in event.terms if term.cut in CUTS and term.additive and not term.whole]
            self.weigh(cuts, event)

    def weigh(self, cuts: list[Term], event: Backpropagated | Produced) -> None:
        where = event.site.node
        if all(term.cut != "no_grad" for term in cuts):
            self.acquit((where, "no_grad"))
        if not any(term.whole for term in cuts):
            self.acquit((where, "whole"))
        for term in event.terms:
            if not term.cut and term.had_history and term.addend is not None:
                self.acquit((where, term.addend.node))
        for term in cuts:
            if term.had_history:
                kind = "whole" if term.whole else term.cut
                added = (where, term.addend.node) if term.addend is not None else ()
                self.suspect(((where, kind), added, term.site.node), partial(self.tell, term, event))

    def tell(self, term: Term, event: Backpropagated | Produced, watch: Watch) -> None:
        how = term.how.strip("`")
        if term.cut == "no_grad":
            cause, step = "was computed with gradients off", "computed with gradients off here"
        else:
            cause = f"was detached by `{how}`" if how else "was detached"
            step = "detached from its graph here"
        trace = [
            (step, term.site),
            ("returned here" if isinstance(event, Produced) else "back-propagated here", event.site),
        ]
        if term.whole:
            name = f"`{event.loss.label}`" if isinstance(event, Backpropagated) and event.loss.label else "the loss"
            message = (
                f"nothing is trained, `backward()` raises: {name} {cause} at line {watch.line(term.site)}; "
                "back-propagate the loss itself, detach a copy of it for the log"
            )
            watch.report(event.site, message, trace=trace)
        else:
            watch.report(
                term.addend or term.site,
                f"the loss does not train this term: it {cause}; add the live value, and detach a copy for the log",
                trace=trace,
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    auxiliary = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = auxiliary.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        auxiliary_loss = nn.functional.cross_entropy(auxiliary(features), classes).detach()
        loss = main_loss + 0.5 * auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (auxiliary.weight.detach() - initial).norm()
    return {"change of the auxiliary head": moved.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    auxiliary = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = auxiliary.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        auxiliary_loss = nn.functional.cross_entropy(auxiliary(features), classes)
        loss = main_loss + 0.5 * auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (auxiliary.weight.detach() - initial).norm()
    return {"change of the auxiliary head": moved.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of the auxiliary head"] == 0.0
    assert fixed["change of the auxiliary head"] > 1e-3
