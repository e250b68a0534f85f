"""What a rank brings back from a real run: data, written as JSON by the child, merged by the parent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Fired:
    """A rule's monitor reported a trap on the events of the real run."""

    code: str
    file: str
    row: int
    column: int
    message: str
    trace: list[tuple[str, str, int]] = field(default_factory=list)
    callers: list[tuple[str, int]] = field(default_factory=list)
    """The calls of the project that led there, as (file, row)."""


@dataclass(slots=True)
class Measure:
    """What was measured for a rule at a place.

    `hits`: how often, `trapped`: how often the mechanism of the trap was there. `said`: the number in words, with its
    unit; of a hit with the trap, if there is one. `unknown`: why the mechanism could not be seen at some hits.
    `callers`: the calls of the project that led there, as (file, row).
    """

    code: str
    file: str
    row: int
    hits: int = 0
    trapped: int = 0
    value: float | None = None
    unit: str = ""
    said: str = ""
    unknown: str = ""
    callers: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Evidence:
    """All that a rank saw. `visits`: how often each probed statement ran, as [file, row, count]."""

    rank: int = 0
    device: str = "cpu"
    torch: str = ""
    python: str = ""
    steps: int = 0
    recorded: int = 0
    """Steps that were recorded."""
    stopped: str = ""
    """Why the run ended: "" at its own end, "steps", "timeout", or the error of the program."""
    failed: bool = False
    fired: list[Fired] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    visits: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Evidence:
        data = dict(data)
        data["fired"] = [
            Fired(
                **{
                    **one,
                    "trace": [(str(a), str(b), int(c)) for a, b, c in one["trace"]],
                    "callers": _places(one["callers"]),
                }
            )
            for one in data["fired"]
        ]
        data["measures"] = [Measure(**{**one, "callers": _places(one["callers"])}) for one in data["measures"]]
        data["visits"] = [(str(file), int(row), int(count)) for file, row, count in data["visits"]]
        return cls(**data)


def _places(data: list[Any]) -> list[tuple[str, int]]:
    return [(str(file), int(row)) for file, row in data]


def merge(ranks: Iterable[Evidence]) -> Evidence:
    """The evidence of several ranks as one: what any of them saw was seen; numbers name their rank."""
    ordered = sorted(ranks, key=lambda evidence: evidence.rank)
    if len(ordered) == 1:
        return ordered[0]
    first = ordered[0]
    whole = Evidence(first.rank, first.device, first.torch, first.python)
    whole.steps = max(one.steps for one in ordered)
    whole.recorded = max(one.recorded for one in ordered)
    whole.failed = any(one.failed for one in ordered)
    whole.stopped = "; ".join(dict.fromkeys(one.stopped for one in ordered if one.stopped))
    whole.seconds = max(one.seconds for one in ordered)
    fired: dict[tuple[str, str, int], Fired] = {}
    measures: dict[tuple[str, str, int], Measure] = {}
    visits: dict[tuple[str, int], int] = {}
    for one in ordered:
        whole.events += one.events
        for report in one.fired:
            fired.setdefault((report.code, report.file, report.row), report)
        for measure in one.measures:
            key = (measure.code, measure.file, measure.row)
            known = measures.get(key)
            said = f"rank {one.rank}: {measure.said}" if measure.said else ""
            if known is None:
                measures[key] = Measure(**{**asdict(measure), "said": said})
                continue
            if measure.trapped and not known.trapped:
                known.value, known.unit, known.said = measure.value, measure.unit, said
            known.hits += measure.hits
            known.trapped += measure.trapped
            known.unknown = known.unknown or measure.unknown
            known.callers += [place for place in measure.callers if place not in known.callers]
        for file, row, count in one.visits:
            visits[file, row] = visits.get((file, row), 0) + count
        whole.notes += [note for note in one.notes if note not in whole.notes]
    whole.fired = list(fired.values())
    whole.measures = list(measures.values())
    whole.visits = [(file, row, count) for (file, row), count in visits.items()]
    return whole
