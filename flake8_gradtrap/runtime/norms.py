"""Norms of gradients and parameters, without making the host wait for the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def dense(gradient: Tensor) -> Tensor:
    """The stored values of a gradient: a sparse one (an embedding's) is coalesced first, as its step would."""
    if gradient.layout is torch.strided:
        return gradient
    if gradient.layout is torch.sparse_coo:
        return gradient.coalesce().values()
    return gradient.values()


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each tensor: shape (len(tensors),), float32, on the device of the first."""
    if not tensors:
        return torch.zeros(0)
    device = tensors[0].device
    by_place: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        by_place.setdefault((tensor.device, tensor.dtype), []).append(place)
    if len(by_place) == 1:
        return torch.stack(torch._foreach_norm(list(tensors))).float()
    found: list[Tensor | None] = [None] * len(tensors)
    for places in by_place.values():
        for place, norm in zip(places, torch._foreach_norm([tensors[place] for place in places]), strict=True):
            found[place] = norm.float().to(device, non_blocking=True)
    return torch.stack([norm for norm in found if norm is not None])


class Mailbox:
    """Numbers on their way from a device to the host.

    `send` copies without blocking; `deliver` hands over what has arrived, in the order it was sent. On the CPU all has
    arrived at once.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, Callable[[list[float]], None]]] = deque()

    def send(self, values: Tensor, receive: Callable[[list[float]], None]) -> None:
        """`values`: shape (n,). `receive` is called with them as floats, once they are here."""
        if values.device.type != "cuda":
            self._waiting.append((values, None, receive))
        else:
            here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            here.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(values.device))
            self._waiting.append((here, arrived, receive))

    def deliver(self, wait: bool = False) -> None:
        while self._waiting:
            values, arrived, receive = self._waiting[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    return
                arrived.synchronize()
            self._waiting.popleft()
            receive(values.tolist())


def total(values: Iterable[float]) -> float:
    """The norm of a whole from the norms of its parts."""
    return math.sqrt(sum(value * value for value in values))
