"""Weights on an integer lattice: `x_hat = anchor + q * 2**unit`, `q` integers.

A delta is computed against the reconstruction, so errors never accumulate: whatever the
number of deltas, the error is that of the last one alone. It moves `q` by the sum of

- a prediction, `rint(beta * m)`, `m` being the integers of the decoded first moment in units
  of the root of the second: the direction in which Adam moves the weight;
- for a matrix, a few outer products (`outer`), rounded to the lattice;
- what is left, `k` whole steps. A vector is brought to within half a step, `2**exponent`; of
  a matrix, whose outer products leave an error of about a quarter of a step, only values
  that are `FAR` steps off or more are corrected, so that the error has a bound there too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_lc.core.codecs import outer
from keras_lc.core.codecs.outer import Outer, Scale
from keras_lc.core.floats import largest, real_dtype
from keras_lc.core.integers import Integers
from keras_lc.core.matrix import Matrix
from keras_lc.core.products import dot
from keras_lc.core.tiles import ALL
from keras_lc.errors import DamagedError

LIMIT = 1 << 23  # up to here q is exact in float32; beyond it start again from the value
FINE = 4  # movements are rounded to 2**-FINE of the step
FAR = 3
LEAD = 0.1
_WHOLE = 8
_EXPONENTS = range(-1060, 1000)


@dataclass(frozen=True)
class Lattice:
    """A tile as integers on a lattice around an anchor.

    `anchor` is flat and of the tensor's dtype, `top` its largest absolute value; `q`, of the
    same size, is None where all of it is zero, and then any unit serves. `exponent` is that of
    the last step, None before the first.
    """

    anchor: np.ndarray
    top: float
    unit: int = 0
    q: Integers | None = None
    exponent: int | None = None

    def position(self, part: slice = ALL) -> np.ndarray:
        """The point on the lattice, or some of its values, in float32 (float64 for a float64
        tensor)."""
        anchor = self.anchor[part]
        out = np.empty(anchor.size, real_dtype(anchor.dtype))
        self._place(part, out)
        return out

    def _place(self, part: slice, out: np.ndarray) -> None:
        if self.q is None:
            out[:] = self.anchor[part]
        else:
            power = _power(self.unit, out.dtype)
            np.multiply(self.q.array[part], power, out=out, dtype=out.dtype)
            out += self.anchor[part]

    def value(self, part: slice = ALL) -> np.ndarray:
        """The position, rounded to the dtype."""
        return self.position(part).astype(self.anchor.dtype, copy=False)

    def place(self, out: np.ndarray) -> None:
        """Write the position to an array of a real dtype."""
        self._place(ALL, out)

    @property
    def reach(self) -> float:
        """How far values are from their anchors, at most."""
        return float(np.ldexp(self.q.most, self.unit)) if self.q else 0.0


@dataclass(frozen=True)
class Step:
    """What a delta says of one tensor besides its symbols."""

    exponent: int  # the step is 2**exponent
    beta: float = 0.0  # predicted movement in lattice units for each unit of the moment
    rebase: bool = False  # the value so far becomes the anchor
    corrected: bool = True  # whether there are single corrections, k
    scale: Scale | None = None  # of the outer products

    @property
    def unit(self) -> int:
        """The lattice that this step needs."""
        return self.exponent - FINE

    def write(self) -> list[Any]:
        """As a list for JSON."""
        flags = self.rebase + 2 * self.corrected
        return [self.exponent, self.beta, flags, *(self.scale.write() if self.scale else [])]

    @classmethod
    def read(cls, params: list[Any], matrix: Matrix) -> Step:
        """The reverse of `write`, checked."""
        exponent, beta, flags, *scale = params
        if exponent not in _EXPONENTS or not abs(beta) < LIMIT or flags not in range(4):
            raise DamagedError(f"a lattice step of 2**{exponent}, beta {beta} is impossible.")
        factors = Scale.read(scale, matrix) if scale else None
        if factors and not factors.unit < 2.0**exponent * LIMIT:
            raise DamagedError("the factors of a matrix are too large for its lattice.")
        return cls(int(exponent), float(beta), bool(flags & 1), bool(flags & 2), factors)


def start(value: np.ndarray) -> Lattice:
    """A lattice around a value."""
    return Lattice(value, largest(value))


def choose_exponent(step: float, farthest: float, real: np.dtype[Any]) -> int:
    """The power of two nearest to a step, not finer than the dtype can show."""
    info = np.finfo(real)
    tiny = float(info.tiny)
    finest = int(np.frexp(max(farthest, tiny))[1]) - info.nmant - 2
    finest = max(finest, int(info.minexp) - info.nmant + FINE)
    exponent = max(int(np.rint(np.log2(max(step, tiny)))), finest)
    return min(max(exponent, _EXPONENTS[0] + FINE), _EXPONENTS[-1])


@dataclass
class Survey:
    """What has to be known of all tiles before the first of them is coded."""

    reach: float = 0.0  # of the values from their anchors
    largest: float = 0.0  # absolute value of the targets
    farthest: float = 0.0  # bound of the way to them
    moment: float = 0.0  # absolute value of the integers that the movement may follow
    finest: int = _EXPONENTS[-1]  # unit of the tiles
    exponent: int | None = None  # of the step before

    def look(self, target: np.ndarray, tile: Lattice, moment: np.ndarray | None) -> None:
        """Take in a tile and its target, in a real dtype."""
        self.exponent = tile.exponent
        self.reach = max(self.reach, tile.reach)
        if tile.q is not None:
            self.finest = min(self.finest, tile.unit)
        if moment is not None:
            self.moment = max(self.moment, largest(moment))
        top = largest(target)
        way = target.dtype.type(top + tile.top + tile.reach)  # infinite beyond its range
        self.largest = float(np.maximum(self.largest, top))
        self.farthest = float(np.maximum(self.farthest, way))

    def settle(self, step: Step, way: float) -> Step | None:
        """The step, with a new anchor if it must be; None where its integers would be too
        large. `way` bounds the movement of a value in units of the step."""
        if not (np.isfinite(self.farthest) and way <= LIMIT // 4):
            return None
        distance = self.reach + float(np.ldexp(way, step.unit))
        rebase = np.ldexp(distance, -min(step.unit, self.finest)) > LIMIT
        return replace(step, rebase=bool(rebase))


def follow(
    residual: np.ndarray, moment: np.ndarray | None, survey: Survey, exponent: int
) -> Step | None:
    """The step that brings every value to within half of it.

    Args:
        residual: a sample of the way to go, flat, of a real dtype.
        moment: the same sample of the integers that the movement may follow.
        survey: of all tiles.
        exponent: of the step.
    """
    step = Step(exponent, _beta(residual, exponent, moment))
    way = float(np.ldexp(survey.farthest, -step.unit)) + 2 * abs(step.beta) * survey.moment
    return survey.settle(step, way + (2 << FINE))


def correct(target: np.ndarray, tile: Lattice, step: Step, moment: np.ndarray | None) -> np.ndarray:
    """The corrections of one tile after `follow`."""
    before = start(tile.value()) if step.rebase else tile
    unit, ahead = _ahead(before, step, _ways(step, moment, None, ALL, target.dtype))
    residual = target - before.anchor
    if ahead is not None:
        residual -= np.multiply(ahead.array, _power(unit, residual.dtype), dtype=residual.dtype)
    residual /= _power(step.exponent, residual.dtype)
    return Integers.of(np.rint(residual, out=residual)).array


def lead(residual: np.ndarray, exponent: int, ahead: np.ndarray | None) -> None:
    """Lengthen the way of a matrix to its target, which is overwritten: what its outer products
    leave out are the small and steady movements, which would lag behind. `ahead` is how far beyond
    the target to go besides."""
    further = residual * residual.dtype.type(LEAD)
    further += 0 if ahead is None else ahead
    farthest = residual.dtype.type(FAR) * _power(exponent, residual.dtype)
    residual += np.clip(further, -farthest, farthest, out=further)


def predict(
    residual: np.ndarray, moment: np.ndarray | None, survey: Survey, exponent: int
) -> Step | None:
    """The step of a matrix so far; what its moment foretells is taken off the way, which is
    overwritten. None where the way is too far. Arguments as of `follow`, but of all values."""
    if not np.isfinite(survey.farthest):
        return None
    step = Step(exponent, _beta(residual, exponent, moment))
    if step.beta and moment is not None:
        if survey.moment * abs(step.beta) + 1 > LIMIT // 4:
            return None
        _subtract(residual, _predict(moment, step.beta, residual.dtype), step.unit)
    return step


def approximate(
    residual: np.ndarray,
    step: Step,
    survey: Survey,
    matrix: Matrix,
    noise: float,
    rank: int,
) -> tuple[Step, np.ndarray | None, Outer | None] | None:
    """The step that brings a matrix near its target by outer products.

    Args:
        residual: the way to go after `predict`, flat, of a real dtype; it is overwritten.
        step: what `predict` has returned.
        survey: of all tiles.
        matrix: the tensor as a matrix.
        noise: variance of the error.
        rank: how many outer products to expect.

    Returns:
        The step, the corrections and the outer products, where there are any; None where the
        way is too far for a lattice of this step.
    """
    way = survey.moment * abs(step.beta) + 1 if step.beta else 0.0
    factors = outer.encode(residual, matrix, noise, rank)
    if factors is not None:
        way += float(np.ldexp(factors.bound * factors.scale.unit, -step.unit))
        if way > LIMIT // 4:
            return None
        _subtract(residual, _scaled(factors, slice(0, residual.size), step.unit), step.unit)
    residual /= _power(step.exponent, residual.dtype)
    residual[np.abs(residual) < FAR] = 0
    k = np.rint(residual, out=residual).astype(np.int32)
    way += largest(residual) * (1 << FINE)
    settled = survey.settle(step, way)
    if settled is None:
        return None
    corrected = bool(k.any())
    scale = factors.scale if factors else None
    return replace(settled, corrected=corrected, scale=scale), k if corrected else None, factors


def advance(
    state: Lattice,
    step: Step,
    k: np.ndarray | None,
    moment: np.ndarray | None,
    factors: Outer | None,
    tile: slice,
) -> Lattice:
    """The state of a tile after a delta.

    Args:
        state: the tile before.
        step: of the whole tensor.
        k: corrections of the tile.
        moment: integers of the first moment in the tile.
        factors: the outer products of the whole tensor.
        tile: which piece of the tensor this is.
    """
    if step.beta and moment is None:
        raise DamagedError("a lattice step is predicted from a moment that is not there.")
    if step.rebase:
        state = start(state.value())
    ways = _ways(step, moment, factors, tile, real_dtype(state.anchor.dtype))
    if k is not None:
        ways.append((Integers.of(k), FINE))
    unit, q = _ahead(state, step, ways)
    return replace(state, unit=unit, q=q, exponent=step.exponent)


Way = tuple[Integers, int]  # in units of the step times a power of two, and its exponent


def _ways(
    step: Step,
    moment: np.ndarray | None,
    factors: Outer | None,
    tile: slice,
    real: np.dtype[Any],
) -> list[Way]:
    """The movement of a tile, but for the corrections."""
    ways = []
    if step.beta and moment is not None:
        ways.append(_predict(moment, step.beta, real))
    if factors is not None:
        ways.append(_scaled(factors, tile, step.unit))
    return [(Integers.of(way), 0) for way in ways]


def _ahead(state: Lattice, step: Step, ways: list[Way]) -> tuple[int, Integers | None]:
    """The unit and the integers of a tile after a movement."""
    before = state.unit if state.q else step.unit
    finer, coarser = max(0, before - step.unit), max(0, step.unit - before)
    if max(finer, coarser) > LIMIT.bit_length():
        raise DamagedError(f"a lattice step of 2**{step.exponent} is too far from the last.")
    parts = [(way, exponent + coarser) for way, exponent in ways]
    if state.q:
        parts.append((state.q, finer))
    return before - finer, Integers.total(parts)


@dataclass(frozen=True)
class Jump:
    """What stands for several deltas of one tensor besides its symbols."""

    exponent: int  # of the last of them
    unit: int  # in which the way is given
    anchored: bool  # whether there is another anchor since

    def write(self) -> list[Any]:
        """As a list for JSON."""
        return [self.exponent, self.unit, int(self.anchored)]

    @classmethod
    def read(cls, params: list[Any]) -> Jump:
        """The reverse of `write`, checked."""
        exponent, unit, anchored = params
        known = exponent in _EXPONENTS and anchored in (0, 1) and isinstance(unit, int)
        if not (known and exponent - FINE - LIMIT.bit_length() <= unit <= exponent - FINE):
            raise DamagedError(f"a way in units of 2**{unit} is impossible.")
        return cls(int(exponent), unit, bool(anchored))


def jump(state: Lattice, jump: Jump, way: np.ndarray) -> Lattice:
    """The state of a tile after several deltas, `way` being the sum of their movements."""
    finer = state.unit - jump.unit if state.q else 0
    if not 0 <= finer <= LIMIT.bit_length():
        raise DamagedError(f"a way in units of 2**{jump.unit} is too far from the last.")
    parts = [(Integers.of(way), 0)]
    if state.q:
        parts.append((state.q, finer))
    return replace(state, unit=jump.unit, q=Integers.total(parts), exponent=jump.exponent)


def way(before: Lattice, after: Lattice, jump: Jump) -> np.ndarray:
    """The sum of the movements of a tile from one state to another of the same anchor."""
    moved: np.ndarray = _fine(after, jump.unit) - _fine(before, jump.unit)
    return moved


def _fine(state: Lattice, unit: int) -> np.ndarray:
    if state.q is None:
        return np.zeros(state.anchor.size, np.int32)
    return state.q.array.astype(np.int32) << (state.unit - unit)


def _power(exponent: int, real: np.dtype[Any]) -> Any:
    return np.ldexp(real.type(1), exponent)


def _subtract(residual: np.ndarray, movement: np.ndarray, unit: int) -> None:
    """Take a movement in lattice units off, which is overwritten."""
    scaled = movement.astype(residual.dtype, copy=False)
    scaled *= _power(unit, residual.dtype)
    residual -= scaled


def _beta(residual: np.ndarray, exponent: int, moment: np.ndarray | None) -> float:
    """How far a weight moves for each unit of its moment, in lattice units; least squares."""
    if moment is None:
        return 0.0
    direction = moment.astype(residual.dtype)
    energy, along = dot(direction, direction), dot(direction, residual)
    # a prediction must explain a noticeable part of the movement to be worth its noise
    if not along * along > 0.02 * energy * dot(residual, residual):
        return 0.0
    beta = along / energy / float(_power(exponent - FINE, residual.dtype))
    if not abs(beta) < LIMIT // 2:
        return 0.0
    # products of integers are faster, and near enough
    whole = moment.dtype.kind == "i" and abs(beta) >= _WHOLE
    return float(np.rint(beta)) if whole else float(f"{beta:.3g}")


def _predict(moment: np.ndarray, beta: float, real: np.dtype[Any]) -> np.ndarray:
    """Whole numbers of lattice units."""
    most = largest(moment)
    if moment.dtype.kind == "i" and beta == int(beta) and most * abs(beta) < 1 << 15:
        return np.multiply(moment, int(beta), dtype=np.int16)
    return _whole(moment.astype(real), beta, most)


def _scaled(factors: Outer, tile: slice, unit: int) -> np.ndarray:
    """A piece of the outer products in whole numbers of lattice units."""
    values = factors.integers(tile)
    return _whole(values, float(np.ldexp(factors.scale.unit, -unit)), largest(values))


def _whole(values: np.ndarray, factor: float, most: float) -> np.ndarray:
    """Values times a factor, rounded; they are overwritten. `most` bounds them."""
    if not most * abs(factor) <= LIMIT:
        raise DamagedError("the values of a delta are too large for its lattice.")
    values *= values.dtype.type(factor)
    return np.rint(values, out=values)
