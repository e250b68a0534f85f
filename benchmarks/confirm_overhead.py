"""What the probes of `gradtrap confirm` cost: CPU time of a training step with and without them, in turn, in one run.

    python benchmarks/confirm_overhead.py [--rounds N] [--threads N]

The program below is compiled with probes, as `confirm` does, and run in this process. Blocks of its steps run in turn
with the probes recording and with them switched off (then each returns at once); the ratio of a round is that of the
CPU seconds (all threads) of two neighbouring blocks. Printed: median, lowest and highest ratio.
"""

from __future__ import annotations

import builtins
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.runtime.confirm import targets
from flake8_gradtrap.runtime.confirm.importing import Compiler, run_program
from flake8_gradtrap.runtime.confirm.places import statement_of
from flake8_gradtrap.runtime.confirm.recording import Recording
from flake8_gradtrap.runtime.confirm.rewriting import NAME
from flake8_gradtrap.runtime.confirm.running import rows_of

BLOCK = 20
"""Steps of a block."""

PROGRAM = """
import sys

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch import nn
from torch.nn import functional as F

{model}


def train(model, batches, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    total, history = 0.0, []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        output = model(x)
        loss = F.cross_entropy(output.flatten(0, -2), y.flatten())
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        total += loss
        if step % 10 == 0:
            history.append(loss)
            total = 0.0
            history.clear()


torch.manual_seed(0)
train(build(), data(), int(sys.argv[1]))
"""

MODELS = {
    "transformer": """
def build():
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.Embedding(500, 128), nn.TransformerEncoder(layer, 4), nn.Linear(128, 500))


def data():
    tokens = torch.randint(0, 500, (16, 64))
    return [(tokens, tokens)]
""",
    "convolutions": """
def block(width, wider):
    return [nn.Conv2d(width, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]


def build():
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(2048, 10))


def data():
    return [(torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,)))]
""",
    "perceptron": """
def build():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def data():
    return [(torch.randn(256, 64), torch.randint(0, 10, (256,)))]
""",
}


class Blocks:
    """Switches the probes on and off, a block of steps each, and takes the time."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.spent: list[tuple[bool, float]] = []
        self._steps = 0
        self._began = time.process_time()

    def step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._steps += 1
        if self._steps % BLOCK:
            return
        now = time.process_time()
        tracer = self.recording.tracer
        self.spent.append((tracer.active, now - self._began))
        tracer.active = not tracer.active
        self._began = time.process_time()

    def ratios(self) -> list[float]:
        """Of each pair of neighbours but the first, which warms up."""
        pairs = list(zip(self.spent[2::2], self.spent[3::2], strict=False))
        found = []
        for one, other in pairs:
            (_, on), (_, off) = (one, other) if one[0] else (other, one)
            found.append(on / off)
        return found


def measure(name: str, rounds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "train.py"
        path.write_text(PROGRAM.format(model=MODELS[name]), encoding="utf-8")
        findings, rules = targets.lint([str(path)], Configuration(isolated=True))
        compiler = Compiler({str(path): rows_of(str(path), findings)})
        places = frozenset((one.code, statement_of(one.filename, one.span.row)) for one in findings)
        recording = Recording(compiler, 0, rules, places)
        setattr(builtins, NAME, recording.probes)
        recording.install()
        blocks = Blocks(recording)
        handle = register_optimizer_step_post_hook(blocks.step)
        kept: tuple[ModuleType, list[str], list[Any]] = sys.modules["__main__"], sys.argv, sys.meta_path[:]
        try:
            run_program(compiler, str(path), "", [str(BLOCK * (2 * rounds + 2))], os.getcwd())
        finally:
            sys.modules["__main__"], sys.argv, sys.meta_path[:] = kept
            handle.remove()
            recording.finish()
        return blocks.ratios()


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for name in MODELS:
        ratios = measure(name, rounds)
        low, high = min(ratios), max(ratios)
        click.echo(f"{name}: {statistics.median(ratios):.3f} ({low:.3f}, {high:.3f}) of a step without probes")


if __name__ == "__main__":
    main()
