"""A function iterates twice over an argument that may be a generator.

## What it does

Reports the second loop over an argument whose name (`parameters`, `params`), annotation (`Iterable[...]`, `Iterator`,
`Generator`) or visible caller says that it may be a one-shot iterator. It is the definition's side of GTR101, which
reports the call that hands a generator over.

## Why it is a trap

`model.parameters()` is a generator, and it is what callers pass. The first loop, which computes the norm, uses it up;
the second, which scales the gradients, runs over nothing. The function returns the right norm, and clips nothing.
Tests that pass a list do not see it.

## Known limits

False positives: a function that is only ever called with lists, by code that is not in sight, and whose argument has
no annotation to say so. Annotate it (`list[nn.Parameter]`, `Sequence[Tensor]`), and the rule is silent.

False negatives: arguments with other names and no annotation, unless a visible caller passes an iterator; loops that
may or may not run to the end.

## Trap

```python
def clip_grad_norm(parameters, max_norm):
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    for p in parameters:  # nothing left, if `parameters` is a generator
        p.grad.mul_(torch.clamp(max_norm / norm, max=1.0))
    return norm
```

## Fixed

```python
def clip_grad_norm(parameters, max_norm):
    parameters = list(parameters)
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    for p in parameters:
        p.grad.mul_(torch.clamp(max_norm / norm, max=1.0))
    return norm
```

## References

- [torch.nn.Module.parameters](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.parameters)
- [Python: collections.abc.Iterable](https://docs.python.org/3/library/collections.abc.html#collections.abc.Iterable)
- [Python glossary: iterator](https://docs.python.org/3/glossary.html#term-iterator)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import Iterated, IteratorMade, Site
from flake8_gradtrap.gradients import Uncertain
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on, spoken
from flake8_gradtrap.traits import KEEPS_ITERATOR


@dataclass(frozen=True, slots=True)
class Story(Uncertain):
    """What has happened to an iterator on this path: an argument, or one that is handed to functions."""

    made: IteratorMade = field(compare=False)
    assumed: bool
    within: Site | None = None
    used: bool = False
    told: bool = False
    by: Iterated | None = field(default=None, compare=False)


class IterableParameterIteratedTwice(Rule):
    code = "GTR103"
    name = "iterable-parameter-iterated-twice"
    summary = "A function iterates twice over an argument that may be a generator"
    fix = "safe"
    at_definition = True
    words = ("parameters", "params", "named_parameters", "Iterable", "Iterator", "Generator")
    roots = (KEEPS_ITERATOR,)

    @on(IteratorMade)
    def made(self, event: IteratorMade, watch: Watch) -> None:
        watch.put(event.it.key, Story(event, event.assumed))

    @on(Iterated)
    def iterated(self, event: Iterated, watch: Watch) -> None:
        story = watch.get(event.it.key)
        if story is None or event.single:
            return
        if not story.assumed and event.through != story.within:
            # An iterator with a known origin counts for each call that it is handed to.
            story = Story(story.made, assumed=False, within=event.through)
        if not story.used:
            if event.whole is True:
                watch.put(event.it.key, replace(story, used=True, by=event))
            return
        if event.ends:
            return
        if not story.assumed and story.by is not None and story.by.it.label != event.it.label:
            return  # one iterator for two parameters: the caller is at fault, and GTR101 says so
        inside = event.through is not None and event.site != story.by.site
        if not story.told and (story.assumed or inside):
            watch.put(event.it.key, replace(story, told=True))
            self.tell(story.made, story.by, event, watch)

    def tell(self, made: IteratorMade, first: Iterated, again: Iterated, watch: Watch) -> None:
        if again.site == first.site:
            before, place = first.through or first.site, again.through or again.site
        else:
            before, place = parting(first.site, again.site)
        name = made.it.label if made.assumed else again.it.label
        label = f"`{name}`" if name else "the argument"
        who = "this call" if place != again.site else "this loop" if again.by.strip("`") == "for" else spoken(again.by)
        cause = "the first time round uses it up" if place == before else f"line {watch.line(before)} has used it up"
        if made.assumed:
            origin = (f"{label} comes in here, and may be a one-shot iterator", made.site)
        else:
            origin = (f"{made.kind} is created here, and handed to this function: it can be iterated once", made.site)
        line = f"{name} = list({name})"
        watch.report(
            place,
            f"{who} gets nothing if {label} is a generator, because {cause}; "
            + (f"start the function with `{line}`" if name else "make it a list at the top of the function"),
            trace=[origin, ("used up here", before), ("iterated again, over nothing, here", place)],
            remedy=Remedy("Make it a list at the top of the function", (Change("function-top", made.site, line),))
            if made.assumed and name
            else None,
            preview=made.weak or (made.iterable and place == before),  # an epoch's loop over a loader looks like that
        )


def parting(first: Site, second: Site) -> tuple[Site, Site]:
    """Where the ways to two places part: the two places in the innermost function that both were reached from."""
    for one, other in zip(way(first), way(second), strict=False):
        if one != other:
            return one, other
    return first, second


def way(site: Site) -> list[Site]:
    """The calls that lead to a site, the outermost first, and the site."""
    steps = [site]
    while steps[-1].caller is not None:
        steps.append(steps[-1].caller)
    return steps[::-1]


def trapped(device: str = "cpu") -> dict[str, float]:
    from collections.abc import Iterable

    import torch
    from torch import nn

    def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(scale)
        return norm

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    inputs = torch.randn(64, 8, device=device)
    targets = 10 * torch.randn(64, 1, device=device)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    measured = {}
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        norm = clip_grad_norm(model.parameters(), max_norm=0.1)
        after = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        measured = {"norm before clip": norm.item(), "norm after clip": after.item()}
    return measured


def fixed(device: str = "cpu") -> dict[str, float]:
    from collections.abc import Iterable

    import torch
    from torch import nn

    def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
        parameters = list(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(scale)
        return norm

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    inputs = torch.randn(64, 8, device=device)
    targets = 10 * torch.randn(64, 1, device=device)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    measured = {}
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        norm = clip_grad_norm(model.parameters(), max_norm=0.1)
        after = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        measured = {"norm before clip": norm.item(), "norm after clip": after.item()}
    return measured


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["norm before clip"] > 0.2
    assert trapped["norm after clip"] == trapped["norm before clip"], "the second loop scaled nothing"
    assert fixed["norm before clip"] > 0.2
    assert fixed["norm after clip"] <= 0.1 * 1.001
