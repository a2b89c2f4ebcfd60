"""The payload of a base: an HDF5 file that Keras reads, and what Keras leaves out.

The record's prefix and header lie in the HDF5 user block, its digests behind the end of the
HDF5 data, so that one file is both a record and a plain `.weights.h5`. Arrays that Keras
does not store, the table of all tensors and the model's configuration are in the group
`keras_lc`, which Keras ignores.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import h5py
import numpy as np

from keras_lc.dtypes import dtype_name, parse_dtype
from keras_lc.errors import CheckpointError, DamagedError, MismatchError
from keras_lc.store import record
from keras_lc.store.directory import Directory
from keras_lc.store.record import Checked

GROUP = "keras_lc"
_ALIGNED = 16  # what lies behind the table begins at a multiple of this, but for odd tensors
_METRICS = "metrics/"  # what Keras stores of a state that is no part of it


@dataclass(frozen=True)
class Base:
    """What a base file holds.

    Attributes:
        arrays: tensors by name, views of its bytes.
        absent: names of those that were not read, and have only a shape and a dtype; where there
            are none, all bytes were.
        about: free JSON about them.
        places: where they lie in the HDF5 data.
        source: the bytes.
    """

    arrays: dict[str, np.ndarray]
    absent: set[str]
    about: dict[str, Any]
    places: dict[str, str]
    source: Checked


def write(
    directory: Directory,
    name: str,
    header: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    layout: Mapping[str, str | np.ndarray],
    about: dict[str, Any],
) -> str:
    """Write a base.

    Args:
        directory: where to.
        name: of the file to make.
        header: the record's header, JSON.
        arrays: every tensor of the state by name.
        layout: HDF5 path to the name of a tensor, or to an array that is stored for
            Keras alone.
        about: JSON about the state, such as the model's configuration.

    Returns:
        Hexadecimal digest of the record.
    """
    start = len(record.head(header, 0, align=True))
    with directory.write_once(name) as file:
        with _writing(file, start) as h5:
            _fill(h5, arrays, layout, about)
        return record.seal(file, header, start)


def write_plain(file: BinaryIO, content: Base, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what Keras stores of a state as a plain weights file.

    Args:
        file: to write into.
        content: the base of the state, read whole.
        arrays: the state; `content.arrays` for that of the base itself.

    Raises:
        MismatchError: the base holds what Keras computes from the tensors, and this is another
            state.
    """
    names = {place: name for name, place in content.places.items()}
    changed = arrays is not content.arrays

    def copy(place: str, item: Any) -> None:
        if isinstance(item, h5py.Group) or place.startswith(f"{GROUP}/"):
            return
        plain_dataset(source, place, len(content.source.data))
        if place in names:
            _store(target, place, arrays[names[place]])
        elif changed and not place.startswith(_METRICS):
            raise MismatchError(
                f"{place!r} of a weights file is computed by Keras from the model; restore the "
                "checkpoint into the model and call its `save_weights`."
            )
        else:
            source.copy(item, target, place)

    with h5py.File(_Memory(content.source), "r") as source, _writing(file) as target:
        source.visititems(copy)


