import math

import ml_dtypes
import numpy as np
import pytest

from keras_lc.core import LC
from keras_lc.core.codecs import buckets
from keras_lc.errors import DamagedError

from .chains import SPECS, Ends, bits, training


def bucket(value):
    """Exponent and sign, larger for larger exponents."""
    return math.frexp(value)[1], value < 0


def published(live, had, x):
    """One delta of tensors that share their buckets, as the paper says, value by value; the
    arithmetic is that of the dtype."""
    delta, members = {}, {}
    for name, u in live.items():
        one = u.dtype.type
        pairs = zip(u.flat, had[name].flat, strict=True)
        delta[name] = [one(a) - one(b) for a, b in pairs]
        for value in delta[name]:
            if value:
                members.setdefault(bucket(value), []).append(value)
    kept = sorted(members, reverse=True)[: 2**x - 1]
    centre = {key: (max(members[key]) + min(members[key])) / 2 for key in kept}
    after = {}
    for name, u in live.items():
        one = u.dtype.type
        moves = [one(centre.get(bucket(value), 0)) if value else one(0) for value in delta[name]]
        moved = [one(b) + move for b, move in zip(had[name].flat, moves, strict=True)]
        after[name] = np.array(moved, u.dtype).reshape(u.shape)
    return after


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
        for name in state:
            expected = expected | published({name: state[name]}, {name: expected[name]}, x)
        decoded = ends.send(state)
        for name in state:
            assert bits(decoded[name]) == bits(expected[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x", [1, 2, 3, 8])
def test_one_table_for_the_model_is_the_published_method_over_all_values(x, dtype):
    states = []
    for state in training(8, seed=1):
        kernel, bias = state["w/kernel"].astype(dtype), state["w/bias"].astype(dtype)
        # the second moves less: few of its values fall into buckets that are kept
        states.append({"a": kernel, "b": bias / 16, "c": np.zeros(3, dtype)})
    ends = Ends(states[0], LC(x, "model"))
    apart = Ends(states[0], LC(x))
    expected, differs = states[0], False
    for state in states[1:]:
        expected = published(state, expected, x)
        decoded, other = ends.send(state), apart.send(state)
        for name in state:
            assert bits(decoded[name]) == bits(expected[name])
            differs |= bits(decoded[name]) != bits(other[name])
    assert differs


def test_one_table_is_shared_by_the_tensors_of_one_rule_alone():
    states = [
        {name: state[f"w/{name}"] for name in ("kernel", "bias")} for state in training(5, seed=3)
    ]
    codec = {"kernel": LC(2, "model"), "*": LC(3, "model")}
    ends = Ends(states[0], codec)
    expected = states[0]
    for state in states[1:]:
        for name, x in [("kernel", 2), ("bias", 3)]:
            expected = expected | published({name: state[name]}, {name: expected[name]}, x)
        decoded = ends.send(state)
        for name in state:
            assert bits(decoded[name]) == bits(expected[name])


def test_moments_and_sick_tensors_are_not_in_the_table_of_the_model():
    base, state = training(1, seed=4)
    sick = state | {"w/bias": np.full_like(state["w/bias"], np.nan)}
    moments = {"v/kernel": 1e6 * state["v/kernel"]}
    one = Ends(base, LC(2, "model"), SPECS).send(sick | moments)
    other = published({"k": state["w/kernel"]}, {"k": base["w/kernel"]}, 2)
    assert bits(one["w/kernel"]) == bits(other["k"])
    assert bits(one["w/bias"]) == bits(sick["w/bias"])
    assert bits(one["v/kernel"]) == bits(moments["v/kernel"])


@pytest.mark.parametrize("table", ["tensor", "model"])
def test_the_table_of_a_model_of_several_dtypes_fits_all(table):
    base = {"wide": np.zeros(9), "narrow": np.zeros(9, np.float32), "half": np.zeros(9, np.float16)}
    moved = {
        "wide": np.full(9, 1e300),
        "narrow": np.full(9, 1e30, np.float32),
        "half": np.ones(9, np.float16),
    }
    decoded = Ends(base, LC(4, table)).send(moved)
    for name, array in moved.items():
        assert bits(decoded[name]) == bits(array)


@pytest.mark.parametrize("table", ["tensor", "model"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_movement_across_the_whole_range_is_followed(dtype, table):
    top = np.finfo(dtype).max
    base, moved = np.zeros(9, dtype), np.linspace(0.55, 0.9, 9).astype(dtype) * top
    decoded = Ends({"w": base}, LC(2, table)).send({"w": moved})["w"]
    assert (np.abs(decoded / top - moved / top) <= 0.25).all()


def test_feedback_keeps_the_error_from_growing():
    states = [{"w": state["w/kernel"]} for state in training(100, seed=2)]
    ends = Ends(states[0], LC(3))
    errors = [np.abs(ends.send(state)["w"] - state["w"]).max() for state in states[1:]]
    assert max(errors[50:]) < 3 * max(errors[:10])


def test_two_bits_keep_three_buckets():
    rng = np.random.default_rng(0)
    target = rng.normal(size=1000).astype(np.float32)
    delta = buckets.difference(target, np.zeros_like(target))
    table = buckets.Buckets()
    table.add(delta)
    centres = table.kept(2)
    number = buckets.number(delta, centres)
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
