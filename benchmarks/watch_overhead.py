"""What `watch` costs: CPU time of a training step with and without it, in turn, in one run.

    python benchmarks/watch_overhead.py [--rounds N] [--threads N]

A round runs blocks of the same steps with the watch and without, in alternating order, on the same model; the ratio of
a round is that of their CPU seconds (all threads). Printed: median, lowest and highest ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import nn

from flake8_gradtrap.runtime import Watch, watch

BLOCK = 40
"""Steps of a block: two of the watch's looks at its default of one in 20."""


def transformer() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Embedding(500, 128), nn.TransformerEncoder(layer, 4), nn.Linear(128, 500))
    tokens = torch.randint(0, 500, (16, 64))
    return model, lambda net: nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten())


def convolutions() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    def block(width: int, wider: int) -> list[nn.Module]:
        return [nn.Conv2d(width, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]

    model = nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(2048, 10))
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    return model, lambda net: nn.functional.cross_entropy(net(images), labels)


def perceptron() -> tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    x, y = torch.randn(256, 64), torch.randn(256, 1)
    return model, lambda net: nn.functional.mse_loss(net(x), y)


def steps(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """CPU seconds of a block of steps."""
    start = time.process_time()
    for _ in range(BLOCK):
        optimizer.zero_grad()
        loss(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - start


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(rounds: int, threads: int) -> None:
    """Measure what `watch` adds to a step."""
    torch.set_num_threads(threads)
    for make in (transformer, convolutions, perceptron):
        torch.manual_seed(0)
        model, loss = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        steps(model, loss, optimizer)
        ratios, plain = [], []
        for number in range(rounds):
            taken = {}
            for watched in (True, False) if number % 2 else (False, True):
                seen: Watch | None = watch(model, optimizer) if watched else None
                taken[watched] = steps(model, loss, optimizer)
                if seen is not None:
                    seen.close()
            ratios.append(taken[True] / taken[False])
            plain.append(taken[False] / BLOCK)
        click.echo(
            f"{make.__name__:13} {statistics.median(plain) * 1000:7.2f} ms a step   with the watch x "
            f"{statistics.median(ratios):.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
