"""What the abstract run promises of classes, other statements and what it cannot see; with a trap, and without."""

from __future__ import annotations

import pytest
from abstract import Twins, verify

twins = Twins()

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


@pytest.mark.parametrize("name", twins.traps)
def test_finds_the_trap(name: str) -> None:
    for finding in verify(twins.traps[name]):
        assert finding.trace


@pytest.mark.parametrize("name", twins.look_alikes)
def test_is_silent_on_the_look_alike(name: str) -> None:
    verify(twins.look_alikes[name])
