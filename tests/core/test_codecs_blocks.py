import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core.codecs import blocks as codec
from keras_lc.core.floats import positive_range
from keras_lc.errors import DamagedError

from .chains import bits, examples, name_of, raw, rough

ROOMY = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SCALE = {2: np.int32, 4: np.int32, 8: np.int64}
of_each_dtype = pytest.mark.parametrize("dtype", ROOMY, ids=name_of)


def half_ulp(value, dtype):
    info = ml_dtypes.finfo(dtype)
    exponent = max(math.frexp(value)[1] - 1, int(info.minexp))
    return Fraction(2) ** (exponent - int(info.nmant) - 1)


def roundtrip(live):
    """What a decoder makes of an array; all that must hold of any array is checked."""
    before, dtype = bits(live), live.dtype
    scales = codec.scales(live)
    k = codec.encode(live, scales)
    assert bits(live) == before
    assert scales.dtype == SCALE[dtype.itemsize]
    assert k.dtype == np.int16
    assert scales.shape == (codec.blocks(live.size),)
    assert k.shape == live.shape
    symbols = bits(scales), bits(k)
    state = codec.advance(scales, k, dtype)
    decoded = state.value()
    assert (bits(scales), bits(k)) == symbols
    assert decoded.dtype == dtype
    assert decoded.shape == live.shape
    assert state.array.flags.owndata
    for start in range(0, live.size, 256):
        assert_block(live[start : start + 256], decoded[start : start + 256])
    return decoded


def assert_block(live, decoded):
    """The bound of the codec, in rational numbers."""
    x = [float(value) for value in live]
    x_hat = [float(value) for value in decoded]
    largest = max(map(abs, x))
    for one, other in zip(x, x_hat, strict=True):
        bound = Fraction(largest) / 254 + half_ulp(other, live.dtype) * (largest != 0)
        assert abs(Fraction(one) - Fraction(other)) <= bound, (one, other, largest)
        if live.itemsize < 8 and abs(one) == largest:
            assert one == other


def finite_ones(array):
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(array), array, np.ones_like(array))


def ties(dtype, size):
    """Values half-way between two integers times the scale, or next to that."""
    smallest, top = positive_range(np.dtype(dtype))

    def build(seed, exponent):
        rng = np.random.default_rng(seed)
        largest = rng.uniform(1, 2) * 2.0**exponent
        values = (rng.integers(-127, 127, size) + 0.5) * (largest / 127)
        values[0] = largest
        live = np.clip(values, -top, top).astype(dtype)
        unsigned = live.view(f"u{live.dtype.itemsize}")
        nudged = unsigned + rng.integers(-1, 2, size).astype(unsigned.dtype)
        return finite_ones(np.where(unsigned & unsigned * 2 == 0, unsigned, nudged).view(dtype))

    low, high = math.frexp(smallest)[1], math.frexp(top)[1] - 1
    return st.builds(build, st.integers(0, 2**32), st.integers(low, high))


@of_each_dtype
@pytest.mark.parametrize("size", [1, 2, 5, 255, 256, 257])
def test_any_bit_pattern_is_within_the_bound(dtype, size):
    @given(raw(dtype, size).map(finite_ones))
    @examples(15)
    def check(live):
        roundtrip(live)

    check()


@of_each_dtype
def test_values_of_one_magnitude_are_within_the_bound(dtype):
    info = ml_dtypes.finfo(dtype)

    @given(rough(dtype, 270, low=int(info.minexp) - int(info.nmant), high=int(info.maxexp)))
    @examples(40)
    def check(live):
        roundtrip(live)

    check()


@of_each_dtype
def test_values_between_two_integers_are_within_the_bound(dtype):
    @given(ties(dtype, 50))
    @examples(150)
    def check(live):
        roundtrip(live)

    check()


@of_each_dtype
def test_the_error_of_each_block_is_that_of_its_own_largest_value(dtype):
    rng = np.random.default_rng(0)
    sizes = np.repeat([1e-3, 1.0, 1e3], 256)
    roundtrip((sizes * rng.uniform(-1, 1, sizes.size)).astype(dtype))


