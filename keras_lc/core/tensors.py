"""Which codec stores each tensor of a state, and those that need no more than its values."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.balance import Balance
from keras_lc.core.codecs import blocks, buckets, exact, first, update
from keras_lc.core.coding import Coding
from keras_lc.core.floats import is_roomy
from keras_lc.core.live import Live, every_of
from keras_lc.core.presets import LC, Balanced, Codec, Int8
from keras_lc.core.spec import TensorSpec
from keras_lc.core.state import Chain

_DENSE = 1 << 15  # values on which differences are tried


class Tensors:
    """Codes the tensors of one state after another, each against what a decoder has.

    `references` as in `Chain.refer`. Different tensors may be planned by different threads.

    Attributes:
        kept: numbers of the tensors whose arrays the chain has kept in this delta.
    """

    def __init__(self, chain: Chain, specs: Sequence[TensorSpec], references: Sequence[int]):
        self._chain = chain
        self._specs = specs
        self._live = Live(chain)
        self._balance = Balance(self._live, specs, references)
        self._codecs: Sequence[Codec] = ()
        self._given: Container[int] = ()
        self.kept: set[int] = set()
        self._tables: dict[Codec, dict[int, float]] = {}  # buckets that tensors share

    def begin(
        self,
        state: Sequence[np.ndarray],
        codecs: Sequence[Codec],
        steps: int | None,
        given: Container[int],
    ) -> None:
        """Begin a delta: its state (flat arrays), the codec of each tensor, the steps of the
        optimizer since the state before, and which of the arrays may be kept."""
        self._live.begin(state, steps)
        self._codecs, self._given = codecs, given
        self.kept.clear()
        with np.errstate(over="ignore", invalid="ignore"):
            self._tables = self._shared()

    def plan(self, i: int) -> Coding:
        """How tensor `i` is stored this time: the lossy way where its codec has one and the
        values allow it, else bit for bit. Those that it refers to have been settled."""
        codec, kind, balance = self._codecs[i], self._lossy(i), self._balance
        lossy = None
        # products of large values leave the range of the dtype: those go bit for bit
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            match codec, kind:
                case Balanced(), "lattice":
                    lossy = balance.weight(i, codec)
                case Balanced(), "first":
                    lossy = balance.first(i, codec)
                case Balanced(), "second":
                    lossy = balance.second(i, codec.levels)
                case Int8(), "second":
                    lossy = balance.second(i, weighed=False)
                case Int8(), "blocks":
                    lossy = self._blocks(i)
                case LC(), "buckets":
                    lossy = self._buckets(i, codec)
            coding = lossy or self._exact(i)
        self._live.look(i)
        if coding.entry.kind != "same":
            if lossy is None and i in self._given:
                self.kept.add(i)
                coding.change = self._chain.keep(i, self._live.state[i])
            else:
                coding.change = self._chain.change(i, coding.entry, coding.shared)
        return coding

    def note(self, i: int, kind: str) -> None:
        """Take notice of what has become of a tensor."""
        if kind != "same":
            self._live.changed.add(i)

    def error(self) -> float:
        """How far a decoder is from the weights after this delta; see `Live.missed`."""
        dtypes = self._chain.table.dtypes
        weights = (i for i, spec in enumerate(self._specs) if spec.role == "weight")
        return max((self._live.missed(i) for i in weights if is_roomy(dtypes[i])), default=0.0)

    def _lossy(self, i: int) -> str | None:
        """How tensor `i` is stored by its codec; None for bit for bit."""
        table = self._chain.table
        roomy = table.sizes[i] and is_roomy(table.dtypes[i])
        return self._codecs[i].kinds.get(self._specs[i].role) if roomy else None

    def _exact(self, i: int) -> Coding:
        array, tensor, tiles = (
            self._live.state[i],
            self._chain.tensors[i],
            self._chain.table.tiles[i],
        )
        # a first moment follows its second one
        stale = self._chain.references[i] in self._live.changed and isinstance(
            tensor[0], first.Scaled
        )
        same = not stale and (
            exact.same(values, tensor[j].value()) for j, _, values in self._live.tiles(i)
        )
        if same and all(same):
            return Coding(i, blobs.Entry("same", []))
        params = self._foreseen(i)
        if params is not None:

            def symbols(j: int) -> np.ndarray:
                return exact.difference(array[tiles[j]], self._chain.foreseen(i, j, params))

            return Coding(i, blobs.Entry("update", params), symbols=symbols)
        step = array.size // _DENSE | 1
        if exact.worth(array[::step], self._chain.sample(i, step)):

            def symbols(j: int) -> np.ndarray:
                return exact.difference(array[tiles[j]], tensor[j].value())

            return Coding(i, blobs.Entry("difference", []), symbols=symbols)
        return Coding(i, blobs.Entry("plain", []), symbols=lambda j: exact.plain(array[tiles[j]]))

    def _foreseen(self, i: int) -> list[float] | None:
        """How the optimizer came from the last state of weight `i` to this one, where the
        moments tell."""
        chain, moment = self._chain, self._chain.references[i]
        if moment < 0 or self._specs[i].role != "weight":
            return None
        step = every_of(chain.table.sizes[i])
        scale = chain.references[moment]
        v = chain.sample(scale, step) if scale >= 0 else None
        now, m = self._live.state[i][::step], chain.sample(moment, step)
        return update.fit(now, chain.sample(i, step), m, v)

    def _blocks(self, i: int) -> Coding | None:
        array, tiles = self._live.state[i], self._chain.table.tiles[i]
        scales: list[np.ndarray] = []
        for _, _, values in self._live.tiles(i):
            found = blocks.scales(values)
            if found is None:
                return None
            scales.append(found)
        return Coding(
            i,
            blobs.Entry("blocks", []),
            [np.concatenate(scales)],
            lambda j: blocks.encode(array[tiles[j]], scales[j]),
        )

    def _shared(self) -> dict[Codec, dict[int, float]]:
        """The buckets of each `LC` codec that has one table for all of its tensors."""
        found: dict[LC, buckets.Buckets] = {}
        for i, codec in enumerate(self._codecs):
            if isinstance(codec, LC) and codec.table == "model" and self._lossy(i):
                self._fill(found.setdefault(codec, buckets.Buckets()), i)
        return {codec: table.kept(codec.bits) for codec, table in found.items()}

    def _fill(self, table: buckets.Buckets, i: int) -> None:
        """Put the movements of tensor `i` into buckets, if they are all finite."""
        if self._finite(i):
            for j, _, values in self._live.tiles(i):
                table.add(buckets.difference(values, self._chain.tensors[i][j].value()))

    def _finite(self, i: int) -> bool:
        tensor = self._chain.tensors[i]
        return all(
            np.isfinite(values).all() and np.isfinite(tensor[j].value()).all()
            for j, _, values in self._live.tiles(i)
        )

    def _buckets(self, i: int, codec: LC) -> Coding | None:
        chain, array, tiles = self._chain, self._live.state[i], self._chain.table.tiles[i]
        if not self._finite(i):
            return None
        kept = self._tables.get(codec)
        if kept is None:
            own = buckets.Buckets()
            self._fill(own, i)
            kept = own.kept(codec.bits)
        centres = list(kept.values())
        if not np.isfinite(centres).all():
            return None

        def symbols(j: int) -> np.ndarray:
            delta = buckets.difference(array[tiles[j]], chain.tensors[i][j].value())
            return buckets.number(delta, kept)

        for j in range(len(tiles)):
            after = buckets.advance(chain.tensors[i][j].value(), centres, symbols(j))
            if not np.isfinite(after.value()).all():
                return None  # past the largest number of the dtype
        entry = blobs.Entry("buckets", centres)
        return Coding(
            i,
            entry,
            symbols=symbols,
            settle=lambda moved: entry if moved else blobs.Entry("same", []),
        )
