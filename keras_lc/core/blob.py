"""The bytes of one delta: a small table of what each tensor got, then the symbol pools.

    version (1 byte), length of the table (4 bytes), table, pools, CRC-32 (4 bytes)

The table is deflated JSON: one kind and one list of parameters a tensor, in processing
order, and the length of each pool.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_lc.errors import DamagedError, FormatError

VERSION = 1
_HEAD = struct.Struct("<BI")
_TAIL = struct.Struct("<I")
_ENTRY = 8192  # bytes that the table may take for each tensor
KINDS = {"same": "s", "difference": "d", "plain": "p"}
KINDS |= {
    "lattice": "l",
    "first": "m",
    "outer": "o",
    "second": "v",
    "buckets": "b",
    "blocks": "i",
    "update": "u",
    "jump": "j",
}
_BARE = "sdpi"  # kinds without parameters
_NAMES = {letter: kind for kind, letter in KINDS.items()}


@dataclass
class Entry:
    """What a delta says of one tensor."""

    kind: str
    params: list[Any]


@dataclass
class Table:
    """The head of a delta."""

    first: int  # of the deltas that this one stands for, counted from the base
    sequence: int  # the last of them
    fingerprint: int
    references: list[int] | None  # only in the first delta of a chain
    entries: list[Entry]


def pack(table: Table, pools: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """A delta in pieces, to be joined; each pool is given in parts."""
    document = {
        "seq": table.sequence,
        "table": table.fingerprint,
        "kinds": "".join(KINDS[entry.kind] for entry in table.entries),
        "params": [entry.params for entry in table.entries if entry.params],
        "pools": {name: sum(map(len, parts)) for name, parts in pools.items()},
    }
    if table.first != table.sequence:
        document["first"] = table.first
    if table.references is not None:
        document["refs"] = table.references
    head = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
    pieces = [_HEAD.pack(VERSION, len(head)), head]
    pieces += (part for parts in pools.values() for part in parts)
    check = 0
    for piece in pieces:
        check = zlib.crc32(piece, check)
    return [*pieces, _TAIL.pack(check)]


def check(blob: bytes | memoryview) -> None:
    """Compare the checksum of a delta.

    Raises:
        DamagedError: it does not match.
    """
    view = memoryview(blob)
    if zlib.crc32(view[: -_TAIL.size]).to_bytes(_TAIL.size, "little") != view[-_TAIL.size :]:
        raise DamagedError("a delta does not match its checksum.")


def unpack(blob: bytes | memoryview, tensors: int) -> tuple[Table, dict[str, memoryview]]:
    """Head and pools of a delta over a base of `tensors` tensors."""
    table, lengths, rest = head(blob, tensors)
    pools = {}
    for name, size in lengths.items():
        if not 0 <= size <= len(rest):
            raise DamagedError(f"symbol pool {name!r} of a delta is longer than the delta.")
        pools[name], rest = rest[:size], rest[size:]
    if len(rest):
        raise DamagedError("a delta holds bytes that belong to no tensor.")
    return table, pools


def head(blob: bytes | memoryview, tensors: int) -> tuple[Table, dict[str, int], memoryview]:
    """Table of a delta, the lengths of its pools, and these as one."""
    if len(blob) < _HEAD.size + _TAIL.size:
        raise DamagedError(f"a delta of {len(blob)} bytes is truncated.")
    view = memoryview(blob)
    version, length = _HEAD.unpack_from(view)
    if version == 0:
        raise DamagedError("a delta of codec version 0 cannot be.")
    if version > VERSION:
        raise FormatError(
            f"a delta is of codec version {version}; this keras_lc reads up to {VERSION}. Upgrade."
        )
    body = view[_HEAD.size : -_TAIL.size]
    if length > len(body):
        raise DamagedError("the table of a delta is longer than the delta.")
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(body[:length], _ENTRY * (1 + tensors))
        if not inflate.eof or inflate.unused_data:
            raise DamagedError("the table of a delta is longer than its tensors allow.")
        document = json.loads(text)
        kinds, params = document["kinds"], iter(document["params"])
        if len(kinds) != tensors:
            raise DamagedError(f"a delta of {len(kinds)} tensors, its base has {tensors}.")
        entries = [
            Entry(_NAMES[letter], list(next(params)) if letter not in _BARE else [])
            for letter in kinds
        ]
        if next(params, None) is not None:
            raise DamagedError("a delta holds parameters that belong to no tensor.")
        references = document.get("refs")
        if references is not None:
            references = [int(reference) for reference in references]
            if len(references) != tensors or not all(-1 <= r < tensors for r in references):
                raise DamagedError("a delta refers to tensors that its base does not have.")
        sequence, first = int(document["seq"]), int(document.get("first", document["seq"]))
        table = Table(first, sequence, int(document["table"]), references, entries)
        lengths = {str(name): int(size) for name, size in document["pools"].items()}
    except (
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        StopIteration,
        RecursionError,
    ) as error:
        raise DamagedError(f"the table of a delta cannot be read: {error!r}") from error
    return table, lengths, body[length:]
