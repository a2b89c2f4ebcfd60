"""Tensors worked on by several threads at once; numpy and pcodec let go of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

# the processors that a job may use, not all that its machine has
_OURS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADS = min(4, _OURS or 1)
_SPARE = 2  # tensors under way for each thread, so that their scratch memory is bounded
Item = TypeVar("Item")
Result = TypeVar("Result")


def start() -> ThreadPoolExecutor:
    """Threads, to be used as a context."""
    return ThreadPoolExecutor(THREADS, "keras_lc-core")


def each(
    workers: Executor, function: Callable[[Item], Result], levels: Iterable[list[Item]]
) -> Iterator[tuple[Item, Result]]:
    """Items and results in their order; a level begins when all of the one before are taken."""
    for level in levels:
        for first in range(0, len(level), _SPARE * THREADS):
            window = level[first : first + _SPARE * THREADS]
            yield from zip(window, workers.map(function, window), strict=True)


def run(workers: Executor, function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call a function on all items; they are taken one by one, as there is room for them."""
    under_way: deque[Future[None]] = deque()
    for item in items:
        under_way.append(workers.submit(function, item))
        if len(under_way) == _SPARE * THREADS:
            under_way.popleft().result()
    for future in under_way:
        future.result()
