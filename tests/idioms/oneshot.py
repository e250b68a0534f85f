"""One-shot iterators: used once, made anew, turned into lists; parameters handed from function to function."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.parts import BATCHES, NETWORKS, SETTINGS

PARAMETERS = {
    "fresh": {"made": "", "p": "{{m}}.parameters()", "helper": ""},
    "list": {"made": "{{s}}params = list({{m}}.parameters())", "p": "{{s}}params", "helper": ""},
    "tuple": {"made": "{{s}}params = (*{{m}}.parameters(),)", "p": "{{s}}params", "helper": ""},
    "comprehension": {
        "made": "{{s}}params = [p for p in {{m}}.parameters() if p.requires_grad]",
        "p": "{{s}}params",
        "helper": "",
    },
    "sorted": {
        "made": "{{s}}params = [p for _, p in sorted({{m}}.named_parameters(), key=lambda item: item[0])]",
        "p": "{{s}}params",
        "helper": "",
    },
    "method": {
        "made": "",
        "p": "trainable({{m}})",
        "helper": "def trainable(model):\n    return [p for p in model.parameters() if p.requires_grad]",
    },
    "fresh filter": {"made": "", "p": "filter(lambda p: p.requires_grad, {{m}}.parameters())", "helper": ""},
    "lambda": {"made": "{{s}}get = lambda: (p for p in {{m}}.parameters())", "p": "{{s}}get()", "helper": ""},
    "generator function": {
        "made": "",
        "p": "walk({{m}})",
        "helper": "def walk(model):\n    for module in model.modules():\n"
        "        yield from module.parameters(recurse=False)",
    },
    "chain": {"made": "", "p": "itertools.chain({{m}}.parameters(), [])", "helper": ""},
    "chain list": {
        "made": "{{s}}params = list(itertools.chain.from_iterable(m.parameters() for m in [{{m}}]))",
        "p": "{{s}}params",
        "helper": "",
    },
    "dict": {"made": "{{s}}named = dict({{m}}.named_parameters())", "p": "{{s}}named.values()", "helper": ""},
    "class": {
        "made": "{{s}}params = Parameters({{m}})",
        "p": "{{s}}params",
        "helper": """
        class Parameters:
            def __init__(self, model):
                self.model = model

            def __iter__(self):
                return iter(self.model.parameters())
        """,
    },
    "parameter list": {
        "made": "{{s}}params = nn.ParameterList({{m}}.parameters())",
        "p": "{{s}}params",
        "helper": "",
    },
    "made list": {
        "made": "params = filter(lambda p: p.requires_grad, {{m}}.parameters())\n{{s}}params = list(params)",
        "p": "{{s}}params",
        "helper": "",
    },
    "rebound": {
        "made": "params = {{m}}.parameters()\ncount = sum(p.numel() for p in params)\n"
        "params = {{m}}.parameters()\n{{s}}params = list(params)",
        "p": "{{s}}params",
        "helper": "",
    },
    "tee": {
        "made": "first, second = itertools.tee({{m}}.parameters())\n"
        "count = sum(p.numel() for p in first)\n{{s}}params = list(second)",
        "p": "{{s}}params",
        "helper": "",
    },
    "groups": {
        "made": "{{s}}groups = [{'params': list({{m}}.parameters())}]",
        "p": "[p for g in {{s}}groups for p in g['params']]",
        "helper": "",
    },
    "of the optimizer": {
        "made": "",
        "p": "[p for g in {{s}}optimizer.param_groups for p in g['params']]",
        "helper": "",
        "given": "{{m}}.parameters()",
    },
    "property": {
        "made": "{{s}}view = View({{m}})",
        "p": "{{s}}view.params",
        "helper": """
        class View:
            def __init__(self, model):
                self.model = model

            @property
            def params(self):
                return filter(lambda p: p.requires_grad, self.model.parameters())
        """,
    },
    "zip": {
        "made": "{{s}}params = [p for p, _ in zip({{m}}.parameters(), itertools.count())]",
        "p": "{{s}}params",
        "helper": "",
    },
}
PARAMETERS = {name: {"given": way["p"]} | way for name, way in PARAMETERS.items()}

CLIPS = {
    "none": {"clip": ""},
    "norm": {"clip": "nn.utils.clip_grad_norm_({{p}}, 1.0)"},
    "own": {
        "clip": "clip_gradients({{p}}, 1.0)",
        "utility": """
        def clip_gradients(parameters, max_norm):
            if isinstance(parameters, torch.Tensor):
                parameters = [parameters]
            parameters = [p for p in parameters if p.grad is not None]
            total = torch.norm(torch.stack([p.grad.norm() for p in parameters]))
            for p in parameters:
                p.grad.mul_(min(1.0, max_norm / (float(total) + 1e-6)))
            return total
        """,
    },
    "filter to list": {
        "clip": "clip_gradients({{p}}, 1.0)",
        "utility": """
        def clip_gradients(parameters, max_norm):
            parameters = list(filter(lambda p: p.grad is not None, parameters))
            norms = [p.grad.norm(2) for p in parameters]
            total = sum(n.item() ** 2 for n in norms) ** 0.5
            scale = max_norm / (total + 1e-6)
            if scale < 1:
                for p in parameters:
                    p.grad.mul_(scale)
            return total
        """,
    },
    "one pass": {
        "clip": "clip_values({{p}}, 1.0)",
        "utility": """
        def clip_values(parameters, limit):
            for p in parameters:
                if p.grad is not None:
                    p.grad.clamp_(-limit, limit)
        """,
    },
    "exclusive": {
        "clip": "clip_by({{p}}, {{max_norm}}, 'norm')",
        "utility": """
        def clip_by(parameters, value, how):
            if how == 'norm':
                torch.nn.utils.clip_grad_norm_(parameters, value)
            elif how == 'value':
                torch.nn.utils.clip_grad_value_(parameters, value)
            else:
                raise ValueError(how)
        """,
    },
    "given list": {
        "clip": "norm_of(list({{p}}))",
        "utility": """
        def norm_of(params):
            n = len(params)
            total = 0.0
            for p in params:
                if p.grad is not None:
                    total += p.grad.norm().item() ** 2
            for p in params:
                p.requires_grad_(True)
            return total ** 0.5 / max(n, 1)
        """,
    },
    "model": {
        "clip": "clip_model({{m}}, 1.0)",
        "utility": """
        def clip_model(model, max_norm):
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            return norm
        """,
    },
    "checked": {
        "clip": "ok = all(torch.isfinite(p.grad).all() for p in {{p}} if p.grad is not None)\n"
        "if ok:\n    nn.utils.clip_grad_norm_({{p}}, 1.0)",
    },
    "typed": {
        "clip": "total_norm({{p}})",
        "utility": """
        from typing import Iterable


        def total_norm(parameters: Iterable[torch.Tensor]) -> float:
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            return float(torch.stack(norms).norm())
        """,
    },
    "isinstance": {
        "clip": "clip_any({{p}}, 1.0)",
        "utility": """
        import types


        def clip_any(parameters, limit):
            if isinstance(parameters, types.GeneratorType) or not isinstance(parameters, (list, tuple)):
                parameters = list(parameters)
            total = sum(float(p.grad.norm()) for p in parameters if p.grad is not None)
            for p in parameters:
                if p.grad is not None:
                    p.grad.mul_(min(1.0, limit / (total + 1e-6)))
        """,
    },
}
CLIPS = {name: {"utility": ""} | way for name, way in CLIPS.items()}

BEFORE = {
    "nothing": {"look": ""},
    "counts": {"look": "print(sum(p.numel() for p in {{m}}.parameters()))"},
    "names": {"look": "for name, p in {{m}}.named_parameters():\n    print(name, tuple(p.shape))"},
    "device": {"look": "device = next({{m}}.parameters()).device"},
    "initialises": {"look": "for p in {{m}}.parameters():\n    if p.dim() > 1:\n        nn.init.xavier_uniform_(p)"},
    "iterator": {"look": "it = iter(loader)\nfirst = next(it)"},
    "enumerated": {"look": "for i, p in enumerate({{m}}.parameters()):\n    print(i, p.requires_grad)"},
    "mapped": {"look": "sizes = map(lambda p: p.numel(), {{m}}.parameters())\nprint(sum(sizes))"},
    "zipped": {"look": "pairs = zip({{m}}.parameters(), {{m}}.parameters())\nassert all(a is b for a, b in pairs)"},
    "generator of batches": {"look": "shapes = (x.shape for x, _ in loader)\nprint(list(shapes))"},
    "any": {"look": "if any(not p.requires_grad for p in {{m}}.parameters()):\n    print('frozen')"},
    "reversed": {"look": "stack = list(reversed(list({{m}}.parameters())))\nlast = stack[0]"},
    "peeks": {"look": "gen = {{m}}.named_parameters()\nname, weight = next(gen)\nrest = [p for _, p in gen]"},
}

HOMES = {
    "script": {"s": "", "program": "{{start}}\n{{loop}}"},
    "main": {"s": "", "program": "def main():\n    {{start}}\n    {{loop}}\n\n\nmain()"},
    "trainer": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{start}}

            def train(self, loader):
                {{loop}}


        Trainer().train(loader)
        """,
    },
    "steps": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{start}}

            def step(self, x, y):
                {{first}}
                loss = nn.functional.mse_loss({{m}}(x), y)
                loss.backward()
                {{clip}}
                {{s}}optimizer.step()

            def train(self, loader):
                for epoch in range({{epochs}}):
                    for x, y in loader:
                        self.step(x, y)


        Trainer().train(loader)
        """,
    },
}
_LOOP = """
for epoch in range({{epochs}}):
    {{batches}}
        {{take}}
        {{first}}
        loss = nn.functional.mse_loss({{m}}(x), y)
        loss.backward()
        {{clip}}
        {{s}}optimizer.step()
        {{advance}}
