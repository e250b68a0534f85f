"""The monitors of the rules on kept graphs, fed with events by hand."""

from __future__ import annotations

from typing import Any

import pytest
from training import AGAIN, END, LEFT, START, back, escape, found, kinds, run, turn

from flake8_gradtrap.events import (
    Accumulated,
    Backpropagated,
    Differentiated,
    Emptied,
    Event,
    FunctionLeft,
    Iterated,
    IterationStarted,
    IteratorMade,
    LoopLeft,
    LoopStarted,
    ReadOut,
    Site,
    Stored,
    Thing,
)
from flake8_gradtrap.rule import Change


def total(number: int) -> Thing:
    return Thing(f"total {number}", "total")


def summed(line: int, number: int, history: bool | None = True, loop: str | None = "loop", **more: Any) -> Accumulated:
    """`total += loss`: the term of iteration `number`."""
    term = more.pop("term", Thing(f"loss {number}", "loss"))
    return Accumulated(Site(line), term, total(number), total(number - 1), history, loop, **more)


def walked(line: int, number: int, **more: Any) -> Backpropagated:
    """`loss.backward()` of iteration `number`."""
    return back(line, loss=Thing(f"loss {number}", "loss"), **more)


class TestRawLossSummed:
    def test_after_its_backward(self) -> None:
        events = [START, turn(0), walked(3, 1), summed(4, 1), turn(1), walked(3, 2), summed(4, 2), LEFT, END]
        (report,) = run("GTR401", *events)
        assert report.site == Site(4)
        assert "slow leak" in report.message
        assert "line 3" in report.message
        assert report.remedy is not None
        assert report.remedy.safe
        assert report.remedy.changes == (Change("wrap", Site(4), "", ".detach()"),)

    def test_before_its_backward_with_history_known_late(self) -> None:
        assert found("GTR401", START, turn(0), summed(3, 1, None), walked(4, 1), LEFT, END) == [3]

    def test_only_from_the_second_iteration_on(self) -> None:
        events = [START, turn(0), walked(3, 1), turn(1), walked(3, 2), summed(4, 2, None), LEFT, END]
        assert found("GTR401", *events) == [4]

    @pytest.mark.parametrize(
        ("label", "around"),
        [
            ("loss", ("", ".detach()")),
            ("self.losses[0]", ("", ".detach()")),
            ("criterion(model(x), y)", ("", ".detach()")),
            ("loss * len(x)", ("(", ").detach()")),
            ("f(x) + g(y)", ("(", ").detach()")),
        ],
    )
    def test_the_fix_binds_to_the_whole_term(self, label: str, around: tuple[str, str]) -> None:
        term = Thing("loss 1", label)
        (report,) = run("GTR401", START, turn(0), walked(3, 1), summed(4, 1, term=term), LEFT, END)
        assert report.remedy is not None
        (change,) = report.remedy.changes
        assert (change.before, change.after) == around

    def test_a_part_of_the_loss(self) -> None:
        part = Thing("kl", "kl")
        events = [START, turn(0), back(3, reaches=frozenset({"kl"})), summed(4, 1, None, term=part), LEFT, END]
        assert found("GTR401", *events) == [4]

    def test_what_was_computed_from_the_loss(self) -> None:
        mean = Thing("mean", "loss.mean()")
        graph = frozenset({"loss 1"})
        events = [START, turn(0), walked(3, 1), summed(4, 1, True, term=mean, graph=graph), LEFT, END]
        assert found("GTR401", *events) == [4]
        events = [START, turn(0), walked(3, 1), summed(4, 1, None, term=mean, graph=graph), LEFT, END]
        assert found("GTR401", *events) == [4]  # a multiple of it, or a view: the event names no others here
        events = [START, turn(0), walked(3, 1), summed(4, 1, None, term=mean, graph=frozenset()), LEFT, END]
        assert found("GTR401", *events) == []

    def test_a_meter_is_reported_at_its_call(self) -> None:
        inner = Site(70, Site(4))
        term = Thing("loss 1", "val")
        kept = Accumulated(inner, term, total(1), total(0), True, "loop")
        (report,) = run("GTR401", START, turn(0), walked(3, 1), kept, LEFT, END)
        assert report.site == Site(4)
        assert report.remedy is None

    def test_two_meters_keep_two_things_at_one_place(self) -> None:
        loss = Accumulated(Site(70, Site(4)), Thing("loss 1", "val"), total(1), total(0), True, "loop")
        accuracy = Accumulated(Site(70, Site(5)), Thing("hits", "val"), Thing("other"), Thing("more"), None, "loop")
        assert found("GTR401", START, turn(0), walked(3, 1), loss, accuracy, LEFT, END) == [4]

    def test_evaluation_with_gradients_on(self) -> None:
        events = [START, turn(0), summed(3, 1), turn(1), summed(3, 2), LEFT]
        (report,) = run("GTR401", *events, ReadOut(Site(5), total(2), "item"), END)
        assert report.site == Site(3)
        assert "memory runs out" in report.message
        assert found("GTR401", *events, END) == []
        assert found("GTR401", *events, ReadOut(Site(5), total(2), "item"), escape(6, "total 2"), END) == []

    def test_evaluation_sums_of_something_else_are_small(self) -> None:
        term = Thing("norm", "x.var()")
        events = [START, turn(0), summed(3, 1, term=term), LEFT, ReadOut(Site(5), total(1), "item"), END]
        assert found("GTR401", *events) == []

    def test_a_loop_over_parameters_is_small(self) -> None:
        iterator = Thing("it", "model.parameters()")
        events: list[Event] = [
            IteratorMade(Site(1), iterator, "`model.parameters()`", True),
            START,
            Iterated(Site(1), iterator, "`for`"),
            turn(0),
            summed(3, 1),
            LEFT,
            ReadOut(Site(5), total(1), "item"),
        ]
        assert found("GTR401", *events, END) == []

    @pytest.mark.parametrize(
        "events",
        [
            [turn(0), summed(4, 1, False), walked(5, 1), LEFT],
            [turn(0), summed(4, 1), turn(1), summed(4, 2), LEFT, back(5, reaches=frozenset({"total 2"}))],
            [turn(0), summed(4, 1), turn(1), summed(4, 2), back(5, reaches=frozenset({"total 2", "loss 2"})), LEFT],
            [turn(0), summed(4, 1, made_by=(Site(3),)), walked(5, 1), LEFT],
            [turn(0), summed(4, 1, None), LEFT],
            [turn(0), summed(4, 1), Differentiated(Site(5), frozenset({"total 1"})), LEFT],
            [turn(0), walked(3, 1, retains=True), summed(4, 1), escape(5, "total 1"), LEFT],
        ],
        ids=kinds,
    )
    def test_silent(self, events: list[Event]) -> None:
        assert found("GTR401", START, *events, ReadOut(Site(6), total(7), "item"), END) == []

    def test_back_propagated_on_another_path(self) -> None:
        # One monitor hears all paths; here, a first path on which the window is full, then one on which it is not.
        taken = [START, turn(0), summed(4, 1), back(5, reaches=frozenset({"total 1"})), LEFT]
        other = [START, turn(0), walked(3, 7), summed(4, 7), LEFT]
        assert found("GTR401", *taken, *other, END) == []


