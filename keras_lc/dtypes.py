"""Dtypes as text, and back from text that is not trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lc.errors import DamagedError


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Text for a dtype: numpy's own code, or the name of an `ml_dtypes` type."""
    own = dtype.kind in "biufcSU" and dtype.isbuiltin != 2  # 2: a type of another package
    return dtype.str if own else dtype.name


def parse_dtype(text: str) -> np.dtype[Any]:
    """The dtype of a text from a file; only fixed-size ones are accepted."""
    if not isinstance(text, str):
        raise DamagedError(f"dtype {text!r} is not one that a checkpoint holds.")
    if text.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, text))
    dtype = np.dtype(text)
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise DamagedError(f"dtype {text!r} is not one that a checkpoint holds.")
    return dtype
