"""Integers of tiles, each in the narrowest type that surely holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_lc.core.floats import largest
from keras_lc.errors import DamagedError

_NARROW, _MOST = (1 << 15) - 1, (1 << 31) - 1


@dataclass(frozen=True)
class Integers:
    """An array of int16 or int32, and a bound of its absolute values."""

    array: np.ndarray
    most: int

    @classmethod
    def of(cls, array: np.ndarray) -> Integers:
        """Integers of an array, or whole numbers of a float one, with their largest."""
        most = largest(array)
        if not most <= _MOST:
            raise DamagedError("the integers of a delta are too large for their lattice.")
        dtype = _dtype(int(most))
        return cls(array if array.dtype == dtype else array.astype(dtype), int(most))

    @classmethod
    def total(cls, parts: list[tuple[Integers, int]]) -> Integers | None:
        """The sum of integers, each times a power of two whose exponent goes with it; None
        where nothing but zeros is added."""
        most = sum(part.most << exponent for part, exponent in parts)
        if most == 0:
            return None
        if most > _MOST:
            raise DamagedError("the integers of a delta are too large for their lattice.")
        dtype, arrays = _dtype(most), [_times(part.array, e, _dtype(most)) for part, e in parts]
        if len(arrays) == 1:
            out = arrays[0].astype(dtype, copy=False)
        else:
            out = np.add(arrays[0], arrays[1], dtype=dtype)
            for array in arrays[2:]:
                out += array
        return cls(out, most) if most <= _NARROW else cls.of(out)


def _dtype(most: int) -> np.dtype[np.signedinteger]:
    return np.dtype(np.int16 if most <= _NARROW else np.int32)


def _times(array: np.ndarray, exponent: int, dtype: np.dtype[np.signedinteger]) -> np.ndarray:
    return np.left_shift(array, exponent, dtype=dtype) if exponent else array
