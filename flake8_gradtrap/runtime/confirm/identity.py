"""Names for the objects of a real run. None of them holds the object: tensors die when the program lets them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch


class Key:
    """The identity of an object of the run, for as long as anybody wants to speak of it."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return f"<{self.what} {id(self):x}>"


class Mark:
    """Hangs in the metadata of a node of autograd's graph, and dies with it.

    `terms`: parts of its value that left the graph, each with a number. `scaler`: the gradient scaler that made it.
    """

    __slots__ = ("__weakref__", "key", "scaler", "terms")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.terms: tuple[Any, ...] = ()
        self.scaler: Hashable = None


class Identities:
    """Gives each object its key; objects are told apart by identity, and forgotten when they die."""

    def __init__(self, fired: Callable[[Key], None]) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], Key]] = {}
        self._fired = fired
        self._label = f"gradtrap:{id(self)}"

    def of(self, thing: Any) -> Key:
        """The key of an object; of a tensor with history, that of the operation that made it."""
        if isinstance(thing, torch.Tensor) and thing.grad_fn is not None:
            return self.mark(thing).key
        number = id(thing)
        known = self._known.get(number)
        if known is not None and known[0]() is thing:
            return known[1]
        key = Key(type(thing).__name__)
        try:
            reference = weakref.ref(thing, partial(self._forget, number, key))
        except TypeError:  # no weak references to this kind of object: it gets a new name each time
            return key
        self._known[number] = (reference, key)
        return key

    def known(self, thing: Any) -> Key | None:
        known = self._known.get(id(thing))
        return known[1] if known is not None and known[0]() is thing else None

    def _forget(self, number: int, key: Key, reference: Any) -> None:
        known = self._known.get(number)
        if known is not None and known[1] is key:
            del self._known[number]

    def mark(self, tensor: torch.Tensor) -> Mark:
        """The mark on the node of a tensor with history; from now on a backward through it is noticed."""
        node = tensor.grad_fn
        assert node is not None
        return self.mark_node(node)

    def mark_node(self, node: Any) -> Mark:
        metadata = node.metadata
        mark: Mark | None = metadata.get(self._label)
        if mark is None:
            mark = metadata[self._label] = Mark(Key("tensor"))
            fired, key = self._fired, mark.key
            node.register_prehook(lambda gradients: fired(key))
        return mark

    def seen(self, node: Any) -> Mark | None:
        """The mark on a node, if it has one."""
        mark: Mark | None = node.metadata.get(self._label)
        return mark
