"""The state that is being encoded, beside what a decoder has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from keras_lc.core.floats import largest, real_dtype
from keras_lc.core.products import dot
from keras_lc.core.state import Chain

_SAMPLE = 4096


class Live:
    """The tensors of a state, one after another.

    Attributes:
        chain: what a decoder has.
        state: the live tensors, flat.
        steps: of the optimizer since the state before, where they are known.
        seen: a sample of each tensor as it was live when it was last encoded.
        changed: the tensors that this delta has changed so far.
    """

    def __init__(self, chain: Chain):
        self.chain = chain
        self.state: Sequence[np.ndarray] = ()
        self.steps: int | None = None
        self.seen = [chain.sample(i, every_of(size)) for i, size in enumerate(chain.table.sizes)]
        self.changed: set[int] = set()

    def begin(self, state: Sequence[np.ndarray], steps: int | None) -> None:
        """Begin a delta."""
        self.state, self.steps = state, steps
        self.changed.clear()

    def tiles(self, i: int) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Number, place and live values of each tile of tensor `i`."""
        for j, tile in enumerate(self.chain.table.tiles[i]):
            yield j, tile, self.state[i][tile]

    def moved(self, i: int) -> float:
        """Root mean square of the movement of tensor `i` since the last delta."""
        array = self.state[i]
        real = real_dtype(array.dtype)
        return rms(sample(array).astype(real) - self.seen[i].astype(real))

    def missed(self, i: int) -> float:
        """How far a decoder is from tensor `i` as it was last seen: root mean square, as a share
        of its values; 0 of one with values that are not finite, which goes bit for bit."""
        seen = self.seen[i].astype(real_dtype(self.seen[i].dtype))
        top = largest(seen)
        if not 0 < top < np.inf:
            return 0.0
        seen /= top  # so that no square leaves the range
        there = self.chain.sample(i, every_of(self.chain.table.sizes[i])) / top
        return rms(there.astype(seen.dtype, copy=False) - seen) / rms(seen)

    def look(self, i: int) -> None:
        """Keep a sample of tensor `i` for the next delta."""
        self.seen[i] = sample(self.state[i]).copy()


def every_of(size: int) -> int:
    """Of so many values, one in how many is in a sample."""
    # an odd stride does not fall on the same columns of a matrix again and again
    return size // _SAMPLE | 1


def sample(array: np.ndarray) -> np.ndarray:
    """Some values of a flat array."""
    return array[:: every_of(array.size)]


def rms(array: np.ndarray) -> float:
    """Root mean square, 0 of nothing."""
    return float(np.sqrt(dot(array, array) / max(1, array.size)))
