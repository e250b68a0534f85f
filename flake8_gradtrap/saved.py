"""What rules share that watch the tensors which autograd has saved: which operations need values that are no more."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from flake8_gradtrap.events import Backpropagated, IterationStarted, Overwritten, Site, Stepped
from flake8_gradtrap.rule import Rule, Watch, on


@dataclass(frozen=True, slots=True)
class Spoilt:
    """What an operation has saved was changed: where, what was changed there, and how."""

    site: Site = field(compare=False)
    label: str = field(compare=False)
    how: str = field(compare=False)
    through_data: bool = False
    stepped: bool = False


class SavedTensors(Rule):
    """Base of rules that ask which operations cannot go backward any more. In memory: "spoilt", by operation.

    Graphs of earlier iterations are left to the rules about what is carried over.
    """

    @on(Overwritten)
    def overwritten(self, event: Overwritten, watch: Watch) -> None:
        mark = Spoilt(event.site, event.tensor.label, event.how, event.through_data)
        self._spoil(event.needed, mark, watch)

    @on(Stepped)
    def saved_by_step(self, event: Stepped, watch: Watch) -> None:
        self._spoil(event.needed, Spoilt(event.site, event.optimizer.label, "step", stepped=True), watch)

    @on(IterationStarted)
    def another(self, event: IterationStarted, watch: Watch) -> None:
        for key, _ in watch.items():
            if isinstance(key, tuple) and key[0] == "spoilt":
                watch.drop(key)

    def _spoil(self, needed: frozenset[Hashable], mark: Spoilt, watch: Watch) -> None:
        for operation in needed:
            known: Spoilt | None = watch.get(("spoilt", operation))
            if known is None or (known.through_data and not mark.through_data):
                watch.put(("spoilt", operation), mark)

    def spoilt(self, event: Backpropagated, watch: Watch, through_data: bool = False) -> Spoilt | None:
        """Where something that a backward needs was changed; `through_data`: behind the back of autograd."""
        marks = (watch.get(("spoilt", operation)) for operation in event.frees)
        return next((mark for mark in marks if mark is not None and mark.through_data is through_data), None)
