"""What a run is besides weights and optimizer: random states, metrics, callbacks, counters.

It is stored as tensors named `run/...`, so that what does not change costs nothing in a delta.
What grows has a text of its own and grows at its end, so that nothing is moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras.src.callbacks.monitor_callback import MonitorCallback

from keras_lc.capture import RUN, Snapshot, randomness, text
from keras_lc.core import TensorSpec
from keras_lc.errors import DamagedError

_NOTES, _HISTORY = f"{RUN}notes", f"{RUN}history"
_ATTRIBUTES: list[tuple[type, tuple[str, ...]]] = [
    (MonitorCallback, ("best",)),
    (keras.callbacks.EarlyStopping, ("wait", "stopped_epoch", "best_epoch")),
    (keras.callbacks.ReduceLROnPlateau, ("wait", "cooldown_counter")),
    (keras.callbacks.ModelCheckpoint, ("_batches_seen_since_last_saving", "_last_batch_seen")),
]
_EPOCH = ""  # key of the epoch itself
Random = dict[str, np.ndarray]


def extended(
    snapshot: Snapshot,
    model: Any,
    callbacks: Sequence[Any],
    notes: Mapping[str, Any],
    random: Mapping[str, Random],
) -> Snapshot:
    """A snapshot with the state of the run added.

    Args:
        snapshot: of the model and its optimizer.
        model: whose metrics are added.
        callbacks: those that `fit` works through.
        notes: numbers, None, and lists and objects of them.
        random: random states by the time that they are of.
    """
    roles = {spec.name: spec.role for spec in snapshot.specs}
    snapshot = with_random(snapshot, random)
    arrays, specs = dict(snapshot.arrays), list(snapshot.specs)

    def add(name: str, array: np.ndarray, role: Any = "exact") -> None:
        arrays[RUN + name] = array
        specs.append(TensorSpec(RUN + name, role))

    for i, variable in enumerate(model.metrics_variables):
        add(f"metrics/{i}", np.array(keras.ops.convert_to_numpy(variable)))
    for i, callback in enumerate(_stopping(callbacks)):
        # until there is a best epoch, whatever has the right shapes
        best = callback.best_weights or [arrays[f"weights/{j}"] for j in range(len(model.weights))]
        for j, array in enumerate(best):
            add(f"best/{i}/{j}", np.asarray(array), roles[f"weights/{j}"])
    kept = {"callbacks": [_state(callback) for callback in callbacks]}
    add("notes", text.packed(_told({**notes, **kept}), least=1 << 12))
    add("history", text.packed(_told(_rows(callbacks)), least=1 << 16))
    return replace(snapshot, arrays=arrays, specs=specs)


def with_random(snapshot: Snapshot, random: Mapping[str, Random]) -> Snapshot:
    """A snapshot with random states added, by the time that they are of."""
    added = {
        f"{RUN}random/{time}/{kind}": array
        for time, states in random.items()
        for kind, array in states.items()
    }
    specs = [*snapshot.specs, *(TensorSpec(name, "exact") for name in added)]
    return replace(snapshot, arrays={**snapshot.arrays, **added}, specs=specs)


def specs(arrays: Mapping[str, np.ndarray], model: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The roles that `extended` gave, from the names and from the roles of the model's own."""
    roles = {spec.name: spec.role for spec in model}
    found = list(model)
    for name in arrays:
        if name.startswith(f"{RUN}best/"):
            found.append(TensorSpec(name, roles[f"weights/{name.rsplit('/')[-1]}"]))
        elif name.startswith(RUN):
            found.append(TensorSpec(name, "exact"))
    return found


def notes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The notes of a restored state; None if it has none."""
    if _NOTES not in arrays:
        return None
    try:
        notes = dict(_meant(text.unpacked(arrays[_NOTES])))
        notes["history"] = _meant(text.unpacked(arrays[_HISTORY]))
        wanted = ("fit", "first", "seed", "schedule", "callbacks", "history")
        return {key: notes[key] for key in wanted}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"the notes on the run cannot be read: {error!r}") from error


def random_of(arrays: Mapping[str, np.ndarray], time: str) -> Random:
    """The random states of a time."""
    start = f"{RUN}random/{time}/"
    return {n.removeprefix(start): arrays[n] for n in arrays if n.startswith(start)}


def restore_random(arrays: Mapping[str, np.ndarray], time: str) -> list[str]:
    """Put the random states of a time back; names of those that cannot be."""
    states = random_of(arrays, time)
    randomness.restore(states)
    return randomness.missing(states)


def restore_metrics(arrays: Mapping[str, np.ndarray], model: Any) -> bool:
    """Put the metrics of an unfinished epoch back; False if they are not those stored."""
    variables = list(model.metrics_variables)
    stored = [arrays[name] for name in arrays if name.startswith(f"{RUN}metrics/")]
    if [a.shape for a in stored] != [tuple(v.shape) for v in variables]:
        return False
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{RUN}metrics/{i}"])
    return True


def restore_callbacks(
    arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any], callbacks: Sequence[Any]
) -> None:
    """Put the state of callbacks back, each to the one of its class and rank among these."""
    stored: list[tuple[str, dict[str, Any]]] = notes["callbacks"]
    for callback in callbacks:
        name = type(callback).__name__
        for i, (kind, attributes) in enumerate(stored):
            if kind == name:
                del stored[i]
                for attribute, value in attributes.items():
                    setattr(callback, attribute, value)
                break
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.History):
            columns: dict[str, list[Any]] = {}
            for row in notes["history"]:
                for key, value in row.items():
                    columns.setdefault(key, []).append(value)
            callback.epoch = columns.pop(_EPOCH, [])
            callback.history = columns
    for i, callback in enumerate(_stopping(callbacks)):
        if callback.best is not None:
            names = [n for n in arrays if n.startswith(f"{RUN}best/{i}/")]
            callback.best_weights = [
                np.array(arrays[f"{RUN}best/{i}/{j}"]) for j in range(len(names))
            ] or None


def stopped(callbacks: Sequence[Any]) -> bool:
    """Whether an `EarlyStopping` has ended the training for good."""
    return any(getattr(callback, "stopped_epoch", 0) > 0 for callback in callbacks)


def _stopping(callbacks: Sequence[Any]) -> Iterator[Any]:
    """Those that keep the best weights."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
            yield callback


def _rows(callbacks: Sequence[Any]) -> list[dict[str, Any]]:
    """What `History` has, the first value of every log, then the second, and so on."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.History):
            columns = {_EPOCH: callback.epoch, **callback.history}
            longest = max(map(len, columns.values()))
            return [{k: v[i] for k, v in columns.items() if i < len(v)} for i in range(longest)]
    return []


def _state(callback: Any) -> list[Any]:
    attributes = {
        name: _told(getattr(callback, name))
        for kind, names in _ATTRIBUTES
        if isinstance(callback, kind)
        for name in names
        if hasattr(callback, name)
    }
    return [type(callback).__name__, attributes]


def _told(value: Any) -> Any:
    """As strict JSON, which has no NaN; text stands for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _told(np.asarray(value).tolist())


def _meant(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
