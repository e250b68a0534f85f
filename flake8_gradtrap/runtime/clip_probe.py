"""Seeing torch's own clips from the outside, by the functions that they all go through."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

TOTAL = "_get_total_norm"
"""What `clip_grad_norm_` calls before: it is told which norm is meant."""

INNER = "_clip_grads_with_norm_"
"""What `clip_grad_norm_` calls inside since torch 2.6: also seen where a program imported the outer name before."""


class Listener(Protocol):
    def clipped(self, parameters: list[Tensor], max_norm: float, norm: Tensor | None) -> None:
        """`norm`: what the clip measured, before it clipped; None where it cannot be seen."""
        ...


_listeners: weakref.WeakSet[Any] = weakref.WeakSet()
_originals: list[tuple[Any, str, Any]] = []
_order: list[float] = []
"""Of which order the norm is that is being clipped by."""


def complete() -> bool:
    """Whether every call of `clip_grad_norm_` is seen, else only those by attribute (`nn.utils.clip_grad_norm_`)."""
    return hasattr(clip_grad, INNER)


def euclidean() -> bool:
    """Whether the norm that a clip has just measured is known to be the 2-norm."""
    return _order == [2.0]


def listen(listener: Listener) -> None:
    _listeners.add(listener)
    if not _originals:
        _install()


def leave(listener: Listener) -> None:
    """The last one to leave takes the probes away."""
    _listeners.discard(listener)
    if not _listeners:
        while _originals:
            owner, name, original = _originals.pop()
            setattr(owner, name, original)


def _install() -> None:
    if complete():
        _wrap(clip_grad, INNER, _inner)
        if hasattr(clip_grad, TOTAL):
            _wrap(clip_grad, TOTAL, _total)
    else:
        for owner in (clip_grad, torch.nn.utils):
            _wrap(owner, "clip_grad_norm_", _outer)


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    _originals.append((owner, name, original))
    setattr(owner, name, make(original))


def _inner(original: Any) -> Any:
    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, total_norm: Tensor, *rest: Any, **more: Any) -> Any:
        given = _listed(parameters)
        for listener in list(_listeners):
            listener.clipped(given, float(max_norm), total_norm)
        _order.clear()
        return original(given, max_norm, total_norm, *rest, **more)

    return clip


def _total(original: Any) -> Any:
    @functools.wraps(original)
    def total(tensors: Any, norm_type: float = 2.0, *rest: Any, **more: Any) -> Any:
        _order[:] = [float(norm_type)]
        return original(tensors, norm_type, *rest, **more)

    return total


def _outer(original: Any) -> Any:
    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, *rest: Any, **more: Any) -> Any:
        given = _listed(parameters)
        norm = original(given, max_norm, *rest, **more)
        for listener in list(_listeners):
            listener.clipped(given, float(max_norm), norm)
        return norm

    return clip


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)