def stored(line: int, key: str, history: bool | None = True, loop: str | None = "loop", **more: Any) -> Stored:
    container = more.pop("container", Thing("list", "losses"))
    return Stored(
        Site(line), Thing(key, more.pop("label", "loss")), container, more.pop("by", "append"), history, loop, **more
    )


class TestRawTensorStored:
    def test_around_its_backward(self) -> None:
        after = [
            START,
            turn(0),
            walked(3, 1),
            stored(4, "loss 1"),
            turn(1),
            walked(3, 2),
            stored(4, "loss 2"),
            LEFT,
            END,
        ]
        (report,) = run("GTR402", *after)
        assert report.site == Site(4)
        assert report.remedy is not None
        assert report.remedy.changes == (Change("wrap", Site(4), "", ".detach()"),)
        assert found("GTR402", START, turn(0), stored(3, "loss 1"), walked(4, 1), LEFT, END) == [3]

    def test_no_fix_for_a_part_of_what_stands_there(self) -> None:
        for more in ({"label": "(labels, state)"}, {"by": "extend"}, {"by": "yield"}):
            (report,) = run("GTR402", START, turn(0), walked(3, 1), stored(4, "loss 1", **more), LEFT, END)
            assert report.remedy is None

    def test_bounded_still_leaks(self) -> None:
        assert found("GTR402", START, turn(0), walked(3, 1), stored(4, "loss 1", bounded=True), LEFT, END) == [4]

    def test_on_self_in_a_method_that_runs_again(self) -> None:
        assert found("GTR402", walked(3, 1), stored(4, "loss 1", loop=None), AGAIN) == [4]
        assert found("GTR402", walked(3, 1), stored(4, "loss 1", loop=None), END) == []

    def test_live_beside_a_backward_through_something_else(self) -> None:
        assert found("GTR402", START, turn(0), walked(3, 1), stored(4, "other"), LEFT, END) == [4]
        assert found("GTR402", START, turn(0), walked(3, 1), stored(4, "other", None), LEFT, END) == []

    def test_evaluation(self) -> None:
        events = [START, turn(0), stored(3, "out 1"), turn(1), stored(3, "out 2"), LEFT]
        assert found("GTR402", *events, ReadOut(Site(5), Thing("out 1"), "item"), END) == [3]
        assert found("GTR402", *events, END) == []
        assert found("GTR402", *events, ReadOut(Site(5), Thing("out 1"), "item"), escape(6, "list"), END) == []

    def test_a_rollout(self) -> None:
        inner = [
            LoopStarted(Site(2), "steps"),
            IterationStarted(Site(2), "steps", 0),
            stored(3, "log_prob 1"),
            IterationStarted(Site(2), "steps", 1),
            stored(3, "log_prob 2"),
            LoopLeft(Site(2), "steps"),
        ]
        reaches = frozenset({"log_prob 1", "log_prob 2"})
        assert found("GTR402", START, turn(0), *inner, back(5, reaches=reaches), LEFT, END) == []
        one = [*inner[:3], inner[-1]]
        assert found("GTR402", START, turn(0), *one, back(5, reaches=frozenset({"log_prob 1"})), LEFT, END) == []

    @pytest.mark.parametrize(
        "events",
        [
            [turn(0), walked(3, 1), stored(4, "loss 1", False), LEFT],
            [turn(0), walked(3, 1), stored(4, "loss 1"), Emptied(Site(5), Thing("list")), LEFT],
            [turn(0), stored(4, "l1"), turn(1), stored(4, "l2"), back(5, reaches=frozenset({"l1", "l2"})), LEFT],
            [turn(0), stored(4, "l1"), turn(1), stored(4, "l2"), LEFT, back(5, reaches=frozenset({"l1", "l2"}))],
            [turn(0), walked(3, 1), stored(4, "loss 1", made_by=(Site(2),)), LEFT],
        ],
        ids=kinds,
    )
    def test_silent(self, events: list[Event]) -> None:
        assert found("GTR402", START, *events, END) == []

    def test_emptied_at_the_head_of_each_iteration(self) -> None:
        empty = Emptied(Site(2), Thing("list"))
        events = [turn(0), empty, walked(3, 1), stored(4, "loss 1"), turn(1), empty, walked(3, 2), stored(4, "loss 2")]
        assert found("GTR402", START, *events, LEFT, END) == []


