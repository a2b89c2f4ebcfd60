"""From how tensors are coded to the bytes of a delta: tiles to symbols, symbols to pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from keras_lc import workers as threads
from keras_lc.core import blob as blobs
from keras_lc.core.spec import TensorTable
from keras_lc.core.state import Change, shared_parts, tile_part
from keras_lc.core.streams import SymbolWriter, compress, large, packed_size


def _nothing(_: int) -> None:
    return None


@dataclass
class Coding:
    """How one tensor is coded this time.

    Attributes:
        i: its number.
        entry: what the table of the delta says of it, but for what `settle` adds.
        shared: symbols that are not of single tiles.
        symbols: those of a tile by its number, where there are any.
        change: moves the state of a tile on by its symbols.
        after: called when the tile has been moved on.
        settle: the entry, when it is known whether any symbol of a tile is not zero.
        moved: which tiles have such symbols.
    """

    i: int
    entry: blobs.Entry
    shared: list[np.ndarray] = field(default_factory=list)
    symbols: Callable[[int], np.ndarray | None] = _nothing
    change: Change | None = None
    after: Callable[[int], None] = _nothing
    settle: Callable[[bool], blobs.Entry] | None = None
    moved: dict[int, bool] = field(default_factory=dict)

    def settled(self) -> blobs.Entry:
        """The entry, once all tiles have been coded."""
        return self.settle(any(self.moved.values())) if self.settle else self.entry


@dataclass(frozen=True)
class Coded:
    """What a tensor has become in a delta.

    Attributes:
        i: its number.
        entry: what the table of the delta says of it.
        pooled: symbols that share chunks with other tensors, and the pool of each.
        chunks: those in chunks of their own, as bytes, and the pool of each.
    """

    i: int
    entry: blobs.Entry
    pooled: Sequence[tuple[str, np.ndarray]] = ()
    chunks: Sequence[tuple[str, bytes]] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its symbols, each of its parts compressed on its own."""
        alone = sum(packed_size(symbols) for _, symbols in self.pooled)
        return alone + sum(len(chunk) for _, chunk in self.chunks)


@dataclass(frozen=True)
class _Job:
    """A tile of a tensor."""

    coding: Coding
    tile: int
    count: int  # of all tiles of the tensor

    @property
    def last(self) -> bool:
        return self.tile + 1 >= self.count


def code(
    workers: Executor, table: TensorTable, codings: Iterable[Coding]
) -> Iterator[tuple[Coding, Coded]]:
    """Code tensors by several threads; what each has become, in their order."""

    def jobs() -> Iterator[_Job]:
        for coding in codings:
            if coding.entry.kind == "same":
                yield _Job(coding, 0, 0)
                continue
            count = len(table.tiles[coding.i])
            for tile in range(count):
                yield _Job(coding, tile, count)

    parts: list[np.ndarray | bytes] = []
    for job, part in threads.ordered(workers, _run, jobs()):
        if part is not None:
            parts.append(part)
        if job.last:
            yield job.coding, _coded(table, job.coding, parts)
            parts = []


def _run(job: _Job) -> tuple[_Job, np.ndarray | bytes | None]:
    """The symbols of a tile, of a large tensor as a chunk; None where there are none."""
    coding, j = job.coding, job.tile
    if not job.count:
        return job, None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        symbols = coding.symbols(j)
        if coding.change is not None:
            coding.change(j, symbols)
        if symbols is not None:
            coding.moved[j] = bool(symbols.any())
        coding.after(j)
    return job, compress([symbols]) if symbols is not None and job.count > 1 else symbols


def _coded(table: TensorTable, coding: Coding, parts: list[np.ndarray | bytes]) -> Coded:
    entry, i = coding.settled(), coding.i
    if entry.kind == "same":
        return Coded(i, entry)
    pools = [pool for pool, _, _ in shared_parts(entry, table.dtypes[i], table.shapes[i])]
    pooled = list(zip(pools, coding.shared, strict=True))
    chunks = []
    if part := tile_part(entry, table.dtypes[i], table.shapes[i]):
        for data in parts:
            if isinstance(data, bytes):
                chunks.append((large(part[0]), data))
            else:
                pooled.append((part[0], data))
    return Coded(i, entry, pooled, chunks)


def pack(
    workers: Executor,
    coded: Iterable[Coded],
    first: int,
    sequence: int,
    fingerprint: int,
    references: list[int] | None,
) -> list[bytes]:
    """A delta in pieces, whose tensors come one by one; the rest as in `blob.Table`."""
    entries: list[blobs.Entry] = []
    writers: dict[str, SymbolWriter] = {}
    pools: dict[str, list[bytes]] = {}
    for tensor in coded:
        entries.append(tensor.entry)
        for pool, symbols in tensor.pooled:
            writers.setdefault(pool, SymbolWriter(workers)).append(symbols)
        for pool, chunk in tensor.chunks:
            pools.setdefault(pool, []).append(chunk)
    for pool, writer in writers.items():
        pools[pool] = writer.finish()
    table = blobs.Table(first, sequence, fingerprint, references, entries)
    return blobs.pack(table, pools)
