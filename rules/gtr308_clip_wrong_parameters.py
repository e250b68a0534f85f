"""The clip before a step limits the gradients of another optimizer.

## What it does

Reports a clip of gradients that belong to another optimizer than the one that steps next, while the gradients that are
applied by this step are not clipped, and nothing uses what was clipped: it is cleared first, or the run is over.

## Why it is a trap

It is the copied block of a GAN or an actor-critic loop, in which one name was not changed. The clip runs and returns a
plausible norm, of gradients that another loss left in the other network and that are cleared unused. The network that
is trained has no limit at all: in the demo the clip allows updates of length 0.05, and the generator's are many times
as long.

## Known limits

False positives: gradients of the clipped module that are used in a way that cannot be seen.

False negatives: modules or optimizers whose parameters are not known; a clip of a module that no optimizer in sight
trains (a target network); the clipped module beside others that the next step does own.

## Trap

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(generator, discriminator, loader, criterion, noise):
    g_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    d_optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    for real, ones, zeros in loader:
        fake = generator(noise())
        d_optimizer.zero_grad()
        d_loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
        d_loss.backward()
        clip_grad_norm_(discriminator.parameters(), 1.0)
        d_optimizer.step()

        g_optimizer.zero_grad()
        g_loss = criterion(discriminator(fake), ones)
        g_loss.backward()
        clip_grad_norm_(discriminator.parameters(), 1.0)
        g_optimizer.step()
```

## Fixed

```python
import torch
from torch.nn.utils import clip_grad_norm_


def train(generator, discriminator, loader, criterion, noise):
    g_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    d_optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    for real, ones, zeros in loader:
        fake = generator(noise())
        d_optimizer.zero_grad()
        d_loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
        d_loss.backward()
        clip_grad_norm_(discriminator.parameters(), 1.0)
        d_optimizer.step()

        g_optimizer.zero_grad()
        g_loss = criterion(discriminator(fake), ones)
        g_loss.backward()
        clip_grad_norm_(generator.parameters(), 1.0)
        g_optimizer.step()
```

## References

- [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
- [Working with multiple models, losses, and optimizers](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    Owners,
    RunEnded,
    Site,
    Stepped,
    Thing,
)
from flake8_gradtrap.gradients import (
    Mark,
    MeetsOptimizers,
    by_hand,
    clip_site,
    forget,
    forget_touched,
    graph_of,
    meet,
    overlap,
    rest,
    settle,
    tagged,
    touches,
)
from flake8_gradtrap.rule import Watch, on


@dataclass(frozen=True, slots=True)
class Suspect:
    """A clip while gradients of other owners wait for their step. `filled`: what was clipped came from a backward.

    `stepped`: the optimizer that stepped next, with gradients that nobody clipped; `at`: where, and `backward`: where
    those came from.
    """

    site: Site = field(compare=False)
    by: str
    target: Thing = field(compare=False)
    owners: Owners
    backward: Site = field(compare=False)
    filled: bool
    stepped: Thing | None = None
    at: Site | None = field(default=None, compare=False)


class ClipWrongParameters(MeetsOptimizers):
    """In memory, by owners: "waiting" (gradients of a backward that are neither clipped nor applied); suspects, by
    site: "clipped"."""

    code = "GTR308"
    name = "clip-wrong-parameters"
    summary = "The clip before a step limits gradients that this step does not use"
    words = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "clip_grads_with_norm_")

    def __init__(self) -> None:
        self.used: set[Hashable] = set()
        """Clips whose gradients are applied on some path."""
        self.vain: dict[Hashable, Suspect] = {}
        """Clips whose gradients are not, on some path; they wait until the run ends."""

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.opaque:
            forget(watch, "waiting", "clipped")
            return
        for key, suspect in tagged(watch, "clipped"):
            if not suspect.filled and overlap(suspect.owners, event.owners):
                watch.drop(key)
                self.decide(suspect)  # it was clipped before there was anything to clip
        watch.put(("waiting", event.owners), Mark(event.site, graph_of(event)))

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.measures_only:
            return
        waiting = [mark for key, mark in tagged(watch, "waiting") if key[1] is None or rest(key[1], event.owners)]
        filled = any(overlap(key[1], event.owners) is not False for key, _ in tagged(watch, "waiting"))
        if waiting and event.owners and not by_hand(event) and not watch.lossy:
            suspect = Suspect(event.site, event.by, event.target, event.owners, waiting[-1].site, filled)
            watch.put(("clipped", event.site), suspect)
        for key, other in tagged(watch, "clipped"):
            if key[1] != event.site and overlap(other.owners, event.owners) is not False:
                watch.drop(key)
        watch.put(("limited",), (*watch.get(("limited",), ()), event.owners))

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        if event.closure or owners is None:
            forget(watch, "waiting", "clipped")
            watch.drop(("limited",))
            return
        clipped = any(overlap(theirs, owners) is not False for theirs in watch.get(("limited",), ()))
        for key, suspect in tagged(watch, "clipped"):
            if overlap(suspect.owners, owners) is not False:
                self.used.add(suspect.site.node)
                watch.drop(key)
            elif suspect.stepped is None:
                if clipped or not self.trained(suspect, watch):
                    watch.drop(key)
                else:
                    watch.put(key, replace(suspect, stepped=event.optimizer, at=event.site))
        watch.drop(("limited",))
        settle(watch, owners, "waiting")

    @staticmethod
    def trained(suspect: Suspect, watch: Watch) -> bool:
        """Whether an optimizer in sight owns what was clipped: it is known to be another's."""
        return any(overlap(owners, suspect.owners) for _, owners in tagged(watch, "optimizer"))

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        owners = meet(watch, event.optimizer, event.owners)
        for key, suspect in tagged(watch, "clipped"):
            if overlap(suspect.owners, owners) is not False:
                watch.drop(key)
                if owners is not None:
                    self.decide(suspect)
        settle(watch, owners, "waiting")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        forget_touched(watch, event, "waiting")
        for key, suspect in tagged(watch, "clipped"):
            if touches(watch, event, suspect.owners):
                watch.drop(key)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for key, suspect in tagged(watch, "clipped"):
            watch.drop(key)
            if not watch.lossy:
                self.decide(suspect)
        for node, suspect in self.vain.items():
            if node not in self.used:
                self.tell(suspect, watch)
        self.vain.clear()

    def decide(self, suspect: Suspect) -> None:
        if suspect.stepped is not None:
            self.vain.setdefault(suspect.site.node, suspect)

    def tell(self, suspect: Suspect, watch: Watch) -> None:
        assert suspect.stepped is not None
        assert suspect.at is not None
        optimizer = f"`{suspect.stepped.label}`" if suspect.stepped.label else "the optimizer"
        target = f"`{suspect.target.label}`" if suspect.target.label else "this"
        place = clip_site(suspect.site, suspect.by, suspect.at)
        watch.report(
            place,
            f"{target} is not what {optimizer} trains: its step at line {watch.line(suspect.at)} runs without any "
            f"limit, and what is clipped here is never applied; clip the parameters of {optimizer}",
            trace=[
                ("these gradients wait for their step", suspect.backward),
                ("others are clipped here", place),
                (f"{optimizer} applies its own here, unclipped", suspect.at),
            ],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    """The generator's step behind a clip of the discriminator."""
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    g_optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    d_optimizer = torch.optim.SGD(discriminator.parameters(), lr=1.0)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(32, 1, device=device), torch.zeros(32, 1, device=device)
    longest = 0.0
    for _ in range(10):
        real = 3.0 + torch.randn(32, 2, device=device)
        fake = generator(torch.randn(32, 4, device=device))
        d_optimizer.zero_grad()
        (criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)).backward()
        clip_grad_norm_(discriminator.parameters(), 0.05)
        d_optimizer.step()

        before = parameters_to_vector(generator.parameters()).detach().clone()
        g_optimizer.zero_grad()
        criterion(discriminator(fake), ones).backward()
        clip_grad_norm_(discriminator.parameters(), 0.05)
        g_optimizer.step()
        after = parameters_to_vector(generator.parameters()).detach()
        longest = max(longest, (after - before).norm().item())
    return {"longest update of the generator": longest}


def fixed(device: str = "cpu") -> dict[str, float]:
    """The generator's step behind its own clip."""
    import torch
    from torch import nn
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    g_optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    d_optimizer = torch.optim.SGD(discriminator.parameters(), lr=1.0)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(32, 1, device=device), torch.zeros(32, 1, device=device)
    longest = 0.0
    for _ in range(10):
        real = 3.0 + torch.randn(32, 2, device=device)
        fake = generator(torch.randn(32, 4, device=device))
        d_optimizer.zero_grad()
        (criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)).backward()
        clip_grad_norm_(discriminator.parameters(), 0.05)
        d_optimizer.step()

        before = parameters_to_vector(generator.parameters()).detach().clone()
        g_optimizer.zero_grad()
        criterion(discriminator(fake), ones).backward()
        clip_grad_norm_(generator.parameters(), 0.05)
        g_optimizer.step()
        after = parameters_to_vector(generator.parameters()).detach()
        longest = max(longest, (after - before).norm().item())
    return {"longest update of the generator": longest}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    key = "longest update of the generator"
    assert fixed[key] < 0.0501, "the clip allows updates of 0.05"
    assert trapped[key] > 2 * 0.05, "no update of the generator is limited"
