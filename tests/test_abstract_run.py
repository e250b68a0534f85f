"""What the abstract run promises of branches, loops and names: each in a program with a trap, and in one without."""

from __future__ import annotations

import pytest
from abstract import Twins, verify

twins = Twins()

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

RETRIED = """
def setup(model, pick):
    params = model.parameters()
    while True:
        try:
            params = {made}
        except TimeoutError:
            continue
        break
    print(sum(p.numel() for p in params))
    return Adam(params){mark}
"""
twins(
    "tried again until it succeeds",
    RETRIED.format(made="filter(pick(), params)", mark="  # GTR101"),
    RETRIED.format(made="list(filter(pick(), params))", mark=""),
)

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


@pytest.mark.parametrize("name", twins.traps)
def test_finds_the_trap(name: str) -> None:
    for finding in verify(twins.traps[name]):
        assert finding.trace


@pytest.mark.parametrize("name", twins.look_alikes)
def test_is_silent_on_the_look_alike(name: str) -> None:
    verify(twins.look_alikes[name])
