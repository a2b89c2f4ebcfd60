import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import DeltaDecoder, DeltaEncoder, TensorSpec
from keras_lc.core import blob as blobs
from keras_lc.errors import CheckpointError, DamagedError, FormatError, MismatchError

from .chains import CODECS, SPECS, bits, examples, forge, of_the_form, pack, training
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

BASE = {
    "count": np.arange(3, dtype=np.int32),
    "m": np.linspace(-1, 1, 8, dtype=np.float32),
    "name": np.array(["ab", "c"]),
    "v": np.linspace(0.5, 2, 8, dtype=np.float32),
    "w": np.linspace(-2, 2, 8, dtype=np.float32),
    "z": np.array([1 + 2j, 3]),
}
ROLES = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
ORDER = list(BASE)
MOVED = {
    name: array if array.dtype.kind == "U" else (array * 1.01 + 1).astype(array.dtype)
    for name, array in BASE.items()
}
FINGERPRINT = DeltaDecoder(BASE).chain.table.fingerprint


def symbols(count, value=1, dtype=np.int32):
    return pack(np.full(count, value, dtype))


def document(**changes):
    """The table of a delta that changes nothing, and the changes."""
    plain = {"seq": 1, "table": FINGERPRINT, "kinds": "ssssss", "params": [], "pools": {}}
    return plain | {"refs": [-1] * 6} | changes


POOLS = {"l": "weight", "m": "first", "v": "second", "b": "buckets"}
POOLS |= {"d": "difference4", "p": "plain4"}


def of(**kinds):
    """Kinds of some tensors, the others staying the same."""
    return "".join(kinds.get(name, "s") for name in ORDER)


def change(name, kind, params, data, of=None):
    """A delta that changes one tensor, coded with the moment `of`, and holds `data` for it."""
    at = ORDER.index(name)
    refs, kinds = [-1] * 6, ["s"] * 6
    kinds[at] = kind
    if of is not None:
        refs[at] = ORDER.index(of)
        kinds.append(kinds.pop(at))
    params = [] if params is None else [params]
    pools = {POOLS[kind]: len(data)}
    table = document(kinds="".join(kinds), params=params, pools=pools, refs=refs)
    return forge(table, data)


def read(blob):
    decoded = DeltaDecoder(BASE).decode(blob)
    return {name: decoded[name] for name in decoded}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_changed_byte_is_noticed(codec):
    base, *states = training(2)
    encoder = DeltaEncoder(base, codec, SPECS)
    blob = encoder.encode(states[0])
    positions = range(len(blob)) if len(blob) < 1500 else [*range(700), *range(700, len(blob), 5)]
    decoder = DeltaDecoder(base)
    for position in positions:
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(blob)
            damaged[position] ^= flip
            with pytest.raises(CheckpointError):
                decoder.decode(bytes(damaged))
    decoder.decode(blob)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_truncation_is_noticed(codec):
    base, state = training(1)
    blob = DeltaEncoder(base, codec, SPECS).encode(state)
    decoder = DeltaDecoder(base)
    for length in range(len(blob)):
        with pytest.raises(DamagedError):
            decoder.decode(blob[:length])
    with pytest.raises(DamagedError):
        decoder.decode(blob + b"\0")
    decoder.decode(blob)


def test_blobs_are_decoded_in_their_order_only():
    base, *states = training(3)
    encoder = DeltaEncoder(base, "balanced", SPECS)
    first, second, third = [encoder.encode(state) for state in states]
    decoder = DeltaDecoder(base)
    for early in (second, third):
        with pytest.raises(MismatchError, match="order"):
            decoder.decode(early)
    decoder.decode(first)
    for other in (first, third):
        with pytest.raises(MismatchError, match="order"):
            decoder.decode(other)
    decoder.decode(second)
    decoder.decode(third)
    for name, array in encoder.reconstruction.items():
        assert bits(decoder.reconstruction[name]) == bits(array)


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros((2, 1), np.float32)},
        {"a": np.zeros(2, np.float16)},
        {"a": np.zeros(2, np.int32)},
        {"b": np.zeros(2, np.float32)},
        {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)},
        {},
    ],
)
def test_a_blob_of_another_base_is_refused(other):
    blob = DeltaEncoder(other).encode(other)
    with pytest.raises(CheckpointError):
        DeltaDecoder({"a": np.zeros(2, np.float32)}).decode(blob)


