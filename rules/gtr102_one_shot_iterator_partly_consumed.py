"""A part of a one-shot iterator is taken, and the rest is used as if it were all.

## What it does

Reports where an iterator over parameters is used as a whole, after `next(params)`, `x in params`, `zip` with
something shorter, or a loop left by `break` has taken a part of it.

## Why it is a trap

What was taken is gone. `device = next(params).device` in front of `Adam(params)` builds an optimizer without the
model's first parameter: it raises nothing, warns of nothing, and the first layer's weight keeps its initial value for
good.

## Known limits

False positives: a loop that is left by `break` and taken up again on purpose.

False negatives: after `next`, a plain loop, `sum` or `list` over the rest is not reported, because "the first, then
the others" is how many results are built. Data streams are silent, where skipping a header or resuming in the middle
of an epoch is ordinary; only a search with `in` is reported there, as preview. A later loop that has a `break` of its
own is silent.

There is a fix where the part was not taken by `next`, which a list does not have.

## Trap

```python
import torch


def make_optimizer(model):
    params = model.parameters()
    device = next(params).device
    optimizer = torch.optim.Adam(params, lr=1e-3)  # without the first parameter
    return optimizer, device
```

## Fixed

```python
import torch


def make_optimizer(model):
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return optimizer, device
```

## References

- [torch.nn.Module.parameters](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.parameters)
- [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
- [Python: next](https://docs.python.org/3/library/functions.html#next)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import Iterated, IteratorMade
from flake8_gradtrap.gradients import Uncertain
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on, spoken
from flake8_gradtrap.traits import KEEPS_ITERATOR

ORDINARY = {
    "for",
    "list",
    "tuple",
    "set",
    "dict",
    "sum",
    "any",
    "all",
    "min",
    "max",
    "sorted",
    "zip",
    "reduce",
    "chain",
}
"""Python's own consumers: what they make of the rest may well be meant, with the first item put in front."""


@dataclass(frozen=True, slots=True)
class Story(Uncertain):
    """What has happened to an iterator on this path."""

    made: IteratorMade = field(compare=False)
    of_parameters: bool
    by: str = ""
    part: Iterated | None = field(default=None, compare=False)


class OneShotIteratorPartlyConsumed(Rule):
    code = "GTR102"
    name = "one-shot-iterator-partly-consumed"
    summary = "A part of an iterator is taken, then the rest is used as if it were all"
    fix = "safe"
    words = ("parameters", "named_parameters", "next")
    roots = (KEEPS_ITERATOR,)

    @on(IteratorMade)
    def made(self, event: IteratorMade, watch: Watch) -> None:
        if event.assumed:
            watch.drop(event.it.key)
        else:
            watch.put(event.it.key, Story(event, event.of_parameters))

    @on(Iterated)
    def iterated(self, event: Iterated, watch: Watch) -> None:
        story = watch.get(event.it.key)
        if story is None:
            return
        if event.whole and not event.single:
            watch.drop(event.it.key)
            if story.part is not None and not event.ends and not meant(story.part, event):
                self.tell(story.made, story.part, event, watch)
        elif story.part is None and (story.of_parameters or event.by.strip("`") == "in"):
            # A loop with a `break` may also have taken all: either way, the next one does not see what it took.
            watch.put(event.it.key, replace(story, by="next" if event.single else "part", part=event))

    def tell(self, made: IteratorMade, part: Iterated, rest: Iterated, watch: Watch) -> None:
        place, taken = rest.through or rest.site, part.through or part.site
        name = f"`{rest.it.label}`" if rest.it.label else made.kind
        who = "this call" if rest.through else "this loop" if rest.by.strip("`") == "for" else spoken(rest.by)
        if part.single:
            advice = f"take it from a fresh {made.kind}"
        else:
            advice = f"make it a list at line {watch.line(made.site)}"
        watch.report(
            place,
            f"{who} misses what {spoken(part.by)} took from {name} at line {watch.line(taken)}; {advice}",
            trace=[
                (f"{made.kind} is created here: it can be iterated once", made.site),
                ("a part of it is taken here", taken),
                ("only the rest is used here", place),
            ],
            remedy=None
            if part.single
            else Remedy(
                "Make it a list where it is created",
                (Change("wrap", made.site, "list(", ")"),),
                safe=made.of_parameters,
            ),
            preview=not made.of_parameters,
        )


def meant(part: Iterated, rest: Iterated) -> bool:
    """Whether the first item may have been taken on purpose, to go on with the rest."""
    ordinary = " " in rest.by or rest.by.strip("`").rpartition(".")[2] in ORDINARY
    return part.single and rest.through is None and ordinary


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16)
    model = nn.Sequential(body, nn.Tanh(), nn.Linear(16, 1)).to(device)
    params = model.parameters()
    where = next(params).device
    inputs = torch.randn(64, 8, device=where)
    targets = torch.randn(64, 1, device=where)

    optimizer = torch.optim.SGD(params, lr=0.1)
    initial = body.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
    moved = (body.weight.detach() - initial).norm()
    return {
        "change of the first weight": moved.item(),
        "parameters in the optimizer": float(len(optimizer.param_groups[0]["params"])),
    }


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16)
    model = nn.Sequential(body, nn.Tanh(), nn.Linear(16, 1)).to(device)
    where = next(model.parameters()).device
    inputs = torch.randn(64, 8, device=where)
    targets = torch.randn(64, 1, device=where)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    initial = body.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
    moved = (body.weight.detach() - initial).norm()
    return {
        "change of the first weight": moved.item(),
        "parameters in the optimizer": float(len(optimizer.param_groups[0]["params"])),
    }


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters in the optimizer"] == 3
    assert fixed["parameters in the optimizer"] == 4
    assert trapped["change of the first weight"] == 0.0
    assert fixed["change of the first weight"] > 0.0
