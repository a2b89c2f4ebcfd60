"""The last step up: a decoded checkpoint is put into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_lc.errors import MismatchError
from keras_lc.loader import Loaded, load_latest, load_named
from keras_lc.store import base


@dataclass(frozen=True)
class Restored:
    """What `restore` and `restore_latest` give back.

    Attributes:
        model: the model, its state put back.
        path: path of the checkpoint, without suffix.
        epoch: completed epochs; pass it to `fit` as `initial_epoch`.
        batch: batches done in the unfinished epoch, 0 at the end of one.
        step: iterations of the optimizer.
        logs: the metrics at the time of saving.
    """

    model: Any
    path: str
    epoch: int
    batch: int
    step: int
    logs: dict[str, float]


def restore_latest(
    directory: str | os.PathLike[str], model: Any = None, *, as_numpy: bool = False
) -> Restored | None:
    """Put the newest intact checkpoint of a directory back.

    Args:
        directory: where `LCModelCheckpoint` saves, a path or URL; it need not exist.
        model: a compiled `keras.Model` of the architecture that was saved, changed in place;
            one that is not compiled takes weights and seeds, without the optimizer. Without a
            model, the compiled one is rebuilt from the stored configuration.
        as_numpy: give the state as it is stored, in place of a model: a mapping of names to
            read-only arrays. This needs neither Keras nor PyTorch.

    Returns:
        What was restored, or None when there is no checkpoint yet.

    Raises:
        MismatchError: the checkpoint is of another model; the model is unchanged.
        DamagedError: there are checkpoints, but none is intact.
        StoreError: the directory is a file or cannot be read.

    Example:
        >>> import keras_lc
        >>> keras_lc.restore_latest("no/such/directory") is None
        True
    """
    loaded = load_latest(directory)
    if loaded is None:
        return None
    return restored(loaded, loaded.decoder.reconstruction) if as_numpy else put_back(loaded, model)


def restore(
    path: str | os.PathLike[str],
    model: Any = None,
    *,
    as_numpy: bool = False,
    names: Mapping[str, str] | None = None,
) -> Restored:
    """Put one checkpoint back.

    Args:
        path: for example `"training/cp-0007"`, with or without suffix; or the directory followed
            by `latest`, `best`, `best:val_accuracy`, `epoch:7` or `step:1200`, such as
            `"training/best"`.
        model, as_numpy: as for `restore_latest`.
        names: for weights that PyTorch has saved: path of each weight of the model, or
            `weights/3`, to its key there, with `.T` behind it if it is to be transposed. The
            rest of the model stays as it is.

    Raises:
        NotFoundError: there is no such checkpoint; near names are listed.
        OptionError: there is no such metric, or what follows `epoch:` or `step:` is no number.
        DamagedError: it, or a checkpoint that it builds on, is damaged.
        MismatchError: the checkpoint is of another model; the model is unchanged.

    Example:
        >>> import keras_lc
        >>> try:
        ...     keras_lc.restore("no/such/directory/cp-0001")
        ... except keras_lc.CheckpointError as error:
        ...     print(error)
        there is no checkpoint 'cp-0001' in 'no/such/directory'; it holds none.
    """
    loaded = load_named(path)
    if as_numpy:
        return restored(loaded, loaded.decoder.reconstruction)
    return put_back(loaded, model, names)


def put_back(loaded: Loaded, model: Any, names: Mapping[str, str] | None = None) -> Restored:
    """Put a checkpoint into a model, or, for None, into one that is rebuilt."""
    if loaded.base.about.get("framework") == "torch" and (model is None or names is None):
        raise MismatchError(
            f"{loaded.info.path!r} was saved by keras_lc.torch: restore it with "
            "`keras_lc.torch.load` into torch objects, with as_numpy=True as arrays, or with "
            "`names` into a Keras model."
        )
    from keras_lc.capture import files  # these bring Keras and its backend
    from keras_lc.capture.configuration import rebuild
    from keras_lc.capture.keras import KerasCapture

    if model is None:
        model = rebuild(loaded.base.about, repr(loaded.info.path))
    capture, arrays, about = KerasCapture(model), loaded.decoder.reconstruction, loaded.base.about
    try:
        if about.get("framework") == "file":
            start = load_named(loaded.info.path, whole=True) if loaded.base.absent else loaded
            files.load(model, about, lambda file: base.write_plain(file, start.base, arrays))
        elif names is None:
            capture.restore(arrays, about, loaded.base.arrays)
        else:
            capture.restore_weights(arrays, about, loaded.base.arrays, names)
    except MismatchError as error:
        raise MismatchError(f"{loaded.info.path!r} was not restored: {error}") from error
    return restored(loaded, model)


def restored(loaded: Loaded, model: Any) -> Restored:
    """What is told of a checkpoint that is in `model` now."""
    info = loaded.info
    return Restored(model, info.path, info.epoch, info.batch, info.step, info.logs)
