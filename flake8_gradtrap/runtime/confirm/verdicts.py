"""Findings of the abstract run against the evidence of the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flake8_gradtrap.finding import Finding
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.runtime.confirm.evidence import Evidence, Fired, Measure
from flake8_gradtrap.runtime.confirm.places import statement_of
from flake8_gradtrap.runtime.confirm.rulings import NOT_OBSERVED, RULINGS
from flake8_gradtrap.source import SourceError, decode

CONFIRMED, REFUTED, INCONCLUSIVE, NOT_REACHED = "CONFIRMED", "REFUTED", "INCONCLUSIVE", "NOT REACHED"

Statement = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the real run says of a finding. `found`: by the abstract run; else the trap was seen only here.

    `said`: the number that decides, with its unit, or why there is none. `hits`: how often the site was measured, and
    `trapped`: how often the trap's mechanism was there.
    """

    verdict: str
    code: str
    name: str
    file: str
    row: int
    column: int
    message: str
    said: str
    hits: int = 0
    trapped: int = 0
    value: float | None = None
    unit: str = ""
    found: bool = True


class Judge:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.visits: dict[Statement, int] = {}
        for file, row, count in evidence.visits:
            place = statement_of(file, row)
            self.visits[place] = max(self.visits.get(place, 0), count)
        self.measures: dict[tuple[str, Statement], Measure] = {}
        for measure in evidence.measures:
            self.measures[measure.code, statement_of(measure.file, measure.row)] = measure
        self.fired: dict[tuple[str, Statement], Fired] = {}
        for fired in evidence.fired:
            self.fired.setdefault((fired.code, statement_of(fired.file, fired.row)), fired)

    def judge(self, findings: Iterable[Finding]) -> Iterator[Verdict]:
        spoken: set[Statement] = set()
        used: set[tuple[str, Statement]] = set()
        sure: set[tuple[str, Statement]] = set()
        for finding in findings:
            verdict, key = self._of(finding)
            if key is not None:
                used.add(key)
            if verdict.verdict == CONFIRMED:
                spoken.add(statement_of(finding.filename, finding.span.row))
                sure.add((finding.code, statement_of(finding.filename, finding.span.row)))
                spoken |= {statement_of(step.filename, step.span.row) for step in finding.trace}
                if key is not None and key in self.fired:
                    spoken |= {statement_of(file, row) for _, file, row in self.fired[key].trace}
            yield verdict
        for key, fired in self.fired.items():
            code, place = key
            measure = self.measures.get(key)
            ruling = RULINGS.get(code)
            if key in used or place in spoken or ruling is None or not ruling.alone:
                continue
            if any((code, statement_of(file, row)) in sure for file, row in fired.callers):
                continue  # said at the call that leads there
            if measure is not None and measure.trapped and not _hidden(fired):
                yield self._verdict(CONFIRMED, fired, measure.said, measure, found=False)

    def _of(self, finding: Finding) -> tuple[Verdict, tuple[str, Statement] | None]:
        code = finding.code
        place = statement_of(finding.filename, finding.span.row)
        visits = self.visits.get(place, 0)
        ruling = RULINGS.get(code)
        key = self._key(finding, place)
        measure = self.measures.get(key) or self.measures.get((code, place)) or self._below(code, place)
        fired = key in self.fired
        if not visits and (measure is None or not measure.hits) and not fired:
            return self._verdict(NOT_REACHED, finding, "its site did not run"), None
        ran = f"its site ran {visits:,} times" if visits != 1 else "its site ran once"
        if ruling is None:
            unproved = all_rules()[code].unproved if code in all_rules() else ""
            return self._verdict(INCONCLUSIVE, finding, unproved or NOT_OBSERVED), None
        if fired and measure is not None and measure.trapped:
            return self._verdict(CONFIRMED, finding, measure.said, measure), key
        if fired:
            why = measure.unknown if measure is not None and measure.unknown else "its quantity was not measured"
            return self._verdict(INCONCLUSIVE, finding, f"{ran}; the rule fired, but {why}", measure), key
        if measure is None or not measure.hits:
            why = measure.unknown if measure is not None else ""
            said = why or f"{ran}, but what happens there was not observed ({ruling.quantity})"
            return self._verdict(INCONCLUSIVE, finding, said, measure), None
        if measure.trapped:
            said = f"{measure.said}; the rule did not fire on it: the run may have ended before its end"
            return self._verdict(INCONCLUSIVE, finding, said, measure), None
        if measure.unknown:
            return self._verdict(INCONCLUSIVE, finding, measure.unknown, measure), None
        if measure.hits < ruling.hits:
            said = f"{measure.said or ran}; {measure.hits} of the {ruling.hits} hits that it takes"
            return self._verdict(INCONCLUSIVE, finding, said, measure), None
        return self._verdict(REFUTED, finding, measure.said or "the trap's mechanism was not there", measure), None

    def _key(self, finding: Finding, place: Statement) -> tuple[str, Statement]:
        """Where the monitor has reported what the finding speaks of: at its statement, else at one of its trace."""
        code = finding.code
        if (code, place) in self.fired:
            return code, place
        steps = {statement_of(step.filename, step.span.row) for step in finding.trace}
        for (other, where), fired in self.fired.items():
            if other == code and where in steps:
                return other, where
            if other == code and place in {statement_of(file, row) for _, file, row in fired.trace}:
                return other, where
            if other == code and place in {statement_of(file, row) for file, row in fired.callers}:
                return other, where
        return code, place

    def _below(self, code: str, place: Statement) -> Measure | None:
        """What was measured in a function that the statement calls, of a trap rather than of none."""
        found = [
            measure
            for (other, _), measure in self.measures.items()
            if other == code and measure.hits and place in {statement_of(file, row) for file, row in measure.callers}
        ]
        return max(found, key=lambda measure: measure.trapped, default=None)

    @staticmethod
    def _verdict(
        verdict: str, of: Finding | Fired, said: str, measure: Measure | None = None, found: bool = True
    ) -> Verdict:
        if isinstance(of, Finding):
            file, row, column = of.filename, of.span.row, of.span.column
        else:
            file, row, column = of.file, of.row, of.column
        rule = all_rules().get(of.code)
        return Verdict(
            verdict,
            of.code,
            rule.name if rule is not None else "",
            file,
            row,
            column,
            of.message,
            said,
            measure.hits if measure is not None else 0,
            measure.trapped if measure is not None else 0,
            measure.value if measure is not None else None,
            measure.unit if measure is not None else "",
            found,
        )


def _hidden(fired: Fired) -> bool:
    """Whether a comment in the program says that it is meant."""
    try:
        text, _ = decode(Path(fired.file).read_bytes())
    except (OSError, SourceError):
        return False
    return Noqa(text).hides(fired.code, fired.row)
