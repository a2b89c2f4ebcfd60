import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import PRESETS, Balanced, TensorSpec, balance
from keras_lc.core.codecs import first as codec
from keras_lc.core.codecs import outer, second
from keras_lc.core.matrix import view
from keras_lc.errors import DamagedError

from .chains import FLOATS, ROOMY, SPECS, Ends, bits, examples, finite, name_of, rough, training

ROLES = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
ALONE = [TensorSpec("m", "first_moment")]


def ratio_of(live, v):
    """m / sqrt(v), zero where v is."""
    root = np.sqrt(v.astype(np.float64))
    return np.divide(live.astype(np.float64), root, out=np.zeros(root.shape), where=root > 0)


def rms(array):
    return float(np.sqrt(np.mean(np.square(array))))


def coarsest(ratio, movement, tolerance):
    """The error (root mean square) that a moment may have as its ratio: as much as what it
    does to the weights is their own error, and never more than the moment itself."""
    here = ratio.reshape(-1)
    beta = abs(here @ movement.reshape(-1)) / (here @ here or 1.0)
    own = balance._MOMENT**0.5 * tolerance * rms(movement)
    return min(own / beta if beta else np.inf, rms(ratio))


def assert_first(m, live, v, noise):
    """Of a vector, within half a step of a quantiser whose error is `noise`, a step being
    no more than the moment itself; of a matrix, with the error energy of leaving out all
    components that are not worth their numbers."""
    ratio, root = ratio_of(live, v), np.sqrt(v.astype(np.float64))
    error = np.abs(m.astype(np.float64) - np.where(root > 0, live, 0))
    matrix = view(live.shape)
    if not matrix:
        step = min(balance._STEP**0.5 * noise, balance._WIDEST * rms(ratio))
        assert (error <= 0.505 * step * root + 1e-30).all()
        return
    sizes = np.linalg.svd(ratio.reshape(matrix.rows, matrix.columns), compute_uv=False)
    allowed = np.minimum(sizes**2, outer.WORTH * noise**2 * matrix.sides).sum()
    assert np.sum(ratio_of(error, v) ** 2) <= 1.1 * allowed


@pytest.mark.parametrize("tolerance", [0.05, Balanced().tolerance, 3.0])
def test_first_moments_are_as_near_as_their_weights(tolerance):
    base, *states = training(50, seed=2)
    ends = Ends(base, Balanced(tolerance, largest_share=1e3), SPECS)
    before, fastest = base, {}
    for state in states:
        decoded = ends.send(state)
        for name in ("kernel", "bias"):
            movement = state[f"w/{name}"].astype(np.float64) - before[f"w/{name}"]
            fastest[name] = max(fastest.get(name, 0), rms(movement))
            slow = max(1.0, balance._SLOW * fastest[name] / (rms(movement) or 1.0))
            live, v = state[f"m/{name}"], decoded[f"v/{name}"]
            noise = coarsest(ratio_of(live, v), movement, tolerance * slow)
            assert_first(decoded[f"m/{name}"], live, v, 1.02 * noise)
        before = state


@pytest.mark.parametrize("shape", [30, (20, 24)])
def test_first_moments_of_any_magnitude_are_near(shape):
    size = int(np.prod(shape))
    arrays = rough(np.float32, size, low=-60, high=60).map(lambda array: array.reshape(shape))

    @given(arrays, arrays)
    @examples(120)
    def check(live, other):
        v = np.abs(other) + np.float32(1e-18)
        zero = np.zeros_like(live)
        ends = Ends({"w": zero, "m": zero, "v": zero}, "balanced", ROLES)
        decoded = ends.send({"w": zero, "m": live, "v": v})
        assert_first(decoded["m"], live, decoded["v"], rms(ratio_of(live, decoded["v"])))

    check()


@pytest.mark.parametrize("shape", [100, (30, 40)])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e10, 1e20])
def test_first_moments_without_a_weight_are_as_near_as_the_tolerance(shape, size):
    rng = np.random.default_rng(3)
    live = (size * rng.normal(size=shape)).astype(np.float32)
    for name in ("balanced", "smallest"):
        decoded = Ends({"m": np.zeros_like(live)}, name, ALONE).send({"m": live})["m"]
        noise = PRESETS[name].tolerance * rms(live.astype(np.float64))
        assert_first(decoded, live, np.ones(shape), 1.02 * noise)


