"""What the abstract run promises: each construct of Python in a program with a trap, and in a look-alike without one.

Where a finding is expected, its line ends with `# GTR101`; all other lines must stay silent.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import Result, check_source
from flake8_gradtrap.events import Clipped
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.rule import Watch, all_rules, on

PRELUDE = """\
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, SGD
"""


def run(text: str, path: str = "train.py") -> Result:
    return check_source(text, path, Settings())


def marks(text: str) -> set[tuple[int, str]]:
    return {
        (row, code)
        for row, line in enumerate(text.split("\n"), 1)
        for mark in re.findall(r"# (GTR\d{3}(?:, GTR\d{3})*)$", line)
        for code in mark.split(", ")
    }


def places(findings: tuple[Finding, ...]) -> set[tuple[int, str]]:
    return {(finding.span.row, finding.code) for finding in findings}


def verify(program: str) -> tuple[Finding, ...]:
    text = PRELUDE + textwrap.dedent(program)
    compile(text, "train.py", "exec")
    findings = run(text).findings
    assert places(findings) == marks(text), "\n".join(f"{f.span.row}: {f.code} {f.message}" for f in findings)
    return findings


TRAPS: dict[str, str] = {}
LOOK_ALIKES: dict[str, str] = {}


def twins(name: str, trap: str, look_alike: str) -> None:
    assert marks(trap), name
    assert not marks(look_alike), name
    TRAPS[name], LOOK_ALIKES[name] = trap, look_alike


# -- branches ---------------------------------------------------------------------------------------------------------

AMP = """
def train(model, loader, criterion, optimizer, scaler, amp, verbose):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if amp:
            scaler.scale(loss).backward()
        else:
            loss.backward()
        if {condition}:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0){mark}
        if amp:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""
twins("same condition", AMP.format(condition="verbose", mark="  # GTR301"), AMP.format(condition="amp", mark=""))

NOT = """
def train(model, loader, criterion, optimizer, scaler, amp):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if not amp:
            loss.backward()
        else:
            scaler.scale(loss).backward()
        if {condition}:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0){mark}
        if not amp:
            optimizer.step()
            continue
        scaler.step(optimizer)
        scaler.update()
"""
twins("not", NOT.format(condition="not amp", mark="  # GTR301"), NOT.format(condition="amp", mark=""))

NONE = """
def train(model, loader, criterion, optimizer, scaler=None):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
        if {condition}:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0){mark}
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""
twins(
    "is not None",
    NONE.format(condition="False", mark="  # GTR301"),
    NONE.format(condition="scaler is not None", mark=""),
)

AND = """
def train(model, loader, criterion, optimizer, scaler, amp, clip):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if amp:
            scaler.scale(loss).backward()
        else:
            loss.backward()
        if {condition}:
            scaler.unscale_(optimizer)
        if clip:
            clip_grad_norm_(model.parameters(), 1.0){mark}
        if amp:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""
twins("and", AND.format(condition="amp and not clip", mark="  # GTR301"), AND.format(condition="amp and clip", mark=""))
OR = """
def setup(model, frozen, quiet):
    params = model.parameters()
    if frozen or quiet:
        print(sum(p.numel() for p in params))
    if {condition}:
        return None
    return Adam(params){mark}
"""
twins("or", OR.format(condition="frozen", mark="  # GTR101"), OR.format(condition="quiet or frozen", mark=""))

