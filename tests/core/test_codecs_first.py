import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from keras_lc.core import Balanced, TensorSpec
from keras_lc.core.codecs import first as codec
from keras_lc.errors import DamagedError

from .chains import FLOATS, SPECS, Ends, bits, examples, finite, name_of, rough, training

ROLES = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]


def assert_first(m, live, v, coarseness):
    """Within half a step, a step being `coarseness` root mean squares of m / sqrt(v)."""
    root = np.sqrt(v.astype(np.float64))
    known = root > 0
    ratio = np.where(known, live / np.where(known, root, 1), 0)
    step = coarseness * np.sqrt(np.mean(ratio**2))
    assert (np.abs(m - np.where(known, live, 0)) <= 0.505 * step * root + 1e-30).all()


@pytest.mark.parametrize("coarseness", [0.1, 2.0, 4.0])
def test_first_moments_are_within_half_a_step(coarseness):
    base, *states = training(50, seed=2)
    ends = Ends(base, Balanced(moment_step=coarseness), SPECS)
    for state in states:
        decoded = ends.send(state)
        for name in ("kernel", "bias"):
            assert_first(decoded[f"m/{name}"], state[f"m/{name}"], decoded[f"v/{name}"], coarseness)


@given(rough(np.float32, 30, low=-60, high=100), rough(np.float32, 30, low=-60, high=100))
@examples(200)
def test_first_moments_of_any_magnitude_are_within_half_a_step(live, other):
    v = np.abs(other) + np.float32(1e-18)
    zero = np.zeros_like(live)
    ends = Ends({"w": zero, "m": zero, "v": zero}, "balanced", ROLES)
    decoded = ends.send({"w": zero, "m": live, "v": v})
    assert_first(
        decoded["m"].astype(np.float64),
        live.astype(np.float64),
        decoded["v"],
        Balanced().moment_step,
    )


def test_huge_first_moments_do_not_vanish():
    rng = np.random.default_rng(3)
    live = (1e20 * rng.normal(size=100)).astype(np.float32)
    specs = [TensorSpec("m", "first_moment")]
    decoded = Ends({"m": np.zeros_like(live)}, "balanced", specs).send({"m": live})["m"]
    assert_first(
        decoded.astype(np.float64), live.astype(np.float64), np.ones(100), Balanced().moment_step
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_sick_second_moment_does_not_spoil_the_first(bad):
    rng = np.random.default_rng(4)
    m = rng.normal(size=200).astype(np.float32)
    v = m * m
    v[5] = bad
    zero = np.zeros_like(m)
    decoded = Ends({"w": m, "m": zero, "v": zero}, "balanced", ROLES).send({"w": m, "m": m, "v": v})
    assert finite(decoded["m"])
    assert np.abs(decoded["m"] - m)[:5].max() <= 4 * np.abs(m).max()
    assert decoded["m"].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_first_moment_with_nan_or_inf_is_stored_exactly_and_recovers(bad):
    m = np.linspace(-1, 1, 9, dtype=np.float32)
    sick = m.copy()
    sick[4] = bad
    v = np.ones_like(m)
    ends = Ends({"w": m, "m": m, "v": v}, "balanced", ROLES)
    assert bits(ends.send({"w": m, "m": sick, "v": v})["m"]) == bits(sick)
    assert finite(ends.send({"w": m, "m": m, "v": v})["m"])


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_finite_first_moments_stay_finite_at_the_top_of_the_range(dtype):
    rng = np.random.default_rng(5)
    live = (float(ml_dtypes.finfo(dtype).max) * rng.uniform(0.3, 1, 500)).astype(dtype)
    specs = [TensorSpec("m", "first_moment")]
    decoded = Ends({"m": np.zeros_like(live)}, "balanced", specs).send({"m": live})["m"]
    assert finite(decoded)


def test_the_first_moment_follows_when_only_the_second_moves():
    m = np.linspace(-1, 1, 9, dtype=np.float32)
    ends = Ends({"w": m, "m": m, "v": np.ones_like(m)}, Balanced(moment_step=0.01), ROLES)
    for exponent in (0, 7, -7, 0):
        v = np.full_like(m, 2.0**exponent)
        assert np.abs(ends.send({"w": m, "m": m, "v": v})["m"] - m).max() < 0.02


def test_the_first_moment_follows_when_the_second_is_lossless():
    m, v = np.linspace(-1, 1, 9, dtype=np.float32), np.ones(9, np.float32)
    codec = {"v": "lossless", "*": Balanced(moment_step=0.01)}
    ends = Ends({"w": m, "m": m, "v": 2 * v}, codec, ROLES)
    for factor in (1, 2, 4, 1):
        decoded = ends.send({"w": m, "m": m * factor, "v": v * factor**2})
        assert np.abs(decoded["m"] - m * factor).max() < 0.02 * factor


def test_an_impossible_step_is_refused():
    for step in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DamagedError):
            codec.advance(np.zeros(1, np.int32), step, None, np.dtype(np.float32))
