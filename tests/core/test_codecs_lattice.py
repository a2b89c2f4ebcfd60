import json
from dataclasses import replace
from fractions import Fraction
from math import prod

import ml_dtypes
import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from keras_lc.core import PRESETS, Balanced, DeltaEncoder, TensorSpec, balance
from keras_lc.core.codecs import lattice
from keras_lc.core.codecs.outer import Outer, Scale
from keras_lc.core.live import sample as sample_of
from keras_lc.core.matrix import Matrix, view
from keras_lc.errors import DamagedError

from .chains import FLOATS, SPECS, Ends, bits, examples, finite, name_of, rough, training


def rms(array):
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))


def moved(live, before):
    """How far a tensor has moved, measured as the encoder does it."""
    sample = [sample_of(array.astype(np.float64).reshape(-1)) for array in (live, before)]
    return rms(sample[0] - sample[1])


def allowed(live, had, codec, movement):
    """Half a step, of a matrix `2 * FAR` steps (a lead of at most `FAR`, and what is not
    corrected), and the rounding of the dtype, from what `Balanced` promises."""
    x = live.astype(np.float64)
    if not movement:
        return np.maximum(np.abs(had.astype(np.float64) - x), rms(x - had.astype(np.float64)))
    wanted = min(codec.tolerance * movement, codec.largest_share * rms(x) or np.inf)
    info = ml_dtypes.finfo(live.dtype)
    real = np.finfo(np.float64 if live.dtype.itemsize == 8 else np.float32)
    finest = 2 * float(real.eps) * float(np.abs(x).max())
    step = 1.01 * max(2**0.5 * balance._STEP**0.5 * wanted, finest)
    off = step * (2 * lattice.FAR if view(live.shape) else 0.5)
    rounding = float(info.eps) * (np.abs(x) + off) + float(info.smallest_subnormal)
    return off + rounding + float(real.eps) * np.abs(had.astype(np.float64))


def assert_close(states, codec, specs=None):
    ends = Ends(states[0], codec, specs)
    before = had = states[0]
    fastest = dict.fromkeys(before, 0.0)
    for number, state in enumerate(states[1:]):
        decoded = ends.send(state)
        for name in state:
            if not name.startswith("w"):
                continue
            movement = moved(state[name], before[name])
            # slow movements count as much as a share of the farthest one
            counted = max(movement, balance._SLOW * fastest[name]) if movement else 0.0
            fastest[name] = max(fastest[name], movement)
            error = np.abs(decoded[name].astype(np.float64) - state[name].astype(np.float64))
            assert (error <= allowed(state[name], had[name], codec, counted)).all(), number
        before, had = state, decoded


@pytest.mark.parametrize(
    "codec", [Balanced(), PRESETS["smallest"], Balanced(0.1), Balanced(2.0, largest_share=1.0)]
)
def test_errors_do_not_accumulate(codec):
    states = [
        {name: state[name] for name in ("w/kernel", "w/bias")} for state in training(200, seed=2)
    ]
    assert view(states[0]["w/kernel"].shape)
    assert not view(states[0]["w/bias"].shape)
    assert_close(states, codec)


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1])
def test_errors_do_not_accumulate_with_prediction(rate):
    assert_close(training(100, seed=3, rate=rate), Balanced(0.2), SPECS)


@pytest.mark.parametrize("codec", [Balanced(), PRESETS["smallest"]])
def test_errors_of_matrices_do_not_accumulate_with_prediction_and_lead(codec):
    assert_close(training(120, seed=4), codec, SPECS)


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_errors_do_not_accumulate_in_any_dtype(dtype):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=300), rng.normal(size=(20, 24))
    states = []
    for _ in range(40):
        states.append({"w": x.astype(dtype), "ww": y.astype(dtype)})
        x = x + 0.02 * rng.normal(size=300)
        y = y + 0.01 * rng.normal(size=(20, 1)) * rng.normal(size=24)
    assert_close(states, Balanced())


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
@pytest.mark.parametrize("shape", [(50,), (20, 24)])
def test_errors_stay_bounded_whatever_the_movement(dtype, shape):
    @given(
        st.lists(
            rough(dtype, prod(shape), low=-40).map(lambda array: array.reshape(shape)),
            min_size=3,
            max_size=7,
        ),
        st.lists(st.booleans(), min_size=7, max_size=7),
    )
    @examples(40)
    def check(arrays, sums):
        states = [{"w": arrays[0]}]
        top = float(ml_dtypes.finfo(dtype).max) / 4
        for array, summed in zip(arrays[1:], sums, strict=False):
            x = array.astype(np.float64) + summed * states[-1]["w"].astype(np.float64)
            states.append({"w": np.clip(x, -top, top).astype(dtype)})
        assert_close(states, Balanced())

    check()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [1000, (40, 25)])
