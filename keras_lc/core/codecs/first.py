"""First moments, as integers in units of the root of the second.

`m_hat = k * step * sqrt(v_hat)`, stored anew each time, since the difference to an earlier
first moment is no smaller than itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.floats import positive_range, real_dtype
from keras_lc.errors import DamagedError


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


def encode(m: np.ndarray, scale: Any, coarseness: float) -> tuple[float, np.ndarray] | None:
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


def advance(k: np.ndarray, step: float, scale: Any, dtype: np.dtype[Any]) -> Scaled:
    """The state after a delta."""
    if not 0 <= step < 1e31:
        raise DamagedError(f"a first moment in steps of {step} is impossible.")
    return Scaled(k, step, scale, dtype)
