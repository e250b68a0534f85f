"""What a rule sees of one path: its memory, and the findings that it reports."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flake8_gradtrap.events import Site
from flake8_gradtrap.interp.state import State

if TYPE_CHECKING:
    from flake8_gradtrap.interp.core import Core
    from flake8_gradtrap.rule import Remedy


@dataclass(slots=True)
class Report:
    """A finding as a rule reports it, before positions are known."""

    code: str
    site: Site
    message: str
    trace: tuple[tuple[str, Site], ...]
    remedy: Remedy | None
    preview: bool
    severity: str | None


class PathWatch:
    """The `rule.Watch` of one rule on one path."""

    __slots__ = ("code", "core", "state")

    def __init__(self, core: Core, code: str) -> None:
        self.core = core
        self.code = code
        self.state: State = State()

    def get(self, key: Hashable, default: Any = None) -> Any:
        inner = self.state.mem.get(self.code)
        return inner.get(key, default) if inner is not None else default

    def put(self, key: Hashable, value: Hashable) -> None:
        self.state.mem[self.code] = {**self.state.mem.get(self.code, {}), key: value}

    def drop(self, key: Hashable) -> None:
        inner = self.state.mem.get(self.code)
        if inner is not None and key in inner:
            rest = {name: value for name, value in inner.items() if name != key}
            if rest:
                self.state.mem[self.code] = rest
            else:
                del self.state.mem[self.code]

    def items(self) -> Iterable[tuple[Hashable, Any]]:
        inner = self.state.mem.get(self.code)
        return inner.items() if inner else ()  # as it is now: what is remembered is never changed, only replaced

    @property
    def lossy(self) -> bool:
        return self.code in self.state.lossy

    def line(self, site: Site) -> int:
        return self.core.line(site)

    def report(
        self,
        site: Site,
        message: str,
        trace: Iterable[tuple[str, Site]] = (),
        remedy: Remedy | None = None,
        preview: bool = False,
        severity: str | None = None,
    ) -> None:
        if self.core.assumed_runs and self.code != "GTR103":
            return  # the arguments are only assumed: a finding of another rule would be about them
        preview = preview or self.core.module.of_test_suite  # a test trains nothing that anybody keeps
        key = (self.code, id(site.node))
        known = self.core.reports.get(key)
        if known is None or (known.preview and not preview):
            self.core.reports[key] = Report(self.code, site, message, tuple(trace), remedy, preview, severity)
