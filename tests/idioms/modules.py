"""How modules hold their parts: containers, Parameters, buffers, parts that are hidden, shared, made late."""

from __future__ import annotations

from idioms.grammar import Family


def _layers(made: str, run: str, helpers: str = "") -> dict[str, str]:
    return {"layers": made, "run": run, "layer_helpers": helpers}


_RUN = "for layer in self.layers:\n    x = torch.relu(layer(x))"
_LAYERS = {
    "sequential": _layers(
        "self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1))", "x = self.layers(x)"
    ),
    "list then sequential": _layers(
        "layers = []\nfor _ in range(depth):\n    layers.append(nn.Linear(8, 8))\n    layers.append(nn.ReLU())\n"
        "self.layers = nn.Sequential(*layers)",
        "x = self.layers(x)",
    ),
    "attribute rebound": _layers(
        "self.layers = []\nfor _ in range(depth):\n    self.layers += [nn.Linear(8, 8)]\n"
        "self.layers = nn.Sequential(*self.layers)",
        "x = self.layers(x)",
    ),
    "module list": _layers("self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(depth)])", _RUN),
    "module list of a generator": _layers("self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))", _RUN),
    "module list of a list": _layers(
        "layers = [nn.Linear(8, 8) for _ in range(depth)]\nself.layers = nn.ModuleList(layers)", _RUN
    ),
    "module list appended": _layers(
        "self.layers = nn.ModuleList()\nfor i in range(depth):\n    self.layers.append(nn.Linear(8, 8))", _RUN
    ),
    "list made a module list": _layers(
        "self.layers = [nn.Linear(8, 8)]\nfor _ in range(depth - 1):\n    self.layers.append(nn.Linear(8, 8))\n"
        "self.layers = nn.ModuleList(self.layers)",
        _RUN,
    ),
    "list kept beside": _layers(
        "blocks = [nn.Linear(8, 8) for _ in range(depth)]\nself.order = blocks\nself.blocks = nn.ModuleList(blocks)",
        "for layer in self.order:\n    x = torch.relu(layer(x))",
    ),
    "add_module": _layers(
        "self.layers = []\nfor i in range(depth):\n    layer = nn.Linear(8, 8)\n"
        "    self.add_module(f'layer{i}', layer)\n"
        "    self.layers.append(layer)",
        _RUN,
    ),
    "register_module": _layers(
        "for i in range(depth):\n    self.register_module('layer_%d' % i, nn.Linear(8, 8))\nself.depth = depth",
        "for i in range(self.depth):\n    x = torch.relu(getattr(self, 'layer_%d' % i)(x))",
    ),
    "setattr": _layers(
        "self.names = []\nfor i in range(depth):\n    name = f'block{i}'\n    setattr(self, name, nn.Linear(8, 8))\n"
        "    self.names.append(name)",
        "for name in self.names:\n    x = torch.relu(getattr(self, name)(x))",
    ),
    "setattr and a list": _layers(
        "self.layers = []\nfor i in range(depth):\n    layer = nn.Linear(8, 8)\n"
        "    setattr(self, 'layer' + str(i), layer)\n"
        "    self.layers.append(layer)",
        _RUN,
    ),
    "setattr over a list": _layers(
        "self.layers = [nn.Linear(8, 8) for _ in range(depth)]\nfor i, layer in enumerate(self.layers):\n"
        "    setattr(self, 'layer_%i' % i, layer)",
        _RUN,
    ),
    "list of attributes": _layers(
        "self.one = nn.Linear(8, 8)\nself.two = nn.Linear(8, 8)\nself.layers = [self.one, self.two]", _RUN
    ),
    "tuple of attributes": _layers(
        "self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)\nself.both = (self.one, self.two)",
        "for layer in self.both:\n    x = layer(x)",
    ),
    "dict of attributes": _layers(
        "self.one = nn.Linear(8, 8)\nself.two = nn.Linear(8, 8)\nself.table = {'one': self.one, 'two': self.two}",
        "for name in self.table:\n    x = self.table[name](x)",
    ),
    "module dict": _layers(
        "self.parts = nn.ModuleDict({'one': nn.Linear(8, 8), 'act': nn.Tanh()})",
        "for name, part in self.parts.items():\n    x = part(x)",
    ),
    "module dict of a dict": _layers(
        "parts = {}\nfor i in range(depth):\n    parts[str(i)] = nn.Linear(8, 8)\nself.parts = nn.ModuleDict(parts)",
        "for part in self.parts.values():\n    x = part(x)",
    ),
    "module dict filled": _layers(
        "self.parts = nn.ModuleDict()\nfor i in range(depth):\n    self.parts[str(i)] = nn.Linear(8, 8)\n"
        "self.parts.update({'last': nn.Identity()})",
        "for part in self.parts.values():\n    x = part(x)",
    ),
    "ordered dict": _layers(
        "self.layers = nn.Sequential(OrderedDict([('fc', nn.Linear(8, 8)), ('act', nn.ReLU())]))", "x = self.layers(x)"
    ),
    "nested": _layers(
        "self.stages = nn.ModuleList([nn.ModuleList([nn.Linear(8, 8) for _ in range(2)]) for _ in range(depth)])",
        "for stage in self.stages:\n    for layer in stage:\n        x = x + layer(x)",
    ),
    "lists in a list": _layers(
        "stages = []\nfor _ in range(depth):\n    stages.append(nn.Sequential(*[nn.Linear(8, 8), nn.ReLU()]))\n"
        "self.stages = nn.ModuleList(stages)",
        "for stage in self.stages:\n    x = stage(x)",
    ),
    "factory": _layers(
        "self.layers = self._make(depth)",
        "x = self.layers(x)",
    ),
    "helper": _layers(
        "self.layers = mlp([8] * (depth + 1))",
        "x = self.layers(x)",
        "def mlp(sizes):\n    layers = []\n    for a, b in zip(sizes[:-1], sizes[1:]):\n"
        "        layers.extend([nn.Linear(a, b), nn.ReLU()])\n    return nn.Sequential(*layers)",
    ),
    "helper returns a list": _layers(
        "self.layers = nn.Sequential(*block(8), nn.Linear(8, 8), *block(8))",
        "x = self.layers(x)",
        "def block(width):\n    return [nn.Linear(width, width), nn.ReLU()]",
    ),
    "clones": _layers(
        "self.layers = clones(nn.Linear(8, 8), depth)",
        _RUN,
        "def clones(module, n):\n    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])",
    ),
    "subclass of sequential": _layers(
        "self.layers = Block(8)",
        "x = self.layers(x)",
        "class Block(nn.Sequential):\n    def __init__(self, width):\n"
        "        super().__init__(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())",
    ),
    "list extended by others": _layers(
        "self.layers = nn.ModuleList([nn.Linear(8, 8)])\nself.layers.extend([nn.Linear(8, 8) for _ in range(depth)])",
        _RUN,
    ),
    "functions in a list": _layers(
        "self.fc = nn.Linear(8, 8)\nself.steps = [torch.relu, self.fc, lambda t: t * 0.5]",
        "for step in self.steps:\n    x = step(x)",
    ),
    "classes in a dict": _layers(
        "self.kinds = {'linear': nn.Linear, 'bilinear': nn.Bilinear}\nself.fc = self.kinds['linear'](8, 8)",
        "x = self.fc(x)",
    ),
    "settings in a list": _layers(
        "self.sizes = [8] * depth\nself.layers = nn.ModuleList()\nfor size in self.sizes:\n"
        "    self.layers.append(nn.Linear(8, size))",
        _RUN,
    ),
    "chosen activation": _layers(
        "self.act = {'relu': nn.ReLU(), 'tanh': nn.Tanh()}['relu']\nself.fc = nn.Linear(8, 8)",
        "x = self.act(self.fc(x))",
    ),
    "activations in a dict": _layers(
        "self.acts = {'relu': nn.ReLU(), 'tanh': nn.Tanh()}\nself.fc = nn.Linear(8, 8)",
        "x = self.acts['relu'](self.fc(x))",
    ),
    "shared": _layers("shared = nn.Linear(8, 8)\nself.layers = nn.ModuleList([shared for _ in range(depth)])", _RUN),
    "made late": _layers(
        "self.fc = None",
        "if self.fc is None:\n    self.fc = nn.Linear(x.size(1), 8)\nx = self.fc(x)",
    ),
    "lazy": _layers("self.fc = nn.LazyLinear(8)", "x = self.fc(x)"),
    "unpacked": _layers(
        "layers = [nn.Linear(8, 8), nn.ReLU()]\nlayers = [*layers, nn.Linear(8, 8)]\n"
        "self.layers = nn.Sequential(*layers)",
        "x = self.layers(x)",
    ),
    "iterated attribute": _layers(
        "self.one = nn.Linear(8, 8)\nself.two = nn.Linear(8, 8)\nfor layer in [self.one, self.two]:\n"
        "    nn.init.xavier_uniform_(layer.weight)",
        "x = self.two(torch.relu(self.one(x)))",
    ),
    "base class": _layers(
        "self.fc = nn.Linear(8, 8)\nself.names = ['fc', 'head']",
        "for name in self.names[:1]:\n    x = self._modules[name](x)",
    ),
}

