"""Matrices as sums of a few outer products of integer vectors.

The movement of a matrix between two checkpoints and the momentum behind it have few large
singular values: a sixteenth of the rank carries nine tenths of the energy. So

    matrix = unit * sum_i 2**shift_i * a_i b_i^T

with the leading singular vectors, found by subspace iteration (Halko, Martinsson and Tropp,
https://arxiv.org/abs/0909.4061) and rounded so that every number that makes up a component,
one for each row and each column, carries the same error. What is not worth its numbers is
left out: the reverse water-filling of rate-distortion theory (Cover and Thomas, chapter 10).

The sum is one of integers below 2**53, exact in whatever order a processor adds it up, so
that all machines decode the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from keras_lc.core.integers import Integers
from keras_lc.core.matrix import Matrix
from keras_lc.core.products import product, root_inverse
from keras_lc.errors import DamagedError

WORTH = 2.0  # energy of a component for each of its numbers, in units of the error of one
CLASSES = 8  # vectors of similar size share a pool of symbols
_ITERATIONS = 2
_TURNS, _STILL = 20, 0.05  # of a gram matrix: at most, and the change that ends them
_BLOCK = 24  # up to 25 rows LAPACK does without a BLAS's threads
_FIRST_RANK = 24
_ALWAYS = 256  # this many components are looked for if they are there
_SHIFTS = 40  # components smaller by more than 2**_SHIFTS are never worth it
_EXPONENTS = range(-1000, 1000)


@dataclass(frozen=True)
class Scale:
    """What is said of the vectors besides their integers.

    `area` is the square of the step to which all numbers are rounded, `top` the binary
    exponent of the largest component, `counts[j]` how many components are `2**j` smaller.
    """

    area: float
    top: int
    counts: tuple[int, ...]

    @property
    def rank(self) -> int:
        return sum(self.counts)

    @property
    def unit(self) -> float:
        return float(np.ldexp(self.area, -self.top))

    @property
    def shifts(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def classes(self, length: int) -> list[tuple[int, int]]:
        """Pool and number of the vectors of this length, in runs, from their expected size."""
        spread = int(np.frexp(self.area * length)[1])
        runs: list[tuple[int, int]] = []
        for shift, count in enumerate(self.counts):
            octave = min(max((2 * (self.top - shift) - spread) // 2, 0), CLASSES - 1)
            if runs and runs[-1][0] == octave:
                runs[-1] = octave, runs[-1][1] + count
            elif count:
                runs.append((octave, count))
        return runs

    def write(self) -> list[Any]:
        """As a list for JSON."""
        return [self.area, self.top, list(self.counts)]

    @classmethod
    def read(cls, params: list[Any], matrix: Matrix) -> Scale:
        """The scale that a delta claims for a matrix, checked."""
        area, top, counts = params
        if not matrix:
            raise DamagedError("a tensor that is no matrix has factors.")
        known = isinstance(area, (int, float)) and isinstance(top, int)
        counted = isinstance(counts, list) and all(isinstance(c, int) and c >= 0 for c in counts)
        if not (known and counted and 1e-300 < area < 1e300 and top in _EXPONENTS):
            raise DamagedError("the factors of a matrix have an impossible scale.")
        if abs(float(np.log2(float(area))) - top) > 1000:
            raise DamagedError("the factors of a matrix have an impossible unit.")
        if len(counts) > _SHIFTS or sum(counts) > min(matrix.rows, matrix.columns):
            raise DamagedError("a matrix has more factors than its rank allows.")
        return cls(float(area), top, tuple(counts))


@dataclass(frozen=True)
class Outer:
    """A matrix as factors: `a` is rank x rows, `b` rank x columns, integers."""

    scale: Scale
    a: np.ndarray
    b: np.ndarray

    @cached_property
    def bound(self) -> float:
        """No sum of integers in the matrix is larger."""
        left, right = (
            np.maximum(side.max(axis=1, initial=0), -side.min(axis=1, initial=0).astype(float))
            for side in (self.a, self.b)
        )
        return float((np.ldexp(left, self.scale.shifts) * right).sum())

    def integers(self, tile: slice | None = None) -> np.ndarray:
        """`sum_i 2**shift_i * a_i b_i^T`, flat, or a piece of it; a float dtype that holds it
        exactly."""
        if not self.bound < 2.0**52:
            raise DamagedError("the factors of a matrix are too large.")
        rows, columns = self.a.shape[1], self.b.shape[1]
        start, stop = (0, rows * columns) if tile is None else (tile.start, tile.stop)
        first = start // columns  # row
        # made anew each time: they take more memory than the integers, which a state keeps
        real = np.float32 if self.bound < 2.0**24 else np.float64
        left: np.ndarray = self.a[:, first : -(-stop // columns)].astype(real)
        left *= np.ldexp(real(1), self.scale.shifts[:, None])
        values = product(left.T, self.b.astype(real)).reshape(-1)
        return values[start - first * columns : stop - first * columns]

    def symbols(self) -> list[np.ndarray]:
        """The integers, one array for each run of `Scale.classes`, rows first."""
        parts = []
        for side in (self.a, self.b):
            done = 0
            for _, count in self.scale.classes(side.shape[1]):
                parts.append(side[done : done + count].reshape(-1))
                done += count
        return parts


def read(scale: Scale, parts: list[np.ndarray], matrix: Matrix) -> Outer:
    """The factors from their symbols, the reverse of `Outer.symbols`."""
    rows = len(scale.classes(matrix.rows))
    empty = np.empty(0, np.int32)
    a, b = (
        Integers.of(np.concatenate([empty, *side])).array for side in (parts[:rows], parts[rows:])
    )
    outer = Outer(scale, a.reshape(scale.rank, matrix.rows), b.reshape(scale.rank, matrix.columns))
    if not outer.bound < 2.0**52:
        raise DamagedError("the factors of a matrix are too large.")
    return outer


def encode(values: np.ndarray, matrix: Matrix, noise: float, rank: int = 0) -> Outer | None:
    """The components of a flat array of floats that are worth their numbers, each number
    with an error of variance `noise`; None where there are none. `rank` is how many to
    expect."""
    lift = int(np.frexp(np.abs(values).max())[1])  # so that no square leaves the range
    target = np.ldexp(values, -lift).reshape(matrix.rows, matrix.columns)
    noise = float(np.ldexp(noise, -2 * lift))
    # at twice this share the vectors hold as many numbers as the matrix
    share = matrix.rows * matrix.columns // (2 * matrix.sides)
    most = min(matrix.rows, matrix.columns, max(_ALWAYS, share))
    rank = min(max(rank, _FIRST_RANK), most)
    threshold = WORTH * noise * matrix.sides
    while True:
        left, sizes = _leading(target, rank)
        kept = int(np.count_nonzero(sizes * sizes > threshold))
        if kept < rank or rank == most:
            break
        rank = min(2 * rank, most)
    if not kept:
        return None
    # no finer than integers whose sums are exact
    area = float(f"{max(12 * noise, kept * float(sizes[0]) ** 2 * 2.0**-50):.3g}")
    exponents = np.rint(np.log2(sizes[:kept])).astype(int)
    top = int(exponents[0])
    shifts = np.minimum(np.maximum.accumulate(top - exponents), _SHIFTS - 1)
    step = area**0.5
    a = np.rint(left[:, :kept].astype(np.float64) * (np.ldexp(1.0, top - shifts) / step))
    # the columns make up for the rounding of the rows
    basis = a * np.ldexp(step, shifts - top)
    projected = product(basis.T.astype(target.dtype), target).astype(np.float64)
    gram = product(basis.T, basis) + 1e-9 * np.eye(kept)  # a vector may have been rounded to zero
    root = root_inverse(gram)
    b = np.rint(product(root.T, product(root, projected)) / step)
    area, top = float(np.ldexp(area, 2 * lift)), top + lift
    if not 1e-300 < area < 1e300 or top not in _EXPONENTS:
        return None
    scale = Scale(area, top, tuple(int(n) for n in np.bincount(shifts)))
    outer = Outer(scale, *(Integers.of(np.ascontiguousarray(side)).array for side in (a.T, b)))
    return outer if outer.bound < 2.0**52 else None


def _leading(target: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading left singular vectors (rows x rank) and singular values, largest first."""
    start = np.random.default_rng(0).standard_normal((target.shape[1], rank))
    basis = _orthonormal(product(target, start.astype(target.dtype)))
    for _ in range(_ITERATIONS):
        basis = _orthonormal(product(target, product(target.T, basis)))
    inner = product(basis.T, target)
    squares, turn = _turned(product(inner, inner.T).astype(np.float64))
    return product(basis, turn.astype(target.dtype)), np.sqrt(np.maximum(squares, 0))


