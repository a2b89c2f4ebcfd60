"""DeltaEncoder: states in, blobs out, always against what a decoder has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.codecs import buckets, exact, first, lattice, second
from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.floats import is_roomy, positive_range, real_dtype
from keras_lc.core.presets import LC, Balanced, Codec, CodecLike, Rules
from keras_lc.core.spec import TensorSpec, TensorTable
from keras_lc.core.state import Chain, pools_of
from keras_lc.core.streams import SymbolWriter
from keras_lc.errors import MismatchError

_SAMPLE = 4096
Coded = tuple[Any, ...]  # an entry of the table, and its symbols part by part


class DeltaEncoder:
    """Encodes each state as its difference to what a decoder has after the last blob.

    Args:
        base: name to array; any shapes and fixed-size dtypes. It is copied.
        codec: `"balanced"`, `"lossless"`, `"lc"`, a codec with settings such as
            `LC(bits=3)`, or a mapping from patterns of names to these, first match wins.
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
        >>> len(encoder.encode(moved)) < base["w"].nbytes / 20
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
        chain.refer(references)
        self._order = chain.order()
        # of each second moment the first moment that refers to it
        self._moments = {
            of: i
            for i, of in enumerate(references)
            if of >= 0 and self._specs[i].role == "first_moment"
        }
        # a few values of each tensor as they were live, to measure how far it has moved
        self._seen = [_sample(state.value()) for state in chain.states]

    def _references(self) -> list[int]:
        """A first moment refers to the second one of its weight, a weight to its first."""
        moments: dict[tuple[str, str | None], int] = {
            (spec.role, spec.of): i for i, spec in enumerate(self._specs) if spec.of is not None
        }
        sizes = self._chain.table.sizes
        references = []
        for i, spec in enumerate(self._specs):
            wanted = {
                "first_moment": ("second_moment", spec.of),
                "weight": ("first_moment", spec.name),
            }.get(spec.role)
            of = moments.get(wanted, -1) if wanted else -1
            references.append(of if of >= 0 and sizes[of] == sizes[i] else -1)
        return references

    def fits(self, state: Mapping[str, np.ndarray]) -> bool:
        """Whether `state` has the tensors of the base, so that it can be a delta."""
        return TensorTable(state).fingerprint == self._chain.table.fingerprint

    @property
    def reconstruction(self) -> Mapping[str, np.ndarray]:
        """What a decoder has after the last blob: name to array, read-only."""
        return self._chain.reconstruction

    def encode(self, state: Mapping[str, np.ndarray], codec: CodecLike | None = None) -> bytes:
        """The difference of `state` to the reconstruction so far.

        Args:
            state: the tensors of the base, with its shapes and dtypes; never changed.
            codec: another codec for this one delta.

        Returns:
            A self-contained blob for `DeltaDecoder.decode`.

        Raises:
            MismatchError: tensors are missing, surplus, or of another shape or dtype.
        """
        chain = self._chain
        arrays = chain.table.check(state)
        rules = self._rules if codec is None else Rules(codec)
        codecs = [rules.of(name) for name in chain.table.names]
        writers: dict[str, SymbolWriter] = {}
        entries = []
        changed: set[int] = set()
        for i in self._order:
            array = np.ascontiguousarray(arrays[i]).reshape(-1)
            moment = self._moments.get(i)
            beside = None if moment is None else np.ascontiguousarray(arrays[moment]).reshape(-1)
            entry, *parts = self._tensor(i, array, beside, codecs[i], changed)
            if entry.kind != "same":
                changed.add(i)
                kinds = pools_of(entry.kind, array.dtype, chain.table.shapes[i])
                for (pool, _, _), symbols in zip(kinds, parts, strict=True):
                    writers.setdefault(pool, SymbolWriter()).append(symbols)
                chain.advance(i, entry, parts)
            entries.append(entry)
            self._seen[i] = _sample(array)
        chain.sequence += 1
        pools = {pool: writer.finish() for pool, writer in writers.items()}
        table = blobs.Table(
            chain.sequence,
            chain.table.fingerprint,
            chain.references if self._announce else None,
            entries,
        )
        self._announce = False
        return blobs.pack(table, pools)

    def _tensor(
        self, i: int, array: np.ndarray, beside: np.ndarray | None, codec: Codec, changed: set[int]
    ) -> Coded:
        """How tensor `i` is stored this time: the lossy way where the codec has one and the
        values allow it, else bit for bit. `beside` is the first moment of a second one."""
        lossless = not array.size or not is_roomy(array.dtype)
        kind = None if lossless else codec.kinds.get(self._specs[i].role)
        lossy = None
        # products of large values leave the range of the dtype: those go bit for bit
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            match codec, kind:
                case Balanced(), "lattice":
                    lossy = self._lattice(i, array, codec)
                case Balanced(), "first":
                    lossy = self._first(i, array, codec, changed)
                case Balanced(), "second":
                    lossy = self._second(i, array, beside)
                case LC(), "buckets":
                    lossy = self._buckets(i, array, codec)
        return lossy or self._exact(i, array)

    def _exact(self, i: int, array: np.ndarray) -> Coded:
        reference = self._chain.states[i].value()
        if exact.same(array, reference):
            return (blobs.Entry("same", []),)
        as_difference, symbols = exact.encode(array, reference)
        return blobs.Entry("difference" if as_difference else "plain", []), symbols

    def _lattice(self, i: int, array: np.ndarray, codec: Balanced) -> Coded | None:
        state = self._chain.as_lattice(i)
        target = array.astype(real_dtype(array.dtype))
        largest = float(np.abs(target).max())
        size = _rms(target)
        moved = _rms(_sample(target) - self._seen[i].astype(target.dtype))
        if not (np.isfinite(size) and np.isfinite(moved)):
            return None
        direction = self._chain.direction(i)
        if moved == 0 and state.exponent is not None:
            exponent, direction = state.exponent, None  # nothing new to be finer about
        else:
            moved = moved or _rms(target - state.position())
            wanted = min(codec.step * moved, codec.largest_share * size or np.inf)
            exponent = lattice.choose_exponent(wanted, largest, target.dtype)
        coded = lattice.encode(target, state, exponent, direction)
        if coded is None or largest + 2.0**exponent > positive_range(array.dtype)[1]:
            return None
        step, k = coded
        if not step.beta and not k.any():
            return (blobs.Entry("same", []),)
        params: list[Any] = [step.exponent, step.beta, 1]
        return blobs.Entry("lattice", params if step.rebase else params[: 2 if step.beta else 1]), k

    def _second(self, i: int, array: np.ndarray, m: np.ndarray | None) -> Coded | None:
        before = self._chain.as_levels(i)
        exact_values = (array,) if isinstance(before, second.LogLevel) else (array, before)
        if not all(np.isfinite(v).all() and (v >= 0).all() for v in exact_values):
            return None
        view = second.view(self._chain.table.shapes[i])
        factor, axes, moves = second.encode(array, m, before, view)
        unmoved = isinstance(before, second.LogLevel) and before.factor == factor
        if unmoved and not moves.any() and not axes.any():
            return (blobs.Entry("same", []),)
        return blobs.Entry("second", [factor]), axes, moves

    def _first(self, i: int, array: np.ndarray, codec: Balanced, changed: set[int]) -> Coded | None:
        coded = first.encode(array, self._chain.reference(i), codec.moment_step)
        if coded is None:
            return None
        step, k = coded
        before = self._chain.states[i]
        unmoved = (
            isinstance(before, first.Scaled)
            and self._chain.references[i] not in changed
            and before.step == step
            and np.array_equal(before.k, k)
        )
        return blobs.Entry("same", []) if unmoved else blobs.Entry("first", [step]), k

    def _buckets(self, i: int, array: np.ndarray, codec: LC) -> Coded | None:
        reference = self._chain.states[i].value()
        if not (np.isfinite(array).all() and np.isfinite(reference).all()):
            return None
        centres, number = buckets.encode(array, reference, codec.bits)
        if not np.isfinite(buckets.advance(reference, centres, number).value()).all():
            return None  # past the largest number of the dtype
        return blobs.Entry("buckets" if centres else "same", centres), number


def _sample(array: np.ndarray) -> np.ndarray:
    # an odd stride does not fall on the same columns of a matrix again and again
    return array[:: array.size // _SAMPLE | 1].copy()


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(float(array @ array) / max(1, array.size)))