_HELD = {
    "nothing": {"held": "", "use": ""},
    "parameter": {"held": "self.scale = nn.Parameter(torch.ones(1))", "use": "x = x * self.scale"},
    "parameter of data": {"held": "self.w = nn.Parameter(torch.randn(8, 8) * 0.02)", "use": "x = x @ self.w"},
    "parameter then init": {
        "held": "self.w = nn.Parameter(torch.empty(8, 8))\nnn.init.xavier_normal_(self.w)",
        "use": "x = F.linear(x, self.w)",
    },
    "parameter then data": {
        "held": "self.w = nn.Parameter(torch.Tensor(8, 8))\nself.w.data.uniform_(-0.1, 0.1)",
        "use": "x = x.mm(self.w)",
    },
    "reset_parameters": {
        "held": "self.bias = nn.Parameter(torch.zeros(8))\nself.reset_parameters()",
        "use": "x = x + self.bias",
    },
    "register_parameter": {
        "held": "self.register_parameter('g', nn.Parameter(torch.ones(8)))\nself.register_parameter('bias', None)",
        "use": "x = x * self.g",
    },
    "parameter list": {
        "held": "self.scales = nn.ParameterList([nn.Parameter(torch.ones(8)) for _ in range(2)])",
        "use": "for s in self.scales:\n    x = x * s",
    },
    "parameter dict": {
        "held": "self.scales = nn.ParameterDict({'a': nn.Parameter(torch.ones(8))})",
        "use": "x = x * self.scales['a']",
    },
    "list made a parameter list": {
        "held": "self.ws = []\nfor _ in range(2):\n    self.ws.append(nn.Parameter(torch.ones(8)))\n"
        "self.ws = nn.ParameterList(self.ws)",
        "use": "x = x * self.ws[0]",
    },
    "moved before": {
        "held": "self.w = nn.Parameter(torch.ones(8).to('cpu').float())",
        "use": "x = x * self.w",
    },
    "without gradient": {
        "held": "self.pos = nn.Parameter(torch.zeros(8), requires_grad=False)",
        "use": "x = x + self.pos",
    },
    "buffer": {
        "held": "self.register_buffer('mean', torch.zeros(8))",
        "use": "x = x - self.mean",
    },
    "running buffer": {
        "held": "self.register_buffer('mean', torch.zeros(8))",
        "use": "if self.training:\n    with torch.no_grad():\n        self.mean.mul_(0.9).add_(0.1 * x.mean(0))\n"
        "x = x - self.mean",
    },
    "running buffer detached": {
        "held": "self.register_buffer('mean', torch.zeros(8))",
        "use": "if self.training:\n    self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()\nx = x - self.mean",
    },
    "running buffer copied": {
        "held": "self.register_buffer('mean', torch.zeros(8))",
        "use": "if self.training:\n    self.mean.copy_(0.9 * self.mean + 0.1 * x.detach().mean(0))\nx = x - self.mean",
    },
    "plain tensor": {"held": "self.grid = torch.linspace(0, 1, 8)", "use": "x = x + self.grid.to(x.device)"},
    "tensor in a list": {
        "held": "self.anchors = [torch.zeros(8), torch.ones(8)]",
        "use": "x = x + self.anchors[0].to(x)",
    },
    "weight computed": {
        "held": "self.v = nn.Parameter(torch.randn(8, 8))\nself.g = nn.Parameter(torch.ones(8, 1))",
        "use": "w = self.g * self.v / self.v.norm(dim=1, keepdim=True)\nx = F.linear(x, w)",
    },
    "weight masked": {
        "held": "self.inner = nn.Linear(8, 8)\nself.register_buffer('mask', torch.ones(8, 8).tril())",
        "use": "x = F.linear(x, self.inner.weight * self.mask, self.inner.bias)",
    },
    "weight by another": {
        "held": "self.hyper = nn.Linear(8, 64)",
        "use": "w = self.hyper(x.mean(0)).view(8, 8)\nx = F.linear(x, w)",
    },
    "low rank": {
        "held": "self.base = nn.Linear(8, 8)\nself.base.weight.requires_grad = False\n"
        "self.a = nn.Parameter(torch.randn(2, 8) * 0.01)\nself.b = nn.Parameter(torch.zeros(8, 2))",
        "use": "x = self.base(x) + x @ self.a.t() @ self.b.t()",
    },
    "temperature": {
        "held": "self.log_t = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))",
        "use": "x = x * self.log_t.exp().clamp(max=100)",
    },
    "spectral": {
        "held": "self.sn = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))",
        "use": "x = self.sn(x)",
    },
    "hidden teacher": {
        "held": "teacher = nn.Linear(8, 8).eval()\nfor p in teacher.parameters():\n    p.requires_grad = False\n"
        "self.hidden = [teacher]",
        "use": "with torch.no_grad():\n    goal = self.hidden[0](x)\nx = x + 0 * goal",
    },
    "hidden frozen": {
        "held": "self.hidden = (nn.Linear(8, 8).requires_grad_(False),)",
        "use": "x = x + 0 * self.hidden[0](x).detach()",
    },
    "frozen features": {
        "held": "self.features = nn.Linear(8, 8)\nself.features.eval()\nfor p in self.features.parameters():\n"
        "    p.requires_grad_(False)",
        "use": "with torch.no_grad():\n    h = self.features(x)\nx = x + h",
    },
    "kept activations": {
        "held": "self.seen = []",
        "use": "self.seen = []\nfor _ in range(2):\n    self.seen.append(x)\nx = torch.stack(self.seen).mean(0)",
    },
    "attention kept": {
        "held": "self.weights = None",
        "use": "self.weights = x.softmax(-1).detach()\nx = x * self.weights",
    },
    "loss kept": {
        "held": "self.penalty = torch.zeros(())",
        "use": "self.penalty = x.pow(2).mean()",
    },
    "property": {"held": "self.log_scale = nn.Parameter(torch.zeros(8))", "use": "x = x * self.scale_of"},
    "parameters collected": {
        "held": "self.w1 = nn.Parameter(torch.ones(8))\nself.w2 = nn.Parameter(torch.ones(8))\n"
        "self.weights = [self.w1, self.w2]",
        "use": "for w in self.weights:\n    x = x * w",
    },
    "own parameters": {
        "held": "self.groups = [p for p in self.parameters() if p.requires_grad]",
        "use": "",
    },
}

