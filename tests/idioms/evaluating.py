"""A model that is trained and evaluated in turn: gradients are off there, and the mode is put back."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.modes import MODES, OFF

_COLLECT = {
    "loss": {"prepare": "total = 0.0", "collect": "total += F.cross_entropy(out, y).item()", "result": "total"},
    "raw loss": {"prepare": "total = 0", "collect": "total += F.cross_entropy(out, y)", "result": "float(total)"},
    "correct": {
        "prepare": "correct = 0\ncount = 0",
        "collect": "correct += (out.argmax(1) == y).sum().item()\ncount += y.size(0)",
        "result": "correct / count",
    },
    "outputs": {
        "prepare": "outputs, targets = [], []",
        "collect": "outputs.append(out)\ntargets.append(y)",
        "result": "(torch.cat(outputs).argmax(1) == torch.cat(targets)).float().mean().item()",
    },
    "numpy": {
        "prepare": "scores, truth = [], []",
        "collect": "scores.extend(torch.softmax(out, 1)[:, 1].cpu().numpy())\ntruth.extend(y.tolist())",
        "result": "float(np.corrcoef(np.array(scores), np.array(truth))[0, 1])",
    },
    "arrays": {
        "prepare": "scores = np.zeros((0, 4))",
        "collect": "scores = np.concatenate([scores, out.detach().cpu().numpy()])",
        "result": "scores.mean()",
    },
    "dict": {
        "prepare": "sums = defaultdict(float)",
        "collect": "for name, value in {'ce': F.cross_entropy(out, y), 'size': out.abs().mean()}.items():\n"
        "    sums[name] += value",
        "result": "float(sums['ce'])",
    },
    "confusion": {
        "prepare": "matrix = torch.zeros(4, 4)",
        "collect": "for t, p in zip(y.view(-1), out.max(1)[1].view(-1)):\n    matrix[t.long(), p.long()] += 1",
        "result": "(matrix.diag().sum() / matrix.sum()).item()",
    },
    "entropy": {
        "prepare": "values = []",
        "collect": "p = out.softmax(1)\nvalues.append(-(p * torch.log(p + 1e-8)).sum(1).mean())",
        "result": "torch.stack(values).mean().item()",
    },
    "perplexity": {
        "prepare": "total, count = 0.0, 0",
        "collect": "total += F.cross_entropy(out, y, reduction='sum').data\ncount += len(y)",
        "result": "math.exp(float(total) / count)",
    },
}

_STEP = """
for x, y in loader:
    {{batch_mode}}
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""

