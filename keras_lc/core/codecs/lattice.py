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

from keras_lc.errors import DamagedError

LIMIT = 1 << 23  # beyond it q is no longer exact in float32; start again from the value
FINE = 4  # predictions are rounded to 2**-FINE of the step
_EXPONENTS = range(-1060, 1000)


@dataclass
class Lattice:
    """A tensor as integers on a lattice around an anchor.

    `anchor` is flat and of the tensor's dtype, `q` int32 of the same size; `value()` is
    rounded to the dtype.
    """

    anchor: np.ndarray
    unit: int
    q: np.ndarray

    def position(self) -> np.ndarray:
        """The point on the lattice, in float32 (float64 for a float64 tensor)."""
        real = real_dtype(self.anchor.dtype)
        out = self.q.astype(real)
        out *= _power(self.unit, real)
        out += self.anchor
        return out

    def value(self) -> np.ndarray:
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


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The float in which the arithmetic on a dtype is done."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def _power(exponent: int, real: np.dtype[Any]) -> Any:
    return np.ldexp(real.type(1), exponent)


def start(value: np.ndarray) -> Lattice:
    """A lattice around a value; as long as all of q is zero, any unit serves."""
    return Lattice(value, 0, np.zeros(value.size, np.int32))


def choose_exponent(step: float, largest: float, real: np.dtype[Any]) -> int:
    """The power of two nearest to a step, not finer than the dtype can show."""
    finest = np.frexp(max(largest, float(np.finfo(real).tiny)))[1] - np.finfo(real).nmant - 2
    exponent = int(np.rint(np.log2(max(step, float(np.finfo(real).tiny)))))
    return int(np.clip(max(exponent, finest), _EXPONENTS[0] + FINE, _EXPONENTS[-1] - FINE))


def _predict(moment: np.ndarray, beta: float) -> np.ndarray:
    movement = np.rint(moment.astype(np.float32) * np.float32(beta))
    return np.clip(movement, -LIMIT, LIMIT).astype(np.int32)


def encode(
    target: np.ndarray, state: Lattice, exponent: int, moment: np.ndarray | None
) -> tuple[Step, np.ndarray]:
    """Symbols that bring `state` to within half a step of `target` (flat, real dtype)."""
    residual = target - state.position()
    beta = 0.0
    if moment is not None:
        unit = float(_power(exponent - FINE, residual.dtype))
        direction = moment.astype(residual.dtype)
        energy = float(direction @ direction)
        along = float(direction @ residual)
        # a prediction must explain a noticeable part of the movement to be worth its noise
        if energy and along * along > 0.02 * energy * float(residual @ residual):
            beta = float(f"{along / energy / unit:.3g}")
        if beta:
            residual -= _predict(moment, beta).astype(residual.dtype) * residual.dtype.type(unit)
    residual /= _power(exponent, residual.dtype)
    np.rint(residual, out=residual)
    k = np.clip(residual, -LIMIT, LIMIT).astype(np.int32)
    step = Step(exponent, beta)
    finer = max(0, state.unit - exponent + step.shift)
    if _largest(state.q) << finer > LIMIT // 2:
        step = Step(exponent, beta, rebase=True)
    return step, k


def _largest(q: np.ndarray) -> int:
    return max(int(q.max()), -int(q.min())) if q.size else 0


def advance(state: Lattice, step: Step, k: np.ndarray, moment: np.ndarray | None) -> Lattice:
    """The state after a delta; `state` is used up. Encoder and decoder both go through here."""
    if step.exponent not in _EXPONENTS or not abs(step.beta) < LIMIT:
        raise DamagedError(f"a lattice step of 2**{step.exponent}, beta {step.beta} is impossible.")
    if step.rebase:
        state = start(state.value())
    unit = step.exponent - step.shift
    if not state.q.any():
        state.unit = unit
    elif unit < state.unit:
        state.q <<= min(state.unit - unit, 31)
        state.unit = unit
    state.q += k << (step.exponent - state.unit)
    if step.beta:
        if moment is None:
            raise DamagedError("a lattice step is predicted from a moment that is not there.")
        state.q += _predict(moment, step.beta) << (unit - state.unit)
    return state