ATTRIBUTE = """
def train(args, model, loader, criterion, optimizer, scaler):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        if args.amp:
            scaler.scale(loss).backward()
            {unscale}
        else:
            loss.backward()
        if args.clip > 0:
            clip_grad_norm_(model.parameters(), args.clip){mark}
        if args.amp:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""
twins(
    "flags of an object",
    ATTRIBUTE.format(unscale="pass", mark="  # GTR301"),
    ATTRIBUTE.format(unscale="scaler.unscale_(optimizer)", mark=""),
)

twins(
    "a name that changes between two tests",
    """
    def setup(model, last, choose):
        params = model.parameters()
        if last:
            optimizer = SGD(params, lr=0.1)
        last = choose(last)
        if not last:
            optimizer = Adam(params)  # GTR101
        return optimizer
    """,
    """
    def setup(model, last, choose):
        params = model.parameters()
        if last:
            optimizer = SGD(params, lr=0.1)
        choose(last)
        if not last:
            optimizer = Adam(params)
        return optimizer
    """,
)

twins(
    "exclusive branches",
    """
    def setup(model, name):
        params = model.parameters()
        if name == "adam":
            optimizer = Adam(params)
        elif name == "sgd":
            optimizer = SGD(params, lr=0.1)
        return optimizer, sum(p.numel() for p in params)  # GTR101
    """,
    """
    def setup(model, name):
        params = model.parameters()
        if name == "adam":
            optimizer = Adam(params)
        elif name == "sgd":
            optimizer = SGD(params, lr=0.1)
        else:
            raise ValueError(sum(p.numel() for p in params))
        return optimizer
    """,
)

twins(
    "early return",
    """
    def setup(model, frozen):
        params = model.parameters()
        if frozen:
            for p in params:
                p.requires_grad_(False)
        return Adam(params)  # GTR101
    """,
    """
    def setup(model, frozen):
        params = model.parameters()
        if frozen:
            for p in params:
                p.requires_grad_(False)
            return None
        return Adam(params)
    """,
)

twins(
    "raise",
    """
    def setup(model, limit):
        params = model.parameters()
        if limit is not None:
            print(sum(p.numel() for p in params))
        return Adam(params)  # GTR101
    """,
    """
    def setup(model, limit):
        params = model.parameters()
        if limit is not None:
            raise ValueError(sum(p.numel() for p in params))
        return Adam(params)
    """,
)

CONTINUE = """
def setup(models, skipped):
    optimizers = []
    for model in models:
        params = model.parameters()
        if model in skipped:
            for p in params:
                p.requires_grad_(False)
            {end}
        optimizers.append(Adam(params)){mark}
    return optimizers
"""
twins("continue", CONTINUE.format(end="print(model)", mark="  # GTR101"), CONTINUE.format(end="continue", mark=""))

BREAK = """
def setup(models):
    for model in models:
        params = model.parameters()
        if model.frozen:
            for p in params:
                p.requires_grad_(False)
            {end}
        optimizer = Adam(params){mark}
    return optimizer
"""
twins("break", BREAK.format(end="pass", mark="  # GTR101"), BREAK.format(end="break", mark=""))

twins(
    "conditional expression",
    """
    def setup(model, frozen, extra):
        params = extra if frozen else model.parameters()
        count = len(list(params))
        return Adam(params), count  # GTR101
    """,
    """
    def setup(model, frozen):
        params = model.parameters()
        return sum(p.numel() for p in params) if frozen else Adam(params)
    """,
)

twins(
    "match",
    """
    def setup(model, name):
        params = model.parameters()
        match name:
            case "adam":
                optimizer = Adam(params)
            case "sgd":
                optimizer = SGD(params, lr=0.1)
            case _:
                raise ValueError(name)
        clip_grad_norm_(params, 1.0)  # GTR101
        return optimizer
    """,
    """
    def setup(model, name):
        params = model.parameters()
        match name:
            case "adam":
                return Adam(params)
            case "sgd":
                return SGD(params, lr=0.1)
        return sum(p.numel() for p in params)
    """,
)

# -- loops ------------------------------------------------------------------------------------------------------------

LOOP = """
def train(model, loader, criterion, optimizer):
    {before}
    for x, y in loader:
        {inside}
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        clip_grad_norm_(params, 1.0){mark}
        optimizer.step()
"""
twins(
    "the second iteration",
    LOOP.format(before="params = model.parameters()", inside="pass", mark="  # GTR101"),
    LOOP.format(before="pass", inside="params = model.parameters()", mark=""),
)

WHILE = """
def train(model, batches, criterion, optimizer, steps):
    step = 0
    {before}
    while step < steps:
        loss = criterion(model(next(batches)), step)
        {inside}
        loss.backward(){mark}
        optimizer.step()
        step += 1