"""
_START = """
{{s}}model = {{net}}
{{look}}
{{made}}
{{s}}optimizer = {{opt}}
"""

_ONE_SHOT = Family(
    "one-shot",
    """
    import itertools

    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{helper}}

    {{utility}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]
    {{loader}}

    {{program}}
    """,
    {
        "parameters": PARAMETERS,
        "clip": CLIPS,
        "before": BEFORE,
        "home": {n: w | {"loop": _LOOP, "start": _START, "m": "{{s}}model"} for n, w in HOMES.items()},
        "optimizer": {
            "sgd": {"opt": "torch.optim.SGD({{given}}, lr={{lr}})"},
            "list": {"opt": "torch.optim.SGD(list({{given}}), lr={{lr}})"},
            "group": {"opt": "torch.optim.AdamW([{'params': {{given}}, 'lr': {{lr}}}])"},
            "comprehension": {"opt": "torch.optim.Adam([p for p in {{given}}], lr={{lr}})"},
        },
        "clear": {
            "optimizer": {"first": "{{s}}optimizer.zero_grad()"},
            "parameters": {"first": "for p in {{p}}:\n    p.grad = None"},
            "both": {
                "first": "for p in {{p}}:\n    if p.grad is not None:\n        p.grad.zero_()\n"
                "{{s}}optimizer.zero_grad()"
            },
        },
        "batches": BATCHES,
        "settings": SETTINGS,
        "network": NETWORKS,
    },
    {
        "used up": (
            "GTR101",
            {
                "made": "{{s}}params = {{m}}.parameters()",
                "p": "{{s}}params",
                "given": "{{s}}params",
                "clip": "nn.utils.clip_grad_norm_({{s}}params, 1.0)",
            },
        ),
        "filter used up": (
            "GTR101",
            {
                "made": "{{s}}params = filter(lambda p: p.requires_grad, {{m}}.parameters())",
                "p": "{{s}}params",
                "given": "{{s}}params",
                "clip": "for p in {{s}}params:\n    if p.grad is not None:\n        p.grad.clamp_(-1, 1)",
            },
        ),
    },
)

FAMILIES = (_ONE_SHOT,)
