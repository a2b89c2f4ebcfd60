"""LCModelCheckpoint: Keras' events and words over the checkpointer."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras.src.callbacks.monitor_callback import MonitorCallback
from keras.src.utils import io_utils

from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import Rules
from keras_lc.core.presets import CodecLike
from keras_lc.loader import CheckpointInfo
from keras_lc.schedule import BatchSchedule
from keras_lc.template import Template, split


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
        verbose: 1 prints a line about each save.
        save_best_only: save only when `monitor` has improved.
        save_weights_only: store weights and seeds, not the optimizer.
        mode: `"auto"`, `"min"` or `"max"`: what an improvement is.
        save_freq: `"epoch"`, or a number of batches.
        initial_value_threshold: the value that the first save must improve on.
        codec: how deltas are stored: `"balanced"`, `"smallest"`, `"fast"`, `"lossless"`,
            `"int8"`, `"lc"`, a codec of `keras_lc.core`, or a mapping from patterns of tensor
            names to these.
        final_codec: codec of the checkpoint after the last epoch of `fit`.
        keyframe_every: checkpoints from one base to the next.
        max_to_keep: number of newest checkpoints to keep, with what they build on.
        background: False encodes and writes in the training thread.
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
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        codec: CodecLike = "balanced",
        final_codec: CodecLike = "lossless",
        keyframe_every: int = 64,
        max_to_keep: int | None = None,
        background: bool = True,
        on_saved: Callable[[CheckpointInfo], Any] | None = None,
        on_error: str = "raise",
    ):
        super().__init__(monitor, mode, initial_value_threshold)
        self.best: float | None
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self._template = Template(filepath)
        self.filepath = self._template.text
        Rules(final_codec)
        self._final_codec = final_codec
        self._options: dict[str, Any] = {
            "codec": codec,
            "keyframe_every": keyframe_every,
            "max_to_keep": max_to_keep,
            "background": background,
            "on_saved": on_saved,
            "on_error": on_error,
            "owns": self._template.fits,
        }
        self._directory = self._template.directory
        self._checkpointer = Checkpointer(self._directory or "", **self._options)
        self._capture: KerasCapture | None = None
        self._last_step = 0
        self._epoch = 0
        if save_freq != "epoch":
            self._batches = BatchSchedule(save_freq)  # type: ignore[arg-type]
            # A method of the class would cost every user of epochs the asynchronous dispatch
            # of callbacks.
            self.on_train_batch_end = self._on_train_batch_end

    def wait(self) -> None:
        """Return when every save asked for is durable; raise what the last one failed with.

        Until the next save, other processes may save into the directory.
        """
        self._checkpointer.close()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        model = self.model
        if self._capture is None or self._capture.model is not model:
            self._capture = KerasCapture(model, self.save_weights_only)
            self._last_step = 0
            fresh = True
        else:
            fresh = self._capture.step < self._last_step
        if fresh and self._template.directory is not None:
            self._begin_chain(self._template.directory)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch

    def _on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._batches.due(batch):
            self._save(self._epoch, batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, None, logs or {})

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.wait()

    def _begin_chain(self, directory: str) -> None:
        """A new chain in a directory, or the one that the model has been restored from."""
        self.wait()
        self._directory = directory
        self._checkpointer = Checkpointer(directory, **self._options)
        capture = self._capture
        assert capture is not None
        if capture.step and capture.model.built:
            self._checkpointer.adopt(capture)

    def _save(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        path = self._template.fill(epoch, batch, logs)
        if not self._wanted(epoch, logs, path):
            return
        directory, name = split(path)
        if directory != self._directory:
            self._begin_chain(directory)
        capture, checkpointer = self._capture, self._checkpointer
        assert capture is not None
        checkpointer.wait()  # the buffers of the snapshot are in use until then
        snapshot = capture.snapshot()
        if checkpointer.base_due(name, snapshot):
            snapshot = capture.described(snapshot)
        self._last_step = snapshot.step
        ends = batch is None and (
            epoch + 1 == self.params.get("epochs") or capture.model.stop_training
        )
        checkpointer.save(
            snapshot,
            name,
            epoch=epoch + (batch is None),
            batch=0 if batch is None else batch + 1,
            logs=logs,
            codec=self._final_codec if ends else None,
        )

    def _wanted(self, epoch: int, logs: Mapping[str, Any], path: str) -> bool:
        """Whether to save, by the monitored value, and the line that says so."""
        start = f"\nEpoch {epoch + 1}: "
        if not self.save_best_only:
            self._say(f"{start}saving model to {path}")
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
        best = "None" if self.best is None else f"{self.best:.5f}"
        if not self._is_improvement(value, self.best):
            self._say(f"{start}{self.monitor} did not improve from {best}")
            return False
        self._say(
            f"{start}{self.monitor} improved from {best} to {value:.5f}, saving model to {path}"
        )
        self.best = value
        return True

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            io_utils.print_msg(message)
