"""Products of matrices and vectors, each computed by the thread that asks for it.

A BLAS shares larger products out to threads of its own. Several of ours at once, or ours beside
a training, then wait for each other: on a busy machine that takes ten times as long. So products
are cut into pieces that a BLAS computes at once.
"""

from __future__ import annotations

import numpy as np

_ALONE = 1 << 18  # multiplications; OpenBLAS shares out more
_PART = 1 << 13  # of vectors; OpenBLAS shares out more than 9,216
_DEEP, _WIDE = 256, 64
_SMALL = 32  # rows of a matrix that LAPACK inverts without a BLAS's threads


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two matrices."""
    out = np.empty((len(left), right.shape[1]), np.result_type(left, right))
    _multiply(left[:, :_DEEP], right[:_DEEP], out)
    for at in range(_DEEP, len(right), _DEEP):
        more = np.empty_like(out)
        _multiply(left[:, at : at + _DEEP], right[at : at + _DEEP], more)
        out += more
    return out


def _multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Many products of pieces by one call, which hands them to a BLAS one by one."""
    (rows, inner), columns = left.shape, right.shape[1]
    alone = _PART if 1 in (rows, columns) else _ALONE
    if rows * inner * columns <= alone:
        np.matmul(left, right, out=out)
        return
    wide = _even(columns, min(_WIDE, alone // inner))
    tall = _even(rows, alone // (inner * wide))
    down, across = rows // tall, columns // wide
    some, others = left[: down * tall], right[:, : across * wide]
    np.matmul(
        some.reshape(down, 1, tall, inner),
        others.reshape(inner, across, wide).swapaxes(0, 1),
        out=out[: down * tall, : across * wide].reshape(down, tall, across, wide).swapaxes(1, 2),
    )
    # what is left over, with some of what is not, so that no piece is a mere vector
    if down * tall < rows:
        _multiply(left[-tall:], right, out[-tall:])
    if across * wide < columns:
        _multiply(left, right[:, -wide:], out[:, -wide:])


def _even(length: int, most: int) -> int:
    """The length of parts that are at most so long, and about equal."""
    return -(-length // -(-length // most))


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
