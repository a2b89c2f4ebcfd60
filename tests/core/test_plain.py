import json
import struct
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.core import (
    LC,
    PRESETS,
    Balanced,
    DeltaEncoder,
    compress,
    compression_rate,
    decompress,
)
from keras_lc.errors import CheckpointError, DamagedError, FormatError, OptionError

from .chains import ROOMY, bits, examples, matrices, name_of, raw
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

DTYPES = [
    *["?", "i1", "<i2", ">i4", "i8", "u1", "<u2", ">u4", "u8"],
    *["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g", "c8", ">c16", "S1", "S7", "U1", "<U3", ">U3"],
    *[ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
]
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (2, 3), (1, 1, 1, 5), (17, 16)]


def assert_same(found, array):
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert bits(found) == bits(array)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_arrays_of_any_dtype_and_shape_come_back(dtype, shape):
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    if np.dtype(dtype).kind in "SU":
        array = np.array([f"a{i}" for i in range(size)], dtype).reshape(shape)
    else:
        array = (3 * rng.normal(size=shape)).astype(dtype).reshape(shape)
    assert_same(decompress(compress(array)), array)
    both = decompress(compress({"x": array, "y": np.zeros(3)}))
    assert sorted(both) == ["x", "y"]
    assert_same(both["x"], array)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8", "c8", ml_dtypes.bfloat16], ids=name_of)
def test_any_bit_pattern_comes_back(dtype):
    @given(raw(dtype, 11))
    @examples(40)
    def check(array):
        assert_same(decompress(compress(array)), array)

    check()


@given(
    st.dictionaries(
        st.text(max_size=5),
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.bool_, "S3", np.float16]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=5,
    ),
    st.sampled_from(["lossless", "balanced", "smallest", "lc", "int8"]),
)
@examples(120)
def test_mappings_keep_names_shapes_and_dtypes(arrays, codec):
    found = decompress(compress(arrays, codec))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if codec == "lossless" or not np.issubdtype(array.dtype, np.floating):
            assert_same(found[name], array)


@pytest.mark.parametrize(
    "cut",
    [
        lambda array: array.T,
        lambda array: array[::-2, 1::3],
        lambda array: np.asfortranarray(array),
        lambda array: np.broadcast_to(array[:1], array.shape),
        lambda array: array[:, 0],
    ],
    ids=range(5),
)
@pytest.mark.parametrize("codec", ["lossless", "balanced"])
def test_arrays_that_are_not_contiguous_come_back(cut, codec):
    array = cut(np.arange(600, dtype=np.float32).reshape(20, 30))
    found = decompress(compress(array, codec))
    assert found.shape == array.shape
    if codec == "lossless":
        assert_same(found, np.ascontiguousarray(array).reshape(array.shape))
    assert np.corrcoef(found.reshape(-1), array.reshape(-1))[0, 1] > 0.9


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("codec", ["balanced", "smallest", "lc", "int8", LC(8, "model")], ids=str)
def test_lossy_codecs_come_back_near(codec, dtype):
    base, state = matrices(1, dtype)
    delta = {
        name: (state[name].astype(np.float64) - base[name].astype(np.float64)).astype(dtype)
        for name in base
        if name.startswith("w")
    }
    found = decompress(compress(delta, codec))
    for name, array in delta.items():
        here, there = array.astype(np.float64), found[name].astype(np.float64)
        assert np.linalg.norm(here - there) < 0.75 * np.linalg.norm(here)


def test_a_list_is_an_array_and_a_mapping_of_one_is_a_mapping():
    assert_same(decompress(compress([1.5, 2.5])), np.array([1.5, 2.5]))
    found = decompress(compress({"": np.arange(3)}))
    assert list(found) == [""]
    assert decompress(compress({})) == {}


def test_the_input_is_neither_changed_nor_kept():
    array = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    kept = array.copy()
    array.flags.writeable = False
    for codec in PRESETS:
        compress(array, codec)
        assert np.array_equal(array, kept)


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.array(["a", 1], object),
        np.zeros(3, [("a", "f4"), ("b", "i2")]),
        np.zeros(3, "V7"),
        np.zeros(3, "M8[ns]"),
        np.zeros(3, "m8[s]"),
        np.zeros(3, ml_dtypes.int4),
        np.zeros(3, ml_dtypes.float4_e2m1fn),
        np.zeros(3, np.dtypes.StringDType()),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_would_not_come_back_is_refused(array):
    with pytest.raises(OptionError):
        compress(array)
    with pytest.raises(OptionError, match="'odd'"):
        compress({"fine": np.zeros(2), "odd": array})


@pytest.mark.parametrize("name", [1, None, ("a",), b"a"])
def test_names_are_text(name):
    with pytest.raises(OptionError):
        compress({name: np.zeros(2)})


@pytest.mark.parametrize("codec", ["zip", None, {"a": "lossless"}, 3])
def test_an_unknown_codec_is_refused(codec):
    with pytest.raises(OptionError):
        compress({"b": np.zeros(2)}, codec)


SMALL = {
    "lossless": {"a": np.arange(5, dtype=np.float32), "b": np.array(["x", "yz"]), "c": np.int8(3)},
    "balanced": {"w": np.sin(np.arange(300, dtype=np.float32)).reshape(15, 20)},
    "int8": np.linspace(-1, 1, 9, dtype=np.float16),
}


