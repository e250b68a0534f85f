"""Accumulation windows in a real run: the backwards between two steps of an optimizer, and what each of them weighs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flake8_gradtrap.events import Site
from flake8_gradtrap.runtime.confirm.numbers import many, short
from flake8_gradtrap.runtime.confirm.tracer import Tracer

_MEANS = ("MeanBackward", "NllLoss", "MseLoss", "BinaryCrossEntropy", "SmoothL1Loss", "HuberLoss", "SoftMarginLoss")
"""Operations that average over a batch, as a rule; by how the names of their nodes begin."""


@dataclass(slots=True)
class Window:
    """`fills`: for each backward by its place, how often it has added to the gradients since they were cleared, and
    the weight of the mean in its loss. `total`: how many there were since the last step, `kept`: since the last
    clearing.
    """

    fills: dict[Any, tuple[Site, int, float | None]] = field(default_factory=dict)
    total: int = 0
    kept: int = 0
    wipe: Site | None = None
    rewritten: bool = False
    clips: int = 0

    def filled(self, site: Site, share: float | None) -> None:
        _, count, before = self.fills.get(site.node, (site, 0, share))
        known = share if before is None or share is None or abs(before - share) < 1e-9 else None
        self.fills[site.node] = (site, count + 1, known)
        self.total += 1
        self.kept += 1

    def cleared(self, site: Site | None) -> None:
        if self.kept:
            self.wipe = site
        self.kept = 0
        self.fills.clear()

    def judge(self, tracer: Tracer) -> None:
        """A step uses the window."""
        if self.wipe is not None and self.kept:
            said = f"{many(self.total, 'backward')} since the last step, the gradients of {self.kept} of them applied"
            tracer.measure("GTR506", self.wipe, self.total > self.kept, said, float(self.kept), "backwards")
        for site, count, share in self.fills.values():
            if share is None and count > 1:
                tracer.unknown("GTR505", site, "what the loss is divided by could not be followed in its graph")
                continue
            weight = share if share is not None else 1.0
            said = (
                f"{count} micro-{'batch' if count == 1 else 'batches'} added up, each with a weight of "
                f"{short(weight)}: {short(weight * count)} times their mean"
            )
            trapped = count > 1 and weight * count > 1.01 and not self.rewritten
            tracer.measure("GTR505", site, trapped, said, weight * count, "times the mean")


def share_of(node: Any, depth: int = 8) -> float | None:
    """The constant by which the mean in a loss is multiplied on its way to the backward; None where it is unknown.

    A scaler's own factor is told apart by its mark, and is not handed in.
    """
    if node is None or depth == 0:
        return None
    name = node.name()
    if name.startswith(_MEANS):
        return 1.0 if getattr(node, "_saved_reduction", 1) == 1 else None
    if name.startswith(("DivBackward", "MulBackward")):
        factor = _constant(node)
        inner = share_of(node.next_functions[0][0] or node.next_functions[-1][0], depth - 1)
        if factor is None or inner is None:
            return None
        return inner / factor if name.startswith("Div") else inner * factor
    if name.startswith(("AddBackward", "SubBackward")):
        shares = [share_of(parent, depth - 1) for parent, _ in node.next_functions if parent is not None]
        known = {share for share in shares if share is not None}
        return known.pop() if len(known) == 1 and None not in shares else None
    if name.startswith(("ToCopyBackward", "ViewBackward", "SqueezeBackward", "CloneBackward")):
        return share_of(node.next_functions[0][0], depth - 1)
    return None


def _constant(node: Any) -> float | None:
    """The factor or divisor of a node that is no part of the graph."""
    if sum(parent is not None for parent, _ in node.next_functions) != 1:
        return None
    try:
        value = node._saved_other if node.name().startswith("Div") else _first(node._saved_other, node._saved_self)
        return float(value) if value is not None and value.numel() == 1 else None
    except (AttributeError, RuntimeError, TypeError):
        return None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
