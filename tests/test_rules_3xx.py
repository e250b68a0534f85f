"""The monitors of the rules on clipping and scaling, fed with events by hand."""

from __future__ import annotations

import pytest
from training import (
    AGAIN,
    BOTH,
    END,
    FILE,
    LOSS,
    OPT_B,
    OTHER,
    SCALER,
    A,
    B,
    back,
    clear,
    clip,
    escape,
    found,
    kinds,
    made,
    run,
    scaled,
    step,
    through,
    twice,
    unscale,
    update,
)

from flake8_gradtrap.events import Backpropagated, Clipped, Event, FileEnded, FunctionLeft, LoopStarted, Site, Thing
from flake8_gradtrap.rule import Change


class TestClipBeforeUnscale:
    def test_reported_with_the_fix_that_names_scaler_and_optimizer(self) -> None:
        (report,) = run("GTR301", made(1), scaled(3), clip(4), through(5), update(6), END)
        assert report.site == Site(4)
        assert "line 3" in report.message
        assert "`scaler.unscale_(opt_a)`" in report.message
        assert [site for _, site in report.trace] == [Site(3), Site(4), Site(5)]
        assert report.remedy is not None
        assert report.remedy.safe
        assert report.remedy.changes == (Change("statement-before", Site(4), "scaler.unscale_(opt_a)"),)

    def test_reported_without_a_step_in_sight(self) -> None:
        (report,) = run("GTR301", scaled(3), clip(4), END)
        assert report.remedy is None

    def test_unknown_owners_are_the_only_optimizers(self) -> None:
        (report,) = run("GTR301", scaled(3, None), clip(4, None), through(5, owners=None), update(6), END)
        assert report.remedy is not None

    def test_unknown_owners_of_two_optimizers_are_silent(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3, None), clip(4, None), through(5), through(6, OPT_B, B)]
        assert found("GTR301", *events, update(7), END) == []

    def test_the_other_optimizer_was_unscaled(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3, BOTH), unscale(4, OPT_B, B)]
        assert found("GTR301", *events, clip(5, A), through(6), through(7, OPT_B, B), END) == [5]
        assert found("GTR301", *events, clip(5, B), through(6), through(7, OPT_B, B), END) == []

    def test_each_clip_of_a_gan(self) -> None:
        events = [made(1), made(2, OPT_B, B)]
        events += [
            scaled(3),
            unscale(4),
            clip(5),
            through(6),
            scaled(7, BOTH),
            clip(8, B),
            through(9, OPT_B, B),
            update(9),
        ]
        (report,) = run("GTR301", *events, END)
        assert report.site == Site(8)
        assert report.remedy is not None
        assert report.remedy.changes[0].before == "scaler.unscale_(opt_b)"

    def test_a_hand_written_clip_is_reported_at_its_call(self) -> None:
        inner = Clipped(Site(50, Site(4)), Thing("g", "g"), "`.grad.clamp_`", A)
        (report,) = run("GTR301", scaled(3), inner, through(5), END)
        assert report.site == Site(4)
        assert report.remedy is not None
        assert report.remedy.changes[0].site == Site(4)

    def test_no_fix_where_it_would_raise_or_not_mean_the_same(self) -> None:
        late = run("GTR301", scaled(3), clip(4), unscale(5), through(6), END)
        assert [report.remedy for report in late] == [None]
        other_path = run("GTR301", scaled(1), unscale(2), through(3), update(4), scaled(5), clip(6), through(7), END)
        assert [report.remedy for report in other_path] == [None]
        in_loop = run("GTR301", scaled(3), clip(4), LoopStarted(Site(5), "optimizers"), through(6), END)
        assert [report.remedy for report in in_loop] == [None]
        helper = Site(40, Site(4))
        together = run("GTR301", back(4, scaler=SCALER), through(6), scaled(3), END)
        assert together == []
        backward = Backpropagated(Site(39, Site(4)), LOSS, owners=A, scaler=SCALER, scaled=True)
        clipped = Clipped(helper, Thing("t", "t"), "clip_grad_norm_", A)
        assert [report.remedy for report in run("GTR301", backward, clipped, through(6), END)] == [None]

    @pytest.mark.parametrize(
        "between",
        [
            unscale(4),
            unscale(4, None, None),
            through(4),
            step(4),
            clear(4),
            update(4),
            escape(4, "scaler"),
            escape(4, "model a"),
            escape(4, "optimizer a"),
            back(4, None, opaque=True),
            Clipped(Site(4), Thing("g", "g"), "`.grad.div_`", A, rescales=True),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_silent_after(self, between: Event) -> None:
        assert found("GTR301", made(1), scaled(3), between, clip(5), through(6), END) == []

    def test_silent_look_alikes(self) -> None:
        assert found("GTR301", made(1), back(3), clip(4), step(5), END) == []
        assert found("GTR301", scaled(3), clip(4, rescales=True), through(5), END) == []
        assert found("GTR301", scaled(3), clip(4, measures_only=True), through(5), END) == []
        assert found("GTR301", made(1), made(2, OPT_B, B), scaled(3), clip(4, B), through(5), END) == []
        assert found("GTR301", scaled(3), escape(4, "loss"), END) == []

    def test_a_walked_tensor_that_escapes_changes_nothing(self) -> None:
        events = [back(3, None, scaler=SCALER, scaled=True), escape(4, "loss"), clip(5, None), through(6, owners=None)]
        assert found("GTR301", *events, END) == [5]


class TestClipWithoutEffect:
    def test_between_clearing_and_backward(self) -> None:
        (report,) = run("GTR302", made(1), clear(2), clip(3), back(4), step(5), END)
        assert report.site == Site(3)
        assert "line 2" in report.message
        assert report.remedy is not None
        assert not report.remedy.safe
        assert report.remedy.changes == (Change("move-before", Site(3), target=Site(5)),)

    def test_after_the_step_when_the_gradients_are_cleared_next(self) -> None:
        (report,) = run("GTR302", made(1), *twice(clear(2), back(3), step(4), clip(5)), END)
        assert report.site == Site(5)
        assert "line 4" in report.message
        assert report.remedy is not None
        assert report.remedy.changes == (Change("move-before", Site(5), target=Site(4)),)

    def test_no_fix_that_would_clip_scaled_gradients(self) -> None:
        events = [made(1), scaled(2), through(3), clip(4), clear(5), END]
        assert [report.remedy for report in run("GTR302", *events)] == [None]

    def test_in_a_function_that_runs_again(self) -> None:
        assert found("GTR302", made(1), clear(2), back(3), step(4), clip(5), AGAIN) == [5]
        assert found("GTR302", made(1), clear(2), back(3), step(4), clip(5), END) == [5]
        assert found("GTR302", made(1), back(2), step(3), clip(4), AGAIN) == []
        assert found("GTR302", made(1), clip(2), back(3), step(4), clear(5), AGAIN) == [2]
        assert found("GTR302", made(1), clip(2), back(3), step(4), AGAIN) == []

    def test_unknown_owners_of_several_optimizers(self) -> None:
        two = [made(1, owners=None), made(1, OPT_B, None)]
        first = [clear(2, owners=None), back(3, None), step(4, owners=None), clip(5, None)]
        second = [clear(6, OPT_B, None), back(7, None), step(8, OPT_B, None)]
        assert found("GTR302", *two, *twice(*first, *second), END) == [5]
        assert found("GTR302", *two, *twice(*first, step(8, OPT_B, None)), END) == [], "the second step may use it"

    def test_who_may_step_again_out_of_sight(self) -> None:
        events = [made(1), back(3), step(4), clip(5)]
        assert found("GTR302", *events, escape(6, "optimizer a", to="callback"), clear(7), END) == [5]
        assert found("GTR302", *events, escape(6, "optimizer a", to="self.optimizer_step"), clear(7), END) == []

    def test_first_iteration_clips_before_anything_is_known(self) -> None:
        assert found("GTR302", made(1), *twice(clip(2), back(3), step(4), clear(5)), END) == [2]

    def test_of_the_second_network(self) -> None:
        body = [clear(2), back(3), clip(4), step(5), clear(6, OPT_B, B), back(7, B), step(8, OPT_B, B), clip(9, B)]
        assert found("GTR302", made(1), made(1, OPT_B, B), *body, AGAIN) == [9]

    def test_lightning_goes_backward_later(self) -> None:
        left = FunctionLeft(Site(4), "Classifier.training_step", (LOSS,))
        log = escape(2, "loss", to="self.log")
        assert found("GTR302", log, clip(3), left, AGAIN) == [3]
        assert found("GTR302", escape(2, "loss", to="self.manual_backward"), clip(3), left, AGAIN) == []
        assert found("GTR302", clear(1), back(2), clip(3), left, AGAIN) == []
        assert found("GTR302", clip(3), FunctionLeft(Site(4), "evaluate", (LOSS,)), AGAIN) == []

    def test_what_escapes_may_have_gone_backward(self) -> None:
        events = [made(1), clear(2), escape(3, "loss"), clip(4)]
        assert found("GTR302", *events, step(6), END) == []
        assert found("GTR302", *events, back(5), step(6), END) == [4]

    @pytest.mark.parametrize(
        "events",
        [
            [clear(2), back(3), clip(4), step(5)],
            [step(2), clear(3), back(4), clip(5)],
            [clear(2), back(3), clear(4, OPT_B, B), clip(5), step(6)],
            [back(3), step(4), clip(5, measures_only=True), clear(6)],
            [back(3), step(4), clip(5), step(6, OPT_B, A), clear(7)],
            [back(3), step(4), clip(5, BOTH), step(6, OPT_B, B), clear(7)],
            [back(3), step(4), back(5), clip(6), clear(7)],
            [back(3), step(4, closure=True), clip(5), clear(6)],
            [back(3), step(4), Clipped(Site(5), Thing("g"), "`.grad.mul_`", A, rescales=True), clear(6)],
            [back(3), step(4), clip(5), escape(6, "optimizer a", to="second_step"), clear(7)],
            [clear(2, None, None), clip(3), back(4), step(5)],
            [clear(2), back(3, None, opaque=True), clip(4), step(5)],
        ],
        ids=kinds,
    )
    def test_silent(self, events: list[Event]) -> None:
        assert found("GTR302", made(1), made(1, OPT_B, B), *events, END) == []


class TestStepBypassesScaler:
    def test_plain_step_of_scaled_gradients(self) -> None:
        (report,) = run("GTR305", made(1), scaled(3), step(4), END)
        assert report.site == Site(4)
        assert "line 3" in report.message
        assert "`scaler.step(opt_a)`" in report.message

    def test_only_the_optimizer_that_owns_them(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3)]
        assert found("GTR305", *events, step(4, OPT_B, B), through(5), END) == []
        assert found("GTR305", *events, step(4), END) == [4]

    def test_unknown_owners(self) -> None:
        assert found("GTR305", scaled(3, None), step(4, owners=None), END) == [4]
        events = [made(1, owners=None), made(2, OPT_B, None), scaled(3, None), step(4, owners=None), END]
        assert found("GTR305", *events) == [4], "no loss was back-propagated unscaled"
        assert found("GTR305", back(2, None), *events) == []
        assert found("GTR305", scaled(3, None), back(4, None), step(5, owners=None), END) == []

    @pytest.mark.parametrize(
        "between",
        [
            unscale(4),
            clear(4),
            through(4),
            escape(4, "scaler"),
            escape(4, "optimizer a"),
            back(4, None, opaque=True),
            clip(4, rescales=True),
        ],
        ids=lambda event: type(event).__name__,
    )
    def test_silent_after(self, between: Event) -> None:
        assert found("GTR305", made(1), scaled(3), between, step(5), END) == []

    def test_silent_look_alikes(self) -> None:
        assert found("GTR305", made(1), back(3), step(4), END) == []
        assert found("GTR305", made(1), scaled(3), step(4, closure=True), END) == []
        assert found("GTR305", made(1), *twice(scaled(2), through(3), update(4)), back(5), step(6), END) == []

    def test_mirror(self) -> None:
        events = [made(1), made(2, OPT_B, B)]
        before = [scaled(3), through(4), back(5, B), through(6, OPT_B, B), END]
        assert found("GTR305", *events, *before) == [6]
        after = [back(3, B), through(4, OPT_B, B), scaled(5), through(6), END]
        (report,) = run("GTR305", *events, *after)
        assert report.site == Site(4)
        assert "line 3" in report.message

    def test_mirror_is_silent(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3), through(4)]
        assert found("GTR305", *events, back(5, B), step(6, OPT_B, B), END) == []
        assert found("GTR305", *events, back(5, B), clear(6, OPT_B, B), scaled(7, B), through(8, OPT_B, B), END) == []
        assert found("GTR305", *events, back(5, B, scaled=None), through(6, OPT_B, B), END) == []
        assert found("GTR305", made(1), back(2), through(3), END) == []


