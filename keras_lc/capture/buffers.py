"""What a snapshot is copied into."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from keras_lc import workers
from keras_lc.core import pages

_SMALL = 1 << 16  # bytes that are copied sooner than they are handed to another thread


class Buffers:
    """Memory for copies of named arrays, kept from one time to the next."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._untouched: list[np.ndarray] = []

    @property
    def names(self) -> Collection[str]:
        """Of the arrays that were copied last."""
        return self._arrays.keys()

    def fill(self, views: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Copies of named arrays, which the next call overwrites, made by several threads: one
        alone does not use all that the memory can do.

        Args:
            views: what to copy; asked for in this thread, as there is room.
        """
        kept, self._arrays = self._arrays, {}
        self._untouched.clear()

        def large() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for name, view in views:
                buffer = self._arrays[name] = _fitting(kept.get(name), view)
                if view.nbytes < _SMALL:
                    np.copyto(buffer, view)
                else:
                    yield buffer, view

        with workers.start() as threads:
            for _ in workers.ordered(threads, lambda pair: np.copyto(*pair), large()):
                pass
        return dict(self._arrays)

    def give(self, names: Iterable[str]) -> None:
        """Leave these arrays to somebody else: the next copies of them are made elsewhere."""
        for name in names:
            array = self._arrays[name]
            self._arrays[name] = pages.empty(array.shape, array.dtype)
            self._untouched.append(self._arrays[name])

    def touch(self) -> None:
        """Have the system make the pages of what has been replaced, which takes longer than to
        copy into them: where nobody waits for it."""
        for array in self._untouched:
            pages.touch(array)
        self._untouched.clear()


def _fitting(buffer: np.ndarray | None, view: np.ndarray) -> np.ndarray:
    if buffer is None or buffer.shape != view.shape or buffer.dtype != view.dtype:
        return pages.empty(view.shape, view.dtype)
    return buffer
