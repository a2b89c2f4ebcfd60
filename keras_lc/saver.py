"""The checkpoints of one run: what is trained is copied, named, and handed down to be saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keras_lc.capture import RUN, run
from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import Rules
from keras_lc.core.presets import CodecLike
from keras_lc.listing import CheckpointInfo
from keras_lc.loader import Loaded
from keras_lc.resume import Run
from keras_lc.template import Template, split

Told = Callable[[CheckpointInfo, int, float], None]


class Saver:
    """Saves the model that a callback is given, `fit` after `fit`.

    Args:
        template: of the checkpoints' paths.
        run: what is known of the run, if it is to go on in another process.
        weights_only: leave the optimizer out.
        codec: of deltas.
        final_codec: of last checkpoints.
        on_saved: called with a `CheckpointInfo` after each durable save, in the thread that
            writes.
        options: the others of the `Checkpointer`.
    """

    def __init__(
        self,
        template: Template,
        run: Run | None,
        weights_only: bool,
        codec: CodecLike,
        final_codec: CodecLike,
        on_saved: Callable[[CheckpointInfo], Any] | None = None,
        **options: Any,
    ):
        self._template = template
        self._run = run
        self._weights_only = weights_only
        self._codec = codec
        self._final_codec = final_codec
        self._final = {str(Rules(codec)) for codec in (final_codec, "lossless")}
        self._on_saved = on_saved
        self._options = options | {"codec": codec, "on_saved": self._tell, "owns": template.fits}
        self._directory = template.directory
        self._checkpointer = Checkpointer(self._directory or "", **self._options)
        self._capture: KerasCapture | None = None
        self._last_step = 0
        self._began = 0  # at which step
        self._saved = (-1, False)  # step of the last checkpoint, and whether it will do as the last
        self._told: Callable[[CheckpointInfo], None] | None = None
        self._origin: Loaded | None = None

    def follow(self, loaded: Loaded) -> None:
        """Have a new chain begin on a checkpoint of the directory, whatever its name, if it has
        the tensors of the model; else on a base. Its decoder is taken over."""
        self._origin = loaded

    @property
    def begun(self) -> bool:
        """Whether there is a model to save."""
        return self._capture is not None

    @property
    def lacks_end(self) -> bool:
        """Whether the model has been trained in this `fit`, and no checkpoint will do as the last
        one of it."""
        if self._capture is None:
            return False
        step = self._capture.step
        return step != self._began and self._saved != (step, True)

    def begin(self, model: Any, epochs: int) -> Mapping[str, Any] | None:
        """At the start of a `fit` until so many epochs: put the newest checkpoint back if the run
        goes on, and find the chain that the next one continues.

        Returns:
            The notes of the checkpoint that was put back.
        """
        if self._capture is None or self._capture.model is not model:
            self._capture = KerasCapture(model, self._weights_only)
            self._last_step = 0
            fresh = True
        else:
            fresh = self._capture.step < self._last_step
        self._capture.begin()
        notes = None
        if self._run and (found := self._run.begin(model, self._capture.step, epochs)):
            loaded, notes = found
            self._go_on(loaded, self._capture)
        elif fresh and self._template.directory is not None:
            self._begin_chain(self._template.directory, self._capture)
        self._began = self._capture.step
        return notes

    def save(
        self,
        path: str,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        last: bool,
        schedule: dict[str, Any],
        told: Told | None,
    ) -> None:
        """Save at the end of a batch or, None, of an epoch.

        Args:
            path: of the checkpoint, without suffix.
            epoch, batch: count from 0, as in Keras' callbacks.
            logs: as a callback is given them.
            last: in the final codec.
            schedule: its state.
            told: called when it is durable, with the bytes of the state, and the seconds that it
                took.
        """
        directory, name = split(path)
        capture = self._capture
        assert capture is not None
        if directory != self._directory:
            self._begin_chain(directory, capture)
        checkpointer = self._checkpointer
        checkpointer.wait()  # the buffers of the snapshot are in use until then
        begin = time.perf_counter()
        snapshot = capture.snapshot()
        if self._run:
            snapshot = self._run.extended(snapshot, batch is not None, schedule)
        if checkpointer.base_due(name, snapshot):
            snapshot = capture.described(snapshot)
        self._last_step = snapshot.step
        nbytes = sum(array.nbytes for array in snapshot.arrays.values())
        self._told = told and partial(_timed, told, nbytes, begin)
        codec = self._final_codec if last else self._codec
        whole = snapshot.layout is not None
        self._saved = (snapshot.step, whole or str(Rules(codec)) in self._final)
        checkpointer.save(
            snapshot,
            name,
            epoch=epoch + (batch is None),
            batch=0 if batch is None else batch + 1,
            logs=logs,
            codec=codec if last else None,
        )

    def save_on(self, loaded: Loaded, path: str, epoch: int, logs: Mapping[str, Any]) -> None:
        """When a `fit` has ended: save what the model is now as a last checkpoint, on top of one
        of its directory, whose decoder is taken over; durable on return.

        Args:
            loaded: that checkpoint.
            path: of the new one, without suffix.
            epoch: completed ones.
            logs: metrics to store with it.
        """
        assert self._capture is not None
        self._go_on(loaded, self._capture)
        self.save(path, epoch - 1, None, logs, last=True, schedule={}, told=None)
        self.close()

    def wait(self) -> None:
        """Return when every save asked for is durable; raise what the last one failed with."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Wait, and let other processes save into the directory until the next save."""
        self._checkpointer.close()

    def _begin_chain(self, directory: str, capture: KerasCapture) -> None:
        """A new chain in a directory, or the one that the model has been restored from."""
        self._open(directory)
        if self._origin is not None:
            if self._is_alike(self._origin, capture):
                self._go_on(self._origin, capture)
        elif capture.step and capture.model.built:
            self._checkpointer.adopt(capture)

    def _is_alike(self, loaded: Loaded, capture: KerasCapture) -> bool:
        """Whether a checkpoint has the tensors of the model, so that a delta may build on it."""
        own = {name for name in loaded.decoder.reconstruction if not name.startswith(RUN)}
        return own == {spec.name for spec in capture.specs}

    def _go_on(self, loaded: Loaded, capture: KerasCapture) -> None:
        """Continue a chain as if this process had made it."""
        assert self._template.directory is not None
        self._open(self._template.directory)
        arrays = loaded.decoder.reconstruction
        self._checkpointer.resume(loaded, run.specs(arrays, capture.specs))

    def _open(self, directory: str) -> None:
        self.close()
        self._directory = directory
        self._checkpointer = Checkpointer(directory, **self._options)

    def _tell(self, info: CheckpointInfo) -> None:
        """A checkpoint is durable; called in the thread that writes."""
        if self._told is not None:
            self._told(info)
        if self._on_saved is not None:
            self._on_saved(info)


def _timed(told: Told, nbytes: int, begin: float, info: CheckpointInfo) -> None:
    told(info, nbytes, time.perf_counter() - begin)
