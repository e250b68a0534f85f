"""One-shot iterators: made, and used up."""

from __future__ import annotations

from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Site, Thing


@dataclass(frozen=True, slots=True)
class IteratorMade(Event):
    """A one-shot iterator was created.

    `kind`: what made it, in words ("`model.parameters()`", "`filter(...)`", "a generator expression").
    `of_parameters`: it yields a model's parameters (or modules, buffers). `assumed`: nothing in sight made it: it is an
    argument whose name or annotation says that it may be one-shot. `weak`: only an annotation says so, and of elements
    that are no tensors. `iterable`: only an annotation says so, and one that a list or a loader fits as well.
    """

    it: Thing
    kind: str
    of_parameters: bool = False
    assumed: bool = False
    weak: bool = False
    iterable: bool = False


@dataclass(frozen=True, slots=True)
class Iterated(Event):
    """An iterator was iterated.

    `by`: who did it, in words ("`for`", "`sum`", "`AdamW`"). `whole`: it was exhausted (True), only a part was taken
    (False), or either (None). `optional`: taking a single item with `next`. `through`: the call that handed the
    iterator to the function in which this happens, seen from where the iterator lives; None where it is iterated at
    home. `ends`: nothing new begins, but a loop that was told before (as `whole` None) has ended, and now `whole` is
    known.
    """

    it: Thing
    by: str
    whole: bool | None = True
    single: bool = False
    through: Site | None = None
    ends: bool = False
