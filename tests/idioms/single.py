"""One model and one optimizer: made, held, handed on, stepped in every way."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.parts import BATCHES, NETWORKS, SETTINGS

_STEP = """
{{take}}
{{first}}
{{forward}}
{{backward}}
{{clip}}
{{o}}.step()
{{each}}
{{last}}
{{log}}
{{advance}}
"""
_LOOP = """
{{m}}.train()
for epoch in range({{epochs}}):
    {{begin}}
    {{batches}}
        {{step}}
    {{end}}
"""

HOMES = {
    "script": {"s": "", "t": "", "program": "{{made}}\n{{prepare}}\n{{loop}}"},
    "main": {
        "s": "",
        "t": "",
        "program": """
        def main():
            {{made}}
            {{prepare}}
            {{loop}}


        if __name__ == '__main__':
            main()
        """,
    },
    "function": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{loop}}


        {{made}}
        train({{names}}, loader)
        """,
    },
    "epoch function": {
        "s": "",
        "t": "",
        "program": """
        def train_one_epoch({{names}}, loader, epoch{{prepared}}):
            {{m}}.train()
            {{batches}}
                {{step}}


        {{made}}
        {{prepare}}
        for epoch in range({{epochs}}):
            {{begin}}
            train_one_epoch({{names}}, loader, epoch{{prepared}})
            {{end}}
        """,
    },
    "trainer": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Trainer:
            def __init__(self, loader):
                self.loader = loader
                {{made}}
                {{prepare}}

            def train(self):
                loader = self.loader
                {{loop}}


        Trainer(loader).train()
        """,
    },
    "trainer of epochs": {
        "s": "self.",
        "t": "",
        "program": """
        class Trainer:
            def __init__(self, {{names}}):
                {{store}}
                {{prepare}}

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.train_epoch(loader, epoch)
                    {{end}}

            def train_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        {{made}}
        trainer = Trainer({{names}})
        trainer.fit(loader)
        """,
    },
    "set up later": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Experiment:
            def __init__(self):
                {{empty}}

            def setup(self):
                {{made}}
                {{prepare}}

            def run(self, loader):
                self.setup()
                {{loop}}


        Experiment().run(loader)
        """,
    },
    "base class": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Base:
            def __init__(self):
                {{empty}}
                self.build()

            def build(self):
                raise NotImplementedError

            def run_epoch(self, loader, epoch):
                raise NotImplementedError

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.run_epoch(loader, epoch)
                    {{end}}


        class Task(Base):
            def build(self):
                {{made}}
                {{prepare}}

            def run_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        Task().fit(loader)
        """,
    },
    "inner function": {
        "s": "",
        "t": "",
        "program": """
        def main():
            {{made}}
            {{prepare}}

            def run(epoch):
                {{begin}}
                {{batches}}
                    {{step}}
                {{end}}

            {{m}}.train()
            for epoch in range({{epochs}}):
                run(epoch)


        main()
        """,
    },
    "handed on": {
        "s": "",
        "t": "",
        "program": """
        def setup():
            {{made}}
            return {{names}}


        def train({{names}}):
            {{prepare}}
            {{loop}}


        def main():
            {{names}} = setup()
            train({{names}})


        main()
        """,
    },
    "generator": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{m}}.train()
            for epoch in range({{epochs}}):
                {{begin}}
                {{batches}}
                    {{step}}
                    yield loss.item()
                {{end}}


        {{made}}
        for value in train({{names}}, loader):
            print(value)
        """,
    },
    "retries": {
        "s": "",
        "t": "",
        "program": """
        {{made}}
        {{prepare}}
        {{m}}.train()
        for epoch in range({{epochs}}):
            {{begin}}
            {{batches}}
                try:
                    {{step}}
                except RuntimeError as error:
                    if 'out of memory' in str(error):
                        torch.cuda.empty_cache()
                        continue
                    raise
            {{end}}
        """,
    },
    "called elsewhere": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{loop}}


        # elsewhere:
        {{made}}
        train({{names}}, loader)
        # here
        """,
    },
    "epochs elsewhere": {
        "s": "",
        "t": "",
        "program": """
        def train_one_epoch({{names}}, loader, epoch{{prepared}}, verbose=True):
            {{m}}.train()
            {{batches}}
                {{step}}
            return 0.0


        # elsewhere:
        {{made}}
        {{prepare}}
        for epoch in range({{epochs}}):
            {{begin}}
            train_one_epoch({{names}}, loader, epoch{{prepared}})
            {{end}}
        # here
        """,
    },
    "trainer called elsewhere": {
        "s": "self.",
        "t": "",
        "program": """
        class Trainer:
            def __init__(self, {{names}}):
                {{store}}
                {{prepare}}

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.train_epoch(loader, epoch)
                    {{end}}

            def train_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        # elsewhere:
        {{made}}
        Trainer({{names}}).fit(loader)
        # here
        """,
    },
    "base elsewhere": {
        "s": "self.",
        "t": "self.",
        "program": """
        # elsewhere: BaseTrainer
        class BaseTrainer:
            def __init__(self, loader):
                self.loader = loader
                {{made}}
                {{prepare}}

            def fit(self):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.run_epoch(self.loader, epoch)
                    {{end}}
        # here


        class Trainer(BaseTrainer):
            def run_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        Trainer(loader).fit()
        """,
    },
    "state object": {
        "s": "state.",
        "t": "state.",
        "program": """
        class State:
            pass


        def train(state, loader):
            {{loop}}


        state = State()
        {{made}}
        {{prepare}}
        train(state, loader)
        """,
    },
    "anomalies": {
        "s": "",
        "t": "",
        "program": """
        def fit({{names}}, loader, epochs={{epochs}}, verbose=True):
            {{prepare}}
            history = []
            try:
                {{loop}}
            except KeyboardInterrupt:
                print('stopped')
            finally:
                torch.save({{m}}.state_dict(), 'last.pt')
            return {{m}}


        {{made}}
        fit({{names}}, loader)
        """,
    },
}

_PLAIN_PARAMETERS = "{{t}}model.parameters()"


def _made(opt: str, model: str = "{{t}}model = {{net}}") -> str:
    return f"{model}\n{opt}"


def _held(define: str, made: str, o: str = "{{s}}optimizer", m: str = "{{s}}model", **more: str) -> dict[str, str]:
    return {
        "define": define,
        "made": made,
        "o": o,
        "m": m,
        "names": "model, optimizer",
        "store": "self.model = model\nself.optimizer = optimizer",
        "empty": "self.model = None\nself.optimizer = None",
        **more,
    }


_SGD = "torch.optim.SGD({{params}}, lr={{lr}})"

HELD = {
    "direct": _held("", _made("{{t}}optimizer = " + _SGD)),
    "adam": _held("", _made("{{t}}optimizer = torch.optim.AdamW({{params}}, lr={{lr}}, betas=(0.9, 0.95))")),
    "chosen": _held(
        "",
        _made(
            """if {{kind}} == 'sgd':
    {{t}}optimizer = torch.optim.SGD({{params}}, lr={{lr}}, momentum=0.9)
