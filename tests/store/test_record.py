from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import nullcontext
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc import workers
from keras_lc.errors import CheckpointError, DamagedError, FormatError
from keras_lc.store import digest, record
from keras_lc.store.files import write_once
from tests.toy import as_record, memory_growth, payload_of, sealed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
HEADERS = st.dictionaries(st.text(), JSON, max_size=5)


def at(path: Path, data: bytes, offset: int = 0) -> tuple[record.Frame | None, bytes]:
    path.write_bytes(data)
    with open(path, "rb") as file:
        file.seek(offset)
        return record.read_frame(file), data[offset:]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "file"


@given(HEADERS, st.binary(max_size=200))
@settings(deadline=None, max_examples=60)
def test_a_record_gives_back_its_header_and_payload(
    path: Path, header: dict[str, Any], payload: bytes
) -> None:
    frame, data = at(path, as_record(header, payload))
    assert frame is not None
    assert frame.header == header
    assert payload_of(io.BytesIO(data), frame) == payload
    assert frame.end == len(data)
    assert sealed(data[:-64]) == data
    assert frame.digest == data[-32:].hex()


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=50)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_records_concatenate(path: Path, parts: list[tuple[dict[str, Any], bytes]]) -> None:
    data = b"".join(as_record(header, payload) for header, payload in parts)
    offset = 0
    for header, payload in parts:
        frame, rest = at(path, data, offset)
        assert frame is not None
        assert frame.header == header
        assert payload_of(io.BytesIO(rest), frame) == payload
        with open(path, "rb") as file:
            file.seek(offset)
            record.verify(file, frame)
        offset += frame.end
    assert offset == len(data)


def test_the_bytes_of_a_record_are_those_of_the_format() -> None:
    body = (
        b"\x89LCK\r\n\x1a\n"
        + b"\x01\x00"
        + b"\x00\x00"
        + b"\x07\x00\x00\x00"
        + b"\x02\x00\x00\x00\x00\x00\x00\x00"
        + b"\x9b\x87\x1c\xc0"
        + b'{"a":1}'
        + b"xy"
    )
    assert as_record({"a": 1}, b"xy") == sealed(body)


@given(st.integers(0, 3000))
@settings(deadline=None, max_examples=60)
def test_an_aligned_head_is_a_power_of_two_from_512_up_and_as_long_for_any_payload(
    length: int,
) -> None:
    header = {"x": "a" * length}
    size = len(record.head(header, 0, align=True))
    assert size >= 512
    assert size & (size - 1) == 0
    assert len(record.head(header, 2**63, align=True)) == size
    assert size == 512 or size < 2 * (28 + len('{"x":""}') + length)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 1400))
@settings(deadline=None, max_examples=30)
def test_a_sealed_file_is_a_record(path: Path, payload: bytes, length: int) -> None:
    header = {"x": "a" * length}
    start = len(record.head(header, 0, align=True))
    with write_once(path) as file:
        file.seek(start)
        file.write(payload)
        digest = record.seal(file, header, start)
    frame, data = at(path, path.read_bytes())
    assert frame is not None
    assert (frame.header, frame.digest, frame.start) == (header, digest, start)
    assert payload_of(io.BytesIO(data), frame) == payload


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6), st.integers(1, 99))
@settings(deadline=None, max_examples=100)
def test_how_a_payload_is_cut_into_pieces_does_not_matter(
    payload: bytes, cuts: list[int], block: int
) -> None:
    pieces = [payload[a:b] for a, b in pairwise([0, *sorted(cuts), 300])]
    file = io.BytesIO()
    with mock.patch.object(digest, "BLOCK", block):
        record.write(file, {"a": 1}, pieces)
        assert file.getvalue() == as_record({"a": 1}, payload)
    body = record.head({"a": 1}, len(payload)) + payload
    hashes = [sha256(body[i : i + block]).digest() for i in range(0, len(body), block)]
    assert file.getvalue() == body + b"".join([*hashes, sha256(b"".join(hashes)).digest()])


