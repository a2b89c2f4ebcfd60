"""Products of matrices and vectors, each computed by the thread that asks for it.

A BLAS shares larger products out to threads of its own. Several of ours at once, or ours beside
a training, then wait for each other: on a busy machine that takes ten times as long. So products
are cut into pieces that a BLAS computes at once.
"""

from __future__ import annotations

import numpy as np

_ALONE = 1 << 18  # multiplications; OpenBLAS shares out more
_WIDE, _DEEP = 256, 64
_SMALL = 32  # rows of a matrix that LAPACK inverts without a BLAS's threads
_PART = 1 << 13  # of vectors; OpenBLAS shares out more than 10,000


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two matrices."""
    (rows, inner), columns = left.shape, right.shape[1]
    if rows * inner * columns <= _ALONE:
        return np.asarray(left @ right)
    wide, deep = min(columns, _WIDE), min(inner, _DEEP)
    tall = _ALONE // (wide * deep)
    out = np.empty((rows, columns), np.result_type(left, right))
    for row in range(0, rows, tall):
        some = left[row : row + tall]
        for column in range(0, columns, wide):
            others = right[:, column : column + wide]
            piece = out[row : row + tall, column : column + wide]
            np.matmul(some[:, :deep], others[:deep], out=piece)
            for at in range(deep, inner, deep):
                piece += some[:, at : at + deep] @ others[at : at + deep]
    return out


def dot(one: np.ndarray, other: np.ndarray) -> float:
    """The sum of the products of two vectors' values."""
    count = one.size // _PART
    whole = count * _PART
    parts = one[:whole].reshape(count, 1, _PART) @ other[:whole].reshape(count, _PART, 1)
    return float(parts.sum(dtype=np.float64)) + float(one[whole:] @ other[whole:])


def root_inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of the lower triangular Cholesky factor of a positive definite matrix."""
    size = len(matrix)
    if size <= _SMALL:
        # where rows were exchanged, rounding leaves something above the diagonal
        return np.tril(np.linalg.inv(np.linalg.cholesky(matrix)))
    half = size // 2
    out = np.zeros_like(matrix)
    first = out[:half, :half] = root_inverse(matrix[:half, :half])
    below = product(matrix[half:, :half], first.T)
    second = out[half:, half:] = root_inverse(matrix[half:, half:] - product(below, below.T))
    out[half:, :half] = -product(second, product(below, first))
    return out
