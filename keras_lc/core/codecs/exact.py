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
from keras_lc.core.tiles import ALL

_UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Exact:
    """A tile known bit for bit."""

    array: np.ndarray  # flat, owned

    def value(self, part: slice = ALL) -> np.ndarray:
        return self.array if part == ALL else self.array[part]

    def place(self, out: np.ndarray) -> None:
        out[:] = self.array


def width(dtype: np.dtype[Any]) -> int:
    """Bytes of the integers that a tensor of this dtype is seen as."""
    return dtype.itemsize if dtype.kind in "iu" or is_float(dtype) else 1


def symbol_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The signed integer that carries one symbol."""
    return np.dtype(f"<i{max(2, width(dtype))}")


def symbol_count(dtype: np.dtype[Any]) -> int:
    """How many symbols a value takes."""
    return dtype.itemsize // width(dtype)


def _image(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array).view(_UNSIGNED[width(array.dtype)])
    if not is_float(array.dtype):
        return bits
    image = _negative(bits)
    image |= _top(bits)
    image ^= bits
    return image


def _from_image(image: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The reverse of `_image`; the image is overwritten."""
    if is_float(dtype):
        below = _negative(image)  # all but the top bit of what was not negative
        below >>= 1
        image ^= below
        np.invert(image, out=image)
    return image.view(dtype)


def _top(bits: np.ndarray) -> Any:
    return bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))


def _negative(bits: np.ndarray) -> np.ndarray:
    """All ones where the top bit is set, else zero."""
    size = bits.dtype.itemsize
    return (bits.view(f"i{size}") >> (8 * size - 1)).view(bits.dtype)


def _signed(image: np.ndarray) -> np.ndarray:
    size = image.dtype.itemsize
    return image.view(f"i{size}").astype(f"<i{max(2, size)}", copy=False)


def same(array: np.ndarray, reference: np.ndarray) -> bool:
    """Equal in every bit (NaN equals itself, 0.0 is not -0.0)."""
    unsigned = _UNSIGNED[width(array.dtype)]
    return bool(np.array_equal(array.view(unsigned), reference.view(unsigned)))


def worth(array: np.ndarray, reference: np.ndarray) -> bool:
    """Whether these values take less as differences than by themselves."""
    return packed_size(difference(array, reference)) <= packed_size(plain(array))


def plain(array: np.ndarray) -> np.ndarray:
    """Symbols of a flat array by itself."""
    return _signed(_image(array))


def difference(array: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Symbols of a flat array as the difference to one of its dtype."""
    return _signed(_image(array) - _image(reference))


def decode(
    symbols: np.ndarray, dtype: np.dtype[Any], reference: np.ndarray | None, own: bool = False
) -> Exact:
    """The array whose symbols, as difference to `reference` where there is one, are given; what is
    `own` may become the array."""
    unsigned = np.dtype(_UNSIGNED[width(dtype)])
    own &= symbols.itemsize == unsigned.itemsize and symbols.dtype.isnative
    image = symbols.view(unsigned) if own else symbols.astype(unsigned)
    if reference is not None:
        image += _image(reference)
    return Exact(_from_image(image, dtype))
