"""The logarithm of one minus a probability is infinite as soon as the probability rounds to one.

## What it does

Reports `log(1 - p)` and `log1p(-p)` where p is a softmax or a sigmoid (also the last layer of a model that can be
seen), and the logarithm of what is made a probability by an arctan, if a gradient can go through. As a preview, also
where a small number is added: `log(p + 1e-8)`.

## Why it is a trap

A sigmoid of 17 is exactly 1 in 32-bit floats (of 9 in half precision): the logarithm of one minus it is minus infinity,
its gradient NaN, and so is every parameter after the next step. A discriminator gets there as soon as it wins. An
epsilon inside the difference does not help: `1 + 1e-8` is 1. One that is added to the difference keeps the logarithm
finite, and makes the gradient exactly 0 there (measured), just where the model is wrong and sure of it.

`logsigmoid(-x)` is the same, and finite; `binary_cross_entropy_with_logits` is the whole loss.

## Known limits

False positives: probabilities that are bounded away from 1 elsewhere.

False negatives: a probability of which nothing is known but its name; clamped ones, which are finite and have no
gradient beyond the clamp.

There is no automatic fix: it takes the logits, which are elsewhere.

## Trap

```python
import torch
from torch import nn


def train(generator, loader, optimizer_d):
    discriminator = nn.Sequential(nn.Linear(784, 64), nn.LeakyReLU(), nn.Linear(64, 1), nn.Sigmoid())
    for images, noise in loader:
        fake = generator(noise).detach()
        loss = nn.functional.softplus(-discriminator[:-1](images)).mean()
        loss = loss - torch.log(1 - discriminator(fake)).mean()  # infinite for a fake of which it is sure
        optimizer_d.zero_grad()
        loss.backward()
        optimizer_d.step()
```

## Fixed

```python
import torch
from torch import nn


def train(generator, loader, optimizer_d):
    discriminator = nn.Sequential(nn.Linear(784, 64), nn.LeakyReLU(), nn.Linear(64, 1))
    for images, noise in loader:
        fake = generator(noise).detach()
        loss = nn.functional.softplus(-discriminator(images)).mean()
        loss = loss - nn.functional.logsigmoid(-discriminator(fake)).mean()
        optimizer_d.zero_grad()
        loss.backward()
        optimizer_d.step()
```

## References

- [torch.nn.functional.logsigmoid](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.logsigmoid.html)
- [torch.nn.BCEWithLogitsLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import LogarithmTaken
from flake8_gradtrap.logarithms import TellsOfLogarithms, steps
from flake8_gradtrap.rule import Watch, on

STABLE = {
    "sigmoid": "use `logsigmoid(-x)` of the logits, or `binary_cross_entropy_with_logits`",
    "softmax": "clamp it, or compute it from `log_softmax` with `torch.expm1`",
    "arctan": "clamp it",
}


class LogOfOneMinus(TellsOfLogarithms):
    code = "GTR802"
    name = "log-of-one-minus"
    summary = "The logarithm of one minus a probability is infinite where the probability rounds to one"
    words = (
        "softmax",
        "Softmax",
        "sigmoid",
        "Sigmoid",
        "expit",
        "atan",
        "arctan",
        "log",
        "log1p",
        "log2",
        "log10",
        "backward",
    )
    roots = ("log", "log1p", "log2", "log10")
    needs = ("softmax", "Softmax", "sigmoid", "Sigmoid", "expit", "atan", "arctan")

    @on(LogarithmTaken)
    def taken(self, event: LogarithmTaken, watch: Watch) -> None:
        made = event.activation
        if event.trains and (event.complement or event.guarded or made.kind == "arctan"):
            self.taken_at[event.result.key] = event

    def tell(self, event: LogarithmTaken, watch: Watch) -> None:
        made = event.activation
        name = f"the output of `{made.model}`" if made.model else f"`{made.how}`"
        operand = f"one minus {name}" if event.complement else name
        stable = STABLE[made.kind]
        if not event.complement:
            stable = {"softmax": "use `log_softmax`", "sigmoid": "use `logsigmoid`"}.get(made.kind, stable)
        if event.guarded:
            watch.report(
                event.site,
                f"the small number that is added to {operand} keeps the logarithm finite, and the gradient is lost "
                f"where the probability saturates; {stable}",
                trace=steps(event),
                preview=True,
            )
        else:
            at = "rounds to one" if event.complement else "rounds to zero"
            watch.report(
                event.site,
                f"the logarithm of {operand} is -inf where the probability {at}, and the gradient NaN; {stable}",
                trace=steps(event),
            )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    score = nn.Linear(8, 1).to(device)
    discriminator = nn.Sequential(score, nn.Sigmoid())
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    fake = torch.randn(32, 8, device=device)
    fake[0] = 100 * score.weight[0].detach()  # one that is taken for real beyond doubt
    loss = -torch.log(1 - discriminator(fake)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"parameters that are NaN after the step": float(score.weight.isnan().sum())}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    score = nn.Linear(8, 1).to(device)
    discriminator = nn.Sequential(score)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    fake = torch.randn(32, 8, device=device)
    fake[0] = 100 * score.weight[0].detach()
    loss = -nn.functional.logsigmoid(-discriminator(fake)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"parameters that are NaN after the step": float(score.weight.isnan().sum())}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["parameters that are NaN after the step"] > 0
    assert fixed["parameters that are NaN after the step"] == 0
