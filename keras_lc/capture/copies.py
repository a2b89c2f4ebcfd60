"""Arrays copied into buffers that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from keras_lc import workers
from keras_lc.core import pages


def filled(
    views: Iterable[np.ndarray], buffers: Iterable[np.ndarray | None]
) -> Iterator[np.ndarray]:
    """Copies, in the buffers where they fit, made by several threads: one alone does not use all
    that the memory can do.

    Args:
        views: what to copy; asked for in this thread, as there is room.
        buffers: one for each, or None.
    """
    with workers.start() as threads:
        yield from workers.ordered(
            threads, lambda pair: fill(*pair), zip(views, buffers, strict=True)
        )


def fill(view: np.ndarray, buffer: np.ndarray | None) -> np.ndarray:
    """One copy, in the buffer if it fits."""
    if buffer is None or buffer.shape != view.shape or buffer.dtype != view.dtype:
        buffer = pages.empty(view.shape, view.dtype)
    np.copyto(buffer, view)
    return buffer
