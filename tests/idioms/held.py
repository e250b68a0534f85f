"""How a model and its optimizer are made and held, and how the one is told the parameters of the other."""

from __future__ import annotations

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
