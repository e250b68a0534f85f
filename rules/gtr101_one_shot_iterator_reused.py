"""An exhausted one-shot iterator is iterated again, and nothing happens.

## What it does

Reports a place that iterates over an iterator which was used up earlier on the same path: `model.parameters()`,
`filter`, `map`, `zip`, `enumerate`, `itertools.chain`, a generator expression, the call of a generator function. That
the optimizer, `sum(p.numel() for p in params)`, a loop, or the same line one step ago has used it up makes no
difference.

## Why it is a trap

A generator yields its items once. After that every loop over it runs zero times, and raises nothing:

- `clip_grad_norm_` of an exhausted iterator returns a norm of 0 and clips nothing. torch warns if it is a
  *generator*, and is silent for `filter`, `map`, `zip` and `itertools.chain` objects.
- `clip_grads_with_norm_`, `get_total_norm`, an EMA update, a norm that is logged: nothing is clipped, averaged or
  measured.
- An optimizer raises `ValueError` if an exhausted iterator is all that it gets. In a group, `{"params": params}`, it
  is accepted: the group is empty, and its parameters are never trained.
- `clip_grad_value_` raises a `RuntimeError` that does not say why.

## Known limits

False positives: an iterator that is known to be used up, and iterated again on purpose (to drain what a thread adds).

False negatives: iterators that code out of sight has used up, loops that may or may not be left by `break`, and
iterators that are an argument of a function which nothing in sight calls (see GTR103).

The fix evaluates the iterator where it is made: a `filter` on `requires_grad` then sees the flags of that moment. For
data streams the fix is unsafe: a list keeps all the data in memory, and repeats the same random augmentation.

## Trap

```python
params = filter(lambda p: p.requires_grad, model.parameters())
optimizer = torch.optim.AdamW(params, lr=1e-3)  # uses `params` up
for inputs, targets in loader:
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)  # clips nothing
    optimizer.step()
```

## Fixed

```python
params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(params, lr=1e-3)
for inputs, targets in loader:
    optimizer.zero_grad()
    loss_fn(model(inputs), targets).backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
```

## References

- [torch.nn.Module.parameters](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.parameters)
- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
- [Python glossary: iterator](https://docs.python.org/3/glossary.html#term-iterator)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import Iterated, IteratorMade
from flake8_gradtrap.gradients import Uncertain
from flake8_gradtrap.rule import Change, Remedy, Rule, Watch, on, spoken
from flake8_gradtrap.traits import KEEPS_ITERATOR

OPTIMIZER = re.compile(
    r"\w*(adam|sgd|adagrad|adadelta|adamax|adafactor|rmsprop|rprop|lbfgs|muon|optimizer)\w*|add_param_group",
    re.IGNORECASE,
)
AVERAGE = re.compile(r"\w*(ema|swa|average|averaged|moving)\w*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Story(Uncertain):
    """What has happened to an iterator on this path."""

    made: IteratorMade = field(compare=False)
    exhausted: bool = False
    by: Iterated | None = field(default=None, compare=False)


class OneShotIteratorReused(Rule):
    code = "GTR101"
    name = "one-shot-iterator-reused"
    summary = "An exhausted iterator is iterated again: nothing happens, silently"
    fix = "safe"
    words = ("parameters", "named_parameters", "clip_grad_norm_")
    roots = (KEEPS_ITERATOR, "clip_grad_norm_")

    @on(IteratorMade)
    def made(self, event: IteratorMade, watch: Watch) -> None:
        if event.assumed:
            watch.drop(event.it.key)
        else:
            watch.put(event.it.key, Story(event))

    @on(Iterated)
    def iterated(self, event: Iterated, watch: Watch) -> None:
        story = watch.get(event.it.key)
        if story is None or event.single:
            return
        if not story.exhausted:
            if event.whole is True and not event.ends:
                watch.put(event.it.key, replace(story, exhausted=True, by=event))
        elif not event.ends:
            self.tell(story.made, story.by, event, watch)

    def tell(self, made: IteratorMade, first: Iterated, again: Iterated, watch: Watch) -> None:
        place, used = again.through or again.site, first.through or first.site
        label = again.it.label if again.through is None else first.it.label  # rather what it is called at home
        name = f"`{label}`" if label else made.kind
        if again.through == first.through is not None and again.site != first.site:
            message = f"the function called here loops over {name} twice, and the second time it is empty; pass a list"
            steps = [
                ("iterated in the call, and used up, here", first.site),
                ("iterated again, over nothing, here", again.site),
            ]
        else:
            advice = f"make it a list at line {watch.line(made.site)}"
            if place == used:
                message = f"{effect(again)} from the second time on: {name} is used up the first time; {advice}"
            else:
                who = "the call" if first.through else spoken(first.by)
                message = f"{effect(again)}: {name} was used up by {who} at line {watch.line(used)}; {advice}"
            steps = [("used up here", used), ("iterated again, over nothing, here", place)]
        watch.report(
            place,
            message,
            trace=[(f"{made.kind} is created here: it can be iterated once", made.site), *steps],
            remedy=Remedy(
                "Make it a list where it is created",
                (Change("wrap", made.site, "list(", ")"),),
                safe=made.of_parameters,
            ),
        )


def effect(event: Iterated) -> str:
    """What an iteration over nothing means, by who iterates."""
    who = event.by.strip("`").rpartition(".")[2]
    if "clip" in who:
        return "fails with a RuntimeError" if who == "clip_grad_value_" else "clips nothing"
    if event.through:
        return "this call gets an empty iterator"
    if who == "for":
        return "this loop runs over nothing"
    if OPTIMIZER.fullmatch(who):
        return f"{spoken(event.by)} gets no parameters to train"
    if AVERAGE.fullmatch(who):
        return f"{spoken(event.by)} averages nothing"
    return f"{spoken(event.by)} iterates over nothing"


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    inputs = torch.randn(64, 8, device=device)
    targets = 10 * torch.randn(64, 1, device=device)

    params = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.01)
    measured = {}
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(params, max_norm=0.1, error_if_nonfinite=True)
        after = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        measured = {"norm that clip saw": norm.item(), "norm after clip": after.item()}
    return measured


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    inputs = torch.randn(64, 8, device=device)
    targets = 10 * torch.randn(64, 1, device=device)

    params = list(filter(lambda p: p.requires_grad, model.parameters()))
    optimizer = torch.optim.SGD(params, lr=0.01)
    measured = {}
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(params, max_norm=0.1, error_if_nonfinite=True)
        after = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        measured = {"norm that clip saw": norm.item(), "norm after clip": after.item()}
    return measured


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["norm that clip saw"] == 0.0
    assert trapped["norm after clip"] > 0.2, "the gradient is larger than max_norm: nothing was clipped"
    assert fixed["norm that clip saw"] > 0.2
    assert fixed["norm after clip"] <= 0.1 * 1.001
