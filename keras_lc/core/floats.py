"""What the codecs need to know of floating-point dtypes, `ml_dtypes`' included."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for floats of at most eight bytes, IEEE's and those of `ml_dtypes`."""
    known = dtype.kind == "f" or dtype.name.startswith(("bfloat", "float8"))
    return known and dtype.itemsize <= 8


def is_roomy(dtype: np.dtype[Any]) -> bool:
    """True for floats that a lossy codec is for; eight bits are few enough already."""
    return is_float(dtype) and dtype.itemsize > 1


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The float in which the arithmetic on a dtype is done."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


@cache
def positive_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Smallest and largest positive finite number of a roomy dtype."""
    native = dtype.newbyteorder("=")
    infinity = np.array([np.inf], native).view(f"u{dtype.itemsize}")
    smallest, largest = np.concatenate([infinity * 0 + 1, infinity - 1]).view(native)
    return float(smallest), float(largest)


def largest(values: np.ndarray) -> float:
    """Largest absolute value, 0 of none; not finite where one is not."""
    if not values.size:
        return 0.0
    top, bottom = (extreme.reduce(values, axis=None) for extreme in (np.maximum, np.minimum))
    return max(float(top), -float(bottom))
