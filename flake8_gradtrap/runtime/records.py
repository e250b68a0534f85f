"""What a watch has measured: plain numbers, which can be saved and loaded."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

HISTORY = 10_000
"""Steps of which the norms are kept."""


@dataclass(slots=True)
class Group:
    """One parameter group of an optimizer. Norms are 2-norms of the group's whole gradient, unscaled."""

    name: str
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """Before any clip that torch or this watch made in the step; finite values only."""
    steps: int = 0
    non_finite: int = 0
    limited: int = 0
    """Steps in which the clip of this watch made the gradient shorter."""
    update_ratio: float | None = None
    """‖Δθ‖/‖θ‖ of the last step that was looked at, over a part of the parameters."""
    left_over: int = 0
    """Steps that applied gradients of the step before once more, of `checked` that were looked at."""
    checked: int = 0


@dataclass(slots=True)
class Clip:
    """What the program's own clips did to the watched parameters."""

    calls: int = 0
    changed: int = 0
    """Calls that made the gradient shorter: its norm was above the limit."""
    empty: int = 0
    """Calls with no parameters at all."""
    scaled: int = 0
    """Calls that met gradients still multiplied by the loss scale."""
    missed: int = 0
    """Calls whose parameters had no gradient."""
    max_norm: float = math.nan
    last_norm: float = math.nan


@dataclass(slots=True)
class Activation:
    """The output of a module when it was last looked at: root mean square and largest magnitude."""

    name: str
    rms: float
    largest: float
    non_finite: bool


@dataclass(slots=True)
class Records:
    steps: int = 0
    skipped: int = 0
    """Steps that the gradient scaler skipped because a gradient was not finite."""
    groups: list[Group] = field(default_factory=list)
    clip: Clip = field(default_factory=Clip)
    activations: dict[str, Activation] = field(default_factory=dict)
    first_bad_gradient: str | None = None
    """Which gradient was the first that was not finite, and when, in words."""
    first_bad_output: str | None = None
    """The same for the outputs of modules, of the steps that were looked at."""
    in_no_group: list[str] = field(default_factory=list)
    not_in_model: list[str] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    graphs_held: int = 0
    """Earlier steps of which the graph was still alive when last looked at."""
    graphs_checked: int = 0
    notes: list[str] = field(default_factory=list)
    """What could not be seen, and why."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from: counts and norm histories."""
        return {
            "steps": self.steps,
            "groups": [
                {"name": group.name, "steps": group.steps, "non_finite": group.non_finite, "norms": list(group.norms)}
                for group in self.groups
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the groups are not those that were saved."""
        names = [group.name for group in self.groups]
        saved = [group["name"] for group in state["groups"]]
        if names != saved:
            raise ValueError(f"the parameter groups are {names}, the saved ones {saved}")
        self.steps = state["steps"]
        for group, kept in zip(self.groups, state["groups"], strict=True):
            group.steps, group.non_finite = kept["steps"], kept["non_finite"]
            group.norms.clear()
            group.norms.extend(kept["norms"])