@pytest.mark.parametrize("shape", [100, (30, 40)])
@pytest.mark.parametrize("moment", [1e-200, 1e-150, 1.0, 1e100, 1e150])
@pytest.mark.parametrize("weight", [1e-100, 1.0, 1e100])
def test_moments_and_weights_of_any_two_magnitudes_go_together(shape, moment, weight):
    rng = np.random.default_rng(7)
    moved = rng.normal(size=shape)
    base = {"w": np.zeros(shape), "m": np.zeros(shape)}
    ends = Ends(base, "balanced", [TensorSpec("m", "first_moment", "w")])
    for factor in (1.0, 1.5):
        ends.send({"w": factor * weight * moved, "m": moment * moved})


@pytest.mark.parametrize("jump", [10.0, 1e2, 1e4, 1e8, 1e20, 1e38])
def test_a_jump_of_a_moment_that_is_not_in_the_sample_is_followed(jump):
    rng = np.random.default_rng(8)
    zero = np.zeros((100, 100), np.float32)
    live = (1e-6 * rng.normal(size=zero.shape)).astype(np.float32)
    then = live.copy()
    then.reshape(-1)[1] = jump
    ends = Ends({"w": zero, "m": zero}, "balanced", [TensorSpec("m", "first_moment", "w")])
    decoded = ends.send({"w": live, "m": then})["m"]
    assert np.abs(decoded - then).max() <= 0.01 * jump


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("shape", [200, (20, 24)])
def test_a_sick_second_moment_does_not_spoil_the_first(bad, shape):
    rng = np.random.default_rng(4)
    m = rng.normal(size=shape).astype(np.float32)
    v = m * m
    v.reshape(-1)[5] = bad
    zero = np.zeros_like(m)
    decoded = Ends({"w": m, "m": zero, "v": zero}, "balanced", ROLES).send({"w": m, "m": m, "v": v})
    assert finite(decoded["m"])
    assert np.abs(decoded["m"] - m).reshape(-1)[:5].max() <= 4 * np.abs(m).max()
    assert decoded["m"].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [9, (16, 16)])
def test_a_first_moment_with_nan_or_inf_is_stored_exactly_and_recovers(bad, shape):
    m = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    sick = m.copy()
    sick.reshape(-1)[4] = bad
    v = np.ones_like(m)
    ends = Ends({"w": m, "m": m, "v": v}, "balanced", ROLES)
    assert bits(ends.send({"w": m, "m": sick, "v": v})["m"]) == bits(sick)
    assert finite(ends.send({"w": m, "m": m, "v": v})["m"])


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
@pytest.mark.parametrize("shape", [500, (25, 20)])
@pytest.mark.parametrize("name", ["balanced", "smallest", "int8"])
def test_finite_first_moments_stay_finite_at_the_top_of_the_range(dtype, shape, name):
    rng = np.random.default_rng(5)
    live = (float(ml_dtypes.finfo(dtype).max) * rng.uniform(0.3, 1, shape)).astype(dtype)
    decoded = Ends({"m": np.zeros_like(live)}, name, ALONE).send({"m": live})["m"]
    assert finite(decoded)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [9, (16, 16)])
def test_a_sick_weight_does_not_make_its_moment_vanish(bad, shape):
    m = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    v, sick = np.ones_like(m), m.copy()
    sick.reshape(-1)[4] = bad
    ends = Ends({"w": m, "m": 0 * m, "v": v}, "balanced", ROLES)
    decoded = ends.send({"w": sick, "m": m, "v": v})
    assert bits(decoded["w"]) == bits(sick)
    assert_first(decoded["m"], m, decoded["v"], rms(m.astype(np.float64)))


@pytest.mark.parametrize("shape", [9, (16, 16)])
def test_the_first_moment_follows_when_only_the_second_moves(shape):
    m = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    w = m.copy()
    ends = Ends({"w": w, "m": m, "v": np.ones_like(m)}, Balanced(0.003, 1.0), ROLES)
    for exponent in (0, 7, -7, 0):
        v, w = np.full_like(m, 2.0**exponent), w + np.float32(0.1) * m
        assert np.abs(ends.send({"w": w, "m": m, "v": v})["m"] - m).max() < 0.02


