"""The logarithm of a softmax or a sigmoid is taken in two steps, and is infinite where the probability underflows.

## What it does

Reports `log(softmax(x))` and `log(sigmoid(x))` that a gradient can go through, also where a view, a `gather` or an
index stands in between, or where the softmax is the last layer of a model that can be seen.

## Why it is a trap

In 32-bit floats the softmax of a logit that is 104 below the greatest is exactly 0, and so is the sigmoid of -104; in
half precision 18 suffice. The logarithm is then minus infinity, and its gradient NaN: one such element makes every
parameter NaN in the next step, and a clip of the gradients' norm spreads it. It comes late, when the model has become
sure. `log_softmax` and `logsigmoid` compute the same without the way through the probability, and stay finite: the
gradient at a logit of -200 is 1.

## Known limits

False positives: logits that are bounded elsewhere.

False negatives: a probability to which something is added, or that is clamped, is silent (GTR802 has more); a model
that cannot be seen; probabilities of which a sum or a product is taken first.

There is no automatic fix: the probability may have other users.

## Trap

```python
import torch
from torch import nn


def train(policy: nn.Module, optimizer, rollouts):
    head = nn.Linear(64, 4)
    for states, actions, advantages in rollouts:
        probabilities = torch.softmax(head(policy(states)), dim=-1)
        chosen = torch.log(probabilities.gather(1, actions))  # -inf for an action of probability 0
        loss = -(chosen * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(policy: nn.Module, optimizer, rollouts):
    head = nn.Linear(64, 4)
    for states, actions, advantages in rollouts:
        chosen = torch.log_softmax(head(policy(states)), dim=-1).gather(1, actions)
        loss = -(chosen * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.nn.functional.log_softmax](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html)
- [torch.nn.functional.logsigmoid](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.logsigmoid.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import LogarithmTaken
from flake8_gradtrap.logarithms import TellsOfLogarithms, steps
from flake8_gradtrap.rule import Watch, on


class LogOfActivation(TellsOfLogarithms):
    code = "GTR801"
    name = "log-of-activation"
    summary = "The logarithm of a softmax or sigmoid is infinite where the probability underflows"
    words = ("softmax", "Softmax", "sigmoid", "Sigmoid", "expit", "log", "log2", "log10", "backward")
    roots = ("log", "log2", "log10")
    needs = ("softmax", "Softmax", "sigmoid", "Sigmoid", "expit")

    @on(LogarithmTaken)
    def taken(self, event: LogarithmTaken, watch: Watch) -> None:
        made = event.activation
        if not (event.complement or event.guarded) and event.trains and made.kind in ("softmax", "sigmoid"):
            self.taken_at[event.result.key] = event

    def tell(self, event: LogarithmTaken, watch: Watch) -> None:
        made = event.activation
        what = f"the output of `{made.model}`, which ends with `{made.how}`," if made.model else f"`{made.how}`"
        use = "log_softmax" if made.kind == "softmax" else "logsigmoid"
        watch.report(
            event.site,
            f"the logarithm of {what} is -inf where the probability underflows, and the gradient NaN; "
            f"use `{use}` of the logits",
            trace=steps(event),
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    head = nn.Linear(8, 4).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    states = torch.randn(32, 8, device=device)
    states[0] = 500 * head.weight[0].detach()  # one state in which the policy is sure of action 0
    actions = torch.randint(0, 4, (32, 1), device=device)
    actions[0] = int(head(states[0]).argmin())
    probabilities = torch.softmax(head(states), dim=-1)
    loss = -torch.log(probabilities.gather(1, actions)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"parameters that are NaN after the step": float(head.weight.isnan().sum())}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    head = nn.Linear(8, 4).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    states = torch.randn(32, 8, device=device)
    states[0] = 500 * head.weight[0].detach()
    actions = torch.randint(0, 4, (32, 1), device=device)
    actions[0] = int(head(states[0]).argmin())
    loss = -torch.log_softmax(head(states), dim=-1).gather(1, actions).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"parameters that are NaN after the step": float(head.weight.isnan().sum())}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that are NaN after the step"] > 0
    assert fixed["parameters that are NaN after the step"] == 0
