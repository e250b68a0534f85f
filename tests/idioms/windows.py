"""Accumulation: how a window's end is known, how the loss is divided, where a step is taken and gradients cleared."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.parts import NETWORKS, SETTINGS

_UPDATE = """
{{unscale}}
{{clip}}
{{step_it}}
{{each}}
{{clear}}
"""

_IN_LOOP = """
{{count}}
{{forward}}
{{divide}}
{{backward}}
if {{full}}:
    {{update}}
{{after}}
"""


def _window(full: str, batches: str = "for i, (x, y) in enumerate(loader):", **more: str) -> dict[str, str]:
    return {
        "before": "",
        "count": "",
        "after": "",
        "full": full,
        "batches": batches,
        "body": _IN_LOOP,
        "update": _UPDATE,
        "rest": "",
        "divide": "loss = loss / {{k}}",
        "take": "",
        "helper": "",
    } | more


WINDOWS = {
    "modulo": _window("(i + 1) % {{k}} == 0"),
    "from one": _window("i % {{k}} == 0", "for i, (x, y) in enumerate(loader, start=1):"),
    "not modulo": _window("not (i + 1) % {{k}}"),
    "or last": _window("(i + 1) % {{k}} == 0 or (i + 1) == len(loader)"),
    "or last batch": _window("(i + 1) % {{k}} == 0 or last_batch", count="last_batch = i == len(loader) - 1"),
    "flag": _window("update", count="update = (i + 1) % {{k}} == 0 or i == len(loader) - 1"),
    "need update": _window(
        "need_update",
        before="last_accum = len(loader) % {{k}}\nlast_start = len(loader) - last_accum",
        count="last_batch = i == len(loader) - 1\nneed_update = last_batch or (i + 1) % {{k}} == 0\n"
        "steps = last_accum if i >= last_start and last_accum else {{k}}",
        divide="if steps > 1:\n    loss = loss / steps",
    ),
    "continues": _window(
        "",
        body="""
        {{forward}}
        {{divide}}
        {{backward}}
        if (i + 1) % {{k}} != 0:
            continue
        {{update}}
        """,
    ),
    "counter": _window(
        "pending == {{k}}",
        "for x, y in loader:",
        before="pending = 0",
        count="pending += 1",
        update=_UPDATE + "pending = 0\n",
    ),
    "counter and rest": _window(
        "pending >= {{k}}",
        "for x, y in loader:",
        before="pending = 0",
        count="pending += 1",
        update=_UPDATE + "pending = 0\n",
        rest="if pending > 0:\n    {{update}}",
    ),
    "global step": _window(
        "global_step % {{k}} == 0", "for x, y in loader:", before="global_step = 0", count="global_step += 1"
    ),
    "micro loop": _window(
        "",
        "for step in range(2):",
        body="""
        for micro in range({{k}}):
            x, y = loader[(step + micro) % len(loader)]
            {{forward}}
            {{divide}}
            {{backward}}
        {{update}}
        """,
    ),
    "chunks": _window(
        "",
        body="""
        parts = list(zip(x.chunk({{k}}), y.chunk({{k}})))
        for x, y in parts:
            {{forward}}
            loss = loss / len(parts)
            {{backward}}
        {{update}}
        """,
    ),
    "slices of a batch": _window(
        "",
        body="""
        total = len(x)
        big, targets = x, y
        for start in range(0, total, 2):
            x, y = big[start:start + 2], targets[start:start + 2]
            {{forward}}
            loss = loss * len(x) / total
            {{backward}}
        {{update}}
        """,
    ),
    "clears at its start": _window(
        "(i + 1) % {{k}} == 0",
        count="if i % {{k}} == 0:\n    {{o}}.zero_grad()",
        update="{{unscale}}\n{{clip}}\n{{step_it}}\n{{each}}",
    ),
    "last of window": _window("is_last", count="is_last = i % {{k}} == {{k}} - 1"),
    "accumulating": _window("not accumulating", count="accumulating = (i + 1) % {{k}} != 0 and (i + 1) != len(loader)"),
    "since last": _window(
        "i - last_step >= {{k}}",
        before="last_step = -1",
        update=_UPDATE + "last_step = i\n",
    ),
    "function": _window(
        "should_step(i, len(loader), {{k}})",
        helper="""
        def should_step(i, total, every):
            return (i + 1) % every == 0 or (i + 1) == total
        """,
    ),
    "nested": _window(
        "{{k}} > 1 and (i + 1) % {{k}} == 0 or {{k}} <= 1",
        divide="if {{k}} > 1:\n    loss = loss / {{k}}",
    ),
    "max of one": _window(
        "(i + 1) % accumulate == 0", before="accumulate = max(1, {{k}} or 1)", divide="loss = loss / accumulate"
    ),
    "remainder": _window("(i + 1) % {{k}} == 0", rest="if len(loader) % {{k}} != 0:\n    {{update}}"),
    "grouped": _window(
        "",
        "for group in grouped(loader, {{k}}):",
        helper="""
        def grouped(batches, size):
            group = []
            for batch in batches:
                group.append(batch)
                if len(group) == size:
                    yield group
                    group = []
            if group:
                yield group
        """,
        body="""
        for x, y in group:
            {{forward}}
            loss = loss / len(group)
            {{backward}}
        {{update}}
        """,
    ),
    "divided gradients": _window(
        "(i + 1) % {{k}} == 0",
        divide="",
        update="for p in {{m}}.parameters():\n    if p.grad is not None:\n        p.grad.div_({{k}})\n" + _UPDATE,
    ),
    "weight": _window("(i + 1) % {{k}} == 0", before="weight = 1.0 / {{k}}", divide="loss = weight * loss"),
    "in place": _window("(i + 1) % {{k}} == 0", divide="loss /= {{k}}"),
    "within backward": _window("(i + 1) % {{k}} == 0", divide="loss = loss.mul(1 / float({{k}}))"),
    "sum by count": _window(
        "(i + 1) % {{k}} == 0", divide="loss = nn.functional.mse_loss({{m}}(x), y, reduction='sum') / (len(x) * {{k}})"
    ),
    "batches": _window(
        "",
        "for window in range(2):",
        before="stream = iter(loader * 4)",
        body="""
        losses = []
        for _ in range({{k}}):
            x, y = next(stream)
            {{forward}}
            {{divide}}
            {{backward}}
            losses.append(loss.item())
        {{update}}
        """,
    ),
    "no sync": _window(
        "(i + 1) % {{k}} == 0",
        helper="from contextlib import nullcontext",
        count="sync = (i + 1) % {{k}} == 0\n"
        "context = nullcontext() if sync or not hasattr({{m}}, 'no_sync') else {{m}}.no_sync()\n"
        "with context:\n    warm = None",
    ),
}

HOMES = {
    "script": {"s": "", "program": "{{made}}\n{{prepare}}\n{{loop}}"},
    "function": {
        "s": "",
        "program": """
        def train(model, optimizer, loader{{extra}}):
            {{loop}}
            return model


        {{made}}
        {{prepare}}
        train(model, optimizer, loader{{extra}})
        """,
    },
    "epoch": {
        "s": "",
        "program": """
        def train_one_epoch(model, optimizer, loader, epoch{{extra}}):
            {{start}}
            {{before}}
            {{batches}}
                {{body}}
            {{rest}}
            return 0.0


        def main():
            {{made}}
            {{prepare}}
            for epoch in range({{epochs}}):
                train_one_epoch(model, optimizer, loader, epoch{{extra}})
                {{end}}


        main()
        """,
    },
    "epochs elsewhere": {
        "s": "",
        "program": """
        def train_one_epoch(model, optimizer, loader, epoch{{extra}}, scheduler=None):
            {{start}}
            {{before}}
            {{batches}}
                {{body}}
            {{rest}}


        # elsewhere:
        {{made}}
        {{prepare}}
        for epoch in range({{epochs}}):
            train_one_epoch(model, optimizer, loader, epoch{{extra}})
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
                {{prepare}}
        # here


        class Trainer(Base):
            def run(self, loader):
                {{loop}}


        Trainer().run(loader)
        """,
    },
    "trainer": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self, loader):
                self.loader = loader
                {{made}}
                {{prepare}}

            def fit(self):
                for epoch in range({{epochs}}):
                    self.epoch(epoch, self.loader)
                    {{end}}

            def epoch(self, epoch, loader):
                {{start}}
                {{before}}
                {{batches}}
                    {{body}}
                {{rest}}


        Trainer(loader).fit()
        """,
    },
    "set up": {
        "s": "self.",
        "program": """
        class Run:
            def __init__(self):
                self.model = self.optimizer = self.scheduler = None

            def setup(self):
                {{made}}
                {{prepare}}

            def train(self, loader):
                self.setup()
                {{loop}}


        Run().train(loader)
        """,
    },
}
HOMES = {name: {"loop": "", **way} for name, way in HOMES.items()}
_LOOP = """
{{start}}
for epoch in range({{epochs}}):
    {{before}}
    {{batches}}
        {{body}}
    {{rest}}
    {{end}}
"""

