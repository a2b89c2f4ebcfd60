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
from keras_lc.core.codecs import buckets, exact, first, lattice, second
from keras_lc.core.floats import is_float, is_roomy
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

    def order(self) -> list[int]:
        """Tensors so that each comes after the one that it refers to."""
        depths = []
        for i in range(len(self.references)):
            depth, at = 0, i
            while self.references[at] >= 0:
                depth, at = depth + 1, self.references[at]
                if depth > 2:
                    raise DamagedError("the tensors of a delta refer to each other in a ring.")
            depths.append(depth)
        return sorted(range(len(depths)), key=lambda i: (depths[i], i))

    def reference(self, i: int) -> State | None:
        """State of the moment that tensor `i` is coded with: the second moment of a first
        moment, the first moment of a weight."""
        return self.states[self.references[i]] if self.references[i] >= 0 else None

    def direction(self, i: int) -> np.ndarray | None:
        """The integers of the first moment of weight `i`, where there are any."""
        moment = self.reference(i)
        return moment.k if isinstance(moment, first.Scaled) else None

    def as_lattice(self, i: int) -> lattice.Lattice:
        state = self.states[i]
        return state if isinstance(state, lattice.Lattice) else lattice.start(state.value())

    def as_levels(self, i: int) -> second.LogLevel | np.ndarray:
        """The levels of second moment `i`, or its exact values where it has none yet."""
        state = self.states[i]
        return state if isinstance(state, second.LogLevel) else state.value()

    def advance(self, i: int, entry: blobs.Entry, parts: Sequence[np.ndarray]) -> None:
        """Move tensor `i` on by one delta."""
        dtype = self.table.dtypes[i]
        if entry.kind in _POOLS and not is_roomy(dtype):
            raise DamagedError(f"{self.table.names[i]!r}, a tensor of {dtype}, cannot be lossy.")
        match entry.kind:
            case "difference" | "plain":
                reference = self.states[i].value()
                self.states[i] = exact.decode(parts[0], reference, entry.kind == "difference")
            case "lattice":
                step = lattice.Step(*entry.params)
                moment = self.direction(i)
                self.states[i] = lattice.advance(self.as_lattice(i), step, parts[0], moment)
            case "second":
                view = second.view(self.table.shapes[i])
                self.states[i] = second.advance(self.as_levels(i), view, entry.params[0], *parts)
            case "first":
                self.states[i] = first.advance(parts[0], entry.params[0], self.reference(i), dtype)
            case "buckets":
                self.states[i] = buckets.advance(self.states[i].value(), entry.params, parts[0])


# what a lossy kind is made of: its pools, and the integers that their symbols are read as
_POOLS: dict[str, list[tuple[str, np.dtype[Any]]]] = {
    "lattice": [("lattice", np.dtype(np.int32))],
    "second": [("axes", np.dtype(np.int16)), ("second", np.dtype(np.int16))],
    "first": [("first", np.dtype(np.int32))],
    "buckets": [("buckets", np.dtype(np.int16))],
}


def pools_of(
    kind: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> list[tuple[str, np.dtype[Any], int]]:
    """Pool, dtype and number of the symbols of a tensor coded as `kind`, part by part."""
    if kind not in _POOLS:
        symbols = exact.symbol_count(dtype, prod(shape))
        return [(f"{kind}{exact.width(dtype)}", exact.symbol_dtype(dtype), symbols)]
    counts = {"axes": second.view(shape).count if kind == "second" else 0}
    return [(pool, symbol, counts.get(pool, prod(shape))) for pool, symbol in _POOLS[kind]]