def layout(content: Base) -> dict[str, str | np.ndarray]:
    """What `write` was told of where the tensors of a base, read whole, lie, and what else Keras
    stores."""
    names = {place: name for name, place in content.places.items()}
    found: dict[str, str | np.ndarray] = {}

    def look(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not place.startswith(f"{GROUP}/"):
            found[place] = (
                names.get(place) or plain_dataset(h5, place, len(content.source.data))[()]
            )

    with h5py.File(_Memory(content.source), "r") as h5:
        h5.visititems(look)
    return found


@contextmanager
def _writing(file: BinaryIO, start: int = 0) -> Iterator[h5py.File]:
    """An HDF5 file behind `start` bytes of another; the error is the one that writing met."""
    watched = _Watched(file)
    try:
        with h5py.File(watched, "w", userblock_size=start) as h5:
            yield h5
    except CheckpointError:
        raise
    except (RuntimeError, OSError) as error:
        raise watched.error or OSError(str(error)) from error


class _Watched:
    """A file that remembers why writing failed; HDF5 only passes on that it did."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


class _Memory(io.RawIOBase):
    """Bytes to be read like a file, and fetched when they are."""

    def __init__(self, source: Checked):
        self._source = source
        self._place = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (len(self._source.data) if whence == io.SEEK_END else 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), len(self._source.data))
        self._source.fetch(slice(self._place, end))
        part = self._source.data[self._place : end]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _fill(
    h5: h5py.File,
    arrays: Mapping[str, np.ndarray],
    layout: Mapping[str, str | np.ndarray],
    about: dict[str, Any],
) -> None:
    stored = {place: arrays[of] if isinstance(of, str) else of for place, of in layout.items()}
    places = {of: place for place, of in layout.items() if isinstance(of, str)}
    for name, array in arrays.items():
        if name not in places:
            places[name] = f"{GROUP}/state/{name}"
            stored[places[name]] = array
    table = [
        [name, dtype_name(array.dtype), list(array.shape), places[name]]
        for name, array in arrays.items()
    ]
    text = json.dumps({"tensors": table, "about": about}).encode()
    text = text.ljust(-(-len(text) // _ALIGNED) * _ALIGNED)
    stored = {f"{GROUP}/table": np.frombuffer(text, np.uint8)} | stored
    # All that tells where the arrays lie comes before them, so that some can be read alone.
    datasets = [(_create(h5, place, array), array) for place, array in stored.items()]
    for dataset, array in datasets:
        dataset[()] = _storable(array)


def read(
    source: Checked, wanted: Callable[[Mapping[str, np.ndarray]], Container[str]] | None = None
) -> Base:
    """The contents of a base.

    Args:
        source: the bytes of the record; from then on it needs no file.
        wanted: is told all tensors, which only have a shape and a dtype, and gives the names of
            those to read; all without it.

    Raises:
        DamagedError: the bytes are altered, or no base.
    """
    if wanted is None:
        source.fetch()
    size = len(source.data)
    try:
        with h5py.File(_Memory(source), "r") as h5:
            table = plain_dataset(h5, f"{GROUP}/table", size)
            document = json.loads(table[()].tobytes())
            rows = {}
            for name, dtype, shape, place in document["tensors"]:
                if not isinstance(name, str) or name in rows:
                    raise DamagedError(f"the base names a tensor {name!r}, or names it twice.")
                rows[name] = parse_dtype(dtype), shape, place
            arrays = {name: _blank(dtype, shape, size) for name, (dtype, shape, _) in rows.items()}
            names = rows if wanted is None else wanted(arrays)
            absent = {name for name in rows if name not in names}
            if not absent:
                source.fetch()
            arrays |= _load(h5, source, {name: rows[name] for name in rows if name in names})
            places = {name: place for name, (_, _, place) in rows.items()}
            return Base(arrays, absent, dict(document["about"]), places, source)
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        RuntimeError,
    ) as error:
        raise DamagedError(f"the HDF5 part of the base cannot be read: {error}") from error


def _store(h5: h5py.File, place: str, array: np.ndarray) -> None:
    _create(h5, place, array)[()] = _storable(array)


def _create(h5: h5py.File, place: str, array: np.ndarray) -> h5py.Dataset:
    stored = _storable(array)
    dataset = h5.create_dataset(place, stored.shape, stored.dtype)
    if array.dtype.name.startswith(("bfloat", "float8")):
        dataset.attrs["dtype"] = array.dtype.name  # how Keras marks it
    return dataset


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "SU":  # of these HDF5 takes only the bytes
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return array.view(np.uint8) if array.dtype.name.startswith("float8") else array


def _blank(dtype: np.dtype[Any], shape: list[int], limit: int) -> np.ndarray:
    """An array that has only a shape and a dtype."""
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > limit:
        raise DamagedError(f"the base has a tensor of {dtype}{shape}, more than its bytes.")
    return np.broadcast_to(np.empty((), dtype), shape)


def plain_dataset(h5: h5py.File, place: str, limit: int) -> h5py.Dataset:
    """A dataset whose bytes all lie in the file itself, no more of them than the limit."""
    parts = place.split("/")
    links = [h5.get("/".join(parts[:n]), getlink=True) for n in range(1, len(parts) + 1)]
    if not all(isinstance(link, h5py.HardLink) for link in links):
        raise DamagedError(f"{place!r} of the base is a link to another place.")
    dataset = h5[place]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise DamagedError(f"{place!r} of the base is not a plain dataset.")
    if dataset.nbytes > limit:
        raise DamagedError(
            f"{place!r} of the base claims {dataset.nbytes} bytes of a file that has {limit} left."
        )
    return dataset


def _load(
    h5: h5py.File, source: Checked, rows: dict[str, tuple[np.dtype[Any], list[int], str]]
) -> dict[str, np.ndarray]:
    """The arrays of these rows of the table, views of the bytes as far as HDF5 has them in one
    piece."""
    stored: dict[str, slice | np.ndarray] = {}
    left = len(source.data)
    for name, (dtype, shape, place) in rows.items():
        dataset = plain_dataset(h5, place, left)
        nbytes = dataset.nbytes
        if nbytes != prod(shape) * dtype.itemsize:
            raise DamagedError(
                f"tensor {place!r} of the base is {dtype}{list(shape)} by its table and "
                f"{dataset.dtype}{list(dataset.shape)} in the file."
            )
        left -= nbytes
        offset = dataset.id.get_offset()
        # in chunks, or empty, it has no place of its own
        stored[name] = dataset[()] if offset is None else slice(offset, offset + nbytes)
    source.fetch(*(part for part in stored.values() if isinstance(part, slice)))
    return {
        name: _view(source.data[part] if isinstance(part, slice) else part, *rows[name][:2])
        for name, part in stored.items()
    }


def _view(stored: memoryview | np.ndarray, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    flat = np.ascontiguousarray(stored).reshape(-1)
    return np.require(flat.view(dtype).reshape(shape), requirements="A")
