"""How the balanced codecs store a tensor: which error it may have, and the codec that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_lc.core import blob as blobs
from keras_lc.core.codecs import first, lattice, outer, second
from keras_lc.core.coding import Coding
from keras_lc.core.floats import largest, positive_range, real_dtype
from keras_lc.core.live import Live, every_of, rms, sample
from keras_lc.core.matrix import Matrix, view
from keras_lc.core.presets import Balanced
from keras_lc.core.products import dot
from keras_lc.core.spec import TensorSpec
from keras_lc.core.tiles import ALL, every

_STEP = 12.0  # square of the step of a quantiser, in variances of its error
_MOMENT = 1.0  # error of a first moment, as what it does to the weights, to that of the weights
_WIDEST = 2.0  # step of a first moment, in its root mean square
_MEMORY = 0.9  # of a first moment, from step to step
_SLOW = 0.25  # movements below this share of the farthest one count as much as it
_SPARE = 8  # outer products expected beyond those of the last time
_EMPTY: list[Any] = [1.0, 0, []]  # the scale of no outer products
_WEIGHED = 1 << 16  # values of a second moment, about, are weighed for its factor


class Balance:
    """Plans weights and moments; what it returns None for is to be stored bit for bit.

    `references` as in `Chain.refer`. Different tensors may be planned by different threads.
    """

    def __init__(self, live: Live, specs: Sequence[TensorSpec], references: Sequence[int]):
        self._live = live
        self._chain = live.chain
        # of each second moment the first moment that refers to it
        self._moments = {
            of: i for i, of in enumerate(references) if of >= 0 and specs[i].role == "first_moment"
        }
        # of each first moment the weight that refers to it, and so is planned after it
        self._weights = {
            of: i for i, of in enumerate(references) if of >= 0 and specs[i].role == "weight"
        }
        self._fastest = [0.0] * len(specs)  # the farthest that each has moved at once
        self._coast = [0.0] * len(specs)  # how far each would go on, by its moment
        self._ranks = [0] * len(specs)  # how many outer products each has needed

    def weight(self, i: int, codec: Balanced) -> Coding | None:
        """Weight `i`: on a lattice."""
        coding = self._lattice(i, codec)
        moved = self._live.moved(i)
        if np.isfinite(moved):
            self._fastest[i] = max(self._fastest[i], moved)
        return coding

    def first(self, i: int, codec: Balanced) -> Coding | None:
        """First moment `i`: integers in units of the root of the second one."""
        chain, array, tiles = self._chain, self._live.state[i], self._chain.table.tiles[i]
        matrix = self._matrix(i, codec)
        if matrix:
            ratio = self._ratio(i)
            return None if ratio is None else self._products(i, ratio, codec, matrix)
        stride = every_of(array.size)
        sample = np.concatenate(
            [
                first.ratio(values, chain.reference(i, j), every(stride, tile))
                for j, tile, values in self._live.tiles(i)
            ]
        )
        noise, size = self._moment_noise(i, sample, codec), rms(sample)
        if not np.isfinite(noise):
            return None
        step = float(f"{min((_STEP * noise) ** 0.5, _WIDEST * size):.3g}")
        if not (
            (step == 0 or 1e-30 < step < 1e30)
            and all(
                first.fits(values, chain.reference(i, j), step)
                for j, _, values in self._live.tiles(i)
            )
        ):
            return None
        changed: dict[int, bool] = {}

        def symbols(j: int) -> np.ndarray:
            ratio = first.ratio(array[tiles[j]], chain.reference(i, j))
            k, before = first.encode(ratio, step), chain.tensors[i][j]
            changed[j] = not (
                isinstance(before, first.Scaled)
                and before.unit == step
                and np.array_equal(before.integers(), k)
            )
            return k

        def settle(_: bool) -> blobs.Entry:
            same = chain.references[i] not in self._live.changed and not any(changed.values())
            return blobs.Entry("same", []) if same else blobs.Entry("first", [step])

        return Coding(i, blobs.Entry("first", [step]), symbols=symbols, settle=settle)

    def second(self, i: int, levels: bool = True, weighed: bool = True) -> Coding | None:
        """Second moment `i`: levels around rows and columns; weighed by the first moment that
        goes with it, if there is one."""
        beside = self._moments.get(i) if weighed else None
        chain, v, tiles = self._chain, self._live.state[i], self._chain.table.tiles[i]
        top = 0.0
        for j, _, values in self._live.tiles(i):
            before = chain.as_levels(i, j)
            exact_values = () if isinstance(before, second.LogLevel) else (before,)
            for some in (*exact_values, values):
                if not (some.min() >= 0 and np.isfinite(high := some.max())):
                    return None
            top = max(top, float(high))
        matrix, first_tile = view(chain.table.shapes[i]), chain.tensors[i][0]
        axes = second.axes(v, matrix, top)
        chained = isinstance(first_tile, second.LogLevel)
        drift = axes - first_tile.axes if chained else axes
        parts: dict[int, np.ndarray] = {}

        def symbols(j: int) -> np.ndarray:
            return second.moves(v[tiles[j]], chain.as_levels(i, j), axes, matrix, tiles[j], levels)

        def after(j: int) -> None:
            part = every(v.size // _WEIGHED | 1, tiles[j])
            m = None if beside is None else self._live.state[beside][tiles[j]][part]
            parts[j] = second.sums(v[tiles[j]][part], m, chain.tensors[i][j].value(part))

        def settle(moved: bool) -> blobs.Entry:
            factor = second.factor(np.sum([parts[j] for j in sorted(parts)], axis=0))
            if chained and not moved and not drift.any() and factor == first_tile.factor:
                factor = first_tile.factor
                entry = blobs.Entry("same", [])
            else:
                entry = blobs.Entry("second", [factor, 0])
            tensor = chain.tensors[i]
            tensor[:] = [replace(state, factor=factor) for state in tensor]
            return entry

        return Coding(
            i,
            blobs.Entry("second", [1.0, 0]),
            [drift],
            symbols=symbols,
            after=after,
            settle=settle,
        )

    def _lattice(self, i: int, codec: Balanced) -> Coding | None:
        chain, array = self._chain, self._live.state[i]
        noise, matrix = self._noise(i, codec), self._matrix(i, codec)
        if not np.isfinite(noise):
            return None
        real, whole = real_dtype(array.dtype), bool(matrix and noise)
        survey, ways, moments = lattice.Survey(), [], []
        for j, tile, values in self._live.tiles(i):
            moment, state = chain.direction(i, j), chain.as_lattice(i, j)
            target = values.astype(real, copy=False)
            survey.look(target, state, moment)
            part = ALL if whole else every(every_of(array.size), tile)
            ways.append(target[part] - state.position(part))
            if moment is not None:
                moments.append(moment[part])
        way, direction = np.concatenate(ways), np.concatenate(moments) if moments else None
        del ways, moments
        if noise == 0 and survey.exponent is not None:
            exponent, direction = survey.exponent, None  # nothing new to be finer about
        else:
            noise = noise or (codec.tolerance * rms(way)) ** 2
            exponent = lattice.choose_exponent((_STEP * noise) ** 0.5, survey.largest, real)
        reach = survey.largest + 2 * lattice.FAR * 2.0**exponent
        if not reach <= positive_range(array.dtype)[1]:
            return None
        if whole:
            lattice.lead(way, exponent, self._lost_momentum(i))
            foretold = lattice.predict(way, direction, survey, exponent)
            del direction  # as large as the tensor
            if foretold is None:
                return None
            return self._approximated(i, way, foretold, survey, matrix, noise)
        step = None if direction is None else lattice.follow(way, direction, survey, exponent)
        if step is None or step.rebase:  # the bound of the way was not close enough to tell
            survey.farthest = self._farthest(i, real)
            if direction is None and survey.farthest <= 2.0**exponent / 2:
                return Coding(i, blobs.Entry("same", []))
            step = lattice.follow(way, direction, survey, exponent)
        if step is None:
            return None

        def symbols(j: int) -> np.ndarray:
            target = array[chain.table.tiles[i][j]].astype(real, copy=False)
            moment = chain.direction(i, j) if step.beta else None
            return lattice.correct(target, chain.as_lattice(i, j), step, moment)

        def settle(moved: bool) -> blobs.Entry:
            return blobs.Entry("lattice", replace(step, corrected=moved).write())

        return Coding(i, blobs.Entry("lattice", step.write()), symbols=symbols, settle=settle)

    def _farthest(self, i: int, real: np.dtype[Any]) -> float:
        """The farthest way that a value of weight `i` has to go."""
        ways = [
            largest(values.astype(real, copy=False) - self._chain.as_lattice(i, j).position())
            for j, _, values in self._live.tiles(i)
        ]
        return float(np.max(ways))  # NaN where one is

    def _approximated(
        self,
        i: int,
        way: np.ndarray,
        foretold: lattice.Step,
        survey: lattice.Survey,
        matrix: Matrix,
        noise: float,
    ) -> Coding | None:
        coded = lattice.approximate(way, foretold, survey, matrix, noise, self._ranks[i])
        if coded is None:
            return None
        step, k, factors = coded
        if not (step.beta or step.corrected or factors):
            return Coding(i, blobs.Entry("same", []))
        self._ranks[i] = (factors.scale.rank if factors else 0) + _SPARE
        shared, tiles = factors.symbols() if factors else [], self._chain.table.tiles[i]
        return Coding(
            i,
            blobs.Entry("lattice", step.write()),
            shared,
            lambda j: None if k is None else k[tiles[j]],
        )

    def _products(
        self, i: int, ratio: np.ndarray, codec: Balanced, matrix: Matrix
    ) -> Coding | None:
        noise = self._moment_noise(i, sample(ratio), codec)
        if not np.isfinite(noise):
            return None
        factors = outer.encode(ratio, matrix, noise, self._ranks[i]) if ratio.any() else None
        if factors is None:
            before, changed = (
                self._chain.tensors[i][0],
                self._chain.references[i] in self._live.changed,
            )
            nothing = isinstance(before, first.Scaled) and before.nothing and not changed
            return Coding(i, blobs.Entry("same", []) if nothing else blobs.Entry("outer", _EMPTY))
        if not factors.scale.unit < 1e31:
            return None
        self._ranks[i] = factors.scale.rank + _SPARE
        return Coding(i, blobs.Entry("outer", factors.scale.write()), factors.symbols())

    def _matrix(self, i: int, codec: Balanced) -> Matrix:
        """Tensor `i` as the matrix whose outer products are stored."""
        return view(self._chain.table.shapes[i]) if codec.matrices else Matrix(1, 0)

    def _noise(self, i: int, codec: Balanced) -> float:
        """The variance that the error of weight `i` may have; 0 where it has not moved.

        It follows the movement down to a share of the farthest one: when the learning rate
        has decayed, what is still to come is too little to be finer about.
        """
        moved, array = self._live.moved(i), self._live.state[i]
        allowed = codec.largest_share * rms(array.astype(real_dtype(array.dtype), copy=False))
        if moved:
            moved = max(moved, _SLOW * self._fastest[i])
        return min(codec.tolerance * moved, allowed or np.inf) ** 2

    def _ratio(self, i: int) -> np.ndarray | None:
        """First moment `i` in units of the root of the second one, as a decoder has that; None
        where the numbers are too large or not finite."""
        tiles = [(values, self._chain.reference(i, j)) for j, _, values in self._live.tiles(i)]
        if not all(first.fits(values, scale, 0) for values, scale in tiles):
            return None
        return np.concatenate([first.ratio(values, scale) for values, scale in tiles])

    def _moment_noise(self, i: int, ratio: np.ndarray, codec: Balanced) -> float:
        """The variance that the error of first moment `i` may have, a sample of which is given
        as its ratio to the root of the second: as much as moves the weights by their error."""
        size = rms(ratio) ** 2
        weight = self._weights.get(i)
        if weight is None:
            return codec.tolerance**2 * size
        moved = sample(self._live.state[weight]).astype(ratio.dtype)
        moved -= self._live.seen[weight].astype(ratio.dtype)
        beta = dot(ratio, moved) / (dot(ratio, ratio) or 1.0)
        before = _MEMORY**self._live.steps if self._live.steps else self._likeness(i)
        self._coast[weight] = beta * _MEMORY / max(1 - before, 1 - _MEMORY)
        noise = self._noise(weight, codec)
        if not beta:
            return size / 4  # nothing tells what it does to the weights
        return min((_MOMENT * noise) ** 0.5 / abs(beta), size**0.5) ** 2

    def _likeness(self, i: int) -> float:
        """How much of first moment `i` is that of the last checkpoint: their correlation."""
        real = real_dtype(self._live.state[i].dtype)
        now, then = sample(self._live.state[i]).astype(real), self._live.seen[i].astype(real)
        return dot(now, then) / (rms(now) * rms(then) * now.size or 1.0)

    def _lost_momentum(self, i: int) -> np.ndarray | None:
        """How far weight `i` would still have gone by the part of its first moment that is not
        stored; it goes there at once instead.

        A moment whose memory of a step is `b` moves the weight by `b / (1 - b)` times its last
        movement, when no gradient follows. Between two checkpoints it has moved it by
        `(1 - c) / (1 - b)` times its last movement, `c` being what the moment remembers of the
        one before: `coast` is the quotient, times the movement for each unit of the moment.
        """
        moment, coast = self._chain.references[i], self._coast[i]
        if not coast or not isinstance(self._chain.reference(i, 0), first.Scaled):
            return None
        lost = self._ratio(moment)
        if lost is None:
            return None
        for j, tile, _ in self._live.tiles(moment):
            stored = self._chain.tensors[moment][j]
            lost[tile] -= stored.integers().astype(lost.dtype) * lost.dtype.type(stored.unit)
        lost *= lost.dtype.type(coast)
        return lost if np.isfinite(lost).all() else None