"""
twins(
    "while",
    WHILE.format(before="optimizer.zero_grad()", inside="pass", mark="  # GTR501"),
    WHILE.format(before="pass", inside="optimizer.zero_grad()", mark=""),
)

NESTED = """
def train(model, loader, criterion, optimizer, epochs):
    for epoch in range(epochs):
        total = 0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += {term}
        print(total / len(loader))
"""
twins("nested loops", NESTED.format(term="loss  # GTR401"), NESTED.format(term="loss.item()"))

GUARD = """
def train(model, loader, criterion, optimizer, k):
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / k
        loss.backward(){first}
        if (i + 1) % k == 0:
            optimizer.step()
            {clear}
"""
twins(
    "a guard by the index",
    GUARD.format(first="  # GTR501", clear="print(i)"),
    GUARD.format(first="", clear="optimizer.zero_grad()"),
)

twins(
    "a guard that does not cover what it should",
    """
    def train(model, loader, criterion, optimizer, k):
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y) / k
            loss.backward()
            optimizer.zero_grad()  # GTR502
            if (i + 1) % k == 0:
                optimizer.step()
    """,
    """
    def train(model, loader, criterion, optimizer, k):
        for i, (x, y) in enumerate(loader):
            if i % k == 0:
                optimizer.zero_grad()
            loss = criterion(model(x), y) / k
            loss.backward()
            if (i + 1) % k == 0:
                optimizer.step()
    """,
)

twins(
    "loop else",
    """
    def setup(model, names):
        params = model.parameters()
        for name in names:
            if name == "frozen":
                break
        else:
            print(sum(p.numel() for p in params))
        return Adam(params)  # GTR101
    """,
    """
    def setup(model, names):
        params = model.parameters()
        for name in names:
            if name == "frozen":
                break
        else:
            return sum(p.numel() for p in params)
        return Adam(params)
    """,
)

# -- names ------------------------------------------------------------------------------------------------------------

twins(
    "aliasing",
    """
    def setup(model):
        params = model.parameters()
        trained = params
        optimizer = Adam(trained)
        clip_grad_norm_(params, 1.0)  # GTR101
        return optimizer
    """,
    """
    def setup(model):
        params = model.parameters()
        trained = list(params)
        optimizer = Adam(trained)
        clip_grad_norm_(trained, 1.0)
        return optimizer
    """,
)

twins(
    "unpacking",
    """
    def setup(actor, critic):
        ours, theirs = actor.parameters(), critic.parameters()
        first = Adam(ours)
        second = Adam(ours)  # GTR101
        return first, second, theirs
    """,
    """
    def setup(actor, critic):
        ours, theirs = actor.parameters(), critic.parameters()
        first = Adam(ours)
        second = Adam(theirs)
        return first, second
    """,
)

twins(
    "swapping",
    """
    def setup(actor, critic):
        ours, theirs = actor.parameters(), critic.parameters()
        first = Adam(ours)
        ours, theirs = theirs, ours
        return first, Adam(theirs)  # GTR101
    """,
    """
    def setup(actor, critic):
        ours, theirs = actor.parameters(), critic.parameters()
        first = Adam(ours)
        ours, theirs = theirs, ours
        return first, Adam(ours)
    """,
)

twins(
    "rebinding",
    """
    def setup(model):
        params = model.parameters()
        optimizer = Adam(params)
        kept = params
        params = model.parameters()
        clip_grad_norm_(kept, 1.0)  # GTR101
        clip_grad_norm_(params, 1.0)
        return optimizer
    """,
    """
    def setup(model):
        params = model.parameters()
        optimizer = Adam(params)
        params = model.parameters()
        clip_grad_norm_(params, 1.0)
        return optimizer
    """,
)

twins(
    "walrus",
    """
    def setup(model):
        optimizer = Adam(params := model.parameters())
        clip_grad_norm_(params, 1.0)  # GTR101
        return optimizer
    """,
    """
    def setup(model):
        optimizer = Adam(params := list(model.parameters()))
        clip_grad_norm_(params, 1.0)
        return optimizer
    """,
)

twins(
    "del and a new one",
    """
    def setup(model):
        params = model.parameters()
        other = params
        optimizer = Adam(params)
        del params
        clip_grad_norm_(other, 1.0)  # GTR101
        return optimizer
    """,
    """
    def setup(model):
        params = model.parameters()
        optimizer = Adam(params)
        del params
        params = model.parameters()
        clip_grad_norm_(params, 1.0)
        return optimizer
    """,
)

twins(
    "a dict holds it",
    """
    def setup(model):
        parts = {"trained": model.parameters()}
        optimizer = Adam(parts["trained"])
        clip_grad_norm_(parts["trained"], 1.0)  # GTR101
        return optimizer
    """,
    """
    def setup(model):
        parts = {"trained": model.parameters(), "clipped": model.parameters()}
        optimizer = Adam(parts["trained"])
        clip_grad_norm_(parts["clipped"], 1.0)
        return optimizer
    """,
)

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

# -- classes ----------------------------------------------------------------------------------------------------------

CLASS = """
class Trainer:
    def __init__(self, model, criterion):
        self.model = model
        self.criterion = criterion
        self.params = {params}
        self.optimizer = Adam(self.params)

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(x), y)
        loss.backward()
        clip_grad_norm_(self.params, 1.0){mark}
        self.optimizer.step()
        return loss.item()
