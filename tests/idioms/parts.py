"""Dimensions that several families share: how settings are kept, how a network is written, how batches come."""

from __future__ import annotations

from collections.abc import Mapping

from idioms.grammar import Way

Dimension = Mapping[str, Way]

VALUES = {
    "lr": "0.1",
    "k": "2",
    "max_norm": "1.0",
    "amp": "True",
    "epochs": "2",
    "kind": "'sgd'",
    "decay": "0.01",
    "warmup": "2",
}


def _settings(config: str, access: str) -> Way:
    return {"config": config, **{name: access.format(name) for name in VALUES}}


_EQUATIONS = ", ".join(f"{name}={value}" for name, value in VALUES.items())
_PAIRS = ", ".join(f"'{name}': {value}" for name, value in VALUES.items())
_FIELDS = "\n".join(f"    {name}: {type(eval(value)).__name__} = {value}" for name, value in VALUES.items())
_ARGUMENTS = "\n".join(
    f"parser.add_argument('--{name}', type={type(eval(value)).__name__}, default={value})"
    for name, value in VALUES.items()
)

SETTINGS: Dimension = {
    "literal": {"config": "", **VALUES},
    "constants": _settings("\n".join(f"{name.upper()} = {value}" for name, value in VALUES.items()), "{}")
    | {name: name.upper() for name in VALUES},
    "arguments": _settings(
        f"import argparse\n\nparser = argparse.ArgumentParser()\n{_ARGUMENTS}\nargs, _ = parser.parse_known_args([])",
        "args.{}",
    ),
    "arguments of a function": _settings(
        "import argparse\n\n\ndef parse_args():\n    parser = argparse.ArgumentParser()\n"
        + "".join(f"    {line}\n" for line in _ARGUMENTS.splitlines())
        + "    args, _ = parser.parse_known_args([])\n    return args\n\n\nargs = parse_args()",
        "args.{}",
    ),
    "dataclass": _settings(
        f"from dataclasses import dataclass\n\n\n@dataclass\nclass Config:\n{_FIELDS}\n\n\ncfg = Config()", "cfg.{}"
    ),
    "dict": _settings(f"config = {{{_PAIRS}}}", "config['{}']"),
    "get of a dict": _settings(f"config = {{{_PAIRS}}}", "config.get('{}')"),
    "json": _settings(
        'import json\n\nconfig = json.loads(\'{"train": {'
        + ", ".join(f'"{n}": {str(v).replace(chr(39), chr(34)).lower()}' for n, v in VALUES.items())
        + "}}')['train']",
        "config['{}']",
    ),
    "namespace": _settings(
        f"from types import SimpleNamespace\n\nconf = SimpleNamespace(train=SimpleNamespace({_EQUATIONS}))",
        "conf.train.{}",
    ),
    "class": _settings("class Config:\n" + "\n".join(f"    {n} = {v}" for n, v in VALUES.items()), "Config.{}"),
    "elsewhere": _settings(
        f"# elsewhere: cfg\nfrom types import SimpleNamespace\n\ncfg = SimpleNamespace({_EQUATIONS})\n# here", "cfg.{}"
    ),
    "getattr": _settings(
        f"from types import SimpleNamespace\n\nopts = SimpleNamespace({_EQUATIONS})", "getattr(opts, '{}', None)"
    ),
}

NETWORKS: Dimension = {
    "linear": {"network": "", "net": "nn.Linear(8, 1)"},
    "sequential": {"network": "", "net": "nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))"},
    "class": {
        "network": """
        class Net(nn.Module):
            def __init__(self, width=4):
                super().__init__()
                self.body = nn.Linear(8, width)
                self.head = nn.Linear(width, 1)

            def forward(self, x):
                return self.head(torch.relu(self.body(x)))
        """,
        "net": "Net()",
    },
    "to device": {
        "network": "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "net": "nn.Linear(8, 1).to(device)",
    },
    "factory": {
        "network": """
        def build_model(name='small'):
            if name == 'small':
                model = nn.Linear(8, 1)
            elif name == 'large':
                model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 1))
            else:
                raise ValueError(name)
            return model
        """,
        "net": "build_model()",
    },
    "registry": {
        "network": """
        MODELS = {}


        def register(name):
            def wrap(cls):
                MODELS[name] = cls
                return cls

            return wrap


        @register('tiny')
        class Tiny(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(8, 1)

            def forward(self, x):
                return self.fc(x)
        """,
        "net": "MODELS['tiny']()",
    },
    "class method": {
        "network": """
        class Net(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(8, width), nn.Linear(width, 1)])

            @classmethod
            def from_config(cls, config):
                return cls(**config)

            def forward(self, x):
                for layer in self.layers:
                    x = layer(x)
                return x
        """,
        "net": "Net.from_config({'width': 4})",
    },
    "pretrained": {
        "network": """
        def load_model():
            model = nn.Sequential(nn.Linear(8, 4), nn.Tanh())
            for param in model.parameters():
                param.requires_grad = False
            model.append(nn.Linear(4, 1))
            return model
        """,
        "net": "load_model()",
    },
    "with losses": {
        "network": """
        class Detector(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = nn.Linear(8, 4)
                self.head = nn.Linear(4, 1)
                for m in self.modules():
                    if isinstance(m, nn.Linear):
                        nn.init.xavier_uniform_(m.weight)
                        nn.init.zeros_(m.bias)

            def extract(self, x):
                return torch.relu(self.backbone(x))

            def forward(self, x):
                return self.head(self.extract(x))
        """,
        "net": "Detector()",
    },
    "elsewhere": {
        "network": """
        # elsewhere: create_model
        def create_model(name, **kwargs):
            return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1))
        # here
        """,
        "net": "create_model('vit', drop_path=0.1)",
    },
    "class elsewhere": {
        "network": """
        # elsewhere: Backbone
        class Backbone(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc = nn.Linear(8, width)

            def forward(self, x):
                return self.fc(x)
        # here


        class Net(Backbone):
            def __init__(self):
                super().__init__(4)
                self.head = nn.Linear(4, 1)

            def forward(self, x):
                return self.head(super().forward(x))
        """,
        "net": "Net()",
    },
    "data parallel": {"network": "", "net": "nn.DataParallel(nn.Linear(8, 1))"},
    "getattr": {
        "network": """
        import sys


        class Small(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(8, 1)

            def forward(self, x):
                return self.fc(x)
        """,
        "net": "getattr(sys.modules[__name__], 'Small')() if hasattr(sys.modules[__name__], 'Small') else Small()",
    },
}

