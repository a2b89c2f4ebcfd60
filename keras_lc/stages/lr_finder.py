"""The loss over a learning rate that rises from batch to batch (Smith, 2017, arXiv:1506.01186)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lc.errors import OptionError
from keras_lc.stages import plots

_DIVERGED = 4.0  # times the least loss so far, beyond which nothing is to be learned
_SMOOTH = 0.9  # weight of what was before, in the running mean


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
        """A tenth of the rate at which the smoothed loss is least; None without a loss."""
        smooth = self.smoothed()
        if not np.isfinite(smooth).any():
            return None
        return float(f"{self.rates[int(np.nanargmin(smooth))] / 10:.3g}")

    def smoothed(self) -> np.ndarray:
        """The losses as a running mean that does not favour the first one."""
        mean, found = 0.0, []
        for i, loss in enumerate(self.losses, start=1):
            mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
            found.append(mean / (1 - _SMOOTH**i))
        return np.array(found)

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


class _Rise(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises the rate before each batch, and notes the loss of each alone."""

    def __init__(self, first: float, last: float, epochs: int):
        super().__init__()
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._first = first
        self._growth = last / first
        self._epochs = epochs

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        steps = (self.params or {}).get("steps")
        if not steps:
            raise OptionError(
                "find_lr: the length of the data is not known; pass `steps_per_epoch`."
            )
        share = len(self.rates) / max(1, steps * self._epochs - 1)
        self.rates.append(self._first * self._growth**share)
        self.model.optimizer.learning_rate = self.rates[-1]
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self.losses.append(loss)
        if math.isnan(loss) or loss > _DIVERGED * min(self.losses):
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