_AFTER = {
    "nothing": {"after": ""},
    "apply": {"after": "model.apply(lambda m: nn.init.zeros_(m.bias) if isinstance(m, nn.Linear) else None)"},
    "modules": {
        "after": "for m in model.modules():\n    if isinstance(m, nn.Linear):\n"
        "        nn.init.normal_(m.weight, 0, 0.02)\n        if m.bias is not None:\n            m.bias.data.zero_()"
    },
    "parameters": {"after": "for p in model.parameters():\n    if p.dim() > 1:\n        nn.init.xavier_uniform_(p)"},
    "moved": {"after": "model = model.to('cpu').float()"},
    "tied": {"after": "model.out = nn.Linear(8, 4, bias=False)\nmodel.out.weight = model.head.weight"},
    "head replaced": {"after": "model.head = nn.Linear(8, 4)"},
    "loaded": {"after": "model.load_state_dict(copy.deepcopy(model.state_dict()), strict=False)"},
    "frozen": {"after": "for name, p in model.named_parameters():\n    p.requires_grad = 'bias' not in name"},
    "counted": {"after": "print(sum(p.numel() for p in model.parameters() if p.requires_grad))"},
    "hooked": {"after": "model.head.register_forward_hook(lambda module, args, out: print(out.shape))"},
}

