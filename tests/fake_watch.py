"""A watch without a run: monitors are fed with hand-made events, and what they report is kept.

Sites in these tests are `Site(12)`: the node is the line.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flake8_gradtrap.events import Event, Site
from flake8_gradtrap.rule import Remedy, Rule


@dataclass(frozen=True)
class Report:
    """What a monitor reported."""

    site: Site
    message: str
    trace: tuple[tuple[str, Site], ...] = ()
    remedy: Remedy | None = None
    preview: bool = False
    severity: str | None = None


@dataclass
class FakeWatch:
    """The memory of one path, and a list of reports."""

    lossy: bool = False
    memory: dict[Hashable, Any] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)

    def get(self, key: Hashable, default: Any = None) -> Any:
        return self.memory.get(key, default)

    def put(self, key: Hashable, value: Hashable) -> None:
        hash(value)  # a monitor's memory holds immutable values only
        self.memory[key] = value

    def drop(self, key: Hashable) -> None:
        self.memory.pop(key, None)

    def items(self) -> Iterable[tuple[Hashable, Any]]:
        return list(self.memory.items())

    def line(self, site: Site) -> int:
        return site.node if isinstance(site.node, int) else 0

    def report(
        self,
        site: Site,
        message: str,
        trace: Iterable[tuple[str, Site]] = (),
        remedy: Remedy | None = None,
        preview: bool = False,
        severity: str | None = None,
    ) -> None:
        assert message, "a report without a message"
        assert "\n" not in message, "a message is one line"
        if all(known.site != site for known in self.reports):  # as in a run: one finding of a rule for one place
            self.reports.append(Report(site, message, tuple(trace), remedy, preview, severity))


def drive(rule: type[Rule], events: Iterable[Event], watch: FakeWatch | None = None) -> list[Report]:
    """Feed events to a rule's monitor, in order, on one path; return what it reported."""
    watch = watch or FakeWatch()
    monitor = rule()
    handlers: list[tuple[type[Event], Callable[..., None]]] = [
        (kind, getattr(monitor, name)) for kind, name in rule.handlers()
    ]
    for event in events:
        for kind, handler in handlers:
            if isinstance(event, kind):
                handler(event, watch)
    return watch.reports
