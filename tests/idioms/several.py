"""Two networks that train each other: GANs, actors and critics, however they are held, ordered and frozen."""

from __future__ import annotations

from idioms.grammar import Family
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
        "{{s}}nets = [Net(8), Net(1)]\n{{s}}optims = [torch.optim.RMSprop(net.parameters(), lr={{lr}}) for net in {{s}}nets]",
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

_D_FIRST = "{{d_step}}\n{{g_step}}"


def _order(order: str, d_step: str, g_step: str, define: str = "") -> dict[str, str]:
    return {
        "order": order,
        "d_step": d_step,
        "g_step": g_step,
        "helper": define,
        "zd": "{{od}}.zero_grad()",
        "zg": "{{og}}.zero_grad()",
    }


_D = """
{{zd}}
fake = {{g}}(z)
loss_d = bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)
loss_d.backward()
{{clip_d}}
{{od}}.step()
"""
_G = """
{{zg}}
loss_g = bce({{d}}({{g}}(z)), 1.0)
loss_g.backward()
{{clip_g}}
{{og}}.step()
"""

ORDERS = {
    "critic first": _order(_D_FIRST, _D, _G),
    "generator first": _order("{{g_step}}\n{{d_step}}", _D, _G),
    "dcgan": _order(
        _D_FIRST,
        """
        {{zd}}
        err_real = bce({{d}}(real), 1.0)
        err_real.backward()
        fake = {{g}}(z)
        err_fake = bce({{d}}(fake.detach()), 0.0)
        err_fake.backward()
        err = err_real + err_fake
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "shared fake": _order(
        "fake = {{g}}(z)\n{{d_step}}\n{{g_step}}",
        """
        {{zd}}
        loss_d = (bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)) * 0.5
        loss_d.backward()
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "frozen critic": _order(
        _D_FIRST,
        "set_requires_grad({{d}}, True)\n" + _D,
        "set_requires_grad({{d}}, False)\n" + _G,
        """
        def set_requires_grad(nets, requires_grad=False):
            if not isinstance(nets, list):
                nets = [nets]
            for net in nets:
                for param in net.parameters():
                    param.requires_grad = requires_grad
        """,
    ),
    "several steps of the critic": _order("for _ in range(3):\n    {{d_step}}\n{{g_step}}", _D, _G),
    "now and then": _order("{{d_step}}\nif i % 2 == 0:\n    {{g_step}}", _D, _G),
    "now and then both": _order("if i % 2 == 0:\n    {{d_step}}\nelse:\n    {{g_step}}", _D, _G),
    "warm-up": _order("if i > 1:\n    {{d_step}}\n{{g_step}}", _D, _G),
    "both clear all": _order(_D_FIRST, _D.replace("{{zd}}", "{{zd}}\n{{zg}}"), _G.replace("{{zg}}", "{{zd}}\n{{zg}}")),
    "cleared after": _order(
        "{{d_step}}\n{{g_step}}",
        _D.replace("{{zd}}\n", "") + "{{zd}}\n",
        _G.replace("{{zg}}\n", "") + "{{zg}}\n{{zd}}\n",
    ),
    "losses first": _order(
        """
        fake = {{g}}(z)
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{zd}}
        loss_d = bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)
        loss_d.backward()
        {{clip_d}}
        {{og}}.step()
        {{od}}.step()
        """,
        "",
        "",
    ),
    "flag": _order(
        "for phase in ('disc', 'gen'):\n    if phase == 'disc':\n        {{d_step}}\n    else:\n        {{g_step}}",
        _D,
        _G,
    ),
    "index": _order(
        """
        for index in range(2):
            opt = [{{od}}, {{og}}][index]
            opt.zero_grad()
            loss = training_loss({{g}}, {{d}}, real, z, index)
            loss.backward()
            opt.step()
        """,
        "",
        "",
        """
        def training_loss(gen, disc, real, z, index):
            if index == 0:
                with torch.no_grad():
                    fake = gen(z)
                return bce(disc(real), 1.0) + bce(disc(fake), 0.0)
            return bce(disc(gen(z)), 1.0)
        """,
    ),
    "helpers": _order(
        """
        update({{od}}, bce({{d}}(real), 1.0) + bce({{d}}({{g}}(z).detach()), 0.0), {{d}}.parameters())
        update({{og}}, bce({{d}}({{g}}(z)), 1.0), {{g}}.parameters())
        """,
        "",
        "",
        """
        def update(optimizer, loss, parameters, max_norm=1.0):
            optimizer.zero_grad()
            loss.backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
        """,
    ),
    "step functions": _order(
        "d_update({{g}}, {{d}}, {{od}}, real, z)\ng_update({{g}}, {{d}}, {{og}}, z)",
        "",
        "",
        """
        def d_update(gen, disc, opt, real, z):
            opt.zero_grad()
            loss = bce(disc(real), 1.0) + bce(disc(gen(z).detach()), 0.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(disc.parameters(), 1.0)
            opt.step()
            return loss.item()


        def g_update(gen, disc, opt, z):
            for p in disc.parameters():
                p.requires_grad_(False)
            opt.zero_grad()
            loss = bce(disc(gen(z)), 1.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gen.parameters(), 1.0)
            opt.step()
            for p in disc.parameters():
                p.requires_grad_(True)
            return loss.item()
        """,
    ),
    "penalty": _order(
        _D_FIRST,
        """
        {{zd}}
        with torch.no_grad():
            fake = {{g}}(z)
        mix = (0.5 * real + 0.5 * fake).requires_grad_(True)
        (grad,) = torch.autograd.grad({{d}}(mix).sum(), mix, create_graph=True)
        penalty = ((grad.norm(2, dim=1) - 1) ** 2).mean()
        loss_d = {{d}}(fake).mean() - {{d}}(real).mean() + 10 * penalty
        loss_d.backward()
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = -{{d}}({{g}}(z)).mean()
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "lazy penalty": _order(
        "{{d_step}}\nif i % 2 == 0:\n    {{zd}}\n    real = real.requires_grad_()\n"
        "    (grad,) = torch.autograd.grad({{d}}(real).sum(), real, create_graph=True)\n"
        "    r1 = 5 * grad.pow(2).sum(1).mean()\n    r1.backward()\n    {{od}}.step()\n{{g_step}}",
        _D,
        _G,
    ),
    "weight clip": _order(_D_FIRST, _D + "for p in {{d}}.parameters():\n    p.data.clamp_(-0.01, 0.01)\n", _G),
    "mone": _order(
        _D_FIRST,
        """
        one, mone = torch.tensor(1.0), torch.tensor(-1.0)
        {{zd}}
        d_real = {{d}}(real).mean()
        d_real.backward(mone)
        d_fake = {{d}}({{g}}(z).detach()).mean()
        d_fake.backward(one)
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        g_fake = {{d}}({{g}}(z)).mean()
        g_fake.backward(torch.tensor(-1.0))
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "generator twice": _order("{{d_step}}\n{{g_step}}\n{{g_step}}", _D, _G),
    "skipped": _order("{{d_step}}\nif loss_d.item() > 100:\n    continue\n{{g_step}}", _D, _G),
    "cycle": _order(
        "{{g_step}}\n{{d_step}}",
        _D.replace("fake = {{g}}(z)", "fake = {{g}}(z) if i % 2 else pool(z)"),
        """
        {{zg}}
        fake = {{g}}(z)
        back = {{g}}(fake)
        loss_g = bce({{d}}(fake), 1.0) + 10.0 * (back - z).abs().mean()
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
        """
        def pool(images):
            return images.flip(0)
        """,
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
                "log": "torch.save([{{g}}.state_dict(), {{d}}.state_dict(), {{og}}.state_dict(), {{od}}.state_dict()], 'g.pt')"
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
