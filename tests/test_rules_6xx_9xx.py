"""The monitors of the rules on modes and on gradients of gradients, fed with events by hand."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from fake_watch import Report, drive

from flake8_gradtrap.events import (
    Backpropagated,
    Cleared,
    Differentiated,
    Escaped,
    Event,
    Forwarded,
    FunctionLeft,
    GradientModeSet,
    IterationStarted,
    LoopLeft,
    LoopStarted,
    ModeRead,
    ModeSet,
    Owners,
    Produced,
    ReadOut,
    RunEnded,
    Site,
    Stepped,
    Term,
    Thing,
)
from flake8_gradtrap.rule import Change, all_rules

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


MODEL, OTHER = Thing("model", "model"), Thing("other", "other")
OPTIMIZER = Thing("optimizer", "optimizer")


def to_eval(line: int, module: Thing = MODEL, **more: Any) -> ModeSet:
    return ModeSet(Site(line), module, False, frozenset({module.key}), **more)


def to_train(line: int, module: Thing = MODEL, training: bool | None = True) -> ModeSet:
    return ModeSet(Site(line), module, training, frozenset({module.key}))


def call(line: int, output: str, module: Thing = MODEL, recorded: bool | None = True, **more: Any) -> Forwarded:
    return Forwarded(Site(line), module, frozenset({output}), recorded, **more)


def back(line: int, *reaches: str) -> Backpropagated:
    return Backpropagated(Site(line), LOSS, frozenset(reaches), owners=frozenset({"model"}))


def step(line: int, owners: Owners = frozenset({"model"})) -> Stepped:
    return Stepped(Site(line), OPTIMIZER, owners)


def loop(name: str, *body: Event) -> list[Event]:
    start = [LoopStarted(Site(1), name), IterationStarted(Site(1), name, 0), *body]
    return [*start, IterationStarted(Site(1), name, 1), *body, LoopLeft(Site(1), name)]


END = RunEnded(Site(99))


class TestEvaluationRecordsGraph:
    def test_a_loop_in_evaluation_mode(self) -> None:
        (report,) = run("GTR601", to_eval(2), *loop("val", call(4, "out")), END)
        assert report.site == Site(4)
        assert [site for _, site in report.trace] == [Site(2), Site(4)]

    def test_the_fix_decorates_a_function_that_only_looks(self) -> None:
        where = Site(1)
        (report,) = run("GTR601", to_eval(2), *loop("val", call(4, "out", definition=where, only_looks=True)), END)
        assert report.remedy is not None
        assert report.remedy.changes == (Change("decorate", where, "@torch.no_grad()", imports="torch"),)

    def test_one_finding_a_function(self) -> None:
        where = Site(1)
        calls = [call(4, "a", definition=where), call(5, "b", definition=where)]
        assert found("GTR601", to_eval(2), *loop("val", *calls), END) == [4]

    def test_silent_where_gradients_are_off_or_a_setting_decides(self) -> None:
        for recorded in (False, None):
            assert found("GTR601", to_eval(2), *loop("val", call(4, "out", recorded=recorded)), END) == []

    def test_silent_where_something_goes_backward(self) -> None:
        assert found("GTR601", to_eval(2), *loop("val", call(4, "out"), back(5, "out")), END) == []
        assert found("GTR601", to_eval(2), *loop("val", call(4, "out"), back(5, "another")), END) == []
        differentiated = Differentiated(Site(5), frozenset({"out"}))
        assert found("GTR601", to_eval(2), *loop("val", call(4, "out")), differentiated, END) == []

    def test_silent_where_it_leaves_or_could_not_be_read(self) -> None:
        left = FunctionLeft(Site(8), "features", reaches=frozenset({"out"}))
        assert found("GTR601", to_eval(2), *loop("val", call(4, "out")), left, END) == []
        read = ReadOut(Site(5), Thing("array"), ".numpy()", frozenset({"out"}))
        assert found("GTR601", to_eval(2), *loop("val", call(4, "out"), read), END) == []

    def test_silent_in_training_mode_and_by_a_constructor(self) -> None:
        assert found("GTR601", to_eval(2), to_train(3), *loop("val", call(4, "out")), END) == []
        assert found("GTR601", to_eval(2, OTHER), *loop("val", call(4, "out")), END) == []
        assert found("GTR601", to_eval(2, setup=True), *loop("val", call(4, "out")), END) == []


class TestTrainModeNotRestored:
    TRAIN = (call(3, "out"), back(4, "out"), step(5))
    VALIDATE = (to_eval(7), *loop("val", call(8, "seen", recorded=False)))

    def test_reported_at_the_eval_in_the_loop(self) -> None:
        (report,) = run("GTR602", *loop("epochs", *self.TRAIN, *self.VALIDATE), END)
        assert report.site == Site(7)
        assert [site.node for _, site in report.trace] == [7, 3, 4, 5]

    def test_gradients_may_have_been_on(self) -> None:
        validate = (to_eval(7), *loop("val", call(8, "seen")))
        assert found("GTR602", *loop("epochs", *self.TRAIN, *validate), END) == [7]

    def test_silent_with_train_or_a_remembered_mode(self) -> None:
        for training in (True, None):
            restored = to_train(2, training=training)
            assert found("GTR602", *loop("epochs", restored, *self.TRAIN, *self.VALIDATE), END) == []
        asked = ModeRead(Site(6), MODEL)
        assert found("GTR602", *loop("epochs", *self.TRAIN, asked, *self.VALIDATE), END) == []

    def test_silent_without_an_evaluation(self) -> None:
        assert found("GTR602", *loop("epochs", *self.TRAIN, to_eval(7)), END) == []

    def test_silent_for_another_module_or_optimizer(self) -> None:
        other = (to_eval(7, OTHER), *loop("val", call(8, "seen", OTHER, recorded=False)))
        assert found("GTR602", *loop("epochs", *self.TRAIN, *other), END) == []
        attack = (call(3, "out"), back(4, "out"), step(5, frozenset({"other"})))
        assert found("GTR602", *loop("epochs", *attack, *self.VALIDATE), END) == []

    def test_silent_where_the_loop_is_over_or_the_model_escapes(self) -> None:
        assert found("GTR602", *self.VALIDATE, *loop("epochs", *self.TRAIN), END) == []
        escaped = Escaped(Site(9), (MODEL,), "prepare")
        assert found("GTR602", *loop("epochs", *self.TRAIN, *self.VALIDATE, escaped), END) == []


class TestGradientsLeftOff:
    @staticmethod
    def without_graph(line: int) -> Backpropagated:
        return Backpropagated(Site(line), LOSS, recorded=False)

    def test_reported_at_the_switch(self) -> None:
        (report,) = run("GTR604", GradientModeSet(Site(2), False), self.without_graph(9), END)
        assert report.site == Site(2)
        assert [site for _, site in report.trace] == [Site(2), Site(9)]

    def test_silent_when_switched_on_or_computed_before(self) -> None:
        for enabled in (True, None):
            switches = (GradientModeSet(Site(2), False), GradientModeSet(Site(3), enabled))
            assert found("GTR604", *switches, self.without_graph(9), END) == []
        with_graph = Backpropagated(Site(9), LOSS, recorded=True)
        assert found("GTR604", GradientModeSet(Site(2), False), with_graph, END) == []


class TestEvaluationInTrainMode:
    EVALUATED = call(4, "out", recorded=False, function="validate")

    def test_reported_in_a_function_that_evaluates(self) -> None:
        (report,) = run("GTR603", to_train(2), self.EVALUATED, END)
        assert report.site == Site(4)
        assert [site for _, site in report.trace] == [Site(2), Site(4)]

    def test_silent_where_the_mode_is_another_or_not_known(self) -> None:
        for after in (to_eval(3), to_train(3, training=None), Escaped(Site(3), (MODEL,), "prepare")):
            assert found("GTR603", to_train(2), after, self.EVALUATED, END) == []
        assert found("GTR603", to_train(2, OTHER), self.EVALUATED, END) == []

    def test_silent_where_it_trains(self) -> None:
        for function, recorded in (("validate", True), ("rollout", False)):
            assert found("GTR603", to_train(2), call(4, "out", recorded=recorded, function=function), END) == []


class TestCreateGraphLeak:
    @staticmethod
    def creating(line: int) -> Backpropagated:
        return Backpropagated(Site(line), LOSS, owners=frozenset({"model"}), creates=True)

    def test_reported_when_nothing_clears(self) -> None:
        (report,) = run("GTR902", self.creating(3), END)
        assert report.site == Site(3)
        assert found("GTR902", *loop("steps", self.creating(3)), END) == [3]

    def test_silent_when_cleared_or_out_of_sight(self) -> None:
        for owners in (frozenset({"model"}), None):
            assert found("GTR902", self.creating(3), Cleared(Site(4), None, owners), END) == []
        assert found("GTR902", self.creating(3), Escaped(Site(4), (MODEL,), "prepare"), END) == []
        assert found("GTR902", back(3, "out"), END) == []
