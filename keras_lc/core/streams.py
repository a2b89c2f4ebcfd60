"""Pools of integer symbols to bytes and back.

Small tensors that are coded alike share one pool, so that a model with a thousand biases does
not pay for a thousand headers; it is cut into chunks of `CHUNK` symbols. The tiles of larger
ones are in a pool beside it, called `large(pool)`, where each group of tiles is a chunk of its
own, so that threads can share them out.

A chunk is one byte with its item size, four bytes with its length, and a pcodec file
(https://github.com/pcodec/pcodec). It uses the narrowest integer that holds it. Where nearly
all symbols are zero, the item size is zero, and in place of the file are the number of others,
a chunk with the number of zeros before each of them and after the last, and a chunk with
themselves: not smaller, but three times as fast.
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
_COUNT = struct.Struct("<I")
_SPARSE = 0  # item size of a chunk of few symbols that are not zero
_FEW = 32  # one in so many
# The symbols are residuals already: looking for further structure costs time and finds none.
_CONFIG = ChunkConfig(
    compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op()
)
_WIDTHS: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


def large(pool: str) -> str:
    """The pool of those tensors that are more than one tile."""
    return pool + "+"


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
        self._chunks.append(self._workers.submit(compress, self._pending))
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
        data, self._data = split(self._data)
        chunk = decompress(data, min(CHUNK, self._left))
        self._left -= chunk.size
        return chunk

    def finish(self) -> None:
        """Raise if anything is left over."""
        if self._left or self._chunk.size:
            raise DamagedError("a symbol pool holds more than its tensors take.")
        finish(self._data)


def finish(data: memoryview) -> None:
    """Raise if anything is left of a pool."""
    if len(data):
        raise DamagedError("a symbol pool holds more than its tensors take.")


def split(data: memoryview) -> tuple[memoryview, memoryview]:
    """The first chunk of a pool, and the rest."""
    if len(data) < _HEAD.size:
        raise DamagedError("a symbol pool ends before its last chunk.")
    end = _HEAD.size + _HEAD.unpack_from(data)[1]
    if len(data) < end:
        raise DamagedError("a symbol pool ends before its last chunk.")
    return data[:end], data[end:]


def decompress(chunk: memoryview, count: int) -> np.ndarray:
    """The `count` symbols of a chunk, in its own width."""
    width, _ = _HEAD.unpack_from(chunk)
    body = chunk[_HEAD.size :]
    if width == _SPARSE:
        return _scatter(body, count)
    if width not in _WIDTHS:
        raise DamagedError(f"a symbol pool has a chunk of impossible width {width}.")
    symbols = np.empty(count, _WIDTHS[width])
    try:
        progress = standalone.simple_decompress_into(bytes(body), symbols)
    except RuntimeError as error:
        raise DamagedError(f"a symbol pool does not decode: {error}") from error
    if progress.n_processed != count or not progress.finished:
        raise DamagedError(
            f"a symbol pool holds {progress.n_processed} symbols where {count} are due."
        )
    return symbols


def _scatter(body: memoryview, count: int) -> np.ndarray:
    if len(body) < _COUNT.size:
        raise DamagedError("a symbol pool has a chunk without its length.")
    (held,) = _COUNT.unpack_from(body)
    if held > count:
        raise DamagedError(f"a chunk holds {held} symbols where {count} are due.")
    zeros, rest = split(body[_COUNT.size :])
    values, rest = split(rest)
    finish(rest)
    if any(part[0] == _SPARSE for part in (zeros, values)):
        raise DamagedError("a chunk of few symbols is made of such chunks.")
    between, others = decompress(zeros, held + 1), decompress(values, held)
    if not (between.min() >= 0 and between.max() <= count):  # so that no sum wraps around
        raise DamagedError("a chunk of few symbols has them at impossible places.")
    ends = np.cumsum(between.astype(np.int64) + 1)
    if ends[-1] != count + 1:
        raise DamagedError(f"a chunk holds {ends[-1] - 1} symbols where {count} are due.")
    symbols = np.zeros(count, others.dtype)
    symbols[ends[:-1] - 1] = others
    return symbols


def packed_size(symbols: np.ndarray) -> int:
    """Bytes that these symbols would take, to choose between two ways of coding."""
    return sum(len(compress([symbols[i : i + CHUNK]])) for i in range(0, symbols.size, CHUNK))


def compress(parts: list[np.ndarray]) -> bytes:
    """One chunk of all these symbols."""
    symbols = _narrow(np.concatenate(parts))
    if np.count_nonzero(symbols) * _FEW <= symbols.size:
        return _gather(symbols)
    return _dense(symbols)


def _gather(symbols: np.ndarray) -> bytes:
    places = np.flatnonzero(symbols)
    zeros = np.diff(places, prepend=-1, append=symbols.size) - 1
    body = _dense(_narrow(zeros)) + _dense(symbols[places])
    return _HEAD.pack(_SPARSE, _COUNT.size + len(body)) + _COUNT.pack(len(places)) + body


def _dense(symbols: np.ndarray) -> bytes:
    packed = standalone.simple_compress(symbols, _CONFIG)
    return _HEAD.pack(symbols.dtype.itemsize, len(packed)) + packed
