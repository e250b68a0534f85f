"""When a schedule advances, and when optimizers are made anew: phases, restarts, folds, freezing and thawing."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.parts import NETWORKS, SETTINGS

_LR = "torch.optim.lr_scheduler"


def _schedule(made: str, each: str = "", epoch: str = "", first: str = "", helper: str = "") -> dict[str, str]:
    return {"sched": made, "each": each, "epoch_end": epoch, "epoch_begin": first, "helper": helper}


SCHEDULES = {
    "none": _schedule(""),
    "step": _schedule(f"{{{{s}}}}sched = {_LR}.StepLR({{{{o}}}}, 2)", epoch="{{s}}sched.step()"),
    "milestones": _schedule(
        f"{{{{s}}}}sched = {_LR}.MultiStepLR({{{{o}}}}, milestones=[1, 2], gamma=0.1)", epoch="{{s}}sched.step()"
    ),
    "milestones of batches": _schedule(
        f"{{{{s}}}}sched = {_LR}.MultiStepLR({{{{o}}}}, [int(0.5 * {{{{epochs}}}} * len(loader))])", "{{s}}sched.step()"
    ),
    "cosine of steps": _schedule(
        f"total = len(loader) * {{{{epochs}}}}\n{{{{s}}}}sched = {_LR}.CosineAnnealingLR({{{{o}}}}, T_max=total)",
        "{{s}}sched.step()",
    ),
    "cosine of epochs": _schedule(
        f"{{{{s}}}}sched = {_LR}.CosineAnnealingLR({{{{o}}}}, {{{{epochs}}}}, eta_min=1e-5)", epoch="{{s}}sched.step()"
    ),
    "one cycle": _schedule(
        f"{{{{s}}}}sched = {_LR}.OneCycleLR({{{{o}}}}, max_lr=0.1, total_steps=len(loader) * {{{{epochs}}}} + 1)",
        "{{s}}sched.step()",
    ),
    "cyclic": _schedule(
        f"{{{{s}}}}sched = {_LR}.CyclicLR({{{{o}}}}, 0.001, 0.1, step_size_up=2, cycle_momentum=False)",
        "{{s}}sched.step()",
    ),
    "lambda of steps": _schedule(
        f"{{{{s}}}}sched = {_LR}.LambdaLR({{{{o}}}}, lambda it: min(1.0, (it + 1) / 10))", "{{s}}sched.step()"
    ),
    "lambda of epochs": _schedule(
        f"{{{{s}}}}sched = {_LR}.LambdaLR({{{{o}}}}, lr_lambda=lambda epoch: 0.95 ** epoch)", epoch="{{s}}sched.step()"
    ),
    "lambda helper": _schedule(
        "{{s}}sched = get_cosine_schedule_with_warmup({{o}}, 2, 10)",
        "{{s}}sched.step()",
        helper="""
        import math


        def get_cosine_schedule_with_warmup(optimizer, warmup, total):
            def lr_lambda(current):
                if current < warmup:
                    return current / max(1, warmup)
                progress = (current - warmup) / max(1, total - warmup)
                return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

            return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)
        """,
    ),
    "own class": _schedule(
        "{{s}}sched = Poly({{o}}, 0.1, 10)",
        "{{s}}sched.step(step)",
        helper="""
        class Poly:
            def __init__(self, optimizer, base, total):
                self.optimizer, self.base, self.total = optimizer, base, total

            def step(self, current):
                for group in self.optimizer.param_groups:
                    group['lr'] = self.base * (1 - min(current, self.total - 1) / self.total) ** 0.9
        """,
    ),
    "own class before": _schedule(
        "{{s}}sched = Warm({{o}}, 0.1)",
        first="{{s}}sched.step()",
        helper="""
        class Warm:
            def __init__(self, optimizer, base):
                self.optimizer, self.base, self.count = optimizer, base, 0

            def step(self):
                self.count += 1
                for group in self.optimizer.param_groups:
                    group['lr'] = self.base * min(1.0, self.count / 5)
        """,
    ),
    "subclass": _schedule(
        "{{s}}sched = Noam({{o}}, 4)",
        "{{s}}sched.step()",
        helper="""
        class Noam(torch.optim.lr_scheduler.LRScheduler):
            def __init__(self, optimizer, warmup, last_epoch=-1):
                self.warmup = warmup
                super().__init__(optimizer, last_epoch)

            def get_lr(self):
                step = self.last_epoch + 1
                return [base * min(step ** -0.5, step * self.warmup ** -1.5) for base in self.base_lrs]
        """,
    ),
    "plateau": _schedule(
        f"{{{{s}}}}sched = {_LR}.ReduceLROnPlateau({{{{o}}}}, 'min', patience=1)", epoch="{{s}}sched.step(total / 3)"
    ),
    "plateau of batches": _schedule(
        f"{{{{s}}}}sched = {_LR}.ReduceLROnPlateau({{{{o}}}}, patience=100)", "{{s}}sched.step(loss.item())"
    ),
    "either": _schedule(
        f"if {{{{kind}}}} == 'plateau':\n    {{{{s}}}}sched = {_LR}.ReduceLROnPlateau({{{{o}}}})\nelse:\n"
        f"    {{{{s}}}}sched = {_LR}.StepLR({{{{o}}}}, 1)",
        epoch=f"if isinstance({{{{s}}}}sched, {_LR}.ReduceLROnPlateau):\n    {{{{s}}}}sched.step(total)\nelse:\n"
        "    {{s}}sched.step()",
    ),
    "two": _schedule(
        f"{{{{s}}}}warm = {_LR}.LinearLR({{{{o}}}}, 0.1, total_iters=2)\n"
        f"{{{{s}}}}sched = {_LR}.ExponentialLR({{{{o}}}}, 0.9)",
        epoch="if epoch < 1:\n    {{s}}warm.step()\nelse:\n    {{s}}sched.step()",
    ),
    "batch or epoch": _schedule(
        f"{{{{s}}}}per_batch = {{{{kind}}}} == 'cyclic'\n{{{{s}}}}sched = {_LR}.CyclicLR({{{{o}}}}, 0.01, 0.1, "
        f"cycle_momentum=False) if {{{{s}}}}per_batch else {_LR}.StepLR({{{{o}}}}, 1)",
        "if {{s}}per_batch:\n    {{s}}sched.step()",
        "if not {{s}}per_batch:\n    {{s}}sched.step()",
    ),
    "none or some": _schedule(
        f"{{{{s}}}}sched = None\nif {{{{warmup}}}} > 0:\n"
        f"    {{{{s}}}}sched = {_LR}.LinearLR({{{{o}}}}, total_iters={{{{warmup}}}})",
        "if {{s}}sched is not None:\n    {{s}}sched.step()",
    ),
    "fraction": _schedule(
        f"{{{{s}}}}sched = {_LR}.CosineAnnealingWarmRestarts({{{{o}}}}, 2)", "{{s}}sched.step(epoch + i / len(loader))"
    ),
    "list": _schedule(
        f"{{{{s}}}}scheds = [{_LR}.StepLR({{{{o}}}}, 1), {_LR}.ExponentialLR({{{{o}}}}, 0.99)]",
        epoch="for sched in {{s}}scheds:\n    sched.step()",
    ),
    "dict": _schedule(f"{{{{s}}}}scheds = {{'main': {_LR}.StepLR({{{{o}}}}, 1)}}", epoch="{{s}}scheds['main'].step()"),
    "at the first of next": _schedule(
        f"{{{{s}}}}sched = {_LR}.StepLR({{{{o}}}}, 1)", first="if epoch > 0:\n    {{s}}sched.step()"
    ),
    "by hand": _schedule(
        "",
        first="adjust(optimizer={{o}}, epoch=epoch)",
        helper="""
        def adjust(optimizer, epoch):
            lr = 0.1 * (0.5 ** (epoch // 2))
            for group in optimizer.param_groups:
                group['lr'] = lr
        """,
    ),
    "every few": _schedule(
        f"{{{{s}}}}sched = {_LR}.ExponentialLR({{{{o}}}}, 0.9)", "if (step + 1) % 2 == 0:\n    {{s}}sched.step()"
    ),
    "until": _schedule(
        f"{{{{s}}}}sched = {_LR}.StepLR({{{{o}}}}, 1)",
        epoch="if {{s}}sched.get_last_lr()[0] > 1e-6:\n    {{s}}sched.step()",
    ),
    "sequential": _schedule(
        f"{{{{s}}}}sched = {_LR}.SequentialLR({{{{o}}}}, [{_LR}.LinearLR({{{{o}}}}, 0.1, total_iters=2), "
        f"{_LR}.CosineAnnealingLR({{{{o}}}}, T_max=len(loader) * {{{{epochs}}}})], milestones=[2])",
        "{{s}}sched.step()",
    ),
    "chained": _schedule(
        f"{{{{s}}}}sched = {_LR}.ChainedScheduler([{_LR}.ConstantLR({{{{o}}}}), {_LR}.ExponentialLR({{{{o}}}}, 0.9)])",
        epoch="{{s}}sched.step()",
    ),
}

_TRAIN = """
step = 0
for epoch in range({{epochs}}):
    {{epoch_begin}}
    total = 0.0
    for i, (x, y) in enumerate(loader):
        {{body}}
        total += loss.item()
        step += 1
    {{epoch_end}}
"""
_MAKE = """
{{s}}model = {{net}}
{{s}}optimizer = {{opt}}
{{sched}}
"""

PHASES = {
    "once": {"phases": "{{make}}\n{{train}}"},
    "folds": {"phases": "for fold in range(2):\n    {{make}}\n    {{train}}"},
    "seeds": {"phases": "for seed in (0, 1):\n    torch.manual_seed(seed)\n    {{make}}\n    {{train}}"},
    "rates": {"phases": "for lr in [0.1, 0.01]:\n    {{make}}\n    {{train}}"},
    "tasks": {
        "phases": "{{s}}model = {{net}}\nfor task in range(2):\n    {{s}}optimizer = {{opt}}\n"
        "    {{sched}}\n    {{train}}"
    },
    "thawed": {
        "phases": """
        {{make}}
        {{train}}
        for p in {{s}}model.parameters():
            p.requires_grad = True
        {{s}}optimizer = {{opt}}
        {{sched}}
        {{train}}
        """
    },
    "inner optimizer": {
        "phases": """
        {{make}}
        for query in range(2):
            learned = torch.zeros(8, requires_grad=True)
            search = torch.optim.Adam([learned], lr=0.1)
            for _ in range(3):
                search.zero_grad()
                learned.pow(2).sum().backward()
                search.step()
        {{train}}
        """
    },
    "in a function": {
        "phases": """
        def experiment(loader):
            {{make}}
            {{train}}

        for trial in range(2):
            experiment(loader)
        """
    },
    "resumed": {
        "phases": """
        {{make}}
        import os

        if os.path.exists('no.pt'):
            state = torch.load('no.pt')
            {{s}}model.load_state_dict(state['model'])
            {{o}}.load_state_dict(state['optimizer'])
        {{train}}
        """
    },
    "first epoch anew": {
        "phases": """
        {{make}}
        for epoch in range({{epochs}}):
            if epoch == 1:
                {{s}}optimizer = {{opt}}
            for x, y in loader:
                {{body}}
        """
    },
    "clients": {
        "phases": """
        {{make}}
        for round_ in range(2):
            for client in range(2):
                local = copy.deepcopy({{s}}model)
                inner = torch.optim.SGD(local.parameters(), lr=0.1)
                for x, y in loader:
                    inner.zero_grad()
                    nn.functional.mse_loss(local(x), y).backward()
                    inner.step()
        {{train}}
        """
    },
    "images": {
        "phases": """
        {{make}}
        for x, y in loader:
            delta = torch.zeros_like(x, requires_grad=True)
            attack = torch.optim.SGD([delta], lr=0.1)
            for _ in range(3):
                attack.zero_grad()
                (-nn.functional.mse_loss({{s}}model(x + delta), y)).backward()
                attack.step()
        {{train}}
        """
    },
    "growing": {
        "phases": """
        {{make}}
        for stage in range(2):
            if stage > 0:
                {{s}}model = nn.Sequential({{s}}model, nn.Linear(1, 1))
                {{s}}optimizer = {{opt}}
                {{sched}}
            {{train}}
        """
    },
}

BODIES = {
    "plain": {
        "body": "{{o}}.zero_grad()\nloss = nn.functional.mse_loss({{s}}model(x), y)\n"
        "loss.backward()\n{{o}}.step()\n{{each}}"
    },
    "last": {
        "body": "loss = nn.functional.mse_loss({{s}}model(x), y)\nloss.backward()\n{{o}}.step()\n"
        "{{o}}.zero_grad()\n{{each}}"
    },
    "schedule before clearing": {
        "body": "loss = nn.functional.mse_loss({{s}}model(x), y)\nloss.backward()\n{{o}}.step()\n"
        "{{each}}\n{{o}}.zero_grad()"
    },
    "function": {
        "body": "loss = step_on({{s}}model, {{o}}, x, y)\n{{each}}",
    },
    "skips": {
        "body": "{{o}}.zero_grad()\nloss = nn.functional.mse_loss({{s}}model(x), y)\nif torch.isfinite(loss):\n"
        "    loss.backward()\n    {{o}}.step()\n    {{each}}",
    },
}

_SCHEDULES = Family(
    "schedules",
    """
    import copy

    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{helper}}


    def step_on(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()


    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]

    {{program}}
    """,
    {
        "schedule": SCHEDULES,
        "phases": PHASES,
        "body": BODIES,
        "home": {
            "script": {"s": "", "program": "{{phases}}"},
            "main": {"s": "", "program": "def main():\n    {{phases}}\n\n\nmain()"},
            "trainer": {
                "s": "self.",
                "program": "class Trainer:\n    def run(self, loader):\n        {{phases}}\n\n\nTrainer().run(loader)",
            },
            "made first": {
                "s": "self.",
                "program": "class Trainer:\n    def __init__(self):\n        self.model = self.optimizer = None\n\n"
                "    def run(self, loader):\n        {{phases}}\n\n\nTrainer().run(loader)",
            },
        },
        "optimizer": {
            "sgd": {"opt": "torch.optim.SGD({{s}}model.parameters(), lr={{lr}})", "o": "{{s}}optimizer"},
            "adam": {
                "opt": "torch.optim.AdamW([p for p in {{s}}model.parameters() if p.requires_grad], lr={{lr}})",
                "o": "{{s}}optimizer",
            },
            "momentum": {
                "opt": "torch.optim.SGD({{s}}model.parameters(), lr={{lr}}, momentum=0.9)",
                "o": "{{s}}optimizer",
            },
        },
        "settings": SETTINGS,
        "network": NETWORKS,
        "loops": {"plain": {"train": _TRAIN, "make": _MAKE}},
    },
    {
        "advances first": (
            "GTR504",
            {
                "sched": f"{{{{s}}}}sched = {_LR}.StepLR({{{{o}}}}, 2)",
                "epoch_begin": "{{s}}sched.step()",
                "epoch_end": "",
                "each": "",
            },
        ),
        "rebuilt": (
            "GTR508",
            {
                "body": "{{s}}optimizer = torch.optim.Adam({{s}}model.parameters(), lr=0.1)\n{{o}}.zero_grad()\n"
                "loss = nn.functional.mse_loss({{s}}model(x), y)\nloss.backward()\n{{o}}.step()\n{{each}}"
            },
        ),
    },
)
FAMILIES = (_SCHEDULES,)
