"""A loss is given something else than what it takes: probabilities instead of logits, or the other way round.

## What it does

Reports

- softmax (or sigmoid) into `cross_entropy`, and sigmoid (or softmax) into `binary_cross_entropy_with_logits`, which
  apply their own;
- `log_softmax` into `cross_entropy`, which is done twice and harms nothing (a remark);
- probabilities, or the output of a linear layer, into `nll_loss` or `ctc_loss`, which take log-probabilities;
- the output of a linear layer, or log-probabilities, into `binary_cross_entropy`, which takes probabilities.

The activation is followed through views, and out of a model that can be seen, also in another file: its last layer, the
last of an `nn.Sequential`, or what its `forward` returns. One activation is told once, at the first loss that gets it.

## Why it is a trap

`cross_entropy` takes the softmax of what it is given. A softmax of a softmax is nearly flat: of ten classes, a
prediction that is certain and right still has a loss of 1.46, and the gradient is a fraction of what it should be and
vanishes where the model is sure, also where it is wrong. Nothing is raised. The loss falls, slowly, and stops far
above zero. A sigmoid before `binary_cross_entropy_with_logits` cannot get the loss of a negative example below 0.69.

`nll_loss` only picks an element and changes its sign: of probabilities this is no likelihood, of raw logits it is not
bounded below, and training diverges. `binary_cross_entropy` raises on the first value that is not in [0, 1].

`log_softmax` of a `log_softmax` is the same (measured: gradients agree up to rounding), only slower.

## Known limits

False positives: a flattened softmax that is meant.

False negatives: an activation in a model that cannot be seen, after which something is computed (a mean, a sum of
several), or that is applied on some paths only; other losses than those of torch; kl_div, mse_loss and other losses
that take probabilities or logits as one likes.

There is no automatic fix: the activation may have other users.

## Trap

```python
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, inputs):
        return torch.softmax(self.head(torch.relu(self.body(inputs))), dim=1)


def train(loader):
    model = Classifier()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)  # a softmax of a softmax
        loss.backward()
        optimizer.step()
```

## Fixed

```python
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, inputs):
        return self.head(torch.relu(self.body(inputs)))

    @torch.no_grad()
    def probabilities(self, inputs):
        return torch.softmax(self(inputs), dim=1)


def train(loader):
    model = Classifier()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
```

## References

- [torch.nn.CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html)
- [torch.nn.BCEWithLogitsLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html)
- [torch.nn.NLLLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html)
"""

from __future__ import annotations

from collections.abc import Hashable

from flake8_gradtrap.events import Activation, FileEnded, LossComputed, RunEnded
from flake8_gradtrap.keeping import place_key
from flake8_gradtrap.rule import Rule, Watch, on

NAMES = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "log_softmax": "log_softmax",
    "log_sigmoid": "logsigmoid",
    "linear": "linear layer",
}


