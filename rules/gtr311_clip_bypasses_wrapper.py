"""Torch's own clip is used on gradients that a wrapper splits, keeps or scales.

## What it does

Reports `torch.nn.utils.clip_grad_norm_` on the parameters of an FSDP (version 1) module, either torch clip on those of
a DeepSpeed engine, and either one after `backward` of an Accelerate or Fabric object under fp16, where nothing has
unscaled the gradients.

## Why it is a trap

FSDP splits each parameter among the processes: every process computes the norm of its own shards, finds another factor
and clips by that one. The limit does not hold, and the shards of one gradient are scaled differently. In the demo, two
processes take an update of length 0.0707 under a limit of 0.05. A DeepSpeed engine keeps gradients of its own, and
clips them as its configuration says: what is clipped outside is not what it applies. Accelerate and Fabric multiply the
loss by a loss scale under fp16, which only their own clip divides out first: 65,536 at the start, so that torch's clip
cuts every gradient to almost nothing.

## Known limits

False positives: a DeepSpeed engine without ZeRO and in fp32, whose gradients are the parameters' own.

False negatives: a wrapper, a sharding strategy or a precision that comes from a configuration; Lightning's precision,
which its `Trainer` is given elsewhere. Where an `Accelerator` is given a `mixed_precision` that cannot be seen, it is a
preview. Silent are FSDP2 (`fully_shard`), whose clip is correct, `NO_SHARD`, bf16, fp32, and
`accelerator.unscale_gradients()` before the clip.

## Trap

```python
import torch
from accelerate import Accelerator
from torch.nn.utils import clip_grad_norm_


def train(model, loader, criterion):
    accelerator = Accelerator(mixed_precision="fp16")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        accelerator.backward(loss)
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
```

## Fixed

```python
import torch
from accelerate import Accelerator


def train(model, loader, criterion):
    accelerator = Accelerator(mixed_precision="fp16")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
```

## References

- [FullyShardedDataParallel.clip_grad_norm_](https://docs.pytorch.org/docs/stable/fsdp.html#torch.distributed.fsdp.FullyShardedDataParallel.clip_grad_norm_)
- [DeepSpeed: gradient clipping](https://www.deepspeed.ai/docs/config-json/#gradient-clipping)
- [Accelerate: gradient clipping](https://huggingface.co/docs/accelerate/main/en/package_reference/accelerator#accelerate.Accelerator.clip_grad_norm_)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flake8_gradtrap.events import (
    AcceleratorMade,
    Backpropagated,
    Cleared,
    Clipped,
    Escaped,
    Site,
    Stepped,
    Thing,
    Unscaled,
    WrapperMade,
)
from flake8_gradtrap.gradients import TORCH_CLIPS, MeetsOptimizers, alone, meet, overlap, settle, tagged
from flake8_gradtrap.rule import Watch, on


@dataclass(frozen=True, slots=True)
class Scaled:
    """Gradients that an accelerator scaled. `certain`: its precision is known to be fp16."""

    site: Site = field(compare=False)
    accelerator: Thing
    by: str
    certain: bool


class ClipBypassesWrapper(MeetsOptimizers):
    """In memory: "wrapped", by owners (which library); "accelerator", by its key; "scaled", by owners and scaler."""

    code = "GTR311"
    name = "clip-bypasses-wrapper"
    summary = "Torch's clip is used on gradients that FSDP, DeepSpeed or an accelerator splits, keeps or scales"
    words = (
        "FullyShardedDataParallel",
        "FSDP",
        "deepspeed",
        "Accelerator",
        "Fabric",
        "clip_grad_norm_",
        "clip_grad_value_",
    )
    roots = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm")

    @on(WrapperMade)
    def wrapped(self, event: WrapperMade, watch: Watch) -> None:
        if event.owners:
            watch.put(("wrapped", event.owners), (event.by, event.site))

    @on(AcceleratorMade)
    def accelerator(self, event: AcceleratorMade, watch: Watch) -> None:
        if event.scales is not False:
            watch.put(("accelerator", event.accelerator.key), (event.by, event.scales))

    @on(Backpropagated)
    def backward(self, event: Backpropagated, watch: Watch) -> None:
        if event.through is None:
            return
        by, scales = watch.get(("accelerator", event.through.key), ("", None))
        if by:
            scaled = Scaled(event.site, event.through, by, scales is True)
            watch.put(("scaled", event.owners, event.through.key), scaled)

    @on(Unscaled)
    def unscale(self, event: Unscaled, watch: Watch) -> None:
        if event.optimizer is None:
            for key, _ in tagged(watch, "scaled"):
                watch.drop(key)
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled")

    @on(Escaped)
    def escape(self, event: Escaped, watch: Watch) -> None:
        """Unseen code that gets the accelerator may unscale with it."""
        keys = {thing.key for thing in event.things}
        for key, _ in tagged(watch, "scaled"):
            if key[2] in keys:
                watch.drop(key)

    @on(Cleared)
    def clear(self, event: Cleared, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled")

    @on(Stepped)
    def step(self, event: Stepped, watch: Watch) -> None:
        settle(watch, meet(watch, event.optimizer, event.owners), "scaled")

    @on(Clipped)
    def clip(self, event: Clipped, watch: Watch) -> None:
        if event.rescales:
            settle(watch, event.owners, "scaled")  # by the accelerator itself, or by hand
        if not event.own or event.measures_only or event.rescales or event.by not in TORCH_CLIPS:
            return
        for key, (by, site) in tagged(watch, "wrapped"):
            if overlap(key[1], event.owners) and (by != "FSDP" or "norm" in event.by):
                self.outside(event, by, site, watch)
                return
        for key, scaled in tagged(watch, "scaled"):
            related = overlap(key[1], event.owners)
            if related or (related is None and alone(watch, event.owners)):
                self.scaled(event, scaled, watch)
                return

    def outside(self, event: Clipped, by: str, site: Site, watch: Watch) -> None:
        target = f"`{event.target.label}`" if event.target.label else "these parameters"
        what = {
            "FSDP": f"FSDP shards {target}: each process clips by the norm of its own shards, so the limit does not "
            "hold and the shards of one gradient are scaled differently; call `clip_grad_norm_` of the FSDP module",
            "DeepSpeed": f"the DeepSpeed engine applies gradients of its own, and not those of {target}: this limits "
            'nothing; set "gradient_clipping" in its configuration',
        }[by]
        trace = [(f"{by} wraps the model here", site), ("torch's own clip runs here", event.site)]
        watch.report(event.site, what, trace=trace)

    def scaled(self, event: Clipped, scaled: Scaled, watch: Watch) -> None:
        name = scaled.accelerator.label or ("accelerator" if scaled.by == "Accelerate" else "fabric")
        limit: Any = "clip_gradients(model, optimizer, …)"
        if scaled.by == "Accelerate":
            limit = f"{event.by}(…)"
        when = "are still multiplied by the loss scale" if scaled.certain else "are still scaled when it runs in fp16"
        watch.report(
            event.site,
            f"these gradients of `{name}.backward` {when}: torch's clip cuts them to almost nothing; "
            f"use `{name}.{limit}`, which unscales them first",
            trace=[
                (f"`{name}` scales the loss and goes backward here", scaled.site),
                ("torch's own clip runs here", event.site),
            ],
            preview=not scaled.certain,
        )


def trapped(device: str = "cpu", rank: int = -1, folder: str = "") -> dict[str, float]:
    """Two processes that share a model, started by this function itself; each clips by the norm that it sees."""
    import tempfile
    from pathlib import Path

    import torch
    from torch import distributed, multiprocessing, nn
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector

    if rank < 0:
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as shared:
            processes = [context.Process(target=trapped, args=("cpu", each, shared)) for each in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            squares = [float(Path(shared, f"moved{each}").read_text(encoding="utf-8")) for each in range(2)]
        return {"length of the update": sum(squares) ** 0.5}

    where = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = FullyShardedDataParallel(nn.Linear(8, 1), device_id=torch.device(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    start = parameters_to_vector(model.parameters()).detach().clone()
    optimizer.zero_grad()
    nn.functional.mse_loss(model(torch.randn(32, 8)), 5 + torch.randn(32, 1)).backward()
    clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm().item()
    Path(folder, f"moved{rank}").write_text(str(moved**2), encoding="utf-8")
    distributed.destroy_process_group()
    return {}


def fixed(device: str = "cpu", rank: int = -1, folder: str = "") -> dict[str, float]:
    """The same with the clip of the wrapper, which adds up the norms of all shards."""
    import tempfile
    from pathlib import Path

    import torch
    from torch import distributed, multiprocessing, nn
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.utils import parameters_to_vector

    if rank < 0:
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as shared:
            processes = [context.Process(target=fixed, args=("cpu", each, shared)) for each in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            squares = [float(Path(shared, f"moved{each}").read_text(encoding="utf-8")) for each in range(2)]
        return {"length of the update": sum(squares) ** 0.5}

    where = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = FullyShardedDataParallel(nn.Linear(8, 1), device_id=torch.device(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    start = parameters_to_vector(model.parameters()).detach().clone()
    optimizer.zero_grad()
    nn.functional.mse_loss(model(torch.randn(32, 8)), 5 + torch.randn(32, 1)).backward()
    model.clip_grad_norm_(0.05)
    optimizer.step()
    moved = (parameters_to_vector(model.parameters()).detach() - start).norm().item()
    Path(folder, f"moved{rank}").write_text(str(moved**2), encoding="utf-8")
    distributed.destroy_process_group()
    return {}


def check(trapped: dict[str, float], fixed: dict[str, float]) -> None:
    key = "length of the update"
    assert abs(fixed[key] - 0.05) < 1e-3, "the wrapper's clip keeps to its limit"
    assert trapped[key] > 1.3 * 0.05, "two processes, each with the whole limit for its own shards"
