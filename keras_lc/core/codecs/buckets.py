"""LC-Checkpoint: deltas in buckets of equal sign and binary exponent.

The method of "On Efficient Constructions of Checkpoints" (Chen, Liu, Ren, Jin, ICML 2020,
https://arxiv.org/abs/2009.13003): every difference to the reconstructed previous state goes
into the bucket of its sign and exponent; a bucket is represented by the mean of its largest
and smallest member; the `2**bits - 1` buckets of largest exponent are kept, all other
differences become zero; the bucket numbers are entropy-coded.
"""

from __future__ import annotations

import math

import numpy as np

from keras_lc.core.codecs.exact import Exact
from keras_lc.core.floats import real_dtype
from keras_lc.errors import DamagedError


def encode(target: np.ndarray, reference: np.ndarray, bits: int) -> tuple[list[float], np.ndarray]:
    """Representatives of the kept buckets, and a bucket number a value (0: no change)."""
    real = real_dtype(target.dtype)
    delta = target.astype(real) - reference.astype(real)
    exponent = np.frexp(delta)[1].astype(np.int32)
    key = np.where(delta == 0, -(1 << 20), 2 * exponent + (delta < 0))
    keys, inverse = np.unique(key, return_inverse=True)
    kept = [i for i in range(len(keys) - 1, -1, -1) if keys[i] > -(1 << 20)][: 2**bits - 1]
    number = np.zeros(len(keys), np.int16)
    centres = []
    for rank, i in enumerate(kept, start=1):
        members = delta[inverse == i]
        centres.append(float((members.max() + members.min()) / 2))
        number[i] = rank
    return centres, number[inverse]


def advance(reference: np.ndarray, centres: list[float], number: np.ndarray) -> Exact:
    """The state after a delta: the reference moved by the representative of each bucket."""
    real = real_dtype(reference.dtype)
    if not all(isinstance(centre, float) and math.isfinite(centre) for centre in centres):
        raise DamagedError("a bucket is represented by something that is no number.")
    table = np.array([0.0, *centres], real)
    if number.size and (int(number.min()) < 0 or int(number.max()) >= table.size):
        raise DamagedError("a bucket number points past the table of buckets.")
    return Exact((reference.astype(real) + table[number]).astype(reference.dtype))
