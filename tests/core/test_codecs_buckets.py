import math

import ml_dtypes
import numpy as np
import pytest

from keras_lc.core import LC
from keras_lc.core.codecs import buckets
from keras_lc.errors import DamagedError

from .chains import Ends, bits, training


def published(u, reconstructed, x):
    """One delta as the paper says, value by value; the arithmetic is that of the dtype."""
    one = u.dtype.type
    delta = [one(a) - one(b) for a, b in zip(u.flat, reconstructed.flat, strict=True)]
    members = {}
    for value in delta:
        if value:
            members.setdefault((math.frexp(value)[1], value < 0), []).append(value)
    kept = sorted(members, reverse=True)[: 2**x - 1]
    centre = {key: (max(members[key]) + min(members[key])) / one(2) for key in kept}
    result = [
        one(b) + centre.get((math.frexp(value)[1], value < 0), one(0)) if value else one(b)
        for value, b in zip(delta, reconstructed.flat, strict=True)
    ]
    return np.array(result, u.dtype).reshape(u.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x", range(1, 9))
def test_lc_is_the_published_method(x, dtype):
    states = [
        {name: state[name].astype(dtype) for name in ("w/kernel", "w/bias")}
        for state in training(8, seed=1)
    ]
    ends = Ends(states[0], LC(x))
    expected = states[0]
    for state in states[1:]:
        expected = {name: published(state[name], expected[name], x) for name in state}
        decoded = ends.send(state)
        for name in state:
            assert bits(decoded[name]) == bits(expected[name])


def test_feedback_keeps_the_error_from_growing():
    states = [{"w": state["w/kernel"]} for state in training(100, seed=2)]
    ends = Ends(states[0], LC(3))
    errors = [np.abs(ends.send(state)["w"] - state["w"]).max() for state in states[1:]]
    assert max(errors[50:]) < 3 * max(errors[:10])


def test_two_bits_keep_three_buckets():
    rng = np.random.default_rng(0)
    target = rng.normal(size=1000).astype(np.float32)
    centres, number = buckets.encode(target, np.zeros_like(target), 2)
    assert len(centres) == 3
    assert set(np.unique(number)) == {0, 1, 2, 3}
    exponent = np.frexp(target)[1]
    assert exponent[number == 0].max() <= exponent[number > 0].min()


@pytest.mark.parametrize("count", [1, 20])
def test_many_buckets_of_a_wide_range_can_be_decoded(count):
    rng = np.random.default_rng(1)
    names = [f"w{i}" for i in range(count)]
    size = 2000
    wide = {name: rng.choice([-1, 1], size) * 10.0 ** rng.uniform(-150, 0, size) for name in names}
    ends = Ends({name: np.zeros(size) for name in names}, LC(8))
    ends.send(wide)


def test_wide_ranges_of_float32_can_be_decoded():
    rng = np.random.default_rng(2)
    size = 4000
    wide = {
        f"w{i}": (rng.choice([-1, 1], size) * 10.0 ** rng.uniform(-20, 0, size)).astype(np.float32)
        for i in range(10)
    }
    ends = Ends({name: np.zeros(size, np.float32) for name in wide}, LC(8))
    ends.send(wide)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_with_nan_or_inf_is_stored_exactly_and_recovers(dtype, bad):
    x = np.linspace(-1, 1, 9).astype(dtype)
    sick = x.copy()
    sick[2] = bad
    ends = Ends({"w": x}, LC(4))
    assert bits(ends.send({"w": sick})["w"]) == bits(sick)
    assert np.abs(ends.send({"w": x})["w"].astype(np.float64) - x.astype(np.float64)).max() < 0.5


def test_a_number_past_the_table_is_refused():
    for number in ([0, 2], [0, -1]):
        with pytest.raises(DamagedError):
            buckets.advance(np.zeros(2, np.float32), [1.0], np.array(number, np.int16))
