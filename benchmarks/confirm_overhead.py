"""What the probes of `gradtrap confirm` cost: CPU time of a training step with and without them, in turn, in one run.

    python benchmarks/confirm_overhead.py [MODEL]... [--rounds N] [--threads N]

The program below is compiled twice in this process: with probes, as `confirm` does, and as it is. Blocks of steps of
the two run in turn; the hooks in torch are in place for the blocks of the first only. The ratio of a round is that of
the CPU seconds (all threads) of its two blocks. Printed: median, lowest and highest ratio, of steps that are recorded
(the first 20 of a run), and of those after, of which `confirm` records some.
"""

from __future__ import annotations

import builtins
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import click
import torch

from flake8_gradtrap.config import Configuration
from flake8_gradtrap.runtime.confirm import targets
from flake8_gradtrap.runtime.confirm.importing import Compiler
from flake8_gradtrap.runtime.confirm.places import statement_of
from flake8_gradtrap.runtime.confirm.recording import Recording
from flake8_gradtrap.runtime.confirm.rewriting import NAME
from flake8_gradtrap.runtime.confirm.running import rows_of
from flake8_gradtrap.runtime.confirm.tracer import EVERY, FULL

BLOCKS = {"recorded": FULL, "after": EVERY}
"""Steps of a block."""

PROGRAM = """
import torch
from torch import nn
from torch.nn import functional as F

{model}


def train(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    total, history = 0.0, []
    step = 0
    while True:
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
        step += 1
        yield


torch.manual_seed(0)
running = train(build(), data())
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


class Program:
    """A program that is taken a block of steps at a time; `recording`: it has probes."""

    def __init__(self, code: CodeType, recording: Recording | None = None) -> None:
        self.recording = recording
        names: dict[str, Any] = {}
        exec(code, names)
        self._steps = names["running"]

    def block(self, steps: int) -> float:
        """CPU seconds of so many steps."""
        if self.recording is not None:
            self.recording.install()
        began = time.process_time()
        for _ in range(steps):
            next(self._steps)
        took = time.process_time() - began
        if self.recording is not None:
            self.recording.remove()
        return took


def measure(name: str, rounds: int) -> Iterator[tuple[str, list[float], float]]:
    """For each kind of steps: the ratios, and the milliseconds of a step without probes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "train.py"
        path.write_text(PROGRAM.format(model=MODELS[name]), encoding="utf-8")
        findings, rules = targets.lint([str(path)], Configuration(isolated=True))
        compiler = Compiler({str(path): rows_of(str(path), findings)})
        places = frozenset((one.code, statement_of(one.filename, one.span.row)) for one in findings)
        recording = Recording(compiler, 0, rules, places)
        setattr(builtins, NAME, recording.probes)
        plain = Program(compile(path.read_bytes(), str(path.with_name("plain.py")), "exec"))
        probed = Program(compiler.compile(path.read_bytes(), str(path)), recording)
        for kind, steps in BLOCKS.items():
            recording.tracer.pace.until = 10**9 if kind == "recorded" else 0
            ratios, took = [], []
            for number in range(rounds + 1):
                pair = [plain, probed] if number % 2 else [probed, plain]
                spent = {program: program.block(steps) for program in pair}
                if number:  # the first warms up
                    ratios.append(spent[probed] / spent[plain])
                    took.append(spent[plain] / steps * 1000)
            yield kind, ratios, statistics.median(took)
        recording.finish()


@click.command()
@click.argument("models", nargs=-1, type=click.Choice(list(MODELS)))
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(models: tuple[str, ...], rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for name in models or MODELS:
        for kind, ratios, took in measure(name, rounds):
            low, high = min(ratios), max(ratios)
            said = f"{statistics.median(ratios):.3f} ({low:.3f}, {high:.3f})"
            click.echo(f"{name}, {took:.2f} ms a step, {kind}: {said} of a step without probes")


if __name__ == "__main__":
    main()
