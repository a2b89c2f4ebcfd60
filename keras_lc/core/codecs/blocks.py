"""Eight bits a value: absolute-max quantisation in blocks, without reference.

A tensor is cut into blocks of `BLOCK` values (as in "8-bit Optimizers via Block-wise
Quantization", https://arxiv.org/abs/2110.02861, but evenly spaced); a block stores its
largest absolute value exactly, and `x_hat = k * scale`, `scale = absmax / 127`, `k` from -127
to 127. All arithmetic is in float64; the last rounding is that to the dtype of the tensor.

For every value `|x - x_hat| <= absmax / 254`, plus at most half an ulp of `x_hat` for that
last rounding, from the denormals to the largest numbers. What keeps the bound:

- The scale is a hair (2**-44) less than `absmax / 127`. That makes up for the roundings before
  the last: of `x / scale`, which may pick the farther of two integers, by at most 2**-47 of a
  scale, and of `k * scale`, at most 2**-46 of one. It also keeps `k * scale` below `absmax`,
  so that nothing overflows. The largest value comes back within that hair: in all dtypes but
  float64, as itself.
- Blocks of float64 below 2**-900 are multiplied by 2**100 meanwhile, out of the denormals.
- bfloat16 is rounded to by way of float32. That is the same as at once, since `k * absmax / 127`
  is never that close to the middle between two of its numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lc.core.codecs.exact import Exact
from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.errors import DamagedError

BLOCK = 256
TOP = 127
_SHARE = (1 - 2.0**-44) / TOP
_LOW, _LIFT = 2.0**-900, 2.0**100


def blocks(size: int) -> int:
    """How many blocks a tensor takes."""
    return -(-size // BLOCK)


def scales(target: np.ndarray) -> np.ndarray | None:
    """The largest absolute value of each block of a tile, as the integer of its bits; None
    where a value is not finite."""
    rows = _rows(target)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)) + 0.0  # no negative zero
    return _symbols(largest, real_dtype(target.dtype)) if np.isfinite(largest).all() else None


def encode(target: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """`k` for each value of a tile (int16)."""
    scale, lift = _scale(_absolute(scales, real_dtype(target.dtype)))
    rows = _rows(target)
    rows *= lift
    rows /= np.where(scale == 0, 1, scale)
    np.rint(rows, out=rows)
    return rows.reshape(-1)[: target.size].astype(np.int16)


def advance(scales: np.ndarray, k: np.ndarray, dtype: np.dtype[Any]) -> Exact:
    """The state of a tile after a delta."""
    real = real_dtype(dtype)
    top = int(_symbols(np.array(positive_range(dtype)[1]), real))
    if not _within(scales, 0, top):
        raise DamagedError(f"a block has a scale that is negative or no number of {dtype}.")
    if not _within(k, -TOP, TOP):
        raise DamagedError(f"a block holds integers beyond {TOP}.")
    scale, lift = _scale(_absolute(scales, real))
    rows = _rows(k)
    rows *= scale
    rows /= lift
    return Exact(rows.reshape(-1)[: k.size].astype(dtype))


def _rows(flat: np.ndarray) -> np.ndarray:
    """One row of float64 a block, the last one filled up with zeros."""
    padded = np.zeros(blocks(flat.size) * BLOCK)
    padded[: flat.size] = flat
    return padded.reshape(-1, BLOCK)


def _scale(largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale of each block, and the power of two that block and scale are multiplied by."""
    lift = np.where(largest < _LOW, _LIFT, 1.0)
    return (largest * lift * _SHARE)[:, None], lift[:, None]


def _symbols(largest: np.ndarray, real: np.dtype[Any]) -> np.ndarray:
    """The bits of positive floats as integers, which are in the same order."""
    return largest.astype(real).view(f"i{real.itemsize}")


def _absolute(scales: np.ndarray, real: np.dtype[Any]) -> np.ndarray:
    """The reverse of `_symbols`, in float64."""
    return scales.astype(f"i{real.itemsize}").view(real).astype(np.float64)


def _within(symbols: np.ndarray, low: int, high: int) -> bool:
    return not symbols.size or (low <= int(symbols.min()) and int(symbols.max()) <= high)
