"""What every event says: where it happened, and to what."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from flake8_gradtrap.fixed import fixed


@fixed
class Site:
    """A place in the program and the calls through which it was reached.

    `node` identifies the place (a syntax node in the abstract run, file and line in the real one); `caller` is the site
    of the call that entered the function in which the place stands, None at the start of the run.
    """

    node: Hashable
    caller: Site | None = field(default=None, compare=False)


@fixed
class Thing:
    """An object of the run: its identity, and what the program calls it at this place (for messages only)."""

    key: Hashable
    label: str = field(default="", compare=False)
    harmless: bool = field(default=False, compare=False)
    """A tensor that is no loss: whoever gets it can hardly clear a gradient, or step."""
    tensor: bool = field(default=False, compare=False)
    """A tensor, perhaps a loss, or a collection of such, for code whose result is used: whoever gets it has no module
    and no optimizer by that, and computes something.
    """


Owners = frozenset[Hashable] | None
"""Which modules (or single parameters) some gradients belong to; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and where."""

    site: Site
