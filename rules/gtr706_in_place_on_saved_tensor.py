"""A tensor that autograd has saved for a backward is changed in place before that backward.

## What it does

Reports an in-place change (`x += 1`, `x.add_(…)`, `x[mask] = 0`) of a tensor that a recorded operation has saved, and
an `optimizer.step()` between a forward and a backward through it.

## Why it is a trap

The gradient of a product needs its factors, that of `exp` its result, that of a layer the weights with which it was
computed. Torch counts the versions of what it saved, and refuses: `one of the variables needed for gradient computation
has been modified by an inplace operation`. `retain_graph=True` does not help: the graph is there, the values are not.
In a GAN or an actor and critic that share a forward, the error names a shape, and not the step that did it.

## Known limits

False positives: a model out of sight that is a single layer and is given data only; its backward needs no weight.

False negatives: operations out of sight, and changes through a view; graphs that are carried over from an earlier
iteration.

There is no fix: compute both losses and go backward before either optimizer steps, or run the forward again.

## Trap

```python
import torch


def train(actor, critic, loader, criterion):
    actor_optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
    critic_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for state, target in loader:
        value = critic(actor(state))
        critic_optimizer.zero_grad()
        criterion(value, target).backward(retain_graph=True)
        critic_optimizer.step()
        actor_optimizer.zero_grad()
        (-value.mean()).backward()  # through weights of the critic that are no more
        actor_optimizer.step()
```

## Fixed

```python
import torch


def train(actor, critic, loader, criterion):
    actor_optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
    critic_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for state, target in loader:
        value = critic(actor(state).detach())
        critic_optimizer.zero_grad()
        criterion(value, target).backward()
        critic_optimizer.step()
        actor_optimizer.zero_grad()
        (-critic(actor(state)).mean()).backward()
        actor_optimizer.step()
```

## References

- [Autograd mechanics: in-place correctness checks](https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks)
- [Autograd mechanics: saved tensors](https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated
from flake8_gradtrap.gradients import quoted
from flake8_gradtrap.rule import Watch, on
from flake8_gradtrap.saved import SavedTensors


class InPlaceOnSavedTensor(SavedTensors):
    code = "GTR706"
    name = "in-place-on-saved-tensor"
    summary = "A tensor that autograd has saved for a backward is changed in place before it"
    words = ("backward", "manual_backward")

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        mark = self.spoilt(event, watch)
        if mark is None:
            return
        loss, line = quoted(event.loss, "the loss"), watch.line(mark.site)
        if mark.stepped:
            what = f"`{mark.label or 'the optimizer'}` has changed at line {line}"
            advice = "go backward before it steps, or run the forward again"
            site, there = event.site, "the step changes parameters that the graph has saved"
        else:
            what = f"`{mark.label or 'a tensor'}` was needed as it was, and is changed in place at line {line}"
            advice = "change a copy instead"
            site, there = mark.site, "this changes a tensor that the graph has saved"
        goes = f"{loss} goes backward through parameters that {what}" if mark.stepped else f"{what}"
        watch.report(
            site,
            f"{goes}: `backward()` at line {watch.line(event.site)} raises `RuntimeError`; {advice}",
            trace=[(there, mark.site), ("this backward needs what was there before", event.site)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    actor, critic = nn.Linear(8, 4).to(device), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    actor_optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
    critic_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    state, target = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    for _ in range(5):
        value = critic(actor(state))
        critic_optimizer.zero_grad()
        nn.functional.mse_loss(value, target).backward(retain_graph=True)
        critic_optimizer.step()
        actor_optimizer.zero_grad()
        try:
            (-value.mean()).backward()
        except RuntimeError:  # modified by an inplace operation
            raised += 1
            continue
        actor_optimizer.step()
        steps += 1
    return {"steps of the actor": float(steps), "errors raised": float(raised)}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    actor, critic = nn.Linear(8, 4).to(device), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    actor_optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
    critic_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    state, target = torch.randn(32, 8, device=device), torch.randn(32, 1, device=device)
    steps, raised = 0, 0
    for _ in range(5):
        value = critic(actor(state))
        critic_optimizer.zero_grad()
        nn.functional.mse_loss(value, target).backward()
        critic_optimizer.step()
        actor_optimizer.zero_grad()
        value = critic(actor(state))
        try:
            (-value.mean()).backward()
        except RuntimeError:  # modified by an inplace operation
            raised += 1
            continue
        actor_optimizer.step()
        steps += 1
    return {"steps of the actor": float(steps), "errors raised": float(raised)}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["errors raised"] == 5.0
    assert trapped["steps of the actor"] == 0.0
    assert fixed["errors raised"] == 0.0
    assert fixed["steps of the actor"] == 5.0