elif {{kind}} == 'adam':
    {{t}}optimizer = torch.optim.Adam({{params}}, lr={{lr}})
else:
    raise NotImplementedError({{kind}})"""
        ),
    ),
    "factory": _held(
        """
        def make_optimizer(parameters, name):
            if name == 'sgd':
                return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
            if name == 'adam':
                return torch.optim.Adam(parameters, lr=0.1)
            raise ValueError(name)
        """,
        _made("{{t}}optimizer = make_optimizer({{params}}, {{kind}})"),
    ),
    "factory of model": _held(
        """
        def get_optimizer(model, lr):
            decay, rest = [], []
            for name, p in model.named_parameters():
                if not p.requires_grad:
                    continue
                if p.ndim < 2 or name.endswith('.bias'):
                    rest.append(p)
                else:
                    decay.append(p)
            groups = [{'params': decay, 'weight_decay': 0.1}, {'params': rest, 'weight_decay': 0.0}]
            return torch.optim.AdamW(groups, lr=lr)
        """,
        _made("{{t}}optimizer = get_optimizer({{t}}model, {{lr}})"),
    ),
    "factory elsewhere": _held(
        """
        # elsewhere: create_optimizer
        def create_optimizer(args, model):
            return torch.optim.SGD(model.parameters(), lr=0.1)
        # here
        """,
        _made("{{t}}optimizer = create_optimizer(None, {{t}}model)"),
    ),
    "class elsewhere": _held(
        """
        # elsewhere: Lookahead
        class Lookahead(torch.optim.SGD):
            pass
        # here
        """,
        _made("{{t}}optimizer = Lookahead({{params}}, lr={{lr}})"),
    ),
    "all elsewhere": _held(
        """
        # elsewhere: build
        def build(model, lr):
            return model, torch.optim.SGD(model.parameters(), lr=lr)
        # here
        """,
        "{{t}}model, {{t}}optimizer = build({{net}}, {{lr}})",
    ),
    "getattr": _held("", _made("{{t}}optimizer = getattr(torch.optim, 'SGD')({{params}}, lr={{lr}})")),
    "table": _held(
        "OPTIMIZERS = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam}",
        _made("{{t}}optimizer = OPTIMIZERS[{{kind}}]({{params}}, lr={{lr}})"),
    ),
    "partial": _held(
        "from functools import partial\n\nmake = partial(torch.optim.SGD, lr=0.1)",
        _made("{{t}}optimizer = make({{params}})"),
    ),
    "lambda": _held(
        "make = lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
        _made("{{t}}optimizer = make({{params}})"),
    ),
    "keywords": _held(
        "",
        _made(
            "kwargs = dict(lr={{lr}}, weight_decay={{decay}})\n{{t}}optimizer = torch.optim.SGD({{params}}, **kwargs)"
        ),
    ),
    "dict": _held(
        "",
        _made("{{t}}parts = {'net': {{t}}model, 'opt': torch.optim.SGD({{params}}, lr={{lr}})}"),
        o="{{s}}parts['opt']",
        m="{{s}}parts['net']",
        names="parts",
        store="self.parts = parts",
        empty="self.parts = {}",
    ),
    "list": _held(
        "",
        _made("{{t}}optimizers = [torch.optim.SGD({{params}}, lr={{lr}})]"),
        o="{{s}}optimizers[0]",
        names="model, optimizers",
        store="self.model, self.optimizers = model, optimizers",
        empty="self.model, self.optimizers = None, []",
    ),
    "tuple": _held(
        """
        def configure(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 10)
        """,
        _made("{{t}}optimizer, _ = configure({{t}}model)"),
    ),
    "named tuple": _held(
        "from collections import namedtuple\n\nParts = namedtuple('Parts', ['model', 'optimizer'])",
        _made("{{t}}parts = Parts({{t}}model, torch.optim.SGD({{params}}, lr={{lr}}))"),
        o="{{s}}parts.optimizer",
        m="{{s}}parts.model",
        names="parts",
        store="self.parts = parts",
        empty="self.parts = None",
    ),
    "dataclass": _held(
        """
        from dataclasses import dataclass


        @dataclass
        class Parts:
            model: nn.Module
            optimizer: torch.optim.Optimizer
            step: int = 0
        """,
        _made("{{t}}parts = Parts({{t}}model, torch.optim.SGD({{params}}, lr={{lr}}))"),
        o="{{s}}parts.optimizer",
        m="{{s}}parts.model",
        names="parts",
        store="self.parts = parts",
        empty="self.parts = None",
    ),
    "property": _held(
        """
        class Parts:
            def __init__(self, model):
                self.model = model
                self._optimizer = None

            @property
            def optimizer(self):
                if self._optimizer is None:
                    self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
                return self._optimizer
        """,
        _made("{{t}}parts = Parts({{t}}model)"),
        o="{{s}}parts.optimizer",
        m="{{s}}parts.model",
        names="parts",
        store="self.parts = parts",
        empty="self.parts = None",
    ),
    "wrapped": _held(
        """
        class ScheduledOptim:
            def __init__(self, optimizer, warmup):
                self._optimizer = optimizer
                self.warmup = warmup
                self.steps = 0

            def step(self):
                self.steps += 1
                for group in self._optimizer.param_groups:
                    group['lr'] = 0.1 * min(1.0, self.steps / self.warmup)
                self._optimizer.step()

            def zero_grad(self, set_to_none=True):
                self._optimizer.zero_grad(set_to_none=set_to_none)

            def state_dict(self):
                return self._optimizer.state_dict()

            @property
            def param_groups(self):
                return self._optimizer.param_groups
        """,
        _made("{{t}}optimizer = ScheduledOptim(torch.optim.SGD({{params}}, lr={{lr}}), {{warmup}})"),
        wrapped="._optimizer",
    ),
    "own class": _held(
        """
        class PlainSGD(torch.optim.Optimizer):
            def __init__(self, params, lr):
                super().__init__(params, dict(lr=lr))

            @torch.no_grad()
            def step(self, closure=None):
                loss = None
                if closure is not None:
                    with torch.enable_grad():
                        loss = closure()
                for group in self.param_groups:
                    for p in group['params']:
                        if p.grad is None:
                            continue
                        p.add_(p.grad, alpha=-group['lr'])
                return loss
        """,
        _made("{{t}}optimizer = PlainSGD({{params}}, {{lr}})"),
    ),
    "in the model": _held(
        """
        class Learner(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net
                self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

            def forward(self, x):
                return self.net(x)
        """,
        "{{t}}learner = Learner({{net}})",
        o="{{s}}learner.optimizer",
        m="{{s}}learner",
        names="learner",
        store="self.learner = learner",
        empty="self.learner = None",
    ),
    "method of the model": _held(
        """
        class Learner(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def configure_optimizers(self, lr):
                params = [p for p in self.parameters() if p.requires_grad]
                return torch.optim.AdamW(params, lr=lr)

            def forward(self, x):
                return self.net(x)
        """,
        "{{t}}model = Learner({{net}})\n{{t}}optimizer = {{t}}model.configure_optimizers({{lr}})",
    ),
    "resumed": _held(
        """
        def restore(path, model, optimizer):
            import os

            if not os.path.exists(path):
                return 0
            state = torch.load(path)
            model.load_state_dict(state['model'])
            optimizer.load_state_dict(state['optimizer'])
            return state['epoch']
        """,
        _made("{{t}}optimizer = " + _SGD + "\n{{t}}first_epoch = restore('none.pt', {{t}}model, {{t}}optimizer)"),
    ),
    "wrapped model": _held(
        "",
        "{{t}}net = {{net}}\n{{t}}optimizer = torch.optim.SGD({{t}}net.parameters(), lr={{lr}})\n"
        "{{t}}model = nn.DataParallel({{t}}net)",
    ),
    "compiled": _held(
        "def compiled(model):\n    return torch.compile(model) if hasattr(torch, 'no_such') else model",
        _made("{{t}}optimizer = " + _SGD + "\n{{t}}model = compiled({{t}}model)"),
    ),
    "added group": _held(
        "",
        _made(
            "{{t}}optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr={{lr}})\n"
            "{{t}}optimizer.add_param_group({'params': list({{t}}model.parameters())})"
        ),
    ),
}
HELD = {name: {"wrapped": ""} | way for name, way in HELD.items()}

PARAMETERS = {
    "generator": {"params": _PLAIN_PARAMETERS},
    "list": {"params": "list({{t}}model.parameters())"},
    "trainable": {"params": "filter(lambda p: p.requires_grad, {{t}}model.parameters())"},
    "comprehension": {"params": "[p for p in {{t}}model.parameters() if p.requires_grad]"},
    "generator expression": {"params": "(p for p in {{t}}model.parameters() if p.requires_grad)"},
    "groups": {"params": "[{'params': {{t}}model.parameters(), 'lr': 0.05}]"},
    "group comprehensions": {
        "params": "[{'params': [p for n, p in {{t}}model.named_parameters() if 'bias' not in n]}, "
        "{'params': [p for n, p in {{t}}model.named_parameters() if 'bias' in n], 'weight_decay': 0.0}]"
    },
    "one group each": {"params": "[{'params': p, 'lr': 0.1} for p in {{t}}model.parameters()]"},
    "chain": {
        "params": "__import__('itertools').chain(*[m.parameters() for m in [{{t}}model]])",
    },
    "named": {"params": "dict({{t}}model.named_parameters()).values()"},
    "set": {"params": "list(set({{t}}model.parameters()))"},
    "state": {"params": "[p for _, p in sorted({{t}}model.named_parameters())]"},
}

CLEARS = {
    "first": {"first": "{{o}}.zero_grad()", "begin": "", "last": ""},
    "last": {"first": "", "begin": "", "last": "{{o}}.zero_grad()"},
    "to none": {"first": "{{o}}.zero_grad(set_to_none=True)", "begin": "", "last": ""},
    "model": {"first": "{{m}}.zero_grad()", "begin": "", "last": ""},
    "model last": {"first": "", "begin": "", "last": "{{m}}.zero_grad(set_to_none=True)"},
    "by hand": {"first": "for p in {{m}}.parameters():\n    p.grad = None", "begin": "", "last": ""},
    "zero by hand": {
        "first": "for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad.zero_()",
        "begin": "",
        "last": "",
    },
    "detached": {
        "first": "for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad.detach_()\n        p.grad.zero_()",
        "begin": "",
        "last": "",
    },
    "groups": {
        "first": "for group in {{o}}.param_groups:\n    for p in group['params']:\n        p.grad = None",
        "begin": "",
        "last": "",
    },
    "before and after": {"first": "{{o}}.zero_grad()", "begin": "", "last": "{{o}}.zero_grad()"},
    "begin and last": {"first": "", "begin": "{{o}}.zero_grad()", "last": "{{o}}.zero_grad()"},
    "both": {"first": "{{m}}.zero_grad()\n{{o}}.zero_grad()", "begin": "", "last": ""},
    "if any": {
        "first": "if any(p.grad is not None for p in {{m}}.parameters()):\n    {{o}}.zero_grad()",
        "begin": "",
        "last": "",
    },
    "map": {"first": "list(map(lambda p: setattr(p, 'grad', None), {{m}}.parameters()))", "begin": "", "last": ""},
    "with": {
        "first": "with torch.no_grad():\n    for name, p in {{m}}.named_parameters():\n        p.grad = None",
        "begin": "",
        "last": "",
    },
    "either": {
        "first": "if hasattr({{o}}, 'zero_grad'):\n    {{o}}.zero_grad()\nelse:\n    {{m}}.zero_grad()",
        "begin": "",
        "last": "",
    },
}

LOSSES = {
    "mse": {"forward": "loss = nn.functional.mse_loss({{m}}(x), y)", "backward": "loss.backward()"},
    "criterion": {
        "forward": "criterion = nn.MSELoss()\noutput = {{m}}(x)\nloss = criterion(output, y)",
        "backward": "loss.backward()",
    },
    "terms": {
        "forward": "output = {{m}}(x)\nmain = (output - y).pow(2).mean()\naux = output.abs().mean()\nloss = main + 0.1 * aux",
        "backward": "loss.backward()",
    },
    "dict": {
        "forward": "out = {{m}}(x)\nlosses = {'main': (out - y).pow(2).mean(), 'reg': out.pow(2).mean()}\n"
        "loss = sum(losses.values())",
        "backward": "loss.backward()",
    },
    "list": {
        "forward": "terms = []\nfor part, target in zip(x.chunk(2), y.chunk(2)):\n"
        "    terms.append(nn.functional.l1_loss({{m}}(part), target))\nloss = torch.stack(terms).mean()",
        "backward": "loss.backward()",
    },
    "two backwards": {
        "forward": "loss = nn.functional.mse_loss({{m}}(x), y)\nreg = sum(p.pow(2).sum() for p in {{m}}.parameters())",
        "backward": "loss.backward()\n(1e-4 * reg).backward()",
    },
    "retained": {
        "forward": "out = {{m}}(x)\nloss = nn.functional.mse_loss(out, y)\nsecond = out.abs().mean()",
        "backward": "loss.backward(retain_graph=True)\nsecond.backward()",
    },
    "autograd": {
        "forward": "loss = nn.functional.mse_loss({{m}}(x), y)",
        "backward": "torch.autograd.backward(loss)",
    },
    "grad": {
        "forward": "loss = nn.functional.mse_loss({{m}}(x), y)",
        "backward": "learned = [p for p in {{m}}.parameters() if p.requires_grad]\n"
        "for p, g in zip(learned, torch.autograd.grad(loss, learned)):\n    p.grad = g",
    },
    "gradient argument": {
        "forward": "each = nn.functional.mse_loss({{m}}(x), y, reduction='none')\nloss = each.mean()",
        "backward": "each.backward(torch.full_like(each, 1 / each.numel()))",
    },
    "weighted": {
        "forward": "each = nn.functional.mse_loss({{m}}(x), y, reduction='none')\nweight = torch.rand(len(each), 1)\n"
        "loss = (each * weight).sum() / weight.sum()",
        "backward": "loss.backward()",
    },
    "mixed up": {
        "forward": "lam = 0.3\nindex = torch.randperm(len(x))\nout = {{m}}(lam * x + (1 - lam) * x[index])\n"
        "loss = lam * nn.functional.mse_loss(out, y) + (1 - lam) * nn.functional.mse_loss(out, y[index])",
        "backward": "loss.backward()",
    },
    "skips nan": {
        "forward": "loss = nn.functional.mse_loss({{m}}(x), y)\nif not torch.isfinite(loss):\n    print('skip')\n"
        "    {{skip}}",
        "backward": "loss.backward()",
        "skip": "raise FloatingPointError(loss.item())",
    },
    "function": {
        "forward": "def compute_loss(net):\n    pred = net(x)\n    return nn.functional.smooth_l1_loss(pred, y), pred\n\n"
        "loss, pred = compute_loss({{m}})",
        "backward": "loss.backward()",
    },
    "closure": {
        "forward": "",
        "backward": "def closure():\n    value = nn.functional.mse_loss({{m}}(x), y)\n    value.backward()\n"
        "    return value\n\nloss = closure()",
    },
    "teacher": {
        "forward": "with torch.no_grad():\n    soft = {{m}}(x).detach()\nout = {{m}}(x + 0.01)\n"
        "loss = nn.functional.mse_loss(out, y) + 0.1 * nn.functional.mse_loss(out, soft)",
        "backward": "loss.backward()",
    },
    "adversarial": {
        "forward": "delta = torch.zeros_like(x, requires_grad=True)\n"
        "(g,) = torch.autograd.grad(nn.functional.mse_loss({{m}}(x + delta), y), delta)\n"
        "loss = nn.functional.mse_loss({{m}}(x + 0.1 * g.sign()), y)",
        "backward": "loss.backward()",
    },
    "attack by backward": {
        "forward": "delta = torch.zeros_like(x, requires_grad=True)\nfor _ in range(2):\n"
        "    nn.functional.mse_loss({{m}}(x + delta), y).backward()\n"
        "    delta.data = (delta + 0.1 * delta.grad.sign()).clamp(-0.3, 0.3)\n    delta.grad.zero_()\n"
        "{{m}}.zero_grad()\nloss = nn.functional.mse_loss({{m}}(x + delta.detach()), y)",
        "backward": "loss.backward()",
    },
    "penalty": {
        "forward": "x = x.requires_grad_()\nout = {{m}}(x)\n(g,) = torch.autograd.grad(out.sum(), x, create_graph=True)\n"
        "loss = nn.functional.mse_loss(out, y) + 0.1 * g.pow(2).mean()",
        "backward": "loss.backward()",
    },
    "sequence": {
        "forward": "hidden = torch.zeros(len(x), 1)\nloss = 0.0\nfor t in range(3):\n"
        "    hidden = 0.5 * hidden + {{m}}(x + t)\n    loss = loss + (hidden - y).pow(2).mean()",
        "backward": "loss.backward()",
    },
}
LOSSES = {name: {"skip": ""} | way for name, way in LOSSES.items()}

CLIPS = {
    "none": {"clip": ""},
    "norm": {"clip": "torch.nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"},
    "value": {"clip": "nn.utils.clip_grad_value_({{m}}.parameters(), 0.5)"},
    "if set": {
        "clip": "if {{max_norm}} is not None and {{max_norm}} > 0:\n"
        "    norm = nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"
    },
    "groups": {
        "clip": "for group in {{o}}.param_groups:\n    nn.utils.clip_grad_norm_(group['params'], {{max_norm}})",
    },
    "own": {
        "clip": "total = torch.norm(torch.stack([p.grad.norm() for p in {{m}}.parameters() if p.grad is not None]))\n"
        "coefficient = {{max_norm}} / (total + 1e-6)\nif coefficient < 1:\n    for p in {{m}}.parameters():\n"
        "        if p.grad is not None:\n            p.grad.mul_(coefficient)"
    },
    "clamp": {
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad.data.clamp_(-1, 1)",
    },
    "each": {"clip": "for p in {{m}}.parameters():\n    torch.nn.utils.clip_grad_norm_(p, {{max_norm}})"},
    "logged": {
        "clip": "grad_norm = float(nn.utils.clip_grad_norm_([p for p in {{m}}.parameters() if p.grad is not None], "
        "{{max_norm}} if {{max_norm}} else float('inf')))"
    },
    "nan to zero": {
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n        torch.nan_to_num(p.grad, nan=0.0, out=p.grad)"
    },
    "noise": {
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad += 1e-3 * torch.randn_like(p.grad)"
    },
    "elsewhere": {
        "clip": "from torch.nn.utils import clip_grad_norm_ as clip_gradients\nclip_gradients({{m}}.parameters(), {{max_norm}})"
    },
    "skips": {
        "clip": "norm = nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}}, error_if_nonfinite=False)\n"
        "if not torch.isfinite(norm):\n    {{o}}.zero_grad()"
    },
}

_SCHEDULER = "torch.optim.lr_scheduler.{}({{{{o}}}}{{{{wrapped}}}}, {})"


def _schedule(made: str, each: str = "", end: str = "") -> dict[str, str]:
    return {
        "prepare": f"{{{{s}}}}scheduler = {made}" if made else "",
        "prepared": ", scheduler" if made else "",
        "each": each.replace("scheduler", "{{scheduler}}"),
        "end": end.replace("scheduler", "{{scheduler}}"),
        "scheduler": "{{s}}scheduler",
    }


SCHEDULES = {
    "none": _schedule(""),
    "epochs": _schedule(_SCHEDULER.format("StepLR", "step_size=1"), end="scheduler.step()"),
    "cosine": _schedule(_SCHEDULER.format("CosineAnnealingLR", "T_max={{epochs}}"), end="scheduler.step()"),
    "batches": _schedule(_SCHEDULER.format("OneCycleLR", "max_lr={{lr}}, total_steps=50"), "scheduler.step()"),
    "lambda": _schedule(
        _SCHEDULER.format("LambdaLR", "lambda step: min(1.0, (step + 1) / {{warmup}})"), "scheduler.step()"
    ),
    "cosine of batches": _schedule(
        _SCHEDULER.format("CosineAnnealingLR", "T_max={{epochs}} * len(loader)"), "scheduler.step()"
    ),
    "plateau": _schedule(_SCHEDULER.format("ReduceLROnPlateau", "patience=2"), end="scheduler.step(1.0)"),
    "if any": _schedule(
        _SCHEDULER.format("StepLR", "1") + " if {{warmup}} else None",
        end="if scheduler is not None:\n    scheduler.step()",
    ),
    "chained": _schedule(
        "torch.optim.lr_scheduler.SequentialLR({{o}}{{wrapped}}, "
        "[torch.optim.lr_scheduler.LinearLR({{o}}{{wrapped}}), torch.optim.lr_scheduler.ExponentialLR({{o}}{{wrapped}}, 0.9)], [2])",
        end="scheduler.step()",
    ),
    "fraction": _schedule(_SCHEDULER.format("CosineAnnealingWarmRestarts", "T_0=2"), "scheduler.step(epoch + 0.5)"),
    "by hand": _schedule("", "for group in {{o}}.param_groups:\n    group['lr'] = {{lr}} * 0.9 ** epoch"),
    "warm-up": _schedule(
        _SCHEDULER.format("ExponentialLR", "0.9"), end="if epoch >= {{warmup}} - 2:\n    scheduler.step()"
    ),
}
SCHEDULES["by hand"] = {
    **SCHEDULES["by hand"],
    "each": "for group in {{o}}.param_groups:\n    group['lr'] = {{lr}} * 0.9 ** epoch",
}

LOGS = {
    "none": {"log": ""},
    "print": {"log": "print(loss.item())"},
    "now and then": {"log": "if epoch % 10 == 0:\n    print(f'{epoch} {loss.item():.3f}')"},
    "norm": {"log": "total_norm = sum(p.grad.norm().item() for p in {{m}}.parameters() if p.grad is not None)"},
    "average": {
        "log": "with torch.no_grad():\n    for p, q in zip({{m}}.parameters(), [p.detach().clone() for p in {{m}}.parameters()]):\n"
        "        q.mul_(0.9).add_(p, alpha=0.1)"
    },
    "evaluates": {
        "log": "if epoch == 1:\n    {{m}}.eval()\n    with torch.no_grad():\n        value = nn.functional.mse_loss({{m}}(x), y).item()\n"
        "    {{m}}.train()"
    },
    "saves": {
        "log": "if epoch == 1:\n    torch.save({'model': {{m}}.state_dict(), 'optimizer': {{o}}.state_dict()}, 'checkpoint.pt')"
    },
    "deletes": {"log": "value = loss.detach().item()\ndel loss\nloss = torch.tensor(value)"},
    "rate": {"log": "lr = {{o}}.param_groups[0]['lr']\nprint(lr)"},
    "stops": {"log": "if loss.item() < 0:\n    break"},
}

_SINGLE = Family(
    "single",
    """
    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{define}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]
    {{loader}}

    {{program}}
    """,
    {
        "settings": SETTINGS,
        "network": NETWORKS,
        "held": {name: way | {"step": _STEP, "loop": _LOOP} for name, way in HELD.items()},
        "parameters": PARAMETERS,
        "home": HOMES,
        "batches": BATCHES,
        "clear": CLEARS,
        "loss": LOSSES,
        "clip": CLIPS,
        "schedule": SCHEDULES,
        "log": LOGS,
    },
    {
        "nothing clears": ("GTR501", {"first": "", "begin": "", "last": ""}),
        "clears before the step": ("GTR502", {"clip": "{{o}}.zero_grad()"}),
        "clips late": ("GTR302", {"clip": "", "each": "torch.nn.utils.clip_grad_norm_({{m}}.parameters(), 1.0)"}),
    },
)

FAMILIES = (_SINGLE,)
