"""The kinds of traps: each a generator of the sites of a file where it can be planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planting.source import Site, Source

Planter = Callable[[Source], Iterator[Site]]
KINDS: dict[str, Planter] = {}


def kind(name: str) -> Callable[[Planter], Planter]:
    def register(planter: Planter) -> Planter:
        KINDS[name] = planter
        return planter

    return register