@of_each_dtype
def test_the_extremes_are_within_the_bound(dtype):
    smallest, top = positive_range(np.dtype(dtype))
    info = ml_dtypes.finfo(dtype)
    tiny = float(info.tiny)
    for edge in (smallest, 3 * smallest, 130 * smallest, tiny, 2 * tiny, top / 2, top):
        live = (np.linspace(-1, 1, 51) * edge).astype(dtype)
        assert np.isfinite(roundtrip(live).astype(np.float64)).all()


@of_each_dtype
def test_all_denormals_up_to_the_largest_are_within_the_bound(dtype):
    for largest in (1, 2, 63, 64, 126, 127, 128, 129, 254, 255):
        steps = np.arange(min(largest, 255) + 1)
        unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
        roundtrip(steps.astype(unsigned).view(dtype))


def test_denormals_lose_nothing_where_the_scale_is_finer_than_they_are():
    live = np.arange(128, dtype=np.uint64).view(np.float64)
    assert bits(roundtrip(live)) == bits(live)


@pytest.mark.parametrize("exponent", range(-903, -896))
def test_float64_is_within_the_bound_where_the_lift_ends(exponent):
    rng = np.random.default_rng(exponent + 1000)
    roundtrip(rng.uniform(-1, 1, 256) * 2.0**exponent)


@of_each_dtype
def test_a_block_of_zeros_stays_zero(dtype):
    live = np.zeros(600, dtype)
    live[300] = 1
    live[0] = -0.0
    decoded = roundtrip(live)
    assert bits(decoded[:256]) == bits(np.zeros(256, dtype))
    assert bits(decoded[512:]) == bits(np.zeros(88, dtype))


@of_each_dtype
@pytest.mark.parametrize("value", [1.0, -1.0, 0.3])
def test_a_constant_comes_back(dtype, value):
    live = np.full(300, value, dtype)
    decoded = roundtrip(live).astype(np.float64)
    assert np.abs(decoded / live.astype(np.float64) - 1).max() <= 2.0**-43


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_a_byte_order_is_kept(dtype):
    roundtrip(np.linspace(-1, 2, 300).astype(dtype))


@of_each_dtype
def test_nothing_comes_back_as_nothing(dtype):
    decoded = roundtrip(np.zeros(0, dtype))
    assert decoded.size == 0


@of_each_dtype
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_tensor_with_nan_or_inf_is_left_to_others(dtype, bad):
    live = np.ones(300, dtype)
    live[299] = bad
    assert codec.scales(live) is None


def test_how_many_blocks():
    sizes = [0, 1, 255, 256, 257, 512, 513]
    assert [codec.blocks(size) for size in sizes] == [0, 1, 1, 1, 2, 2, 3]


@of_each_dtype
def test_a_scale_that_is_none_is_refused(dtype):
    k = np.zeros(2, np.int16)
    top = positive_range(np.dtype(dtype))[1]
    scales = codec.scales(np.array([top, 0], dtype))
    codec.advance(scales, k, np.dtype(dtype))
    limits = np.iinfo(scales.dtype)
    for bad in (int(scales[0]) + 1, -1, limits.min, limits.max):
        with pytest.raises(DamagedError):
            codec.advance(np.array([bad], scales.dtype), k, np.dtype(dtype))
    real = np.float64 if dtype is np.float64 else np.float32
    for bad in (np.nan, np.inf, -np.inf, -1.0, -0.0):
        with pytest.raises(DamagedError):
            codec.advance(np.array([bad], real).view(scales.dtype), k, np.dtype(dtype))


@of_each_dtype
def test_an_integer_past_the_scale_is_refused(dtype):
    live = np.array([1, -1, 0], dtype)
    scales = codec.scales(live)
    k = codec.encode(live, scales)
    assert k.tolist() == [127, -127, 0]
    for bad in (128, -128, 32767, -32768):
        with pytest.raises(DamagedError):
            codec.advance(scales, np.array([0, bad, 0], np.int16), np.dtype(dtype))