"""
twins(
    "__init__, then a method",
    CLASS.format(params="model.parameters()", mark="  # GTR101"),
    CLASS.format(params="list(model.parameters())", mark=""),
)

AGAIN = """
class Clipper:
    def __init__(self, model):
        self.model = model
        {kept}

    def step(self):
        params = {params}
        clip_grad_norm_(params, 1.0){mark}
"""
twins(
    "a method is called again",
    AGAIN.format(kept="self.params = model.parameters()", params="self.params", mark="  # GTR101"),
    AGAIN.format(kept="pass", params="self.model.parameters()", mark=""),
)

BASE = """
class Base:
    def __init__(self, model):
        self.model = model
        self.params = self.trainable()
        self.optimizer = Adam(self.params)

    def trainable(self):
        return self.model.parameters()

    def clip(self):
        raise NotImplementedError


class Norm(Base):
    def __init__(self, model, limit):
        super().__init__(model)
        self.limit = limit
{override}
    def clip(self):
        clip_grad_norm_(self.params, self.limit){mark}
"""
twins(
    "inheritance",
    BASE.format(override="", mark="  # GTR101"),
    BASE.format(
        override="\n    def trainable(self):\n        return [p for p in self.model.parameters() if p.requires_grad]\n",
        mark="",
    ),
)

PROPERTY = """
class Agent:
    def __init__(self, actor):
        self.actor = actor
        self.kept = actor.parameters()
        self.optimizer = Adam(self.params)
        clip_grad_norm_(self.params, 1.0){mark}

    @property
    def params(self):
        return {params}
"""
twins(
    "property",
    PROPERTY.format(params="self.kept", mark="  # GTR101"),
    PROPERTY.format(params="self.actor.parameters()", mark=""),
)

FORWARD = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.layer(x) {operation}


def train(loader, criterion):
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
"""
twins(
    "forward",
    FORWARD.format(operation="* self.scale.item()  # GTR201"),
    FORWARD.format(operation="* self.scale"),
)

# -- other statements -------------------------------------------------------------------------------------------------

WITH = """
def train(model, teacher_head, loader, criterion):
    head = nn.Linear(8, 8)
    optimizer = SGD([*model.parameters(), *head.parameters()], lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        features = model(x)
        with {context}:
            term = (head(features) - y).pow(2).mean()
        loss = criterion(features, y) + term{mark}
        loss.backward()
        optimizer.step()
"""
twins(
    "with",
    WITH.format(context="torch.no_grad()", mark="  # GTR203"),
    WITH.format(context='torch.autocast("cuda")', mark=""),
)

ENDS = """
def train(model, loader, criterion, optimizer):
    total = 0
    for x, y in loader:
        with torch.no_grad():
            features = model(x)
            {inside}
        loss = criterion(model(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        {outside}
    print(total)
"""
twins(
    "a with block ends",
    ENDS.format(inside="pass", outside="total += loss  # GTR401"),
    ENDS.format(inside="total += criterion(features, y)", outside="pass"),
)

