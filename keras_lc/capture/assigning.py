"""Stored arrays put into what holds a model's state."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import keras
import numpy as np

from keras_lc.capture.matching import cast
from keras_lc.capture.variables import Tensor
from keras_lc.core import several

_LARGE = 1 << 12  # values; for fewer a copy is nothing


def put_back(
    tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]
) -> None:
    """Assign to variables and buffers what is stored of them.

    Args:
        tensors: by name.
        arrays: what is stored, by the same names; each may be computed when asked for.
        like: arrays of the same shapes and dtypes that are there already.
    """
    blanks: deque[tuple[Any, np.ndarray] | None] = deque()

    def places() -> Iterator[np.ndarray | None]:
        for name, tensor in tensors.items():
            blanks.append(_blank(tensor.variable, like[name].dtype.name))
            yield blanks[-1] and blanks[-1][1]

    for tensor, array in zip(tensors.values(), several(arrays, tensors, places()), strict=True):
        blank = blanks.popleft()
        tensor.variable.assign(blank[0] if blank else cast(array, tensor.variable.dtype))


def _blank(variable: Any, dtype: str) -> tuple[Any, np.ndarray] | None:
    """A new tensor for a variable, and its memory, flat, to be filled before the tensor is used;
    None where the backend has to copy an array."""
    large = isinstance(variable, keras.Variable) and prod(variable.shape) >= _LARGE
    if not (large and variable.dtype == dtype and keras.backend.backend() == "tensorflow"):
        return None
    import tensorflow as tf

    tensor = tf.raw_ops.Empty(shape=variable.shape, dtype=dtype)
    try:
        seen = np.from_dlpack(tensor)  # read-only, as tensors are to all that use them
    except (RuntimeError, BufferError, ValueError):  # bfloat16, on a GPU
        return None
    memory: Any = (ctypes.c_char * seen.nbytes).from_address(seen.ctypes.data)
    memory.tensor = tensor  # is kept by what refers to its memory
    return tensor, np.frombuffer(memory, seen.dtype)
