"""Pools of integer symbols to bytes and back.

Small tensors that are coded alike share one pool, so that a model with a thousand biases does
not pay for a thousand headers; it is cut into chunks of `CHUNK` symbols. The tiles of larger
ones are in a pool beside it, called `large(pool)`, where each is a chunk of its own, so that
threads can share them out.

A chunk is one byte with its item size, four bytes with its length, and a pcodec file
(https://github.com/pcodec/pcodec). It uses the narrowest integer that holds it. Two other forms
are hardly smaller, but several times as fast:

- Where nearly all symbols are zero, the item size is zero, and in place of the file are the
  number of others, a chunk with the number of zeros before each of them and after the last,
  and a chunk with themselves.
- Where nearly all are from -1 to 1, the item size is one, and in place of the file are the
  number of others, a chunk of bytes that hold four symbols each, in which others have a mark,
  and a chunk with themselves.
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
_SPARSE, _FOURS = 0, 1  # instead of an item size
_FEW = {_SPARSE: 32, _FOURS: 16}  # these forms are for one other symbol in so many
_SHORT = {_SPARSE: 1 << 12, _FOURS: 1 << 16}  # and not for fewer symbols
_MARK = 2
# the four symbols (int16) of a byte, the first in its lowest bits
_BYTES = ((np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3) - 1).astype(np.int16).view(np.uint64)
# times four bytes of two bits, it has these bits side by side in its highest byte
_JOIN = np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
# The symbols are residuals already: looking for further structure costs time and finds none.
_CONFIG, _FINE_CONFIG = (
    ChunkConfig(compression_level=level, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())
    for level in (8, 10)
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

    def finish(self) -> list[bytes]:
        """The chunks of the pool, to be joined."""
        if self._count:
            self._flush()
        return [chunk.result() for chunk in self._chunks]


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
    if width in _FEW:
        return _joined(width, body, count)
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


def _joined(form: int, body: memoryview, count: int) -> np.ndarray:
    if len(body) < _COUNT.size:
        raise DamagedError("a symbol pool has a chunk without its length.")
    (held,) = _COUNT.unpack_from(body)
    if held > count:
        raise DamagedError(f"a chunk holds {held} symbols where {count} are due.")
    most, rest = split(body[_COUNT.size :])
    others, rest = split(rest)
    finish(rest)
    if most[0] in _FEW or others[0] in _FEW:
        raise DamagedError("a chunk of few symbols is made of such chunks.")
    join = _scatter if form == _SPARSE else _unpack
    return join(most, decompress(others, held), count)


def _scatter(zeros: memoryview, others: np.ndarray, count: int) -> np.ndarray:
    between = decompress(zeros, others.size + 1)
    if not (between.min() >= 0 and between.max() <= count):  # so that no sum wraps around
        raise DamagedError("a chunk of few symbols has them at impossible places.")
    ends = np.cumsum(between.astype(np.int64) + 1)
    if ends[-1] != count + 1:
        raise DamagedError(f"a chunk holds {ends[-1] - 1} symbols where {count} are due.")
    symbols = np.zeros(count, others.dtype)
    symbols[ends[:-1] - 1] = others
    return symbols


def _unpack(fours: memoryview, others: np.ndarray, count: int) -> np.ndarray:
    packed = decompress(fours, -(-count // 4))
    if not (packed.min(initial=0) >= 0 and packed.max(initial=0) < 256 and others.itemsize == 2):
        raise DamagedError("a chunk of bytes holds something else.")
    symbols = np.take(_BYTES[:, 0], packed.astype(np.intp))
    marked = np.flatnonzero((packed & packed >> 1 & 0x55) != 0)
    some = symbols[marked].view(np.int16)
    places = some == _MARK
    if np.count_nonzero(places) != others.size:
        raise DamagedError(f"a chunk has {others.size} symbols for other places.")
    some[places] = others
    symbols[marked] = some.view(np.uint64)
    return symbols.view(np.int16)[:count]


def packed_size(symbols: np.ndarray) -> int:
    """Bytes that these symbols would take, to choose between two ways of coding."""
    return sum(len(compress([symbols[i : i + CHUNK]])) for i in range(0, symbols.size, CHUNK))


def compress(parts: list[np.ndarray]) -> bytes:
    """One chunk of all these symbols."""
    symbols = _narrow(parts[0] if len(parts) == 1 else np.concatenate(parts))
    if _pays(_SPARSE, symbols.size, int(np.count_nonzero(symbols))):
        places = np.flatnonzero(symbols != 0)
        zeros = np.diff(places, prepend=-1, append=symbols.size) - 1
        return _join(_SPARSE, _dense(_narrow(zeros)), symbols[places])
    if symbols.itemsize == 2:
        codes = (symbols + np.int16(1)).view(np.uint16)
        others = codes > _MARK
        if _pays(_FOURS, symbols.size, int(np.count_nonzero(others))):
            places = np.flatnonzero(others)
            return _join(_FOURS, _dense(_fours(codes, places), _FINE_CONFIG), symbols[places])
    return _dense(symbols)


def _pays(form: int, size: int, others: int) -> bool:
    return size >= _SHORT[form] and others * _FEW[form] <= size


def _fours(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bytes (int16) of four symbols each, which are given one larger, with a mark at the places of
    others."""
    narrow = np.ones(-(-codes.size // 4) * 4, np.uint8)
    narrow[: codes.size] = codes
    narrow[others] = _MARK + 1
    return ((narrow.view("<u4") * _JOIN) >> 24).astype(np.int16)


def _join(form: int, most: bytes, others: np.ndarray) -> bytes:
    body = most + _dense(others)
    return _HEAD.pack(form, _COUNT.size + len(body)) + _COUNT.pack(others.size) + body


def _dense(symbols: np.ndarray, config: ChunkConfig = _CONFIG) -> bytes:
    packed = standalone.simple_compress(symbols, config)
    return _HEAD.pack(symbols.dtype.itemsize, len(packed)) + packed
