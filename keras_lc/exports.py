"""One checkpoint as a plain file of another format."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_lc.errors import MismatchError, OptionError, StoreError
from keras_lc.loader import Loaded, load_named
from keras_lc.restoring import put_back
from keras_lc.store import base, safetensors
from keras_lc.store.locate import directory_at, split


def export(
    path: str | os.PathLike[str], target: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Write one checkpoint, decoded, as a file that needs no keras_lc to be read.

    Args:
        path: of the checkpoint, as for `restore`.
        target: the file to write, a path or URL. Its suffix says what it becomes:
            `.weights.h5`, for `model.load_weights`; `.keras`, the whole model, for which Keras
            rebuilds it; `.safetensors`, weights, seeds and optimizer by the paths of their
            variables, or as `weights/0`, ... where several share a path; `.npz`, the same for
            `numpy.load`. Keras' own formats leave seeds out. Only `.keras` needs Keras. Of a
            checkpoint of PyTorch, `.safetensors` becomes the model's `state_dict`, and `.pt` (which
            needs PyTorch) a mapping that `torch.load(target, weights_only=True)` takes: `model`,
            `optimizer`, `scheduler` and `scaler`, each as its `load_state_dict` takes it, and
            `extra`, `epoch`, `batch`, `step` and `logs`.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        NotFoundError, DamagedError: as for `restore`.
        OptionError: the suffix is none of these.
        StoreError: there is such a file, or it cannot be written.
        MismatchError: the model cannot be rebuilt, or the format cannot hold this state.

    Example:
        >>> import keras, keras_lc, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save = keras_lc.LCModelCheckpoint(directory + "/cp-{epoch:04d}")
        ...     x, y = np.ones((8, 4)), np.ones((8, 2))
        ...     _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[save])
        ...     keras_lc.export(directory + "/cp-0002", directory + "/best.weights.h5")
        ...     model.load_weights(directory + "/best.weights.h5")
    """
    text = os.fspath(target)
    write = next((write for suffix, write in _WRITERS.items() if text.endswith(suffix)), None)
    if write is None:
        raise OptionError(
            f"target={text!r}: expected a file name that ends in {', '.join(_WRITERS)}."
        )
    parent, name = split(text)
    directory = directory_at(parent)
    if not overwrite and name in directory.list():
        raise StoreError(f"{text!r} is there already; pass overwrite=True (--force) to replace it.")
    loaded = load_named(path, whole=True)
    with directory.write_once(name) as file:
        write(loaded, file)


def _weights(loaded: Loaded, file: BinaryIO) -> None:
    own = loaded.info.kind == "base"
    base.write_plain(
        file, loaded.base, loaded.base.arrays if own else loaded.decoder.reconstruction
    )


def _model(loaded: Loaded, file: BinaryIO) -> None:
    try:
        model = put_back(loaded, None).model
    except ModuleNotFoundError as error:
        raise OptionError(
            f"a .keras file is written by Keras with a backend ({error}): "
            "pip install 'keras-lc[tensorflow]', or export to .weights.h5."
        ) from error
    with tempfile.TemporaryDirectory(prefix="keras_lc-") as scratch:
        path = Path(scratch) / "model.keras"
        model.save(path)
        with open(path, "rb") as saved:
            shutil.copyfileobj(saved, file)


def _tensors(loaded: Loaded, file: BinaryIO) -> None:
    info, arrays, about = loaded.info, loaded.decoder.reconstruction, loaded.base.about
    metadata: dict[str, Any] = {"epoch": info.epoch, "batch": info.batch, "step": info.step}
    if about.get("framework") == "torch":
        tied, labels = about["tied"], {label: name for name, label in about["labels"].items()}
        named = {label: arrays[tied.get(name, name)] for label, name in labels.items()}
        metadata |= {"format": "pt"}
    else:
        named = {label: arrays[name] for name, label in _labels(loaded).items()}
    safetensors.write(file, named, {key: str(value) for key, value in metadata.items()})


def _torch(loaded: Loaded, file: BinaryIO) -> None:
    if loaded.base.about.get("framework") != "torch":
        raise MismatchError(
            f"{loaded.info.path!r} was not saved by keras_lc.torch, so that there is nothing for "
            "a .pt file; export to .safetensors."
        )
    from keras_lc.capture.torch import exporting

    info = loaded.info
    told = {"epoch": info.epoch, "batch": info.batch, "step": info.step, "logs": info.logs}
    exporting.write(file, loaded.decoder.reconstruction, loaded.base.about, told)


def _arrays(loaded: Loaded, file: BinaryIO) -> None:
    arrays = loaded.decoder.reconstruction
    named = {label: arrays[name] for name, label in _labels(loaded).items()}
    for label, array in named.items():
        if array.dtype.isbuiltin == 2:  # a type of another package, of which only bytes would stay
            raise MismatchError(
                f"{label!r} is of {array.dtype}, which an .npz file cannot hold; export to "
                ".safetensors or .keras."
            )
    np.savez(file, allow_pickle=False, **named)


def _labels(loaded: Loaded) -> dict[str, str]:
    """Tensor to the path of its variable, or to its own name where that path is not its alone."""
    labels: Mapping[str, str] = loaded.base.about.get("labels", {})
    counts = Counter(labels.values())
    alone = {name: label for name, label in labels.items() if counts[label] == 1}
    return {name: alone.get(name, name) for name in loaded.base.arrays}


# A format more is a line more: `export` and the command know only this table.
_WRITERS: dict[str, Callable[[Loaded, BinaryIO], None]] = {
    ".weights.h5": _weights,
    ".keras": _model,
    ".safetensors": _tensors,
    ".npz": _arrays,
    ".pt": _torch,
}
