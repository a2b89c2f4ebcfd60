"""DeltaEncoder: states in, blobs out, always against what a decoder has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core import workers as threads
from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.presets import CodecLike, Rules
from keras_lc.core.spec import TensorSpec, TensorTable
from keras_lc.core.state import Chain, shared_parts, tile_part
from keras_lc.core.streams import SymbolWriter, compress, large, packed_size
from keras_lc.core.tensors import Coding, Tensors
from keras_lc.core.tiles import groups
from keras_lc.errors import MismatchError


@dataclass(frozen=True)
class Made:
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


class DeltaEncoder:
    """Encodes each state as its difference to what a decoder has after the last blob.

    Args:
        base: name to array; any shapes and fixed-size dtypes. It is copied.
        codec: one of `PRESETS` by its name, a codec with settings such as `LC(bits=3)`, or a
            mapping from patterns of names to these, first match wins.
        specs: the role of each tensor; without it every float is a weight.

    Raises:
        OptionError: the codec is not known.
        MismatchError: a spec names a tensor that the base does not have.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import DeltaEncoder
        >>> rng = np.random.default_rng(0)
        >>> base = {"w": rng.normal(size=10_000).astype(np.float32)}
        >>> encoder = DeltaEncoder(base)
        >>> moved = {"w": base["w"] + 1e-4 * rng.normal(size=10_000).astype(np.float32)}
        >>> len(encoder.encode(moved)) < base["w"].nbytes / 10
        True
    """

    def __init__(
        self,
        base: Mapping[str, np.ndarray],
        codec: CodecLike = "balanced",
        specs: Iterable[TensorSpec] | None = None,
    ):
        self._start(Chain(base), codec, specs)

    @classmethod
    def resume(
        cls,
        decoder: DeltaDecoder,
        codec: CodecLike = "balanced",
        specs: Iterable[TensorSpec] | None = None,
    ) -> DeltaEncoder:
        """An encoder that goes on where a chain read from disk ends; it takes the decoder over."""
        if decoder.broken:
            raise MismatchError("a delta of this chain has failed; start again from the base.")
        encoder = cls.__new__(cls)
        encoder._start(decoder.chain, codec, specs)
        return encoder

    def _start(self, chain: Chain, codec: CodecLike, specs: Iterable[TensorSpec] | None) -> None:
        self._chain = chain
        self._rules = Rules(codec)
        self._specs = chain.table.resolve(specs)
        for name in chain.table.names:
            self._rules.of(name)
        references = self._references()
        self._announce = chain.sequence == 0 or references != chain.references
        self._broken = False  # a delta failed half-way
        chain.refer(references)
        self._levels = chain.levels()
        self._tensors = Tensors(chain, self._specs, references)

    def _references(self) -> list[int]:
        """A first moment refers to the second one of its weight, a weight to its first."""
        moments: dict[tuple[str, str | None], int] = {
            (spec.role, spec.of): i for i, spec in enumerate(self._specs) if spec.of is not None
        }
        shapes = self._chain.table.shapes
        references = []
        for i, spec in enumerate(self._specs):
            wanted = {
                "first_moment": ("second_moment", spec.of),
                "weight": ("first_moment", spec.name),
            }.get(spec.role)
            of = moments.get(wanted, -1) if wanted else -1
            references.append(of if of >= 0 and shapes[of] == shapes[i] else -1)
        return references

    def fits(self, state: Mapping[str, np.ndarray]) -> bool:
        """Whether `state` has the tensors of the base, so that it can be a delta."""
        return TensorTable(state).fingerprint == self._chain.table.fingerprint

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Role of each tensor, in the order of their numbers."""
        return self._specs

    @property
    def reconstruction(self) -> Mapping[str, np.ndarray]:
        """What a decoder has after the last blob: name to array, read-only."""
        return self._chain.reconstruction

    def encode(
        self,
        state: Mapping[str, np.ndarray],
        codec: CodecLike | None = None,
        steps: int | None = None,
    ) -> bytes:
        """The difference of `state` to the reconstruction so far.

        Args:
            state: the tensors of the base, with its shapes and dtypes; never changed.
            codec: another codec for this one delta.
            steps: steps of the optimizer since the state before, where they are known.

        Returns:
            A self-contained blob for `DeltaDecoder.decode`.

        Raises:
            MismatchError: tensors are missing, surplus, or of another shape or dtype; or an
                earlier call failed half-way, so that a new encoder is needed.
        """
        chain, entries = self._chain, []
        pools: dict[str, list[bytes]] = {}
        with threads.start() as workers:
            writers: dict[str, SymbolWriter] = {}
            for made in self.code(workers, state, codec, steps):
                entries.append(made.entry)
                for pool, symbols in made.pooled:
                    writers.setdefault(pool, SymbolWriter(workers)).append(symbols)
                for pool, chunk in made.chunks:
                    pools.setdefault(pool, []).append(chunk)
            for pool, writer in writers.items():
                pools[pool] = [writer.finish()]
        table = blobs.Table(
            chain.sequence,
            chain.table.fingerprint,
            chain.references if self._announce else None,
            entries,
        )
        self._announce = self._broken = False
        return blobs.pack(table, {pool: b"".join(parts) for pool, parts in pools.items()})

    def code(
        self,
        workers: Executor,
        state: Mapping[str, np.ndarray],
        codec: CodecLike | None,
        steps: int | None,
    ) -> Iterator[Made]:
        """Move the reconstruction on to `state`, by several threads: what each tensor became."""
        chain = self._chain
        if self._broken:
            raise MismatchError("an earlier delta failed half-way; start a new encoder.")
        arrays = chain.table.check(state)
        rules = self._rules if codec is None else Rules(codec)
        codecs = [rules.of(name) for name in chain.table.names]
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        self._broken = True  # until all of it has gone well
        self._tensors.begin(flat, codecs, steps)
        chain.sequence += 1
        for level in self._levels:
            parts: list[list[np.ndarray] | bytes] = []
            for job, part in threads.ordered(workers, _advance, self._jobs(workers, level)):
                parts.append(part)
                if job.last:
                    yield self._made(job.coding, parts)
                    parts = []

    def _jobs(self, workers: Executor, level: list[int]) -> Iterator[Job]:
        chain = self._chain
        for coding in threads.ordered(workers, self._tensors.plan, level):
            if coding.entry.kind == "same":
                yield Job(coding, None, range(0), 0)
                continue
            change = chain.change(coding.i, coding.entry, coding.shared)
            count = len(chain.table.tiles[coding.i])
            for tiles in groups(count):
                yield Job(coding, change, tiles, count)

    def _made(self, coding: Coding, parts: list[list[np.ndarray] | bytes]) -> Made:
        table, i = self._chain.table, coding.i
        dtype, shape = table.dtypes[i], table.shapes[i]
        entry = self._tensors.settle(coding)
        if entry.kind == "same":
            return Made(i, entry)
        pools = [pool for pool, _, _ in shared_parts(entry, dtype, shape)]
        pooled = list(zip(pools, coding.shared, strict=True))
        chunks = []
        if part := tile_part(entry, dtype, shape):
            for data in parts:
                if isinstance(data, bytes):
                    chunks.append((large(part[0]), data))
                else:
                    pooled += [(part[0], symbols) for symbols in data]
        return Made(i, entry, pooled, chunks)


@dataclass(frozen=True)
class Job:
    """Some tiles of a tensor that are coded together."""

    coding: Coding
    change: Callable[[int, np.ndarray | None], None] | None  # None: there is none
    tiles: range
    count: int  # of all tiles of the tensor

    @property
    def last(self) -> bool:
        return self.tiles.stop == self.count


def _advance(job: Job) -> tuple[Job, list[np.ndarray] | bytes]:
    """Move some tiles on; their symbols, those of a large tensor as a chunk."""
    parts: list[np.ndarray] = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for j in job.tiles:
            assert job.change is not None
            symbols = job.coding.symbols(j)
            job.change(j, symbols)
            if symbols is not None:
                job.coding.moved[j] = bool(symbols.any())
                parts.append(symbols)
            job.coding.after(j)
    return job, compress(parts) if parts and job.count > 1 else parts
