"""The monitors of the rules on iterators and on broken gradient paths, fed with events by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_watch import FakeWatch, Report, drive

from flake8_gradtrap.events import (
    Backpropagated,
    Event,
    GradientForced,
    Iterated,
    IteratorMade,
    Produced,
    Rewrapped,
    RunEnded,
    Site,
    Term,
    Thing,
)
from flake8_gradtrap.rule import all_rules

P = Thing("it", "params")
STREAM = Thing("stream", "batches")
LOSS = Thing("loss", "loss")
TOTAL = Thing("total", "total")


def run(code: str, *events: Event) -> list[Report]:
    return drive(all_rules()[code], events)


def ended(code: str, *events: Event) -> list[Report]:
    """What a rule says whose findings wait for the end of the run."""
    return run(code, *events, RunEnded(Site(98)))


def made(line: int, thing: Thing = P, parameters: bool = True, assumed: bool = False) -> IteratorMade:
    return IteratorMade(Site(line), thing, "`model.parameters()`", parameters, assumed)


def used(line: int, by: str = "`for`", thing: Thing = P, **more: Any) -> Iterated:
    return Iterated(Site(line), thing, by, **more)


def inside(line: int, call: int, by: str = "`for`", thing: Thing = P, **more: Any) -> Iterated:
    return Iterated(Site(line, Site(call)), thing, by, through=Site(call), **more)


def back(line: int, *terms: Term, loss: Thing = LOSS) -> Backpropagated:
    return Backpropagated(Site(line), loss, terms=terms)


def lines(reports: list[Report]) -> list[Any]:
    return [report.site.node for report in reports]


LIVE = Term("", Site(99))


class TestOneShotIteratorReused:
    def test_optimizer_then_clip(self) -> None:
        (report,) = run("GTR101", made(1), used(2, "`AdamW`"), used(5, "`clip_grad_norm_`"))
        assert report.site == Site(5)
        assert report.message == ("clips nothing: `params` was used up by `AdamW` at line 2; make it a list at line 1")
        assert [site.node for _, site in report.trace] == [1, 2, 5]
        assert report.remedy is not None
        assert report.remedy.safe
        assert [(c.kind, c.site.node, c.before, c.after) for c in report.remedy.changes] == [("wrap", 1, "list(", ")")]

    def test_each_step_the_same_line(self) -> None:
        (report,) = run("GTR101", made(1), used(4, "`clip_grad_norm_`"), used(4, "`clip_grad_norm_`"))
        assert report.site == Site(4)
        assert report.message.startswith("clips nothing from the second time on")

    def test_each_place_that_finds_it_exhausted_once(self) -> None:
        events = (made(1), used(2, "`sum`"), used(3, "`AdamW`"), used(4), used(3, "`AdamW`"))
        assert sorted(set(lines(run("GTR101", *events)))) == [3, 4]

    def test_what_else_it_does(self) -> None:
        for by, start in {
            "`for`": "this loop runs over nothing",
            "`AdamW`": "`AdamW` gets no parameters to train",
            "SGD": "`SGD` gets no parameters to train",
            "`ema.update`": "`ema.update` iterates over nothing",
            "`update_ema`": "`update_ema` averages nothing",
            "a comprehension": "a comprehension iterates over nothing",
            "`accelerator.clip_grad_norm_`": "clips nothing",
            "`clip_grad_value_`": "fails with a RuntimeError",
        }.items():
            (report,) = run("GTR101", made(1), used(2), used(3, by))
            assert report.message.startswith(start)

    def test_callee_that_loops_twice_is_reported_at_the_call(self) -> None:
        (report,) = run("GTR101", made(20), inside(3, call=20), inside(6, call=20))
        assert report.site == Site(20)
        assert report.message.startswith("the function called here loops over")
        assert [site.node for _, site in report.trace] == [20, 3, 6]

    def test_callee_that_gets_an_exhausted_one(self) -> None:
        (report,) = run("GTR101", made(20), used(21, "`Adam`"), inside(3, call=22, thing=Thing("it", "parameters")))
        assert report.site == Site(22)
        assert "`params` was used up by `Adam` at line 21" in report.message

    def test_handed_to_a_callee_in_each_step(self) -> None:
        (report,) = run("GTR101", made(20), inside(3, call=22), inside(3, call=22))
        assert report.site == Site(22)
        assert "from the second time on" in report.message

    def test_part_of_an_exhausted_one(self) -> None:
        assert lines(run("GTR101", made(1), used(2), used(3, "`in`", whole=False))) == [3]

    def test_a_stream_is_not_made_a_list_without_asking(self) -> None:
        (report,) = run("GTR101", made(1, STREAM, parameters=False), used(3, thing=STREAM), used(3, thing=STREAM))
        assert report.remedy is not None
        assert not report.remedy.safe

    def test_merged_paths_agree(self) -> None:
        """Which optimizer used it up is no difference between paths."""
        one, other = FakeWatch(), FakeWatch()
        drive(all_rules()["GTR101"], [made(1), used(3, "`Adam`")], one)
        drive(all_rules()["GTR101"], [made(1), used(5, "`SGD`")], other)
        assert one.memory == other.memory

    @pytest.mark.parametrize(
        "events",
        [
            (made(1), used(2)),
            (made(1), used(2), made(1), used(2)),
            (made(1), used(2, whole=None), used(3)),
            (made(1), used(2, whole=False), used(3)),
            (made(1), used(2, "`next`", single=True, whole=False), used(2, "`next`", single=True, whole=False)),
            (made(1), used(2), used(3, "`next`", single=True, whole=False)),
            (made(1, assumed=True), used(2), used(3)),
            (used(2), used(3)),
            (made(1), made(2, STREAM), used(3), used(4, thing=STREAM)),
        ],
        ids=["once", "fresh", "maybe", "part", "next", "next-after", "assumed", "unknown-origin", "two-iterators"],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert run("GTR101", *events) == []


class TestOneShotIteratorPartlyConsumed:
    def test_next_then_optimizer(self) -> None:
        (report,) = run("GTR102", made(1), used(2, "`next`", whole=False, single=True), used(3, "`Adam`"))
        assert report.site == Site(3)
        assert report.message == (
            "`Adam` misses what `next` took from `params` at line 2; take it from a fresh `model.parameters()`"
        )
        assert report.remedy is None, "a list has no `next`"
        assert not report.preview

    @pytest.mark.parametrize("by", ["`for`", "`in`", "`zip`"])
    def test_other_parts(self, by: str) -> None:
        (report,) = run("GTR102", made(1), used(2, by, whole=False), used(3))
        assert report.site == Site(3)
        assert report.message.startswith("this loop misses")
        assert report.remedy is not None
        assert report.remedy.safe

    def test_a_loop_that_may_be_left_early(self) -> None:
        assert lines(run("GTR102", made(1), used(2, whole=None), used(5))) == [5]

    def test_the_rest_goes_to_a_visible_function(self) -> None:
        first = used(2, "`next`", whole=False, single=True)
        assert lines(run("GTR102", made(1), first, inside(30, call=3))) == [3]

    def test_search_in_a_stream_is_preview(self) -> None:
        stream = made(1, STREAM, parameters=False)
        (report,) = run("GTR102", stream, used(2, "`in`", STREAM, whole=False), used(3, thing=STREAM))
        assert report.preview

    @pytest.mark.parametrize(
        "events",
        [
            (made(1), used(2, "`Adam`")),
            (made(1), used(2, "`next`", whole=False, single=True), used(3)),
            (made(1), used(2, "`next`", whole=False, single=True), used(3, "a comprehension")),
            (made(1), used(2, "`next`", whole=False, single=True), used(2, "`next`", whole=False, single=True)),
            (made(1), used(2, whole=False), used(2, whole=False)),
            (made(1), used(2, whole=False), used(3, whole=None)),
            (made(1), used(2, whole=False), made(1), used(3)),
            (made(1), used(2), used(3, whole=False), used(4)),
            (made(1, assumed=True), used(2, whole=False), used(3)),
            (made(1, STREAM, False), used(2, "`next`", STREAM, whole=False, single=True), used(3, "`f`", STREAM)),
            (made(1, STREAM, False), used(2, "`for`", STREAM, whole=False), used(3, "`for`", STREAM)),
        ],
        ids=[
            "whole",
            "fold",
            "fold-comprehension",
            "next-only",
            "chunks",
            "maybe",
            "fresh",
            "exhausted",
            "assumed",
            "stream-next",
            "resume",
        ],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert run("GTR102", *events) == []


class TestIterableParameterIteratedTwice:
    def test_the_definition(self) -> None:
        (report,) = run("GTR103", made(1, assumed=True), used(3, "a comprehension"), used(5))
        assert report.site == Site(5)
        assert "start the function with `params = list(params)`" in report.message
        assert "line 3" in report.message
        assert report.remedy is not None
        assert report.remedy.safe
        (change,) = report.remedy.changes
        assert (change.kind, change.site.node, change.before) == ("function-top", 1, "params = list(params)")

    def test_the_same_loop_again(self) -> None:
        assert lines(run("GTR103", made(1, assumed=True), used(3), used(3))) == [3]

    def test_a_caller_hands_a_generator_over(self) -> None:
        (report,) = run("GTR103", made(20), inside(3, call=20), inside(6, call=20))
        assert report.site == Site(6)
        assert report.remedy is None

    def test_exhausted_before_it_is_handed_over(self) -> None:
        events = made(20), used(21, "`Adam`"), inside(3, call=22), inside(6, call=22)
        assert lines(run("GTR103", *events)) == [6]

    def test_the_function_hands_it_on_to_two_others(self) -> None:
        """Neither callee loops twice: the function between them and the caller does."""
        call = Site(20)
        norm = Iterated(Site(40, Site(3, call)), P, "`for`", through=call)
        scale = Iterated(Site(50, Site(4, call)), P, "`for`", through=call)
        (report,) = run("GTR103", made(20), norm, scale)
        assert report.site == Site(4)
        assert report.message.startswith("this call gets nothing")

    def test_an_argument_that_is_handed_on_twice(self) -> None:
        events = made(1, assumed=True), inside(40, call=2), inside(50, call=3)
        assert lines(run("GTR103", *events)) == [3]

    @pytest.mark.parametrize(
        "events",
        [
            (made(1, assumed=True), used(3)),
            (made(1, assumed=True), used(3, whole=None), used(4)),
            (made(1, assumed=True), used(3, "`next`", whole=False, single=True), used(4)),
            (made(1), used(3), used(4)),
            (made(20), inside(3, call=21), inside(3, call=21)),
            (made(20), inside(3, call=21), inside(3, call=22)),
            (made(20), inside(3, call=21), made(20), inside(6, call=21)),
        ],
        ids=["once", "maybe", "next", "at-home", "same-callee-each-step", "two-calls", "fresh"],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert run("GTR103", *events) == []


class TestReadoutInDifferentiablePath:
    TERM = Term("readout", Site(4), "loss.item()", had_history=True)

    def test_a_term_of_the_loss(self) -> None:
        (report,) = run("GTR201", back(7, LIVE, self.TERM))
        assert report.site == Site(4)
        assert report.message.startswith("`loss.item()` is a plain number: the loss does not train this term")
        assert [site.node for _, site in report.trace] == [4, 7]

    def test_all_of_the_loss(self) -> None:
        (report,) = run("GTR201", back(7, replace(self.TERM, whole=True)))
        assert "`backward()` raises" in report.message

    def test_a_term_of_what_forward_returns(self) -> None:
        assert lines(run("GTR201", Produced(Site(9), TOTAL, "forward", (LIVE, self.TERM)))) == [4]

    @pytest.mark.parametrize("additive", [True, False])
    def test_a_parameter_also_as_a_factor(self, additive: bool) -> None:
        term = Term("readout", Site(4), "self.scale.item()", True, additive, parameter=True)
        (report,) = run("GTR201", Produced(Site(9), TOTAL, "forward", (LIVE, term)))
        assert "gets no gradient" in report.message

    @pytest.mark.parametrize("change", [{"additive": False}, {"had_history": False}, {"had_history": None}])
    def test_silent_for_weights_counts_and_unknowns(self, change: dict[str, Any]) -> None:
        assert run("GTR201", back(7, LIVE, replace(self.TERM, **change))) == []

    def test_silent_for_a_metric_that_forward_returns(self) -> None:
        assert run("GTR201", Produced(Site(9), TOTAL, "forward", (replace(self.TERM, whole=True),))) == []

    def test_silent_for_other_cuts(self) -> None:
        assert run("GTR201", back(7, LIVE, replace(self.TERM, cut="detach"))) == []


class TestRewrappedTensor:
    COPY = Rewrapped(Site(4), LOSS, TOTAL, "torch.tensor", had_history=True)
    TERM = Term("rewrap", Site(4), "torch.tensor(loss)", had_history=True)
    END = RunEnded(Site(90))

    def test_the_gradient_is_cut(self) -> None:
        (report,) = run("GTR202", self.COPY, back(7, LIVE, self.TERM), self.END)
        assert (report.site, report.severity) == (Site(4), "error")
        assert "the loss does not train this term" in report.message

    def test_the_whole_gradient_is_cut(self) -> None:
        (report,) = run("GTR202", self.COPY, back(7, replace(self.TERM, whole=True)), self.END)
        assert "`backward()` raises" in report.message

    def test_several_are_stacked(self) -> None:
        (report,) = run("GTR202", replace(self.COPY, several=True), back(7, LIVE, self.TERM), self.END)
        assert "torch.stack" in report.message

    def test_cut_in_another_run(self) -> None:
        (report,) = run("GTR202", back(7, LIVE, self.TERM), self.END)
        assert report.severity == "error"

    def test_of_numbers_on_another_path(self) -> None:
        several = replace(self.COPY, several=True)
        assert run("GTR202", several, back(7, LIVE, self.TERM), replace(several, had_history=False), self.END) == []

    def test_returned_by_forward(self) -> None:
        (report,) = run("GTR202", self.COPY, Produced(Site(9), TOTAL, "forward", (LIVE, self.TERM)), self.END)
        assert report.severity == "error"

    def test_a_wasteful_copy(self) -> None:
        (report,) = run("GTR202", self.COPY, self.END)
        assert (report.site, report.severity) == (Site(4), "info")
        assert ".detach()" in report.message

    @pytest.mark.parametrize("had_history", [False, None])
    def test_a_wasteful_copy_of_data(self, had_history: bool | None) -> None:
        (report,) = run("GTR202", replace(self.COPY, had_history=had_history), self.END)
        assert ".clone()" in report.message

    def test_a_coefficient_is_a_copy_only(self) -> None:
        (report,) = run("GTR202", self.COPY, back(7, LIVE, replace(self.TERM, additive=False)), self.END)
        assert report.severity == "info"

    @pytest.mark.parametrize(
        "events",
        [
            (COPY, GradientForced(Site(4), TOTAL, "torch.tensor(…)", False), back(7, TERM), END),
            (GradientForced(Site(4), TOTAL, "torch.tensor(…)", False), COPY, back(7, TERM), END),
            (COPY, GradientForced(Site(5), TOTAL, "requires_grad_()", False), back(7, TERM), END),
            (replace(COPY, had_history=False, several=True), END),
            (replace(COPY, had_history=False, how="torch.from_numpy"), END),
            (COPY,),
        ],
        ids=["forced-at-once", "forced-first", "forced-later", "list-of-data", "numpy", "not-over"],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert run("GTR202", *events) == []


class TestDetachedLoss:
    TERM = Term("detach", Site(4), "penalty.detach()", had_history=True)

    def test_a_term(self) -> None:
        (report,) = ended("GTR203", back(7, LIVE, self.TERM))
        assert report.site == Site(4)
        assert "was detached by `penalty.detach()`" in report.message

    def test_all_of_it(self) -> None:
        (report,) = ended("GTR203", back(7, replace(self.TERM, whole=True)))
        assert report.site == Site(7)
        assert "raises" in report.message
        assert "line 4" in report.message

    def test_no_grad(self) -> None:
        cut = replace(self.TERM, cut="no_grad")
        (report,) = ended("GTR203", back(7, LIVE, cut))
        assert "was computed with gradients off" in report.message

    def test_no_grad_under_a_condition(self) -> None:
        cut = replace(self.TERM, cut="no_grad")
        assert ended("GTR203", back(7, LIVE, cut), back(7, LIVE)) == []  # the same backward, alive on another path
        assert lines(ended("GTR203", back(7, LIVE, cut), back(8, LIVE))) == [4]

    def test_detached_under_a_condition(self) -> None:
        cut = replace(self.TERM, addend=Site(6))
        assert lines(ended("GTR203", back(7, LIVE, cut), back(7, LIVE))) == [6]
        assert (
            ended("GTR203", back(7, LIVE, cut), back(7, LIVE, Term("", Site(3), had_history=True, addend=Site(6))))
            == []
        )
        whole = replace(self.TERM, whole=True)
        assert ended("GTR203", back(7, whole), back(7, LIVE)) == []

    def test_returned_by_a_loss_function(self) -> None:
        assert lines(ended("GTR203", Produced(Site(9), LOSS, "training_step", (LIVE, self.TERM)))) == [4]

    @pytest.mark.parametrize(
        "events",
        [
            (back(7, LIVE, replace(TERM, additive=False)),),
            (back(7, LIVE, replace(TERM, had_history=False)),),
            (back(7, LIVE, replace(TERM, had_history=None)),),
            (GradientForced(Site(5), LOSS, "requires_grad_()", False), back(7, replace(TERM, whole=True))),
            (back(7, replace(TERM, cut="forced", whole=True)),),
            (Produced(Site(9), LOSS, "training_step", (replace(TERM, whole=True),)),),
            (Produced(Site(9), LOSS, "forward", (LIVE, TERM)),),
        ],
        ids=[
            "weight",
            "constant",
            "unknown",
            "laundered",
            "forced",
            "returned-for-the-log",
            "stop-gradient-in-forward",
        ],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert ended("GTR203", *events) == []


class TestLossLaundered:
    FORCED = GradientForced(Site(5), LOSS, "loss.requires_grad = True", False)
    TERM = Term("forced", Site(5), "loss.requires_grad = True", had_history=True, whole=True)

    def test_backward(self) -> None:
        (report,) = ended("GTR209", self.FORCED, back(7, self.TERM))
        assert (report.site, report.severity) == (Site(5), "error")
        assert report.message.startswith("`backward()` runs and trains nothing: `loss.requires_grad = True`")
        assert [site.node for _, site in report.trace] == [5, 7]

    def test_known_by_the_loss_itself(self) -> None:
        assert lines(ended("GTR209", self.FORCED, back(7))) == [5]

    def test_a_term(self) -> None:
        (report,) = ended("GTR209", self.FORCED, back(7, LIVE, replace(self.TERM, whole=False), loss=TOTAL))
        assert report.message.startswith("the loss does not train this term")

    def test_returned_by_training_step(self) -> None:
        assert lines(ended("GTR209", self.FORCED, Produced(Site(9), LOSS, "training_step", (self.TERM,)))) == [5]

    def test_a_value_of_unknown_history_that_is_all(self) -> None:
        assert lines(ended("GTR209", self.FORCED, back(7, replace(self.TERM, had_history=None), loss=TOTAL))) == [5]

    def test_unknown_whether_alive_but_cut(self) -> None:
        assert lines(ended("GTR209", replace(self.FORCED, live=None), back(7, self.TERM))) == [5]

    def test_alive_on_another_path(self) -> None:
        assert ended("GTR209", self.FORCED, back(7, self.TERM), replace(self.FORCED, live=True)) == []

    @pytest.mark.parametrize(
        "events",
        [
            (FORCED,),
            (FORCED, back(7, LIVE, loss=TOTAL)),
            (replace(FORCED, live=True), back(7, LIVE)),
            (replace(FORCED, live=None), back(7)),
            (replace(FORCED, live=None), back(7, replace(TERM, had_history=None))),
            (FORCED, back(7, LIVE, replace(TERM, additive=False, whole=False), loss=TOTAL)),
            (FORCED, Produced(Site(9), LOSS, "forward", (TERM,))),
        ],
        ids=["input", "adversarial", "alive", "unknown", "unknown-term", "factor", "split-learning"],
    )
    def test_silent(self, events: tuple[Event, ...]) -> None:
        assert ended("GTR209", *events) == []


@pytest.mark.parametrize("code", ["GTR101", "GTR102", "GTR103", "GTR201", "GTR202", "GTR203", "GTR209"])
def test_a_rule_is_complete(code: str) -> None:
    rule = all_rules()[code]
    assert rule.name.islower()
    assert rule.words
    assert rule.fix in ("safe", "unsafe", "")
    doc = rule.doc()
    headings = [line for line in doc.splitlines() if line.startswith("## ")]
    assert headings == [
        "## What it does",
        "## Why it is a trap",
        "## Known limits",
        "## Trap",
        "## Fixed",
        "## References",
    ]
    assert doc.count("```python") == 2
