"""Many processes: work is done in all of them, and one that dies, or grows too large, costs no more than it must.

Where none can be started (a limit of the system, no shared memory), the work is done in this one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Generic, TypeVar

LARGE = 240 << 20
"""A process that has grown to so many bytes is replaced by a new one,"""
_ROOM = 40 << 20
"""but not before it has grown by so many: copied from a large process, it is large from the start."""
_AHEAD = 4
"""So many items wait in front of each process: enough that none idles, few enough that little is lost with one."""

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def size() -> int:
    """The bytes of memory that this process occupies, or once did."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


class _Measured(Generic[A, B]):
    """The function, and whether the process has grown large with it."""

    limit = LARGE

    def __init__(self, function: Callable[[A], B]) -> None:
        self._function = function

    def __call__(self, item: A) -> tuple[B, bool]:
        return self._function(item), size() > self.limit


def _start(large: int) -> None:
    """Leave interrupts to the process that started this one, and end with it, even if it was killed."""
    _Measured.limit = max(large, size() + _ROOM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def wait_for_it() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Interrupts wait: a process that starts meanwhile would show a traceback before it knows that it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _NoProcess(Exception):
    """None could be started."""


def _context(prepare: Callable[[], None]) -> BaseContext:
    """How processes are started. Where they can be copied from this one, it first does what each would have to do."""
    if sys.platform.startswith("linux") and threading.active_count() == 1:
        prepare()
        gc.collect()
        gc.freeze()  # what they share stays shared
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context()


def each(
    function: Callable[[A], B], items: Sequence[A], jobs: int, prepare: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, B | None]]:
    """The number of each item and its result, as they come; None for an item over which a process died."""
    waiting = deque(range(len(items)))
    context = _context(prepare)
    lost: list[int] = []
    try:
        while waiting:
            yield from _generation(function, items, waiting, jobs, context, lost)
            while lost:  # one of these killed it: each is done again in a process of its own
                alone: list[int] = []
                yield from _generation(function, items, deque(lost[:1]), 1, context, alone)
                if alone:
                    yield lost[0], None
                del lost[0]
    except _NoProcess:
        for number in lost:  # not here: it may have killed one
            yield number, None
        for number in waiting:
            yield number, function(items[number])


def _generation(
    function: Callable[[A], B],
    items: Sequence[A],
    waiting: deque[int],
    jobs: int,
    context: BaseContext,
    lost: list[int],
) -> Iterator[tuple[int, B]]:
    """Work off what waits, until nothing does, a process has grown large, or one has died; then `lost` is in doubt."""
    running: dict[Future[tuple[B, bool]], int] = {}
    measured = _Measured(function)
    go_on = True
    others = set(multiprocessing.active_children())
    try:
        pool = ProcessPoolExecutor(min(jobs, len(waiting)), context, _start, (LARGE,))
    except (OSError, ImportError, NotImplementedError) as error:  # no semaphores
        raise _NoProcess from error
    with pool:
        try:
            while True:
                while go_on and waiting and len(running) < jobs * _AHEAD:
                    try:
                        with _uninterrupted():
                            future = pool.submit(measured, items[waiting[0]])
                    except BrokenProcessPool:
                        go_on = False
                    except OSError as error:  # too many processes, or too little memory for another
                        waiting.extendleft(running.values())
                        raise _NoProcess from error
                    else:
                        running[future] = waiting.popleft()
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    try:
                        result, grown = future.result()
                    except BrokenProcessPool:
                        lost.append(number)
                        go_on = False
                    except Exception:  # the result could not be sent
                        lost.append(number)
                    else:
                        go_on = go_on and not grown
                        yield number, result
        except BaseException:  # whoever asked has lost interest, or there is no going on
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
                process.join()
            raise
    lost.sort()
