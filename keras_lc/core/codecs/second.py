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

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from keras_lc.core.floats import largest, positive_range, real_dtype
from keras_lc.core.matrix import Matrix
from keras_lc.core.tiles import ALL, TILE, cut
from keras_lc.errors import DamagedError

CELL = 8  # quarter octaves
ZERO = -(1 << 14)  # the level of an exact zero
_NOTHING = -(1 << 15)  # its power
_MOST = (1 << 14) - 1  # no other power is larger
_LARGEST_FACTOR = 64
_NEAR = range(-7, 8)  # offsets, in quarter octaves, that leave a level alone
_SHIFT = CELL.bit_length() - 1


@dataclass(frozen=True)
class LogLevel:
    """A tile of a second moment.

    `power` (int16, flat) is four times the logarithm of its values to base 2, but for the
    factor: `CELL` times the level, plus row, plus column. `span` bounds it, `axes` are all
    rows, then all columns.
    """

    power: np.ndarray
    span: tuple[int, int]
    axes: np.ndarray
    view: Matrix
    tile: slice
    factor: float
    dtype: np.dtype[Any]

    @property
    def zeros(self) -> bool:
        """Whether there are exact zeros."""
        return self.span[0] == _NOTHING

    @property
    def level(self) -> np.ndarray:
        """The levels (int16)."""
        level: np.ndarray = (self.power - spread(self.axes, self.view, self.tile)) >> _SHIFT
        if self.zeros:
            level[self.power == _NOTHING] = ZERO
        return level

    def under(self, drift: np.ndarray) -> LogLevel:
        """The same levels around axes that have moved by so much."""
        if not drift.any():
            return self
        most, low, high = _most(drift, self.view), *self.span
        _most(axes := self.axes + drift, self.view)
        power = spread(drift, self.view, self.tile)
        power += self.power
        if self.zeros:
            power[self.power == _NOTHING] = _NOTHING
            span = low, high + most
        else:
            span = max(low - most, _NOTHING + 1), high + most
        return replace(self, power=power, span=span, axes=axes)

    @property
    def ends(self) -> tuple[float, float] | None:
        """Bounds of the values but for the factor; None where they may be zero, or beyond what
        is normal in the dtype."""
        return _ends(self.span[0] // 4, self.span[1] // 4 + 1, self.dtype)

    def value(self, part: slice = ALL) -> np.ndarray:
        """The values, or some of them, not below the smallest positive number of the dtype
        unless zero."""
        power = self.power[part]
        out = np.empty(power.size, real_dtype(self.dtype))
        self._place(power, out)
        return out.astype(self.dtype, copy=False)

    def place(self, out: np.ndarray) -> None:
        """Write the values to an array of a real dtype."""
        self._place(self.power, out)

    def _place(self, power: np.ndarray, out: np.ndarray) -> None:
        factor = out.dtype.type(self.factor)
        if self.ends is None:
            out[:] = _middle(power.astype(np.int32), out.dtype)
            with np.errstate(over="ignore"):
                out *= factor
            np.clip(out, *positive_range(self.dtype), out=out)
            out[power == _NOTHING] = 0
        else:  # the same in fewer operations, since nothing leaves its range
            integer, shift, one = _image(out.dtype)
            image = np.left_shift(power, shift, out=out.view(integer), dtype=integer)
            image += integer((2 * one + 1) << (shift - 1))
            out *= factor


@lru_cache
def _ends(low: int, high: int, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Two powers of two, if numbers between them stay within the normal ones by any factor."""
    smallest, largest = positive_range(dtype)
    smallest = max(smallest, float(np.finfo(real_dtype(dtype)).tiny))
    with np.errstate(over="ignore"):
        ends = float(np.ldexp(1.0, low)), float(np.ldexp(1.0, high))
    within = smallest * _LARGEST_FACTOR < ends[0] and ends[1] < largest / _LARGEST_FACTOR
    return ends if within else None


def spread(axes: np.ndarray, view: Matrix, tile: slice) -> np.ndarray:
    """Row plus column for each value of a tile (int16, flat)."""
    if not view.columns:
        return np.full(tile.stop - tile.start, axes[0])
    first, last = tile.start // view.columns, -(-tile.stop // view.columns)
    start = tile.start - first * view.columns
    whole = (axes[first:last, None] + axes[view.rows :]).reshape(-1)
    return whole[start : start + tile.stop - tile.start]


def start(v: np.ndarray, axes: np.ndarray, view: Matrix, tile: slice) -> LogLevel:
    """Exact values (flat) of a tile around given axes; integer arithmetic only."""
    _most(axes, view)
    sides = spread(axes, view, tile)
    level = _level(_quarters(v, float(v.min(initial=np.inf))) - sides, v)
    return _around(level, axes, view, tile, 1.0, v.dtype)


def blank(view: Matrix, tile: slice, dtype: np.dtype[Any]) -> LogLevel:
    """A tile of which nothing is known yet: all levels are zero, and rows and columns."""
    power, axes = np.zeros(tile.stop - tile.start, np.int16), np.zeros(view.sides, np.int16)
    return LogLevel(power, (0, 0), axes, view, tile, 1.0, dtype)


def moves(
    v: np.ndarray,
    before: LogLevel | np.ndarray,
    axes: np.ndarray,
    view: Matrix,
    tile: slice,
    levels: bool = True,
) -> np.ndarray:
    """By how much each level of a tile moves (int16).

    Args:
        v: the values now, flat.
        before: the levels so far, or exact values, flat.
        axes: of all of the tensor, from `axes`.
        view: the tensor as a matrix.
        tile: which piece of the tensor this is.
        levels: False to have the values of a matrix follow their row and column alone.
    """
    old = start(before, axes, view, tile) if isinstance(before, np.ndarray) else before
    if not levels and view:
        moved: np.ndarray = np.where(v == 0, np.int16(ZERO), np.int16(0)) - old.level
        return moved
    old = old.under(axes - old.axes)
    lowest = float(v.min(initial=np.inf))
    offset = _quarters(v, lowest)
    if old.zeros or not lowest > 0:
        wide = offset - spread(axes, view, tile).astype(np.int32)
        level = _level(wide, v)
        wide -= old.level.astype(np.int32) << _SHIFT
        moved = np.where((wide < _NEAR[0]) | (wide > _NEAR[-1]), level - old.level, np.int16(0))
    else:
        offset -= old.power
        moved = np.zeros(offset.size, np.int16)
        leaves = np.flatnonzero((offset - np.int16(_NEAR[0])).view(np.uint16) >= len(_NEAR))
        moved[leaves] = (offset[leaves] + np.int16(CELL // 2)) >> _SHIFT
    return moved


def advance(
    before: LogLevel | np.ndarray,
    view: Matrix,
    tile: slice,
    factor: float,
    axes: np.ndarray,
    moves: np.ndarray,
) -> LogLevel:
    """The state of a tile after a delta; `before` are levels, or exact values (flat)."""
    if not 1 / _LARGEST_FACTOR <= factor <= _LARGEST_FACTOR:
        raise DamagedError(f"a second moment with a factor of {factor} is impossible.")
    if not isinstance(before, LogLevel):
        before, axes = start(before, axes, view, tile), np.zeros_like(axes)
    old = before.under(axes)
    farthest = CELL * int(largest(moves))
    if old.zeros or farthest + max(map(abs, old.span)) > _MOST:
        level = old.level.astype(np.int32) + moves
        return _around(level, old.axes, view, tile, factor, old.dtype)
    power = moves << _SHIFT
    power += old.power
    return replace(old, power=power, span=_span(power), factor=factor)


def _around(
    level: np.ndarray,
    axes: np.ndarray,
    view: Matrix,
    tile: slice,
    factor: float,
    dtype: np.dtype[Any],
) -> LogLevel:
    """Levels (int32) around rows and columns."""
    power = CELL * level + spread(axes, view, tile)
    zero = level == ZERO
    power[zero] = 0
    if largest(power) > _MOST:
        raise DamagedError("the levels of a second moment are beyond all numbers.")
    power = power.astype(np.int16)
    power[zero] = _NOTHING
    return LogLevel(power, _span(power), axes, view, tile, factor, dtype)


def _span(power: np.ndarray) -> tuple[int, int]:
    return (int(power.min()), int(power.max())) if power.size else (0, 0)


def _most(axes: np.ndarray, view: Matrix) -> int:
    """The most that a row and a column may add up to."""
    most = int(largest(axes[: view.rows]) + largest(axes[view.rows :]))
    if most > _MOST:
        raise DamagedError("the rows and columns of a second moment are beyond all numbers.")
    return most


def _level(offset: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The levels (int32) of values at an offset from row and column, in quarter octaves."""
    level: np.ndarray = (offset.astype(np.int32) + CELL // 2) >> _SHIFT
    level[v == 0] = ZERO
    return level


def _image(real: np.dtype[Any]) -> tuple[Any, int, int]:
    """Integer as wide as a float, the shift to its top two mantissa bits, and what one gives."""
    info = np.finfo(real)
    integer, shift = np.dtype(f"i{real.itemsize}").type, info.nmant - 2
    return integer, shift, 4 * (info.maxexp - 1)


def _quarters(v: np.ndarray, lowest: float) -> np.ndarray:
    """Four times the logarithm of each value to base 2, rounded down (int16); any, for zero.
    Between two powers of two it is linear: exponent and two bits of the mantissa, as they
    stand. `lowest` is the least of them."""
    real = real_dtype(v.dtype)
    integer, shift, one = _image(real)
    wide = v.astype(real, copy=False)
    if lowest >= np.finfo(real).tiny:
        quarters = (wide.view(integer) >> integer(shift)).astype(np.int16)
        quarters -= np.int16(one)
        return quarters
    tiny = wide < np.finfo(real).tiny
    image = np.where(tiny, wide * real.type(2.0**64), wide).view(integer) >> shift
    image -= np.where(tiny, integer(one + 256), integer(one))
    return image.astype(np.int16)


def _middle(power: np.ndarray, real: np.dtype[Any]) -> np.ndarray:
    """A value in the middle of those of which `_quarters` gives `power`; always positive."""
    integer, shift, one = _image(real)
    image = power.astype(integer)
    image += integer(one)
    tiny = image < 4
    image += np.where(tiny, integer(256), integer(0))
    np.clip(image, 0, 2 * one + 3, out=image)
    image <<= integer(shift)
    image |= integer(1) << integer(shift - 1)
    out = image.view(real)
    out *= np.where(tiny, real.type(2.0**-64), real.type(1))
    return out


def axes(v: np.ndarray, view: Matrix, top: float) -> np.ndarray:
    """Rows and columns whose sum is near four times the logarithm of the values (int16), the
    largest of which is `top`."""
    real = real_dtype(v.dtype)
    lift = top if top > 1e30 else 1.0  # so that sums stay finite

    def quarters(sums: Any, count: int) -> Any:
        means = np.maximum(sums / count, np.finfo(np.float64).tiny)
        return 4 * (np.log2(means) + np.log2(lift))

    def part(tile: slice) -> np.ndarray:
        values: np.ndarray = v[tile].astype(real, copy=False)
        return values if lift == 1 else values / real.type(lift)

    if not view:
        total = sum(float(part(tile).sum(dtype=np.float64)) for tile in cut(v.size))
        return np.array([np.rint(quarters(total, v.size))], np.int16)
    rows, columns = np.zeros(view.rows), np.zeros(view.columns)
    height = max(1, TILE // view.columns)
    for first in range(0, view.rows, height):
        last = min(first + height, view.rows)
        block = part(slice(first * view.columns, last * view.columns)).reshape(last - first, -1)
        rows[first:last] = block.sum(axis=1)
        columns += block.sum(axis=0)
    mean = quarters(rows.sum(), v.size)
    ends = [quarters(rows, view.columns), quarters(columns, view.rows) - mean]
    return np.rint(np.concatenate(ends)).astype(np.int16)


def sums(v: np.ndarray, m: np.ndarray | None, v_hat: np.ndarray) -> np.ndarray:
    """What `factor` is made of; of several tiles they are added."""
    roots = [np.sqrt(array.astype(np.float64)) for array in (v, v_hat)]
    weight = roots[0].copy() if m is None else np.square(m.astype(np.float64))
    for root in roots:
        if not root.min(initial=1) > 0:
            weight[root == 0], root[root == 0] = 0, 1
    return np.array([np.divide(weight, root, out=root).sum() for root in roots])


def factor(sums: np.ndarray) -> float:
    """The factor of a tensor that keeps the size of its updates."""
    if not 0 < sums[0] < np.inf:
        return 1.0
    return float(
        f"{min(max(float(sums[1] / sums[0]) ** 2, 2 / _LARGEST_FACTOR), _LARGEST_FACTOR / 2):.3g}"
    )
