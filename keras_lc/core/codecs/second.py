"""Second moments, as powers of two around the product of a row and a column.

`v_hat = factor * 2**((8 * level + row + column) / 4)`. Row and column follow the means of
`v` over the axes of a matrix (the factors of Adafactor, https://arxiv.org/abs/1804.04235),
in quarter octaves; the level of a value is chained like the weights, in cells of two octaves,
and moves only when the value has left its cell by most of another. That costs a tenth of
the bits and does not show in training, because the common drift of a tensor is in rows and
columns, and the noise of a single value is left alone.

One factor a tensor keeps the size of the coming updates, `sum(m**2 / sqrt(v))`: without it
they grow by a tenth, for as many steps as the optimizer remembers. A value is never rounded
to zero: that would make the next update explode.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.errors import DamagedError

CELL = 8  # quarter octaves
ZERO = -(1 << 14)  # the level of an exact zero
_NEAR = range(-7, 7)  # offsets, in quarter octaves, that leave a level alone
_FLOOR, _TOP = -4 * 1100, 4 * 1030
_QUARTERS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)
_MANTISSAS = np.array([0.5946035575013605, 0.7071067811865476, 0.8408964152537145])


@dataclass(frozen=True)
class Axes:
    """The view of a tensor as a matrix; `columns` is 0 where only a common level pays."""

    rows: int
    columns: int

    @property
    def count(self) -> int:
        return self.rows + self.columns


@dataclass(frozen=True)
class LogLevel:
    """A second moment as levels around rows and columns; all int16, `level` flat."""

    level: np.ndarray
    axes: np.ndarray  # rows, then columns
    view: Axes
    factor: float
    dtype: np.dtype[Any]

    def value(self) -> np.ndarray:
        """The values, not below the smallest positive number of the dtype unless zero."""
        real = real_dtype(self.dtype)
        exponents, quarters = np.divmod(np.arange(_FLOOR, _TOP + 1), 4)
        with np.errstate(over="ignore", under="ignore"):
            table = np.ldexp(
                np.array(_QUARTERS, real)[quarters] * real.type(self.factor), exponents
            )
        table = np.clip(table, *positive_range(self.dtype)).astype(self.dtype)
        power = self.level.astype(np.int32) * CELL + spread(self.axes, self.view, self.level.size)
        out = table[np.clip(power, _FLOOR, _TOP) - _FLOOR]
        out[self.level == ZERO] = 0
        return out


def view(shape: tuple[int, ...]) -> Axes:
    """The most nearly square matrix that a tensor can be seen as without moving its values."""
    splits = [Axes(prod(shape[:i]), prod(shape[i:])) for i in range(1, len(shape))]
    best = min(splits, key=lambda axes: axes.count, default=Axes(1, 0))
    return best if best.count * 8 <= prod(shape) else Axes(1, 0)


def spread(axes: np.ndarray, view: Axes, size: int) -> np.ndarray:
    """Row plus column for each value (int32, flat)."""
    rows = axes[: view.rows].astype(np.int32)
    if not view.columns:
        return np.full(size, rows[0])
    return (rows[:, None] + axes[view.rows :].astype(np.int32)).reshape(-1)


def start(v: np.ndarray, axes: np.ndarray, view: Axes) -> LogLevel:
    """Exact values (flat) around given axes; integer arithmetic only."""
    level = (_quarters(v) - spread(axes, view, v.size) + CELL // 2) // CELL
    level = np.where(v == 0, ZERO, level).astype(np.int16)
    return LogLevel(level, axes, view, 1.0, v.dtype)


def encode(
    v: np.ndarray, m: np.ndarray | None, before: LogLevel | np.ndarray, view: Axes
) -> tuple[float, np.ndarray, np.ndarray]:
    """How a second moment moves.

    Args:
        v: the values now, flat.
        m: the first moment beside it, flat, where there is one.
        before: the levels so far, or exact values, flat.
        view: the tensor as a matrix.

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
    stay = (offset >= _NEAR[0]) & (offset <= _NEAR[-1]) & (v != 0) & (old != ZERO)
    level = np.where(v == 0, ZERO, (quarters - prior + CELL // 2) // CELL)
    level = np.where(stay, old, level).astype(np.int16)
    factor = _factor(v, m, LogLevel(level, axes, view, 1.0, v.dtype).value())
    return factor, drift, level - old


def advance(
    before: LogLevel | np.ndarray,
    view: Axes,
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


def _quarters(v: np.ndarray) -> np.ndarray:
    """`floor(4 * log2(v))` by comparison alone, so that all machines agree; any, for zero."""
    mantissa, exponent = np.frexp(v.astype(real_dtype(v.dtype), copy=False))
    thresholds = _MANTISSAS.astype(mantissa.dtype)
    return 4 * (exponent - 1) + np.searchsorted(thresholds, mantissa, side="right").astype(np.int32)


def _axes(v: np.ndarray, view: Axes) -> np.ndarray:
    """Rows and columns whose sum is near four times the logarithm of the values."""
    positive = np.maximum(v, positive_range(v.dtype)[0]).astype(np.float64)
    largest = positive.max()
    positive /= largest  # so that sums stay finite
    mean = positive.mean()
    if not view.columns:
        return np.array([np.rint(4 * (np.log2(mean) + np.log2(largest)))], np.int16)
    matrix = positive.reshape(view.rows, view.columns)
    tiny = np.finfo(np.float64).tiny
    rows = np.log2(np.maximum(matrix.mean(axis=1), tiny)) + np.log2(largest)
    columns = np.log2(np.maximum(matrix.mean(axis=0), tiny)) - np.log2(mean)
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
