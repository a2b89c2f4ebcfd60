"""The frame of every checkpoint file: magic, version, header, payload, digest.

    offset  bytes  meaning
    0       8      magic 89 4C 43 4B 0D 0A 1A 0A
    8       2      version of the format, little-endian like all numbers here
    10      2      zero
    12      4      H, length of the header
    16      8      P, length of the payload
    24      4      CRC-32 of the bytes from 8 to 24 and of the header
    28      H      header: JSON, an object; trailing spaces are allowed
    28+H    P      payload: an HDF5 file (base) or a blob of `core` (delta)
    28+H+P  32     SHA-256 of all that precedes

The CRC lets a directory be listed from headers alone; contents are only used after the
SHA-256 has been compared.

Records simply concatenate, and a pack is just that. The digest names the record: a child
holds that of its parent.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from keras_lc.errors import CheckpointError, DamagedError, FormatError

MAGIC = b"\x89LCK\r\n\x1a\n"
VERSION = 1
_LENGTHS = struct.Struct("<HHIQ")
_CHECK = struct.Struct("<I")
_PREFIX = len(MAGIC) + _LENGTHS.size + _CHECK.size
DIGEST = 32
MAX_HEADER = 1 << 20
_BLOCK = 1 << 22
_BLOCKS = 8  # requests for a large record, where each has its price


@dataclass(frozen=True)
class Frame:
    """What the first bytes of a record say, and the digest that ends it."""

    header: dict[str, Any]
    start: int  # of the payload, from the start of the record
    payload: int
    digest: str  # as written; only `read` and `verify` have compared it

    @property
    def end(self) -> int:
        """Length of the whole record."""
        return self.start + self.payload + DIGEST


def head(header: dict[str, Any], payload: int, align: bool = False) -> bytes:
    """Prefix and header; aligned, they fill a power of two from 512 up (an HDF5 user block)."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if align:
        size = max(512, 1 << (_PREFIX + len(text) - 1).bit_length())
        text = text.ljust(size - _PREFIX)
    if len(text) > MAX_HEADER:
        raise FormatError(f"a header of {len(text)} bytes is over the limit of {MAX_HEADER}.")
    lengths = _LENGTHS.pack(VERSION, 0, len(text), payload)
    return MAGIC + lengths + _CHECK.pack(zlib.crc32(lengths + text)) + text


def pack(header: dict[str, Any], payload: bytes) -> bytes:
    """A whole record."""
    first = head(header, len(payload))
    digest = hashlib.sha256(first)
    digest.update(payload)
    return b"".join([first, payload, digest.digest()])


def seal(file: BinaryIO, header: dict[str, Any], start: int) -> str:
    """Finish a file whose payload, from `start` on, is already written; its digest."""
    size = file.seek(0, os.SEEK_END)
    first = head(header, size - start, align=True)
    if len(first) != start:
        raise FormatError(f"the header takes {len(first)} bytes where {start} were kept free.")
    file.seek(0)
    file.write(first)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    file.seek(size)
    file.write(digest.digest())
    return digest.hexdigest()


def read_frame(file: BinaryIO) -> Frame | None:
    """The frame that begins here, the payload unread; None if this is no record at all.

    Raises:
        DamagedError: it is one, but cut short or garbled.
        FormatError: it is of a newer version.
    """
    begin = file.tell()
    size = file.seek(0, os.SEEK_END) - begin
    file.seek(begin)
    prefix = file.read(_PREFIX)
    if not prefix.startswith(MAGIC):
        return None
    if len(prefix) < _PREFIX:
        raise DamagedError("the file ends within its first bytes.")
    lengths = prefix[len(MAGIC) : -_CHECK.size]
    version, zero, length, payload = _LENGTHS.unpack(lengths)
    if version > VERSION:
        raise FormatError(
            f"the file is of format version {version}, this keras_lc reads up to {VERSION}. "
            "Upgrade keras_lc."
        )
    start = _PREFIX + length
    if version < 1 or zero or length > MAX_HEADER or start + payload + DIGEST > size:
        raise DamagedError(
            f"the file is truncated or altered: it has {size} bytes and its first bytes ask for "
            f"{start + payload + DIGEST}."
        )
    text = file.read(length)
    if zlib.crc32(lengths + text) != _CHECK.unpack(prefix[-_CHECK.size :])[0]:
        raise DamagedError("the header does not match its checksum.")
    header = _parse(text)
    file.seek(begin + start + payload)
    return Frame(header, start, payload, file.read(DIGEST).hex())


def frames(file: BinaryIO) -> Iterator[tuple[int, Frame | CheckpointError]]:
    """The frames of records one after another, each with its place in the file.

    In place of a frame that cannot be read stands the error; the next magic is looked for.
    """
    end = file.seek(0, os.SEEK_END)
    place = 0
    while place < end:
        file.seek(place)
        try:
            frame = read_frame(file)
            if frame is None:
                raise DamagedError("there are bytes that belong to no record.")
        except (DamagedError, FormatError) as error:
            yield place, error
            place = _next_magic(file, place + 1, end)
        else:
            yield place, frame
            place += frame.end


def _next_magic(file: BinaryIO, place: int, end: int) -> int:
    """Where the next record may begin, or the end."""
    while place < end:
        file.seek(place)
        block = file.read(_BLOCK)
        found = block.find(MAGIC)
        if found >= 0:
            return place + found
        place += max(1, len(block) - len(MAGIC) + 1)  # a magic may lie across two blocks
    return end


def read(file: BinaryIO, frame: Frame) -> memoryview:
    """The record that begins here but for its digest, which has been compared.

    A thread hashes each block while the next one is read. A file is not mapped: where it lies
    on another machine and is deleted there, reading on is an error, but a mapping kills.
    """
    data = np.empty(frame.end - DIGEST, np.uint8).data  # in large pages, if it is large
    digest = hashlib.sha256()
    size = max(_BLOCK, len(data) // _BLOCKS + 1)
    with ThreadPoolExecutor(1, "keras_lc-hash") as hasher:
        for start in range(0, len(data), size):
            block = data[start : start + size]
            if file.readinto(block) < len(block):  # type: ignore[attr-defined]
                raise DamagedError("the file is truncated.")
            hasher.submit(digest.update, block)
    if digest.hexdigest() != frame.digest:
        raise DamagedError("the contents do not match their checksum.")
    return data


def verify(file: BinaryIO, frame: Frame) -> None:
    """Read the record that begins here and compare its digest, a block at a time."""
    digest = hashlib.sha256()
    left = frame.end - DIGEST
    while left:
        block = file.read(min(_BLOCK, left))
        if not block:
            raise DamagedError("the file is truncated.")
        digest.update(block)
        left -= len(block)
    if digest.hexdigest() != frame.digest:
        raise DamagedError("the contents do not match their checksum.")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise DamagedError("the header is not an object.")
    return header