_LAYOUT = {
    "functions": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        def train(model, loader, optimizer):
            {{epoch_mode}}
            {{step}}


        def main():
            model, loader, held_out = Net(), batches(), batches()
            optimizer = torch.optim.Adam(model.parameters())
            {{start}}
            best, kept = -1.0, None
            for epoch in range(2):
                train(model, loader, optimizer)
                score = {{call}}
                {{keep}}
            {{restore}}


        main()
        """,
    },
    "script": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        model, loader, held_out = Net(), batches(), batches()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        {{start}}
        best, kept = -1.0, None
        for epoch in range(2):
            {{epoch_mode}}
            {{step}}
            score = {{call}}
            {{keep}}
        {{restore}}
        """,
    },
    "every few steps": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        def main(every=2):
            model, loader, held_out = Net(), batches(), batches()
            optimizer = torch.optim.Adam(model.parameters())
            {{start}}
            best, kept, step = -1.0, None, 0
            for epoch in range(2):
                for x, y in loader:
                    {{epoch_mode}}
                    {{batch_mode}}
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    step += 1
                    if step % every == 0:
                        score = {{call}}
                        {{keep}}
            {{restore}}


        main()
        """,
    },
    "trainer": {
        "evaluate": "evaluate",
        "model": "self.model",
        "program": """
        class Trainer:
            def __init__(self, model, loader, held_out):
                self.model, self.loader, self.held_out = model, loader, held_out
                self.optimizer = torch.optim.Adam(model.parameters())

            def fit(self, epochs):
                model, loader, held_out, optimizer = self.model, self.loader, self.held_out, self.optimizer
                evaluate = self.evaluate
                {{start}}
                best, kept = -1.0, None
                for epoch in range(epochs):
                    {{epoch_mode}}
                    {{step}}
                    score = {{call}}
                    {{keep}}
                {{restore}}

            {{decorate}}
            def evaluate(self, model, loader):
                {{to_eval}}
                {{prepare}}
                {{evaluation}}
                {{to_train}}
                return {{result}}


        {{off_helpers}}


        def evaluate(model, loader):
            return trainer.evaluate(model, loader)


        trainer = Trainer(Net(), batches(), batches())
        trainer.fit(2)
        """,
    },
    "methods": {
        "evaluate": "evaluate",
        "model": "self.model",
        "call": "self.evaluate(model, held_out)",
        "program": """
        {{off_helpers}}


        class Base:
            def __init__(self, model):
                self.model = model
                self.optimizer = torch.optim.Adam(self.model.parameters())

            def fit(self, loader, held_out, epochs=2):
                model = self.model
                {{start}}
                best, kept = -1.0, None
                for epoch in range(epochs):
                    self.train_epoch(loader)
                    score = {{call}}
                    {{keep}}
                {{restore}}


        def evaluate(model, loader):
            return trainer.evaluate(model, loader)


        class Trainer(Base):
            def train_epoch(self, loader):
                model, optimizer = self.model, self.optimizer
                {{epoch_mode}}
                {{step}}

            {{decorate}}
            def evaluate(self, model, loader):
                {{to_eval}}
                {{prepare}}
                {{evaluation}}
                {{to_train}}
                return {{result}}


        trainer = Trainer(Net())
        trainer.fit(batches(), batches())
        """,
    },
}
for _way in _LAYOUT.values():
    _way.pop("call", None)

_KEEP = {
    "nothing": {"keep": "print(score)", "restore": ""},
    "copy": {
        "keep": "if score > best:\n    best, kept = score, copy.deepcopy(model.state_dict())",
        "restore": "if kept is not None:\n    model.load_state_dict(kept)",
    },
    "clones": {
        "keep": "if score > best:\n    best = score\n"
        "    kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}",
        "restore": "model.load_state_dict(kept or model.state_dict())",
    },
    "model": {"keep": "if score >= best:\n    best, kept = score, copy.deepcopy(model)", "restore": "print(kept)"},
    "saved": {
        "keep": "if score > best:\n    best = score\n"
        "    torch.save({'model': model.state_dict(), 'score': score}, 'best.pt')",
        "restore": "model.load_state_dict(torch.load('best.pt')['model'])",
    },
    "saved from a dict": {
        "keep": "state = {'net': model.state_dict(), 'epoch': 1}\nif score > best:\n    best = score\n"
        "    torch.save(state, 'best.pt')",
        "restore": "",
    },
    "buffer": {
        "keep": "kept = io.BytesIO()\ntorch.save(model.state_dict(), kept)",
        "restore": "kept.seek(0)\nmodel.load_state_dict(torch.load(kept))",
    },
    "loaded into another": {
        "keep": "other = Net()\nother.load_state_dict(model.state_dict())\nkept = other",
        "restore": "kept.eval()",
    },
}

_EVALUATING = Family(
    "evaluating",
    """
    import contextlib
    import copy
    import functools
    import io
    import math
    from collections import defaultdict

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    {{mode_helpers}}


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.body(x))

        @torch.no_grad()
        def predict(self, x):
            return self(x)

        def run(self, x, grad=True):
            with torch.set_grad_enabled(grad):
                return self.forward(x)

        def mode(self, name):
            if name == "train":
                self.train()
            else:
                self.eval()


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(2)]


    {{program}}
    """,
    {
        "off": OFF,
        "mode": MODES,
        "collect": _COLLECT,
        "layout": _LAYOUT,
        "keep": _KEEP,
        "step": {"plain": {"step": _STEP, "loop": "for x, y in loader:\n    {{predict}}\n    {{collect}}"}},
    },
    {
        "gradients on": (
            "GTR601",
            {
                "evaluation": "{{loop}}",
                "decorate": "",
                "predict": "out = {{model}}(x)",
                "call": "{{evaluate}}(model, held_out)",
            },
        ),
        "not put back": ("GTR602", {"to_train": "", "epoch_mode": "", "batch_mode": "", "to_eval": "{{model}}.eval()"}),
        "alias kept": (
            "GTR710",
            {
                "keep": "if score > best:\n    best, kept = score, model.state_dict()",
                "restore": "model.load_state_dict(kept)",
            },
        ),
    },
)

FAMILIES = (_EVALUATING,)
