"""LCModelCheckpoint: Keras' events and words over the checkpointer."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from keras.src.callbacks.monitor_callback import MonitorCallback
from keras.src.utils import io_utils

from keras_lc import words
from keras_lc.capture import running
from keras_lc.core.presets import CodecLike
from keras_lc.errors import OptionError
from keras_lc.listing import CheckpointInfo, strip_suffix
from keras_lc.preempt import REQUEUE, Preemption
from keras_lc.resume import Run
from keras_lc.saver import Saver, Told
from keras_lc.schedule import TimeSchedule, schedule
from keras_lc.template import Template


class LCModelCheckpoint(MonitorCallback):  # type: ignore[misc]
    """Saves the training state: one base, then compressed deltas.

    The first eight arguments are those of `keras.callbacks.ModelCheckpoint`. The training
    thread only copies the state; encoding and writing go on beside it. One process at a time
    saves into a directory, `keras_lc.store.lock` says how; callbacks of one process may share it.

    Args:
        filepath: template such as `"training/cp-{epoch:04d}"`; `{epoch}`, `{batch}` and names
            of logs are filled in, a suffix of Keras' is accepted and left out. It may be a URL
            that fsspec knows, such as `"s3://bucket/training/cp-{epoch:04d}"`.
        monitor: the log that `save_best_only` compares.
        verbose: 1 prints Keras' lines about each save, and its size and time.
        save_best_only: save only when `monitor` has improved.
        save_weights_only: store weights and seeds, not the optimizer.
        mode: `"auto"`, `"min"` or `"max"`: what an improvement is.
        save_freq: `"epoch"`, a number of batches, or a `datetime.timedelta`.
        initial_value_threshold: the value that the first save must improve on.
        codec: how deltas are stored: `"balanced"`, `"smallest"`, `"fast"`, `"lossless"`,
            `"int8"`, `"lc"`, a codec of `keras_lc.core`, or a mapping from patterns of tensor
            names to these.
        final_codec: codec of the last checkpoint of `fit`, and of one that a signal asks for.
        keyframe_every: checkpoints from one base to the next.
        max_to_keep: number of newest checkpoints to keep, with what they build on.
        resume: go on from the newest checkpoint of this template, if there is one: the same script
            with a plain `fit(..., epochs=N)`, started again, ends as if it had never been
            stopped. The callback then acts after all others, whose state it keeps as well. One
            callback of a `fit` may do so.
        background: False encodes and writes in the training thread.
        signals: names such as `("SIGUSR1", "SIGTERM")`: after one of them the next batch is the
            last; a checkpoint is made, training ends, and `exit_code` is 75.
        on_saved: called with a `CheckpointInfo` after each durable save, in the writing thread.
        on_error: `"raise"` when a save fails (at the next save or the end of training), or
            `"warn"` and train on.

    Raises:
        OptionError, TemplateError: an argument is not understood.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lc import LCModelCheckpoint, list_checkpoints
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save = LCModelCheckpoint(directory + "/cp-{epoch:04d}")
        ...     x, y = np.ones((8, 4)), np.ones((8, 2))
        ...     _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[save])
        ...     [checkpoint.kind for checkpoint in list_checkpoints(directory)]
        ['base', 'delta', 'delta']
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int | timedelta = "epoch",
        initial_value_threshold: float | None = None,
        *,
        codec: CodecLike = "balanced",
        final_codec: CodecLike = "lossless",
        keyframe_every: int = 64,
        max_to_keep: int | None = None,
        resume: bool = False,
        background: bool = True,
        signals: Iterable[str | int] = (),
        on_saved: Callable[[CheckpointInfo], Any] | None = None,
        on_error: str = "raise",
    ):
        super().__init__(monitor, mode, initial_value_threshold)
        if save_best_only and not isinstance(monitor, str):
            raise OptionError(f"monitor={monitor!r}: expected the name of a log.")
        if on_saved is not None and not callable(on_saved):
            raise OptionError(f"on_saved={on_saved!r}: expected a function, or None.")
        self.best: float | None
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.resume = bool(resume)
        self._template = Template(filepath)
        self.filepath = self._template.text
        self._run = Run(self._template, save_weights_only) if resume else None
        self._saver = Saver(
            self._template,
            self._run,
            save_weights_only,
            codec,
            final_codec,
            on_saved,
            keyframe_every=keyframe_every,
            max_to_keep=max_to_keep,
            background=background,
            on_error=on_error,
        )
        self._schedule = None if save_freq == "epoch" else schedule(save_freq)  # type: ignore[arg-type]
        self._preemption = Preemption(signals or ())
        self._epoch = 0
        self._batch = 0
        self._left = False  # in the middle of an epoch, because of a signal
        self._exit_code = 0
        if self._schedule or self._run or self._preemption:
            # A method of the class would cost every user of epochs the asynchronous dispatch
            # of callbacks.
            self.on_train_batch_end = self._on_train_batch_end

    @property
    def exit_code(self) -> int:
        """What a script should end with, `sys.exit(callback.exit_code)`: 75 (try again later) if a
        signal stopped training before its end, else 0."""
        return self._exit_code

    def wait(self) -> None:
        """Return when every save asked for is durable; raise what the last one failed with.

        Until the next save, other processes may save into the directory.
        """
        self._saver.close()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        model = self.model
        fit = running.find(model)
        if fit:
            self._check_alone(fit.callbacks.callbacks)
            if self._run and fit.moves_last(self):
                return
        self._left, self._exit_code = False, 0
        notes = self._saver.begin(model, self._epochs)
        if notes and self._schedule:
            self._schedule.restore(notes["schedule"])
        if self._preemption:
            self._preemption.listen(lambda at: fit is None or running.find(model, at) is not None)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch
        if self._run:
            self._run.begin_epoch(epoch)

    def _on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batch = batch
        model = self.model if self._run and self._run.skipping else self._model
        skipped = self._run is not None and self._run.skipped(batch)
        if self._preemption.received:
            if not skipped:
                self._save(self._epoch, batch, logs or {}, asked=True)
                self._saver.wait()  # there may be little time
            self._left, self._exit_code = True, REQUEUE
            model.stop_training = True
        elif self._schedule and not skipped and self._schedule.due(batch):
            self._save(self._epoch, batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.save_best_only and self.monitor_op is None:
            self._set_monitor_op()
        if self._run:
            self._run.end_epoch(self._left)
        if self._left:
            return
        if self._preemption.received:
            self.model.stop_training = True
            self._exit_code = REQUEUE if epoch + 1 < self._epochs else 0
            self._save(epoch, None, logs or {}, asked=True)
        elif self.save_freq == "epoch":
            self._save(epoch, None, logs or {})

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        try:
            if self._saver.lacks_end and not (self._left or self.save_best_only):
                self._save(self._epoch, None, logs or {}, asked=True)
            self.wait()
        finally:
            self._preemption.close()
            if self._run:
                self._run.end()

    def _check_alone(self, callbacks: Iterable[Any]) -> None:
        others = [c for c in callbacks if isinstance(c, LCModelCheckpoint) and c is not self]
        if any(other.filepath == self.filepath for other in others):
            raise OptionError(
                f"two callbacks save to {self.filepath!r}; give each names of its own, such as "
                "'training/best-{epoch:04d}'."
            )

    @property
    def _epochs(self) -> int:
        return int((self.params or {}).get("epochs") or 0)

    def _save(
        self, epoch: int, batch: int | None, logs: Mapping[str, Any], asked: bool = False
    ) -> None:
        """Save at the end of a batch or, None, of an epoch; asked, whatever its worth, and as the
        last one."""
        path = strip_suffix(self._path(epoch, batch, logs, asked))
        if not self._saver.begun:  # in a training loop of one's own
            self.on_train_begin()
        if asked:
            self._announce(words.saving(epoch, path))
        elif not self._wanted(epoch, logs, path):
            return
        self._saver.save(
            path,
            epoch,
            batch,
            logs,
            last=asked or self._ends(epoch, batch),
            schedule=self._schedule.state() if self._schedule else {},
            told=self._words_after(epoch, path) if self.verbose > 0 else None,
        )

    def _ends(self, epoch: int, batch: int | None) -> bool:
        """Whether training ends here, as far as this can be known."""
        steps = (self.params or {}).get("steps")
        if batch is not None and not (steps and batch + 1 >= steps):
            return False
        return epoch + 1 == self._epochs or (batch is None and self._model.stop_training)

    def _path(self, epoch: int, batch: int | None, logs: Mapping[str, Any], asked: bool) -> str:
        if batch is not None and (asked or isinstance(self._schedule, TimeSchedule)):
            return self._template.fill_within(epoch, batch, logs)
        if asked and self._template.tells_batch:
            batch = self._batch
        return self._template.fill(epoch, batch, logs)

    def _wanted(self, epoch: int, logs: Mapping[str, Any], path: str) -> bool:
        """Whether to save, by the monitored value, and the line that says so."""
        if not self.save_best_only:
            self._announce(words.saving(epoch, path))
            return True
        value = logs.get(self.monitor)
        if value is None:
            warnings.warn(f"Can save best model only with {self.monitor} available.", stacklevel=2)
            return True
        if np.ndim(value) > 0:
            warnings.warn(
                f"Can save best model only when `monitor` is a scalar value. Received: {value}. "
                "Falling back to `save_best_only=False`.",
                stacklevel=2,
            )
            return True
        if self.monitor_op is None:
            self._set_monitor_op()
        if self.best is not None and math.isnan(self.best):
            self.best = None  # a diverged start must not stop all later saves
        if not self._is_improvement(value, self.best):
            self._say(words.not_improved(epoch, self.monitor, self.best))
            return False
        self._announce(words.improved(epoch, self.monitor, self.best, value, path))
        self.best = value
        return True

    def _announce(self, message: str) -> None:
        """Say that a save begins, once the one before has ended."""
        self._saver.wait()
        self._say(message)

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            io_utils.print_msg(message)

    def _words_after(self, epoch: int, path: str) -> Told:
        interactive = io_utils.is_interactive_logging_enabled()

        def told(info: CheckpointInfo, state: int, seconds: float) -> None:
            if not interactive:
                io_utils.disable_interactive_logging()  # Keras keeps it by thread
            self._say(words.finished(epoch, path, info.nbytes, state, seconds))

        return told