class ActivationBeforeLogitLoss(Rule):
    code = "GTR803"
    name = "activation-before-logit-loss"
    summary = "A loss that takes logits is given probabilities, or the other way round"
    words = (
        "cross_entropy", "CrossEntropyLoss", "binary_cross_entropy", "BCELoss", "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss", "nll_loss", "NLLLoss", "ctc_loss", "CTCLoss", "sigmoid_focal_loss",
        "MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss", "criterion", "softmax", "Softmax", "log_softmax",
        "LogSoftmax", "sigmoid", "Sigmoid", "logsigmoid", "LogSigmoid", "backward",
    )  # fmt: skip
    roots = (
        "cross_entropy", "CrossEntropyLoss", "binary_cross_entropy", "BCELoss", "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss", "nll_loss", "NLLLoss", "ctc_loss", "CTCLoss", "sigmoid_focal_loss",
        "MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss", "criterion",
    )  # fmt: skip
    waits = ("trapped", "waiting")

    def __init__(self) -> None:
        self.trapped: dict[Hashable, LossComputed] = {}
        self.innocent: set[Hashable] = set()
        """Places where a loss is given what it takes, or something that is not known, on some path of the run."""
        self.waiting: dict[Hashable, LossComputed] = {}
        """What is left of a run, by place and what the loss takes."""
        self.served: set[Hashable] = set()
        """Places, and what the loss takes there, where it is given that on some path of any run: a constructor that
        chooses what it makes is run for each choice.
        """

    @on(LossComputed)
    def computed(self, event: LossComputed, watch: Watch) -> None:
        place = place_key(event.site)
        if event.unseen:
            return  # what it is given was seen another time
        if event.activation is None or not wrong(event.expects, event.activation.kind)[0]:
            self.innocent.add(place)
            self.served.add((place, event.expects))
        elif event.trains is not False:
            self.trapped.setdefault(place, event)

    @on(RunEnded)
    def ended(self, event: RunEnded, watch: Watch) -> None:
        for place, loss in self.trapped.items():
            if place not in self.innocent:
                self.waiting.setdefault((place, loss.expects), loss)
        self.trapped.clear()
        self.innocent.clear()

    @on(FileEnded)
    def judge(self, event: FileEnded, watch: Watch) -> None:
        causes: dict[Hashable, list[LossComputed]] = {}
        for place, loss in self.waiting.items():
            if place not in self.served and loss.activation is not None:
                site = loss.activation.site
                cause = (site.node if site is not None else place, wrong(loss.expects, loss.activation.kind))
                causes.setdefault(cause, []).append(loss)
        self.waiting.clear()
        for first, *others in causes.values():
            assert first.activation is not None
            self.tell(first, first.activation, others, watch)

    def tell(self, event: LossComputed, made: Activation, others: list[LossComputed], watch: Watch) -> None:
        model = "the model" if made.model == "self" else f"`{made.model}`"
        what = f"the output of {model}, which ends with `{made.how}`" if made.model else f"`{made.how}`"
        if made.kind == "linear" and not made.model:
            what = "the output of a linear layer"
        message, severity = wrong(event.expects, made.kind)
        trace = [("the model is made here", made.made)] if made.made is not None else []
        trace += [(f"{NAMES[made.kind]} is applied here", made.site)] if made.site is not None else []
        watch.report(
            event.site,
            message.format(loss=event.loss, what=what, activation=NAMES[made.kind]),
            trace=[
                *trace,
                ("and its output is given to the loss here", event.site),
                *(("and here", other.site) for other in others),
            ],
            severity=severity,
        )


def wrong(expects: str, kind: str) -> tuple[str, str | None]:
    """What is wrong with a loss that is given this: the message, and its severity; empty if nothing is."""
    if expects == "logits":
        if kind == "log_softmax":
            return "`{loss}` applies its own log_softmax, and is given {what}: it is done twice, leave it out", "info"
        if kind in ("softmax", "sigmoid"):
            return (
                "`{loss}` applies its own softmax, and is given {what}: gradients are squashed and the loss stays "
                "far above zero; give it logits",
                None,
            )
    if expects == "binary_logits" and kind in ("sigmoid", "softmax", "log_softmax", "log_sigmoid"):
        return (
            "`{loss}` applies its own sigmoid, and is given {what}: gradients are squashed and the loss stays "
            "far above zero; give it logits",
            None,
        )
    if expects == "log_probabilities":
        if kind in ("softmax", "sigmoid"):
            return (
                "`{loss}` takes log-probabilities, and is given {what}: this is no likelihood, gradients vanish where "
                "the model is wrong; use `log_softmax`",
                None,
            )
        if kind == "linear":
            return (
                "`{loss}` takes log-probabilities, and is given {what}: the loss has no lower bound, training "
                "diverges; use `log_softmax`, or a cross-entropy",
                None,
            )
    if expects == "probabilities" and kind in ("linear", "log_softmax", "log_sigmoid"):
        return (
            "`{loss}` takes probabilities, and is given {what}: it raises on the first value outside [0, 1]; use "
            "`binary_cross_entropy_with_logits` on logits",
            "info",
        )
    return "", None


def trapped(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = torch.randn(64, 16, device=device)
    labels = torch.randint(0, 10, (64,), device=device)
    for _ in range(200):
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = 20 * nn.functional.one_hot(labels, 10).float()
    certain = nn.functional.cross_entropy(torch.softmax(logits, dim=1), labels)
    return {"loss of a prediction that is certain and right": certain.item(), "loss after 200 steps": loss.item()}


def fixed(device: str = "cpu") -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = torch.randn(64, 16, device=device)
    labels = torch.randint(0, 10, (64,), device=device)
    for _ in range(200):
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = 20 * nn.functional.one_hot(labels, 10).float()
    certain = nn.functional.cross_entropy(logits, labels)
    return {"loss of a prediction that is certain and right": certain.item(), "loss after 200 steps": loss.item()}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    certain = "loss of a prediction that is certain and right"
    assert trapped[certain] > 1.46
    assert fixed[certain] < 1e-6