STARTS = {
    "at first": {"start": "{{m}}.train()\n{{o}}.zero_grad()", "clear": "{{o}}.zero_grad()"},
    "to none": {"start": "{{o}}.zero_grad(set_to_none=True)", "clear": "{{o}}.zero_grad(set_to_none=True)"},
    "model": {"start": "{{m}}.zero_grad()", "clear": "{{m}}.zero_grad()"},
    "nowhere": {"start": "", "clear": "{{o}}.zero_grad()"},
    "by hand": {"start": "", "clear": "for p in {{m}}.parameters():\n    p.grad = None"},
}

STEPS = {
    "plain": {"backward": "loss.backward()", "step_it": "{{o}}.step()", "unscale": "", "scaler": ""},
    "scaler": {
        "backward": "{{s}}scaler.scale(loss).backward()",
        "unscale": "{{s}}scaler.unscale_({{o}})",
        "step_it": "{{s}}scaler.step({{o}})\n{{s}}scaler.update()",
        "scaler": "{{s}}scaler = torch.amp.GradScaler('cpu')",
        "extra": ", scaler",
    },
    "scaler or none": {
        "backward": "if {{s}}scaler is not None:\n    {{s}}scaler.scale(loss).backward()\nelse:\n    loss.backward()",
        "unscale": "if {{s}}scaler is not None:\n    {{s}}scaler.unscale_({{o}})",
        "step_it": "if {{s}}scaler is not None:\n    {{s}}scaler.step({{o}})\n"
        "    {{s}}scaler.update()\nelse:\n    {{o}}.step()",
        "scaler": "{{s}}scaler = torch.amp.GradScaler('cpu') if {{amp}} else None",
        "extra": ", scaler",
    },
    "setting": {
        "backward": "if {{amp}}:\n    {{s}}scaler.scale(loss).backward()\nelse:\n    loss.backward()",
        "unscale": "if {{amp}}:\n    {{s}}scaler.unscale_({{o}})",
        "step_it": "if {{amp}}:\n    {{s}}scaler.step({{o}})\n    {{s}}scaler.update()\nelse:\n    {{o}}.step()",
        "scaler": "{{s}}scaler = torch.amp.GradScaler('cpu', enabled={{amp}})",
        "extra": ", scaler",
    },
    "skips": {
        "backward": "loss.backward()",
        "unscale": "norm = torch.stack([p.grad.norm() for p in {{m}}.parameters() if p.grad is not None]).norm()",
        "step_it": "if torch.isfinite(norm):\n    {{o}}.step()",
        "scaler": "",
    },
}
STEPS = {name: {"extra": ""} | way for name, way in STEPS.items()}

