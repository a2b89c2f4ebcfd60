"""When a save is due."""

from __future__ import annotations

from keras_lc.errors import OptionError


class BatchSchedule:
    """Every N batches, counted as `keras.callbacks.ModelCheckpoint` does: across epochs and
    calls of `fit`, starting anew after each save.

    Args:
        every: batches from one save to the next, from 1 up.

    Raises:
        OptionError: it is not a whole number from 1 up.
    """

    def __init__(self, every: int):
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise OptionError(
                f"Unrecognized save_freq: {every!r}. Expected 'epoch' or a number of batches "
                "from 1 up."
            )
        self._every = every
        self._seen = 0
        self._last: int | None = None

    def due(self, batch: int) -> bool:
        """Whether to save at the end of this batch; `batch` counts from 0 in its epoch and may
        advance by more than one (`steps_per_execution`)."""
        if self._last is None or batch <= self._last:  # a new epoch
            self._seen += batch + 1
        else:
            self._seen += batch - self._last
        self._last = batch
        if self._seen < self._every:
            return False
        self._seen = 0
        return True