def test_a_newer_version_says_so():
    with pytest.raises(FormatError, match="Upgrade"):
        read(forge(document(), version=blobs.VERSION + 1))


def test_version_zero_is_refused():
    with pytest.raises(CheckpointError):
        read(forge(document(), version=0))


def test_the_forger_can_make_a_good_blob():
    assert {name: bits(a) for name, a in read(forge(document())).items()} == {
        name: bits(a) for name, a in BASE.items()
    }
    decoded = read(change("w", "l", [-2, 0.0, 2], symbols(8)))
    assert np.array_equal(decoded["w"], BASE["w"] + np.float32(0.25))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": float("nan")},
        {"seq": float("inf")},
        {"seq": None},
        {"seq": []},
        {"seq": -1},
        {"seq": 2**70},
        *[{"first": first} for first in (0, -1, 2, 2**63, 10**400, None, [], float("nan"))],
        {"table": None},
        {"table": float("inf")},
        {"table": "x"},
        {"table": 0},
        {"kinds": None},
        {"kinds": 6},
        {"kinds": ""},
        {"kinds": "sssss"},
        {"kinds": "sssssss"},
        {"kinds": "ssssxs"},
        {"kinds": [[], [], [], [], [], []]},
        {"kinds": {str(i): i for i in range(6)}},
        {"kinds": of(w="l"), "params": None},
        {"kinds": of(w="l"), "params": {}},
        {"kinds": of(w="l"), "params": []},
        {"kinds": of(w="l"), "params": [7]},
        {"params": 5},
        {"params": [[1], [2]]},
        {"pools": None},
        {"pools": []},
        {"pools": "weight"},
        {"pools": {"weight": -1}},
        {"pools": {"weight": 2**62}},
        {"pools": {"weight": 10**400}},
        {"pools": {"weight": float("inf")}},
        {"pools": {"weight": float("nan")}},
        {"pools": {"weight": None}},
        {"pools": {"weight": 0}},
        {"pools": {"no such pool": 0}},
        {"refs": 3},
        {"refs": []},
        {"refs": [-1] * 7},
        {"refs": [0, 0, 0, 0, 0, 6]},
        {"refs": [-2] * 6},
        {"refs": [float("nan")] * 6},
        {"refs": [float("inf")] * 6},
        {"refs": [None] * 6},
        {"refs": [[]] * 6},
        {"refs": [0, 1, 2, 3, 4, 5]},
        {"refs": [1, 2, 3, 4, 5, 0]},
        {"refs": [1, 2, 3, 4, -1, -1]},
        {"refs": [2**80] * 6},
    ],
    ids=str,
)
def test_a_hostile_table_is_refused(changes):
    with pytest.raises(CheckpointError):
        read(forge(document(**changes)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"3",
        b"[]",
        b'"kinds"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kinds":' * 50_000,
        b'{"seq":' + b"9" * 5000 + b"}",
        b" " * 10**8,
        json.dumps(document()).encode() + b" " * 10**8 + b"x",
    ],
    ids=range(12),
)
def test_a_table_that_is_none_is_refused_without_memory(text):
    blob = forge(text)
    del text
    with at_most(1 << 26), pytest.raises(CheckpointError):
        read(blob)


def refused(blob):
    with pytest.raises(CheckpointError):
        read(blob)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        *[
            ("l", params)
            for params in ([], ["a"], [[]], [0], [0.5, 0.0, 2], [0, 0.0, 4], [0, 0.0, 2, 4])
        ],
        *[("l", [0, beta, 2]) for beta in (float("nan"), float("inf"), -(10.0**20), "a", None, [])],
        *[
            ("l", [exponent, 0.0, 2])
            for exponent in (2000, -2000, 2**70, float("nan"), float("inf"))
        ],
        *[("m", params) for params in ([], ["a"], [None], [[]], [-1.0], [1e40])],
        *[("m", [step]) for step in (float("nan"), float("inf"), -float("inf"))],
        *[("v", params) for params in ([], ["a"], [None], [[]], [-1.0], [0], [1e40])],
        *[("v", [factor]) for factor in (float("nan"), float("inf"), -float("inf"))],
        *[("b", [centre]) for centre in (float("nan"), float("inf"), None, "a", "1", [], [1])],
        ("b", []),
        ("b", [[0.5], 2]),
    ],
    ids=str,
)
def test_hostile_parameters_are_refused(kind, params):
    refused(change("w", kind, params, symbols(8)))
    refused(change("w", kind, params, symbols(8), of="v"))


