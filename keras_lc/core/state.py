"""The state of a chain of deltas, the same on the writing and on the reading side.

Each tensor is held as its last codec left it (`Exact`, `Lattice`, `LogLevel`, `Scaled`), and
`Chain.advance` moves it on by one delta. Encoder and decoder both go through here, so that
they cannot disagree. States are never changed, only replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.codecs import blocks, buckets, exact, first, lattice, outer, second, update
from keras_lc.core.codecs.outer import Scale
from keras_lc.core.floats import is_float, is_roomy, real_dtype
from keras_lc.core.matrix import Matrix, view
from keras_lc.core.spec import TensorTable
from keras_lc.errors import DamagedError

State = Any  # Exact, Lattice, LogLevel or Scaled: anything with .value()


class Reconstruction(Mapping[str, np.ndarray]):
    """A state as a decoder sees it; each array is made when asked for, and read-only."""

    def __init__(self, table: TensorTable, states: Sequence[State]):
        self._table = table
        self._states = states

    def __getitem__(self, name: str) -> np.ndarray:
        i = self._table.index[name]
        view: np.ndarray = self._states[i].value().reshape(self._table.shapes[i]).view()
        view.flags.writeable = False
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


class Chain:
    """The state of a chain of deltas, the same on the writing and on the reading side."""

    def __init__(self, base: Mapping[str, np.ndarray]):
        self.table = TensorTable(base)
        self.states: list[State] = [
            exact.Exact(np.array(base[name], order="C").reshape(-1)) for name in self.table.names
        ]
        self.references = [-1] * len(self.table.names)
        self.sequence = 0

    @property
    def reconstruction(self) -> Reconstruction:
        """The state now; later deltas do not change it."""
        return Reconstruction(self.table, tuple(self.states))

    def refer(self, references: list[int]) -> None:
        """Say which tensors are coded with the help of which others (-1: none)."""
        for i, of in enumerate(references):
            if of >= 0 and not (
                self.table.sizes[of] == self.table.sizes[i] and is_float(self.table.dtypes[of])
            ):
                raise DamagedError(
                    f"{self.table.names[i]!r} refers to {self.table.names[of]!r}, which is no "
                    "float tensor of its size."
                )
        self.references = references

    def levels(self) -> list[list[int]]:
        """Tensors by level, so that each comes on a later one than that which it refers to."""
        levels: list[list[int]] = [[], [], []]
        for i in range(len(self.references)):
            depth, at = 0, i
            while self.references[at] >= 0:
                depth, at = depth + 1, self.references[at]
                if depth > 2:
                    raise DamagedError("the tensors of a delta refer to each other in a ring.")
            levels[depth].append(i)
        return levels

    def reference(self, i: int) -> State | None:
        """State of the moment that tensor `i` is coded with: the second moment of a first
        moment, the first moment of a weight."""
        return self.states[self.references[i]] if self.references[i] >= 0 else None

    def direction(self, i: int) -> np.ndarray | None:
        """The integers of the first moment of weight `i`, where there are any."""
        moment = self.reference(i)
        return moment.integers() if isinstance(moment, first.Scaled) else None

    def foreseen(self, i: int, params: list[Any]) -> np.ndarray:
        """Weight `i` after a step of the optimizer, by its moments as they are now."""
        moment = self.references[i]
        if moment < 0:
            raise DamagedError("an update is foreseen from a moment that is not there.")
        m, v = self.states[moment].value(), self.reference(moment)
        return update.predict(self.states[i].value(), m, v and v.value(), params)

    def as_lattice(self, i: int) -> lattice.Lattice:
        state = self.states[i]
        return state if isinstance(state, lattice.Lattice) else lattice.start(state.value())

    def as_levels(self, i: int) -> second.LogLevel | np.ndarray:
        """The levels of second moment `i`, or its exact values where it has none yet."""
        state = self.states[i]
        return state if isinstance(state, second.LogLevel) else state.value()

    def advance(self, i: int, entry: blobs.Entry, parts: Sequence[np.ndarray]) -> None:
        """Move tensor `i` on by one delta."""
        dtype, matrix = self.table.dtypes[i], view(self.table.shapes[i])
        if entry.kind in LOSSY and not is_roomy(dtype):
            raise DamagedError(f"{self.table.names[i]!r}, a tensor of {dtype}, cannot be lossy.")
        match entry.kind:
            case "difference" | "plain":
                reference = self.states[i].value()
                self.states[i] = exact.decode(parts[0], reference, entry.kind == "difference")
            case "update":
                self.states[i] = exact.decode(parts[0], self.foreseen(i, entry.params), True)
            case "lattice":
                step = lattice.Step.read(entry.params, matrix)
                k = parts[0] if step.corrected else None
                sides = list(parts[step.corrected :])
                factors = outer.read(step.scale, sides, matrix) if step.scale else None
                direction = self.direction(i) if step.beta else None
                self.states[i] = lattice.advance(self.as_lattice(i), step, k, direction, factors)
            case "second":
                self.states[i] = second.advance(self.as_levels(i), matrix, entry.params[0], *parts)
            case "first":
                self.states[i] = first.advance(parts[0], entry.params[0], self.reference(i), dtype)
            case "outer":
                scale = Scale.read(entry.params, matrix)
                moment = outer.read(scale, list(parts), matrix)
                self.states[i] = first.advance(moment, scale.unit, self.reference(i), dtype)
            case "buckets":
                self.states[i] = buckets.advance(self.states[i].value(), entry.params, parts[0])
            case "blocks":
                self.states[i] = blocks.advance(parts[0], parts[1], dtype)


LOSSY = ("lattice", "second", "first", "outer", "buckets", "blocks")
_INT16, _INT32 = np.dtype(np.int16), np.dtype(np.int32)
Part = tuple[str, np.dtype[Any], int]  # pool, dtype and number of symbols


def parts_of(entry: blobs.Entry, dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[Part]:
    """The symbols of a tensor coded as `entry` says, part by part."""
    size, matrix = prod(shape), view(shape)
    match entry.kind:
        case "same":
            return []
        case "lattice":
            step = lattice.Step.read(entry.params, matrix)
            single: list[Part] = [("weight", _INT32, size)] if step.corrected else []
            return single + (_sides("weight", step.scale, matrix) if step.scale else [])
        case "second":
            return [("axes", _INT16, matrix.sides), ("second", _INT16, size)]
        case "first":
            return [("first", _INT32, size)]
        case "outer":
            return _sides("first", Scale.read(entry.params, matrix), matrix)
        case "buckets":
            return [("buckets", _INT16, size)]
        case "blocks":
            bits = np.dtype(f"i{real_dtype(dtype).itemsize}")
            scales = f"scale{8 * bits.itemsize}"
            return [(scales, bits, blocks.blocks(size)), ("blocks", _INT16, size)]
    symbols = exact.symbol_count(dtype, size)
    return [(f"{entry.kind}{exact.width(dtype)}", exact.symbol_dtype(dtype), symbols)]


def _sides(pool: str, scale: Scale, matrix: Matrix) -> list[Part]:
    return [
        (f"{pool}{octave}", _INT32, count * length)
        for length in (matrix.rows, matrix.columns)
        for octave, count in scale.classes(length)
    ]
