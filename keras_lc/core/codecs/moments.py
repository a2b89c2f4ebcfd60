"""Adam's moments: the second as powers of two, the first in units of its root.

Second moment: `v_hat = factor * 2**index`, the indices chained like the weights. An index
moves only when the value has left its octave by half an octave more, which saves most of the
bits and does not show in training. One factor a tensor, stored with each delta, keeps the
mean of `sqrt(v / v_hat)` at one, and with it the size of the coming updates: without it they
grow by a tenth, for as many steps as the optimizer remembers. A value is never rounded to
zero: that would make the next update explode.
First moment: `m_hat = k * step * sqrt(v_hat)`, stored anew each time, since the difference
to an earlier one is no smaller than itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.errors import DamagedError

ZERO = -1200  # the index of an exact zero, below that of any float64
_TOP = 1025
_ROOT_HALF = np.float32(0.70710678)


@dataclass(frozen=True)
class LogIndex:
    """A second moment as powers of two and a common factor; `index` is int16 and flat."""

    index: np.ndarray
    factor: float
    dtype: np.dtype[Any]

    def value(self) -> np.ndarray:
        """`factor * 2**index`, not below the smallest positive number of the dtype."""
        real = real_dtype(self.dtype)
        with np.errstate(over="ignore", under="ignore"):
            powers = np.ldexp(real.type(self.factor), np.arange(ZERO, _TOP + 1))
        table = np.clip(powers, *positive_range(self.dtype)).astype(self.dtype)
        table[0] = 0
        return table[np.clip(self.index, ZERO, _TOP) - ZERO]


@dataclass(frozen=True)
class Scaled:
    """A first moment as integers times `step`, in units of the root of the second moment."""

    k: np.ndarray
    step: float
    scale: Any  # the state of the second moment, or None
    dtype: np.dtype[Any]

    def value(self) -> np.ndarray:
        real = real_dtype(self.dtype)
        out = self.k.astype(real)
        out *= real.type(self.step)
        if self.scale is not None:
            out *= np.sqrt(self.scale.value().astype(real, copy=False))
        return out.astype(self.dtype, copy=False)


def start_second(v: np.ndarray) -> LogIndex:
    """The octaves of exact values (flat); a value in octave `i` is from `2**(i-1)` to `2**i`."""
    exponent = np.frexp(v.astype(real_dtype(v.dtype), copy=False))[1]
    return LogIndex(np.where(v == 0, ZERO, exponent).astype(np.int16), 1.0, v.dtype)


def encode_second(v: np.ndarray, state: LogIndex) -> tuple[float, np.ndarray]:
    """The factor, and by how much each index moves (int16, flat)."""
    mantissa, exponent = np.frexp(v.astype(real_dtype(v.dtype), copy=False))
    # in half octaves from the lower end of the present octave: 0 and 1 are inside
    offset = 2 * (exponent - state.index) + (mantissa >= _ROOT_HALF)
    stay = (offset >= -1) & (offset <= 2) & (v != 0) & (state.index != ZERO)
    index = np.where(stay, state.index, np.where(v == 0, ZERO, exponent)).astype(np.int16)
    # frexp has done half of v / 2**index already; the rest is a small power of two
    ratio = np.ldexp(mantissa, exponent - index)[v != 0]
    factor = float(np.mean(np.sqrt(ratio), dtype=np.float64)) ** 2 if ratio.size else 1.0
    return float(f"{factor:.3g}"), index - state.index


def advance_second(state: LogIndex, factor: float, moves: np.ndarray) -> LogIndex:
    """The state after a delta."""
    if not 0.25 <= factor <= 2:
        raise DamagedError(f"a second moment with a factor of {factor} is impossible.")
    return LogIndex(state.index + moves, factor, state.dtype)


def encode_first(m: np.ndarray, scale: Any, coarseness: float) -> tuple[float, np.ndarray] | None:
    """Step and integers of a first moment; `coarseness` is the step in root mean squares.
    None where the numbers are too large, too small or not finite."""
    ratio = m.astype(real_dtype(m.dtype))
    largest = 1.0
    if scale is not None:
        root = np.sqrt(scale.value().astype(ratio.dtype, copy=False))
        ratio = np.divide(ratio, root, out=np.zeros_like(ratio), where=root != 0)
        largest = float(root.max())
    square = float(ratio @ ratio) / max(1, ratio.size)
    if square == 0 and np.isfinite(largest):
        return 0.0, np.zeros(m.size, np.int32)
    step = float(f"{coarseness * square**0.5:.3g}")
    farthest = float(np.abs(ratio).max()) + step
    fits = farthest * largest < positive_range(m.dtype)[1] and farthest < 1e6 * step
    if not (1e-30 < step < 1e30 and fits):
        return None
    ratio /= ratio.dtype.type(step)
    return step, np.rint(ratio).astype(np.int32)


def first(k: np.ndarray, step: float, scale: Any, dtype: np.dtype[Any]) -> Scaled:
    """The state after a delta."""
    if not 0 <= step < 1e31:
        raise DamagedError(f"a first moment in steps of {step} is impossible.")
    return Scaled(k, step, scale, dtype)
