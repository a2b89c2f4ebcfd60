"""Tensors seen as matrices, without moving their values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

_WORTH = 8  # a matrix has this many times more values than rows and columns


@dataclass(frozen=True)
class Matrix:
    """The shape of a tensor as a matrix; `columns` is 0 where it is rather a vector."""

    rows: int
    columns: int

    @property
    def sides(self) -> int:
        return self.rows + self.columns

    def __bool__(self) -> bool:
        return self.columns > 0


def view(shape: tuple[int, ...]) -> Matrix:
    """The most nearly square matrix that a tensor of this shape can be seen as."""
    splits = [Matrix(prod(shape[:i]), prod(shape[i:])) for i in range(1, len(shape))]
    best = min(splits, key=lambda matrix: matrix.sides, default=Matrix(1, 0))
    return best if best.sides * _WORTH <= prod(shape) else Matrix(1, 0)
