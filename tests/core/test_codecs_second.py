import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import TensorSpec
from keras_lc.core.codecs import second
from keras_lc.core.matrix import view
from keras_lc.errors import DamagedError

from .chains import FLOATS, SPECS, Ends, bits, examples, finite, name_of, raw, training

SECOND = [TensorSpec("v", "second_moment")]


def assert_second(decoded, live):
    assert ((decoded == 0) == (live == 0)).all()
    assert finite(decoded)
    some = live != 0
    logs = np.log2(decoded[some].astype(np.float64)) - np.log2(live[some].astype(np.float64))
    assert (np.abs(logs) <= 3).all(), (decoded, live)


@pytest.mark.parametrize("dtype", [*FLOATS, ">f2", ">f4", ">f8"], ids=name_of)
def test_second_moments_are_near_and_never_vanish(dtype):
    def positive(array):
        with np.errstate(invalid="ignore"):
            size = np.abs(array)
            return np.where(np.isfinite(size), size, np.ones_like(size))

    @given(st.lists(raw(dtype, 12).map(positive), min_size=2, max_size=5))
    @examples(40)
    def check(arrays):
        ends = Ends({"v": np.zeros_like(arrays[0])}, "balanced", SECOND)
        for array in arrays:
            assert_second(ends.send({"v": array})["v"], array)

    check()


@pytest.mark.parametrize("dtype", [*FLOATS, ">f4"], ids=name_of)
def test_the_extremes_of_a_second_moment_are_near(dtype):
    info = ml_dtypes.finfo(np.dtype(dtype).newbyteorder("="))
    edges = [info.max, info.tiny, info.smallest_subnormal]
    live = np.array([0.0, 1.0, *map(float, edges)]).astype(dtype)
    assert_second(Ends({"v": np.zeros_like(live)}, "balanced", SECOND).send({"v": live})["v"], live)


def test_second_moments_are_near_on_a_long_run():
    base, *states = training(100, seed=1)
    ends = Ends(base, "balanced", SPECS)
    for state in states:
        decoded = ends.send(state)
        for name in ("v/kernel", "v/bias"):
            assert_second(decoded[name], state[name])


def test_a_second_moment_comes_from_zero_and_goes_back():
    zero = np.zeros(5, np.float32)
    live = np.array([1e-40, 1e-30, 1, 1e10, 1e38], np.float32)
    ends = Ends({"v": zero}, "balanced", SECOND)
    for array in (live, zero, live[::-1].copy()):
        assert_second(ends.send({"v": array})["v"], array)


def test_a_second_moment_that_wavers_is_not_sent_again():
    rng = np.random.default_rng(0)
    middle = (2.0 ** (rng.integers(-15, 15, 20_000) - 0.5)).astype(np.float32)
    ends = Ends({"v": np.zeros_like(middle)}, "balanced", SECOND)
    ends.send({"v": middle})
    for _ in range(5):
        ends.send({"v": middle * rng.uniform(0.72, 1.4, middle.size).astype(np.float32)})
        assert ends.size < 200


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_second_moment_that_is_none_is_stored_exactly_and_recovers(bad):
    live = np.array([1.0, 2.0, 3.0], np.float32)
    sick = np.array([1.0, bad, 3.0], np.float32)
    ends = Ends({"v": live}, "balanced", SECOND)
    for array in (sick, live):
        decoded = ends.send({"v": array})["v"]
        assert finite(decoded) == finite(array)
        if array is sick:
            assert bits(decoded) == bits(array)
    assert_second(decoded, live)


def test_the_size_of_the_coming_updates_is_kept():
    rng = np.random.default_rng(6)
    live = np.exp(2 * rng.normal(size=5000)).astype(np.float32)
    ends = Ends({"v": np.zeros_like(live)}, "balanced", SECOND)
    for _ in range(10):
        live = live * rng.uniform(0.7, 1.5, live.size).astype(np.float32)
        decoded = ends.send({"v": live})["v"]
        assert abs(np.mean(np.sqrt(live / decoded)) - 1) < 0.01


