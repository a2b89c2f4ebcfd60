"""DeltaEncoder: states in, blobs out, always against what a decoder has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import numpy as np

from keras_lc import workers as threads
from keras_lc.core.coding import Coded, code, pack
from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.merge import whole
from keras_lc.core.presets import CodecLike, Rules
from keras_lc.core.spec import TensorSpec, TensorTable
from keras_lc.core.state import Chain
from keras_lc.core.tensors import Tensors
from keras_lc.errors import MismatchError


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

    @property
    def sequence(self) -> int:
        """How many deltas there have been since the base."""
        return self._chain.sequence

    def error(self) -> float:
        """What the last delta has left between `reconstruction` and the state that it is of: root
        mean square of a weight, as a share of its values, the largest of all weights; measured
        on a sample of about 4,000 values of each."""
        return self._tensors.error()

    @property
    def kept(self) -> Collection[str]:
        """Names of the arrays of the last delta that are kept: those given that it stores bit for
        bit, but for what has not changed."""
        return [self._chain.table.names[i] for i in self._tensors.kept]

    def whole(self) -> list[bytes]:
        """One delta, in pieces, that leads from the base straight to `reconstruction`: larger than
        one of `encode`, and than few of them, but the others are not needed."""
        return whole(self._chain)

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
        return b"".join(self.pieces(state, codec, steps))

    def pieces(
        self,
        state: Mapping[str, np.ndarray],
        codec: CodecLike | None = None,
        steps: int | None = None,
        given: Collection[str] = (),
    ) -> list[bytes]:
        """What `encode` joins, and what need not be in memory twice to be written.

        Args:
            state, codec, steps: as for `encode`.
            given: names of arrays that may be kept instead of copied; those of `kept` are, and
                nobody may change them any more.
        """
        chain = self._chain
        with threads.start() as workers:
            coded = self.code(workers, state, codec, steps, given)
            first = chain.sequence + 1
            references = chain.references if self._announce else None
            delta = pack(workers, coded, first, first, chain.table.fingerprint, references)
        self._announce = False
        return delta

    def code(
        self,
        workers: Executor,
        state: Mapping[str, np.ndarray],
        codec: CodecLike | None,
        steps: int | None,
        given: Collection[str] = (),
    ) -> Iterator[Coded]:
        """Move the reconstruction on to `state`, by several threads: what each tensor became.
        Arguments as of `pieces`."""
        chain = self._chain
        if self._broken:
            raise MismatchError("an earlier delta failed half-way; start a new encoder.")
        arrays = chain.table.check(state)
        rules = self._rules if codec is None else Rules(codec)
        codecs = [rules.of(name) for name in chain.table.names]
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        self._broken = True  # until all of it has gone well
        self._tensors.begin(flat, codecs, steps, {chain.table.index[name] for name in given})
        chain.sequence += 1
        for level in self._levels:
            codings = threads.ordered(workers, self._tensors.plan, level)
            for coding, coded in code(workers, chain.table, codings):
                self._tensors.note(coding.i, coded.entry.kind)
                yield coded
        self._broken = False