class TestRawLossReturned:
    def test_summed_by_the_caller(self) -> None:
        events = [START, turn(0), walked(3, 1), summed(8, 1, made_by=(Site(5, Site(8)),)), LEFT, END]
        (report,) = run("GTR403", *events)
        assert report.site.node == 5
        assert not report.preview
        assert "sums it at line 8" in report.message

    def test_stored_by_the_caller(self) -> None:
        events = [START, turn(0), walked(3, 1), stored(8, "loss 1", made_by=(Site(5),)), LEFT, END]
        (report,) = run("GTR403", *events)
        assert "stores it at line 8" in report.message

    def test_silent_where_the_caller_goes_backward_or_keeps_nothing(self) -> None:
        live = summed(8, 1, made_by=(Site(5),))
        assert found("GTR403", START, turn(0), live, LEFT, back(9, reaches=frozenset({"total 1"})), END) == []
        assert found("GTR403", START, turn(0), walked(3, 1), summed(8, 1), LEFT, END) == []
        assert found("GTR403", START, turn(0), summed(8, 1, False, made_by=(Site(5),)), LEFT, END) == []

    def test_preview_without_a_caller(self) -> None:
        values = (Thing("loss 1", "loss"),)
        (report,) = run("GTR403", walked(3, 1), FunctionLeft(Site(5), "train_step", values), END)
        assert report.site == Site(5)
        assert report.preview

    @pytest.mark.parametrize("name", ["Net.training_step", "compute_loss", "closure", "<lambda>"])
    def test_expected_by_a_framework(self, name: str) -> None:
        assert found("GTR403", walked(3, 1), FunctionLeft(Site(5), name, (Thing("loss 1"),)), END) == []

    def test_no_preview_with_a_caller_or_without_history(self) -> None:
        assert found("GTR403", walked(3, 1), FunctionLeft(Site(5, Site(8)), "step", (Thing("loss 1"),)), END) == []
        assert found("GTR403", walked(3, 1), FunctionLeft(Site(5), "step", (Thing("detached"),)), END) == []