def test_an_impossible_factor_is_refused():
    for factor in (-1.0, 0.0, 99.0, float("nan"), float("inf")):
        one, nothing = np.ones(1, np.float32), np.zeros(1, np.int16)
        with pytest.raises(DamagedError):
            second.advance(one, view((1,)), slice(0, 1), factor, nothing, nothing)


def test_the_drift_of_rows_and_columns_is_cheap():
    rng = np.random.default_rng(8)
    live = np.exp(rng.normal(size=(200, 300))).astype(np.float32)
    ends = Ends({"v": live}, "balanced", SECOND)
    ends.send({"v": live})
    for _ in range(4):
        live = live * np.exp(rng.normal(size=(200, 1))).astype(np.float32)
        live = live * np.exp(rng.normal(size=300)).astype(np.float32)
        assert_second(ends.send({"v": live})["v"], live)
        assert ends.size < live.size / 16  # half a bit a value


def middle(power):
    """The float in the middle of a quarter octave."""
    return np.ldexp(1 + (power % 4) / 4 + 1 / 8, power // 4)


@given(
    st.sampled_from([(30,), (8, 300), (20, 24)]),
    st.lists(
        st.tuples(st.sampled_from([0, 1, 30]), st.sampled_from([0, 1, 40]), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**32),
)
@examples(150)
def test_values_are_what_the_format_says_of_levels_rows_and_columns(shape, deltas, seed):
    rng, matrix, size = np.random.default_rng(seed), view(shape), int(np.prod(shape))
    level, axes = np.zeros(size, int), np.zeros(matrix.sides, int)
    tile = slice(0, size)
    state = second.blank(matrix, tile, np.dtype(np.float64))
    for drift, farthest, zeros in deltas:
        moved = rng.integers(-farthest, farthest + 1, size)
        moved[level == second.ZERO] -= second.ZERO * zeros  # back from zero
        if zeros:
            moved[::7] = second.ZERO - level[::7]
        turned = rng.integers(-drift, drift + 1, matrix.sides)
        level, axes = level + moved, axes + turned
        level[level < second.ZERO // 2] = second.ZERO
        moved = level - (state.level.astype(int))
        state = second.advance(
            state, matrix, tile, 1.5, turned.astype(np.int16), moved.astype(np.int16)
        )
        rows = np.repeat(axes[: matrix.rows], matrix.columns) if matrix else axes[0]
        columns = np.tile(axes[matrix.rows :], matrix.rows) if matrix else 0
        expected = np.where(
            level == second.ZERO, 0, 1.5 * middle(second.CELL * level + rows + columns)
        )
        assert np.array_equal(state.level, level)
        assert np.array_equal(state.value(), expected)
        out = np.empty(size)
        state.place(out)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("moves", [[2**11, 0], [-(2**11), 0], [2**15 - 1, 1], [0, -(2**14) + 1]])
def test_levels_beyond_all_numbers_are_refused(moves):
    state = second.blank(view((2,)), slice(0, 2), np.dtype(np.float32))
    with pytest.raises(DamagedError):
        second.advance(
            state, view((2,)), slice(0, 2), 1.0, np.zeros(1, np.int16), np.array(moves, np.int16)
        )


@pytest.mark.parametrize("drift", [2**14, -(2**14), -(2**15)])
def test_rows_beyond_all_numbers_are_refused(drift):
    state = second.blank(view((2,)), slice(0, 2), np.dtype(np.float32))
    axes, nothing = np.array([drift], np.int16), np.zeros(2, np.int16)
    with pytest.raises(DamagedError):
        second.advance(state, view((2,)), slice(0, 2), 1.0, axes, nothing)
    with pytest.raises(DamagedError):
        second.start(np.ones(2, np.float32), axes, view((2,)), slice(0, 2))


def test_rows_that_carry_values_beyond_all_numbers_are_refused():
    state, one = second.blank(view((1,)), slice(0, 1), np.dtype(np.float64)), np.ones(1, np.int16)
    for drift in (16_000, 383, -300):
        state = second.advance(state, view((1,)), slice(0, 1), 1.0, drift * one, 0 * one)
    with pytest.raises(DamagedError):
        second.advance(state, view((1,)), slice(0, 1), 1.0, 300 * one, one)
