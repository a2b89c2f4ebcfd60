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
    28+H+P  32 n   SHA-256 of each of the n blocks of 8 MiB of all that precedes
    ...     32     SHA-256 of these: the digest of the record

The CRC lets a directory be listed from headers alone; a block is only used after its digest has
been compared, and so those of all blocks.

Records simply concatenate, and a pack is just that. The digest names the record: a child
holds that of its parent.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from keras_lc.errors import CheckpointError, DamagedError, FormatError
from keras_lc.store import digest

MAGIC = b"\x89LCK\r\n\x1a\n"
VERSION = 1
_LENGTHS = struct.Struct("<HHIQ")
_CHECK = struct.Struct("<I")
_PREFIX = len(MAGIC) + _LENGTHS.size + _CHECK.size
MAX_HEADER = 1 << 20
_ALTERED = "the contents do not match their checksum."


@dataclass(frozen=True)
class Frame:
    """What the first bytes of a record say, and the digest that ends it."""

    header: dict[str, Any]
    start: int  # of the payload, from the start of the record
    payload: int
    digest: str  # as written; only `Checked` and `verify` have compared it

    @property
    def size(self) -> int:
        """Bytes of its head and payload."""
        return self.start + self.payload

    @property
    def end(self) -> int:
        """Length of the whole record."""
        return self.size + _trailer(self.size)


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


def write(file: BinaryIO, header: dict[str, Any], payload: Sequence[bytes]) -> None:
    """Write a whole record, whose payload is given in pieces."""
    pieces = [head(header, sum(map(len, payload))), *payload]
    digests = digest.each(digest.cut(pieces))
    file.writelines([*pieces, digests, digest.over(digests)])


def seal(file: BinaryIO, header: dict[str, Any], start: int) -> str:
    """Finish a file whose payload, from `start` on, is already written; its digest."""
    size = file.seek(0, os.SEEK_END)
    first = head(header, size - start, align=True)
    if len(first) != start:
        raise FormatError(f"the header takes {len(first)} bytes where {start} were kept free.")
    file.seek(0)
    file.write(first)
    file.seek(0)
    digests = digest.each(_blocks(file, size))
    whole = digest.over(digests)
    file.seek(size)
    file.write(digests + whole)
    return whole.hex()


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
    due = start + payload + _trailer(start + payload)
    if version < 1 or zero or length > MAX_HEADER or due > size:
        raise DamagedError(
            f"the file is truncated or altered: it has {size} bytes and its first bytes ask for "
            f"{due}."
        )
    text = file.read(length)
    if zlib.crc32(lengths + text) != _CHECK.unpack(prefix[-_CHECK.size :])[0]:
        raise DamagedError("the header does not match its checksum.")
    header = _parse(text)
    file.seek(begin + due - digest.SIZE)
    return Frame(header, start, payload, file.read(digest.SIZE).hex())


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
        block = file.read(digest.BLOCK)
        found = block.find(MAGIC)
        if found >= 0:
            return place + found
        place += max(1, len(block) - len(MAGIC) + 1)  # a magic may lie across two blocks
    return end


class Checked:
    """The bytes of a record but for its digests, each block compared when it is fetched.

    A file is not mapped: where it lies on another machine and is deleted there, reading on is an
    error, but a mapping kills.

    Args:
        file: at the beginning of the record; it is read from as long as there are blocks to fetch.
        frame: of the record.

    Attributes:
        start: of the payload.
        data: the bytes; only those that were fetched are there.

    Raises:
        DamagedError: the digests of the blocks are altered.
    """

    def __init__(self, file: BinaryIO, frame: Frame):
        import numpy as np  # headers alone are read without it

        self.start = frame.start
        self.data = np.empty(frame.size, np.uint8).data  # in large pages, if it is large
        self._file = file
        self._begin = file.tell()
        self._due = set(range(digest.count(frame.size)))
        self._digests = _digests(file, self._begin, frame)

    def fetch(self, *parts: slice) -> None:
        """Have some of the bytes, or without a part all of them, read and compared.

        Raises:
            DamagedError: they are altered.
        """
        blocks: set[int] = set()
        for part in parts or [slice(0, len(self.data))]:
            blocks.update(range(part.start // digest.BLOCK, digest.count(part.stop)))
        due = sorted(self._due & blocks)
        found = digest.each([self._read(number)] for number in due) if due else b""
        if found != b"".join(_part(self._digests, number) for number in due):
            raise DamagedError(_ALTERED)
        self._due.difference_update(due)

    def _read(self, number: int) -> memoryview:
        start = number * digest.BLOCK
        block = self.data[start : start + digest.BLOCK]
        self._file.seek(self._begin + start)
        if self._file.readinto(block) < len(block):  # type: ignore[attr-defined]
            raise DamagedError("the file is truncated.")
        return block


def verify(file: BinaryIO, frame: Frame) -> None:
    """Read the record that begins here and compare its digests, a few blocks at a time."""
    begin = file.tell()
    digests = _digests(file, begin, frame)
    file.seek(begin)
    if digest.each(_blocks(file, frame.size)) != digests:
        raise DamagedError(_ALTERED)


def _trailer(size: int) -> int:
    """Bytes of the digests behind so many bytes."""
    return digest.SIZE * (digest.count(size) + 1)


def _digests(file: BinaryIO, begin: int, frame: Frame) -> bytes:
    """Those of the blocks, compared with that of the record."""
    file.seek(begin + frame.size)
    digests = file.read(digest.SIZE * digest.count(frame.size))
    if digest.over(digests).hex() != frame.digest:
        raise DamagedError(_ALTERED)
    return digests


def _part(digests: bytes, number: int) -> bytes:
    return digests[number * digest.SIZE : (number + 1) * digest.SIZE]


def _blocks(file: BinaryIO, left: int) -> Iterator[list[bytes]]:
    """The next bytes of a file, as blocks of one piece."""
    while left:
        block = file.read(min(digest.BLOCK, left))
        if not block:
            raise DamagedError("the file is truncated.")
        yield [block]
        left -= len(block)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise DamagedError("the header is not an object.")
    return header