class TestScalerNotUpdated:
    def test_second_step_without_update(self) -> None:
        (report,) = run("GTR306", made(1), *twice(scaled(2), through(3)), END, FILE)
        assert report.site == Site(3)
        assert "`scaler.update()`" in report.message
        assert found("GTR306", through(3), through(4), END, FILE) == [4]

    def test_what_was_not_run_may_update(self) -> None:
        for words, lines in (({"update", "scaler"}, []), ({"update"}, [3]), ({"scaler"}, [3])):
            ended = FileEnded(Site(99), (), (frozenset(words),))
            assert found("GTR306", made(1), *twice(scaled(2), through(3)), END, ended) == lines

    @pytest.mark.parametrize(
        "between", [update(4), update(4, explicit=True), escape(4, "scaler"), back(4, None, opaque=True)], ids=kinds
    )
    def test_silent_after(self, between: Event) -> None:
        assert found("GTR306", made(1), *twice(scaled(2), through(3), between), END, FILE) == []

    def test_several_optimizers_and_one_update(self) -> None:
        events = [made(1), made(2, OPT_B, B)]
        body = [scaled(3, BOTH), through(4), through(5, OPT_B, B), update(6)]
        assert found("GTR306", *events, *twice(*body), END, FILE) == []

    def test_one_step_in_a_loop_over_optimizers(self) -> None:
        assert found("GTR306", scaled(3), *twice(through(4)), update(5), END, FILE) == []

    def test_a_method_whose_caller_may_update(self) -> None:
        assert found("GTR306", scaled(3), through(4), clear(0, None, None), scaled(3), through(4), AGAIN, FILE) == []

    def test_update_while_another_waits(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3, BOTH), through(4), update(5)]
        (report,) = run("GTR306", *events, through(6, OPT_B, B), update(7), END)
        assert report.site == Site(5)
        assert "line 6" in report.message
        assert [site for _, site in report.trace] == [Site(3), Site(5), Site(6)]

    def test_update_forgets_that_it_was_unscaled(self) -> None:
        events = [made(1), scaled(3), unscale(4), update(5), through(6), END]
        (report,) = run("GTR306", *events)
        assert report.site == Site(5)
        assert "once more" in report.message

    @pytest.mark.parametrize(
        "after",
        [
            [clear(6, OPT_B, B), scaled(7, B), through(8, OPT_B, B)],
            [scaled(6, B), through(7, OPT_B, B)],
            [step(6, OPT_B, B)],
            [escape(6, "optimizer b"), through(7, OPT_B, B)],
            [through(6, OPT_B, B, OTHER)],
            [through(6, OPT_B, None)],
        ],
        ids=kinds,
    )
    def test_nothing_stale_is_used(self, after: list[Event]) -> None:
        events: list[Event] = [made(1), made(2, OPT_B, None if after[-1] == through(6, OPT_B, None) else B)]
        assert found("GTR306", *events, scaled(3, BOTH), through(4), update(5), *after, END) == []

    def test_two_scalers_and_explicit_updates(self) -> None:
        events = [made(1), made(2, OPT_B, B), scaled(3), scaled(4, B, OTHER), through(5), update(6)]
        assert found("GTR306", *events, through(7, OPT_B, B, OTHER), update(8, OTHER), END) == []
        explicit = [scaled(3, BOTH), through(4), update(5, explicit=True), through(6, OPT_B, B), END]
        assert found("GTR306", made(1), made(2, OPT_B, B), *explicit) == []
