"""Adam's moments: the second as indices of powers of two, the first in units of its root.

Second moment: `v_hat = 2**(3 * index) / sqrt(2)`, chained like the weights. An index moves
only when the value has clearly left its cell, which costs a tenth of the bits and does not
show in training. It is never rounded to zero: that would make the next update explode.
First moment: `m_hat = k * step * sqrt(v_hat)`, stored anew each time, since the difference
to an earlier one is no smaller than itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.codecs.lattice import real_dtype
from keras_lc.errors import DamagedError

OCTAVES = 3  # width of a cell of the second moment, in powers of two
ZERO = -400  # the index of an exact zero; float64 needs no cell below -359
_TOP = 345
_STAY = 2  # an exponent this near to the middle of its cell leaves the index alone


@dataclass
class LogIndex:
    """A second moment as indices into powers of two; `index` is int16 and flat."""

    index: np.ndarray
    dtype: np.dtype[Any]

    def value(self) -> np.ndarray:
        return _table(self.dtype)[np.clip(self.index, ZERO, _TOP) - ZERO]


@dataclass
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


def _table(dtype: np.dtype[Any]) -> np.ndarray:
    """`v_hat` for every index from ZERO to _TOP; ldexp is exact, so all machines agree."""
    real = real_dtype(dtype)
    limits = np.finfo(real)
    exponents = OCTAVES * np.arange(ZERO, _TOP + 1)
    values = np.ldexp(0.7071067811865476, np.clip(exponents, -1060, 1020))
    values = np.clip(values, float(limits.smallest_subnormal), float(limits.max)).astype(real)
    values[0] = 0
    table: np.ndarray = values.astype(dtype)
    return table


def _exponent(v: np.ndarray) -> np.ndarray:
    return np.frexp(v.astype(real_dtype(v.dtype), copy=False))[1].astype(np.int16)


def start_second(v: np.ndarray) -> LogIndex:
    """The indices of exact values (flat); integer arithmetic on exponents only."""
    exponent = _exponent(v)
    return LogIndex(np.where(v == 0, ZERO, (exponent + 1) // OCTAVES).astype(np.int16), v.dtype)


def encode_second(v: np.ndarray, state: LogIndex) -> np.ndarray:
    """By how much each index moves (int16, flat)."""
    target = start_second(v).index
    near = np.abs(_exponent(v) - OCTAVES * state.index) <= _STAY
    stay = near & (v != 0) & (state.index != ZERO)
    return np.where(stay, np.int16(0), target - state.index).astype(np.int16)


def advance_second(state: LogIndex, moves: np.ndarray) -> LogIndex:
    """The state after a delta; `state` is used up."""
    state.index += moves
    return state


def encode_first(m: np.ndarray, scale: Any, coarseness: float) -> tuple[float, np.ndarray]:
    """Step and integers of a first moment; `coarseness` is the step in root mean squares."""
    ratio = m.astype(real_dtype(m.dtype))
    if scale is not None:
        root = np.sqrt(scale.value().astype(ratio.dtype, copy=False))
        ratio = np.divide(ratio, root, out=np.zeros_like(ratio), where=root != 0)
    square = float(ratio @ ratio) / max(1, ratio.size)
    step = float(f"{coarseness * square**0.5:.3g}")
    if not 1e-30 < step < 1e30:
        return 0.0, np.zeros(m.size, np.int32)
    ratio /= ratio.dtype.type(step)
    return step, np.rint(ratio).astype(np.int32)


def first(k: np.ndarray, step: float, scale: Any, dtype: np.dtype[Any]) -> Scaled:
    """The state after a delta."""
    if not 0 <= step < 1e31:
        raise DamagedError(f"a first moment in steps of {step} is impossible.")
    return Scaled(k, step, scale, dtype)
