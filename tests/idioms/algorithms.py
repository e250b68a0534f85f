"""Whole algorithms, each with the networks and optimizers that it needs, in every place where a loop may stand."""

from __future__ import annotations

import re

from idioms import algorithms_agents, algorithms_others, algorithms_pairs
from idioms.grammar import Family
from idioms.parts import SETTINGS


def _way(setup: str, body: str, define: str = "", end: str = "") -> dict[str, str]:
    """What the setup makes lives where the loop finds it: `{{s}}` stands before its names, but in keywords."""
    made = {
        name
        for names in re.findall(r"^([\w, ]+?) =", setup, re.MULTILINE)
        for name in re.split(r"[ ,]+", names)
        if name
    }
    for name in made:
        setup, body, end = (re.sub(rf"(?<![\w.]){name}\b(?!=)", "{{s}}" + name, text) for text in (setup, body, end))
    return {"setup": setup, "body": body, "define": define, "end": end}


HOMES = {
    "script": {"s": "", "program": "{{setup}}\n{{loop}}"},
    "main": {"s": "", "program": "def main():\n    {{setup}}\n    {{loop}}\n\n\nmain()"},
    "trainer": {
        "s": "self.",
        "program": """
        class Trainer:
            def __init__(self):
                {{setup}}

            def train(self, loader):
                {{loop}}


        Trainer().train(loader)
        """,
    },
    "agent": {
        "s": "self.",
        "program": """
        class Agent:
            def __init__(self):
                {{setup}}

            def learn(self, x, y, i, epoch):
                for _ in range(1):
                    {{body}}
                {{log}}

            def finish(self, epoch):
                {{end}}
                return epoch


        agent = Agent()
        for epoch in range({{epochs}}):
            for i, (x, y) in enumerate(loader):
                agent.learn(x, y, i, epoch)
            agent.finish(epoch)
        """,
    },
    "called elsewhere": {
        "s": "self.",
        "program": """
        class Agent:
            def __init__(self):
                {{setup}}

            def learn(self, loader):
                {{loop}}


        # elsewhere:
        Agent().learn(loader)
        # here
        """,
    },
    "set up": {
        "s": "self.",
        "program": """
        class Runner:
            def __init__(self, loader):
                self.loader = loader
                self.build()

            def build(self):
                {{setup}}

            def run(self):
                for epoch in range({{epochs}}):
                    self.run_epoch(epoch)

            def run_epoch(self, epoch):
                for i, (x, y) in enumerate(self.loader):
                    {{body}}
                    {{log}}
                {{end}}


        Runner(loader).run()
        """,
    },
    "module": {
        "s": "self.",
        "program": """
        class Learner(nn.Module):
            def __init__(self):
                super().__init__()
                {{setup}}

            def fit(self, loader):
                {{loop}}


        learner = Learner()
        learner.fit(loader)
        """,
    },
}
_LOOP = """
for epoch in range({{epochs}}):
    for i, (x, y) in enumerate(loader):
        {{body}}
        {{log}}
    {{end}}
"""

_ALGORITHMS = Family(
    "algorithms",
    """
    import copy
    import itertools

    import torch
    import torch.nn.functional as F
    from torch import nn

    {{config}}


    def mlp(n, m, hidden=8):
        return nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, m))


    {{define}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]

    {{program}}
    """,
    {
        "algorithm": {
            name: _way(*texts)
            for part in (algorithms_others, algorithms_agents, algorithms_pairs)
            for name, texts in part.ALGORITHMS.items()
        },
        "home": {name: way | {"loop": _LOOP} for name, way in HOMES.items()},
        "settings": SETTINGS,
        "log": {
            "none": {"log": ""},
            "print": {"log": "print(epoch, i)"},
            "now and then": {"log": "if i % 10 == 0:\n    print('step', i)"},
        },
    },
)

FAMILIES = (_ALGORITHMS,)
