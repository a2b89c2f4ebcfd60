"""A bar on the terminal for what takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_PATIENCE = 1.0  # s without a bar
_PAUSE = 0.1  # s from one drawing to the next
_WIDTH = 30
Item = TypeVar("Item")


def shown(items: Iterable[Item], count: int, what: str) -> Iterator[Item]:
    """The items, one after another; after a second, a bar tells on stderr how many are done.

    Nothing is told where stderr is no terminal.

    Args:
        items: what is worked on between two of them.
        count: how many there are.
        what: what is being done.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    due = time.monotonic() + _PATIENCE
    drawn = False
    try:
        for done, item in enumerate(items):
            if time.monotonic() > due:
                _draw(done, count, what)
                due, drawn = time.monotonic() + _PAUSE, True
            yield item
        if drawn:
            _draw(count, count, what)
    finally:
        if drawn:
            print(file=sys.stderr)


def _draw(done: int, count: int, what: str) -> None:
    bar = "━" * (_WIDTH * done // count)
    print(f"\r{what} {bar:╌<{_WIDTH}} {done}/{count}", end="", file=sys.stderr, flush=True)
