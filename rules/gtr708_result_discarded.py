"""A method that returns a new tensor is called as a statement, and does nothing.

## What it does

Reports `x.to(device)`, `x.cuda()`, `x.detach()`, `x.float()`, `x.clamp(…)`, `p.grad.clamp(…)` and their like, called
as a statement on a tensor: nothing is done with the tensor that they return. A view (`x.view(…)`, `x.squeeze()`) is
told as a remark.

## Why it is a trap

The `to` of a module works in place, the `to` of a tensor returns another one: `x` stays on the device where it was, in
the graph in which it was, with the values that it had. Gradients that should be clamped are not; a hidden state that
should be detached drags its graph into the next step. Where the shape or the device matters, a later line raises, as
long as it runs on a GPU.

## Known limits

False positives: a call that is made for what it costs (a warm-up).

False negatives: values of which it is not known that they are tensors, such as a batch that is not unpacked: the
batches of some libraries move in place.

There is no automatic fix: `x = x.to(device)` helps only if the old `x` is wanted nowhere.

## Trap

```python
import torch


def train(model, loader, criterion, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x.to(device)), y.to(device))
        loss.backward()
        for p in model.parameters():
            p.grad.clamp(-1.0, 1.0)  # the gradient stays as it is
        optimizer.step()
```

## Fixed

```python
import torch


def train(model, loader, criterion, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x.to(device)), y.to(device))
        loss.backward()
        for p in model.parameters():
            p.grad.clamp_(-1.0, 1.0)
        optimizer.step()
```

## References

- [torch.Tensor.to](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.to.html)
- [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
- [torch.Tensor.clamp](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.clamp.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import ResultDropped
from flake8_gradtrap.rule import Rule, Watch, on
from flake8_gradtrap.traits import DROPS_RESULT

_IN_PLACE = frozenset(
    "detach clamp clip clamp_min clamp_max masked_fill scatter scatter_add index_fill index_add index_copy mul div sub "
    "pow sqrt exp sigmoid tanh relu abs neg nan_to_num squeeze unsqueeze transpose t swapaxes".split()
)
"""Methods of which there is one that works in place, by the same name and an underscore."""


class ResultDiscarded(Rule):
    code = "GTR708"
    name = "result-discarded"
    summary = "A method that returns a new tensor is called as a statement, and does nothing"
    unnecessary = True
    words = (DROPS_RESULT,)

    @on(ResultDropped)
    def dropped(self, event: ResultDropped, watch: Watch) -> None:
        name = event.tensor.label or "the tensor"
        target = name if name.replace(".", "").replace("_", "").isalnum() else "x"
        instead = f"write `{target} = {target}.{event.how}(…)`"
        if event.how in _IN_PLACE:
            instead += f" or `.{event.how}_(…)`"
        what = "returns a view" if event.view else "returns another tensor"
        watch.report(
            event.site,
            f"`.{event.how}()` {what} and leaves `{name}` as it was: this line does nothing; {instead}",
            trace=[("what this returns is dropped", event.site)],
            severity="info" if event.view else None,
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), 50 * torch.randn(64, 1, device=device)
    largest = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.clamp(-0.1, 0.1)
            largest = max(largest, parameter.grad.abs().max().item())
        optimizer.step()
    return {"largest gradient that is applied": largest}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 8, device=device), 50 * torch.randn(64, 1, device=device)
    largest = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.clamp_(-0.1, 0.1)
            largest = max(largest, parameter.grad.abs().max().item())
        optimizer.step()
    return {"largest gradient that is applied": largest}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["largest gradient that is applied"] > 1.0
    assert 0.0 < fixed["largest gradient that is applied"] <= 0.1001
