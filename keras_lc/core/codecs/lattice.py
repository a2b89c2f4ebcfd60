"""Weights on an integer lattice: `x_hat = anchor + q * 2**unit`, `q` integers.

A delta carries `k`, and `q` moves by `predicted + k * 2**shift`. It is computed against the
reconstruction, so errors never accumulate: whatever the number of deltas, `|x - x_hat|` is
at most half the step `2**(unit + shift)` of the last one, but for the rounding of the dtype.

The prediction is `rint(beta * m)`, `m` being the integers of the decoded first moment in
units of the root of the second: the direction in which Adam moves the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.core.floats import real_dtype
from keras_lc.errors import DamagedError

LIMIT = 1 << 23  # up to here q is exact in float32; beyond it start again from the value
FINE = 4  # predictions are rounded to 2**-FINE of the step
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

    @property
    def shift(self) -> int:
        return FINE if self.beta else 0

    @property
    def unit(self) -> int:
        """The lattice that this step needs."""
        return self.exponent - self.shift


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
    target: np.ndarray, state: Lattice, exponent: int, moment: np.ndarray | None
) -> tuple[Step, np.ndarray] | None:
    """Symbols that bring `state` to within half a step of `target` (flat, real dtype); None
    where the way is too far for a lattice of this step."""
    residual = target - state.position()
    if not np.isfinite(residual).all():
        return None
    step = Step(exponent, _beta(residual, exponent, moment))
    ahead = 0
    if step.beta and moment is not None:
        prediction = _predict(moment, step.beta)
        ahead = _largest(prediction)
        residual -= prediction.astype(residual.dtype) * _power(step.unit, residual.dtype)
    residual /= _power(exponent, residual.dtype)
    np.rint(residual, out=residual)
    if residual.size and float(np.abs(residual).max()) > LIMIT:
        return None
    k = residual.astype(np.int32)
    way = (_largest(k) << step.shift) + ahead
    if way > LIMIT // 4:
        return None
    unit = min(state.unit, step.unit)
    if (_largest(state.q) << state.unit - unit) + (way << step.unit - unit) > LIMIT:
        step = Step(exponent, step.beta, rebase=True)
    return step, k


def advance(state: Lattice, step: Step, k: np.ndarray, moment: np.ndarray | None) -> Lattice:
    """The state after a delta."""
    if step.exponent not in _EXPONENTS or not abs(step.beta) < LIMIT:
        raise DamagedError(f"a lattice step of 2**{step.exponent}, beta {step.beta} is impossible.")
    if step.rebase:
        state = start(state.value())
    before = state.unit if state.q.any() else step.unit
    finer, coarser = max(0, before - step.unit), max(0, step.unit - before)
    if max(finer, coarser) > LIMIT.bit_length():
        raise DamagedError(f"a lattice step of 2**{step.exponent} is too far from the last.")
    q = k << (step.shift + coarser)
    q += state.q << finer
    if step.beta:
        if moment is None:
            raise DamagedError("a lattice step is predicted from a moment that is not there.")
        q += _predict(moment, step.beta) << coarser
    return Lattice(state.anchor, before - finer, q, step.exponent)


def _power(exponent: int, real: np.dtype[Any]) -> Any:
    return np.ldexp(real.type(1), exponent)


def _largest(q: np.ndarray) -> int:
    return max(int(q.max()), -int(q.min())) if q.size else 0


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


def _predict(moment: np.ndarray, beta: float) -> np.ndarray:
    movement = np.rint(moment.astype(np.float32) * np.float32(beta))
    return np.clip(movement, -LIMIT, LIMIT).astype(np.int32)
