"""Numbers of a real run: how they are computed, and how they are said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

WALK = 20_000
"""So many nodes of a graph are counted."""


def norm_of(tensors: Iterable[torch.Tensor | None]) -> float:
    """The norm of some tensors as if they were one."""
    with torch.no_grad():
        total = 0.0
        for tensor in tensors:
            if tensor is not None:
                values = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor
                total += float(torch.linalg.vector_norm(values.detach().float())) ** 2
    return math.sqrt(total) if total == total else total


def short(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def nodes_behind(node: Any) -> int:
    """How many nodes the graph behind one has, up to a limit; the nodes of leaves are counted, too."""
    found = {node}
    stack = [node]
    while stack and len(found) < WALK:
        for parent, _ in stack.pop().next_functions:
            if parent is not None and parent not in found:
                found.add(parent)
                stack.append(parent)
    return len(found)
