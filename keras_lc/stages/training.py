"""One `fit` of a stage: Keras' own, with callbacks that save, watch, and warm up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import keras

from keras_lc.callback import LCModelCheckpoint
from keras_lc.capture import RUN
from keras_lc.capture.keras import KerasCapture
from keras_lc.capture.optimizers import optimizers_of
from keras_lc.errors import OptionError
from keras_lc.loader import Loaded

_SCHEDULE = ("iteration", "learning_rate")  # what a schedule has come to


class StageCheckpoint(LCModelCheckpoint):
    """Saves each epoch of a fit, which begins on the chain that another one has ended.

    Args:
        filepath: of the checkpoints of this fit alone.
        origin: what the model has just been given.
        options: of `LCModelCheckpoint`.
    """

    def __init__(self, filepath: str, origin: Loaded, **options: Any):
        super().__init__(filepath, resume=True, **options)
        self._saver.follow(origin)

    def keep(self, loaded: Loaded, path: str, epoch: int, logs: Mapping[str, Any]) -> None:
        """When training has ended: save the model as it is now, on top of a checkpoint."""
        self._saver.save_on(loaded, path, epoch, logs)

    def is_kept(self, loaded: Loaded) -> bool:
        """Whether the model still is what a checkpoint holds, but for the state of the run."""
        arrays = loaded.decoder.reconstruction
        now = KerasCapture(self.model).snapshot().arrays
        return all(array.tobytes() == arrays[name].tobytes() for name, array in now.items())


class Watch(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Tells the best epoch, and where it is given patience, stops after it.

    Args:
        metric: that is watched.
        late: whether it may be missing in the first epochs.
        options: of `EarlyStopping`.
    """

    def __init__(self, metric: str, late: bool, **options: Any):
        super().__init__(metric, **options)
        self.late = late

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> Any:
        return (logs or {}).get(self.monitor)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.monitor in (logs or {}):
            super().on_epoch_end(epoch, logs)
        elif not self.late:
            self.refuse(logs or {})

    def refuse(self, logs: Mapping[str, Any]) -> NoReturn:
        """There is nothing to watch."""
        raise OptionError(
            f"watch={self.monitor!r}: there is no such metric; there are {', '.join(sorted(logs))}."
        )

    def _set_monitor_op(self) -> None:
        try:
            super()._set_monitor_op()
        except ValueError as error:
            raise OptionError(
                f"watch={self.monitor!r}: Keras cannot tell whether more or less of it is better; "
                "pass mode='max' or mode='min'."
            ) from error

    def _is_improvement(self, value: float, best: float | None) -> bool:
        if best is None or math.isnan(best):  # a diverged start must not be the best for good
            return True
        return bool(super()._is_improvement(value, best))


class Warmup(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises the learning rate linearly from batch to batch, up to what it is.

    Args:
        epochs: that it takes.
        rate: that it comes to.
    """

    def __init__(self, epochs: int, rate: float):
        super().__init__()
        self.epochs = epochs
        self.rate = rate
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch
        if epoch == self.epochs:
            self.model.optimizer.learning_rate = self.rate

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._epoch < self.epochs:
            steps = steps_of(self, "warmup")
            share = (self._epoch * steps + batch + 1) / (self.epochs * steps)
            self.model.optimizer.learning_rate = self.rate * share


def warmups(model: Any, epochs: int) -> list[Warmup]:
    """The callback for so many epochs, if any.

    Raises:
        OptionError: there is no rate that could be raised.
    """
    if not epochs:
        return []
    optimizer = model.optimizer
    if follows_schedule(optimizer):
        raise OptionError(
            "warmup: the optimizer follows a schedule; put the warm-up into it, as "
            "`CosineDecay(warmup_steps=...)` does."
        )
    return [Warmup(epochs, float(keras.ops.convert_to_numpy(optimizer.learning_rate)))]


def steps_of(callback: Any, wanted_by: str) -> int:
    """Batches of an epoch of the fit that a callback is in.

    Raises:
        OptionError: Keras does not know.
    """
    steps = (callback.params or {}).get("steps")
    if not steps:
        raise OptionError(
            f"{wanted_by}: the length of the data is not known; pass `steps_per_epoch`."
        )
    return int(steps)


def follows_schedule(optimizer: Any) -> bool:
    """Whether the learning rate is that of a schedule, which nobody else may set."""
    return isinstance(optimizer.get_config().get("learning_rate"), Mapping)


def schedule_of(model: Any) -> list[tuple[Any, Any]]:
    """Where the schedule of a model stands: variables and their values."""
    return [
        (variable, keras.ops.convert_to_numpy(variable).copy())
        for optimizer in optimizers_of(model)
        for variable in optimizer.variables
        if variable.name in _SCHEDULE
    ]


def put_schedule(schedule: Iterable[tuple[Any, Any]]) -> None:
    """Put back what `schedule_of` gave."""
    for variable, value in schedule:
        variable.assign(value)


def put_weights(loaded: Loaded, model: Any) -> None:
    """Put a checkpoint into a model, but for its optimizer."""
    arrays = loaded.decoder.reconstruction
    weights = {n: arrays[n] for n in arrays if not n.startswith((RUN, "optimizer/"))}
    KerasCapture(model).restore(weights, loaded.base.about)
