"""What a watch says: its measurements as a table and as a picture, and which of them are traps."""

from __future__ import annotations

import io
import math

from flake8_gradtrap.runtime.clipping import percentile
from flake8_gradtrap.runtime.records import Records

GRAPHS = 3
"""So many earlier graphs may be alive: a loop's own variables hold one or two."""


def problems(records: Records) -> list[str]:
    """The traps that were measured, a line each."""
    found = []
    clip = records.clip
    if clip.empty:
        found.append(
            f"a clip got no parameters in {clip.empty} of {clip.calls} calls, and clipped nothing: "
            "the iterator it was given was used up; pass a list (GTR101)"
        )
    if clip.scaled:
        found.append(
            f"a clip met gradients still multiplied by the loss scale in {clip.scaled} of {clip.calls} calls: "
            "call scaler.unscale_(optimizer) before it (GTR301)"
        )
    if clip.missed:
        found.append(
            f"a clip met parameters without gradients in {clip.missed} of {clip.calls} calls: "
            "it runs before the backward, after zero_grad, or on another module (GTR302)"
        )
    for group in records.groups:
        if group.left_over:
            found.append(
                f"{group.name}: {group.left_over} of {group.checked} steps looked at applied gradients of the step "
                "before once more: nothing clears them (GTR501)"
            )
        if records.steps and not group.steps:
            found.append(f"{group.name}: no parameter had a gradient in any of {records.steps} steps")
    if records.in_no_group:
        found.append(f"in no optimizer, though they require gradients: {some(records.in_no_group)}")
    if records.not_in_model:
        found.append(f"in an optimizer, though not in the model: {some(records.not_in_model)} (GTR703)")
    if records.graphs_held > GRAPHS:
        found.append(
            f"the graphs of {records.graphs_held} earlier steps are still held: a loss or an output is kept with its "
            "history; detach it (GTR401, GTR402)"
        )
    if records.first_bad_output:
        found.append(f"not finite first: {records.first_bad_output}")
    elif records.first_bad_gradient:
        found.append(f"not finite first: {records.first_bad_gradient}")
    return found


def report(records: Records, where: str) -> str:
    from rich.console import Console
    from rich.table import Table

    out = Console(file=io.StringIO(), width=110, no_color=True, highlight=False)
    out.print(where)
    groups = Table("parameter group", box=None, pad_edge=False)
    for column in ("steps", "norm: last", "median", "90 %", "largest", "not finite", "limited", "‖Δθ‖/‖θ‖"):
        groups.add_column(column, justify="right")
    for group in records.groups:
        last, median, high, largest = "-", "-", "-", "-"
        if group.norms:
            last, largest = number(group.norms[-1]), number(max(group.norms))
            median, high = number(percentile(group.norms, 50)), number(percentile(group.norms, 90))
        ratio = "-" if group.update_ratio is None else number(group.update_ratio)
        counts = [f"{value:,}" for value in (group.non_finite, group.limited)]
        groups.add_row(group.name, f"{group.steps:,}", last, median, high, largest, *counts, ratio)
    out.print(groups)
    clip = records.clip
    if clip.calls:
        out.print(
            f"own clips: {clip.calls:,} calls, {clip.changed:,} of them made the gradient shorter "
            f"(limit {number(clip.max_norm)}, last norm {number(clip.last_norm)})"
        )
    if records.skipped:
        out.print(f"steps skipped by the gradient scaler: {records.skipped:,}")
    if records.activations:
        _activations(records, out)
    if records.without_gradient:
        out.print(f"without a gradient in the last step looked at: {some(records.without_gradient)}")
    for note in records.notes:
        out.print(f"note: {note}")
    found = problems(records)
    for problem in found:
        out.print(f"TRAP  {problem}")
    if not found:
        out.print("no trap was measured")
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text


def _activations(records: Records, out: object) -> None:
    """The outputs farthest from the usual scale: a fresh head behind pretrained features shows here."""
    from rich.table import Table

    seen = [one for one in records.activations.values() if one.rms > 0 or one.non_finite]
    if not seen:
        return
    usual = (
        percentile((one.rms for one in seen if math.isfinite(one.rms)), 50)
        if any(math.isfinite(one.rms) for one in seen)
        else 1.0
    )
    far = sorted(seen, key=lambda one: math.inf if one.non_finite else abs(math.log(one.rms / usual)), reverse=True)[:5]
    table = Table("outputs farthest from the usual scale", box=None, pad_edge=False)
    for column in ("rms", "of the median", "largest"):
        table.add_column(column, justify="right")
    for one in far:
        table.add_row(one.name, number(one.rms), f"x {number(one.rms / usual)}", number(one.largest))
    out.print(table)  # type: ignore[attr-defined]


def plot(records: Records, path: str, where: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for group in records.groups:
        if group.norms:
            first = group.steps - group.non_finite - len(group.norms)
            axes.plot(range(first, first + len(group.norms)), group.norms, label=group.name, linewidth=1)
    if not math.isnan(records.clip.max_norm):
        axes.axhline(records.clip.max_norm, color="black", linestyle="--", linewidth=1, label="limit of the clip")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("norm of the gradient (before any clip)")
    axes.set_title(where, fontsize=9, loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def number(value: float) -> str:
    """4 significant digits."""
    return f"{value:.4g}"


def some(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