def _turned(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a positive matrix, largest first, and eigenvectors, by simultaneous
    iteration; then neighbours are told from each other in blocks.

    For a whole matrix LAPACK has a BLAS's threads run, each of which then waits busily for .1 s,
    on a processor that others have use for.
    """
    pushed, squares = gram, np.diag(gram)
    for _ in range(_TURNS):
        turn, before = _orthonormal(pushed[:, np.argsort(-squares)]), np.sort(squares)[::-1]
        pushed = product(gram, turn)
        squares = np.einsum("ij,ij->j", turn, pushed)
        if np.all(np.abs(squares - before) <= _STILL * (squares + squares[0] * _STILL)):
            break
    for start in (0, _BLOCK // 2):
        for block in (slice(i, i + _BLOCK) for i in range(start, len(gram), _BLOCK)):
            _, inner = np.linalg.eigh(turn[:, block].T @ pushed[:, block])
            turn[:, block], pushed[:, block] = (
                side[:, block] @ inner[:, ::-1] for side in (turn, pushed)
            )
    squares = np.einsum("ij,ij->j", turn, pushed)
    order = np.argsort(-squares)
    return squares[order], turn[:, order]


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """A basis of what the columns span, orthonormal but for directions that are hardly there:
    shifted Cholesky QR (Fukaya et al., https://arxiv.org/abs/1809.11085)."""
    largest = np.abs(columns).max()
    columns = columns / (largest or 1)
    gram = product(columns.T, columns).astype(np.float64)
    shift = float(np.finfo(columns.dtype).eps * np.trace(gram)) or 1.0
    while True:
        gram[np.diag_indices_from(gram)] += shift
        try:
            root = root_inverse(gram)
        except np.linalg.LinAlgError:  # by rounding, some direction has an energy below zero
            shift *= 8
        else:
            return product(columns, root.T.astype(columns.dtype))
