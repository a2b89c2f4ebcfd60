"""DeltaDecoder: blobs in, states out, one after another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core import workers as threads
from keras_lc.core.state import Chain, parts_of
from keras_lc.core.streams import SymbolReader
from keras_lc.errors import DamagedError, MismatchError

Work = tuple[int, list[np.ndarray]]  # a tensor and its symbols


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
        return self.chain.reconstruction

    def decode(self, blob: bytes) -> Mapping[str, np.ndarray]:
        """The state after one more delta.

        Args:
            blob: what `DeltaEncoder.encode` returned; the blobs of a chain in their order.

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
        levels = chain.levels()
        order = [i for level in levels for i in level]
        kinds = dict(zip(order, table.entries, strict=True))
        plan = {
            i: parts_of(entry, chain.table.dtypes[i], chain.table.shapes[i])
            for i, entry in kinds.items()
        }
        totals: dict[str, int] = {}
        for parts in plan.values():
            for pool, _, count in parts:
                totals[pool] = totals.get(pool, 0) + count
        readers = {
            pool: SymbolReader(pools.get(pool, memoryview(b"")), total)
            for pool, total in totals.items()
        }
        if set(pools) - set(readers):
            raise DamagedError("a delta holds symbols that belong to no tensor.")

        def read(i: int) -> Work:
            return i, [readers[pool].take(count, dtype) for pool, dtype, count in plan[i]]

        def advance(work: Work) -> None:
            i, symbols = work
            chain.advance(i, kinds[i], symbols)

        with threads.start() as workers:
            for level in levels:
                work = (read(i) for i in level if kinds[i].kind != "same")
                threads.run(workers, advance, work)
        for reader in readers.values():
            reader.finish()
