"""The cache: what was found in files that did not change, so that they need not be analysed again.

An answer is kept under the content of its file, the settings, this version of gradtrap, and what else of the project
the answer depends on. There is one file a folder of sources, in JSON: data, and nothing that could be executed. A cache
that is damaged, or made up by somebody, is no cache: whatever does not look right is analysed anew. Fixes are never
taken from it, and the only files that are shown because it names them are those whose content it knows.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from flake8_gradtrap.batch import Outcome, Task, applicable
from flake8_gradtrap.catalogue import installation
from flake8_gradtrap.config import Settings
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.packing import Refused, Unpacker, pack
from flake8_gradtrap.result import Statistics
from flake8_gradtrap.store import Store
from flake8_gradtrap.versions import UNREADABLE, Look, Stamp, digest, read, says, stamp, whole_stamp

FOLDER = ".gradtrap_cache"
_EVERY = 200
"""After so many new answers they are written, so that a run that is broken off has not been in vain."""


def default_folder() -> str:
    """`.gradtrap_cache` in the root of the project in which we are, else in the current folder."""
    here = os.getcwd()
    for folder in _upwards(here):
        if any(os.path.lexists(os.path.join(folder, mark)) for mark in ("pyproject.toml", ".git")):
            return os.path.join(folder, FOLDER)
    return os.path.join(here, FOLDER)


def _upwards(folder: str) -> Iterator[str]:
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


@dataclass(slots=True)
class _Entry:
    """The answer for a file: its content, the numbers of what else was looked at, what was found, what that took."""

    digest: str
    stamp: Stamp | None
    looks: list[int]
    findings: Any
    statistics: list[Any]


class _Shelf:
    """The answers for the files of a folder, under the same settings. What many files looked at stands there once."""

    def __init__(self, name: str, folder: str, settings: Settings) -> None:
        self.name = name
        self.folder = folder
        self.prefix = os.path.join(folder, "")
        self.settings = settings  # kept, so that no other settings get its id
        self.entries: dict[str, _Entry] = {}
        self.looks: list[Look] = []
        self.new: set[str] = set()
        """The names of what is not yet written."""
        self.refreshed = False
        """Whether stamps are not yet written."""
        self.broken: set[int] | None = None
        """The looks that are not as they were; None: not known yet."""
        self._numbers: dict[Look, int] = {}

    def number(self, look: Look) -> int:
        if not self._numbers:
            self._numbers = {known: number for number, known in enumerate(self.looks)}
        number = self._numbers.setdefault(look, len(self.looks))
        if number == len(self.looks):
            self.looks.append(look)
        return number

    def add(self, name: str, entry: _Entry, looks: Iterable[Look]) -> None:
        entry.looks = [self.number(look) for look in looks]
        self.entries[name] = entry

    def dump(self) -> bytes:
        files = {name: [getattr(entry, part) for part in _Entry.__slots__] for name, entry in self.entries.items()}
        data = {"folder": self.folder, "looks": self.looks, "files": files}
        return json.dumps(data, separators=(",", ":")).encode()

    def load(self, text: bytes) -> None:
        """Take up what was dumped. ValueError and the like for what was not."""
        data = json.loads(text)
        if data["folder"] != self.folder:
            raise Refused("another folder")
        looks = [Look(_absolute(path), *_version(found, seen)) for path, found, seen in data["looks"]]
        entries: dict[str, _Entry] = {}
        for name, (found, seen, numbers, findings, statistics) in data["files"].items():
            own, stamped = found, None if seen is None else Stamp(*seen)
            if type(own) is not str or not own or type(numbers) is not list or not set(map(type, numbers)) <= {int}:
                raise Refused("an entry")
            if numbers and not 0 <= min(numbers) <= max(numbers) < len(looks):
                raise Refused("the number of a look")
            entries[name] = _Entry(own, stamped, numbers, findings, list(statistics))
        self.looks, self.entries = looks, entries


def _absolute(value: Any) -> str:
    if not isinstance(value, str) or not os.path.isabs(value):
        raise Refused("a path")
    return value


def _version(found: Any, seen: Any) -> tuple[str | None, Stamp | None]:
    if found is not None and not isinstance(found, str):
        raise Refused("a digest")
    return found, None if seen is None else Stamp(*map(int, seen))


_WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError)
"""What may be raised over data that nobody has checked."""


class Cache:
    """The answers of earlier runs. None of its methods raises because of what is, or is not, on the disk."""

    def __init__(self, folder: str) -> None:
        self._store = Store(folder, installation())
        self._shelves: dict[tuple[str, int], _Shelf] = {}
        self._keys: dict[int, str] = {}
        self._now: dict[str, os.stat_result | None] = {}
        self._digests: dict[str, str | None] = {}
        self._folders: set[str] = set()
        self._waiting = 0

    def look_again(self) -> None:
        """Forget what the files were like a moment ago."""
        self._now.clear()
        self._digests.clear()
        self._folders.clear()
        for shelf in self._shelves.values():
            shelf.broken = None

    def known(self, tasks: Sequence[Task]) -> dict[int, Outcome]:
        """The outcomes that are known, by the numbers of their tasks."""
        enabled = gc.isenabled()
        gc.disable()  # there is no garbage, and a tenth of the time went to search for it
        try:
            return {number: outcome for number, task in enumerate(tasks) if (outcome := self.get(task)) is not None}
        finally:
            if enabled:
                gc.enable()

    # -- asking -------------------------------------------------------------------------------------------------------

    def get(self, task: Task, text: str | None = None) -> Outcome | None:
        """The outcome of a task, if nothing has changed since it was last done.

        `text`: of its file, if somebody has read it already (as in `check_text`): then this alone decides.
        """
        if task.data is not None:
            return None
        shelf, name = self._place(task)
        entry = shelf.entries.get(name)
        if entry is None:
            return None
        own = Look(shelf.prefix + name, entry.digest, entry.stamp)
        if text is not None:
            touched = False
            if not self._says(own, text):
                return None
        else:
            touched = not self._untouched(own)
            if touched and not self._holds(own):
                return None
        if entry.looks:
            if shelf.broken is None:
                self._look(shelf)
            if shelf.broken and not shelf.broken.isdisjoint(entry.looks):
                return None
        try:
            outcome = self._outcome(task, entry, shelf)
        except _WRONG:
            return None
        if task.fix and any(applicable(finding, task.unsafe) for finding in outcome.findings):
            return None
        if touched and (fresh := self._refreshed(own)) is not own:
            entry.stamp = fresh.stamp
            shelf.new.add(name)
        return outcome

    def _outcome(self, task: Task, entry: _Entry, shelf: _Shelf) -> Outcome:
        findings: tuple[Finding, ...] = ()
        if entry.findings != []:
            others = {look.path for number in entry.looks if (look := shelf.looks[number]).digest}
            findings = Unpacker(task.path, others).findings(entry.findings)
            if not all(map(task.settings.reports, findings)):
                raise Refused("a finding that was not asked for")
        run, over, seconds, names = entry.statistics
        if not (type(run) is type(over) is int and type(seconds) is float and isinstance(names, list)):
            raise Refused("statistics")
        return Outcome(task.path, findings, Statistics(run, over, seconds, tuple(map(str, names))))

    def _look(self, shelf: _Shelf) -> None:
        """Look at all that the files of a folder looked at."""
        shelf.broken = {number for number, look in enumerate(shelf.looks) if not self._holds(look)}
        for number, look in enumerate(shelf.looks):
            if number not in shelf.broken and (fresh := self._refreshed(look)) is not look:
                shelf.looks[number] = fresh
                shelf.refreshed = True

    @staticmethod
    def _says(own: Look, text: str) -> bool:
        """Whether an answer is about this text."""
        if digest(text.encode(errors="surrogatepass")) == own.digest:
            return True
        with contextlib.suppress(OSError, ValueError):  # another encoding, other ends of lines
            data, _ = read(own.path)
            return digest(data) == own.digest and says(data, text)
        return False

    @staticmethod
    def _untouched(own: Look) -> bool:
        """Whether a file looks as it did: of most files, that is all there is to ask."""
        try:
            return own.stamp is not None and own.stamp == whole_stamp(os.stat(own.path))
        except (OSError, ValueError):
            return False

    def _holds(self, look: Look) -> bool:
        """Whether a place is as it was when it was looked at."""
        now = self._status(look.path)
        if now is None or look.digest is None:
            return now is None and look.digest is None
        same = look.stamp is not None and look.stamp == whole_stamp(now)
        if look.digest == "":
            return same or look.stamp is None
        return same or (look.digest != UNREADABLE and self._digest(look.path) == look.digest)

    def _refreshed(self, look: Look) -> Look:
        """The same look, with the stamp of today where it has none or another, so that next time it will do."""
        now = self._status(look.path)
        if not look.digest or now is None or look.stamp == whole_stamp(now) or (found := stamp(now)) is None:
            return look
        return look._replace(stamp=found)

    def _status(self, path: str) -> os.stat_result | None:
        if path not in self._now:
            try:
                self._now[path] = os.stat(path)
            except (OSError, ValueError):
                self._now[path] = None
        return self._now[path]

    def _digest(self, path: str) -> str | None:
        if path not in self._digests:
            try:
                self._digests[path] = digest(read(path)[0])
            except (OSError, ValueError):
                self._digests[path] = None
        return self._digests[path]

    # -- telling ------------------------------------------------------------------------------------------------------

    def put(self, task: Task, outcome: Outcome) -> None:
        """Keep an outcome, if it would be the same again."""
        if task.data is not None or not outcome.version or outcome.statistics is None or not outcome.settled:
            return
        told = outcome.statistics
        numbers = [told.functions_run, told.functions_over_budget, round(told.seconds, 4), list(told.over_budget)]
        entry = _Entry(*outcome.version, [], pack(outcome.findings, task.path), numbers)
        shelf, name = self._place(task)
        shelf.add(name, entry, {look.path: look for look in map(self._shortened, outcome.looks)}.values())
        shelf.new.add(name)
        self._waiting += 1
        if self._waiting >= _EVERY:
            self.save()

    def _shortened(self, look: Look) -> Look:
        """Of a place where nothing was, the first folder that was missing: many have it in common."""
        if look.digest is not None:
            return look
        path = look.path
        while (parent := os.path.dirname(path)) != path and not self._exists(parent):
            path = parent
        return look._replace(path=path)

    def _exists(self, path: str) -> bool:
        if path not in self._folders and os.path.lexists(path):
            self._folders.add(path)
        return path in self._folders

    def save(self) -> None:
        """Write what is new. What another run has written meanwhile stays, unless it is about the same files."""
        self._waiting = 0
        changed = [shelf for shelf in self._shelves.values() if shelf.new or shelf.refreshed]
        with self._store.locked() if changed else contextlib.nullcontext():
            self._merge(changed)

    def _merge(self, changed: Iterable[_Shelf]) -> None:
        for shelf in changed:
            disk = self._load(shelf.name, shelf.folder, shelf.settings)
            merged = _Shelf(shelf.name, shelf.folder, shelf.settings)
            for source in (disk, shelf):
                for name, entry in source.entries.items():
                    ours = source is disk or name in shelf.new or name not in disk.entries or shelf.refreshed
                    if ours and os.path.lexists(os.path.join(shelf.folder, name)):
                        merged.add(name, replace(entry), [source.looks[number] for number in entry.looks])
            shelf.new.clear()
            shelf.refreshed = False
            self._store.write(shelf.name, merged.dump())

    # -- shelves ------------------------------------------------------------------------------------------------------

    def _place(self, task: Task) -> tuple[_Shelf, str]:
        """Where the answer for a file lies, and under which name."""
        folder, slash, name = task.path.rpartition(os.sep)
        folder += slash
        if name in ("", os.curdir, os.pardir):  # no file, but somebody may ask
            folder, name = os.path.split(os.path.abspath(task.path))
        key = folder, id(task.settings)
        if key not in self._shelves:
            if id(task.settings) not in self._keys:
                self._keys[id(task.settings)] = _key(task.settings)
            # Behind a link, `..` is not where it seems to be.
            whole = (os.path.realpath if os.pardir in folder else os.path.abspath)(folder)
            label = digest(f"{whole}\n{self._keys[id(task.settings)]}".encode(errors="surrogatepass"))
            self._shelves[key] = self._load(label, whole, task.settings)
        return self._shelves[key], name

    def _load(self, name: str, folder: str, settings: Settings) -> _Shelf:
        shelf = _Shelf(name, folder, settings)
        if (data := self._store.read(name)) is not None:
            with contextlib.suppress(*_WRONG):
                shelf.load(data)
        return shelf


def _key(settings: Settings) -> str:
    """What the answers depend on in the settings. What is excluded is never asked for."""
    values = {one.name: getattr(settings, one.name) for one in fields(settings) if one.name != "exclude"}
    # Without a root, patterns are relative to where we are.
    return repr([_plain(values), os.getcwd() if settings.per_file_ignores and not settings.root else ""])


def _plain(value: Any) -> Any:
    """Settings in a fixed order."""
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, dict):
        return sorted((name, _plain(item)) for name, item in value.items())
    if is_dataclass(value):
        return [_plain(getattr(value, one.name)) for one in fields(value)]
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def clean(folder: str) -> int:
    """Remove the caches of all versions in a folder; how many files that were. Nothing else is touched."""
    with contextlib.suppress(OSError):
        return Store(folder, "").clean()
    return 0
