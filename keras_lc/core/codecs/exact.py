"""Bit for bit: the difference of order-preserving integer images, or the image itself.

The bits of a float, read as an integer with the negative half turned over, keep the order
of the floats; neighbouring values have neighbouring integers, so the small movement of a
weight is a small integer difference. Differences wrap around, so every bit pattern (NaN,
infinities, signed zeros) survives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.floats import is_float
from keras_lc.core.streams import packed_size

_UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SAMPLE = 1 << 15


@dataclass(frozen=True)
class Exact:
    """A tensor known bit for bit."""

    array: np.ndarray  # flat, owned

    def value(self) -> np.ndarray:
        return self.array


def width(dtype: np.dtype[Any]) -> int:
    """Bytes of the integers that a tensor of this dtype is seen as."""
    return dtype.itemsize if dtype.kind in "iu" or is_float(dtype) else 1


def symbol_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The signed integer that carries one symbol."""
    return np.dtype(f"<i{max(2, width(dtype))}")


def symbol_count(dtype: np.dtype[Any], size: int) -> int:
    """How many symbols a tensor takes."""
    return size * dtype.itemsize // width(dtype)


def _image(array: np.ndarray) -> np.ndarray:
    unsigned = _UNSIGNED[width(array.dtype)]
    bits = np.ascontiguousarray(array).view(unsigned)
    if not is_float(array.dtype):
        return bits
    top = unsigned(1 << (8 * bits.dtype.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def _from_image(image: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if is_float(dtype):
        top = image.dtype.type(1 << (8 * image.dtype.itemsize - 1))
        image = np.where(image & top, image & ~top, ~image)
    return image.view(dtype)


def _signed(image: np.ndarray) -> np.ndarray:
    return image.view(f"i{image.dtype.itemsize}").astype(f"<i{max(2, image.dtype.itemsize)}")


def same(array: np.ndarray, reference: np.ndarray) -> bool:
    """Equal in every bit (NaN equals itself, 0.0 is not -0.0)."""
    unsigned = _UNSIGNED[width(array.dtype)]
    return bool(np.array_equal(array.view(unsigned), reference.view(unsigned)))


def encode(array: np.ndarray, reference: np.ndarray) -> tuple[bool, np.ndarray]:
    """Symbols of a flat array, and whether they are differences to `reference`."""
    step = array.size // _SAMPLE | 1
    here, there = array[::step], reference[::step]
    as_difference = packed_size(_signed(_image(here) - _image(there))) <= packed_size(
        _signed(_image(here))
    )
    return as_difference, difference(array, reference) if as_difference else _signed(_image(array))


def difference(array: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Symbols of a flat array as the difference to one of its dtype."""
    return _signed(_image(array) - _image(reference))


def decode(symbols: np.ndarray, reference: np.ndarray, as_difference: bool) -> Exact:
    """The tensor that `encode` was given."""
    image = symbols.astype(_UNSIGNED[width(reference.dtype)])
    if as_difference:
        image += _image(reference)
    return Exact(_from_image(image, reference.dtype))
