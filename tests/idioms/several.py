"""Two networks that train each other: GANs, actors and critics, however they are held, ordered and frozen."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.orders import ORDERS
from idioms.parts import SETTINGS


def _held(made: str, **names: str) -> dict[str, str]:
    return {
        "made": made,
        "g": "{{s}}gen",
        "d": "{{s}}disc",
        "og": "{{s}}opt_g",
        "od": "{{s}}opt_d",
        "define": "",
    } | names


_NETS = "{{s}}gen = Net(8)\n{{s}}disc = Net(1)\n"

HELD = {
    "direct": _held(
        _NETS
        + "{{s}}opt_g = torch.optim.Adam({{s}}gen.parameters(), lr={{lr}}, betas=(0.5, 0.999))\n"
        + "{{s}}opt_d = torch.optim.Adam({{s}}disc.parameters(), lr={{lr}}, betas=(0.5, 0.999))"
    ),
    "dicts": _held(
        "{{s}}nets = {'gen': Net(8), 'disc': Net(1)}\n"
        "{{s}}optims = {name: torch.optim.Adam(net.parameters(), lr={{lr}}) for name, net in {{s}}nets.items()}",
        g="{{s}}nets['gen']",
        d="{{s}}nets['disc']",
        og="{{s}}optims['gen']",
        od="{{s}}optims['disc']",
    ),
    "lists": _held(
        "{{s}}nets = [Net(8), Net(1)]\n"
        "{{s}}optims = [torch.optim.RMSprop(net.parameters(), lr={{lr}}) for net in {{s}}nets]",
        g="{{s}}nets[0]",
        d="{{s}}nets[1]",
        og="{{s}}optims[0]",
        od="{{s}}optims[1]",
    ),
    "module dict": _held(
        "{{s}}nets = nn.ModuleDict({'gen': Net(8), 'disc': Net(1)})\n"
        "{{s}}opt_g = torch.optim.Adam({{s}}nets['gen'].parameters(), lr={{lr}})\n"
        "{{s}}opt_d = torch.optim.Adam({{s}}nets['disc'].parameters(), lr={{lr}})",
        g="{{s}}nets['gen']",
        d="{{s}}nets['disc']",
    ),
    "one module": _held(
        "{{s}}gan = Gan()\n{{s}}opt_g, {{s}}opt_d = {{s}}gan.optimizers({{lr}})",
        define="""
        class Gan(nn.Module):
            def __init__(self):
                super().__init__()
                self.gen = Net(8)
                self.disc = Net(1)

            def optimizers(self, lr):
                return torch.optim.Adam(self.gen.parameters(), lr=lr), torch.optim.Adam(self.disc.parameters(), lr=lr)
        """,
        g="{{s}}gan.gen",
        d="{{s}}gan.disc",
    ),
    "bundle": _held(
        "{{s}}g = bundle(Net(8), {{lr}})\n{{s}}d = bundle(Net(1), {{lr}})",
        define="""
        from collections import namedtuple

        Bundle = namedtuple('Bundle', 'net opt')


        def bundle(net, lr):
            return Bundle(net, torch.optim.Adam(net.parameters(), lr=lr))
        """,
        g="{{s}}g.net",
        d="{{s}}d.net",
        og="{{s}}g.opt",
        od="{{s}}d.opt",
    ),
    "objects": _held(
        "{{s}}g = Player(8, {{lr}})\n{{s}}d = Player(1, {{lr}})",
        define="""
        class Player:
            def __init__(self, width, lr):
                self.net = Net(width)
                self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)
                self.steps = 0
        """,
        g="{{s}}g.net",
        d="{{s}}d.net",
        og="{{s}}g.optimizer",
        od="{{s}}d.optimizer",
    ),
    "elsewhere": _held(
        "{{s}}gen, {{s}}disc, {{s}}opt_g, {{s}}opt_d = build_all({{lr}})",
        define="""
        # elsewhere: build_all
        def build_all(lr):
            gen, disc = Net(8), Net(1)
            return gen, disc, torch.optim.Adam(gen.parameters(), lr=lr), torch.optim.Adam(disc.parameters(), lr=lr)
        # here
        """,
    ),
    "optimizers elsewhere": _held(
        _NETS + "{{s}}opt_g = make_optimizer({{s}}gen)\n{{s}}opt_d = make_optimizer({{s}}disc)",
        define="""
        # elsewhere: make_optimizer
        def make_optimizer(net):
            return torch.optim.Adam(net.parameters(), lr=0.01)
        # here
        """,
    ),
    "networks elsewhere": _held(
        "{{s}}gen, {{s}}disc = get_net(8), get_net(1)\n"
        "{{s}}opt_g = torch.optim.Adam({{s}}gen.parameters(), lr={{lr}})\n"
        "{{s}}opt_d = torch.optim.Adam({{s}}disc.parameters(), lr={{lr}})",
        define="""
        # elsewhere: get_net
        def get_net(width):
            return Net(width)
        # here
        """,
    ),
    "factory": _held(
        _NETS + "{{s}}opt_g, {{s}}opt_d = make_optimizers({{s}}gen, {{s}}disc, {{kind}})",
        define="""
        def make_optimizers(gen, disc, kind):
            if kind == 'sgd':
                make = lambda params: torch.optim.SGD(params, lr=0.01)
            else:
                make = lambda params: torch.optim.Adam(params, lr=0.01)
            return make(gen.parameters()), make(disc.parameters())
        """,
    ),
    "two critics": _held(
        "{{s}}gen = Net(8)\n{{s}}discs = nn.ModuleList([Net(1), Net(1)])\n"
        "{{s}}opt_g = torch.optim.Adam({{s}}gen.parameters(), lr={{lr}})\n"
        "{{s}}opt_d = torch.optim.Adam(itertools.chain(*[d.parameters() for d in {{s}}discs]), lr={{lr}})",
        d="{{s}}discs[0]",
    ),
    "wrapped": _held(
        "gen, disc = Net(8), Net(1)\n{{s}}opt_g = torch.optim.Adam(gen.parameters(), lr={{lr}})\n"
        "{{s}}opt_d = torch.optim.Adam(disc.parameters(), lr={{lr}})\n"
        "{{s}}gen, {{s}}disc = nn.DataParallel(gen), nn.DataParallel(disc)"
    ),
    "trainable": _held(
        _NETS
        + "{{s}}opt_g = torch.optim.Adam(filter(lambda p: p.requires_grad, {{s}}gen.parameters()), lr={{lr}})\n"
        + "{{s}}opt_d = torch.optim.Adam(filter(lambda p: p.requires_grad, {{s}}disc.parameters()), lr={{lr}})"
    ),
    "encoder and decoder": _held(
        "{{s}}enc, {{s}}gen, {{s}}disc = Net(8), Net(8), Net(1)\n"
        "{{s}}opt_g = torch.optim.Adam(list({{s}}enc.parameters()) + list({{s}}gen.parameters()), lr={{lr}})\n"
        "{{s}}opt_d = torch.optim.Adam({{s}}disc.parameters(), lr={{lr}})"
    ),
}


HOMES = {
    "script": {"s": "", "program": "{{made}}\n{{scheduled}}\n{{loop}}"},
    "main": {
        "s": "",
        "program": """
        def main():
            {{made}}
            {{scheduled}}
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
                {{scheduled}}

            def train(self, loader):
                {{loop}}


        Trainer().train(loader)
        """,
    },
    "base elsewhere": {
        "s": "self.",
        "program": """
        # elsewhere: Base
        class Base:
            def __init__(self):
                {{made}}
                {{scheduled}}
        # here


        class Trainer(Base):
            def train(self, loader):
                {{loop}}


        Trainer().train(loader)
        """,
    },
    "step method": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{made}}
                {{scheduled}}

            def step(self, real, i):
                for _ in range(1):
                    z = torch.randn(len(real), 8)
                    {{order}}

            def train(self, loader):
                for epoch in range({{epochs}}):
                    for i, real in enumerate(loader):
                        self.step(real, i)
                        {{log}}
                    {{end}}


        Trainer().train(loader)
        """,
    },
    "set up": {
        "s": "self.",
        "program": """
        class Gan2:
            def __init__(self):
                self.build()

            def build(self):
                {{made}}
                {{scheduled}}

            def run(self, loader):
                {{loop}}


        Gan2().run(loader)
        """,
    },
}
_LOOP = """
for epoch in range({{epochs}}):
    for i, real in enumerate(loader):
        z = torch.randn(len(real), 8)
        {{order}}
        {{log}}
    {{end}}
"""