RETURN_INSIDE = """
def features(model, x):
    with torch.no_grad():
        return model(x)


def train(model, loader, criterion, optimizer):
    total = 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(features(model, x)), y)
        loss.backward()
        optimizer.step()
        total += {term}
    print(total)
"""
twins(
    "a with block that is left by return ends, too",
    RETURN_INSIDE.format(term="loss  # GTR401"),
    RETURN_INSIDE.format(term="criterion(features(model, x), y)"),
)

twins(
    "try, except",
    """
    def setup(model, path):
        params = model.parameters()
        try:
            count = sum(p.numel() for p in params)
            print(open(path).read(), count)
        except OSError:
            print("no such file")
        return Adam(params)  # GTR101
    """,
    """
    def setup(model, path):
        params = model.parameters()
        try:
            return Adam(params)
        except ValueError:
            return None
    """,
)

twins(
    "finally",
    """
    def setup(model):
        params = model.parameters()
        try:
            return Adam(params)
        finally:
            print(sum(p.numel() for p in params))  # GTR101
    """,
    """
    def setup(model):
        params = model.parameters()
        try:
            return Adam(params)
        finally:
            print(sum(p.numel() for p in model.parameters()))
    """,
)

twins(
    "assert and module level",
    """
    model = nn.Linear(4, 4)
    params = model.parameters()
    assert len(list(params)) == 2
    optimizer = Adam(params)  # GTR101
    """,
    """
    model = nn.Linear(4, 4)
    params = model.parameters()
    assert params is not None
    optimizer = Adam(params)
    """,
)

# -- unknown is innocent ----------------------------------------------------------------------------------------------

twins(
    "unknown is innocent: an iterator",
    """
    from elsewhere import prepare


    def setup(model):
        params = model.parameters()
        optimizer = Adam(params)
        params = prepare(model.parameters())
        first = model.parameters()
        clip_grad_norm_(params, 1.0)
        list(first)
        clip_grad_norm_(first, 1.0)  # GTR101
        return optimizer
    """,
    """
    from elsewhere import parameters_of


    def setup(model):
        params = parameters_of(model)
        optimizer = Adam(params)
        clip_grad_norm_(params, 1.0)
        return optimizer
    """,
)

UNSEEN = """
from elsewhere import report


def train(model, loader, criterion, optimizer):
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward(){mark}
        optimizer.step()
        report({what})
"""
twins(
    "unknown is innocent: an optimizer that code out of sight has in its hands",
    UNSEEN.format(what="loss.item()", mark="  # GTR501"),
    UNSEEN.format(what="optimizer", mark=""),
)

twins(
    "unknown is innocent: a loss from out of sight",
    """
    def train(model, loader, criterion, optimizer):
        for x, y in loader:
            optimizer.zero_grad()
            first = criterion(model(x), y)
            second = model(x).pow(2).mean()
            loss = first + second.item()  # GTR201
            loss.backward()
            optimizer.step()
    """,
    """
    from elsewhere import weight


    def train(model, loader, criterion, optimizer):
        for x, y in loader:
            optimizer.zero_grad()
            first = criterion(model(x), y)
            loss = first + float(weight(x))
            loss.backward()
            optimizer.step()
    """,
)


@pytest.mark.parametrize("name", TRAPS)
def test_finds_the_trap(name: str) -> None:
    for finding in verify(TRAPS[name]):
        assert finding.trace


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_is_silent_on_the_look_alike(name: str) -> None:
    verify(LOOK_ALIKES[name])


# -- bounds -----------------------------------------------------------------------------------------------------------


def labyrinth(loops: int, branches: int) -> str:
    """A function of nested loops full of branches, each of which leaves something else behind."""
    lines = ["def labyrinth(model, loader, criterion, optimizer, flags):", "    kept = {}"]
    for depth in range(loops):
        lines.append("    " * (depth + 1) + f"for i{depth} in loader:")
        for number in range(branches):
            indent, flag = "    " * (depth + 2), depth * branches + number
            lines += [
                f"{indent}if flags[{flag}](i{depth}):",
                f"{indent}    p{flag} = model.parameters()",
                f"{indent}    kept[{flag}] = p{flag}",
                f"{indent}else:",
                f"{indent}    optimizer.zero_grad()",
                f"{indent}    for p in kept[{max(flag - 1, 0)}]:",
                f"{indent}        p.grad = None",
                f"{indent}    criterion(model(i{depth}), {flag}).backward()",
                f"{indent}    optimizer.step()",
            ]
    return "\n".join([*lines, "    return kept", "", ""])


