"""The monitors of the rules on modes and on gradients of gradients, fed with events by hand."""

from __future__ import annotations

from collections.abc import Hashable

from fake_watch import Report, drive

from flake8_gradtrap.events import Backpropagated, Event, Produced, Site, Term, Thing
from flake8_gradtrap.rule import all_rules

LOSS = Thing("loss", "loss")


def run(code: str, *events: Event) -> list[Report]:
    return drive(all_rules()[code], events)


def found(code: str, *events: Event) -> list[Hashable]:
    return [report.site.node for report in run(code, *events)]


class TestPenaltyWithoutCreateGraph:
    PENALTY = Term("first order", Site(3), "autograd.grad", True, True)

    def test_reported_where_the_gradients_are_taken(self) -> None:
        (report,) = run("GTR901", Backpropagated(Site(9), LOSS, terms=(Term("", Site(2)), self.PENALTY)))
        assert report.site == Site(3)
        assert "create_graph=True" in report.message
        assert [site for _, site in report.trace] == [Site(3), Site(9)]

    def test_a_coefficient_is_no_term(self) -> None:
        coefficient = Term("first order", Site(3), "autograd.grad", True, False)
        assert found("GTR901", Backpropagated(Site(9), LOSS, terms=(coefficient,))) == []

    def test_a_penalty_function_is_enough_and_a_forward_is_not(self) -> None:
        assert found("GTR901", Produced(Site(5), LOSS, "penalty", (self.PENALTY,))) == [3]
        assert found("GTR901", Produced(Site(5), LOSS, "forward", (self.PENALTY,))) == []
