"""A tensor with history is read out as a plain number, and the number is a term of the loss.

## What it does

Reports `.item()`, `float()`, `.tolist()`, `.numpy()`, `math.sqrt(…)` and the like, where the tensor carries a
gradient, and the number is added to what is back-propagated, or to what `forward` returns. A Parameter that is read
out in `forward` or in the loss is reported as a factor too.

## Why it is a trap

The number is right, the printed loss is right, and autograd sees a constant: the gradient of that term is zero. As
long as another term is alive, `backward()` succeeds. `.item()` and `.tolist()` give no warning; `float(t)` and
`math.sqrt(t)` warn once ("Converting a tensor with requires_grad=True to a scalar"). A Parameter that enters as
`self.scale.item()` has no gradient (`grad` is None), so no optimizer ever moves it.

## Known limits

False positives: a constant that is added on purpose, to show a larger loss than the one that is trained.

False negatives: numbers that went through code out of sight, through a list that is summed later by it, or through a
file. Coefficients that multiply a live term are never reported (adaptive weights are made so), except Parameters.

If the number is all that is back-propagated, `backward()` raises, and the message says so.

## Trap

```python
import torch
from torch import nn


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.codebook = nn.Embedding(64, 4)

    def forward(self, inputs):
        return self.encoder(inputs)


def train(loader, criterion):
    model = Quantizer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in loader:
        optimizer.zero_grad()
        main_loss = criterion(model(inputs), targets)
        penalty = model.codebook.weight.pow(2).mean()
        loss = main_loss + 0.1 * penalty.item()  # the penalty is printed, not trained
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.codebook = nn.Embedding(64, 4)

    def forward(self, inputs):
        return self.encoder(inputs)


def train(loader, criterion):
    model = Quantizer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in loader:
        optimizer.zero_grad()
        main_loss = criterion(model(inputs), targets)
        penalty = model.codebook.weight.pow(2).mean()
        loss = main_loss + 0.1 * penalty
        loss.backward()
        optimizer.step()
        print(penalty.item())
```

## References

- [torch.Tensor.item](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.item.html)
- [torch.Tensor.tolist](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.tolist.html)
- [Autograd mechanics](https://docs.pytorch.org/docs/stable/notes/autograd.html)
"""

from __future__ import annotations

from flake8_gradtrap.events import Backpropagated, Produced, Term
from flake8_gradtrap.rule import Rule, Watch, on


class ReadoutInDifferentiablePath(Rule):
    code = "GTR201"
    name = "readout-in-differentiable-path"
    summary = "A tensor is read out as a number, and the number is a term of the loss"
    words = ("item", "tolist", "numpy", "math", "backward")
    roots = ("backward",)

    @on(Backpropagated, Produced)
    def arrived(self, event: Backpropagated | Produced, watch: Watch) -> None:
        for term in event.terms:
            if term.cut == "readout":
                message = judge(term, event)
                if message:
                    arrival = "returned here" if isinstance(event, Produced) else "back-propagated here"
                    watch.report(
                        term.site,
                        message,
                        trace=[("a tensor becomes a plain number here", term.site), (arrival, event.site)],
                    )


def judge(term: Term, event: Backpropagated | Produced) -> str:
    """What is wrong with a number in a differentiable value; "" if nothing is."""
    what = f"`{term.how.strip('`')}`" if term.how else "this"
    if term.parameter:
        return (
            f"{what} hides the parameter from autograd: it gets no gradient and is not trained; use the tensor itself"
        )
    if not term.additive or not term.had_history:
        return ""
    if not term.whole:
        return f"{what} is a plain number: the loss does not train this term; add the tensor, read it out for the log"
    if isinstance(event, Backpropagated):
        return (
            f"{what} is a plain number: `backward()` raises, with nothing to differentiate; back-propagate the tensor"
        )
    return ""


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    auxiliary = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = auxiliary.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        auxiliary_loss = nn.functional.cross_entropy(auxiliary(features), classes)
        loss = main_loss + 0.5 * auxiliary_loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (auxiliary.weight.detach() - initial).norm()
    return {"change of the auxiliary head": moved.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Linear(8, 16).to(device)
    head = nn.Linear(16, 1).to(device)
    auxiliary = nn.Linear(16, 4).to(device)
    parameters = [*body.parameters(), *head.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    inputs = torch.randn(64, 8, device=device)
    targets = torch.randn(64, 1, device=device)
    classes = torch.randint(0, 4, (64,), device=device)

    initial = auxiliary.weight.detach().clone()
    for _ in range(5):
        features = torch.tanh(body(inputs))
        main_loss = nn.functional.mse_loss(head(features), targets)
        auxiliary_loss = nn.functional.cross_entropy(auxiliary(features), classes)
        loss = main_loss + 0.5 * auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (auxiliary.weight.detach() - initial).norm()
    return {"change of the auxiliary head": moved.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    assert trapped["change of the auxiliary head"] == 0.0
    assert fixed["change of the auxiliary head"] > 1e-3