AFTER = """
def setup(model):
    params = model.parameters()
    optimizer = Adam(params)
    clip_grad_norm_(params, 1.0)  # GTR101
    return optimizer
"""


def machine_of(text: str) -> Any:
    from flake8_gradtrap.interp.machine import Machine
    from flake8_gradtrap.interp.project import Module, Project
    from flake8_gradtrap.source import SourceFile

    rules = [rule for rule in all_rules().values() if any(True for _ in rule.handlers())]
    words = frozenset(word for rule in rules for word in rule.words)
    return Machine(Module(SourceFile("train.py", text), Project(read=False)), rules, words)


def test_a_function_over_its_budget_is_left_alone_and_counted() -> None:
    text = PRELUDE + labyrinth(3, 100) + AFTER
    result = run(text)
    assert result.statistics.functions_over_budget >= 1
    assert result.statistics.functions_over_budget < result.statistics.functions_run
    assert places(result.findings) >= marks(text), "the functions after it are still run"


def test_a_long_chain_without_gradients_in_a_loss() -> None:
    chain = "\n".join(
        f"            weight = (weight * 0.5 + weight.roll({number})).clamp(0, 1)" for number in range(150)
    )
    text = f"""
import torch


def train(model, teacher, loader, optimizer):
    for x, y in loader:
        loss = torch.nn.functional.mse_loss(model(x), y)
        with torch.no_grad():
            weight = teacher(x)
{chain}
        loss = loss + weight.mean()
        loss.backward()
        optimizer.step()
"""
    result = run(text)
    assert result.statistics.functions_over_budget == 0
    assert "GTR501" in {finding.code for finding in result.findings}


def test_what_waits_in_a_run_that_is_given_up_is_never_told() -> None:
    first, *rest = labyrinth(3, 100).split("\n")
    suspect = """\
    for x, y in loader:
        optimizer.zero_grad()
        clip_grad_norm_(model.parameters(), 1.0)
        criterion(model(x), y).backward()
        optimizer.step()"""
    told = run("\n".join([PRELUDE, first, suspect, "    return optimizer", AFTER])).findings
    assert "GTR302" in {finding.code for finding in told}
    result = run("\n".join([PRELUDE, first, suspect, *rest, AFTER]))
    assert result.statistics.functions_over_budget >= 1
    assert {finding.code for finding in result.findings} == {"GTR101"}


def test_no_run_takes_more_steps_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.core import Core

    machine = machine_of(PRELUDE + labyrinth(3, 100))
    most = 0
    tick = Core.tick

    def count(self: Core, *arguments: Any) -> None:
        nonlocal most
        tick(self, *arguments)
        most = max(most, self.steps)

    monkeypatch.setattr(Core, "tick", count)
    machine.run()
    assert machine.tally.over_budget
    assert machine.budget // 2 < most <= machine.budget


@pytest.mark.parametrize(
    "program",
    [
        "def f(model, flags):\n    params = model.parameters()\n"
        + "".join(f"    if flags[{n}]:\n        x{n} = {n}\n" for n in range(300))
        + "    return Adam(params)\n",
        "def f(model):\n    params = model.parameters()\n    return Adam(params)" + ".x(1)" * 150 + "\n",
        "def f(model):\n    params = model.parameters()\n" + "".join(f"    a{n} = params\n" for n in range(2000)),
        "def f(model, n):\n    return f(model, f(model, f(list(model.parameters()), n)))\n",
        "".join(f"def f{n}(model):\n    f{n + 1}(model)\n    f{n + 1}(model)\n\n\n" for n in range(40))
        + "def f40(model):\n    return list(model.parameters())\n",
        "def f(model):\n    params = model.parameters()\n"
        + "".join("    " * (n + 1) + "for p in params:\n" for n in range(15))
        + "    " * 16
        + "p.grad = None\n",
        "class A(B):\n    pass\n\n\nclass B(A):\n    def step(self, model):\n        return list(model.parameters())\n",
    ],
    ids=["many branches", "long chain", "many names", "recursion", "doubling calls", "deep loops", "circular bases"],
)
def test_hard_programs_end(program: str) -> None:
    result = run(PRELUDE + program)
    assert all(finding.code != "GTR000" for finding in result.findings)
    assert result.statistics.functions_run >= 1