def test_a_jump_after_a_tiny_movement_is_followed(dtype, shape):
    rng = np.random.default_rng(5)
    base = np.zeros(shape, dtype)
    tiny = (1e-9 * rng.normal(size=shape)).astype(dtype)
    states = [{"w": base}, {"w": tiny}, {"w": rng.normal(size=shape).astype(dtype)}]
    assert_close(states, Balanced())


@pytest.mark.parametrize("shape", [1000, (40, 25)])
def test_float64_weights_that_begin_to_move_are_followed(shape):
    rng = np.random.default_rng(6)
    base = rng.normal(size=shape)
    slow = base + 1e-12 * rng.normal(size=shape)
    fast = slow + 1e-2 * rng.normal(size=shape)
    assert_close([{"w": base}, {"w": slow}, {"w": fast}], Balanced())


@pytest.mark.parametrize("size", [10.0, 1e2, 1e3, 1e5, 1e9, 1e20, 1e38])
@pytest.mark.parametrize("stride", [1, 3, 10_000])
def test_a_jump_of_values_that_are_not_in_the_sample_is_followed(size, stride):
    # the movement of a large tensor is measured on some of its values
    rng = np.random.default_rng(14)
    base = np.zeros((100, 100), np.float32)
    then = (1e-6 * rng.normal(size=base.shape)).astype(np.float32)
    then.reshape(-1)[1::stride] = size
    states = [{"w": base}, {"w": then}, {"w": (then * 1.001).astype(np.float32)}]
    assert_close(states, Balanced(largest_share=1.0))


