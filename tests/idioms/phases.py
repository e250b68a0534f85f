"""One loop for training and evaluation, told apart by a flag, a name, an optimizer that is there or not, a class."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.phases_of_classes import CLASSES

_SHAPE = {
    "names of phases": """
    def fit(model, loaders, optimizer, epochs=2):
        best, kept = 1e9, copy.deepcopy(model.state_dict())
        for epoch in range(epochs):
            for phase in ["train", "val"]:
                if phase == "train":
                    model.train()
                else:
                    model.eval()
                {{start}}
                for x, y in loaders[phase]:
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(phase == "train"):
                        out = model(x)
                        loss = F.cross_entropy(out, y)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
                    {{record}}
                {{finish}}
                if phase == "val" and value < best:
                    best, kept = value, copy.deepcopy(model.state_dict())
        model.load_state_dict(kept)


    net = Net()
    fit(net, {"train": batches(), "val": batches()}, torch.optim.Adam(net.parameters()))
    """,
    "optimizer or None": """
    def run_epoch(model, loader, optimizer=None):
        training = optimizer is not None
        model.train(training)
        {{start}}
        with torch.set_grad_enabled(training):
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                if training:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    for epoch in range(2):
        run_epoch(net, batches(), optimizer)
        print(run_epoch(net, batches()))
    """,
    "flag": """
    def run(model, loader, optimizer, train=True):
        if train:
            model.train()
        else:
            model.eval()
        {{start}}
        for x, y in loader:
            with torch.set_grad_enabled(train):
                out = model(x)
                loss = F.cross_entropy(out, y)
            if train:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        run(net, batches(), optimizer)
        run(net, batches(), optimizer, train=False)
    """,
    "two branches": """
    def run(model, loader, optimizer, is_train):
        {{start}}
        for x, y in loader:
            if is_train:
                model.train()
                out = model(x)
                loss = F.cross_entropy(out, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            else:
                model.eval()
                with torch.no_grad():
                    out = model(x)
                    loss = F.cross_entropy(out, y)
            {{record}}
        {{finish}}
        return value


    def main():
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for epoch in range(2):
            run(net, batches(), optimizer, True)
            run(net, batches(), optimizer, False)


    main()
    """,
    "chosen context": """
    def run(model, loader, optimizer, mode):
        assert mode in ("train", "test")
        context = torch.enable_grad if mode == "train" else torch.no_grad
        getattr(model, "train" if mode == "train" else "eval")()
        {{start}}
        with context():
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                if mode == "train":
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        for mode in ("train", "test"):
            run(net, batches(), optimizer, mode)
    """,
    "null context": """
    def run(model, loader, optimizer=None):
        guard = nullcontext() if optimizer else torch.no_grad()
        model.train() if optimizer else model.eval()
        {{start}}
        with guard:
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                if optimizer:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        run(net, batches(), optimizer)
        run(net, batches())
    """,
    "asks the model": """
    def run(model, loader, optimizer):
        {{start}}
        for x, y in loader:
            out = model(x)
            loss = F.cross_entropy(out, y)
            if model.training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        net.train()
        run(net, batches(), optimizer)
        net.eval()
        with torch.no_grad():
            run(net, batches(), optimizer)
    """,
    "quiet wrapper": """
    def _run(model, loader, optimizer=None):
        {{start}}
        for x, y in loader:
            out = model(x)
            loss = F.cross_entropy(out, y)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    def train(model, loader, optimizer):
        model.train()
        return _run(model, loader, optimizer)


    @torch.no_grad()
    def validate(model, loader):
        model.eval()
        return _run(model, loader)


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        train(net, batches(), optimizer)
        validate(net, batches())
    """,
    "switch as a statement": """
    def run(model, loader, optimizer, train):
        torch.set_grad_enabled(train)
        model.train(mode=train)
        {{start}}
        for x, y in loader:
            out = model(x)
            loss = F.cross_entropy(out, y)
            if train:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        run(net, batches(), optimizer, True)
        run(net, batches(), optimizer, False)
    torch.set_grad_enabled(True)
    """,
    "enumeration": """
    class Mode(Enum):
        TRAIN = "train"
        EVAL = "eval"


    def run(model, loader, optimizer, mode):
        model.train(mode is Mode.TRAIN)
        {{start}}
        for x, y in loader:
            with torch.set_grad_enabled(mode is Mode.TRAIN):
                out = model(x)
                loss = F.cross_entropy(out, y)
            if mode is Mode.TRAIN:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        for mode in Mode:
            run(net, batches(), optimizer, mode)
    """,
    "partial": """
    def run(model, optimizer, loader, train):
        model.train(train)
        {{start}}
        for x, y in loader:
            if not train:
                with torch.no_grad():
                    out = model(x)
                    loss = F.cross_entropy(out, y)
            else:
                out = model(x)
                loss = F.cross_entropy(out, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train, test = partial(run, net, optimizer, train=True), partial(run, net, optimizer, train=False)
    for epoch in range(2):
        train(batches())
        test(batches())
    """,
    **CLASSES,
}


def _record(start: str, record: str, finish: str) -> dict[str, str]:
    return {"start": start, "record": record, "finish": finish}


_RECORD = {
    "item": _record("total = 0.0", "total += loss.item() * x.size(0)", "value = total"),
    "detached list": _record(
        "losses = []", "losses.append(loss.detach())", "value = torch.stack(losses).mean().item()"
    ),
    "correct": _record("total = 0", "total += torch.sum(out.max(1)[1] == y.data)", "value = total.double().item()"),
    "outputs": _record(
        "outs = []", "outs.append(out.detach().cpu().numpy())", "value = float(np.concatenate(outs).mean())"
    ),
    "dict": _record("sums = defaultdict(float)", "sums['loss'] += float(loss.detach())", "value = sums['loss']"),
    "softmax": _record(
        "probs = []", "probs.extend(F.softmax(out, dim=1).detach().max(1).values.tolist())", "value = sum(probs)"
    ),
    "data": _record("total = 0", "total += loss.data", "value = float(total)"),
    "under no_grad": _record(
        "total = torch.zeros(())", "with torch.no_grad():\n    total += loss", "value = total.item()"
    ),
    "returned later": _record(
        "rows = []", "rows.append({'loss': loss.item(), 'n': len(x)})", "value = sum(r['loss'] for r in rows)"
    ),
    "meter": _record("meter = Meter()", "meter.add(loss.item(), len(x))", "value = meter.mean"),
}

_PHASES = Family(
    "phases",
    """
    import copy
    from collections import defaultdict
    from contextlib import contextmanager, nullcontext
    from enum import Enum
    from functools import partial

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F


    class Meter:
        def __init__(self):
            self.total, self.count = 0.0, 0

        def add(self, value, n=1):
            self.total += value * n
            self.count += n

        @property
        def mean(self):
            return self.total / max(self.count, 1)


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            {{made}}

        def forward(self, x):
            return self.layers(x)


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(2)]


    {{program}}
    """,
    {
        "shape": {name: {"program": text} for name, text in _SHAPE.items()},
        "record": _RECORD,
        "net": {
            "dropout": {
                "made": "self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 4))"
            },
            "norm": {"made": "self.layers = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))"},
        },
    },
    {"summed": ("GTR401", _record("total = 0.0", "total += loss", "value = float(total)"))},
)

FAMILIES = (_PHASES,)
