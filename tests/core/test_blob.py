import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import DeltaDecoder, DeltaEncoder
from keras_lc.core import blob as blobs
from keras_lc.core.blob import Entry, Table
from keras_lc.errors import DamagedError

from .chains import examples, seal

ENTRIES = st.one_of(
    st.sampled_from([Entry(kind, []) for kind in ("same", "difference", "plain")]),
    st.builds(Entry, st.just("lattice"), st.lists(st.integers(-99, 99), min_size=1, max_size=3)),
    st.builds(
        Entry,
        st.sampled_from(["first", "second"]),
        st.lists(st.floats(0, 9), min_size=1, max_size=1),
    ),
    st.builds(Entry, st.just("buckets"), st.lists(st.floats(-1, 1), min_size=1, max_size=7)),
)


@given(
    st.lists(ENTRIES, max_size=8),
    st.dictionaries(st.sampled_from(["lattice", "first", "plain4"]), st.binary(max_size=9)),
    st.integers(1, 2**40),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(0, 9),
)
@examples(150)
def test_what_is_packed_is_unpacked(entries, pools, sequence, fingerprint, announced, merged):
    references = [-1] * len(entries) if announced else None
    table = Table(sequence, sequence + merged, fingerprint, references, entries)
    found, rest = blobs.unpack(
        b"".join(blobs.pack(table, {name: [data[:1], data[1:]] for name, data in pools.items()})),
        len(entries),
    )
    assert (found.first, found.sequence) == (sequence, sequence + merged)
    assert found.fingerprint == fingerprint
    assert found.references == references
    assert found.entries == entries
    assert {name: bytes(data) for name, data in rest.items()} == pools


def test_the_layout_is_the_documented_one():
    table = Table(3, 3, 7, [-1, 0], [Entry("same", []), Entry("lattice", [-9, 0.5])])
    blob = b"".join(blobs.pack(table, {"lattice": [b"ab", b"c"]}))
    version, length = struct.unpack_from("<BI", blob)
    assert version == 1
    assert json.loads(zlib.decompress(blob[5 : 5 + length])) == {
        "seq": 3,
        "table": 7,
        "kinds": "sl",
        "params": [[-9, 0.5]],
        "pools": {"lattice": 3},
        "refs": [-1, 0],
    }
    assert blob[5 + length : -4] == b"abc"
    assert struct.unpack("<I", blob[-4:])[0] == zlib.crc32(blob[:-4])


@pytest.mark.parametrize(
    "blob",
    [b"", bytes(8), seal(b"\1\0\0\0\0"), seal(b"\1\xff\xff\xff\xff"), seal(b"\1\3\0\0\0abc")],
    ids=["empty", "short", "no table", "long table", "no deflate"],
)
def test_a_malformed_head_is_damage(blob):
    with pytest.raises(DamagedError):
        blobs.unpack(blob, 1)


def test_another_number_of_tensors_is_damage():
    blob = b"".join(blobs.pack(Table(1, 1, 0, None, [Entry("same", [])]), {}))
    with pytest.raises(DamagedError, match="1 tensors"):
        blobs.unpack(blob, 2)


def test_a_table_of_many_tensors_and_long_parameters_is_read_back():
    entries = [Entry("buckets", [-1.2345678901234567e-300] * 255)] * 50
    blob = b"".join(blobs.pack(Table(1, 1, 0, None, entries), {}))
    assert blobs.unpack(blob, 50)[0].entries == entries


def test_a_wrong_checksum_is_damage():
    base = {"w": np.zeros(3, np.float32)}
    blob = bytearray(DeltaEncoder(base).encode({"w": np.ones(3, np.float32)}))
    blob[-1] ^= 1
    with pytest.raises(DamagedError, match="checksum"):
        DeltaDecoder(base).decode(blob)
    assert DeltaDecoder(base).decode(blob, checked=True)["w"].sum() == 3
