"""Mixed precision: scalers, how they are held and switched off, and what stands between backward and step."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.parts import NETWORKS, SETTINGS
from idioms.scalers import SCALERS

_STEP = """
{{first}}
with {{cast}}:
    loss = {{weigh}}
{{update}}
{{each}}
{{last}}
{{log}}
"""

_FORWARD = "nn.functional.mse_loss({{m}}(x), y)"


_ANY = {"switch": ""}

HOMES = {
    "script": {"s": "", "program": "{{made}}\n{{made_scaler}}\n{{prepare}}\n{{loop}}"},
    "main": {
        "s": "",
        "program": """
        def main():
            {{made}}
            {{made_scaler}}
            {{prepare}}
            {{loop}}


        main()
        """,
    },
    "trainer": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{made}}
                {{made_scaler}}
                {{prepare}}

            def train_step(self, x, y):
                {{step}}
                return loss.item()

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{m}}.train()
                    for x, y in loader:
                        self.train_step(x, y)
                    {{end}}


        Trainer().fit(loader)
        """,
    },
    "trainer of parts": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{made}}
                {{made_scaler}}
                {{prepare}}

            def train_epoch(self, epoch, loader):
                {{m}}.train()
                for x, y in loader:
                    {{first}}
                    loss = self.forward_loss(x, y)
                    self.backward_and_step(loss)
                    {{each}}
                    {{last}}
                    {{log}}
                {{end}}

            def forward_loss(self, x, y):
                with {{cast}}:
                    loss = {{weigh}}
                return loss

            def backward_and_step(self, loss):
                {{update}}

            def run(self, loader):
                for epoch in range({{epochs}}):
                    self.train_epoch(epoch, loader)


        Trainer().run(loader)
        """,
    },
    "called elsewhere": {
        "s": "",
        "program": """
        def train_step(model, optimizer, scaler, x, y):
            {{step}}
            return loss.item()


        # elsewhere:
        scheduler = scaler = None
        {{made}}
        {{made_scaler}}
        {{prepare}}
        for epoch in range({{epochs}}):
            for x, y in loader:
                train_step(model, optimizer, scaler, x, y)
            {{end}}
        # here
        """,
    },
    "epochs elsewhere": {
        "s": "",
        "program": """
        def train_one_epoch(model, loader, optimizer, scaler, epoch, scheduler=None):
            model.train()
            for x, y in loader:
                {{step}}


        # elsewhere:
        scheduler = scaler = None
        {{made}}
        {{made_scaler}}
        {{prepare}}
        for epoch in range({{epochs}}):
            train_one_epoch(model, loader, optimizer, scaler, epoch, scheduler)
            {{end}}
        # here
        """,
    },
    "base elsewhere": {
        "s": "self.",
        "program": """
        # elsewhere: Base
        class Base:
            def __init__(self):
                {{made}}
                {{made_scaler}}
                {{prepare}}
        # here


        class Trainer(Base):
            def run(self, loader):
                for epoch in range({{epochs}}):
                    for x, y in loader:
                        {{step}}
                    {{end}}


        Trainer().run(loader)
        """,
    },
    "closure": {
        "s": "",
        "program": """
        def make_step():
            {{made}}
            {{made_scaler}}
            {{prepare}}

            def step(x, y):
                {{step}}
                return loss.detach()

            return step


        step = make_step()
        for epoch in range({{epochs}}):
            for x, y in loader:
                step(x, y)
        """,
    },
    "callable": {
        "s": "self.",
        "program": """
        class Step:
            def __init__(self):
                {{made}}
                {{made_scaler}}
                {{prepare}}

            def __call__(self, batch):
                x, y = batch
                {{step}}
                return {'loss': loss.item()}


        step = Step()
        for epoch in range({{epochs}}):
            for batch in loader:
                metrics = step(batch)
        """,
    },
    "mixin": {
        "s": "self.",
        "program": """
        class Setup:
            def setup(self):
                {{made}}
                {{made_scaler}}
                {{prepare}}


        class Training:
            def step(self, x, y):
                {{step}}


        class Trainer(Setup, Training):
            def run(self, loader):
                self.setup()
                for epoch in range({{epochs}}):
                    for x, y in loader:
                        self.step(x, y)
                    {{end}}


        Trainer().run(loader)
        """,
    },
    "inner loop": {
        "s": "",
        "program": """
        {{made}}
        {{made_scaler}}
        {{prepare}}


        def run_epoch(epoch, training=True):
            {{m}}.train(training)
            for x, y in loader:
                if training:
                    {{step}}
                else:
                    with torch.no_grad():
                        nn.functional.mse_loss({{m}}(x), y)


        for epoch in range({{epochs}}):
            run_epoch(epoch)
            run_epoch(epoch, training=False)
            {{end}}
        """,
    },
}

_LOOP = """
for epoch in range({{epochs}}):
    {{m}}.train()
    for x, y in loader:
        {{step}}
    {{end}}
