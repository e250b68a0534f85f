"""A tensor that was made under `inference_mode` enters a recorded operation that has to save it.

## What it does

Reports an operation through which a gradient goes, and that needs an inference tensor for it: a product, a layer with
weights, a loss such as `mse_loss` or `cross_entropy`.

## Why it is a trap

`inference_mode` is faster than `no_grad` because its tensors have no version counter. So autograd cannot save them, and
refuses where it would have to: `RuntimeError: Inference tensors cannot be saved for backward`. Which operations save
what is not to be seen: adding, concatenating and `l1_loss` work, `mse_loss` raises. A frozen backbone or a teacher
under `inference_mode` works until the loss is exchanged. As it is loud where it is reached, it is only an information.

## Known limits

False positives: a path that is never run with gradients on.

False negatives: operations out of sight; indexing with an inference tensor; tensors that a function out of sight made,
or that were moved (`to`, `cuda`), which may have made a copy.

There is no fix: use `torch.no_grad()`, or `clone()` what comes out of the block.

## Trap

```python
import torch


def distil(student, teacher, loader):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for x, _ in loader:
        with torch.inference_mode():
            target = teacher(x)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(student(x), target).backward()  # raises
        optimizer.step()
```

## Fixed

```python
import torch


def distil(student, teacher, loader):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for x, _ in loader:
        with torch.no_grad():
            target = teacher(x)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(student(x), target).backward()
        optimizer.step()
```

## References

- [torch.autograd.grad_mode.inference_mode](https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html)
- [Autograd mechanics: inference mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#inference-mode)
"""

from __future__ import annotations

from flake8_gradtrap.events import InferenceTensorSaved
from flake8_gradtrap.gradients import quoted
from flake8_gradtrap.rule import Rule, Watch, on


class InferenceTensorInTraining(Rule):
    code = "GTR208"
    name = "inference-tensor-in-training"
    summary = "A tensor made under inference_mode enters an operation that has to save it, which raises"
    severity = "info"
    words = ("inference_mode",)

    @on(InferenceTensorSaved)
    def saved(self, event: InferenceTensorSaved, watch: Watch) -> None:
        name = quoted(event.tensor, "a tensor")
        watch.report(
            event.site,
            f"{event.by} raises `RuntimeError` here: it has to save {name}, which was made under `inference_mode` at "
            f"line {watch.line(event.made)}; use `torch.no_grad()` there, or `clone()` it outside",
            trace=[("made under `inference_mode` here", event.made), ("an operation has to save it here", event.site)],
        )


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 1).to(device), nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    x = torch.randn(32, 8, device=device)
    start = student.weight.detach().clone()
    raised = 0.0
    for _ in range(5):
        with torch.inference_mode():
            target = teacher(x)
        optimizer.zero_grad()
        try:
            nn.functional.mse_loss(student(x), target).backward()
        except RuntimeError:  # Inference tensors cannot be saved for backward
            raised += 1.0
        optimizer.step()
    return {"raised": raised, "change of the student": (student.weight.detach() - start).norm().item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 1).to(device), nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    x = torch.randn(32, 8, device=device)
    start = student.weight.detach().clone()
    raised = 0.0
    for _ in range(5):
        with torch.no_grad():
            target = teacher(x)
        optimizer.zero_grad()
        try:
            nn.functional.mse_loss(student(x), target).backward()
        except RuntimeError:
            raised += 1.0
        optimizer.step()
    return {"raised": raised, "change of the student": (student.weight.detach() - start).norm().item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["raised"] == 5.0
    assert trapped["change of the student"] == 0.0
    assert fixed["raised"] == 0.0
    assert fixed["change of the student"] > 1e-4
