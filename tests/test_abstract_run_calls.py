"""What the abstract run promises of calls: functions, generators, decorators, closures; with a trap, and without."""

from __future__ import annotations

import pytest
from abstract import Twins, verify

twins = Twins()

# -- calls ------------------------------------------------------------------------------------------------------------

CLIP = """
def norm_of(parameters):
    {top}
    total = sum(p.grad.norm() ** 2 for p in parameters) ** 0.5
    for p in parameters:{definition}
        p.grad.mul_(1.0 / total)


def train(model, loader, criterion, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        norm_of({argument}){call}
        optimizer.step()
"""
twins(
    "a call is entered with its argument",
    CLIP.format(top="pass", argument="model.parameters()", definition="  # GTR103", call="  # GTR101"),
    CLIP.format(top="pass", argument="list(model.parameters())", definition="", call=""),
)
twins(
    "a callee that makes a list",
    CLIP.format(top="print(parameters)", argument="model.parameters()", definition="  # GTR103", call="  # GTR101"),
    CLIP.format(top="parameters = list(parameters)", argument="model.parameters()", definition="", call=""),
)

DEEP = """
def count(things):
    return sum(thing.numel() for thing in things)


def describe(model, things):
    print(type(model).__name__, count(things))


def setup(model):
    params = {params}
    describe(model, params)
    return Adam(params){mark}
"""
twins(
    "calls in calls",
    DEEP.format(params="model.parameters()", mark="  # GTR101"),
    DEEP.format(params="[*model.parameters()]", mark=""),
)

RETURNS = """
def trainable(model):
    return {what}


def setup(model):
    params = trainable(model)
    optimizer = Adam(params)
    clip_grad_norm_(params, 1.0){mark}
    return optimizer
"""
twins(
    "what a call returns",
    RETURNS.format(what="filter(lambda p: p.requires_grad, model.parameters())", mark="  # GTR101"),
    RETURNS.format(what="[p for p in model.parameters() if p.requires_grad]", mark=""),
)

GENERATOR = """
def trainable(model):
    for p in model.parameters():
        if p.requires_grad:
            yield p


def setup(model):
    params = trainable(model)
    optimizer = Adam(params)
    clip_grad_norm_({again}, 1.0){mark}
    return optimizer
"""
twins(
    "a generator function",
    GENERATOR.format(again="params", mark="  # GTR101"),
    GENERATOR.format(again="trainable(model)", mark=""),
)

KEYWORDS = """
def setup(*, model, trained, limit):
    optimizer = Adam(trained)
    print(type(model), limit)
    return optimizer


def main(model):
    params = model.parameters()
    optimizer = setup(model=model, limit=1.0, trained={trained})
    clip_grad_norm_(params, 1.0){mark}
    return optimizer
"""
twins(
    "keyword arguments",
    KEYWORDS.format(trained="params", mark="  # GTR101"),
    KEYWORDS.format(trained="model.parameters()", mark=""),
)

twins(
    "a star argument uses up an iterator",
    """
    def setup(model):
        params = model.parameters()
        stacked = torch.cat([*params])
        return Adam(params), stacked  # GTR101
    """,
    """
    def setup(model):
        params = [*model.parameters()]
        stacked = torch.cat([*params])
        return Adam(params), stacked
    """,
)

SPREAD = """
def setup(model, trained):
    print(type(model))
    return Adam(trained)


def main(model):
    params = {params}
    both = (model, params)
    named = {{"trained": params, "model": model}}
    return setup(*both), setup(**named){mark}
"""
twins(
    "arguments through star and double star",
    SPREAD.format(params="model.parameters()", mark="  # GTR101"),
    SPREAD.format(params="list(model.parameters())", mark=""),
)

twins(
    "recursion ends",
    """
    def freeze(module, params, depth):
        for p in params:
            p.requires_grad_(False)
        if depth:
            freeze(module, module.parameters(), depth - 1)


    def main(model):
        params = model.parameters()
        freeze(model, params, 3)
        return Adam(params)  # GTR101
    """,
    """
    def freeze(module, depth):
        for p in module.parameters():
            p.requires_grad_(False)
        if depth:
            freeze(module, depth - 1)


    def main(model):
        freeze(model, 3)
        return Adam(model.parameters())
    """,
)

# -- functions in functions -------------------------------------------------------------------------------------------

twins(
    "closure",
    """
    def setup(model):
        params = model.parameters()

        def freeze():
            for p in params:  # GTR101
                p.requires_grad_(False)

        optimizer = Adam(params)
        freeze()
        return optimizer
    """,
    """
    def setup(model):
        def freeze():
            for p in model.parameters():
                p.requires_grad_(False)

        optimizer = Adam(model.parameters())
        freeze()
        return optimizer
    """,
)

twins(
    "nonlocal",
    """
    def train(model, loader, criterion, optimizer):
        total = 0

        def step(x, y):
            nonlocal total
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss  # GTR401

        for x, y in loader:
            step(x, y)
        print(total)
    """,
    """
    def train(model, loader, criterion, optimizer):
        total = 0

        def step(x, y):
            nonlocal total
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()

        for x, y in loader:
            step(x, y)
        print(total)
    """,
)

twins(
    "lambda",
    """
    def setup(model):
        params = model.parameters()
        count = lambda: sum(p.numel() for p in params)  # GTR101
        optimizer = Adam(params)
        print(count())
        return optimizer
    """,
    """
    def setup(model):
        params = lambda: model.parameters()
        optimizer = Adam(params())
        clip_grad_norm_(params(), 1.0)
        return optimizer
    """,
)

twins(
    "comprehension",
    """
    def setup(model):
        params = model.named_parameters()
        decayed = [p for name, p in params if name.endswith("weight")]
        plain = [p for name, p in params if name.endswith("bias")]  # GTR101
        return SGD([{"params": decayed, "weight_decay": 0.1}, {"params": plain}], lr=0.1)
    """,
    """
    def setup(model):
        params = dict(model.named_parameters())
        decayed = [p for name, p in params.items() if name.endswith("weight")]
        plain = [p for name, p in params.items() if name.endswith("bias")]
        return SGD([{"params": decayed, "weight_decay": 0.1}, {"params": plain}], lr=0.1)
    """,
)

twins(
    "a comprehension keeps its names to itself",
    """
    def setup(models):
        params = models[0].parameters()
        groups = [list(params) for model in models]  # GTR101
        return Adam(groups[0])
    """,
    """
    def setup(models):
        params = models[0].parameters()
        groups = [list(params) for params in [model.parameters() for model in models]]
        return Adam(params), groups
    """,
)

DECORATED = """
class Runner:
    def __init__(self, model, criterion):
        self.model = model
        self.criterion = criterion

    {decorator}
    def validate(self, loader):
        total = 0.0
        for x, y in loader:
            total += self.criterion(self.model(x), y){mark}
        return float(total) / len(loader)

    def fit(self, loader, optimizer):
        for x, y in loader:
            optimizer.zero_grad()
            self.criterion(self.model(x), y).backward()
            optimizer.step()
        return self.validate(loader)
"""
twins(
    "decorator",
    DECORATED.format(decorator="@torch.enable_grad()", mark="  # GTR401"),
    DECORATED.format(decorator="@torch.no_grad()", mark=""),
)


@pytest.mark.parametrize("name", twins.traps)
def test_finds_the_trap(name: str) -> None:
    for finding in verify(twins.traps[name]):
        assert finding.trace


@pytest.mark.parametrize("name", twins.look_alikes)
def test_is_silent_on_the_look_alike(name: str) -> None:
    verify(twins.look_alikes[name])
