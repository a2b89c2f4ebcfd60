"""The digest of a record: SHA-256 of the SHA-256 digests of its blocks, one after another.

Blocks are of 8 MiB, the last one of what is left. So several threads can share them out, since one
alone hashes more slowly than a disk reads, and a part of a record can be compared alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

BLOCK = 1 << 23
SIZE = 32


def count(size: int) -> int:
    """How many blocks so many bytes are."""
    return -(-size // BLOCK)


def cut(data: memoryview) -> Iterator[memoryview]:
    """The blocks of bytes that begin with one."""
    return (data[start : start + BLOCK] for start in range(0, len(data), BLOCK))


def each(blocks: Iterable[bytes | memoryview]) -> bytes:
    """The digests of these blocks, joined; they are taken one by one, as there are threads."""
    from keras_lc import workers  # brings numpy, without which a listing is quicker

    with workers.start() as threads:
        return b"".join(workers.ordered(threads, of, blocks))


def of(*parts: bytes | memoryview) -> bytes:
    """The digest of these bytes, one part after another: a block, or the digests of all blocks."""
    found = sha256()
    for part in parts:
        found.update(part)
    return found.digest()
