"""A module gets other parameters after its optimizer was built.

## What it does

Reports a layer or Parameter that is replaced or added, a model that is built or loaded anew under the same name, and a
call that puts new Parameters into a model (`resize_token_embeddings`, `weight_norm`,
`load_state_dict(…, assign=True)`), after an optimizer was given the parameters, if that optimizer goes on stepping and
is not told of the new ones.

## Why it is a trap

An optimizer keeps the Parameters that it was given, not the module. A new layer gets gradients in every backward, and
nobody applies them: it stays as it was initialised. The old layer stays in the optimizer, and gets no gradient any
more. The rest of the model adapts to a random layer, so that the loss falls, only not as far.

`to(device)`, `cuda()`, `half()`, `DataParallel`, `torch.compile`, `spectral_norm` and pruning keep the Parameters.

## Known limits

False positives: a layer that is not to be trained, and is frozen where it cannot be seen.

False negatives: optimizers of which it is not visible what they were given; an optimizer that is handed to code out of
sight afterwards; layers that are replaced in one method and trained in another.

There is no fix: build the optimizer last, or hand it the new parameters with `add_param_group`.

## Trap

```python
import torch
from torch import nn


def train(model, loader, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.fc = nn.Linear(512, 10)  # in no optimizer
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(model, loader, criterion):
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
```

## References

- [torch.optim: constructing it](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
- [torch.optim.Optimizer.add_param_group](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.add_param_group.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import (
    Backpropagated,
    Escaped,
    GroupAdded,
    OptimizerMade,
    Owners,
    ParametersFrozen,
    ParametersReplaced,
    Site,
    Stepped,
)
from flake8_gradtrap.gradients import APART, overlap, quoted, tagged
from flake8_gradtrap.rule import Rule, Watch, on


@dataclass(frozen=True, slots=True)
class Given:
    """An optimizer that was made on this path, and what it was given."""

    site: Site = field(compare=False)
    owners: Owners


@dataclass(frozen=True, slots=True)
class Changed:
    """A module that has other parameters than the optimizers that were given its own. `reached`: by a backward."""

    event: ParametersReplaced = field(compare=False)
    optimizers: frozenset[Hashable]
    owners: Owners
    gained: Owners
    reached: bool = False


class ParametersReplacedAfterOptimizer(Rule):
    """In memory: "optimizer", by its key; "changed", by the place that got other parameters."""

    code = "GTR703"
    name = "parameters-replaced-after-optimizer"
    summary = "A module gets other parameters after its optimizer was built"
    words = ("backward", "manual_backward", "optim", "add_param_group")
    roots = ("backward", "manual_backward")

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        watch.put(("optimizer", event.optimizer.key), Given(event.site, event.owners))
        for key, changed in tagged(watch, "changed"):
            if overlap(event.owners, changed.gained) is not False or overlap(event.owners, changed.owners):
                watch.drop(key)

    @on(ParametersReplaced)
    def replaced(self, event: ParametersReplaced, watch: Watch) -> None:
        key = ("changed", event.place.key)
        watch.drop(key)
        given = [(one[1], two) for one, two in tagged(watch, "optimizer")]
        if (
            event.owners is None
            or APART.search(event.place.label)
            or any(overlap(one.owners, event.gained) is not False for _, one in given)
        ):
            return
        old = frozenset(name for name, one in given if one.owners is not None and event.owners <= one.owners)
        if old:
            watch.put(key, Changed(event, old, event.owners, event.gained))

    @on(GroupAdded)
    def told(self, event: GroupAdded, watch: Watch) -> None:
        for key, changed in tagged(watch, "changed"):
            if event.optimizer is None or event.optimizer.key in changed.optimizers:
                watch.drop(key)

    @on(ParametersFrozen)
    def frozen(self, event: ParametersFrozen, watch: Watch) -> None:
        for key, changed in tagged(watch, "changed"):
            related = overlap(event.owners, (changed.gained or frozenset()) | (changed.owners or frozenset()))
            if event.frozen is not False and related is not False:
                watch.drop(key)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        keys = {thing.key for thing in event.things}
        for key, changed in tagged(watch, "changed"):
            if not keys.isdisjoint(changed.optimizers) and "sched" not in event.to.lower():
                watch.drop(key)

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        for key, changed in tagged(watch, "changed"):
            if changed.event.whole:
                reached = overlap(event.owners, changed.gained) and not overlap(event.owners, changed.owners)
            elif changed.event.told_apart:
                reached = overlap(event.sure if event.owners is None else event.owners, changed.gained)
            else:
                reached = overlap(event.owners, (changed.gained or frozenset()) | (changed.owners or frozenset()))
                reached = reached is not False
            if reached and not event.opaque and not changed.reached:
                watch.put(key, replace(changed, reached=True))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        given = watch.get(("optimizer", event.optimizer.key))
        for key, changed in tagged(watch, "changed"):
            if event.optimizer.key in changed.optimizers:
                if changed.reached:
                    self.tell(changed, given, event, watch)
            elif event.owners is None or overlap(event.owners, changed.gained):
                watch.drop(key)  # an optimizer that may have been given the new ones out of sight

    @staticmethod
    def tell(changed: Changed, given: Given, step: Stepped, watch: Watch) -> None:
        event = changed.event
        place, optimizer = quoted(event.place, "a part of the model"), quoted(step.optimizer, "the optimizer")
        built = f"after {optimizer} was built (line {watch.line(given.site)})"
        if event.whole:
            what = f"{place} becomes another model {built}, which goes on with the parameters of the old one: this one"
            advice = "build the optimizer after it, or load its weights into the old one"
        elif event.how:
            what = f"`{event.how}` puts new Parameters into {quoted(event.place, 'the model')} {built}: they"
            advice = "build the optimizer after it"
        else:
            what = f"{place} gets new parameters {built}, which does not have them: they"
            advice = "build the optimizer after it, or call `add_param_group`"
        verb = "is" if event.whole else "are"
        watch.report(
            event.site,
            f"{what} {verb} never trained; {advice}",
            trace=[
                ("the optimizer is given its parameters here", given.site),
                ("these parameters come later", event.site),
                ("and the optimizer steps without them", step.site),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[2] = nn.Linear(16, 1).to(device)
    return _train(model, optimizer, device)


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    model[2] = nn.Linear(16, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return _train(model, optimizer, device)


def _train(model: object, optimizer: object, device: str) -> dict[str, float]:
    import torch
    from torch import nn

    assert isinstance(model, nn.Sequential)
    assert isinstance(optimizer, torch.optim.Optimizer)
    head = model[2]
    assert isinstance(head, nn.Linear)
    before = head.weight.detach().clone()
    inputs, targets = torch.randn(64, 8, device=device), torch.randn(64, 1, device=device)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {
        "parameters of the model that no optimizer has": float(sum(id(one) not in held for one in model.parameters())),
        "change of the new layer": (head.weight.detach() - before).norm().item(),
    }


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters of the model that no optimizer has"] == 2.0
    assert trapped["change of the new layer"] == 0.0
    assert fixed["parameters of the model that no optimizer has"] == 0.0
    assert fixed["change of the new layer"] > 1e-4