def test_every_flipped_byte_and_every_truncation_of_a_record_is_noticed(path: Path) -> None:
    whole = as_record({"a": [1, "b"]}, b"payload")
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [
        whole[:n] + bytes([whole[n] ^ 1 << bit]) + whole[n + 1 :]
        for n in range(len(whole))
        for bit in range(8)
    ]
    for data in damaged:
        try:
            frame, _ = at(path, data)
            if frame is None:
                assert data[:8] != whole[:8]
                continue
        except CheckpointError:
            continue
        with pytest.raises(DamagedError):
            payload_of(io.BytesIO(data), frame)
        with pytest.raises(DamagedError), open(path, "rb") as file:
            record.verify(file, frame)


def test_other_files_are_no_record(path: Path) -> None:
    for data in (b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"text", record.MAGIC[:7]):
        assert at(path, data)[0] is None


def head(length: int, payload: int, text: bytes) -> bytes:
    lengths = struct.pack("<HHIQ", 1, 0, length, payload)
    return record.MAGIC + lengths + struct.pack("<I", zlib.crc32(lengths + text)) + text


def test_a_newer_version_is_said_to_be_newer(path: Path) -> None:
    data = bytearray(as_record({}, b""))
    data[8] = 2
    with pytest.raises(FormatError, match="Upgrade"):
        at(path, bytes(data))


@pytest.mark.parametrize("length", [3, 2**26 + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("payload", [0, 2**31, 2**63, 2**64 - 1])
def test_claimed_lengths_take_no_memory(path: Path, length: int, payload: int) -> None:
    data = head(length, payload, b"{}" * 20)
    if (length, payload) == (3, 0):
        return

    def read() -> None:
        with pytest.raises(DamagedError):
            at(path, data)

    assert memory_growth(read) < 64 << 20


def test_headers_that_are_no_object_or_no_json_are_damaged(path: Path) -> None:
    texts: list[bytes] = [b"[]", b"1", b"null", b'"a"', b"{", b"\xff\xfe", b'{"a":' + b"9" * 5000]
    texts += [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b""]
    for text in texts:
        body = head(len(text), 0, text)
        with pytest.raises(DamagedError):
            at(path, sealed(body))


def test_trailing_spaces_of_a_header_are_allowed(path: Path) -> None:
    text = json.dumps({"a": 1}).encode() + b" " * 9
    body = head(len(text), 0, text)
    frame, _ = at(path, sealed(body))
    assert frame is not None
    assert frame.header == {"a": 1}


def test_a_header_that_is_not_strict_json_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_record({"a": float("nan")}, b"")


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 400), st.data())
@settings(deadline=None, max_examples=100)
def test_a_part_of_a_record_is_read_and_compared_alone(
    payload: bytes, start: int, length: int, data: st.DataObject
) -> None:
    with mock.patch.object(digest, "BLOCK", 64):
        whole = bytearray(as_record({"a": 1}, payload))
        frame = record.read_frame(io.BytesIO(whole))
        assert frame is not None
        part = slice(min(start, frame.size), min(start + length, frame.size))
        at = data.draw(st.integers(frame.start, frame.size - 1)) if payload else frame.start
        whole[at] ^= bool(payload)
        source = record.Checked(io.BytesIO(whole), frame)
        hit = payload and part.start // 64 <= at // 64 < digest.count(part.stop)
        with pytest.raises(DamagedError) if hit else nullcontext():
            source.fetch(part)
            assert source.data[part] == whole[part]
        with pytest.raises(DamagedError) if payload else nullcontext():
            source.fetch()
        with pytest.raises(DamagedError) if payload else nullcontext():
            record.verify(io.BytesIO(whole), frame)


def test_the_digest_does_not_depend_on_the_number_of_threads() -> None:
    payload = np.random.default_rng(0).bytes(2 * digest.BLOCK)
    found = []
    for threads in (1, 3):
        with mock.patch.object(workers, "THREADS", threads):
            found.append(as_record({}, payload))
    assert found[0] == found[1]
    assert found[0][-32:] == sha256(found[0][-128:-32]).digest()
    assert found[0][-128:-96] == sha256(found[0][: digest.BLOCK]).digest()