@pytest.mark.parametrize("name", ["count", "name", "z"])
@pytest.mark.parametrize(
    ("kind", "params"), [("l", [-2, 0.0, 2]), ("m", [0.5]), ("v", [1.0]), ("b", [0.5])]
)
def test_a_lossy_kind_of_a_tensor_that_is_no_float_is_refused(name, kind, params):
    refused(change(name, kind, params, symbols(BASE[name].size)))


@pytest.mark.parametrize("other", ["count", "name", "z"])
def test_a_first_moment_in_units_of_another_kind_of_tensor_is_refused(other):
    refused(change("m", "m", [0.5], symbols(8), of=other))


def test_a_prediction_from_what_is_no_moment_is_refused():
    refused(change("w", "l", [0, 1.0, 2], symbols(8)))
    for other in ("v", "count", "name", "z"):
        refused(change("w", "l", [0, 1.0, 2], symbols(8), of=other))


@pytest.mark.parametrize("count", [0, 7, 9, 100_000])
@pytest.mark.parametrize(
    ("kind", "params"),
    [("l", [0, 0.0, 2]), ("m", [0.5]), ("v", [1.0]), ("b", [1.0]), ("d", None), ("p", None)],
)
def test_pools_of_another_length_are_refused(count, kind, params):
    refused(change("w", kind, params, symbols(count)))


def test_chunks_and_bytes_after_the_last_symbol_are_refused():
    for surplus in (symbols(8), b"\0"):
        refused(change("w", "l", [0, 0.0, 2], symbols(8) + surplus))


def test_bytes_after_the_pools_are_refused():
    with pytest.raises(CheckpointError):
        read(forge(document(), b"\0"))


@given(
    st.sampled_from(["l", "v", "m", "b", "d", "p"]),
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda data: b"\2" + len(data).to_bytes(4, "little") + data),
        st.tuples(st.integers(0, 200), st.integers(0, 255)).map(
            lambda change: bytes(
                change[1] if at == change[0] else byte for at, byte in enumerate(symbols(8))
            )
        ),
    ),
)
@examples(300)
def test_random_symbols_are_refused_or_read(kind, data):
    blob = change("w", kind, [1] if kind in "lvmb" else None, data)
    with at_most(1 << 26):
        try:
            with np.errstate(all="ignore"):
                decoded = read(blob)
        except CheckpointError:
            pass
        else:
            assert of_the_form(decoded, BASE)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["seq", "table", "kinds", "params", "pools", "refs"]), JSON),
    st.binary(max_size=20),
)
@examples(120)
def test_any_json_is_refused_or_read(changes, pools):
    try:
        decoded = read(forge(document(**changes), pools))
    except CheckpointError:
        return
    assert sorted(decoded) == ORDER


def test_a_blob_that_inflates_without_end_takes_no_memory():
    packer = zlib.compressobj()
    head = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    body = blobs._HEAD.pack(blobs.VERSION, len(head)) + head
    blob = body + blobs._TAIL.pack(zlib.crc32(body))
    with at_most(1 << 26), pytest.raises(DamagedError):
        read(blob)


def test_after_a_delta_that_fails_halfway_nothing_is_decoded():
    decoder = DeltaDecoder(BASE)
    with pytest.raises(DamagedError):
        decoder.decode(change("w", "l", [0, 0.0, 2], symbols(7)))
    with pytest.raises(MismatchError, match="start again"):
        decoder.decode(DeltaEncoder(BASE).encode(MOVED))
    with pytest.raises(CheckpointError):
        DeltaEncoder.resume(decoder)


def test_a_decoder_keeps_no_hold_of_its_base():
    base = {name: array.copy() for name, array in BASE.items()}
    decoder = DeltaDecoder(base)
    blob = DeltaEncoder(base, "lossless", ROLES).encode(MOVED)
    for array in base.values():
        array[...] = 0
    for name, array in decoder.decode(blob).items():
        assert bits(array) == bits(MOVED[name])
