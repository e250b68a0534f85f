"""Networks that are not trained, beside one that is: how they are frozen, where they are held, and their use."""

from __future__ import annotations

from idioms.grammar import Family


def _frozen(make: str, helpers: str = "", body: str = "pass") -> dict[str, str]:
    return {"make": make, "freeze_helpers": helpers, "in_init": body}


_FREEZE = {
    "loop": _frozen("extra = Features()\nfor p in extra.parameters():\n    p.requires_grad = False\nextra.eval()"),
    "loop with the method": _frozen(
        "extra = Features().eval()\nfor p in extra.parameters():\n    p.requires_grad_(False)"
    ),
    "loop over names": _frozen(
        "extra = Features()\nextra.eval()\nfor name, p in extra.named_parameters():\n    p.requires_grad = False"
    ),
    "module": _frozen("extra = Features().requires_grad_(False).eval()"),
    "module by statement": _frozen("extra = Features()\nextra.eval()\nextra.requires_grad_(False)"),
    "comprehension": _frozen("extra = Features().eval()\n_ = [p.requires_grad_(False) for p in extra.parameters()]"),
    "helper": _frozen(
        "extra = Features()\nfreeze(extra)",
        "def freeze(net):\n    net.eval()\n    for p in net.parameters():\n        p.requires_grad = False",
    ),
    "helper returns it": _frozen(
        "extra = frozen(Features())",
        "def frozen(net):\n    for p in net.parameters():\n        p.requires_grad_(False)\n    return net.eval()",
    ),
    "helper of a list": _frozen(
        "extra = Features()\nset_requires_grad([extra], False)\nextra.eval()",
        "def set_requires_grad(nets, requires_grad=False):\n    if not isinstance(nets, list):\n        nets = [nets]\n"
        "    for net in nets:\n        if net is not None:\n            for param in net.parameters():\n"
        "                param.requires_grad = requires_grad",
    ),
    "in the constructor": _frozen(
        "extra = Features().eval()", body="for p in self.parameters():\n    p.requires_grad = False"
    ),
    "constructor decides": _frozen(
        "extra = Features(frozen=True).eval()",
        body="if frozen:\n    for p in self.parameters():\n        p.requires_grad = False",
    ),
    "constructor with a default": _frozen(
        "extra = Features()\nextra.eval()",
        body="if not trainable:\n    for param in self.parameters():\n        param.requires_grad = False",
    ),
    "constructor by method": _frozen("extra = Features().eval()", body="self.requires_grad_(False)"),
    "constructor calls a method": _frozen("extra = Features().eval()", body="self.freeze()"),
    "factory": _frozen(
        "extra = load_features()",
        "def load_features(path=None):\n    net = Features()\n    if path:\n"
        "        net.load_state_dict(torch.load(path))\n"
        "    for p in net.parameters():\n        p.requires_grad = False\n    net.eval()\n    return net",
    ),
    "method": _frozen("extra = Features()\nextra.freeze()\nextra.eval()"),
    "copy": _frozen(
        "extra = copy.deepcopy(Features()).eval()\nfor p in extra.parameters():\n    p.requires_grad = False"
    ),
    "parts": _frozen(
        "extra = Features()\nfor part in (extra.one, extra.two):\n    part.eval()\n"
        "    for p in part.parameters():\n        p.requires_grad = False"
    ),
    "map": _frozen("extra = Features().eval()\nlist(map(lambda p: p.requires_grad_(False), extra.parameters()))"),
    "frozen in train": _frozen(
        "extra = Still()",
        """
        class Still(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = Features()
                self.eval()
                for p in self.parameters():
                    p.requires_grad = False

            def train(self, mode=True):
                return super().train(False)

            def forward(self, x):
                return self.net(x)
        """,
    ),
}

