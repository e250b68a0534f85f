"""The monitors of the rules on clipping, scaling, kept graphs and steps, fed with events by hand."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
from fake_watch import FakeWatch, Report, drive

from flake8_gradtrap.events import (
    Accumulated,
    Backpropagated,
    Cleared,
    Clipped,
    Differentiated,
    Emptied,
    Escaped,
    Event,
    FileEnded,
    FunctionLeft,
    Iterated,
    IterationStarted,
    IteratorMade,
    LoopLeft,
    LoopStarted,
    OptimizerMade,
    Owners,
    ReadOut,
    RunEnded,
    ScalerUpdated,
    Site,
    Stepped,
    Stored,
    Thing,
    Unscaled,
)
from flake8_gradtrap.rule import Change, all_rules

A, B = frozenset({"model a"}), frozenset({"model b"})
BOTH = A | B
OPT_A, OPT_B = Thing("optimizer a", "opt_a"), Thing("optimizer b", "opt_b")
SCALER, OTHER = Thing("scaler", "scaler"), Thing("other scaler", "other")
LOSS = Thing("loss", "loss")
END = RunEnded(Site(99))
FILE = FileEnded(Site(99))
AGAIN = RunEnded(Site(99), again=True)


def run(code: str, *events: Event) -> list[Report]:
    return drive(all_rules()[code], events)


def kinds(value: object) -> str:
    """A name for a case that is the same in each process: events hold sets, which are written in any order."""
    if isinstance(value, list | tuple):
        return "-".join(map(kinds, value))
    return type(value).__name__ if isinstance(value, Event) else str(value)


def lines(reports: list[Report]) -> list[Hashable]:
    return [report.site.node for report in reports]


def found(code: str, *events: Event) -> list[Hashable]:
    return lines(run(code, *events))


def made(line: int, optimizer: Thing = OPT_A, owners: Owners = A) -> OptimizerMade:
    return OptimizerMade(Site(line), optimizer, owners)


def back(line: int, owners: Owners = A, loss: Thing = LOSS, **more: Any) -> Backpropagated:
    return Backpropagated(Site(line), loss, owners=owners, **more)


def scaled(line: int, owners: Owners = A, scaler: Thing | None = SCALER) -> Backpropagated:
    return back(line, owners, scaler=scaler, scaled=True)


def clip(line: int, owners: Owners = A, **more: Any) -> Clipped:
    return Clipped(Site(line), Thing("target", "model.parameters()"), "clip_grad_norm_", owners, **more)


def unscale(line: int, optimizer: Thing | None = OPT_A, owners: Owners = A, scaler: Thing = SCALER) -> Unscaled:
    return Unscaled(Site(line), scaler, optimizer, owners)


def step(line: int, optimizer: Thing = OPT_A, owners: Owners = A, closure: bool = False) -> Stepped:
    return Stepped(Site(line), optimizer, owners, closure=closure)


def through(line: int, optimizer: Thing = OPT_A, owners: Owners = A, scaler: Thing = SCALER) -> Stepped:
    return Stepped(Site(line), optimizer, owners, scaler)


def update(line: int, scaler: Thing = SCALER, explicit: bool = False) -> ScalerUpdated:
    return ScalerUpdated(Site(line), scaler, explicit)


def clear(line: int, optimizer: Thing | None = OPT_A, owners: Owners = A) -> Cleared:
    return Cleared(Site(line), optimizer, owners)


def escape(line: int, *keys: str, to: str = "helper") -> Escaped:
    return Escaped(Site(line), tuple(Thing(key, key) for key in keys), to)


def twice(*body: Event, loop: str = "loop") -> list[Event]:
    """A loop whose body runs twice."""
    return [
        LoopStarted(Site(1), loop),
        IterationStarted(Site(1), loop, 0),
        *body,
        IterationStarted(Site(1), loop, 1),
        *body,
        LoopLeft(Site(1), loop),
    ]


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


def total(number: int) -> Thing:
    return Thing(f"total {number}", "total")


def summed(line: int, number: int, history: bool | None = True, loop: str | None = "loop", **more: Any) -> Accumulated:
    """`total += loss`: the term of iteration `number`."""
    term = more.pop("term", Thing(f"loss {number}", "loss"))
    return Accumulated(Site(line), term, total(number), total(number - 1), history, loop, **more)


def walked(line: int, number: int, **more: Any) -> Backpropagated:
    """`loss.backward()` of iteration `number`."""
    return back(line, loss=Thing(f"loss {number}", "loss"), **more)


START, LEFT = LoopStarted(Site(1), "loop"), LoopLeft(Site(9), "loop")


def turn(index: int) -> IterationStarted:
    return IterationStarted(Site(1), "loop", index)


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
        assert found("GTR501", *two, *twice(back(3, None), step(4, owners=None)), END) == []

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