def assert_equal(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert_same(found[name], array)
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("codec", SMALL)
def test_every_truncation_is_damage(codec):
    data = compress(SMALL[codec], codec)
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            decompress(data[:length])
    with pytest.raises(DamagedError):
        decompress(data + b"\0")


@pytest.mark.parametrize("codec", SMALL)
def test_a_flipped_byte_is_never_a_wrong_array(codec):
    data = compress(SMALL[codec], codec)
    expected = decompress(data)
    harmless = 0
    for position in range(len(data)):
        for flip in (0x01, 0x02, 0x10, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= flip
            try:
                found = decompress(bytes(damaged))
            except (DamagedError, FormatError):
                continue
            harmless += 1  # bits that deflate does not use
            assert_equal(found, expected)
    assert harmless <= 8


def test_more_than_the_limit_is_refused_before_it_is_made():
    data = compress(np.zeros(1 << 20, np.float64))
    assert decompress(data).nbytes == decompress(data, 1 << 23).nbytes == 1 << 23
    data = compress({f"a{i}": np.zeros(1 << 17, np.float64) for i in range(8)})
    with (
        at_most(1 << 20),
        pytest.raises(DamagedError, match=f"claim {1 << 23} bytes.*limit of {(1 << 23) - 1}"),
    ):
        decompress(data, (1 << 23) - 1)


def forge(document, blob=b""):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = zlib.compress(text)
    return struct.pack("<I", len(head)) + head + blob


HOSTILE = [
    *[None, 3, "x", [], {}, [True], [True, []], [True, [], 3], [True, None], [False, {"a": 1}]],
    *[[False, [row]] for row in (None, 3, "abc", [], ["a"], ["a", "<f4"], ["a", "<f4", [1], 1])],
    [True, [["a", "<f4", [1]], ["b", "<f4", [1]]]],
    [False, [["a", "<f4", [1]], ["a", "<f4", [1]]]],
    *[
        [False, [["a", dtype, [1]]]]
        for dtype in (
            *["O", "<M8[ns]", "V4", "f4,f4", "U0", "<U999999999", "", "x", 3, None, []],
            *["bfloat99", "bfloat16\0", "float8", "float8_", "bfloat", "int4", "object", "finfo"],
        )
    ],
    *[
        [False, [["a", "<f4", shape]]]
        for shape in (
            *[None, 3, "12x", {}, [-1], [-1, -1], [None], ["x"], [[1]], [float("inf")]],
            *[[float("nan")], [2**70], [0, 2**70], [2**40, 2**40, 0], [1] * 70, [0] * 70],
            *[[2**62], [2**33, 2**33]],
        )
    ],
]


@pytest.mark.parametrize("document", HOSTILE, ids=lambda document: str(document)[:50])
def test_a_forged_head_is_refused_without_memory(document):
    with at_most(1 << 22), pytest.raises(DamagedError):
        decompress(forge(document))


@pytest.mark.parametrize(
    ("rows", "single"),
    [
        ([["a", "<f4", [1]], ["a", "<f4", [1]]], False),
        ([["a", "<f4", [1]], ["b", "<f4", [1]]], True),
    ],
    ids=["a name twice", "two arrays for one"],
)
def test_a_head_that_contradicts_itself_is_refused(rows, single):
    state = {name: np.ones(1, np.float32) for name, _, _ in rows}
    base = {name: 0 * array for name, array in state.items()}
    blob = DeltaEncoder(base, "lossless").encode(state)
    decompress(forge([False, [[name, "<f4", [1]] for name in state]], blob))
    with pytest.raises(DamagedError):
        decompress(forge([single, rows], blob))


def test_a_head_without_its_checksum_is_refused():
    data = compress(np.ones(3, np.float32))
    (length,) = struct.unpack_from("<I", data)
    short = struct.pack("<I", length - 4) + data[4:length] + data[4 + length :]
    with pytest.raises(DamagedError):
        decompress(short)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 100_000, b" " * (1 << 27), b"[true,[]]" + b" " * (1 << 27)]
)
def test_a_head_that_is_none_is_refused_without_memory(text):
    data = forge(text)
    del text
    with at_most(1 << 26), pytest.raises(DamagedError):
        decompress(data)


@given(st.binary(max_size=60))
@examples(100)
def test_random_bytes_are_refused(data):
    with pytest.raises(CheckpointError):
        decompress(data)


def test_the_bytes_of_other_arrays_do_not_fit():
    one, other = compress(np.zeros(3, np.float32)), compress(np.zeros(4, np.float32))
    (length,) = struct.unpack_from("<I", one)
    (far,) = struct.unpack_from("<I", other)
    with pytest.raises(CheckpointError):
        decompress(one[: 4 + length] + other[4 + far :])


def test_a_difference_is_smaller_than_its_array():
    rng = np.random.default_rng(0)
    array = rng.normal(size=50_000).astype(np.float32)
    assert len(compress(array)) < array.nbytes
    assert len(compress(array, "int8")) < array.nbytes / 4
    assert len(compress(np.zeros_like(array))) < 200


def test_the_compression_rate_is_that_of_the_whole_state():
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=20_000).astype(np.float32), "n": np.arange(10)}
    moved = base | {"w": base["w"] + np.float32(1e-3) * rng.normal(size=20_000).astype(np.float32)}
    rates = {name: compression_rate(base, moved, name) for name in PRESETS}
    assert 1 < rates["lossless"] < rates["int8"] < rates["smallest"]
    assert rates["balanced"] == compression_rate(base, moved)
    assert compression_rate(base, moved, Balanced(0.05)) < rates["balanced"]
    assert compression_rate(base, base) > 300
