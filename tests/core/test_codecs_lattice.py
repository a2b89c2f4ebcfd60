from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import Balanced, DeltaEncoder, TensorSpec
from keras_lc.core import blob as blobs
from keras_lc.core.codecs import lattice
from keras_lc.errors import DamagedError

from .chains import FLOATS, SPECS, Ends, bits, examples, finite, name_of, rough, training


def rms(array):
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))


def allowed(live, before, had, codec):
    """Half a step and the rounding of the dtype, from what `Balanced` promises."""
    x = live.astype(np.float64)
    moved = rms(x - before.astype(np.float64))
    if not moved:
        return np.maximum(np.abs(had.astype(np.float64) - x), rms(x - had.astype(np.float64)))
    wanted = min(codec.step * moved, codec.largest_share * rms(x) or np.inf)
    info = ml_dtypes.finfo(live.dtype)
    real = np.finfo(np.float64 if live.dtype.itemsize == 8 else np.float32)
    finest = 2 * float(real.eps) * float(np.abs(x).max())
    half = 0.5 * 1.01 * max(2**0.5 * wanted, finest)
    rounding = float(info.eps) * (np.abs(x) + half) + float(info.smallest_subnormal)
    return half + rounding + float(real.eps) * np.abs(had.astype(np.float64))


def assert_close(states, codec, specs=None):
    ends = Ends(states[0], codec, specs)
    before = had = states[0]
    for number, state in enumerate(states[1:]):
        decoded = ends.send(state)
        for name in state:
            if not name.startswith("w"):
                continue
            error = np.abs(decoded[name].astype(np.float64) - state[name].astype(np.float64))
            assert (error <= allowed(state[name], before[name], had[name], codec)).all(), number
        before, had = state, decoded


@pytest.mark.parametrize(
    "codec", [Balanced(), Balanced(step=1.0), Balanced(step=8.0, largest_share=1.0)]
)
def test_errors_do_not_accumulate(codec):
    states = [
        {name: state[name] for name in ("w/kernel", "w/bias")} for state in training(200, seed=2)
    ]
    assert_close(states, codec)


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1])
def test_errors_do_not_accumulate_with_prediction(rate):
    assert_close(training(100, seed=3, rate=rate), Balanced(moment_step=0.5), SPECS)


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_errors_do_not_accumulate_in_any_dtype(dtype):
    rng = np.random.default_rng(4)
    x = rng.normal(size=300)
    states = []
    for _ in range(40):
        states.append({"w": x.astype(dtype)})
        x = x + 0.02 * rng.normal(size=300)
    assert_close(states, Balanced())


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_errors_stay_bounded_whatever_the_movement(dtype):
    @given(
        st.lists(rough(dtype, 50, low=-40), min_size=3, max_size=7),
        st.lists(st.booleans(), min_size=7, max_size=7),
    )
    @examples(60)
    def check(arrays, sums):
        states = [{"w": arrays[0]}]
        top = float(ml_dtypes.finfo(dtype).max) / 4
        for array, summed in zip(arrays[1:], sums, strict=False):
            x = array.astype(np.float64) + summed * states[-1]["w"].astype(np.float64)
            states.append({"w": np.clip(x, -top, top).astype(dtype)})
        assert_close(states, Balanced())

    check()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_jump_after_a_tiny_movement_is_followed(dtype):
    rng = np.random.default_rng(5)
    base = np.zeros(1000, dtype)
    tiny = (1e-9 * rng.normal(size=1000)).astype(dtype)
    states = [{"w": base}, {"w": tiny}, {"w": rng.normal(size=1000).astype(dtype)}]
    assert_close(states, Balanced())


def test_float64_weights_that_begin_to_move_are_followed():
    rng = np.random.default_rng(6)
    base = rng.normal(size=1000)
    slow = base + 1e-12 * rng.normal(size=1000)
    fast = slow + 1e-2 * rng.normal(size=1000)
    assert_close([{"w": base}, {"w": slow}, {"w": fast}], Balanced())