@pytest.mark.parametrize("shape", [9, (16, 16)])
def test_the_first_moment_follows_when_the_second_is_lossless(shape):
    m = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    v, w = np.ones_like(m), m.copy()
    codec = {"v": "lossless", "*": Balanced(0.003, 1.0)}
    ends = Ends({"w": w, "m": m, "v": 2 * v}, codec, ROLES)
    for factor in (1, 2, 4, 1):
        w = w + np.float32(0.1) * m
        decoded = ends.send({"w": w, "m": m * factor, "v": v * factor**2})
        assert np.abs(decoded["m"] - m * factor).max() < 0.02 * factor


def test_a_first_moment_that_rests_while_the_second_moves_is_sent_again():
    m = np.linspace(-1, 1, 9, dtype=np.float32)
    ends = Ends({"w": m, "m": m, "v": np.ones_like(m)}, "balanced", ROLES)
    for v, kind in [(1.0, None), (1.0, "same"), (64.0, "first"), (64.0, "same")]:
        ends.send({"w": m, "m": m, "v": np.full_like(m, v)})
        assert kind is None or ends.entries()["m"].kind == kind


@given(st.integers(0, 2**32), st.floats(1e-5, 10.0), st.sampled_from([np.float32, np.float64]))
@examples(100)
def test_integers_are_the_nearest(seed, coarse, dtype):
    ratio = np.random.default_rng(seed).normal(size=40).astype(dtype)
    tile, step = slice(0, ratio.size), max(coarse, 2e-4)
    assert codec.fits(ratio, None, step)
    k = codec.encode(ratio.copy(), step)
    assert k.dtype == np.int16
    after = codec.advance(k, step, None, np.dtype(dtype), tile)
    assert np.array_equal(after.integers(), k)
    assert np.abs(after.value() - ratio).max() <= 0.5001 * step + 1e-6
    zeros = codec.encode(ratio.copy(), 0.0)
    assert not zeros.any()
    assert not codec.advance(zeros, 0.0, None, np.dtype(dtype), tile).value().any()


def levels(v):
    """A second moment as a decoder has it."""
    matrix, tile = view(v.shape), slice(0, v.size)
    return second.start(v, second.axes(v, matrix, float(v.max())), matrix, tile)


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("scale", [None, 1.0, 0.0])
@np.errstate(invalid="ignore")
def test_integers_that_fit_are_not_cut_off(dtype, sign, scale):
    beside = None if scale is None else levels(np.array([1.0, scale], dtype))
    for farthest in (8.0, 3.3):
        m = np.array([sign * farthest, 0], dtype)
        ratio = codec.ratio(m, beside)
        largest = abs(float(ratio[0]))
        assert not codec.fits(m, beside, largest / 33000)
        for most in np.linspace(32760, 32775, 61):
            if codec.fits(m, beside, largest / most):
                k = codec.encode(ratio.copy(), largest / most)
                assert abs(int(k[0]) - sign * most) < 0.51
        assert codec.fits(m, beside, largest / 32760)


def test_values_that_would_be_too_large_do_not_fit():
    m = np.array([1.0, 1e5])
    for step in (1e-40, 1e-9, 1.0):
        assert not codec.fits(m, None, step)
    assert codec.fits(m, None, 4.0)
    assert codec.fits(m, None, 0.0)
    assert not codec.fits(np.array([1.0, 4e4], np.float16), None, 0.0)
    for bad in (np.nan, np.inf, -np.inf):
        m[0] = bad
        for beside in (None, levels(np.ones(2)), levels(np.array([0.0, 1.0]))):
            assert not codec.fits(m, beside, 4.0)


def test_steps_that_no_integers_are_for_leave_a_moment_to_others():
    for size in (1e-34, 1e34):
        live = np.linspace(-size, size, 100)
        assert bits(Ends({"m": 0 * live}, "balanced", ALONE).send({"m": live})["m"]) == bits(live)


def test_an_impossible_step_is_refused():
    for step in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DamagedError):
            codec.advance(np.zeros(1, np.int16), step, None, np.dtype(np.float32), slice(0, 1))
