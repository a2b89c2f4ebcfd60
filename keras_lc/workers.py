"""Several threads at work at once; numpy and pcodec let go of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from keras_lc.errors import OptionError

# the processors that a job may use, not all that its machine has
_OURS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADS = min(4, _OURS or 1)
_BESIDE = max(1, (_OURS or 1) // 2)  # at most, where a training has use for processors too
_SPARE = 2  # items under way for each thread, so that their scratch memory is bounded
# glibc gives a thread's freed memory back to the system from twice the largest block on that was
# ever freed, if that is at most 32 MiB, and having pages made anew takes longer than the work on
# them. So one is freed; its pages are never made.
np.empty((32 << 20) - 8192, np.uint8)
Item = TypeVar("Item")
Result = TypeVar("Result")
_wanted: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def using(threads: int | None) -> Iterator[None]:
    """What is done within takes so many threads; None for the usual number.

    Raises:
        OptionError: it is no number of threads.
    """
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and (not whole or threads < 1):
        raise OptionError(f"threads={threads!r}: expected a whole number from 1 up, or None.")
    before = _wanted.set(threads)
    try:
        yield
    finally:
        _wanted.reset(before)


def beside() -> int:
    """How many threads to take beside a training: with all of the processors, a save is hardly
    sooner done, and the training waits longer."""
    return min(_count(), _BESIDE)


def _count() -> int:
    return _wanted.get() or THREADS


def start() -> Executor:
    """Threads beside the one that asks, to be used as a context."""
    others = _count() - 1
    return ThreadPoolExecutor(others, "keras_lc-worker") if others else _Here()


class _Here(Executor):
    """Does at once, in the thread that asks, what it is given: where that is to be the only one."""

    def submit(
        self, function: Callable[..., Result], /, *arguments: Any, **options: Any
    ) -> Future[Result]:
        return _done(partial(function, *arguments, **options))


def ordered(
    workers: Executor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Results in the order of the items; these are taken one by one, as there is room.

    The thread that asks for them works, too. If it only waited, it would be woken up for each of
    them, and then have the interpreter that the others wait for.
    """
    items, threads = iter(items), _count()
    ahead = list(islice(items, 2))
    if threads == 1 or len(ahead) < 2:  # nothing would be gained by handing over
        yield from map(function, chain(ahead, items))
        return
    under_way: deque[tuple[Future[Result], Item]] = deque()
    for item in chain(ahead, items):
        under_way.append((workers.submit(function, item), item))
        if len(under_way) == _SPARE * threads:
            yield _next(under_way, function)
    while under_way:
        yield _next(under_way, function)


def _next(
    under_way: deque[tuple[Future[Result], Item]], function: Callable[[Item], Result]
) -> Result:
    """The next result; until it is there, what no thread has begun is done in this one."""
    for i, (future, item) in enumerate(under_way):
        if under_way[0][0].done():
            break
        if future.cancel():
            under_way[i] = _done(partial(function, item)), item
    return under_way.popleft()[0].result()


def _done(job: Callable[[], Result]) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(job())
    except Exception as error:  # to be raised in its turn
        future.set_exception(error)
    return future
