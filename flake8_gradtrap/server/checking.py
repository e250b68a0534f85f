"""Checks in the background: one at a time, in a thread, and of each program only the newest version.

An edit ends the check of what was there before it. All who ask for the findings of a program wait for the same check,
and when none of them waits any more, it ends too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from flake8_gradtrap.engine import Surroundings

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")


@dataclass
class _Work(Generic[R]):
    """What is known of one program."""

    stamp: int = 0
    """Counts what happened to it: what was found before does not hold any more."""
    touched: float = 0.0
    """When something happened to it last."""
    due: float = 0.0
    """When it may be checked: not while somebody types."""
    found: tuple[int, R] | None = None
    """What was found, and the stamp at that time."""
    task: asyncio.Task[R | None] | None = None
    running: Surroundings | None = None
    waiting: int = 0


class Checker(Generic[J, R]):
    """`job`: a program as it is now, with the texts that are not saved; None if there is nothing to check.
    `check`: what is found in it; this is called in the thread.
    """

    def __init__(
        self, job: Callable[[str], tuple[J, Surroundings] | None], check: Callable[[J, Surroundings], R]
    ) -> None:
        self._job = job
        self._check = check
        self._thread = ThreadPoolExecutor(1, "gradtrap")
        self._works: dict[str, _Work[R]] = {}

    def warm_up(self, call: Callable[[], object]) -> None:
        """Call something in the thread, before anything is checked."""
        self._thread.submit(call)

    async def between(self, call: Callable[[], T]) -> T:
        """Call something in the thread, when nothing is checked: the engine is not made for two threads."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def touch(self, uri: str, delay: float = 0.0, pause: float = math.inf) -> None:
        """Something has changed: what is known does not hold any more, and a check begins `delay` seconds from now; at
        once, where nothing had changed for `pause` seconds: that is no burst yet, and one that follows ends the check.
        """
        work = self._works.setdefault(uri, _Work())
        work.stamp += 1
        now = time.monotonic()
        work.due = now if now - work.touched >= pause else now + delay
        work.touched = now
        if work.running is not None:
            work.running.stop()

    def last(self, uri: str) -> R | None:
        """What was found last, whether or not it still holds."""
        work = self._works.get(uri)
        return work.found[1] if work is not None and work.found is not None else None

    async def newest(self, uri: str) -> R | None:
        """What is found in the version that there is when this returns; None if the program is no more."""
        while True:
            work = self._works.setdefault(uri, _Work())
            if work.found is not None and work.found[0] == work.stamp:
                return work.found[1]
            if await self._wait(uri, work) is None:
                return None

    async def _wait(self, uri: str, work: _Work[R]) -> R | None:
        if work.task is None or work.task.done():
            work.task = asyncio.create_task(self._run(uri, work))
        task = work.task
        work.waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            work.waiting -= 1
            if not work.waiting and work.task is task and not task.done():
                self._end(work)

    def forget(self, uri: str) -> None:
        """The program is no more."""
        if (work := self._works.pop(uri, None)) is not None:
            self._end(work)

    def close(self) -> None:
        for uri in list(self._works):
            self.forget(uri)
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _end(work: _Work[R]) -> None:
        if work.task is not None:
            work.task.cancel()
            work.task = None
        if work.running is not None:
            work.running.stop()

    async def _run(self, uri: str, work: _Work[R]) -> R | None:
        while True:
            while (wait := work.due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            stamp = work.stamp
            job = self._job(uri)
            if job is None:
                return None
            surroundings = work.running = job[1]
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._thread, self._in_thread, *job)
            finally:
                if work.running is surroundings:
                    work.running = None
            if found is not None and work.stamp == stamp:
                work.found = stamp, found
                return found

    def _in_thread(self, job: J, surroundings: Surroundings) -> R | None:
        """What is found; None if nobody wants to know any more."""
        if surroundings.stopped:
            return None
        found = self._check(job, surroundings)
        return None if surroundings.stopped else found
