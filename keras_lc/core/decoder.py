"""DeltaDecoder: blobs in, states out, one after another."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from keras_lc import workers as threads
from keras_lc.core import blob as blobs
from keras_lc.core.state import Chain, Part, builds_on, shared_parts, tile_part
from keras_lc.core.streams import SymbolReader, decompress, finish, large, split
from keras_lc.errors import DamagedError, MismatchError


class DeltaDecoder:
    """Decodes the deltas that a `DeltaEncoder` over the same base has made, in their order.

    Args:
        base: name to array; any shapes and fixed-size dtypes.
        copy: False to use these arrays themselves, which must not be changed any more.
        absent: names of those whose values are not those of the base, because the first delta
            does not need them (`needed`).

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import DeltaDecoder, DeltaEncoder
        >>> base = {"w": np.zeros(3, np.float32)}
        >>> blob = DeltaEncoder(base, "lossless").encode({"w": np.ones(3, np.float32)})
        >>> DeltaDecoder(base).decode(blob)["w"]
        array([1., 1., 1.], dtype=float32)
    """

    def __init__(
        self, base: Mapping[str, np.ndarray], copy: bool = True, absent: Container[str] = ()
    ):
        self.chain = Chain(base, copy, absent)
        self.broken = False  # a delta failed half-way

    @property
    def reconstruction(self) -> Mapping[str, np.ndarray]:
        """The state after the last delta, name to array."""
        return self.chain.reconstruction

    def decode(self, blob: bytes | memoryview, checked: bool = False) -> Mapping[str, np.ndarray]:
        """The state after one more delta.

        Args:
            blob: what `DeltaEncoder.encode` returned; the blobs of a chain in their order.
            checked: it is known to be unaltered, so that its checksum need not be compared.

        Returns:
            Name to array, bit for bit the encoder's `reconstruction`; each array is computed
            when asked for, and read-only.

        Raises:
            DamagedError: the blob is altered or truncated.
            MismatchError: the blob is of another base, or not the next one of its chain.
        """
        chain = self.chain
        if self.broken:
            raise MismatchError("an earlier delta failed; start again from the base.")
        if not checked:
            blobs.check(blob)
        table, pools = blobs.unpack(blob, len(chain.table.names))
        if table.fingerprint != chain.table.fingerprint:
            raise MismatchError("the delta was made over a base of other tensors.")
        if table.first != chain.sequence + 1 or table.sequence < table.first:
            raise MismatchError(
                f"delta {table.first} of a chain cannot follow delta {chain.sequence}; "
                "decode them in their order."
            )
        self.broken = True  # until all of it has gone well
        if table.references is not None:
            chain.refer(table.references)
        try:
            self._apply(table, pools)
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise DamagedError(f"a delta cannot be applied: {error!r}") from error
        chain.sequence = table.sequence
        self.broken = False
        return self.reconstruction

    def _apply(self, table: blobs.Table, pools: dict[str, memoryview]) -> None:
        chain = self.chain
        levels = chain.levels()
        order = [i for level in levels for i in level]
        kinds = dict(zip(order, table.entries, strict=True))
        plan = {i: self._parts(i, kinds[i]) for i in order if kinds[i].kind != "same"}
        totals: dict[str, int] = {}
        for shared, own in plan.values():
            for pool, _, count in [*shared, *own]:
                totals[pool] = totals.get(pool, 0) + count
        readers = {
            pool: SymbolReader(pools.pop(pool, memoryview(b"")), total)
            for pool, total in totals.items()
        }

        if set(pools) - {large(part[0]) for i in plan if (part := self._tile_part(i, kinds[i]))}:
            raise DamagedError("a delta holds symbols that belong to no tensor.")

        def jobs(level: list[int]) -> Iterator[Job]:
            for i in level:
                if i not in plan:
                    continue
                shared, own = (
                    [readers[pool].take(count, dtype) for pool, dtype, count in parts]
                    for parts in plan[i]
                )
                change = chain.change(i, kinds[i], shared, own=True)
                tiles = chain.table.tiles[i]
                part = self._tile_part(i, kinds[i])
                for j, tile in enumerate(tiles):
                    data: memoryview | np.ndarray | None = own[0] if own else None
                    if part and len(tiles) > 1:
                        pool = large(part[0])
                        data, pools[pool] = split(pools.get(pool, memoryview(b"")))
                    yield Job(change, j, tile.stop - tile.start, part, data)

        with threads.start() as workers:
            for level in levels:
                for _ in threads.ordered(workers, _advance, jobs(level)):
                    pass
        for reader in readers.values():
            reader.finish()
        for rest in pools.values():
            finish(rest)

    def needed(self, blob: bytes | memoryview) -> set[str]:
        """Names of the tensors whose values so far the next delta builds on.

        Raises:
            DamagedError: the blob is altered or truncated.
        """
        chain = self.chain
        table, _, _ = blobs.head(blob, len(chain.table.names))
        if table.references is not None:
            chain.refer(table.references)
        order = (i for level in chain.levels() for i in level)
        pairs = zip(order, table.entries, strict=True)
        return {chain.table.names[i] for i, entry in pairs if builds_on(entry)}

    def _tile_part(self, i: int, entry: blobs.Entry) -> Part | None:
        return tile_part(entry, self.chain.table.dtypes[i], self.chain.table.shapes[i])

    def _parts(self, i: int, entry: blobs.Entry) -> tuple[list[Part], list[Part]]:
        """The symbols of a tensor that are pooled with others': shared by its tiles, and those
        of its only tile."""
        table = self.chain.table
        shared = shared_parts(entry, table.dtypes[i], table.shapes[i])
        part = self._tile_part(i, entry)
        if part is None or len(table.tiles[i]) > 1:
            return shared, []
        pool, dtype, each = part
        return shared, [(pool, dtype, each * table.sizes[i])]


@dataclass(frozen=True)
class Job:
    """A tile of a tensor."""

    change: Callable[[int, np.ndarray | None], None]
    tile: int
    size: int
    part: Part | None
    data: memoryview | np.ndarray | None  # symbols, or the chunk that holds them


def _advance(job: Job) -> None:
    if job.part is None:
        job.change(job.tile, None)
        return
    _, dtype, each = job.part
    symbols = job.data
    if isinstance(symbols, memoryview):
        symbols = decompress(symbols, each * job.size)
    assert symbols is not None
    # narrower ones have the same values
    narrow = symbols.dtype.itemsize <= dtype.itemsize
    job.change(job.tile, symbols if narrow else symbols.astype(dtype))
