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
from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.errors import DamagedError


@dataclass(frozen=True)
class Scaled:
    """A first moment as integers times `unit`, in units of the root of the second moment."""

    factors: np.ndarray | Outer  # the integers (flat), or what they are the product of
    unit: float
    scale: Any  # the state of the second moment, or None
    dtype: np.dtype[Any]

    def integers(self) -> np.ndarray:
        return self.factors.integers() if isinstance(self.factors, Outer) else self.factors

    def value(self) -> np.ndarray:
        real = real_dtype(self.dtype)
        out = self.integers().astype(real)
        out *= real.type(self.unit)
        if self.scale is not None:
            out *= np.sqrt(self.scale.value().astype(real, copy=False))
        return out.astype(self.dtype, copy=False)


def ratio(m: np.ndarray, scale: Any) -> np.ndarray | None:
    """A first moment in units of the root of the second one, flat and of a real dtype; None
    where the numbers are too large or not finite."""
    out = m.astype(real_dtype(m.dtype))
    largest = 1.0
    if scale is not None:
        root = np.sqrt(scale.value().astype(out.dtype, copy=False))
        out = np.divide(out, root, out=np.zeros_like(out), where=root != 0)
        largest = float(root.max())
    farthest = float(np.abs(out).max())
    # twice: rounding may carry a value beyond the largest one
    return out if 2 * farthest * largest < positive_range(m.dtype)[1] else None


def encode(ratio: np.ndarray, step: float) -> tuple[float, np.ndarray] | None:
    """Step and integers of a moment given as `ratio`, all zero for a step of zero; None where
    they would be too large."""
    step = float(f"{step:.3g}")
    if step == 0:
        return step, np.zeros(ratio.size, np.int32)
    if not (1e-30 < step < 1e30 and float(np.abs(ratio).max()) < 1e6 * step):
        return None
    return step, np.rint(ratio / ratio.dtype.type(step)).astype(np.int32)


def advance(factors: np.ndarray | Outer, unit: float, scale: Any, dtype: np.dtype[Any]) -> Scaled:
    """The state after a delta."""
    if not 0 <= unit < 1e31:
        raise DamagedError(f"a first moment in steps of {unit} is impossible.")
    return Scaled(factors, unit, scale, dtype)
