"""The loss over a learning rate that rises from batch to batch (Smith, 2017, arXiv:1506.01186)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lc.stages import plots, training

_DIVERGED = 4.0  # times the least smoothed loss so far: beyond it nothing is to be learned
_SMOOTH = 0.8  # weight of what was before, in the running mean


@dataclass(frozen=True)
class LearningRates:
    """What `find_lr` has found.

    Attributes:
        rates: the learning rate of each batch.
        losses: the loss of each batch, before its step.

    Example:
        >>> from keras_lc.stages import LearningRates
        >>> found = LearningRates([1e-4, 1e-3, 1e-2, 1e-1], [2.0, 1.5, 0.5, 4.0])
        >>> found.suggestion
        0.001
    """

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float | None:
        """A tenth of the highest rate at which the smoothed loss is not above the median of the
        first batches; None if there is none. The least loss would tell nothing of a model that is
        trained already: until the rate is too high, it goes up and down by chance."""
        first = np.median(self.losses[: len(self.losses) // 10 or 1] or [math.nan])
        fine = np.nonzero(self.smoothed() <= first)[0]
        return float(f"{self.rates[fine[-1]] / 10:.3g}") if fine.size else None

    def smoothed(self) -> np.ndarray:
        """The losses as a running mean."""
        mean = _Mean()
        return np.array([mean.added(loss) for loss in self.losses])

    def plot(self, file: str | os.PathLike[str] | None = None) -> Any:
        """Draw the loss over the learning rate.

        Args:
            file: to write as well, `.png`, `.svg` or `.pdf`.

        Returns:
            A figure of matplotlib.

        Raises:
            OptionError: matplotlib is missing.
        """
        return plots.rates(self.rates, self.losses, self.smoothed(), self.suggestion, file)


class _Mean:
    """A running mean that does not favour the first value."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def added(self, value: float) -> float:
        """With one more value."""
        self._sum = _SMOOTH * self._sum + value
        self._weight = _SMOOTH * self._weight + 1
        return self._sum / self._weight


class _Rise(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises the rate before each batch, and notes the loss of each alone."""

    def __init__(self, first: float, last: float, epochs: int):
        super().__init__()
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._first = first
        self._growth = last / first
        self._epochs = epochs
        self._mean = _Mean()
        self._least = math.inf

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        steps = training.steps_of(self, "find_lr")
        share = len(self.rates) / max(1, steps * self._epochs - 1)
        self.rates.append(self._first * self._growth**share)
        self.model.optimizer.learning_rate = self.rates[-1]
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self.losses.append(loss)
        smooth = self._mean.added(loss)
        self._least = min(self._least, smooth)
        if math.isnan(loss) or smooth > _DIVERGED * self._least:
            self.model.stop_training = True


def search(
    model: Any, x: Any, y: Any, min_rate: float, max_rate: float, epochs: int, **options: Any
) -> LearningRates:
    """Train a model that may be spoiled, at rising rates, until it diverges."""
    rise = _Rise(min_rate, max_rate, epochs)
    options = {"verbose": 0} | options
    with np.errstate(over="ignore", invalid="ignore"):
        model.fit(x, y, epochs=epochs, callbacks=[rise], **options)
    return LearningRates(rise.rates[: len(rise.losses)], rise.losses)
