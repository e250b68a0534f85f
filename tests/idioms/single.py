"""One model and one optimizer: made, held, handed on, stepped in every way."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.held import HELD, PARAMETERS
from idioms.homes import HOMES
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
        "first": "for p in {{m}}.parameters():\n    if p.grad is not None:\n"
        "        p.grad.detach_()\n        p.grad.zero_()",
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
        "forward": "output = {{m}}(x)\nmain = (output - y).pow(2).mean()\naux = output.abs().mean()\n"
        "loss = main + 0.1 * aux",
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
        "forward": "def compute_loss(net):\n    pred = net(x)\n"
        "    return nn.functional.smooth_l1_loss(pred, y), pred\n\n"
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
        "forward": "x = x.requires_grad_()\nout = {{m}}(x)\n"
        "(g,) = torch.autograd.grad(out.sum(), x, create_graph=True)\n"
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
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n"
        "        torch.nan_to_num(p.grad, nan=0.0, out=p.grad)"
    },
    "noise": {
        "clip": "for p in {{m}}.parameters():\n    if p.grad is not None:\n"
        "        p.grad += 1e-3 * torch.randn_like(p.grad)"
    },
    "elsewhere": {
        "clip": "from torch.nn.utils import clip_grad_norm_ as clip_gradients\n"
        "clip_gradients({{m}}.parameters(), {{max_norm}})"
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
        "[torch.optim.lr_scheduler.LinearLR({{o}}{{wrapped}}), "
        "torch.optim.lr_scheduler.ExponentialLR({{o}}{{wrapped}}, 0.9)], [2])",
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
        "log": "with torch.no_grad():\n"
        "    for p, q in zip({{m}}.parameters(), [p.detach().clone() for p in {{m}}.parameters()]):\n"
        "        q.mul_(0.9).add_(p, alpha=0.1)"
    },
    "evaluates": {
        "log": "if epoch == 1:\n    {{m}}.eval()\n    with torch.no_grad():\n"
        "        value = nn.functional.mse_loss({{m}}(x), y).item()\n"
        "    {{m}}.train()"
    },
    "saves": {
        "log": "if epoch == 1:\n"
        "    torch.save({'model': {{m}}.state_dict(), 'optimizer': {{o}}.state_dict()}, 'checkpoint.pt')"
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
