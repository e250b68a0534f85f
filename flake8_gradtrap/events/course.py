"""The course of the run: loops, iterations, functions, the end."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flake8_gradtrap.events.base import Event, Thing


@dataclass(frozen=True, slots=True)
class LoopStarted(Event):
    """A loop begins. `count`: the n of `for … in range(n)`."""

    loop: Hashable
    count: Thing | None = None


@dataclass(frozen=True, slots=True)
class IterationStarted(Event):
    """An iteration of a loop begins; `index` is 0 for the first that is run, 1 for the second."""

    loop: Hashable
    index: int


@dataclass(frozen=True, slots=True)
class LoopLeft(Event):
    """A loop is over. `surprised`: its last iteration was taken for one that others follow (`i + 1 == len(loader)` was
    false), or it was left by `break`: the path may not exist, or not be the usual one.
    """

    loop: Hashable
    surprised: bool = False


@dataclass(frozen=True, slots=True)
class FunctionLeft(Event):
    """A visible function returned. `values`: the tensors in what it returned. `reaches`: the tensors of their graphs
    (only where somebody asks what becomes of a module's output).
    """

    function: str
    values: tuple[Thing, ...] = ()
    reaches: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class WholeClass:
    """A class of which the constructor and all methods were run on one object, `instance`.

    `made`: what its constructor made and keeps in attributes, labelled `self.name`. `bases_seen`: whether all its base
    classes are visible; others may do anything to what it keeps.
    """

    instance: Thing
    made: tuple[Thing, ...] = ()
    bases_seen: bool = True


@dataclass(frozen=True, slots=True)
class FileEnded(Event):
    """All of the file was run. What a rule says of something as a whole, whatever the path, is said here.

    What a rule has not heard by now, this file does not do: the path has no memory, and a rule keeps on itself what it
    takes to judge. `classes`: those whose methods were run by themselves. `unrun`: for each function that was not run,
    or not to its end, the identifiers in it. Other files may still do what this one does not: a rule asks for more
    evidence that this is the place for it.
    """

    classes: tuple[WholeClass, ...] = ()
    unrun: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """This path of the run is over; `again`: its code may run again from the top, on the same objects. `instance`: the
    object whose method it was.
    """

    again: bool = False
    instance: Thing | None = None
