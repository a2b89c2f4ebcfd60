"""JSON as an array of bytes. Spaces fill it up, for a delta cannot change a shape."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from keras_lc.errors import DamagedError


def packed(value: Any, least: int) -> np.ndarray:
    """Strict JSON as bytes.

    Args:
        value: of what JSON knows, no NaN.
        least: bytes that it takes at least, so that it may grow.
    """
    text = json.dumps(value, allow_nan=False).encode()
    size = max(least, 1 << (len(text) + len(text) // 4).bit_length())
    return np.frombuffer(text.ljust(size), np.uint8)


def unpacked(array: np.ndarray) -> Any:
    """What was packed.

    Raises:
        DamagedError: it is no JSON.
    """
    try:
        return json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the notes on the run cannot be read: {error!r}") from error
