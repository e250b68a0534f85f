"""The rules' monitors hear what happened in the real run: the same monitors that the abstract run feeds.

The events are recorded while the program runs, and told when it is over: a step then costs no more than the record.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from flake8_gradtrap.events import Event, Site
from flake8_gradtrap.rule import Remedy, Rule
from flake8_gradtrap.runtime.confirm.evidence import Fired
from flake8_gradtrap.runtime.confirm.places import Place, callers


class Memory:
    """The `rule.Watch` of a rule in a real run, which has one path and forgets nothing."""

    lossy = False

    def __init__(self, code: str) -> None:
        self.code = code
        self.reports: dict[Hashable, Fired] = {}
        self._memory: dict[Hashable, Any] = {}

    def get(self, key: Hashable, default: Any = None) -> Any:
        return self._memory.get(key, default)

    def put(self, key: Hashable, value: Hashable) -> None:
        self._memory[key] = value

    def drop(self, key: Hashable) -> None:
        self._memory.pop(key, None)

    def items(self) -> Iterable[tuple[Hashable, Any]]:
        return list(self._memory.items())

    def line(self, site: Site) -> int:
        return site.node.row if isinstance(site.node, Place) else 0

    def report(
        self,
        site: Site,
        message: str,
        trace: Iterable[tuple[str, Site]] = (),
        remedy: Remedy | None = None,
        preview: bool = False,
        severity: str | None = None,
    ) -> None:
        place = site.node
        if isinstance(place, Place) and place not in self.reports and not preview:
            steps = [(said, at.node.file, at.node.row) for said, at in trace if isinstance(at.node, Place)]
            column = place.column + 1
            self.reports[place] = Fired(self.code, place.file, place.row, column, message, steps, callers(site))


def replay(events: Iterable[Event], rules: Iterable[type[Rule]]) -> tuple[list[Fired], list[str]]:
    """What the monitors report on the events, and what went wrong in them."""
    listeners: dict[type[Event], list[tuple[str, Any, Memory]]] = {}
    memories: dict[str, Memory] = {}
    for rule in rules:
        monitor = rule()
        memory = memories[rule.code] = Memory(rule.code)
        for kind, method in rule.handlers():
            listeners.setdefault(kind, []).append((rule.code, getattr(monitor, method), memory))
    broken: dict[str, str] = {}
    for event in events:
        for code, handle, memory in listeners.get(type(event), ()):
            if code not in broken:
                try:
                    handle(event, memory)
                except Exception as error:  # a rule that breaks says nothing; the others go on
                    broken[code] = f"internal error in {code}: {type(error).__name__}: {error}; please report it"
    found = [report for code, memory in memories.items() if code not in broken for report in memory.reports.values()]
    return found, list(broken.values())
