"""Second moments, as powers of two around the product of a row and a column.

`v_hat = factor * 2**((8 * level + row + column) / 4)`. Row and column follow the means of
`v` over the axes of a matrix (the factors of Adafactor, https://arxiv.org/abs/1804.04235),
in quarter octaves; the level of a value is chained like the weights, in cells of two octaves,
and moves only when the value has left its cell by most of another. That costs a tenth of
the bits and does not show in training, because the common drift of a tensor is in rows and
columns, and the noise of a single value is left alone.

One factor a tensor keeps the size of the coming updates, `sum(m**2 / sqrt(v))`: without it
they grow by a tenth, for as many steps as the optimizer remembers. A value is never rounded
to zero: that would make the next update explode. Below the smallest normal number of its
arithmetic (1e-38 in float32), far under any epsilon, it counts as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.core.matrix import Matrix
from keras_lc.errors import DamagedError

CELL = 8  # quarter octaves
ZERO = -(1 << 14)  # the level of an exact zero
_NEAR = range(-7, 7)  # offsets, in quarter octaves, that leave a level alone


@dataclass(frozen=True)
class LogLevel:
    """A second moment as levels around rows and columns; all int16, `level` flat."""

    level: np.ndarray
    axes: np.ndarray  # rows, then columns
    view: Matrix
    factor: float
    dtype: np.dtype[Any]

    def value(self) -> np.ndarray:
        """The values, not below the smallest positive number of the dtype unless zero."""
        real = real_dtype(self.dtype)
        power = self.level.astype(np.int32)
        power *= CELL
        power += spread(self.axes, self.view, self.level.size)
        out = _middle(power, real)
        out *= real.type(self.factor)
        np.clip(out, *positive_range(self.dtype), out=out)
        out[self.level == ZERO] = 0
        return out.astype(self.dtype, copy=False)


def spread(axes: np.ndarray, view: Matrix, size: int) -> np.ndarray:
    """Row plus column for each value (int32, flat)."""
    rows = axes[: view.rows].astype(np.int32)
    if not view.columns:
        return np.full(size, rows[0])
    return (rows[:, None] + axes[view.rows :].astype(np.int32)).reshape(-1)


def start(v: np.ndarray, axes: np.ndarray, view: Matrix) -> LogLevel:
    """Exact values (flat) around given axes; integer arithmetic only."""
    level = (_quarters(v) - spread(axes, view, v.size) + CELL // 2) // CELL
    level = np.where(v == 0, ZERO, level).astype(np.int16)
    return LogLevel(level, axes, view, 1.0, v.dtype)


def encode(
    v: np.ndarray,
    m: np.ndarray | None,
    before: LogLevel | np.ndarray,
    view: Matrix,
    levels: bool = True,
) -> tuple[float, np.ndarray, np.ndarray]:
    """How a second moment moves.

    Args:
        v: the values now, flat.
        m: the first moment beside it, flat, where there is one.
        before: the levels so far, or exact values, flat.
        view: the tensor as a matrix.
        levels: False to have the values of a matrix follow their row and column alone.

    Returns:
        The factor, by how much the axes move and by how much each level moves (int16).
    """
    axes = _axes(v, view)
    if isinstance(before, LogLevel):
        old, drift = before.level, axes - before.axes
    else:
        old, drift = start(before, axes, view).level, axes
    prior = spread(axes, view, v.size)
    quarters = _quarters(v)
    offset = quarters - (old.astype(np.int32) * CELL + prior)
    if levels or not view:
        stay = (offset >= _NEAR[0]) & (offset <= _NEAR[-1]) & (v != 0) & (old != ZERO)
    else:
        quarters, stay = prior, (v != 0) & (old == 0)
    level = np.where(v == 0, ZERO, (quarters - prior + CELL // 2) // CELL)
    level = np.where(stay, old, level).astype(np.int16)
    factor = _factor(v, m, LogLevel(level, axes, view, 1.0, v.dtype).value())
    return factor, drift, level - old


def advance(
    before: LogLevel | np.ndarray,
    view: Matrix,
    factor: float,
    axes: np.ndarray,
    moves: np.ndarray,
) -> LogLevel:
    """The state after a delta; `before` are levels, or exact values (flat)."""
    if not 1 / 64 <= factor <= 64:
        raise DamagedError(f"a second moment with a factor of {factor} is impossible.")
    if isinstance(before, LogLevel):
        axes = before.axes + axes
    else:
        before = start(before, axes, view)
    return LogLevel(before.level + moves, axes, view, factor, before.dtype)


def _image(real: np.dtype[Any]) -> tuple[Any, int, int]:
    """Integer as wide as a float, the shift to its top two mantissa bits, and what one gives."""
    info = np.finfo(real)
    integer, shift = np.dtype(f"i{real.itemsize}").type, info.nmant - 2
    return integer, shift, 4 * (info.maxexp - 1)


def _quarters(v: np.ndarray) -> np.ndarray:
    """Four times the logarithm of each value to base 2, rounded down; any, for zero. Between
    two powers of two it is linear: exponent and two bits of the mantissa, as they stand."""
    real = real_dtype(v.dtype)
    integer, shift, one = _image(real)
    wide = v.astype(real, copy=False)
    tiny = wide < np.finfo(real).tiny
    image = np.where(tiny, wide * real.type(2.0**64), wide).view(integer) >> shift
    image -= np.where(tiny, integer(one + 256), integer(one))
    return image.astype(np.int32, copy=False)


def _middle(power: np.ndarray, real: np.dtype[Any]) -> np.ndarray:
    """A value in the middle of those of which `_quarters` gives `power`; always positive."""
    integer, shift, one = _image(real)
    image = power.astype(integer)
    image += integer(one)
    tiny = image < 4
    image += np.where(tiny, integer(256), integer(0))
    np.clip(image, 0, 2 * one + 3, out=image)
    image <<= shift
    image |= integer(1) << integer(shift - 1)
    out = image.view(real)
    out *= np.where(tiny, real.type(2.0**-64), real.type(1))
    return out


def _axes(v: np.ndarray, view: Matrix) -> np.ndarray:
    """Rows and columns whose sum is near four times the logarithm of the values."""
    # so that sums stay finite; those of narrower floats cannot overflow
    largest = (float(v.max()) or 1.0) if v.dtype.itemsize == 8 else 1.0
    wide = v / largest if largest != 1 else v

    def logarithm(means: Any) -> Any:
        return np.log2(np.maximum(means, np.finfo(np.float64).tiny)) + np.log2(largest)

    mean = logarithm(wide.mean(dtype=np.float64))
    if not view:
        return np.array([np.rint(4 * mean)], np.int16)
    matrix = wide.reshape(view.rows, view.columns)
    rows = logarithm(matrix.mean(axis=1, dtype=np.float64))
    columns = logarithm(matrix.mean(axis=0, dtype=np.float64)) - mean
    return np.rint(4 * np.concatenate([rows, columns])).astype(np.int16)


def _factor(v: np.ndarray, m: np.ndarray | None, v_hat: np.ndarray) -> float:
    held = (v != 0) & (v_hat != 0)
    root, root_hat = (np.sqrt(array[held].astype(np.float64)) for array in (v, v_hat))
    weight = np.ones_like(root) if m is None else m[held].astype(np.float64) ** 2 / root
    total = float(weight.sum())
    if not 0 < total < np.inf:
        return 1.0
    factor = (float((weight * root / root_hat).sum()) / total) ** 2
    return float(f"{min(max(factor, 1 / 32), 32):.3g}")
