"""A run that goes on in another process: `fit` is led to where the last one stood."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from keras_lc.capture import Snapshot, data, randomness, run, running
from keras_lc.errors import MismatchError, OptionError
from keras_lc.loader import Loaded, load_latest
from keras_lc.restoring import put_back
from keras_lc.template import Template


class Run:
    """What one callback knows of its run, from `fit` to `fit` and from process to process.

    A checkpoint tells in which `fit` of its callback it was made, counted from 0: a script that
    is started again passes through those before it without training.

    Args:
        template: of the checkpoints' paths.
        weights_only: whether they are made without the optimizer.

    Raises:
        OptionError: of such checkpoints none can be found, or gone on from.
    """

    def __init__(self, template: Template, weights_only: bool):
        if template.directory is None:
            raise OptionError(
                f"resume=True: the directory of {template.text!r} is not the same for all "
                "checkpoints; put the fields into the file name."
            )
        if weights_only:
            raise OptionError(
                "resume=True: training goes on from the state of the optimizer as well, so it "
                "cannot be used with save_weights_only=True."
            )
        self._directory = template.directory
        self._owns = template.fits
        self._fit = -1
        self._first: int | None = None  # epoch of this fit
        self._resumes = True  # until the fit is met that the newest checkpoint was made in
        self._model: Any = None
        self._running: running.Running | None = None
        self._left: Loaded | None = None  # in the middle of an epoch, until that is reached
        self._skipping: data.Skipping | None = None
        self._start: run.Random = {}  # random states: of the start of this fit,
        self._epoch: run.Random = {}  # of the start of this epoch,
        self._kept: run.Random = {}  # and of that in which the last checkpoint was made

    @property
    def callbacks(self) -> Sequence[Any]:
        """Those of this `fit`."""
        return [] if self._running is None else self._running.callbacks.callbacks

    def begin(self, model: Any, step: int, epochs: int) -> tuple[Loaded, dict[str, Any]] | None:
        """At the start of `fit`: put the newest checkpoint back, and have `fit` begin there.

        Args:
            model: that is trained.
            step: iterations that its optimizer has made.
            epochs: that `fit` ends at.

        Returns:
            The checkpoint and its notes, or None if there is none to go on from.

        Raises:
            MismatchError: it is of another model, or holds no optimizer.
            OptionError: another callback leads this `fit` as well.
        """
        self._model = model
        self._running = running.find(model)
        if sum(getattr(callback, "resume", False) is True for callback in self.callbacks) > 1:
            raise OptionError(
                "two callbacks have resume=True: training can go on from one checkpoint only. Set "
                "it on the one that saves more often; it keeps the best value of the other."
            )
        self._fit += 1
        self._first = None
        self._start = self._kept = randomness.states()
        loaded = load_latest(self._directory, self._owns) if self._resumes else None
        if loaded is None or loaded.info.step < step:  # the model has been trained further
            self._resumes = False
            return None
        notes = self._put_back(loaded)
        if notes["fit"] > self._fit:
            model._initial_epoch = epochs
            return None
        self._resumes = False
        self._first = notes["first"]
        run.restore_callbacks(loaded.decoder.reconstruction, notes, self.callbacks)
        ended = loaded.info.epoch >= epochs or run.stopped(self.callbacks)
        model._initial_epoch = epochs if ended else loaded.info.epoch
        self._restore_run(loaded, notes, ended)
        return loaded, notes

    def _put_back(self, loaded: Loaded) -> dict[str, Any]:
        arrays, path = loaded.decoder.reconstruction, loaded.info.path
        if not any(name.startswith("optimizer/") for name in arrays):
            raise MismatchError(
                f"{path!r} holds no state of the optimizer, so that training cannot go on from "
                "it; save without `save_weights_only`, or to another place."
            )
        put_back(loaded, self._model)
        notes = run.notes_of(arrays)
        if notes is None:
            warnings.warn(
                f"{path!r} was made without `resume=True`: random states, callbacks and metrics "
                "begin anew.",
                stacklevel=5,
            )
        return notes or {
            "fit": 0, "first": 0, "callbacks": [], "history": [], "seed": None, "schedule": {}
        }  # fmt: skip

    def _restore_run(self, loaded: Loaded, notes: dict[str, Any], ended: bool) -> None:
        arrays, info = loaded.decoder.reconstruction, loaded.info
        self._start = run.random_of(arrays, "start") or self._start
        self._kept = run.random_of(arrays, "epoch") or self._start
        faults = run.restore_random(arrays, "start")
        if not ended and self._running is not None:
            seed = randomness.tensorflow_seed()
            source = self._running.data
            faults += data.doubts(source, seed, notes["seed"], info.batch > 0)
            data.replay(source, info.epoch - notes["first"])
        run.restore_random(arrays, "now")
        if info.batch and not ended:
            if self._running is None:
                faults.append("this is no `fit` of Keras' own, so no batches can be skipped")
            else:
                self._left = loaded
                self._skipping = data.Skipping(self._model, self._running, info.logs)
        if faults:
            warnings.warn(
                f"going on from {info.path!r} is not bit for bit: {'; '.join(faults)}",
                stacklevel=5,
            )

    def begin_epoch(self, epoch: int) -> None:
        """When every other callback has begun the epoch."""
        self._first = epoch if self._first is None else self._first
        self._model._initial_epoch = None
        if self._left is not None and epoch != self._left.info.epoch:
            self._end_skipping()  # whoever called fit wanted it to begin elsewhere
        if self._left is not None:
            run.restore_random(self._left.decoder.reconstruction, "epoch")
        self._epoch = randomness.states()

    def skipped(self, batch: int) -> bool:
        """Whether this batch had been done before and was only drawn again; after the last such
        one, everything is as it was then."""
        left = self._left
        if left is None:
            return False
        if batch + 1 < left.info.batch:
            return True
        self._end_skipping()
        put_back(left, self._model)  # whatever other callbacks have done to it
        arrays = left.decoder.reconstruction
        faults = [] if run.restore_metrics(arrays, self._model) else ["metrics begin anew"]
        if batch + 1 > left.info.batch:
            faults.append(f"batches {left.info.batch} to {batch} of the epoch are left out")
        run.restore_random(arrays, "now")
        if faults:
            warnings.warn(
                f"going on from {left.info.path!r} is not bit for bit: {'; '.join(faults)}",
                stacklevel=5,
            )
        return True

    def end_epoch(self, stopped: bool) -> None:
        """At the end of an epoch, which may have come before all was skipped."""
        if self._left is not None and not stopped:
            warnings.warn(
                f"{self._left.info.path!r} was made after {self._left.info.batch} batches of its "
                "epoch, but the data has fewer; the epoch is taken as done.",
                stacklevel=5,
            )
        self._end_skipping()

    @property
    def skipping(self) -> bool:
        """Whether batches are being skipped."""
        return self._left is not None

    def end(self) -> None:
        """At the end of `fit`: leave nothing on the model."""
        self._end_skipping()
        self._model._initial_epoch = None

    def _end_skipping(self) -> None:
        if self._skipping is not None:
            self._skipping.end()
        self._left = self._skipping = None

    def extended(self, snapshot: Snapshot, within: bool, schedule: dict[str, Any]) -> Snapshot:
        """A snapshot with all that another process needs to go on.

        Args:
            snapshot: of the model and its optimizer.
            within: whether the epoch is unfinished.
            schedule: state of the schedule.
        """
        if within:
            self._kept = self._epoch
        notes = {
            "fit": self._fit,
            "first": self._first,
            "seed": randomness.tensorflow_seed(),
            "schedule": schedule,
        }
        random = {"start": self._start, "epoch": self._kept, "now": randomness.states()}
        return run.extended(snapshot, self._model, self.callbacks, notes, random)
