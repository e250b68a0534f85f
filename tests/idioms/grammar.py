"""A family of correct programs: a template with places, dimensions with ways to fill them, and traps.

A place, `{{name}}`, is filled with the text of a way; a text may have places itself. A place that stands alone in its
line takes a text of several lines, at that indentation, or of none. The first way of each dimension is its plain one:
a program is told by the ways in which it differs from the program of plain ways.

What stands between the lines `# elsewhere: a, b` and `# here` belongs to another file, which cannot be seen: `seen`
puts an import of the names in its place.
"""

from __future__ import annotations

import itertools
import random
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_LINE = re.compile(r"^([ \t]*)\{\{(\w+)\}\}[ \t]*$", re.MULTILINE)
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_ELSEWHERE = re.compile(r"^# elsewhere:(.*)\n(?:.*\n)*?# here$", re.MULTILINE)

Way = Mapping[str, str]
"""The texts of the places that a way fills."""


@dataclass(frozen=True)
class Family:
    """Programs of one shape. `dimensions`: name, then the ways by name, the plain one first. `traps`: by name, the code
    that is expected, and the texts that make the trap.
    """

    name: str
    template: str
    dimensions: Mapping[str, Mapping[str, Way]]
    traps: Mapping[str, tuple[str, Way]] = field(default_factory=dict)

    def program(self, differs: Mapping[str, str] | None = None, trap: str = "") -> str:
        """The program of plain ways, but for the dimensions in `differs`, with a trap or without.

        Raises KeyError for a place that nothing fills.
        """
        chosen = {name: next(iter(ways)) for name, ways in self.dimensions.items()} | dict(differs or {})
        texts: dict[str, str] = {}
        for name, way in chosen.items():
            texts.update(self.dimensions[name][way])
        if trap:
            texts.update(self.traps[trap][1])
        text = textwrap.dedent(self.template).lstrip("\n")
        for _ in range(40):
            if _LINE.search(text):  # all of these first: what they are filled with may have some itself
                text = _LINE.sub(lambda match: _block(texts[match[2]], match[1]), text)
            elif _PLACE.search(text):
                text = _PLACE.sub(lambda match: texts[match[1]], text)
            else:
                break
        return re.sub(r"\n[ \t]*\n(?=[ \t]*\n)", "\n", text)

    def differing(self, ways: Mapping[str, str]) -> dict[str, str]:
        """The dimensions that are not plain."""
        return {name: way for name, way in ways.items() if way != next(iter(self.dimensions[name]))}

    def single(self) -> Iterator[dict[str, str]]:
        """What differs, one dimension at a time."""
        for name, ways in self.dimensions.items():
            yield from ({name: way} for way in list(ways)[1:])

    def pairs(self) -> Iterator[dict[str, str]]:
        """What differs, two dimensions at a time."""
        for one, other in itertools.combinations(self.dimensions, 2):
            for way, second in itertools.product(list(self.dimensions[one])[1:], list(self.dimensions[other])[1:]):
                yield {one: way, other: second}

    def mixed(self, chance: random.Random) -> dict[str, str]:
        """Any way in each dimension."""
        return {name: chance.choice(list(ways)) for name, ways in self.dimensions.items()}


def _block(text: str, indent: str) -> str:
    return textwrap.indent(textwrap.dedent(text).strip("\n"), indent)


def seen(program: str) -> str:
    """What is to be seen of a program."""
    return _ELSEWHERE.sub(lambda match: f"from parts import {match[1].strip()}" if match[1].strip() else "", program)
