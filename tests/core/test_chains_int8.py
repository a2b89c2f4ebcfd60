"""Chains in eight bits a value, and the second moments of the codecs that round them most."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import LC, Balanced, Int8, TensorSpec
from keras_lc.core.codecs import blocks

from .chains import (
    FLOATS,
    ROOMY,
    SIDES,
    SPECS,
    Ends,
    bits,
    examples,
    finite,
    matrices,
    name_of,
    roles,
    rough,
    training,
)

SECOND = [TensorSpec("v", "second_moment")]
RULES = {
    "weights": {"w/*": "int8", "*": "balanced"},
    "one weight": {"w/kernel": Int8(), "*": "lc"},
    "moments": {"w/*": "lossless", "*": Int8()},
    "second moments": {"v/*": "int8", "*": LC(3, "model")},
    "all but one": {"m/bias": "smallest", "*": "int8"},
}


def within(live):
    """A 254th of the largest value of each block, and the last rounding."""
    x = np.abs(live.reshape(-1).astype(np.float64))
    info = ml_dtypes.finfo(live.dtype)
    starts = np.arange(0, x.size, blocks.BLOCK)
    largest = np.repeat(np.maximum.reduceat(x, starts), np.diff([*starts, x.size]))
    allowed = largest / 254 + float(info.eps) * (x + largest / 254)
    return (allowed + float(info.smallest_subnormal)).reshape(live.shape)


def assert_near(decoded, live):
    error = np.abs(decoded.astype(np.float64) - live.astype(np.float64))
    assert (error <= within(live)).all()


def assert_second(decoded, live, octaves=3):
    """Never zero unless the live value is, and not far off."""
    assert ((decoded == 0) == (live == 0)).all()
    assert finite(decoded)
    some = live != 0
    logs = np.log2(decoded[some].astype(np.float64)) - np.log2(live[some].astype(np.float64))
    assert (np.abs(logs) <= octaves).all()


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
def test_every_value_of_a_chain_is_near(dtype):
    base, *states = matrices(8, dtype)
    ends = Ends(base, "int8", roles(SIDES))
    for state in states:
        decoded = ends.send(state)
        for name, live in state.items():
            (assert_second if name.startswith("v") else assert_near)(decoded[name], live)


def test_what_is_no_roomy_float_is_exact():
    base, *states = training(6)
    ends = Ends(base, "int8", SPECS)
    for state in states:
        decoded = ends.send(state)
        for name, live in state.items():
            if not name.startswith(("w", "m", "v")) and live.ndim:
                assert bits(decoded[name]) == bits(live)


def test_no_reference_is_needed():
    base, *states = training(6)
    late, soon = Ends(base, "int8", SPECS), Ends(states[2], Int8())
    for state in states[:-1]:
        late.send(state, "balanced" if state is states[1] else None)
    one, other = late.send(states[-1]), soon.send(states[-1])
    for name in ("w/kernel", "w/bias", "m/kernel", "m/bias"):
        assert bits(one[name]) == bits(other[name])


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=name_of)
def test_some_tensors_may_be_in_eight_bits_beside_others(rules, dtype):
    base, *states = matrices(4, dtype, sides=(("kernel", (64, 48)), ("bias", (48,))))
    ends = Ends(base, rules, roles(["kernel", "bias"]))
    for state in states:
        decoded = ends.send(state)
        kinds = {name: entry.kind for name, entry in ends.entries().items()}
        for name, kind in kinds.items():
            if kind == "blocks":
                assert_near(decoded[name], state[name])
            elif kind == "second":
                assert_second(decoded[name], state[name])
            elif name.startswith("w") and rules is RULES["moments"]:
                assert bits(decoded[name]) == bits(state[name])
        assert "blocks" in kinds.values() or rules is RULES["second moments"]


@pytest.mark.parametrize("codec", ["balanced", "smallest", "lossless", "lc", LC(8, "model")])
def test_one_delta_of_another_chain_may_be_in_eight_bits(codec):
    base, *states = matrices(6)
    ends = Ends(base, codec, roles(SIDES))
    for position, state in enumerate(states):
        decoded = ends.send(state, "int8" if position in (1, 4) else None)
        for name, live in state.items():
            if position in (1, 4):
                (assert_second if name.startswith("v") else assert_near)(decoded[name], live)
            elif codec == "lossless":
                assert bits(decoded[name]) == bits(live)


@pytest.mark.parametrize("codec", ["lossless", "balanced", Balanced(0.05), "lc"], ids=str)
def test_one_delta_of_a_chain_in_eight_bits_may_be_another(codec):
    base, *states = matrices(5)
    ends = Ends(base, "int8", roles(SIDES))
    for position, state in enumerate(states):
        decoded = ends.send(state, codec if position == 2 else None)
        for name, live in state.items():
            if position != 2:
                (assert_second if name.startswith("v") else assert_near)(decoded[name], live)
            elif codec == "lossless":
                assert bits(decoded[name]) == bits(live)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("shape", [300, (25, 16)])
def test_a_tensor_with_a_number_that_is_not_finite_is_exact_and_recovers(value, dtype, shape):
    rng = np.random.default_rng(0)
    live = np.abs(rng.normal(size=shape)).astype(dtype)
    sick = live.copy()
    sick.reshape(-1)[7] = value
    fine = {"w/x": live, "m/x": live, "v/x": live}
    ends = Ends(fine, "int8", roles(["x"]))
    for name in fine:
        decoded = ends.send(fine | {name: sick})
        assert bits(decoded[name]) == bits(sick)
        for other in set(fine) - {name}:
            (assert_second if other == "v/x" else assert_near)(decoded[other], live)
        decoded = ends.send(fine)
        (assert_second if name == "v/x" else assert_near)(decoded[name], live)


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
@pytest.mark.parametrize("shape", [(260,), (16, 17)])
def test_values_of_any_magnitude_are_near(dtype, shape):
    size = int(np.prod(shape))

    @given(st.lists(rough(dtype, size, low=-140, high=100), min_size=2, max_size=3))
    @examples(40)
    def check(arrays):
        arrays = [array.reshape(shape) for array in arrays]
        ends = Ends({"w": arrays[0]}, "int8")
        for array in arrays:
            assert_near(ends.send({"w": array})["w"], array)

    check()


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("codec", ["int8", "smallest"])
@pytest.mark.parametrize("shape", [(40,), (20, 24)])
def test_second_moments_of_any_magnitude_never_vanish(codec, dtype, shape):
    size = int(np.prod(shape))
    positive = rough(dtype, size, low=-120, high=60).map(lambda a: np.abs(a).reshape(shape))

    @given(st.lists(positive, min_size=2, max_size=4))
    @examples(40)
    def check(arrays):
        ends = Ends({"v": np.zeros_like(arrays[0])}, codec, SECOND)
        for array in arrays:
            decoded = ends.send({"v": array})["v"]
            assert ((decoded == 0) == (array == 0)).all()
            assert finite(decoded)
            if codec == "int8" or len(shape) == 1:
                assert_second(decoded, array)

    check()


def test_the_second_moments_of_the_smallest_codec_follow_rows_and_columns():
    rng = np.random.default_rng(1)
    rows, columns = np.exp(rng.normal(size=(60, 1))), np.exp(rng.normal(size=50))
    live = (rows * columns * np.exp(0.3 * rng.normal(size=(60, 50)))).astype(np.float32)
    ends = Ends({"v": np.zeros_like(live)}, "smallest", SECOND)
    for factor in (1.0, 1.1, 30.0, 1e-3):
        now = live * np.float32(factor)
        decoded = ends.send({"v": now})["v"]
        assert_second(decoded, now)
        for axis in (0, 1):
            near = decoded.mean(axis) / now.mean(axis)
            assert (np.abs(np.log2(near)) < 0.5).all()
        # the size of the coming updates
        assert abs(np.mean(np.sqrt(now / decoded)) - 1) < 0.1
