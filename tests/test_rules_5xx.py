"""The monitors of the rules on backwards and steps, fed with events by hand."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from fake_watch import FakeWatch, drive
from training import (
    AGAIN,
    BOTH,
    END,
    LEFT,
    LOSS,
    OPT_B,
    START,
    A,
    B,
    back,
    clear,
    clip,
    escape,
    found,
    kinds,
    lines,
    made,
    run,
    scaled,
    step,
    through,
    turn,
    twice,
    unscale,
    update,
)

from flake8_gradtrap.events import (
    Clipped,
    Differentiated,
    Escaped,
    Event,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    Site,
    Thing,
)
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.windows import Taken


class TestGradientsNeverCleared:
    def test_backward_step_backward_step(self) -> None:
        (report,) = run("GTR501", made(1), *twice(back(3), step(4)), END)
        assert report.site == Site(3)
        assert "line 4" in report.message
        assert "`opt_a.zero_grad()`" in report.message

    def test_through_a_scaler(self) -> None:
        assert found("GTR501", made(1), *twice(scaled(3), through(4), update(5)), END) == [3]

    def test_first_backward_of_the_iteration_that_steps(self) -> None:
        body = [back(3), back(4), step(5), clear(6, OPT_B, B), back(7, BOTH), step(8, OPT_B, B)]
        assert found("GTR501", made(1), made(2, OPT_B, B), *twice(*body), END) == [3]

    def test_unknown_owners_of_the_only_optimizer(self) -> None:
        assert found("GTR501", *twice(back(3, None), step(4, owners=None)), END) == [3]
        two = [made(1, owners=None), made(2, OPT_B, None)]
        both = twice(back(3, None), step(4, owners=None), step(5, OPT_B, None))
        assert found("GTR501", *two, *both, END) == []

    def test_unknown_owners_of_the_only_optimizer_in_the_loop(self) -> None:
        two = [made(1, owners=None), made(2, OPT_B, None)]
        assert found("GTR501", *two, *twice(back(3, None), step(4, owners=None)), END) == [3]
        cleared = twice(back(3, None), step(4, owners=None), clear(5, OPT_B, B))
        assert found("GTR501", *two, *cleared, END) == []

    def test_other_optimizers_of_the_same_model_change_nothing(self) -> None:
        assert found("GTR501", made(1, OPT_B, A), made(2), *twice(back(3, None), step(4)), END) == [3]

    def test_cleared_only_before_the_loop_and_once_an_epoch(self) -> None:
        inner = twice(back(3), step(4), loop="batches")
        assert found("GTR501", made(1), clear(2), *inner, END) == [3]
        assert found("GTR501", made(1), *twice(clear(2), *inner, loop="epochs"), END) == [3]

    def test_where_something_was_forgotten_only_a_clearing_between_the_steps_counts(self) -> None:
        def forgetful(*events: Event) -> list[Hashable]:
            return lines(drive(all_rules()["GTR501"], [made(1), *events, END], FakeWatch(lossy=True)))

        step_once = [LoopStarted(Site(2), "batches"), IterationStarted(Site(2), "batches", 0), back(3), step(4)]
        left = LoopLeft(Site(2), "batches")
        again = [IterationStarted(Site(2), "batches", 1), back(3), step(4), left]
        assert forgetful(*step_once, *again) == [3]
        assert forgetful(*twice(clear(2), *step_once, *again, loop="epochs")) == [3]
        first = [*step_once[:2], clear(2), *step_once[2:]]  # a path without it may have gone with another condition
        assert forgetful(*first, *again) == []
        epochs = [LoopStarted(Site(1), "epochs"), IterationStarted(Site(1), "epochs", 0)]
        next_epoch = IterationStarted(Site(1), "epochs", 1)
        assert forgetful(*epochs, clear(2), *step_once, left, next_epoch, *step_once, left) == []

    @pytest.mark.parametrize(
        "between",
        [
            clear(5),
            clear(5, None, A),
            clear(5, None, None),
            clear(5, OPT_B, None),
            escape(5, "optimizer a"),
            escape(5, "model a"),
            back(5, None, opaque=True),
            made(5),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_silent_after(self, between: Event) -> None:
        assert found("GTR501", made(1), *twice(back(3), step(4), between), END) == []

    def test_a_clearing_under_a_condition_is_innocent(self) -> None:
        loop = [START, turn(0), back(3), step(4), turn(1)]
        cleared = [clear(2), back(3), step(4), LEFT]
        other = [back(3), step(4), LEFT]
        assert found("GTR501", made(1), *loop, *cleared, *loop, *other, END) == []

    def test_who_only_computes_a_loss_clears_nothing(self) -> None:
        def handed(to: str, *names: str) -> Event:
            return Escaped(Site(6), tuple(Thing(name) for name in names), to)

        def silent(event: Event) -> bool:
            return not found("GTR501", made(1), *twice(event, back(3), step(4)), END)

        for to in ("loss_fn", "diffusion.training_losses", "LOSSES[kind]", "self.criterion", "criterion"):
            assert not silent(handed(to, "model a")), to
            assert silent(handed(to, "model a", "optimizer a")), to
        for to in ("forward", "loss_backward", "loss_scaler", "reset_losses", "lossless", "update_loss", "prepare"):
            assert silent(handed(to, "model a")), to

    def test_what_went_backward_before_the_step_is_no_module(self) -> None:
        alone = made(1, owners=None)
        graph = frozenset({"output", "loss"})
        body = [back(3, None, reaches=graph), step(4, owners=None)]
        assert found("GTR501", alone, *twice(*body, escape(5, "output")), END) == [3]
        assert found("GTR501", alone, *twice(*body, escape(5, "something")), END) == []

    def test_a_gan_pollutes_what_is_cleared_before_its_step(self) -> None:
        body = [clear(3), back(4), step(5), clear(6, OPT_B, B), back(7, BOTH), step(8, OPT_B, B)]
        assert found("GTR501", made(1), made(2, OPT_B, B), *twice(*body), END) == []

    def test_silent_look_alikes(self) -> None:
        assert found("GTR501", made(1), back(2), step(3), END) == []
        assert found("GTR501", made(1), back(2), step(3), back(4), step(5), END) == []
        assert found("GTR501", made(1), *twice(back(3), step(4, closure=True)), END) == []
        assert found("GTR501", made(1), *twice(back(3, B), step(4)), END) == []
        assert found("GTR501", made(1), *twice(step(4)), END) == []
        assert found("GTR501", made(1), back(3), step(4), clear(0, None, None), back(3), step(4), AGAIN) == []


class TestGradientsClearedBeforeStep:
    def test_between_backward_and_step(self) -> None:
        (report,) = run("GTR502", made(1), *twice(back(3), clear(4), step(5)), END)
        assert report.site == Site(4)
        assert "line 3" in report.message
        assert "line 5" in report.message

    def test_by_the_module_and_through_a_scaler(self) -> None:
        assert found("GTR502", made(1), scaled(3), clear(4, None, A), through(5), END) == [4]

    def test_of_the_right_optimizer(self) -> None:
        two = [made(1), made(2, OPT_B, B)]
        assert found("GTR502", *two, back(3, BOTH), clear(4, OPT_B, B), step(5, OPT_B, B), END) == [4]
        assert found("GTR502", *two, back(3, BOTH), clear(4, OPT_B, B), step(5), END) == []

    def test_unknown_owners(self) -> None:
        assert found("GTR502", back(3, None), clear(4, owners=None), step(5, owners=None), END) == [4]

    def test_unknown_owners_and_two_optimizers(self) -> None:
        two = [made(1, owners=None), made(2, OPT_B, None)]
        cleared, stepped = clear(4, owners=None), step(6, owners=None)
        assert found("GTR502", *two, back(3, None), cleared, stepped, END) == [4]  # it steps with nothing, anyhow
        assert found("GTR502", *two, back(3, None), cleared, step(5, OPT_B, None), stepped, END) == []
        assert found("GTR502", *two, back(3, None), cleared, back(5, None), stepped, END) == []
        assert found("GTR502", *two, back(3, None), cleared, back(5, B), stepped, END) == []
        assert found("GTR502", *two, back(3, None), cleared, escape(5, "some loss"), stepped, END) == []
        assert found("GTR502", *two, back(3, None), clear(4, None, None), stepped, END) == []

    def test_under_a_condition_it_is_meant(self) -> None:
        assert found("GTR502", made(1), back(3), step(5), back(3), clear(4), step(5), END) == []

    @pytest.mark.parametrize(
        "events",
        [
            [clear(2), back(3), step(4)],
            [back(2), step(3), clear(4), back(5), step(6)],
            [back(2), clear(3), back(4), step(5)],
            [back(2), clear(3), escape(4, "model a"), step(5)],
            [back(2), clear(3), escape(4, "some loss"), step(5)],
            [back(2), clear(3), Clipped(Site(4), Thing("g"), "`.grad.copy_`", A, rescales=True), step(5)],
            [back(2), clear(3), back(4, None, opaque=True), step(5)],
            [back(2), clear(3, None, None), step(5)],
            [back(2), clear(3), step(4, closure=True)],
            [back(2, BOTH), clear(3, None, B), step(4, owners=BOTH)],
            [back(2), escape(3, "optimizer a"), clear(4), step(5)],
        ],
        ids=kinds,
    )
    def test_silent(self, events: list[Event]) -> None:
        assert found("GTR502", made(1), *events, END) == []

    def test_what_an_earlier_run_of_the_loop_left_is_cleared_in_passing(self) -> None:
        events = [START, turn(0), back(3), LEFT, START, turn(0), clear(2), step(5), LEFT, END]
        assert found("GTR502", made(1), *events) == []


class TestGraphBackpropagatedTwice:
    def test_two_losses_that_share_a_forward(self) -> None:
        first = back(3, frees=frozenset({"trunk", "head a"}))
        second = back(4, loss=Thing("b", "loss_b"), frees=frozenset({"trunk", "head b"}))
        (report,) = run("GTR503", first, second, END)
        assert report.site == Site(4)
        assert "line 3" in report.message
        assert "`loss_b`" in report.message

    def test_one_graph_in_every_iteration(self) -> None:
        (report,) = run("GTR503", *twice(back(3, frees=frozenset({"features"}))), END)
        assert report.site == Site(3)
        assert "earlier iteration" in report.message

    def test_the_other_graph_is_shared_under_a_condition(self) -> None:
        first, second = back(3, frees=frozenset({"f", "a"})), back(4, frees=frozenset({"f", "b"}))
        assert found("GTR503", first, second, END) == [4]
        assert found("GTR503", first, second, back(4, frees=frozenset({"g"}), partial=False), END) == []
        assert found("GTR503", first, second, back(4, frees=frozenset({"g"}), partial=True), END) == [4], "not known"

    def test_freed_by_autograd_grad(self) -> None:
        events = [Differentiated(Site(3), frees=frozenset({"f"})), back(4, frees=frozenset({"f"})), END]
        assert found("GTR503", *events) == [4]

    def test_a_loss_that_is_its_own_weight(self) -> None:
        (report,) = run("GTR503", back(3, weight=LOSS), END)
        assert "multiplied by the loss" in report.message

    @pytest.mark.parametrize(
        "first",
        [
            back(3, frees=frozenset({"f"}), retains=True),
            back(3, frees=frozenset({"f"}), retains=None),
            back(3, frees=frozenset({"g"})),
            Differentiated(Site(3), frees=frozenset({"f"}), retains=True),
            Differentiated(Site(3), frees=frozenset({"f"}), retains=None),
        ],
        ids=kinds,
    )
    def test_silent(self, first: Event) -> None:
        weighted = back(4, frees=frozenset({"f"}), weight=Thing("ones"))
        assert found("GTR503", first, weighted, END) == []


def test_all_rules_are_silent_where_nothing_happens_twice() -> None:
    usual = twice(clear(2), scaled(3), unscale(4), clip(5), through(6), update(7))
    for code in ("GTR301", "GTR302", "GTR305", "GTR306", "GTR401", "GTR402", "GTR403", "GTR501", "GTR502", "GTR503"):
        assert found(code, made(1), *usual, END) == [], code


def test_gtr000_has_no_monitor() -> None:
    assert list(all_rules()["GTR000"].handlers()) == []


def test_where_paths_are_taken_together_all_steps_of_an_iteration_count() -> None:
    """A step that none of them holds back must not look as if it waited for a window."""
    one, other = Taken(frozenset({"generator"})), Taken(frozenset({"generator", "critic"}))
    assert one.meet(other) == Taken(frozenset({"generator", "critic"}))
    assert one.meet(None) == one
