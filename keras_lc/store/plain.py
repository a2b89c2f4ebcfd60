"""Checkpoint files of other makers, read: Keras' `.weights.h5` and `.keras`, `.safetensors`, and
`.pt` of PyTorch."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_lc.dtypes import parse_dtype
from keras_lc.errors import DamagedError, MismatchError, NotFoundError, OptionError
from keras_lc.store import base, safetensors, torch_file

_UNFOLDED = 64  # times the bytes of its archive, a file within it is too large to be true
_WEIGHTS, _CONFIG, _ASSETS = "model.weights.h5", "config.json", "assets/"  # in a .keras file


@dataclass(frozen=True)
class Plain:
    """What a file holds.

    Attributes:
        arrays: by their places in the HDF5 file, or by the names of the file.
        names: groups of the HDF5 file to the names that Keras gave their owners.
        model: configuration of the model, where it is stored.
        assets: names of the files that layers have put beside their arrays.
        left_out: what is no array, by its place, with its type.
    """

    arrays: dict[str, np.ndarray]
    names: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    assets: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> Plain:
    """The arrays of a file.

    Raises:
        NotFoundError: there is none.
        OptionError: its suffix is not known.
        DamagedError: it cannot be read.
        MismatchError: it holds what is no array, or none that can be stored.
    """
    text = os.fspath(path)
    reader = next((reader for suffix, reader in READERS.items() if text.endswith(suffix)), None)
    if reader is None:
        raise OptionError(f"{text!r}: expected a file name that ends in {', '.join(READERS)}.")
    try:
        return reader(Path(text).read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"there is no file {text!r}.") from error
    except (DamagedError, MismatchError) as error:
        raise type(error)(f"{text!r} cannot be read: {error}") from error
    except torch_file.FAULTS as error:
        raise DamagedError(f"{text!r} cannot be read: {error}") from error


def is_plain(path: str) -> bool:
    """Whether a path is that of a file of another maker."""
    if not path.endswith(tuple(READERS)) or not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return not file.read(8).startswith(b"\x89LCK")


def _weights(data: bytes) -> Plain:
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}

    def visit(place: str, item: Any) -> None:
        if place.startswith(base.GROUP):
            return
        if isinstance(item, h5py.Group):
            if "name" in item.attrs:
                names[place] = str(item.attrs["name"])
            return
        array = np.asarray(base.plain_dataset(file, place, len(data))[()])
        if array.dtype.hasobject:
            raise MismatchError(f"{place!r} holds {item.dtype}, which cannot be stored.")
        if item.attrs.get("dtype") == "bfloat16":  # how Keras marks it
            array = array.view(parse_dtype("bfloat16"))
        arrays[place] = array

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(visit)
    return Plain(arrays, names)


def _model(data: bytes) -> Plain:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in (_WEIGHTS, _CONFIG):
            if (claimed := archive.getinfo(name).file_size) > _UNFOLDED * len(data):
                raise DamagedError(f"{name!r} claims {claimed} bytes in an archive of {len(data)}.")
        inner = _weights(archive.read(_WEIGHTS))
        config = json.loads(archive.read(_CONFIG))
        assets = tuple(name for name in archive.namelist() if name.startswith(_ASSETS))
    model = config if isinstance(config, dict) else None
    return Plain(inner.arrays, inner.names, model, assets)


def _tensors(data: bytes) -> Plain:
    arrays, left_out = torch_file.read(data)
    return Plain(arrays, left_out=left_out)


READERS: dict[str, Callable[[bytes], Plain]] = {
    ".weights.h5": _weights,
    ".h5": _weights,
    ".keras": _model,
    ".safetensors": lambda data: Plain(safetensors.read(memoryview(data))),
    ".pt": _tensors,
    ".pth": _tensors,
}