_WINDOWS = Family(
    "windows",
    """
    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{helper}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]

    {{program}}
    """,
    {
        "window": WINDOWS,
        "home": {n: w | {"loop": _LOOP, "m": "{{s}}model", "o": "{{s}}optimizer"} for n, w in HOMES.items()},
        "step": STEPS,
        "clear": STARTS,
        "settings": SETTINGS,
        "network": NETWORKS,
        "clip": {
            "none": {"clip": ""},
            "norm": {"clip": "nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"},
            "if set": {"clip": "if {{max_norm}} > 0:\n    nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}})"},
            "value": {"clip": "nn.utils.clip_grad_value_({{m}}.parameters(), {{max_norm}})"},
        },
        "schedule": {
            "none": {"prepare": "{{scaler}}", "each": "", "end": ""},
            "epochs": {
                "prepare": "{{scaler}}\n{{s}}scheduler = torch.optim.lr_scheduler.StepLR({{o}}, 1)",
                "each": "",
                "end": "{{s}}scheduler.step()",
            },
            "by hand": {
                "prepare": "{{scaler}}",
                "each": "for group in {{o}}.param_groups:\n    group['lr'] *= 0.99",
                "end": "",
            },
        },
        "optimizer": {
            "sgd": {
                "made": "{{s}}model = {{net}}\n{{s}}optimizer = torch.optim.SGD({{s}}model.parameters(), lr={{lr}})"
            },
            "adam": {
                "made": "{{s}}model = {{net}}\n"
                "{{s}}optimizer = torch.optim.AdamW([p for p in {{s}}model.parameters() if "
                "p.requires_grad], lr={{lr}}, weight_decay={{decay}})"
            },
        },
        "loss": {
            "mse": {"forward": "loss = nn.functional.mse_loss({{m}}(x), y)"},
            "criterion": {"forward": "pred = {{m}}(x)\nloss = nn.MSELoss()(pred, y)"},
            "autocast": {
                "forward": "with torch.autocast('cpu', dtype=torch.bfloat16):\n    loss = (({{m}}(x) - y) ** 2).mean()"
            },
            "logged": {"forward": "loss = nn.functional.l1_loss({{m}}(x), y)\nrunning = loss.item()"},
        },
    },
    {
        "nothing clears": ("GTR501", {"clear": "", "start": "", "count": ""}),
        "not divided": ("GTR505", {"divide": ""}),
        "clips each": ("GTR303", {"backward": "loss.backward()\nnn.utils.clip_grad_norm_({{m}}.parameters(), 1.0)"}),
        "clears each": ("GTR506", {"forward": "{{o}}.zero_grad()\nloss = nn.functional.mse_loss({{m}}(x), y)"}),
    },
)

FAMILIES = (_WINDOWS,)
