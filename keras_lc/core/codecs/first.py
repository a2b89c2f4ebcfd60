"""First moments, as integers in units of the root of the second.

`m_hat = integers * unit * sqrt(v_hat)`, stored anew each time, since the difference to an
earlier first moment is no smaller than itself. The integers of a matrix are a sum of a few
outer products (`outer`), those of a vector are stored one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.codecs.outer import Outer
from keras_lc.core.codecs.second import LogLevel
from keras_lc.core.floats import largest, positive_range, real_dtype
from keras_lc.core.tiles import ALL
from keras_lc.errors import DamagedError

_MOST = (1 << 15) - 1  # integers are no larger


@dataclass(frozen=True)
class Scaled:
    """A tile of a first moment as integers times `unit`, in units of the root of the second."""

    factors: np.ndarray | Outer  # the integers (flat), or what those of all tiles are made of
    unit: float
    scale: Any  # the state of the same tile of the second moment, or None
    dtype: np.dtype[Any]
    tile: slice

    def integers(self) -> np.ndarray:
        return self.factors.integers(self.tile) if isinstance(self.factors, Outer) else self.factors

    @property
    def nothing(self) -> bool:
        """Whether it is zero because there are no outer products."""
        return isinstance(self.factors, Outer) and self.factors.scale.rank == 0

    def value(self, part: slice = ALL) -> np.ndarray:
        integers = self.integers()[part]
        out = np.empty(integers.size, real_dtype(self.dtype))
        self._place(integers, part, out)
        return out.astype(self.dtype, copy=False)

    def place(self, out: np.ndarray) -> None:
        """Write the value to an array of a real dtype."""
        self._place(self.integers(), ALL, out)

    def _place(self, integers: np.ndarray, part: slice, out: np.ndarray) -> None:
        real = out.dtype
        np.multiply(integers, real.type(self.unit), out=out, dtype=real, casting="same_kind")
        if self.scale is not None:
            root = self.scale.value(part).astype(real, copy=False)
            out *= np.sqrt(root, out=root) if isinstance(self.scale, LogLevel) else np.sqrt(root)


def ratio(m: np.ndarray, scale: Any, part: slice = ALL) -> np.ndarray:
    """A tile of a first moment, or some of its values, in units of the root of the second one:
    flat and of a real dtype."""
    real, some = real_dtype(m.dtype), m[part]
    if scale is None:
        return some.astype(real)
    root = np.sqrt(scale.value(part).astype(real, copy=False))
    out = some.astype(real, copy=False) / root
    if root.size and not root.min() > 0:
        out[root == 0] = 0
    return out


def fits(m: np.ndarray, scale: Any, step: float) -> bool:
    """Whether the integers of a tile in such steps, and what they stand for, are small enough;
    any integers for a step of zero."""

    def within(farthest: float, root: float) -> bool:
        # twice: rounding may carry a value beyond the largest one
        small = 2 * farthest * root < positive_range(m.dtype)[1]
        return small and (step == 0 or farthest < _MOST * step)

    top = largest(m)
    if not np.isfinite(top):
        return False
    if isinstance(scale, LogLevel) and scale.ends is not None:
        low, high = (np.sqrt(scale.factor * end) for end in scale.ends)
        if within(top / low, high):
            return True
    root = 1.0 if scale is None else float(np.sqrt(largest(scale.value())))
    return within(largest(ratio(m, scale)), root)


def encode(ratio: np.ndarray, step: float) -> np.ndarray:
    """Integers (int16) of a tile given as `ratio`, which is overwritten; all zero for a step
    of zero."""
    if step == 0:
        return np.zeros(ratio.size, np.int16)
    ratio /= ratio.dtype.type(step)
    return np.rint(ratio, out=ratio).astype(np.int16)


def advance(
    factors: np.ndarray | Outer, unit: float, scale: Any, dtype: np.dtype[Any], tile: slice
) -> Scaled:
    """The state of a tile after a delta."""
    if not 0 <= unit < 1e31:
        raise DamagedError(f"a first moment in steps of {unit} is impossible.")
    return Scaled(factors, unit, scale, dtype, tile)