_USE = {
    "perceptual": {
        "use": "out = model(x)\nloss = F.mse_loss(extra(out), extra(x)) + F.l1_loss(out, x)",
        "check": "scores.append(F.mse_loss(extra(model_out(model, x)), extra(x)).item())",
    },
    "perceptual with a cut goal": {
        "use": "out = model(x)\ngoal = extra(x).detach()\nloss = F.mse_loss(extra(out), goal)",
        "check": "scores.append((extra(x) ** 2).mean().item())",
    },
    "input features": {
        "use": "h = extra(x)\nout = model(h)\nloss = F.mse_loss(out, x)",
        "check": "scores.append(extra(x).norm().item())",
    },
    "input features under no_grad": {
        "use": "with torch.no_grad():\n    h = extra(x)\nout = model(h)\nloss = F.mse_loss(out, x)",
        "check": "feats = extra(x)\nscores.append(feats.max().item())",
    },
    "teacher": {
        "use": "with torch.no_grad():\n    goal = extra(x).softmax(1)\nout = model(x)\n"
        "loss = F.kl_div(out.log_softmax(1), goal, reduction='batchmean')",
        "check": "scores.append((extra(x).argmax(1) == model_out(model, x).argmax(1)).float().mean().item())",
    },
    "teacher that is frozen": {
        "use": "goal = extra(x).softmax(1)\nout = model(x)\nloss = -(goal * out.log_softmax(1)).sum(1).mean()",
        "check": "scores.append(float(extra(x).argmax(1).float().mean()))",
    },
    "reference": {
        "use": "logp = model(x).log_softmax(1)\nwith torch.no_grad():\n    ref = extra(x).log_softmax(1)\n"
        "loss = (logp.exp() * (logp - ref)).sum(1).mean()",
        "check": "scores.append(extra(x).logsumexp(1).mean().item())",
    },
    "statistics": {
        "use": "out = model(x)\nloss = (extra(out).mean(0) - extra(x).mean(0).detach()).pow(2).sum()",
        "check": "collected.append(extra(x).cpu().numpy())\nscores.append(np.concatenate(collected).mean())",
    },
    "arrays": {
        "use": "code = extra(x).cpu().numpy()\nout = model(torch.from_numpy(code))\nloss = F.mse_loss(out, x)",
        "check": "pred = extra(x)\ncollected.append(pred.squeeze(-1).cpu().numpy())\nscores.append(len(collected))",
    },
}

_LAYOUT = {
    "function": {
        "program": """
        def score(extra, model, loader):
            scores, collected = [], []
            for x in loader:
                {{check}}
            return float(np.mean(scores))


        def main():
            model = Net()
            {{make}}
            optimizer = torch.optim.Adam(model.parameters())
            for epoch in range(2):
                for x in batches():
                    {{use}}
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                print(score(extra, model, batches()))


        main()
        """
    },
    "script": {
        "program": """
        model = Net()
        {{make}}
        optimizer = torch.optim.Adam(model.parameters())
        scores, collected = [], []
        for epoch in range(2):
            for x in batches():
                {{use}}
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for x in batches():
                {{check}}
        print(np.mean(scores))
        """
    },
    "trainer": {
        "program": """
        class Trainer:
            def __init__(self):
                {{make}}
                self.model, self.extra = Net(), extra
                self.optimizer = torch.optim.Adam(self.model.parameters())

            def step(self, x):
                model, extra = self.model, self.extra
                {{use}}
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                return loss.item()

            def evaluate(self, loader):
                model, extra, scores, collected = self.model, self.extra, [], []
                for x in loader:
                    {{check}}
                return float(np.mean(scores))

            def fit(self):
                for epoch in range(2):
                    for x in batches():
                        self.step(x)
                    self.evaluate(batches())


        Trainer().fit()
        """
    },
    "loss module": {
        "program": """
        class Criterion(nn.Module):
            def __init__(self):
                super().__init__()
                {{make}}
                self.extra = extra

            def forward(self, model, x):
                extra = self.extra
                {{use}}
                return loss


        def measure(criterion, model, loader):
            extra, scores, collected = criterion.extra, [], []
            for x in loader:
                {{check}}
            return float(np.mean(scores))


        def main():
            model, criterion = Net(), Criterion()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for epoch in range(2):
                for x in batches():
                    loss = criterion(model, x)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                measure(criterion, model, batches())


        main()
        """
    },
    "part of the model": {
        "program": """
        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                {{make}}
                self.extra, self.net = extra, Net()

            def loss(self, x):
                model, extra = self.net, self.extra
                {{use}}
                return loss


        def main():
            whole = Whole()
            optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=0.1)
            for epoch in range(2):
                for x in batches():
                    loss = whole.loss(x)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                extra, model, scores, collected = whole.extra, whole.net, [], []
                for x in batches():
                    {{check}}
                print(np.mean(scores))


        main()
        """
    },
}

_FROZEN = Family(
    "frozen",
    """
    import copy

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F


    class Features(nn.Module):
        def __init__(self, frozen: bool = False, trainable: bool = False):
            super().__init__()
            self.one = nn.Linear(8, 8)
            self.two = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8))
            {{in_init}}

        def freeze(self):
            for p in self.parameters():
                p.requires_grad = False

        def forward(self, x):
            return self.two(torch.relu(self.one(x)))


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

        def forward(self, x):
            return self.layers(x)


    {{freeze_helpers}}


    def model_out(model, x):
        with torch.no_grad():
            return model(x)


    def batches():
        return [torch.randn(6, 8) for _ in range(2)]


    {{program}}
    """,
    {"freeze": _FREEZE, "use": _USE, "layout": _LAYOUT},
    {
        "not frozen": ("GTR601", {"make": "extra = Features()\nextra.eval()", "in_init": "pass"}),
        "goal read out": ("GTR201", {"use": "loss = F.l1_loss(model(x), x) + F.mse_loss(extra(model(x)), x).item()"}),
    },
)

FAMILIES = (_FROZEN,)
