"""How much two paths of a run may lose when they meet and become one.

What a rule remembers may have a method `meet(other)`: what is left of it where two paths merge of which one remembers
this, and the other one `other` (None: nothing). It returns None where nothing is left, and NotImplemented where these
paths have to stay apart. Its attribute `meets` says from which level on it is asked; by force, if it has none.
"""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """What two paths may lose when they merge."""

    QUIET = 0
    """Nothing that a rule or a condition can see."""
    SOFT = 1
    """Which tensor, number or unknown goes with which condition; the length of a list."""
    FLAGS = 2
    """Truth values, None and what else only conditions ask for."""
    FIRM = 3
    """Every value that they disagree on. What the rules remember is kept."""
    FORCE = 4
    """What the rules remember, where they disagree: the path is lossy then."""
