"""A fit is made: from the state where it begins to the states that it leaves behind."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_lc.capture import randomness
from keras_lc.capture import run as runs
from keras_lc.errors import CheckpointError
from keras_lc.loader import Loaded
from keras_lc.restoring import put_back
from keras_lc.stages import states, training
from keras_lc.stages.fingerprint import told
from keras_lc.stages.session import Place, Session
from keras_lc.stages.settings import Settings
from keras_lc.store.stages import BEST, END, LAST, Fit, State


@dataclass(frozen=True)
class Call:
    """A call of `fit`; what each argument means is told by `Stage.fit`."""

    x: Any
    y: Any
    epochs: int
    watch: training.Watch
    load_best: bool
    warmup: int
    callbacks: list[Any]
    options: dict[str, Any]


def make(
    session: Session, settings: Settings, place: Place, fit: Fit, call: Call
) -> tuple[Fit, Any]:
    """Train, from where this fit was stopped in another process if it was.

    Args:
        session: whose model is trained.
        settings: that it is compiled with.
        place: where the fit begins.
        fit: as it is under way.
        call: what is asked for.

    Returns:
        The fit as it is complete, to be written down, and its `History`.

    Raises:
        SystemExit: a signal has come.
        OptionError: there is no such metric to watch, or no rate to warm up.
    """
    begin = time.perf_counter()
    model, origin = session.train_from(place, settings)
    with randomness.apart(_seed(origin)):
        runs.restore_random(origin.decoder.reconstruction, "now")
        saves = training.StageCheckpoint(
            session.directory.child(fit.prefix + "-{epoch:04d}"), origin, **session.options
        )
        warmups = training.warmups(model, call.warmup)
        callbacks = [*call.callbacks, *warmups, call.watch, saves]
        try:
            history = model.fit(
                call.x, call.y, epochs=call.epochs, callbacks=callbacks, **call.options
            )
        except BaseException:
            with suppress(CheckpointError):
                saves.wait()
            raise
        if saves.exit_code:
            raise SystemExit(saves.exit_code)
        if call.watch.best is None:
            call.watch.refuse(history.history)
        kept = _kept(session, fit.prefix, saves, call, history)
    done = replace(
        fit,
        complete=True,
        seconds=round(time.perf_counter() - begin, 3),
        watch=call.watch.monitor,
        best=call.watch.best_epoch,
        epoch=list(history.epoch),
        logs=told(history.history),
        states=kept,
    )
    return done, history


def history_of(fit: Fit, epochs: int) -> Any:
    """What Keras gave after training for so many epochs, or fewer."""
    history = keras.callbacks.History()
    history.set_params({"epochs": epochs})
    history.epoch = list(fit.epoch)
    history.history = {name: list(values) for name, values in fit.logs.items()}
    return history


def _seed(origin: Loaded) -> int:
    """One that follows from the random states of a checkpoint, for what TensorFlow keeps nowhere:
    the seeds of operations such as those that shuffle."""
    digest = hashlib.sha256(str(origin.info.step).encode())
    for _, array in sorted(runs.random_of(origin.decoder.reconstruction, "now").items()):
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest()[:4], "little") >> 1


def _kept(
    session: Session, prefix: str, saves: training.StageCheckpoint, call: Call, history: Any
) -> dict[str, State]:
    """The states that a fit leaves behind: its best epoch, its last one, and its end."""
    directory, best, last = session.directory, call.watch.best_epoch, history.epoch[-1]
    with session.writing():
        found = [states.find(directory, f"{prefix}-{epoch + 1:04d}") for epoch in (best, last)]
        kept = dict(zip((BEST, LAST), states.condense(directory, prefix, *found), strict=True))
    model, below = saves.model, kept[LAST]
    if call.load_best and best != last:
        below = kept[BEST]
        schedule = training.schedule_of(model)
        put_back(states.load_state(directory, below), model)
        training.put_schedule(schedule)
    loaded = states.load_state(directory, below)
    if saves.is_kept(loaded):
        return kept | {END: below}
    logs = {name: values[-1] for name, values in history.history.items()}
    saves.keep(loaded, directory.child(f"{prefix}.{END}"), last + 1, logs)
    return kept | {END: states.find(directory, f"{prefix}.{END}")}
