"""LC-Checkpoint: deltas in buckets of equal sign and binary exponent.

The method of "On Efficient Constructions of Checkpoints" (Chen, Liu, Ren, Jin, ICML 2020,
https://arxiv.org/abs/2009.13003): every difference to the reconstructed previous state goes
into the bucket of its sign and exponent; a bucket is represented by the mean of its largest
and smallest member; the `2**bits - 1` buckets of largest exponent are kept, all other
differences become zero; the bucket numbers are entropy-coded. The table of buckets is that
of one tensor or of all.
"""

from __future__ import annotations

import math

import numpy as np

from keras_lc.core.codecs.exact import Exact
from keras_lc.core.floats import real_dtype
from keras_lc.errors import DamagedError

_NOTHING, _HIGHEST = -3000, 3000  # the key of a difference of zero; no key is larger


def difference(target: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How far each value of a tile has moved, in a real dtype."""
    real = real_dtype(target.dtype)
    moved: np.ndarray = target.astype(real) - reference.astype(real)
    return moved


def _keys(delta: np.ndarray) -> np.ndarray:
    """The key of the bucket of each difference, larger for larger exponents."""
    exponent = np.frexp(delta)[1].astype(np.int32)
    return np.where(delta == 0, _NOTHING, 2 * exponent + (delta < 0))


class Buckets:
    """The buckets that the differences of one or more tensors fall into."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[float, float]] = {}

    def add(self, delta: np.ndarray) -> None:
        """Take in the differences of a tile."""
        ordered = np.sort(delta)
        keys = _keys(ordered)
        first = np.flatnonzero(np.diff(keys, prepend=_HIGHEST + 1))
        last = np.append(first[1:], keys.size) - 1
        lows, highs = ordered[first].tolist(), ordered[last].tolist()
        for name, low, high in zip(keys[first].tolist(), lows, highs, strict=True):
            before = self._ends.get(name, (low, high))
            self._ends[name] = min(before[0], low), max(before[1], high)

    def kept(self, bits: int) -> dict[int, float]:
        """Key and representative of the buckets of largest exponent."""
        names = sorted(set(self._ends) - {_NOTHING}, reverse=True)[: 2**bits - 1]
        return {name: sum(self._ends[name]) / 2 for name in names}


def number(delta: np.ndarray, kept: dict[int, float]) -> np.ndarray:
    """The bucket of each difference, from 1 in the order of `kept`; 0 where it is not kept."""
    ranks = np.zeros(_HIGHEST - _NOTHING + 1, np.int16)
    for rank, name in enumerate(kept, start=1):
        ranks[name - _NOTHING] = rank
    return ranks[_keys(delta) - _NOTHING]


def advance(reference: np.ndarray, centres: list[float], number: np.ndarray) -> Exact:
    """The state of a tile after a delta: the reference, moved by what represents each bucket."""
    real = real_dtype(reference.dtype)
    if not all(isinstance(centre, float) and math.isfinite(centre) for centre in centres):
        raise DamagedError("a bucket is represented by something that is no number.")
    with np.errstate(over="ignore"):
        table = np.array([0.0, *centres], real)
    if number.size and (int(number.min()) < 0 or int(number.max()) >= table.size):
        raise DamagedError("a bucket number points past the table of buckets.")
    return Exact((reference.astype(real) + table[number]).astype(reference.dtype))
