"""`runtime.watch`: what it measures of a loop, and that it leaves the loop as it was."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from flake8_gradtrap.runtime import Dynamic, Static, clip_probe, watch
from flake8_gradtrap.runtime.clipping import percentile
from flake8_gradtrap.runtime.testing import assert_trains


class Loop:
    """A small real training loop, of which each test changes one thing."""

    def __init__(self, **optimizer: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, **optimizer)
        self.x, self.y = torch.randn(32, 8), torch.randn(32, 1)
        self.norms: list[float] = []

    def loss(self) -> Any:
        return nn.functional.mse_loss(self.model(self.x), self.y)

    def backward(self) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.norms.append(
            torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in self.model.parameters()])).item()
        )
        return loss

    def step(self) -> None:
        self.backward()
        self.optimizer.step()

    def weights(self) -> Any:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    assert not made.model._forward_hooks, "a hook was left on the model"
    assert not any(module._forward_hooks for module in made.model.modules()), "a hook was left on a module"
    assert not made.optimizer._optimizer_step_pre_hooks, "a hook was left on the optimizer"
    assert not clip_probe._originals, "torch's clip is still wrapped"


def test_norms_updates_and_activations(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, every=2) as seen:
        for _ in range(6):
            start = loop.weights()
            loop.step()
    (group,) = seen.records.groups
    assert list(group.norms) == pytest.approx(loop.norms)
    assert (seen.records.steps, group.steps, group.non_finite) == (6, 6, 0)
    with watch(loop.model, loop.optimizer, every=1) as again:
        start = loop.weights()
        loop.step()
    moved = (loop.weights() - start).norm() / start.norm()
    assert again.records.groups[0].update_ratio == pytest.approx(moved.item(), rel=1e-4)
    assert set(seen.records.activations) == {"0", "1", "2"}
    assert 0 < seen.records.activations["1"].largest <= 1  # tanh
    assert seen.problems() == []
    assert "no trap was measured" in seen.report()


def test_the_weights_are_the_same_with_and_without() -> None:
    plain, watched = Loop(), Loop()
    for _ in range(5):
        plain.step()
    with watch(watched.model, watched.optimizer, every=1):
        for _ in range(5):
            watched.step()
    assert torch.equal(plain.weights(), watched.weights())


def test_own_clips_are_seen(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer) as seen:
        for limit in (1e-3, 1e6):
            loop.backward()
            clip_grad_norm_(loop.model.parameters(), limit)
            loop.optimizer.step()
    assert (seen.records.clip.calls, seen.records.clip.changed) == (2, 1)
    assert list(seen.records.groups[0].norms) == pytest.approx(loop.norms)  # those before the clip
    assert seen.problems() == []


@pytest.mark.filterwarnings("ignore:.*empty generator")
def test_a_clip_of_an_exhausted_iterator(loop: Loop) -> None:
    parameters = loop.model.parameters()
    with watch(loop.model, loop.optimizer) as seen:
        for _ in range(3):
            loop.backward()
            clip_grad_norm_(parameters, 1e-3)
            loop.optimizer.step()
    (problem,) = seen.problems()
    assert "no parameters in 2 of 3 calls" in problem
    assert "GTR101" in problem


def test_a_clip_before_the_backward(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer) as seen:
        for _ in range(3):
            loop.optimizer.zero_grad()
            clip_grad_norm_(loop.model.parameters(), 1.0)
            loop.loss().backward()
            loop.optimizer.step()
    assert "without gradients in 3 of 3 calls" in seen.problems()[0]


@pytest.mark.parametrize("unscale", [True, False])
def test_a_clip_of_scaled_gradients(loop: Loop, unscale: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watch(loop.model, loop.optimizer, scaler) as seen:
        for _ in range(3):
            loop.optimizer.zero_grad()
            scaler.scale(loop.loss()).backward()
            if unscale:
                scaler.unscale_(loop.optimizer)
            clip_grad_norm_(loop.model.parameters(), 1.0)
            scaler.step(loop.optimizer)
            scaler.update()
    assert [("GTR301" in problem) for problem in seen.problems()] == ([] if unscale else [True])
    assert "_per_optimizer_states" in vars(scaler)
    assert len(scaler._per_optimizer_states) == 0, "looking made an entry"


def test_a_step_that_the_scaler_skips(loop: Loop) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watch(loop.model, loop.optimizer, scaler) as seen:
        for number in range(4):
            loop.optimizer.zero_grad()
            scaler.scale(loop.loss() * (float("inf") if number == 1 else 1.0)).backward()
            scaler.step(loop.optimizer)
            scaler.update()
    assert (seen.records.steps, seen.records.skipped) == (3, 1)


def test_gradients_that_nothing_clears(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, every=1) as seen:
        for _ in range(4):
            loop.loss().backward()
            loop.optimizer.step()
    assert "3 of 4 steps looked at" in seen.problems()[0] or "3 of 3 steps looked at" in seen.problems()[0]
    assert "GTR501" in seen.problems()[0]


def test_accumulation_is_no_left_over(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, every=1) as seen:
        for _ in range(4):
            for _ in range(3):
                (loop.loss() / 3).backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad(set_to_none=False)
    assert seen.problems() == []


def test_a_generator_s_loss_through_the_discriminator_is_no_left_over() -> None:
    torch.manual_seed(0)
    nets = nn.ModuleDict({"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)})
    g = torch.optim.Adam(nets["g"].parameters())
    d = torch.optim.Adam(nets["d"].parameters())
    with watch(nets, [d, g], every=1) as seen:
        for _ in range(5):
            d.zero_grad()
            (nets["d"](torch.randn(8, 4)).mean() - nets["d"](nets["g"](torch.randn(8, 4)).detach()).mean()).backward()
            d.step()
            g.zero_grad()
            (-nets["d"](nets["g"](torch.randn(8, 4))).mean()).backward()
            g.step()
    assert seen.problems() == []
    assert [group.name for group in seen.records.groups] == ["optimizer 0, group 0", "optimizer 1, group 0"]
    assert [group.steps for group in seen.records.groups] == [5, 5]


@pytest.mark.parametrize(("keep", "held"), [(lambda loss: loss, True), (lambda loss: loss.item(), False)])
def test_graphs_that_are_held(loop: Loop, keep: Callable[[Any], Any], held: bool) -> None:
    history = []
    with watch(loop.model, loop.optimizer, every=1) as seen:
        for _ in range(8):
            history.append(keep(loop.backward()))
            loop.optimizer.step()
    assert [("7 earlier steps" in problem) for problem in seen.problems()] == ([True] if held else [])


def test_coverage_both_ways(loop: Loop) -> None:
    stranger = nn.Parameter(torch.randn(2))
    loop.optimizer = torch.optim.SGD([*loop.model[0].parameters(), stranger], lr=0.1)
    with watch(loop.model, loop.optimizer) as seen:
        loop.loss().backward()
        loop.optimizer.step()
    assert seen.records.in_no_group == ["2.weight", "2.bias"]
    assert seen.records.not_in_model == ["group 0, parameter 2 (2,)"]
    assert any("in no optimizer, though they require gradients: 2.weight, 2.bias" in one for one in seen.problems())


def test_the_first_that_is_not_finite(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, every=1) as seen:
        loop.step()
        with torch.no_grad():
            loop.model[2].weight[0, 0] = float("inf")
        loop.step()
        loop.step()
    assert seen.records.groups[0].non_finite >= 1
    assert seen.records.first_bad_output == "the output of `2` at step 1"
    assert seen.records.first_bad_gradient is not None
    assert "not finite first: the output of `2`" in seen.report()


def test_the_gradient_that_broke_first(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, every=1) as seen:
        loop.step()
        handle = loop.model[1].register_full_backward_hook(lambda module, given, grad: (given[0] * float("inf"),))
        loop.step()
        handle.remove()
    assert seen.records.first_bad_gradient is not None
    assert seen.records.first_bad_gradient.startswith("the gradient of `0.")


def test_static_and_dynamic_clips(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer, clip=1e-3) as seen:
        start = loop.weights()
        loop.step()
    assert (loop.weights() - start).norm().item() == pytest.approx(0.05 * 1e-3, rel=1e-2)
    assert seen.records.groups[0].limited == 1
    assert seen.records.groups[0].norms[-1] == pytest.approx(loop.norms[-1])  # what it was before
    with watch(loop.model, loop.optimizer, clip=Dynamic(percentile=0, factor=0.5, warmup=2, floor=1e-9)) as seen:
        for _ in range(6):
            loop.step()
    assert seen.records.groups[0].limited > 0


def test_thresholds() -> None:
    assert Static(2.0, warmup=3).limit([1.0, 1.0]) is None
    assert Static(2.0, warmup=3).limit([1.0, 1.0, 1.0]) == 2.0
    seen = [float(value) for value in range(1, 102)]
    assert Dynamic(percentile=90, warmup=200).limit(seen) is None
    assert Dynamic(percentile=90, warmup=200, ceiling=5.0).limit(seen) == 5.0
    assert Dynamic(percentile=90, warmup=10).limit(seen) == 91.0
    assert Dynamic(percentile=50, warmup=10, window=11).limit(seen) == 96.0
    assert Dynamic(percentile=50, warmup=10, factor=2, ceiling=60.0).limit(seen) == 60.0
    assert Dynamic(percentile=50, warmup=10, floor=70.0).limit(seen) == 70.0
    for wrong in ({"percentile": 101}, {"floor": 2.0, "ceiling": 1.0}, {"factor": 0.0}, {"window": 0}):
        with pytest.raises(ValueError, match="must be"):
            Dynamic(**wrong)
    with pytest.raises(ValueError, match="above 0"):
        Static(0.0)


def test_percentile_is_that_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    for percent in (0, 10, 50, 90, 100):
        assert percentile(values, percent) == pytest.approx(numpy.percentile(values, percent))


def test_suggestion_state_and_picture(loop: Loop, tmp_path: Path) -> None:
    with watch(loop.model, loop.optimizer) as seen:
        with pytest.raises(ValueError, match="no step"):
            seen.suggest_clip()
        for _ in range(5):
            loop.step()
    assert seen.suggest_clip(100)["group 0"] == pytest.approx(max(loop.norms))
    state = seen.state_dict()
    with watch(loop.model, loop.optimizer) as resumed:
        resumed.load_state_dict(state)
        loop.step()
    assert resumed.records.steps == 6
    assert list(resumed.records.groups[0].norms) == pytest.approx(loop.norms)
    state["groups"][0]["name"] = "other"
    with pytest.raises(ValueError, match="parameter groups"):
        resumed.load_state_dict(state)
    pytest.importorskip("matplotlib")
    seen.plot(str(tmp_path / "norms.png"))
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_one_watch_a_model(loop: Loop) -> None:
    with watch(loop.model, loop.optimizer) as seen:
        assert watch(loop.model, loop.optimizer) is seen
        other = torch.optim.SGD(loop.model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="watched already"):
            watch(loop.model, other)
        loop.step()
    assert seen.records.steps == 1
    with watch(loop.model, loop.optimizer) as next_one:
        assert next_one is not seen
    seen.close()  # a second time: nothing happens


def test_wrong_arguments(loop: Loop) -> None:
    with pytest.raises(TypeError, match="model must be"):
        watch(loop.optimizer, loop.optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer must be"):
        watch(loop.model, [loop.model])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="every"):
        watch(loop.model, loop.optimizer, every=0)
    with pytest.raises(ValueError, match="no optimizer"):
        watch(loop.model, [])


def test_nothing_is_kept_alive() -> None:
    loop = Loop()
    seen = watch(loop.model, loop.optimizer)
    loop.step()
    gone = [weakref.ref(seen), weakref.ref(loop.model)]
    seen.close()
    del seen, loop
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_a_closure(loop: Loop) -> None:
    loop.optimizer = torch.optim.LBFGS(loop.model.parameters(), max_iter=3)

    def closure() -> Any:
        loop.optimizer.zero_grad()
        loss = loop.loss()
        loss.backward()
        return loss

    with watch(loop.model, loop.optimizer, every=1) as seen:
        for _ in range(3):
            loop.optimizer.step(closure)
    assert (seen.records.steps, seen.records.groups[0].steps) == (3, 3)
    assert seen.problems() == []


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    rows = torch.tensor([1, 1, 3])
    with watch(table, optimizer, every=1, clip=0.5) as seen:
        for _ in range(3):
            optimizer.zero_grad()
            start = table.weight.detach().clone()
            table(rows).sum().backward()
            optimizer.step()
    assert seen.records.groups[0].norms[-1] == pytest.approx((4 * 2**2 + 4 * 1**2) ** 0.5)  # row 1 twice, row 3 once
    assert (table.weight.detach() - start).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_subclass_that_calls_the_step_of_its_base_counts_once() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    loop = Loop()
    loop.optimizer = Twice(loop.model.parameters(), lr=0.1)
    with watch(loop.model, loop.optimizer) as seen:
        loop.step()
        loop.step()
    assert (seen.records.steps, seen.records.groups[0].steps) == (2, 2)


def test_a_compiled_model_says_what_cannot_be_seen(loop: Loop) -> None:
    loop.model._compiled_call_impl = lambda *args: None  # what model.compile() leaves behind
    with watch(loop.model, loop.optimizer) as seen:
        pass
    del loop.model._compiled_call_impl
    assert "compiled" in seen.records.notes[0]
    assert "note: the model is compiled" in seen.report()


def test_assert_trains() -> None:
    loop = Loop()
    assert assert_trains(loop.step, loop.model, loop.optimizer).records.steps == 10
    loop = Loop()
    losses = []

    def keeps() -> None:
        losses.append(loop.backward())
        loop.optimizer.step()

    with pytest.raises(AssertionError, match="GTR401"):
        assert_trains(keeps, loop.model, loop.optimizer)
    loop = Loop()
    with pytest.raises(AssertionError, match="no optimizer stepped"):
        assert_trains(loop.backward, loop.model, loop.optimizer)
    loop = Loop()

    def cut() -> None:
        loop.optimizer.zero_grad()
        nn.functional.mse_loss(loop.model[2](loop.model[:2](loop.x).detach()), loop.y).backward()
        loop.optimizer.step()

    with pytest.raises(AssertionError, match=r"unchanged after 10 steps: 0\.weight, 0\.bias"):
        assert_trains(cut, loop.model, loop.optimizer)
