import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.core import DeltaDecoder, DeltaEncoder
from keras_lc.core.codecs import exact
from keras_lc.errors import MismatchError

from .chains import Ends, bits, examples, name_of, raw

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -np.nan]
RAW = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    ">f2",
    ">f4",
    ">f8",
    ">i2",
    ">u4",
    ">i8",
    "S5",
    "U3",
    ">U3",
    "datetime64[ns]",
    "timedelta64[s]",
    "V7",
    np.dtype([("a", "<f4"), ("b", "u1")]),
    *[
        getattr(ml_dtypes, name)
        for name in dir(ml_dtypes)
        if name.startswith(("bfloat16", "float4", "float6", "float8"))
    ],
]


@pytest.mark.parametrize("dtype", RAW, ids=name_of)
def test_lossless_keeps_any_bit_pattern(dtype):
    @given(st.lists(raw(dtype, 11), min_size=3, max_size=3))
    @examples(25)
    def check(arrays):
        ends = Ends({"x": arrays[0]}, "lossless")
        for array in arrays[1:]:
            assert bits(ends.send({"x": array})["x"]) == bits(array)

    check()


@given(st.lists(hnp.arrays(bool, 9), min_size=3, max_size=3))
@examples(25)
def test_lossless_keeps_bool(arrays):
    ends = Ends({"x": arrays[0]}, "lossless")
    for array in arrays[1:]:
        assert bits(ends.send({"x": array})["x"]) == bits(array)


@given(st.lists(hnp.arrays(np.float64, 4), min_size=3, max_size=3))
@examples(25)
def test_lossless_keeps_long_double(arrays):
    arrays = [array.astype(np.longdouble) / 3 for array in arrays]
    ends = Ends({"x": arrays[0]}, "lossless")
    for array in arrays[1:]:
        assert np.array_equal(ends.send({"x": array})["x"], array, equal_nan=True)


@pytest.mark.parametrize("codec", ["lossless", "balanced", "lc"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_special_values_are_kept_by_every_codec(codec, dtype):
    info = ml_dtypes.finfo(dtype)
    edges = [info.max, info.min, info.tiny, info.smallest_subnormal]
    state = np.array([*SPECIAL, *map(float, edges)]).astype(dtype)
    ends = Ends({"x": np.zeros_like(state)}, codec)
    assert bits(ends.send({"x": state})["x"]) == bits(state)
    assert bits(ends.send({"x": state[::-1].copy()})["x"]) == bits(state[::-1])


@pytest.mark.parametrize(
    ("unsigned", "dtype", "patterns"),
    [
        (np.uint16, np.float16, [0x7C01, 0xFE55]),
        (np.uint32, np.float32, [0x7F800001, 0x7FC12345, 0xFFFFFFFF]),
        (np.uint64, np.float64, [0x7FF0000000000001, 0xFFF8DEADBEEF0001]),
        (np.uint16, ml_dtypes.bfloat16, [0x7F81, 0xFFFF]),
    ],
)
@pytest.mark.parametrize("codec", ["lossless", "balanced", "lc"])
def test_payloads_of_nan_are_kept(unsigned, dtype, patterns, codec):
    state = np.array(patterns, unsigned).view(dtype)
    ends = Ends({"x": np.ones_like(state)}, codec)
    assert bits(ends.send({"x": state})["x"]) == bits(state)
    assert bits(ends.send({"x": np.roll(state, 1)})["x"]) == bits(np.roll(state, 1))


@pytest.mark.parametrize("codec", ["lossless", "balanced", "lc"])
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0,), np.float32),
        np.zeros((3, 0, 2), np.float32),
        np.zeros((0,), "U4"),
        np.array(1.5, np.float32),
        np.array(7, np.int64),
        np.array("word"),
        np.array(True),
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3],
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(12, dtype=np.float64).reshape(3, 4).T,
        np.broadcast_to(np.float32(3), (4, 5)),
        np.arange(6, dtype=">f4"),
        np.arange(6, dtype=">i8"),
    ],
    ids=lambda array: f"{array.dtype.str} {array.shape}",
)
def test_any_layout_is_taken(array, codec):
    ends = Ends({"x": array}, codec)
    assert bits(ends.send({"x": array})["x"]) == bits(array)
    if array.dtype.kind == "f":
        moved = (array + array.dtype.type(1)).astype(array.dtype)
        assert bits(ends.send({"x": moved}, "lossless")["x"]) == bits(moved)


def test_a_base_of_another_byte_order_is_another_base():
    little = {"x": np.arange(5, dtype="<f4")}
    big = {"x": np.arange(5, dtype=">f4")}
    blob = DeltaEncoder(big, "lossless").encode({"x": big["x"][::-1]})
    with pytest.raises(MismatchError):
        DeltaDecoder(little).decode(blob)


@given(raw(np.float32, 6))
@examples(100)
def test_images_keep_the_order_of_floats(array):
    numbers = np.sort(array[~np.isnan(array)])
    image = exact._image(numbers)
    assert (image[1:] >= image[:-1])[numbers[1:] != numbers[:-1]].all()
    assert bits(exact._from_image(exact._image(array), array.dtype)) == bits(array)


def test_same_means_every_bit():
    one = np.array([0.0, np.nan], np.float32)
    assert exact.same(one, one.copy())
    assert not exact.same(one, np.array([-0.0, np.nan], np.float32))


def test_a_small_movement_is_cheaper_than_the_values():
    rng = np.random.default_rng(0)
    base = rng.normal(size=50_000).astype(np.float32)
    moved = base + (1e-4 * rng.normal(size=base.size)).astype(np.float32)
    ends = Ends({"x": base}, "lossless")
    ends.send({"x": moved})
    assert ends.size < 0.7 * base.nbytes


def test_values_that_a_difference_does_not_help_are_stored_plain():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**32, 50_000, np.uint32)
    ends = Ends({"x": base}, "lossless")
    assert (ends.send({"x": np.full_like(base, 7)})["x"] == 7).all()
    assert ends.size < 300
