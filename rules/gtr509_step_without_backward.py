"""An optimizer steps, and nothing was back-propagated into its gradients; or a backward whose optimizer never steps.

## What it does

Reports, in a loop, the step of an optimizer that is made in sight, where no backward of the run reaches any of its
parameters; and a backward whose optimizer is made in sight, is used for nothing else, and never steps.

## Why it is a trap

A parameter whose `.grad` is None is skipped: the step does nothing, and says nothing. Without a step the gradients are
computed, added up, and used by nobody. In both cases the loss is printed, the model stays as it was initialised, and
what looks like slow learning is none. The demo measures how far the weights move.

## Known limits

It is in preview: on real code it has not been seen often enough to say how often it is right.

False positives: gradients that are written by code out of sight, which the optimizer, its module or the loss was never
handed to.

False negatives: an optimizer or module that is handed to code out of sight; optimizers that are kept in attributes; a
single step, or one outside of a loop (a dummy step that quiets a warning of a scheduler); owners of gradients that are
not known.

## Trap

```python
import torch


def train(encoder, head, loader, criterion):
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    for x, y in loader:
        with torch.no_grad():
            features = encoder(x)
        optimizer.zero_grad()
        encoder_optimizer.zero_grad()
        criterion(head(features), y).backward()
        optimizer.step()
        encoder_optimizer.step()
```

## Fixed

```python
import torch


def train(encoder, head, loader, criterion):
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    for x, y in loader:
        features = encoder(x)
        optimizer.zero_grad()
        encoder_optimizer.zero_grad()
        criterion(head(features), y).backward()
        optimizer.step()
        encoder_optimizer.step()
```

## References

- [torch.optim: taking an optimization step](https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step)
- [torch.Tensor.grad](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.grad.html)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    OptimizerMade,
    Owners,
    ParametersReplaced,
    RunEnded,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import LOSSES, InLoops, by_hand, forget, frame, overlap, quoted, tagged
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Made:
    """An optimizer that was made on this path. `fed`: where its gradients were filled; `cleared`: it was cleared in a
    loop.
    """

    site: Site = field(compare=False)
    thing: Thing = field(compare=False)
    owners: Owners
    fed: Site | None = None
    cleared: bool = False


class StepWithoutBackward(Waiting, InLoops):
    """In memory: "made" optimizers of which all is known.

    Acquitted: optimizers that are fed ("idle"), or step ("unused"), on any path, by the place where they are made.
    """

    code = "GTR509"
    name = "step-without-backward"
    summary = "An optimizer steps without gradients, or a backward is followed by no step"
    words = ("backward",)
    default = False

    @on(OptimizerMade)
    def made(self, event: OptimizerMade, watch: Watch) -> None:
        if event.owners and not self.running(watch):
            watch.put(("made", event.optimizer.key), Made(event.site, event.optimizer, event.owners))
        else:
            self.acquit(("idle", event.site.node))

    def lose(self, key: Hashable, made: Made, watch: Watch) -> None:
        """From here on it is not known what becomes of an optimizer."""
        watch.drop(key)
        self.acquit(("idle", made.site.node), ("unused", made.site.node))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        for key, made in tagged(watch, "made"):
            cut = any(term.cut for term in event.terms)  # why it does not arrive is what other rules say
            related = None if event.opaque or cut else overlap(made.owners, event.owners)
            if related is None:
                self.lose(key, made, watch)
            elif related:
                self.acquit(("idle", made.site.node))
                if made.fed is None and self.running(watch):
                    watch.put(key, replace(made, fed=event.site))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        for key, made in tagged(watch, "made"):
            if event.optimizer is not None and event.optimizer.key == made.thing.key and self.running(watch):
                watch.put(key, replace(made, cleared=True))

    @on(ParametersReplaced)
    def replaced(self, event: ParametersReplaced, watch: Watch) -> None:
        for key, made in tagged(watch, "made"):
            if event.whole and overlap(made.owners, event.owners):
                self.lose(key, made, watch)  # another model stands in its place, of which GTR703 speaks

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if by_hand(event):  # gradients that are written by hand
            for key, made in tagged(watch, "made"):
                self.lose(key, made, watch)

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        for key, made in tagged(watch, "made"):
            for thing in event.things:
                theirs = made.owners is not None and thing.key in made.owners
                loss = not thing.harmless and (not thing.label or LOSSES.search(thing.label) is not None)
                if theirs or thing.key == made.thing.key or loss:
                    self.lose(key, made, watch)
                    break

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        key = ("made", event.optimizer.key)
        made: Made | None = watch.get(key)
        if made is None or event.closure:
            for other, one in tagged(watch, "made"):
                if overlap(one.owners, event.owners) is not False:
                    self.lose(other, one, watch)
            return
        self.acquit(("unused", made.site.node))
        if made.fed is None and self.running(watch) and frame(made.site) == frame(event.site):
            self.suspect(("idle", made.site.node), partial(self.tell_idle, made, event))

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for _, made in tagged(watch, "made"):
            if made.fed is not None and made.cleared:
                self.suspect(("unused", made.site.node), partial(self.tell_unused, made, made.fed))
        if event.again:  # the next call may do what this one does not
            self.suspects.clear()
        super().ended(event, watch)
        forget(watch, "made")

    @staticmethod
    def tell_idle(made: Made, event: Stepped, watch: Watch) -> None:
        what = quoted(event.optimizer, "the optimizer")
        watch.report(
            event.site,
            f"no backward reaches what {what} trains: its gradients are None, the step changes nothing; check which "
            "parameters it was given, and whether they take part in the loss",
            trace=[("the optimizer is made here", made.site), ("and steps here, with no gradients", event.site)],
        )

    @staticmethod
    def tell_unused(made: Made, backward: Site, watch: Watch) -> None:
        watch.report(
            backward,
            f"gradients are computed here for the optimizer of line {watch.line(made.site)}, which never steps: the "
            "model stays as it is; call its `step()` after the backward",
            trace=[("the optimizer is made here", made.site), ("its gradients are filled here, for nothing", backward)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    encoder, head = nn.Linear(8, 4).to(device), nn.Linear(4, 1).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(encoder.parameters()).detach().clone()
    for _ in range(10):
        with torch.no_grad():
            features = encoder(x)
        optimizer.zero_grad()
        encoder_optimizer.zero_grad()
        nn.functional.mse_loss(head(features), y).backward()
        optimizer.step()
        encoder_optimizer.step()
    moved = (parameters_to_vector(encoder.parameters()).detach() - start).norm().item()
    return {"distance moved": moved, "parameters with a gradient": float(encoder.weight.grad is not None)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    torch.manual_seed(0)
    encoder, head = nn.Linear(8, 4).to(device), nn.Linear(4, 1).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    x, y = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    start = parameters_to_vector(encoder.parameters()).detach().clone()
    for _ in range(10):
        features = encoder(x)
        optimizer.zero_grad()
        encoder_optimizer.zero_grad()
        nn.functional.mse_loss(head(features), y).backward()
        optimizer.step()
        encoder_optimizer.step()
    moved = (parameters_to_vector(encoder.parameters()).detach() - start).norm().item()
    return {"distance moved": moved, "parameters with a gradient": float(encoder.weight.grad is not None)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["distance moved"] == 0.0, "ten steps, and not one weight has moved"
    assert trapped["parameters with a gradient"] == 0.0
    assert fixed["distance moved"] > 0.0