_UPDATE = {
    "step": {"averages": "", "update": "optimizer.step()"},
    "average": {
        "averages": "average = copy.deepcopy(model).eval()\nfor p in average.parameters():\n"
        "    p.requires_grad_(False)",
        "update": "optimizer.step()\nwith torch.no_grad():\n"
        "    for a, p in zip(average.parameters(), model.parameters()):\n"
        "        a.mul_(0.99).add_(p.detach(), alpha=0.01)",
    },
    "shadow": {
        "averages": "shadow = {n: p.data.clone() for n, p in model.named_parameters() if p.requires_grad}",
        "update": "optimizer.step()\nfor n, p in model.named_parameters():\n    if p.requires_grad:\n"
        "        shadow[n] = 0.99 * shadow[n] + 0.01 * p.data",
    },
    "shadow in place": {
        "averages": "shadow = [p.clone().detach() for p in model.parameters()]",
        "update": "optimizer.step()\nwith torch.no_grad():\n    for s, p in zip(shadow, model.parameters()):\n"
        "        s.sub_(0.01 * (s - p))",
    },
    "clipped weights": {
        "averages": "",
        "update": "optimizer.step()\nwith torch.no_grad():\n    for p in model.parameters():\n        p.clamp_(-1, 1)",
    },
    "projected": {
        "averages": "",
        "update": "optimizer.step()\nwith torch.no_grad():\n    w = model.head.weight\n"
        "    w.div_(w.norm(dim=1, keepdim=True).clamp(min=1))",
    },
    "class of averages": {
        "averages": "average = Average(model, 0.99)",
        "update": "optimizer.step()\naverage.update(model)",
    },
}

