"""When a save is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from numbers import Integral
from typing import Any, Protocol

from keras_lc.errors import OptionError


class Schedule(Protocol):
    """Says at the end of each batch whether to save."""

    def due(self, batch: int) -> bool:
        """Whether to save at the end of this batch; `batch` counts from 0 in its epoch and may
        advance by more than one (`steps_per_execution`)."""
        ...

    def state(self) -> dict[str, Any]:
        """What another process needs to count on: numbers and None by name."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Count on from where `state` was taken."""
        ...


def schedule(save_freq: int | timedelta) -> Schedule:
    """The schedule that a user means: a number of batches, or a span of time."""
    return TimeSchedule(save_freq) if isinstance(save_freq, timedelta) else BatchSchedule(save_freq)


class BatchSchedule:
    """Every N batches, counted as `keras.callbacks.ModelCheckpoint` does: across epochs and
    calls of `fit`, starting anew after each save.

    Args:
        every: batches from one save to the next, from 1 up.

    Raises:
        OptionError: it is not a whole number from 1 up.
    """

    def __init__(self, every: int):
        whole = isinstance(every, Integral) and not isinstance(every, bool)
        if not whole or every < 1:
            raise OptionError(
                f"Unrecognized save_freq: {every!r}. Expected 'epoch', a number of batches from 1 "
                "up, or a datetime.timedelta."
            )
        self._every = every
        self._seen = 0
        self._last: int | None = None

    def due(self, batch: int) -> bool:
        if self._last is None or batch <= self._last:  # a new epoch
            self._seen += batch + 1
        else:
            self._seen += batch - self._last
        self._last = batch
        if self._seen < self._every:
            return False
        self._seen = 0
        return True

    def state(self) -> dict[str, Any]:
        return {"seen": self._seen, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        self._seen = state.get("seen", 0)
        self._last = state.get("last")


class TimeSchedule:
    """At the first batch that ends a span of time after the last save.

    Args:
        span: from one save to the next.
        clock: seconds that never go back.

    Raises:
        OptionError: the span is not positive.
    """

    def __init__(self, span: timedelta, clock: Callable[[], float] = time.monotonic):
        if span <= timedelta(0):
            raise OptionError(
                f"Unrecognized save_freq: {span!r}. Expected a positive span of time."
            )
        self._span = span.total_seconds()
        self._clock = clock
        self._since: float | None = None  # when the first batch ended, or the last save was due

    def due(self, batch: int) -> bool:
        now = self._clock()
        if self._since is None:
            self._since = now
        if now - self._since < self._span:
            return False
        self._since = now
        return True

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self._since = self._clock()
