"""What a real run can say about each rule: the quantity that decides, and what is never observed.

docs/confirm.md shows this table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ruling:
    """`quantity`: what is measured. `hits`: so many without the trap refute a finding. `alone`: the rule is also
    reported where the abstract run found nothing.
    """

    quantity: str
    hits: int = 2
    alone: bool = False


RULINGS = {
    "GTR101": Ruling("items left in the iterator; parameters that the clip saw", 2, True),
    "GTR201": Ruling("the value of the term, and whether what it was read from had history"),
    "GTR202": Ruling("the value of the copy, and whether what was copied had history and the copy was back-propagated"),
    "GTR203": Ruling("the value of the term, and whether what was detached had history"),
    "GTR209": Ruling("gradients that the backward filled"),
    "GTR301": Ruling("the norm that the clip saw, and the true one", 1, True),
    "GTR302": Ruling("gradients that the clip saw, and whether a step used them", 2, True),
    "GTR305": Ruling("the norm of the gradient that the step used, and the true one", 1, True),
    "GTR306": Ruling("steps of the scaler between two updates; gradients still scaled at an update", 2, True),
    "GTR401": Ruling("graphs of earlier iterations that are held, and their nodes", 3, True),
    "GTR402": Ruling("graphs of earlier iterations that are held", 3, True),
    "GTR403": Ruling("graphs of earlier iterations that are held", 3),
    "GTR404": Ruling("retained graphs that were used again", 3),
    "GTR405": Ruling("backwards into the graph of an earlier iteration; nodes behind the loss", 2),
    "GTR501": Ruling("gradients left over from an earlier step, and their norm", 2, True),
    "GTR502": Ruling("gradients that the step found", 2, True),
    "GTR503": Ruling("backwards into a graph that was freed; the factor on every gradient", 2),
    "GTR504": Ruling("steps of the scheduler and of its optimizer", 1, True),
    "GTR505": Ruling("micro-batches added up, times the weight of each mean", 2),
    "GTR506": Ruling("backwards since the last step, and those whose gradients it applied", 2),
    "GTR508": Ruling("steps that the state of an optimizer lived for", 3, True),
    "GTR509": Ruling("gradients that the step found", 2),
    "GTR601": Ruling("nodes recorded in evaluation mode, and whether a backward used them", 1),
    "GTR602": Ruling("modules in evaluation mode when the optimizer steps", 1),
    "GTR701": Ruling("Parameters that are in no `parameters()` and in no optimizer", 1),
    "GTR702": Ruling("Parameters that are in no `parameters()` and in no optimizer", 1),
    "GTR710": Ruling("tensors of the state that share memory with the model, and were changed since", 1),
}

NOT_OBSERVED = "its site ran, but what this rule speaks of is not observed in a real run"