_MODULES = Family(
    "modules",
    """
    import copy
    import math
    from collections import OrderedDict

    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    {{layer_helpers}}


    class Average:
        def __init__(self, model, decay):
            self.module, self.decay = copy.deepcopy(model), decay
            self.module.eval()

        @torch.no_grad()
        def update(self, model):
            for mine, theirs in zip(self.module.state_dict().values(), model.state_dict().values()):
                if mine.dtype.is_floating_point:
                    mine.copy_(self.decay * mine + (1 - self.decay) * theirs)


    class Net(nn.Module):
        def __init__(self, depth=2):
            super().__init__()
            {{layers}}
            {{held}}
            self.head = nn.Linear(8, 4)

        def reset_parameters(self):
            stdv = 1.0 / math.sqrt(self.bias.size(0))
            self.bias.data.uniform_(-stdv, stdv)

        @property
        def scale_of(self):
            return self.log_scale.exp()

        @staticmethod
        def _make(depth):
            layers = [nn.Linear(8, 8)]
            for _ in range(1, depth):
                layers.append(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
            return nn.Sequential(*layers)

        def forward(self, x):
            {{run}}
            {{use}}
            return self.head(x)


    def main():
        model = Net()
        model(torch.randn(6, 8))
        {{after}}
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        {{averages}}
        for epoch in range(2):
            model.train()
            x, y = torch.randn(6, 8), torch.randint(0, 4, (6,))
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            {{update}}
            print(loss.item())


    main()
    """,
    {"layers": _LAYERS, "held": _HELD, "after": _AFTER, "update": _UPDATE},
    {
        "plain list": (
            "GTR701",
            {"layers": "self.layers = [nn.Linear(8, 8) for _ in range(depth)]", "run": _RUN},
        ),
        "plain dict": (
            "GTR701",
            {
                "layers": "self.parts = {'a': nn.Linear(8, 8)}",
                "run": "for part in self.parts.values():\n    x = part(x)",
            },
        ),
        "moved parameter": (
            "GTR702",
            {"held": "self.scale = nn.Parameter(torch.ones(1)).to('cuda')", "use": "x = x * self.scale"},
        ),
        "scaled parameter": (
            "GTR702",
            {"held": "self.scale = nn.Parameter(torch.ones(8)) * 0.1", "use": "x = x * self.scale"},
        ),
        "replaced later": ("GTR703", {"averages": "model.head = nn.Linear(8, 4)"}),
        "read out": (
            "GTR201",
            {"held": "self.scale = nn.Parameter(torch.ones(1))", "use": "x = x * self.scale.item()"},
        ),
    },
)

FAMILIES = (_MODULES,)
