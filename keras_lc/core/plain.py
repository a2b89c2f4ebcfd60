"""Plain functions: arrays to bytes and back, without a chain."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from keras_lc import workers
from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.encoder import DeltaEncoder
from keras_lc.core.floats import is_float
from keras_lc.core.presets import CodecLike
from keras_lc.core.spec import Role, TensorSpec
from keras_lc.dtypes import dtype_name, parse_dtype
from keras_lc.errors import DamagedError, OptionError

_HEAD = struct.Struct("<I")
_LARGEST_HEAD = 1 << 24
Arrays = np.ndarray | Mapping[str, np.ndarray]


def compress(delta: Arrays, codec: CodecLike = "lossless") -> bytes:
    """One array, or a mapping from names to arrays, as bytes that `decompress` turns back.

    Args:
        delta: any shapes and fixed-size dtypes; a difference, or the values themselves.
        codec: as for `DeltaEncoder`. Every float counts as a weight.

    Returns:
        Names, shapes and dtypes, then a blob over zeros.

    Raises:
        OptionError: the codec is not known, or an array holds Python objects.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import compress, decompress
        >>> delta = np.float32([[0, 1], [0, -1]])
        >>> decompress(compress(delta))
        array([[ 0.,  1.],
               [ 0., -1.]], dtype=float32)
    """
    single = not isinstance(delta, Mapping)
    given = delta if isinstance(delta, Mapping) else {"": delta}
    arrays = {name: np.asarray(array) for name, array in given.items()}
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise OptionError(f"the name {name!r} of an array is no text.")
        if not _plain(array.dtype):
            raise OptionError(f"array {name!r} is of {array.dtype}; expected a plain dtype.")
    encoder = DeltaEncoder({k: np.zeros_like(v, order="C") for k, v in arrays.items()}, codec)
    rows = [[name, dtype_name(array.dtype), list(array.shape)] for name, array in arrays.items()]
    text = json.dumps([single, rows], separators=(",", ":")).encode()
    head = zlib.compress(text, 9)
    return b"".join([_HEAD.pack(len(head)), head, *encoder.pieces(arrays)])


def _plain(dtype: np.dtype[Any]) -> bool:
    try:
        return parse_dtype(dtype_name(dtype)) == dtype
    except (DamagedError, TypeError, AttributeError):
        return False


def decompress(data: bytes, limit: int = 1 << 34) -> Arrays:
    """What `compress` was given: an array, or a mapping from names to arrays.

    Args:
        data: from `compress`.
        limit: bytes that the arrays may take together; more is refused before they are coded.

    Raises:
        DamagedError: the bytes are altered or truncated, or claim more than `limit`.
    """
    try:
        (length,) = _HEAD.unpack_from(data)
        inflate = zlib.decompressobj()
        text = inflate.decompress(data[_HEAD.size : _HEAD.size + length], _LARGEST_HEAD)
        single, rows = json.loads(text)
        described: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            str(name): (parse_dtype(dtype), tuple(int(side) for side in shape))
            for name, dtype, shape in rows
        }
        sizes = [dtype.itemsize * prod(shape) for dtype, shape in described.values()]
        sound = inflate.eof and len(described) == len(rows) and (not single or len(rows) == 1)
        if not sound or any(side < 0 for _, shape in described.values() for side in shape):
            raise ValueError("names, shapes or dtypes make no sense")
        if sum(sizes) <= limit:
            base = {name: np.zeros(shape, dtype) for name, (dtype, shape) in described.items()}
    except (
        struct.error,
        zlib.error,
        ValueError,
        TypeError,
        RecursionError,
        AttributeError,
        OverflowError,
    ) as error:
        raise DamagedError(f"the head of compressed arrays cannot be read: {error}.") from error
    if sum(sizes) > limit:
        raise DamagedError(
            f"compressed arrays claim {sum(sizes)} bytes, more than the limit of {limit}; "
            "pass a larger one if they are yours."
        )
    decoded = DeltaDecoder(base).decode(bytes(data[_HEAD.size + length :]))
    return decoded[next(iter(base))] if single else {name: decoded[name] for name in base}


def compression_rate(
    base: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], codec: CodecLike = "balanced"
) -> float:
    """How many times smaller than the whole state the difference from `base` to `state` is.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import compression_rate
        >>> base = {"w": np.linspace(0, 1, 50_000, dtype=np.float32)}
        >>> compression_rate(base, base) > 1000
        True
    """
    whole = sum(np.asarray(array).nbytes for array in state.values())
    return whole / len(DeltaEncoder(base, codec).encode(state))


@dataclass(frozen=True)
class Stored:
    """What a codec has made of one tensor.

    Attributes:
        name, role: as in its `TensorSpec`.
        kind: how it was stored, for example `"lattice"`, `"difference"` or `"same"`.
        bits: for each of its values, its symbols compressed on their own.
        error: root mean square of the difference to the live values, nan for what is no float.
        largest_error: largest difference.
    """

    name: str
    role: Role
    kind: str
    bits: float
    error: float
    largest_error: float


def report(
    base: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    codec: CodecLike = "balanced",
    specs: Iterable[TensorSpec] | None = None,
) -> list[Stored]:
    """Where the bits of a delta from `base` to `state` go, and what error each tensor gets.

    Args:
        base, state, codec, specs: as for `DeltaEncoder`.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import report
        >>> base = {"w": np.linspace(-1, 1, 10_000, dtype=np.float32)}
        >>> moved = {"w": base["w"] + np.sin(1e4 * base["w"]) / 1000}
        >>> weights = report(base, moved)[0]
        >>> weights.kind, weights.bits < 3, weights.largest_error < 0.001
        ('lattice', True, True)
    """
    encoder = DeltaEncoder(base, codec, specs)
    rows = []
    with workers.start() as threads:
        for coded in encoder.code(threads, state, None, None):
            spec = encoder.specs[coded.i]
            live = np.asarray(state[spec.name])
            error = np.full(1, np.nan)
            if is_float(live.dtype) and live.size:
                decoded = encoder.reconstruction[spec.name].astype(np.float64)
                same = decoded == live  # infinities too
                error = np.where(same, 0, np.abs(decoded - live.astype(np.float64)))
            rows.append(
                Stored(
                    spec.name,
                    spec.role,
                    coded.entry.kind,
                    8 * coded.nbytes / max(1, live.size),
                    float(np.sqrt(np.mean(np.square(error)))),
                    float(error.max()),
                )
            )
    return sorted(rows, key=lambda row: row.name)
