"""A loss that is summed over the batch is back-propagated: the step grows with the number of samples.

## What it does

Reports a backward of a loss of torch with `reduction="sum"` (or of the sum of one with `reduction="none"`), where
nothing divides or weighs the sum before.

## Why it is a trap

The gradient of a sum is as many times that of a mean as there are samples. The learning rate that suits a batch of 32
is eight times too large for a batch of 256, the last, smaller batch of an epoch makes a smaller step, and a clip of the
gradients' norm, or a weight decay, means something else for every batch size. Nothing is raised.

## Known limits

False positives: a learning rate that was chosen for the sum and for a fixed batch, as in many variational autoencoders.
This is why the rule is a preview.

False negatives: sums that were computed by hand; a sum that is multiplied by anything unknown; gradients that are
divided afterwards are not known to be.

## Trap

```python
import torch
from torch import nn


def train(model: nn.Module, loader):
    criterion = nn.MSELoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for inputs, targets in loader:
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # as many times too large as the batch has samples
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


def train(model: nn.Module, loader):
    criterion = nn.MSELoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for inputs, targets in loader:
        loss = criterion(model(inputs), targets) / inputs.size(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
```

## References

- [torch.nn.MSELoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.MSELoss.html)
- [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), section 3: implementation pitfalls
"""

from __future__ import annotations

from flake8_gradtrap.events import SumBackpropagated
from flake8_gradtrap.rule import Rule, Watch, on


class SumScalesWithBatch(Rule):
    code = "GTR806"
    name = "sum-scales-with-batch"
    summary = "A loss that is summed over the batch is back-propagated: the step grows with the batch"
    default = False
    words = ("reduction", "size_average", "backward")
    roots = ("backward",)

    @on(SumBackpropagated)
    def backward(self, event: SumBackpropagated, watch: Watch) -> None:
        watch.report(
            event.site,
            "the gradient grows with the number of samples: the loss is a sum over the batch; use the mean, or divide "
            "by the number of samples",
            trace=[("the loss is summed here", event.summed), ("and back-propagated here", event.site)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    criterion = nn.MSELoss(reduction="sum")
    inputs = torch.randn(8, 8, device=device)
    targets = torch.randn(8, 1, device=device)
    norms = []
    for times in (1, 8):
        loss = criterion(model(inputs.repeat(times, 1)), targets.repeat(times, 1))
        model.zero_grad()
        loss.backward()
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item())
    return {"gradient of a batch eight times as large": norms[1] / norms[0]}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    criterion = nn.MSELoss(reduction="mean")
    inputs = torch.randn(8, 8, device=device)
    targets = torch.randn(8, 1, device=device)
    norms = []
    for times in (1, 8):
        loss = criterion(model(inputs.repeat(times, 1)), targets.repeat(times, 1))
        model.zero_grad()
        loss.backward()
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item())
    return {"gradient of a batch eight times as large": norms[1] / norms[0]}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["gradient of a batch eight times as large"] > 7.9
    assert fixed["gradient of a batch eight times as large"] < 1.1