BATCHES: Dimension = {
    "for": {"loader": "", "batches": "for x, y in loader:", "take": ""},
    "enumerate": {"loader": "", "batches": "for i, (x, y) in enumerate(loader):", "take": ""},
    "from one": {"loader": "", "batches": "for i, batch in enumerate(loader, 1):", "take": "x, y = batch"},
    "progress": {
        "loader": """
        def tqdm(iterable, **kwargs):
            yield from iterable
        """,
        "batches": "for batch in tqdm(loader, desc='train'):",
        "take": "x, y = batch[0], batch[1]",
    },
    "data loader": {
        "loader": """
        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(torch.randn(12, 8), torch.randn(12, 1)), batch_size=4, shuffle=True)
        """,
        "batches": "for step, (x, y) in enumerate(loader):",
        "take": "x = x.to('cpu', non_blocking=True)\ny = y.to('cpu', non_blocking=True)",
    },
    "dicts": {
        "loader": "batches = [{'x': a, 'y': b} for a, b in loader]",
        "batches": "for batch in batches:",
        "take": "batch = {k: v.to('cpu') for k, v in batch.items()}\nx, y = batch['x'], batch['y']",
    },
    "permutation": {
        "loader": "inputs, targets = torch.randn(12, 8), torch.randn(12, 1)",
        "batches": "for idx in torch.randperm(12).split(4):",
        "take": "x, y = inputs[idx], targets[idx]",
    },
    "slices": {
        "loader": "inputs, targets = torch.randn(12, 8), torch.randn(12, 1)",
        "batches": "for start in range(0, len(inputs), 4):",
        "take": "x = inputs[start:start + 4]\ny = targets[start:start + 4]",
    },
    "get_batch": {
        "loader": """
        def get_batch(split):
            return torch.randn(4, 8), torch.randn(4, 1)
        """,
        "batches": "for it in range(3):",
        "take": "x, y = get_batch('train')",
    },
    "skips": {"loader": "", "batches": "for x, y in loader:", "take": "if x is None or len(x) == 0:\n    continue"},
    "stops early": {
        "loader": "max_steps = 5\nseen = 0",
        "batches": "for i, (x, y) in enumerate(loader):",
        "take": "if max_steps is not None and i >= max_steps:\n    break",
    },
    "own iterator": {
        "loader": """
        class Prefetcher:
            def __init__(self, loader):
                self.it = iter(loader)

            def next(self):
                try:
                    return next(self.it)
                except StopIteration:
                    return None, None
        """,
        "batches": "prefetcher = Prefetcher(loader)\nx, y = prefetcher.next()\nwhile x is not None:",
        "take": "",
        "advance": "x, y = prefetcher.next()",
    },
    "restarted": {
        "loader": "",
        "batches": "data_iter = iter(loader)\nfor step in range(4):",
        "take": "try:\n    x, y = next(data_iter)\nexcept StopIteration:\n"
        "    data_iter = iter(loader)\n    x, y = next(data_iter)",
    },
    "cycle": {
        "loader": """
        def cycle(dl):
            while True:
                for data in dl:
                    yield data
        """,
        "batches": "stream = cycle(loader)\nfor step in range(4):",
        "take": "x, y = next(stream)",
    },
    "endless": {
        "loader": "import itertools",
        "batches": "stream = itertools.cycle(loader)\nglobal_step = 0\nwhile True:",
        "take": "x, y = next(stream)\nglobal_step += 1\nif global_step > 4:\n    break",
    },
    "zip": {
        "loader": "unlabelled = [torch.randn(4, 8) for _ in range(3)]",
        "batches": "for (x, y), u in zip(loader, unlabelled):",
        "take": "x = x + 0.1 * u",
    },
}
BATCHES = {name: {"advance": ""} | dict(way) for name, way in BATCHES.items()}