def test_the_error_is_within_the_steps_that_the_blob_names():
    states = training(30, seed=7)
    ends = Ends(states[0], "balanced", SPECS)
    seen = set()
    for state in states[1:]:
        decoded = ends.send(state)
        for name, entry in ends.entries().items():
            if entry.kind == "lattice":
                matrix = view(state[name].shape)
                step = lattice.Step.read(entry.params, matrix)
                error = np.abs(decoded[name] - state[name]).max()
                rounding = 2 * np.finfo(state[name].dtype).eps * np.abs(state[name]).max()
                assert error <= (2 * lattice.FAR if matrix else 0.5) * 2.0**step.exponent + rounding
                seen.add((name, bool(step.scale), step.corrected))
    assert ("w/kernel", True, False) in seen
    assert ("w/bias", False, True) in seen


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [100, (25, 16)])
def test_a_tensor_with_nan_or_inf_is_stored_exactly_and_recovers(value, dtype, shape):
    rng = np.random.default_rng(8)
    x = rng.normal(size=shape)
    sick = x.astype(dtype)
    sick.reshape(-1)[3] = value
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
@pytest.mark.parametrize("codec", ["balanced", "smallest", "lc", "int8"])
@pytest.mark.parametrize("shape", [4000, (80, 50)])
def test_finite_weights_stay_finite_at_the_top_of_the_range(dtype, codec, shape):
    rng = np.random.default_rng(10)
    top = float(ml_dtypes.finfo(dtype).max)
    shares = rng.uniform(-1, 1, shape)
    then = shares * rng.uniform(0.7, 1, shape)
    shares.reshape(-1)[:100], then.reshape(-1)[:100] = rng.uniform(0.5, 1, 100), 1
    ends = Ends({"w": (top * shares).astype(dtype)}, codec)
    assert finite(ends.send({"w": (top * then).astype(dtype)})["w"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=name_of)
def test_a_lead_does_not_carry_a_matrix_beyond_the_top_of_the_range(dtype):
    rng = np.random.default_rng(15)
    top = float(ml_dtypes.finfo(dtype).max)
    for share in np.linspace(0.02, 0.3, 15):
        left, right = rng.normal(size=(40, 1)), rng.normal(size=(1, 50))
        base = rng.uniform(-1, 1, (40, 50)) * 1e-3 + np.outer(left, right) * 1e-3
        then = np.clip(base + share * left @ right, -1, 1)
        # as large as a sum of squares in float32 can bear
        scale = min(top, 1e17)
        ends = Ends({"w": (scale * base).astype(dtype)}, Balanced(1.0, largest_share=1.0))
        assert finite(ends.send({"w": (scale * then).astype(dtype)})["w"])


@pytest.mark.parametrize("shape", [50, (20, 24)])
def test_values_whose_squares_overflow_are_stored_exactly(shape):
    rng = np.random.default_rng(11)
    huge = (1e30 * rng.normal(size=shape)).astype(np.float32)
    decoded = Ends({"w": np.zeros_like(huge)}).send({"w": huge})["w"]
    assert bits(decoded) == bits(huge)


@given(
    st.lists(
        st.tuples(
            st.integers(-12, 4),
            st.integers(-100, 100),
            st.sampled_from([0.0, 3.0, -20.0]),
            st.none() | st.lists(st.integers(-5, 5), min_size=4, max_size=4),
        ),
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
    for exponent, k, beta, sides in deltas:
        step = lattice.Step(exponent, beta)
        factors = None
        if sides:
            a, b, c, d = sides
            scale = Scale(1.0, 3, (1, 1))
            factors = Outer(scale, np.array([[a], [b]], "i4"), np.array([[c, d], [d, c]], "i4"))
            step = replace(step, scale=scale)
            for i, whole in enumerate((a * c + 2 * b * d, a * d + 2 * b * c)):
                unit = Fraction(2) ** step.unit
                exact[i] += round(Fraction(whole, 8) / unit) * unit
        moves = np.array([k, -k], np.int32)
        state = lattice.advance(state, step, moves, moment, factors, slice(0, 2))
        for i, sign in enumerate((1, -1)):
            exact[i] += sign * k * Fraction(2) ** exponent
            exact[i] += int(moment[i] * beta) * Fraction(2) ** step.unit
    assert [Fraction(float(x)) for x in state.value()] == exact


def surveyed(target, state):
    """The way to a target that is one tile, and what has to be known of it."""
    survey = lattice.Survey()
    survey.look(target, state, None)
    return target - state.position(), survey


@given(
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0.02, 0.3, 1.0, 5.0]),
    st.sampled_from([0.0, 1.0, 1.2, 3.0, 100.0]),
    st.booleans(),
)
@examples(40)
def test_a_matrix_is_corrected_only_where_it_is_far_off(seed, dtype, coarse, spikes, led):
    rng, matrix = np.random.default_rng(seed), Matrix(80, 60)
    size = matrix.rows * matrix.columns
    noise = (coarse * 0.01) ** 2
    anchor = rng.normal(size=size).astype(dtype)
    moved = 0.01 * (rng.normal(size=(80, 1)) * rng.normal(size=60)).reshape(-1)
    moved += 0.003 * rng.normal(size=size)
    there = rng.random(size) < 0.01
    moved[there] += spikes * lattice.FAR * (balance._STEP * noise) ** 0.5
    target = (anchor + moved).astype(dtype)
    ahead = (0.02 * rng.normal(size=size)).astype(dtype) if led else None
    exponent = lattice.choose_exponent(
        (balance._STEP * noise) ** 0.5, float(np.abs(target).max()), np.dtype(dtype)
    )
    state = lattice.start(anchor)
    way, survey = surveyed(target, state)
    lattice.lead(way, exponent, ahead)
    step = lattice.predict(way, None, survey, exponent)
    step, k, factors = lattice.approximate(way, step, survey, matrix, noise, 0)
    event(f"single corrections: {k is not None}, outer products: {factors is not None}")
    assert step == lattice.Step.read(json.loads(json.dumps(step.write())), matrix)
    assert (k is None) == (not step.corrected)
    assert (factors is None) == (step.scale is None)
    after = lattice.advance(state, step, k, None, factors, slice(0, size))
    off = np.abs(after.value().astype(np.float64) - target) / 2.0**exponent
    rounding = 4 * np.finfo(dtype).eps * np.abs(target).max() / 2.0**exponent
    assert off.max() <= 2 * lattice.FAR + rounding
    if k is not None:
        assert np.abs(k[k != 0]).min() >= lattice.FAR
        assert (off[k != 0] <= lattice.FAR + 0.5 + rounding).all()


def test_single_values_of_a_large_matrix_are_corrected_alone():
    rng, matrix = np.random.default_rng(16), Matrix(200, 150)
    exponent, noise = -6, 2.0**-12 / balance._STEP
    anchor = rng.normal(size=30_000)
    far = rng.permutation(30_000)[:40]
    target = anchor + 0.002 * rng.normal(size=30_000)
    target[far] += 1.2 * lattice.FAR * 2.0**exponent
    way, survey = surveyed(target, lattice.start(anchor))
    lattice.lead(way, exponent, None)
    step = lattice.predict(way, None, survey, exponent)
    step, k, factors = lattice.approximate(way, step, survey, matrix, noise, 0)
    assert factors is None
    assert step.corrected
    assert set(np.flatnonzero(k)) == set(far)


@given(
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([None, 0.0, 0.9]),
    st.integers(-12, -2),
)
@examples(60)
def test_single_values_are_brought_to_within_half_a_step(seed, dtype, alike, exponent):
    rng = np.random.default_rng(seed)
    anchor, moment = rng.normal(size=480).astype(dtype), None
    target = (anchor + 0.1 * rng.normal(size=480)).astype(dtype)
    if alike is not None:
        moment = np.rint(20 * (alike * 10 * (target - anchor) + (1 - alike) * rng.normal(size=480)))
    state = lattice.start(anchor)
    way, survey = surveyed(target, state)
    step = lattice.follow(way, moment, survey, exponent)
    assert bool(step.beta) == (alike == 0.9)
    k = lattice.correct(target, state, step, moment)
    after = lattice.advance(state, step, k, moment, None, slice(0, 480))
    off = np.abs(after.value().astype(np.float64) - target)
    assert off.max() <= 0.5 * 2.0**exponent + 4 * np.finfo(dtype).eps * np.abs(target).max()


def test_a_matrix_that_rests_is_brought_to_within_half_a_step():
    rng = np.random.default_rng(13)
    base = rng.normal(size=(24, 20))
    then = (
        base + np.outer(rng.normal(size=24), rng.normal(size=20)) + 0.3 * rng.normal(size=(24, 20))
    )
    ends, off = Ends({"w": base}), []
    for rests in (False, True):
        decoded = ends.send({"w": then})["w"]
        step = lattice.Step.read(ends.entries()["w"].params, view(then.shape))
        assert (step.scale is None) == rests
        off.append(np.abs(decoded - then).max() / 2.0**step.exponent)
    assert off[1] <= 0.5 + 1e-9 < off[0]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "params",
    [
        [],
        [0],
        [0, 0.0],
        *[[exponent, 0.0, 2] for exponent in (-2000, 2000, 0.5, NAN, INF, None, "0", [])],
        *[[0, beta, 2] for beta in (NAN, INF, -INF, -1e30, 10**400, None, "0", [])],
        *[[0, 0.0, flags] for flags in (-1, 4, 0.5, NAN, None, "2", [])],
        [0, 0.0, 0, 1.0],
        [0, 0.0, 0, 1.0, 0],
        [0, 0.0, 0, 1.0, 0, [21]],
        [0, 0.0, 0, NAN, 0, [1]],
        [0, 0.0, 0, 1.0, 0, [1], 0],
        [-500, 0.0, 0, 1.0, -500, [1]],  # one unit of the factors is farther than any lattice
    ],
    ids=str,
)
def test_an_impossible_step_is_refused(params):
    with pytest.raises((DamagedError, TypeError, ValueError, OverflowError)):
        lattice.Step.read(params, Matrix(24, 20))


@given(
    st.integers(-1000, 900),
    st.floats(-1e6, 1e6),
    st.booleans(),
    st.booleans(),
    st.none() | st.lists(st.integers(0, 3), max_size=6),
)
@examples(150)
def test_a_step_is_read_back(exponent, beta, rebase, corrected, counts):
    scale = None if counts is None else Scale(2.0**exponent, 0, tuple(counts))
    if scale and not 1e-290 < scale.area < 1e290:
        scale = None
    step = lattice.Step(exponent, beta, rebase, corrected, scale)
    assert lattice.Step.read(json.loads(json.dumps(step.write())), Matrix(24, 20)) == step


def test_a_vector_with_factors_is_refused():
    with pytest.raises(DamagedError):
        lattice.Step.read([0, 0.0, 0, 1.0, 0, [1]], Matrix(1, 0))


def test_a_prediction_without_a_moment_is_refused():
    zero = np.zeros(2, np.float32)
    with pytest.raises(DamagedError):
        lattice.advance(
            lattice.start(zero),
            lattice.Step(0, 1.0),
            zero.astype(np.int32),
            None,
            None,
            slice(0, 2),
        )


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
