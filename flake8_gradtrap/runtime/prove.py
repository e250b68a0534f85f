"""`gradtrap prove`: every rule's demo, with the trap and without, in real training steps on the chosen device."""

from __future__ import annotations

import importlib
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from flake8_gradtrap.rule import Rule
from flake8_gradtrap.terminal import number

Measured = dict[str, float]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a rule's demo measured.

    `verdict` is "PASS" (the mechanism by which the trap harms was seen, and not without the trap), "FAIL" (it was not:
    `why` says what was expected), "ERROR" (the demo raised), or "NONE" (the rule has no meaning at run time). Peak
    memory is in bytes, of the device's allocator, for CUDA only.
    """

    code: str
    name: str
    verdict: str
    why: str = ""
    trapped: tuple[tuple[str, float], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()
    seconds: float = 0.0
    peak_trapped: int | None = None
    peak_fixed: int | None = None

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """Each measured quantity, with the trap and without."""
        without = dict(self.fixed)
        for quantity, value in self.trapped:
            yield quantity, value, without.get(quantity, math.nan)

    @property
    def ok(self) -> bool:
        return self.verdict in ("PASS", "NONE")


def pick_device(wanted: str) -> str:
    """The device to run on. Raises ValueError where it cannot be had."""
    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted == "cuda" and not available:
        raise ValueError("no CUDA device is available: torch.cuda.is_available() is False")
    return wanted


def describe(device: str) -> dict[str, str]:
    """Where the proof was run: the device in words, and the versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {"device": device, "device_name": name, "torch": torch.__version__, "python": platform.python_version()}


def prove(rules: Iterable[type[Rule]], device: str) -> Iterator[Proof]:
    """Run the demos one after the other; each proof comes as soon as it is known."""
    for rule in rules:
        yield prove_one(rule, importlib.import_module(rule.__module__), device)


def prove_one(rule: type[Rule], demo: ModuleType, device: str) -> Proof:
    if not hasattr(demo, "trapped"):
        return Proof(rule.code, rule.name, "NONE", rule.unproved)
    started = time.perf_counter()
    trapped: Measured = {}
    fixed: Measured = {}
    peaks: list[int | None] = [None, None]
    try:
        trapped, peaks[0] = _run(demo.trapped, device)
        fixed, peaks[1] = _run(demo.fixed, device)
        verdict, why = _judge(demo.check, trapped, fixed)
    except Exception as error:  # a demo that raises is a failed proof of that rule; the others are run
        verdict, why = "ERROR", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return Proof(
        rule.code, rule.name, verdict, why, tuple(trapped.items()), tuple(fixed.items()), seconds, peaks[0], peaks[1]
    )


def _run(arm: Callable[[str], Measured], device: str) -> tuple[Measured, int | None]:
    """One arm of a demo, with the caller's random state and modes as they were."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about some traps: it is the numbers that count here
        torch.manual_seed(0)  # demos seed themselves, too: both arms see the same numbers
        measured = arm(device)
    if device == "cuda":
        torch.cuda.synchronize()
        return measured, torch.cuda.max_memory_allocated()
    return measured, None


def _judge(check: Callable[[Measured, Measured], None], trapped: Measured, fixed: Measured) -> tuple[str, str]:
    try:
        check(trapped, fixed)
    except AssertionError as error:
        return "FAIL", str(error) or "the trap's mechanism was not seen"
    try:
        check(fixed, fixed)
    except AssertionError:
        return "PASS", ""
    return "FAIL", "the check passes without the trap, too: it proves nothing"


# -- output -----------------------------------------------------------------------------------------------------------


def ratio(trapped: float, fixed: float) -> float | None:
    """Trapped over fixed; None where it says nothing (a zero or a value that is not finite below)."""
    if not math.isfinite(trapped) or not math.isfinite(fixed) or fixed == 0:
        return None
    return trapped / fixed


def table(proofs: Sequence[Proof], where: dict[str, str]) -> Any:
    """A rich table of what was measured."""
    from rich.table import Table
    from rich.text import Text

    title = f"{where['device']} ({where['device_name']}), torch {where['torch']}"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column, justify in (("rule", "left"), ("what is measured", "left"), ("trapped", "right"), ("fixed", "right")):
        shown.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    shown.add_column("ratio", justify="right")
    shown.add_column("")
    style = {"PASS": "green", "FAIL": "bold red", "ERROR": "bold red", "NONE": "dim"}
    for proof in proofs:
        rows = [(quantity, number(bad), number(good), ratio(bad, good)) for quantity, bad, good in proof.rows()]
        if proof.peak_trapped is not None and proof.peak_fixed is not None:
            bad, good = float(proof.peak_trapped), float(proof.peak_fixed)
            rows.append(("peak memory (bytes)", number(bad), number(good), ratio(bad, good)))
        verdict = Text("-" if proof.verdict == "NONE" else proof.verdict, style[proof.verdict])
        if proof.why:
            rows.append((proof.why, "", "", None))
        for place, (quantity, bad_text, good_text, over) in enumerate(rows):
            code = Text(proof.code, "bold") if place == 0 else Text("")
            shown.add_row(
                code, quantity, bad_text, good_text, "" if over is None else number(over), verdict if place == 0 else ""
            )
    return shown


def as_json(proofs: Iterable[Proof], where: dict[str, str]) -> dict[str, Any]:
    """For --json: where it was run, and every proof. A value that is not finite is a string: JSON has none."""

    def plain(values: tuple[tuple[str, float], ...]) -> dict[str, float | str]:
        return {name: value if math.isfinite(value) else str(value) for name, value in values}

    return where | {
        "proofs": [
            {
                "code": proof.code,
                "name": proof.name,
                "verdict": proof.verdict,
                "why": proof.why or None,
                "trapped": plain(proof.trapped),
                "fixed": plain(proof.fixed),
                "seconds": round(proof.seconds, 3),
                "peak_bytes": None
                if proof.peak_trapped is None
                else {"trapped": proof.peak_trapped, "fixed": proof.peak_fixed},
            }
            for proof in proofs
        ]
    }


def plot(proofs: Sequence[Proof], where: dict[str, str], path: Path) -> None:
    """A picture: how far the trap takes each quantity from its value without the trap, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{proof.code}  {quantity}", bad, good)
        for proof in proofs
        for quantity, bad, good in proof.rows()
        if math.isfinite(bad) and math.isfinite(good) and bad != good
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * max(1, len(bars))), layout="constrained")
    floor = 1e-6  # a quantity that the trap makes zero is drawn at the edge
    for place, (_, bad, good) in enumerate(bars):
        over = abs(bad / good) if good else math.inf
        over = min(max(over, floor), 1 / floor)
        axes.plot([1, over], [place, place], color="tab:red", linewidth=2, solid_capstyle="butt")
        axes.plot([over], [place], "o", color="tab:red", markersize=5)
        said = f" {number(bad)} instead of {number(good)}"
        axes.text(1, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.axvline(1, color="tab:green", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlim(floor / 2, 2 / floor)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("with the trap, as a multiple of the value without it (cut off at 1e-6 and 1e6)")
    axes.set_title(f"{where['device_name']}, torch {where['torch']}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