_SEVERAL = Family(
    "several",
    """
    import itertools

    import torch
    from torch import nn

    {{config}}


    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.2))
            self.head = nn.Linear(8, width)

        def forward(self, x):
            return self.head(self.body(x))


    def bce(logits, target):
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


    {{helper}}

    {{define}}

    loader = [torch.randn(4, 8) for _ in range(3)]

    {{program}}
    """,
    {
        "order": ORDERS,
        "held": HELD,
        "home": {name: way | {"loop": _LOOP} for name, way in HOMES.items()},
        "settings": SETTINGS,
        "clear": {
            "optimizer": {},
            "network": {"zg": "{{g}}.zero_grad()", "zd": "{{d}}.zero_grad()"},
            "by hand": {
                "zg": "for p in {{g}}.parameters():\n    p.grad = None",
                "zd": "for p in {{d}}.parameters():\n    p.grad = None",
            },
            "to none": {"zg": "{{og}}.zero_grad(set_to_none=True)", "zd": "{{od}}.zero_grad(set_to_none=True)"},
            "both": {"zg": "{{og}}.zero_grad()\n{{g}}.zero_grad()", "zd": "{{d}}.zero_grad()\n{{od}}.zero_grad()"},
        },
        "clip": {
            "none": {"clip_g": "", "clip_d": ""},
            "norm": {
                "clip_g": "nn.utils.clip_grad_norm_({{g}}.parameters(), {{max_norm}})",
                "clip_d": "nn.utils.clip_grad_norm_({{d}}.parameters(), {{max_norm}})",
            },
            "one": {"clip_g": "", "clip_d": "nn.utils.clip_grad_norm_({{d}}.parameters(), {{max_norm}})"},
            "both": {
                "clip_g": "for net in ({{g}}, {{d}}):\n    nn.utils.clip_grad_norm_(net.parameters(), {{max_norm}})",
                "clip_d": "",
            },
        },
        "schedule": {
            "none": {"scheduled": "", "end": ""},
            "both": {
                "scheduled": "{{s}}sched_g = torch.optim.lr_scheduler.ExponentialLR({{og}}, 0.9)\n"
                "{{s}}sched_d = torch.optim.lr_scheduler.ExponentialLR({{od}}, 0.9)",
                "end": "{{s}}sched_g.step()\n{{s}}sched_d.step()",
            },
            "list": {
                "scheduled": "{{s}}schedulers = [torch.optim.lr_scheduler.LambdaLR(opt, lambda e: 0.9 ** e) "
                "for opt in [{{og}}, {{od}}]]",
                "end": "for sched in {{s}}schedulers:\n    sched.step()",
            },
        },
        "log": {
            "none": {"log": ""},
            "print": {"log": "print(epoch, i)"},
            "samples": {"log": "if i % 2 == 0:\n    with torch.no_grad():\n        sample = {{g}}(torch.randn(2, 8))"},
            "saves": {
                "log": "torch.save([{{g}}.state_dict(), {{d}}.state_dict(), {{og}}.state_dict(), "
                "{{od}}.state_dict()], 'g.pt')"
            },
        },
    },
    {
        "critic is never cleared": ("GTR501", {"zd": ""}),
        "generator is never cleared": ("GTR501", {"zg": ""}),
        "clips the other": ("GTR308", {"clip_g": "nn.utils.clip_grad_norm_({{d}}.parameters(), 1.0)"}),
        "cleared before the step": ("GTR502", {"clip_d": "{{od}}.zero_grad()"}),
    },
)

FAMILIES = (_SEVERAL,)
