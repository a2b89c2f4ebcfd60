"""Memory that the system has back when nobody needs it any more.

What is freed within a heap stays with the process: a heap gives only its end back, and holes of
one size serve others badly. So arrays that are large and short-lived have pages of their own.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

_LARGE = 1 << 16  # bytes
_PRIVATE = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of any values, in pages of its own if it is large."""
    nbytes = dtype.itemsize * prod(shape)
    if nbytes < _LARGE:
        return np.empty(shape, dtype)
    try:
        pages = mmap.mmap(-1, nbytes, **_PRIVATE)
    except OSError:  # a process may have only so many pieces of memory
        return np.empty(shape, dtype)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, dtype, pages)


def copied(array: np.ndarray) -> np.ndarray:
    """A copy, in pages of its own if it is large."""
    out = empty(array.shape, array.dtype)
    np.copyto(out, array)
    return out


def touch(array: np.ndarray) -> None:
    """Have the system make the pages of an array from `empty`, which it else does one by one when
    they are written to."""
    if array.nbytes >= _LARGE:
        array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE] = 0


def give_back() -> None:
    """Have the C library return what is free, where it can (glibc). That takes milliseconds, but
    what is used again has to be made anew, page by page: for when much has gone for good."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
