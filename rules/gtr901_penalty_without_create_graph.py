"""A gradient penalty is computed from gradients that have no graph of their own, and trains nothing.

## What it does

Reports a `torch.autograd.grad` without `create_graph=True` whose result is a term of what is back-propagated: the
penalty of WGAN-GP, R1, path length or smoothness regularisation, a loss on forces or scores.

## Why it is a trap

Without `create_graph=True` the gradients that come back are plain numbers. A penalty on them has the right value, is
logged and added to the loss, and its gradient is zero: the network is trained as if the penalty were not there.
Nothing fails, as long as another term of the loss is alive.

## Known limits

False positives: a value that is added on purpose, so that the loss shows it in the log.

False negatives: `create_graph` given by a variable or in `**kwargs`; gradients that only update other parameters, as in
first-order MAML; a penalty that is computed in code that cannot be seen.

There is no fix: `create_graph=True` costs memory and time, and belongs to the algorithm.

## Trap

```python
import torch


def train(critic, generator, loader, optimizer):
    for real in loader:
        fake = generator(torch.randn(len(real), 64)).detach()
        mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
        gradients = torch.autograd.grad(critic(mixed).sum(), mixed)[0]
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch


def train(critic, generator, loader, optimizer):
    for real in loader:
        fake = generator(torch.randn(len(real), 64)).detach()
        mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
        gradients = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.autograd.grad](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad.html)
- [AMP examples: gradient penalty](https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-penalty)
- [Improved Training of Wasserstein GANs](https://arxiv.org/abs/1704.00028)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated, Produced
from flake8_gradtrap.rule import Rule, Watch, on


class PenaltyWithoutCreateGraph(Rule):
    code = "GTR901"
    name = "penalty-without-create-graph"
    summary = "A penalty on gradients that `autograd.grad` returned without a graph trains nothing"
    words = ("autograd", "grad", "only_inputs", "grad_outputs")
    roots = ("autograd", "only_inputs", "grad_outputs")

    @on(Backpropagated, Produced)
    def enters_loss(self, event: Backpropagated | Produced, watch: Watch) -> None:
        if isinstance(event, Produced) and event.by == "forward":
            return  # whether it is trained, its callers decide
        for term in event.terms:
            if term.cut == "first order" and term.additive:
                joined = [("it is added to the loss here", term.addend)] if term.addend is not None else []
                last = "returned as a loss here" if isinstance(event, Produced) else "back-propagated here"
                watch.report(
                    term.site,
                    "nothing is trained by a penalty on these gradients: `autograd.grad` returns them without a graph; "
                    "pass `create_graph=True`",
                    trace=[("these gradients have no graph", term.site), *joined, (last, event.site)],
                )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    real, fake = torch.randn(64, 8, device=device) + 1, torch.randn(64, 8, device=device)
    part = 0.0
    for _ in range(100):
        mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
        gradients = torch.autograd.grad(critic(mixed).sum(), mixed)[0]
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        part = penalty.item()
    return {"trains through the penalty": float(penalty.requires_grad), "penalty after 100 steps": part}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    real, fake = torch.randn(64, 8, device=device) + 1, torch.randn(64, 8, device=device)
    part = 0.0
    for _ in range(100):
        mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
        gradients = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        part = penalty.item()
    return {"trains through the penalty": float(penalty.requires_grad), "penalty after 100 steps": part}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["trains through the penalty"] == 0.0
    assert fixed["trains through the penalty"] == 1.0
    assert trapped["penalty after 100 steps"] > 10 * fixed["penalty after 100 steps"]
