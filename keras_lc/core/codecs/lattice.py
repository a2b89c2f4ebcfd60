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
from keras_lc.core.floats import real_dtype
from keras_lc.core.matrix import Matrix
from keras_lc.errors import DamagedError

LIMIT = 1 << 23  # up to here q is exact in float32; beyond it start again from the value
FINE = 4  # movements are rounded to 2**-FINE of the step
FAR = 3
LEAD = 0.1
_EXPONENTS = range(-1060, 1000)


@dataclass(frozen=True)
class Lattice:
    """A tensor as integers on a lattice around an anchor.

    `anchor` is flat and of the tensor's dtype, `q` int32 of the same size; `exponent` is that
    of the last step, None before the first.
    """

    anchor: np.ndarray
    unit: int
    q: np.ndarray
    exponent: int | None = None

    def position(self) -> np.ndarray:
        """The point on the lattice, in float32 (float64 for a float64 tensor)."""
        real = real_dtype(self.anchor.dtype)
        out = self.q.astype(real)
        out *= _power(self.unit, real)
        out += self.anchor
        return out

    def value(self) -> np.ndarray:
        """The position, rounded to the dtype."""
        return self.position().astype(self.anchor.dtype, copy=False)


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
    """A lattice around a value; as long as all of q is zero, any unit serves."""
    return Lattice(value, 0, np.zeros(value.size, np.int32))


def choose_exponent(step: float, largest: float, real: np.dtype[Any]) -> int:
    """The power of two nearest to a step, not finer than the dtype can show."""
    tiny = float(np.finfo(real).tiny)
    finest = int(np.frexp(max(largest, tiny))[1]) - np.finfo(real).nmant - 2
    exponent = max(int(np.rint(np.log2(max(step, tiny)))), finest)
    return min(max(exponent, _EXPONENTS[0] + FINE), _EXPONENTS[-1])


def encode(
    target: np.ndarray,
    state: Lattice,
    exponent: int,
    moment: np.ndarray | None,
    matrix: Matrix,
    noise: float = 0.0,
    rank: int = 0,
    ahead: np.ndarray | None = None,
) -> tuple[Step, np.ndarray | None, Outer | None] | None:
    """How `state` gets near `target` (flat, real dtype).

    Args:
        exponent: of the step.
        moment: integers that the movement may follow.
        matrix: the tensor as a matrix.
        noise: variance of the error of a matrix; 0 leaves the outer products out.
        rank: how many of them to expect.
        ahead: how far beyond the target to go.

    Returns:
        The step, the corrections and the outer products, where there are any; None where the
        way is too far for a lattice of this step.
    """
    residual = target - state.position()
    if not np.isfinite(residual).all():
        return None
    if matrix and noise:
        # what is left out are the small and steady movements: without a lead, they lag behind
        lead = residual * residual.dtype.type(LEAD)
        lead += 0 if ahead is None else ahead
        farthest = residual.dtype.type(FAR) * _power(exponent, residual.dtype)
        residual += np.clip(lead, -farthest, farthest, out=lead)
    step, factors, way = Step(exponent, _beta(residual, exponent, moment)), None, 0
    if step.beta and moment is not None:
        way += _subtract(residual, _predict(moment, step.beta), step.unit)
    if matrix and noise:
        factors = outer.encode(residual, matrix, noise, rank)
        if factors is not None:
            way += _subtract(residual, _movement(factors, step.unit), step.unit)
    residual /= _power(exponent, residual.dtype)
    if matrix and noise:
        residual[np.abs(residual) < FAR] = 0
    np.rint(residual, out=residual)
    if residual.size and float(np.abs(residual).max()) > LIMIT:
        return None
    k = residual.astype(np.int32)
    way += _largest(k) << FINE
    if way > LIMIT // 4:
        return None
    unit = min(state.unit, step.unit)
    rebase = (_largest(state.q) << state.unit - unit) + (way << step.unit - unit) > LIMIT
    corrected = bool(k.any())
    scale = factors.scale if factors else None
    step = replace(step, rebase=rebase, corrected=corrected, scale=scale)
    return step, k if corrected else None, factors


def advance(
    state: Lattice,
    step: Step,
    k: np.ndarray | None,
    moment: np.ndarray | None,
    factors: Outer | None,
) -> Lattice:
    """The state after a delta."""
    if step.rebase:
        state = start(state.value())
    before = state.unit if state.q.any() else step.unit
    finer, coarser = max(0, before - step.unit), max(0, step.unit - before)
    if max(finer, coarser) > LIMIT.bit_length():
        raise DamagedError(f"a lattice step of 2**{step.exponent} is too far from the last.")
    q = state.q << finer
    if k is not None:
        q += k << (FINE + coarser)
    if step.beta:
        if moment is None:
            raise DamagedError("a lattice step is predicted from a moment that is not there.")
        q += _predict(moment, step.beta) << coarser
    if factors is not None:
        q += _movement(factors, step.unit) << coarser
    return Lattice(state.anchor, before - finer, q, step.exponent)


def _power(exponent: int, real: np.dtype[Any]) -> Any:
    return np.ldexp(real.type(1), exponent)


def _largest(q: np.ndarray) -> int:
    return max(int(q.max()), -int(q.min())) if q.size else 0


def _subtract(residual: np.ndarray, movement: np.ndarray, unit: int) -> int:
    """Take a movement in lattice units off; its largest value is given back."""
    residual -= movement.astype(residual.dtype) * _power(unit, residual.dtype)
    return _largest(movement)


def _beta(residual: np.ndarray, exponent: int, moment: np.ndarray | None) -> float:
    """How far a weight moves for each unit of its moment, in lattice units; least squares."""
    if moment is None:
        return 0.0
    direction = moment.astype(residual.dtype)
    energy, along = float(direction @ direction), float(direction @ residual)
    # a prediction must explain a noticeable part of the movement to be worth its noise
    if not along * along > 0.02 * energy * float(residual @ residual):
        return 0.0
    beta = along / energy / float(_power(exponent - FINE, residual.dtype))
    return float(f"{beta:.3g}") if abs(beta) < LIMIT // 2 else 0.0


def _round(movement: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(movement), -LIMIT, LIMIT).astype(np.int32)


def _predict(moment: np.ndarray, beta: float) -> np.ndarray:
    return _round(moment.astype(np.float64) * beta)


def _movement(factors: Outer, unit: int) -> np.ndarray:
    """The outer products in lattice units."""
    return _round(factors.integers().astype(np.float64) * np.ldexp(factors.scale.unit, -unit))
