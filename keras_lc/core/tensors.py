"""How each tensor of a state is stored: what the codecs are told, and what they give back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.codecs import blocks, buckets, exact, first, lattice, outer, second, update
from keras_lc.core.floats import is_float, is_roomy, positive_range, real_dtype
from keras_lc.core.matrix import view
from keras_lc.core.presets import LC, Balanced, Codec, Int8
from keras_lc.core.spec import TensorSpec
from keras_lc.core.state import Chain

_SAMPLE = 4096
_STEP = 12.0  # square of the step of a quantiser, in variances of its error
_MOMENT = 1.0  # error of a first moment, as what it does to the weights, to that of the weights
_MEMORY = 0.9  # of a first moment, from step to step
_SLOW = 0.25  # movements below this share of the farthest one count as much as it
_SPARE = 8  # outer products expected beyond those of the last time
Coded = tuple[Any, ...]  # an entry of the table, and its symbols part by part


class Tensors:
    """Codes the tensors of one state after another, each against what a decoder has.

    `references` as in `Chain.refer`. Different tensors may be coded by different threads.
    """

    def __init__(self, chain: Chain, specs: Sequence[TensorSpec], references: Sequence[int]):
        self._chain = chain
        self._specs = specs
        # of each second moment the first moment that refers to it
        self._moments = {
            of: i for i, of in enumerate(references) if of >= 0 and specs[i].role == "first_moment"
        }
        # of each first moment its weight
        self._weights = {
            i: chain.table.index[spec.of]
            for i, spec in enumerate(specs)
            if spec.role == "first_moment"
            and spec.of is not None
            and chain.table.sizes[i] == chain.table.sizes[chain.table.index[spec.of]]
            and is_float(chain.table.dtypes[chain.table.index[spec.of]])
        }
        # a few values of each tensor as they were live, to measure how far it has moved
        self._seen = [_sample(state.value()) for state in chain.states]
        self._fastest = [0.0] * len(specs)  # the farthest that each has moved at once
        self._coast = [0.0] * len(specs)  # how far each would go on, by its moment
        self._ranks = [0] * len(specs)  # how many outer products each has needed
        self._tables: dict[Codec, dict[int, float]] = {}  # buckets that tensors share
        self._steps: int | None = None

    def begin(
        self, state: Sequence[np.ndarray], codecs: Sequence[Codec], steps: int | None
    ) -> None:
        """Begin a delta: its state (flat arrays), the codec of each tensor, and the steps of
        the optimizer since the state before."""
        self._steps = steps
        with np.errstate(over="ignore", invalid="ignore"):
            self._tables = self._shared(state, codecs)

    def _lossy(self, i: int, codec: Codec) -> str | None:
        """How a codec stores tensor `i`; None for bit for bit."""
        table = self._chain.table
        roomy = table.sizes[i] and is_roomy(table.dtypes[i])
        return codec.kinds.get(self._specs[i].role) if roomy else None

    def code(self, i: int, state: Sequence[np.ndarray], codec: Codec, changed: set[int]) -> Coded:
        """How tensor `i` of a state is stored this time: the lossy way where the codec has one
        and the values allow it, else bit for bit. `changed` are the tensors that this delta
        has changed so far."""
        array, kind = state[i], self._lossy(i, codec)
        lossy = None
        # products of large values leave the range of the dtype: those go bit for bit
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            match codec, kind:
                case Balanced(), "lattice":
                    lossy = self._lattice(i, state, codec)
                case Balanced(), "first":
                    lossy = self._first(i, state, codec, changed)
                case Balanced(), "second":
                    moment = self._moments.get(i)
                    beside = None if moment is None else state[moment]
                    lossy = self._second(i, array, beside, codec.levels)
                case Int8(), "second":
                    lossy = self._second(i, array, None, True)
                case Int8(), "blocks":
                    coded = blocks.encode(array)
                    lossy = coded and (blobs.Entry("blocks", []), *coded)
                case LC(), "buckets":
                    lossy = self._buckets(i, array, codec, self._tables.get(codec))
            if kind == "lattice" and np.isfinite(moved := self._moved(i, array)):
                self._fastest[i] = max(self._fastest[i], moved)
            coded = lossy or self._exact(i, array)
        self._seen[i] = _sample(array)
        return coded

    def _exact(self, i: int, array: np.ndarray) -> Coded:
        reference = self._chain.states[i].value()
        if exact.same(array, reference):
            return (blobs.Entry("same", []),)
        params = self._foreseen(i, array, reference)
        if params is not None:
            symbols = exact.difference(array, self._chain.foreseen(i, params))
            return blobs.Entry("update", params), symbols
        as_difference, symbols = exact.encode(array, reference)
        return blobs.Entry("difference" if as_difference else "plain", []), symbols

    def _foreseen(self, i: int, array: np.ndarray, reference: np.ndarray) -> list[float] | None:
        """How the optimizer came from `reference` to `array`, where the moments tell."""
        moment = self._chain.references[i]
        if moment < 0 or self._specs[i].role != "weight":
            return None
        m, v = self._chain.states[moment].value(), self._chain.reference(moment)
        return update.fit(array, reference, m, v and v.value())

    def _moved(self, i: int, array: np.ndarray) -> float:
        """Root mean square of the movement of tensor `i` since the last delta."""
        real = real_dtype(array.dtype)
        return _rms(_sample(array).astype(real) - self._seen[i].astype(real))

    def _noise(self, i: int, array: np.ndarray, codec: Balanced) -> float:
        """The variance that the error of weight `i` may have; 0 where it has not moved.

        It follows the movement down to a share of the farthest one: when the learning rate
        has decayed, what is still to come is too little to be finer about.
        """
        real = real_dtype(array.dtype)
        moved = self._moved(i, array)
        allowed = codec.largest_share * _rms(array.astype(real, copy=False))
        if moved:
            moved = max(moved, _SLOW * self._fastest[i])
        return min(codec.tolerance * moved, allowed or np.inf) ** 2

    def _lattice(self, i: int, state: Sequence[np.ndarray], codec: Balanced) -> Coded | None:
        array, before = state[i], self._chain.as_lattice(i)
        target = array.astype(real_dtype(array.dtype))
        largest = float(np.abs(target).max())
        noise = self._noise(i, target, codec)
        if not np.isfinite(noise):
            return None
        direction, matrix = self._chain.direction(i), view(self._chain.table.shapes[i])
        if noise == 0 and before.exponent is not None:
            exponent, direction = before.exponent, None  # nothing new to be finer about
        else:
            noise = noise or (codec.tolerance * _rms(target - before.position())) ** 2
            exponent = lattice.choose_exponent((_STEP * noise) ** 0.5, largest, target.dtype)
        ahead = self._lost_momentum(i, state) if matrix and noise else None
        coded = lattice.encode(
            target, before, exponent, direction, matrix, noise, self._ranks[i], ahead
        )
        if (
            coded is None
            or largest + 2 * lattice.FAR * 2.0**exponent > positive_range(array.dtype)[1]
        ):
            return None
        step, k, factors = coded
        if not (step.beta or step.corrected or factors):
            return (blobs.Entry("same", []),)
        self._ranks[i] = factors.scale.rank + _SPARE if factors else 0
        sides = factors.symbols() if factors else []
        return blobs.Entry("lattice", step.write()), *([k] if step.corrected else []), *sides

    def _second(
        self, i: int, array: np.ndarray, m: np.ndarray | None, levels: bool
    ) -> Coded | None:
        before = self._chain.as_levels(i)
        exact_values = (array,) if isinstance(before, second.LogLevel) else (array, before)
        if not all(np.isfinite(v).all() and (v >= 0).all() for v in exact_values):
            return None
        matrix = view(self._chain.table.shapes[i])
        factor, axes, moves = second.encode(array, m, before, matrix, levels)
        unmoved = isinstance(before, second.LogLevel) and before.factor == factor
        if unmoved and not moves.any() and not axes.any():
            return (blobs.Entry("same", []),)
        return blobs.Entry("second", [factor]), axes, moves

    def _first(
        self, i: int, state: Sequence[np.ndarray], codec: Balanced, changed: set[int]
    ) -> Coded | None:
        scale = self._chain.reference(i)
        ratio = first.ratio(state[i], scale)
        if ratio is None:
            return None
        size, matrix = _rms(ratio), view(self._chain.table.shapes[i])
        noise = self._moment_noise(i, ratio, state, codec)
        if not np.isfinite(noise):
            return None
        if matrix and size:
            factors = outer.encode(ratio, matrix, noise, self._ranks[i])
            if factors is not None and factors.scale.unit < 1e31:
                self._ranks[i] = factors.scale.rank + _SPARE
                return blobs.Entry("outer", factors.scale.write()), *factors.symbols()
            if factors is not None:
                return None
        vector = bool(size) and not matrix
        step = min((_STEP * noise) ** 0.5, size) if vector else 0.0
        coded = first.encode(ratio, step)
        if coded is None:
            return None
        step, k = coded
        before = self._chain.states[i]
        same = (
            isinstance(before, first.Scaled)
            and self._chain.references[i] not in changed
            and before.unit == step
            and np.array_equal(before.integers(), k)
        )
        return (blobs.Entry("same", []),) if same else (blobs.Entry("first", [step]), k)

    def _moment_noise(
        self, i: int, ratio: np.ndarray, state: Sequence[np.ndarray], codec: Balanced
    ) -> float:
        """The variance that the error of a first moment may have, given as its ratio to the
        root of the second: as much as moves the weights by their own error."""
        size = _rms(ratio) ** 2
        weight = self._weights.get(i)
        if weight is None:
            return codec.tolerance**2 * size
        u, now = _sample(ratio), _sample(state[weight]).astype(ratio.dtype)
        moved = now - self._seen[weight].astype(ratio.dtype)
        beta = float(u @ moved) / (float(u @ u) or 1.0)
        before = _MEMORY**self._steps if self._steps else self._likeness(i, state[i])
        self._coast[weight] = beta * _MEMORY / max(1 - before, 1 - _MEMORY)
        noise = self._noise(weight, state[weight], codec)
        if not beta:
            return size / 4  # nothing tells what it does to the weights
        return min((_MOMENT * noise) ** 0.5 / abs(beta), size**0.5) ** 2

    def _likeness(self, i: int, array: np.ndarray) -> float:
        """How much of first moment `i` is that of the last checkpoint: their correlation."""
        real = real_dtype(array.dtype)
        now, then = _sample(array).astype(real), self._seen[i].astype(real)
        return float(now @ then) / (_rms(now) * _rms(then) * now.size or 1.0)

    def _lost_momentum(self, i: int, state: Sequence[np.ndarray]) -> np.ndarray | None:
        """How far weight `i` would still have gone by the part of its first moment that is not
        stored; it goes there at once instead.

        A moment whose memory of a step is `b` moves the weight by `b / (1 - b)` times its last
        movement, when no gradient follows. Between two checkpoints it has moved it by
        `(1 - c) / (1 - b)` times its last movement, `c` being what the moment remembers of the
        one before: `coast` is the quotient, times the movement for each unit of the moment.
        """
        moment, coast = self._chain.references[i], self._coast[i]
        stored = self._chain.reference(i)
        if not coast or not isinstance(stored, first.Scaled):
            return None
        lost = first.ratio(state[moment], stored.scale)
        if lost is None:
            return None
        lost -= stored.integers().astype(lost.dtype) * lost.dtype.type(stored.unit)
        lost *= lost.dtype.type(coast)
        return lost if np.isfinite(lost).all() else None

    def _shared(
        self, state: Sequence[np.ndarray], codecs: Sequence[Codec]
    ) -> dict[Codec, dict[int, float]]:
        """The buckets of each `LC` codec that has one table for all of its tensors."""
        found: dict[LC, buckets.Buckets] = {}
        for i, codec in enumerate(codecs):
            if isinstance(codec, LC) and codec.table == "model" and self._lossy(i, codec):
                keys = self._keys(i, state[i])
                if keys:
                    found.setdefault(codec, buckets.Buckets()).add(*keys)
        return {codec: table.kept(codec.bits) for codec, table in found.items()}

    def _keys(self, i: int, array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        reference = self._chain.states[i].value()
        finite = np.isfinite(array).all() and np.isfinite(reference).all()
        return buckets.keys(array, reference) if finite else None

    def _buckets(
        self, i: int, array: np.ndarray, codec: LC, kept: dict[int, float] | None
    ) -> Coded | None:
        keys = self._keys(i, array)
        if keys is None:
            return None
        if kept is None:
            own = buckets.Buckets()
            own.add(*keys)
            kept = own.kept(codec.bits)
        if not np.isfinite(list(kept.values())).all():
            return None
        number, centres = buckets.number(keys[1], kept), list(kept.values())
        if not number.any():
            return (blobs.Entry("same", []),)
        after = buckets.advance(self._chain.states[i].value(), centres, number)
        if not np.isfinite(after.value()).all():
            return None  # past the largest number of the dtype
        return blobs.Entry("buckets", centres), number


def _sample(array: np.ndarray) -> np.ndarray:
    # an odd stride does not fall on the same columns of a matrix again and again
    return array[:: array.size // _SAMPLE | 1].copy()


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(float(array @ array) / max(1, array.size)))
