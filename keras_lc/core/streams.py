"""Pools of integer symbols to bytes and back.

Tensors that are coded alike share one pool, so that a model with a thousand biases does
not pay for a thousand headers. A pool is cut into chunks of `CHUNK` symbols; each chunk is
one byte with its item size, four bytes with its length, and a pcodec file
(https://github.com/pcodec/pcodec). A chunk uses the narrowest integer that holds it.
"""

from __future__ import annotations

import struct
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from keras_lc.errors import DamagedError

CHUNK = 1 << 18
_HEAD = struct.Struct("<BI")
# The symbols are residuals already: looking for further structure costs time and finds none.
_CONFIG = ChunkConfig(
    compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op()
)
_WIDTHS: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


def _narrow(symbols: np.ndarray) -> np.ndarray:
    if symbols.dtype.itemsize > 2 and symbols.size:
        low, high = int(symbols.min()), int(symbols.max())
        for dtype in (np.int16, np.int32):
            limits = np.iinfo(dtype)
            if limits.min <= low and high <= limits.max:
                return symbols.astype(dtype, copy=False)
    return symbols


class SymbolWriter:
    """Collects the symbols of one pool and has `workers` compress them chunk by chunk."""

    def __init__(self, workers: Executor) -> None:
        self._workers = workers
        self._pending: list[np.ndarray] = []
        self._count = 0
        self._chunks: list[Future[bytes]] = []

    def append(self, symbols: np.ndarray) -> None:
        """Add a one-dimensional array of int16, int32 or int64."""
        while symbols.size:
            part = symbols[: CHUNK - self._count]
            symbols = symbols[part.size :]
            self._pending.append(part)
            self._count += part.size
            if self._count == CHUNK:
                self._flush()

    def _flush(self) -> None:
        self._chunks.append(self._workers.submit(_compress, self._pending))
        self._pending, self._count = [], 0

    def finish(self) -> bytes:
        """The bytes of the pool."""
        if self._count:
            self._flush()
        return b"".join(chunk.result() for chunk in self._chunks)


class SymbolReader:
    """Reads a pool back; memory is taken for one chunk at a time, never for a claimed size."""

    def __init__(self, data: memoryview, total: int):
        self._data = data
        self._left = total
        self._chunk: np.ndarray = np.empty(0, np.int16)

    def take(self, count: int, dtype: np.dtype[Any]) -> np.ndarray:
        """The next `count` symbols as an array of `dtype`."""
        out = np.empty(count, dtype)
        done = 0
        while done < count:
            if not self._chunk.size:
                self._chunk = self._next_chunk()
            part = self._chunk[: count - done]
            out[done : done + part.size] = part
            self._chunk = self._chunk[part.size :]
            done += part.size
        return out

    def _next_chunk(self) -> np.ndarray:
        if len(self._data) < _HEAD.size:
            raise DamagedError("a symbol pool ends before its last chunk.")
        width, length = _HEAD.unpack_from(self._data)
        body = self._data[_HEAD.size : _HEAD.size + length]
        if width not in _WIDTHS or len(body) != length:
            raise DamagedError("a symbol pool has a chunk of impossible width or length.")
        self._data = self._data[_HEAD.size + length :]
        chunk = np.empty(min(CHUNK, self._left), _WIDTHS[width])
        try:
            progress = standalone.simple_decompress_into(bytes(body), chunk)
        except RuntimeError as error:
            raise DamagedError(f"a symbol pool does not decode: {error}") from error
        if progress.n_processed != chunk.size or not progress.finished:
            raise DamagedError(
                f"a symbol pool holds {progress.n_processed} symbols where {chunk.size} are due."
            )
        self._left -= chunk.size
        return chunk

    def finish(self) -> None:
        """Raise if anything is left over."""
        if self._left or self._chunk.size or len(self._data):
            raise DamagedError("a symbol pool holds more than its tensors take.")


def packed_size(symbols: np.ndarray) -> int:
    """Bytes that these symbols would take, to choose between two ways of coding."""
    return sum(len(_compress([symbols[i : i + CHUNK]])) for i in range(0, symbols.size, CHUNK))


def _compress(parts: list[np.ndarray]) -> bytes:
    symbols = _narrow(np.concatenate(parts))
    packed = standalone.simple_compress(symbols, _CONFIG)
    return _HEAD.pack(symbols.dtype.itemsize, len(packed)) + packed