def test_the_error_is_within_half_the_step_that_the_blob_names():
    states = training(30, seed=7)
    ends = Ends(states[0], "balanced", SPECS)
    seen = 0
    for state in states[1:]:
        decoded = ends.send(state)
        entries = blobs.unpack(ends.blob, len(state))[0].entries
        for i, entry in zip(ends.encoder._order, entries, strict=True):
            if entry.kind == "lattice":
                name = ends.encoder._chain.table.names[i]
                error = np.abs(decoded[name] - state[name]).max()
                rounding = 2 * np.finfo(state[name].dtype).eps * np.abs(state[name]).max()
                assert error <= 0.5 * 2.0 ** entry.params[0] + rounding
                seen += 1
    assert seen > 30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_tensor_with_nan_or_inf_is_stored_exactly_and_recovers(value, dtype):
    rng = np.random.default_rng(8)
    x = rng.normal(size=100)
    sick = x.astype(dtype)
    sick[3] = value
    states = [x.astype(dtype), sick, sick[::-1].copy(), (x + 0.01).astype(dtype)]
    ends = Ends({"w": states[0]})
    for state in states[1:]:
        decoded = ends.send({"w": state})["w"]
        assert finite(decoded) == finite(state)
        if not finite(state):
            assert bits(decoded) == bits(state)
    assert np.abs(decoded.astype(np.float64) - x - 0.01).max() < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_value_in_a_large_tensor_recovers(value):
    rng = np.random.default_rng(9)
    base = rng.normal(size=10_000).astype(np.float32)
    base[:3] = [0, value, 0]
    then = base + np.float32(1e-3) * rng.normal(size=base.size).astype(np.float32)
    then[:3] = 1
    decoded = Ends({"w": base}).send({"w": then})["w"]
    assert np.abs(decoded - then).max() < 0.1


@pytest.mark.parametrize(
    "dtype",
    [*FLOATS, ml_dtypes.float8_e4m3fnuz],
    ids=name_of,
)
@pytest.mark.parametrize("codec", ["balanced", "lc"])
def test_finite_weights_stay_finite_at_the_top_of_the_range(dtype, codec):
    rng = np.random.default_rng(10)
    top = float(ml_dtypes.finfo(dtype).max)
    shares = rng.uniform(-1, 1, 4000)
    then = shares * rng.uniform(0.7, 1, 4000)
    shares[:100], then[:100] = rng.uniform(0.5, 1, 100), 1
    ends = Ends({"w": (top * shares).astype(dtype)}, codec)
    assert finite(ends.send({"w": (top * then).astype(dtype)})["w"])


def test_values_whose_squares_overflow_are_stored_exactly():
    rng = np.random.default_rng(11)
    huge = (1e30 * rng.normal(size=50)).astype(np.float32)
    decoded = Ends({"w": np.zeros_like(huge)}).send({"w": huge})["w"]
    assert bits(decoded) == bits(huge)


@given(
    st.lists(
        st.tuples(st.integers(-12, 4), st.integers(-100, 100), st.sampled_from([0.0, 3.0, -20.0])),
        min_size=1,
        max_size=12,
    ),
)
@examples(200)
def test_positions_are_exact_sums_of_integers(deltas):
    anchor = np.array([0.5, -3.0])
    moment = np.array([2, -1], np.int32)
    state = lattice.start(anchor)
    exact = [Fraction(x) for x in anchor]
    for exponent, k, beta in deltas:
        step = lattice.Step(exponent, beta)
        state = lattice.advance(state, step, np.array([k, -k], np.int32), moment)
        for i, sign in enumerate((1, -1)):
            exact[i] += sign * k * Fraction(2) ** exponent
            exact[i] += int(moment[i] * beta) * Fraction(2) ** (exponent - step.shift)
    assert [Fraction(float(x)) for x in state.value()] == exact


@pytest.mark.parametrize(
    "step",
    [
        lattice.Step(-2000),
        lattice.Step(2000),
        lattice.Step(0, float("nan")),
        lattice.Step(0, float("inf")),
        lattice.Step(0, -1e30),
    ],
)
def test_an_impossible_step_is_refused(step):
    zero = np.zeros(2, np.float32)
    with pytest.raises(DamagedError):
        lattice.advance(lattice.start(zero), step, zero.astype(np.int32), zero.astype(np.int32))


def test_a_prediction_without_a_moment_is_refused():
    zero = np.zeros(2, np.float32)
    with pytest.raises(DamagedError):
        lattice.advance(lattice.start(zero), lattice.Step(0, 1.0), zero.astype(np.int32), None)


def test_a_moment_of_another_size_does_not_predict():
    rng = np.random.default_rng(12)
    base = {"w": rng.normal(size=9).astype(np.float32), "m": np.zeros(3, np.float32)}
    specs = [TensorSpec("m", "first_moment", of="w")]
    ends = Ends(base, "balanced", specs)
    for _ in range(4):
        ends.send({name: (a + rng.normal(size=a.shape)).astype("f4") for name, a in base.items()})


def test_signed_zeros_of_weights_that_rest_are_kept():
    base = np.array([0.0, -0.0, 1.0], np.float32)
    assert bits(Ends({"w": base}).send({"w": -base})["w"][:0]) == b""
    encoder = DeltaEncoder({"w": base})
    encoder.encode({"w": base})
    assert bits(encoder.reconstruction["w"]) == bits(base)
