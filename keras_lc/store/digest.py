"""The digest of a record: SHA-256 of the SHA-256 digests of its blocks, one after another.

Blocks are of 8 MiB, the last one of what is left. So several threads can share them out, since one
alone hashes more slowly than a disk reads, and a part of a record can be compared alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

BLOCK = 1 << 23
SIZE = 32
Bytes = bytes | memoryview


def count(size: int) -> int:
    """How many blocks so many bytes are."""
    return -(-size // BLOCK)


def cut(pieces: Iterable[Bytes]) -> Iterator[list[Bytes]]:
    """The blocks, in pieces, of bytes that are given in pieces."""
    block: list[Bytes] = []
    room = BLOCK
    for given in pieces:
        piece = memoryview(given)
        while len(piece) >= room:
            yield [*block, piece[:room]]
            block, piece, room = [], piece[room:], BLOCK
        block.append(piece)
        room -= len(piece)
    if room < BLOCK:
        yield block


def each(blocks: Iterable[Sequence[Bytes]]) -> bytes:
    """The digests of these blocks, joined, each of which is given in pieces; they are taken one by
    one, as there are threads."""
    from keras_lc import workers  # brings numpy, without which a listing is quicker

    with workers.start() as threads:
        return b"".join(workers.ordered(threads, _of, blocks))


def over(digests: bytes) -> bytes:
    """The digest of a record, made of those of its blocks."""
    return _of([digests])


def _of(pieces: Sequence[Bytes]) -> bytes:
    found = sha256()
    for piece in pieces:
        found.update(piece)
    return found.digest()
