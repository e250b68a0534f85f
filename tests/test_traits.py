"""Traits: which functions start a run for a rule, by a look at their syntax. What may hold a trap has its trait."""

from __future__ import annotations

import ast
import textwrap

import pytest

from flake8_gradtrap.source import identifiers
from flake8_gradtrap.traits import KEEPS_ITERATOR, KEEPS_SEVERAL, REWRAPS, traits


def traits_of(text: str) -> frozenset[str]:
    text = textwrap.dedent(text)
    return traits(ast.parse(text).body, text, identifiers(text))


KEEPING = [
    "def f(m):\n    params = m.parameters()\n",
    "def f(m):\n    self.params = filter(lambda p: p.requires_grad, m.parameters())\n",
    "def f(m):\n    return m.named_parameters()\n",
    "def f(m):\n    clip(m.parameters(), 1.0)\n",
    "def f(m):\n    params = (p for p in m.parameters())\n",
    "def f(m):\n    show(p for p in m.parameters())\n",
    "def f(m):\n    for i, (a, b) in enumerate(zip(m.parameters(), n.parameters())):\n        pass\n",
    "def f(m):\n    if (params := m.parameters()) is not None:\n        pass\n",
    "def f(m):\n    batches = make_batches()\n    return sum(p.numel() for p in m.parameters())\n",
    "def f(self):\n    for batch in self.batches:\n        pass\n    return list(self.parameters())\n",
    "def f(m):\n    with opened() as rows:\n        return list(m.parameters())\n",
    "def f(m, parameters):\n    for p in parameters:\n        p.grad = None\n",
    "def f(m):\n    count = m.parameters\n    return count\n",
    "def f(m, late):\n    params = m.parameters() if late else []\n",
    "def f(m):\n    yield from m.parameters()\n",
]

USING_UP = [
    "def f(m):\n    return sum(p.numel() for p in m.parameters())\n",
    "def f(m):\n    for p in m.parameters():\n        p.requires_grad = False\n",
    "def f(m):\n    return {name for name, p in m.named_parameters() if p.dim() < 2}\n",
    "def f(a, b):\n    for p, q in zip(a.parameters(), b.parameters()):\n        q.data.copy_(p.data)\n",
    "def f(m):\n    device = next(m.parameters()).device\n    return device\n",
    "def f(m):\n    params = list(m.parameters())\n    return params\n",
    "def f(m):\n    total = 0\n    for p in m.parameters():\n        total = torch.add(total, p)\n    return total\n",
    "def f(m):\n    return len([p for p in m.parameters() if p.requires_grad])\n",
]


@pytest.mark.parametrize("text", KEEPING)
def test_an_iterator_that_may_be_used_again_is_seen(text: str) -> None:
    assert KEEPS_ITERATOR in traits_of(text)


@pytest.mark.parametrize("text", USING_UP)
def test_an_iterator_that_is_used_up_where_it_is_made_is_no_reason(text: str) -> None:
    assert KEEPS_ITERATOR not in traits_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    return torch.tensor(x)\n",
        "def f(x):\n    return torch.tensor([x, 1.0])\n",
        "def f(x):\n    return torch.tensor(data=[x])\n",
        "def f(x):\n    return torch.tensor(\n        # of both\n        [x, x])\n",
        "def f(x):\n    return torch.tensor(*x)\n",
        "def f(x):\n    return list(map(torch.tensor, x))\n",
        "def f(x):\n    from torch import tensor as t\n    return t(x)\n",
        "def f(x):\n    return list(map(tensor, x))\n",
        "def f(x):\n    return torch.from_numpy([x])\n",
        "def f(tensor):\n    return torch.Tensor([tensor])\n",
        "def f(x):\n    make = torch.cuda.FloatTensor\n    return make([x])\n",
    ],
)
def test_a_tensor_made_of_something_is_seen(text: str) -> None:
    assert REWRAPS in traits_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return torch.tensor([0.5, -1], device=device)\n",
        "def f():\n    return torch.tensor(1.0)\n",
        "def f(tensor):\n    return tensor.mean()\n",
        "def f(x):\n    tensor = x.mean()\n    tensor += 1\n    return tensor\n",
    ],
)
def test_constants_and_names_are_no_rewraps(text: str) -> None:
    assert REWRAPS not in traits_of(text)


@pytest.mark.parametrize(
    "body",
    [
        "self.blocks = []\nself.blocks.append(Block(1))\n",
        "self.blocks.append(Block(1))\n",
        "self.blocks = nn.ModuleList()\nself.blocks = []\nself.blocks.append(Block(1))\n",
        "self.other = nn.ModuleList()\nself.blocks.append(Block(1))\n",
        "owner.blocks = nn.ModuleList()\nself.blocks.append(Block(1))\n",
        "if plain:\n    self.blocks = []\nelse:\n    self.blocks = nn.ModuleList()\nself.blocks.append(Block(1))\n",
        "kept = [Block(1), Block(self.width)]\nreturn kept\n",
    ],
)
def test_parts_in_a_plain_container_are_seen(body: str) -> None:
    assert KEEPS_SEVERAL in traits_of("def __init__(self):\n" + textwrap.indent(body, "    "))


def test_parts_that_are_registered_and_what_a_forward_returns_are_not() -> None:
    registered = """\
        def __init__(self):
            self.blocks = nn.ModuleList()
            self.blocks.append(Block(1))
            self.heads = nn.ModuleDict()
            self.heads["a"] = Head(1)
    """
    forward = """\
        def forward_features(self, x):
            out = []
            place = self.make_place(x)
            return [out, place]
    """
    assert KEEPS_SEVERAL not in traits_of(registered)
    assert KEEPS_SEVERAL not in traits_of(forward)
