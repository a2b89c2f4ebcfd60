"""DeltaDecoder: blobs in, states out, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.codecs import buckets, exact, lattice, moments
from keras_lc.core.floats import is_float, is_roomy
from keras_lc.core.spec import TensorTable
from keras_lc.core.streams import SymbolReader
from keras_lc.errors import DamagedError, MismatchError

State = Any  # Exact, Lattice, LogIndex or Scaled: anything with .value()


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
        return moment.k if isinstance(moment, moments.Scaled) else None

    def as_lattice(self, i: int) -> lattice.Lattice:
        state = self.states[i]
        return state if isinstance(state, lattice.Lattice) else lattice.start(state.value())

    def as_index(self, i: int) -> moments.LogIndex:
        state = self.states[i]
        return state if isinstance(state, moments.LogIndex) else moments.start_second(state.value())

    def advance(self, i: int, entry: blobs.Entry, symbols: np.ndarray) -> None:
        """Move tensor `i` on by one delta."""
        dtype = self.table.dtypes[i]
        if entry.kind in _POOLS and not is_roomy(dtype):
            raise DamagedError(f"{self.table.names[i]!r}, a tensor of {dtype}, cannot be lossy.")
        match entry.kind:
            case "difference" | "plain":
                reference = self.states[i].value()
                self.states[i] = exact.decode(symbols, reference, entry.kind == "difference")
            case "lattice":
                step = lattice.Step(*entry.params)
                self.states[i] = lattice.advance(
                    self.as_lattice(i), step, symbols, self.direction(i)
                )
            case "second":
                index = self.as_index(i)
                self.states[i] = moments.advance_second(index, entry.params[0], symbols)
            case "first":
                scale = self.reference(i)
                self.states[i] = moments.first(symbols, entry.params[0], scale, dtype)
            case "buckets":
                self.states[i] = buckets.advance(self.states[i].value(), entry.params, symbols)


# what a kind is made of: its pool, and the integers that its symbols are read as
_POOLS: dict[str, tuple[str, np.dtype[Any]]] = {
    "lattice": ("lattice", np.dtype(np.int32)),
    "second": ("second", np.dtype(np.int16)),
    "first": ("first", np.dtype(np.int32)),
    "buckets": ("buckets", np.dtype(np.int16)),
}


def pool_of(kind: str, dtype: np.dtype[Any], size: int) -> tuple[str, np.dtype[Any], int]:
    """Pool, symbol dtype and number of symbols of a tensor coded as `kind`."""
    if kind in _POOLS:
        return *_POOLS[kind], size
    symbol = exact.symbol_dtype(dtype)
    return f"{kind}{exact.width(dtype)}", symbol, exact.symbol_count(dtype, size)


class DeltaDecoder:
    """Decodes the deltas that a `DeltaEncoder` over the same base has made, in their order.

    Args:
        base: name to array; any shapes and fixed-size dtypes. It is copied.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import DeltaDecoder, DeltaEncoder
        >>> base = {"w": np.zeros(3, np.float32)}
        >>> blob = DeltaEncoder(base, "lossless").encode({"w": np.ones(3, np.float32)})
        >>> DeltaDecoder(base).decode(blob)["w"]
        array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, base: Mapping[str, np.ndarray]):
        self.chain = Chain(base)
        self.broken = False  # a delta failed half-way

    @property
    def reconstruction(self) -> Mapping[str, np.ndarray]:
        """The state after the last delta, name to array."""
        return Reconstruction(self.chain.table, self.chain.states)

    def decode(self, blob: bytes) -> Mapping[str, np.ndarray]:
        """The state after one more delta.

        Args:
            blob: what `DeltaEncoder.encode` returned; the blobs of a chain in their order.

        Returns:
            Name to array, bit for bit the encoder's `reconstruction`; it stands until the
            next call.

        Raises:
            DamagedError: the blob is altered or truncated.
            MismatchError: the blob is of another base, or not the next one of its chain.
        """
        chain = self.chain
        if self.broken:
            raise MismatchError("an earlier delta failed; start again from the base.")
        table, pools = blobs.unpack(blob, len(chain.table.names))
        if table.fingerprint != chain.table.fingerprint:
            raise MismatchError("the delta was made over a base of other tensors.")
        if table.sequence != chain.sequence + 1:
            raise MismatchError(
                f"delta {table.sequence} of a chain cannot follow delta {chain.sequence}; "
                "decode them in their order."
            )
        self.broken = True  # until all of it has gone well
        if table.references is not None:
            chain.refer(table.references)
        try:
            self._apply(table, pools)
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise DamagedError(f"a delta cannot be applied: {error!r}") from error
        chain.sequence += 1
        self.broken = False
        return self.reconstruction

    def _apply(self, table: blobs.Table, pools: dict[str, memoryview]) -> None:
        chain = self.chain
        order = chain.order()
        plan = [
            (i, entry, *pool_of(entry.kind, chain.table.dtypes[i], chain.table.sizes[i]))
            for i, entry in zip(order, table.entries, strict=True)
            if entry.kind != "same"
        ]
        totals: dict[str, int] = {}
        for _, _, pool, _, count in plan:
            totals[pool] = totals.get(pool, 0) + count
        readers = {
            pool: SymbolReader(pools.get(pool, memoryview(b"")), total)
            for pool, total in totals.items()
        }
        if set(pools) - set(readers):
            raise DamagedError("a delta holds symbols that belong to no tensor.")
        for i, entry, pool, dtype, count in plan:
            chain.advance(i, entry, readers[pool].take(count, dtype))
        for reader in readers.values():
            reader.finish()