"""

CLIPS = {
    "norm": {"clip": "nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"},
    "none": {"clip": "pass"},
    "value": {"clip": "nn.utils.clip_grad_value_({{m}}.parameters(), 0.5)"},
    "if set": {"clip": "if {{max_norm}}:\n    nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"},
    "of the optimizer": {
        "clip": "nn.utils.clip_grad_norm_([p for g in {{o}}.param_groups for p in g['params']], max_norm={{max_norm}})"
    },
    "own": {
        "clip": "norms = [p.grad.detach().norm() for p in {{m}}.parameters() if p.grad is not None]\n"
        "factor = ({{max_norm}} / (torch.stack(norms).norm() + 1e-6)).clamp(max=1.0)\n"
        "for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad.detach().mul_(factor)"
    },
    "skips nan": {
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n"
        "        p.grad.data = torch.nan_to_num(p.grad.data, nan=0.0, posinf=0.0, neginf=0.0)"
    },
    "logged": {
        "clip": "grad_norm = nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}}).item()\nprint(grad_norm)"
    },
}
CLEARS = {
    "first": {"first": "{{o}}.zero_grad()", "last": ""},
    "last": {"first": "", "last": "{{o}}.zero_grad(set_to_none=True)"},
    "model": {"first": "{{m}}.zero_grad()", "last": ""},
    "by hand": {"first": "for p in {{m}}.parameters():\n    p.grad = None", "last": ""},
    "both": {"first": "{{o}}.zero_grad()", "last": "{{m}}.zero_grad()"},
}
SCHEDULES = {
    "none": {"prepare": "", "each": "", "end": ""},
    "epochs": {
        "prepare": "{{s}}scheduler = torch.optim.lr_scheduler.CosineAnnealingLR({{o}}, {{epochs}})",
        "each": "",
        "end": "{{s}}scheduler.step()",
    },
    "batches": {
        "prepare": "{{s}}scheduler = torch.optim.lr_scheduler.LambdaLR({{o}}, lambda step: 0.99 ** step)",
        "each": "{{s}}scheduler.step()",
        "end": "",
    },
    "one cycle": {
        "prepare": "{{s}}scheduler = torch.optim.lr_scheduler.OneCycleLR({{o}}, 0.1, epochs=2, "
        "steps_per_epoch=len(loader))",
        "each": "{{s}}scheduler.step()",
        "end": "",
    },
    "plateau": {
        "prepare": "{{s}}scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau({{o}})",
        "each": "",
        "end": "{{s}}scheduler.step(0.5)",
    },
    "by hand": {"prepare": "", "each": "", "end": "for group in {{o}}.param_groups:\n    group['lr'] *= 0.9"},
}
LOGS = {
    "none": {"log": ""},
    "print": {"log": "print(loss.item())"},
    "scale": {"log": "print('loss', loss.item(), 'lr', {{o}}.param_groups[0]['lr'])"},
    "average": {
        "log": "with torch.no_grad():\n    copies = [p.detach().clone() for p in {{m}}.parameters()]",
    },
    "saves": {"log": "torch.save({'model': {{m}}.state_dict(), 'opt': {{o}}.state_dict()}, 'last.pt')"},
    "checks": {"log": "if not torch.isfinite(loss.detach()):\n    raise RuntimeError('diverged')"},
}
OPTIMIZERS = {
    "sgd": {"made": "{{s}}model = {{net}}\n{{s}}optimizer = torch.optim.SGD({{s}}model.parameters(), lr={{lr}})"},
    "adam": {
        "made": "{{s}}model = {{net}}\n{{s}}optimizer = torch.optim.AdamW({{s}}model.parameters(), lr={{lr}}, "
        "weight_decay={{decay}})"
    },
    "groups": {
        "made": "{{s}}model = {{net}}\nparams = [{'params': [p for p in {{s}}model.parameters() if p.ndim > 1]},\n"
        "          {'params': [p for p in {{s}}model.parameters() if p.ndim <= 1], 'weight_decay': 0.0}]\n"
        "{{s}}optimizer = torch.optim.AdamW(params, lr={{lr}})"
    },
    "parallel": {
        "made": "net = {{net}}\n{{s}}optimizer = torch.optim.Adam(net.parameters(), lr={{lr}})\n"
        "{{s}}model = nn.DataParallel(net)"
    },
    "chosen": {
        "made": "{{s}}model = {{net}}\nif {{kind}} == 'sgd':\n"
        "    {{s}}optimizer = torch.optim.SGD({{s}}model.parameters(), lr={{lr}}, momentum=0.9)\nelse:\n"
        "    {{s}}optimizer = torch.optim.AdamW({{s}}model.parameters(), lr={{lr}})"
    },
}
WEIGHS = {
    "direct": {"weigh": _FORWARD},
    "criterion": {"weigh": "nn.MSELoss()({{m}}(x).float(), y)"},
    "sum": {"weigh": "sum([nn.functional.mse_loss({{m}}(x), y), nn.functional.l1_loss({{m}}(x), y)])"},
}

_PRECISION = Family(
    "precision",
    """
    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{define}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]

    {{program}}
    """,
    {
        "scaler": {
            n: _ANY | w | {"step": _STEP, "loop": _LOOP, "m": "{{s}}model", "o": "{{s}}optimizer"}
            for n, w in SCALERS.items()
        },
        "home": HOMES,
        "settings": SETTINGS,
        "network": NETWORKS,
        "optimizer": OPTIMIZERS,
        "clip": CLIPS,
        "clear": CLEARS,
        "schedule": SCHEDULES,
        "log": LOGS,
        "loss": WEIGHS,
    },
    {
        "not unscaled": ("GTR301", {"unscale": "pass"}),
        "nothing clears": ("GTR501", {"first": "", "last": ""}),
        "never updated": (
            "GTR306",
            {
                "update": "{{scaler}}.scale(loss).backward()\n{{unscale}}\n{{clip}}\n{{scaler}}.step({{o}})",
            },
        ),
        "steps past it": (
            "GTR305",
            {
                "update": "{{scaler}}.scale(loss).backward()\n{{o}}.step()\n{{scaler}}.update()",
            },
        ),
    },
)

FAMILIES = (_PRECISION,)