@pytest.mark.parametrize(
    ("program", "deepest"),
    [
        ("def first(params):\n    first(params)\n    return list(params)\n", 3),
        (
            "def first(params):\n    return second(params)\n\n\ndef second(params):\n    return list(first(params))\n",
            4,
        ),
        ("".join(f"def f{n}(params):\n    return f{n + 1}(params)\n\n\n" for n in range(40)), 7),
    ],
    ids=["itself", "each other", "a long chain"],
)
def test_calls_are_entered_to_a_certain_depth(program: str, deepest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    seen = []
    enter = Machine.enter

    def count(self: Machine, func: Any, args: Any, node: Any, st: Any) -> Any:
        seen.append(len(st.frames))
        return enter(self, func, args, node, st)

    monkeypatch.setattr(Machine, "enter", count)
    name = program.partition("(")[0].removeprefix("def ")
    machine = machine_of(
        PRELUDE + program + "def f40(params):\n    return list(params)\n\n\n"
        f"def go(model):\n    {name}(model.parameters())\n    return Adam(model.parameters())\n"
    )
    machine.run()
    assert 2 < max(seen) <= deepest
    assert not machine.tally.over_budget


def test_a_property_runs_once_on_each_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    ran: list[str] = []
    activate = Machine._activate_all

    def count(self: Machine, func: Any, entries: Any, node: Any) -> Any:
        ran.extend([func.node.name] * len(entries))
        return activate(self, func, entries, node)

    monkeypatch.setattr(Machine, "_activate_all", count)
    program = """
class Trainer:
    def __init__(self, model, wrapped):
        self.model = model
        self.wrapped = wrapped

    @property
    def clear(self):
        return self.plain if self.wrapped else self.guarded

    def plain(self):
        pass

    def guarded(self):
        pass

def fit(model, wrapped, first):
    trainer = Trainer(model, wrapped)
    optimizer = Adam(model.parameters())
    if first:
        optimizer.zero_grad()
    trainer.clear()
    model(1).sum().backward()
    optimizer.step()
"""
    machine_of(PRELUDE + program).run()
    assert ran.count("clear") == 2


# -- errors of ours ---------------------------------------------------------------------------------------------------

BOTH = """
def train(model, loader, criterion, optimizer, scaler):
    params = model.parameters()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        print(sum(p.numel() for p in params))  # GTR101
"""


def test_an_error_in_a_rule_is_one_finding_that_names_it_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    @on(Clipped)
    def clip(self: object, event: Clipped, watch: Watch) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(all_rules()["GTR301"], "clip", clip)
    text = PRELUDE + BOTH
    failures = [finding for finding in run(text).findings if finding.code == "GTR000"]
    assert len(failures) == 1
    assert "GTR301" in failures[0].message
    assert "it broke" in failures[0].message
    assert failures[0].span.row == text.split("\n").index("        clip_grad_norm_(model.parameters(), 1.0)") + 1
    assert places(run(text).findings) - {(failures[0].span.row, "GTR000")} == marks(text)


@pytest.mark.parametrize("where", ["__init__", "_function"])
def test_an_error_in_the_abstract_run_is_one_finding(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    def fail(self: object, *arguments: object) -> None:
        raise KeyError("an assumption")

    monkeypatch.setattr(Machine, where, fail)
    (finding,) = run(PRELUDE + BOTH).findings
    assert finding.code == "GTR000"
    assert "internal error in test_abstract_run.py" in finding.message
    assert "an assumption" in finding.message


def test_what_was_found_before_an_error_in_the_abstract_run_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from flake8_gradtrap.interp.machine import Machine

    function = Machine._function

    def fail_late(self: Machine, *arguments: object) -> None:
        if self.reports:
            raise KeyError("an assumption")
        function(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Machine, "_function", fail_late)
    alone = {finding.code for finding in run(PRELUDE + BOTH).findings}
    both = run(PRELUDE + BOTH + BOTH.replace("train", "again")).findings
    assert alone
    assert {finding.code for finding in both} == alone | {"GTR000"}


# -- several files ----------------------------------------------------------------------------------------------------

HELPER = """\
from torch.optim import Adam


def make_optimizer(parameters, lr):
    return Adam(parameters, lr=lr)


def clip(parameters, limit):
    total = sum(p.grad.norm() ** 2 for p in parameters) ** 0.5
    for p in parameters:
        p.grad.mul_(limit / total)


def by_itself(model):
    params = model.parameters()
    count = sum(p.numel() for p in params)
    return Adam(params), count
"""

MAIN = """\
from torch import nn

from helper import by_itself, clip, make_optimizer


def train(model, loader, criterion):
    optimizer, _ = by_itself(model)
    params = filter(lambda p: p.requires_grad, model.parameters())
    other = make_optimizer(params, 0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        clip(model.parameters(), 1.0)  # GTR101
        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101
        optimizer.step()
    return other
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "train.py").write_text(MAIN)
    return tmp_path


def check(path: Path) -> tuple[Finding, ...]:
    return run(path.read_text(), str(path)).findings


def test_a_trap_in_a_helper_is_told_at_the_call(project: Path) -> None:
    findings = check(project / "train.py")
    assert places(findings) == marks(MAIN)
    first, second = findings
    assert {step.filename for step in first.trace} == {str(project / "train.py"), str(project / "helper.py")}
    assert "helper" not in second.message
    assert all(finding.filename == str(project / "train.py") for finding in findings)


def test_what_a_helper_does_all_by_itself_is_told_where_it_stands(project: Path) -> None:
    rows = HELPER.split("\n")
    alone = rows.index("    return Adam(params), count") + 1
    definition = rows.index("    for p in parameters:") + 1
    assert places(check(project / "helper.py")) == {(alone, "GTR101"), (definition, "GTR103")}


def test_no_trap_is_told_twice(project: Path) -> None:
    told = [(f.filename, f.span.row, f.code) for name in ("train.py", "helper.py") for f in check(project / name)]
    assert len(told) == len(set(told)) == 4


def test_a_call_of_a_helper_in_a_loop_is_one_finding(project: Path) -> None:
    step = "        optimizer.step()\n"
    text = MAIN.replace(step, f"        clip(model.parameters(), 2.0)  # GTR101\n{step}")
    (project / "train.py").write_text(text)
    assert places(check(project / "train.py")) == marks(text)
    assert len(check(project / "train.py")) == len(marks(text))


def test_a_helper_that_makes_a_list_is_silent_in_both_files(project: Path) -> None:
    listed = HELPER.replace("limit):\n", "limit):\n    parameters = list(parameters)\n")
    (project / "helper.py").write_text(listed)
    assert {finding.code for finding in check(project / "helper.py")} == {"GTR101"}  # what it does by itself
    rows = [finding.span.row for finding in check(project / "train.py")]
    assert rows == [MAIN.split("\n").index("        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101") + 1]


def test_a_helper_that_cannot_be_read_is_unknown(project: Path) -> None:
    (project / "helper.py").write_bytes(b"def clip(:\n")
    clip = MAIN.split("\n").index("        nn.utils.clip_grad_norm_(params, 1.0)  # GTR101") + 1
    (finding,) = check(project / "train.py")
    assert (finding.span.row, finding.code) == (clip, "GTR101")
    assert "from the second time on" in finding.message  # whatever `make_optimizer` does, the first step uses it up


def test_a_text_without_a_place_reads_no_other_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "train.py").unlink()
    clip_call = MAIN.split("\n").index("        clip(model.parameters(), 1.0)  # GTR101") + 1
    assert (clip_call, "GTR101") not in places(run(MAIN, "stdin").findings)


def test_imports_in_a_circle_end(project: Path) -> None:
    (project / "helper.py").write_text("from train import train\n" + HELPER)
    assert places(check(project / "train.py")) == marks(MAIN)
