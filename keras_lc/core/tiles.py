"""Tensors in tiles: pieces that fit into a processor's cache, and that threads may share out.

Every step of a codec is done on one tile before the next one is begun, so that what it needs
meanwhile is bounded by a constant. Tiles are pieces of the flat tensor; a tensor of no values
has one.
"""

from __future__ import annotations

from collections.abc import Iterator

TILE = 1 << 16  # values; a multiple of the blocks of `codecs.blocks`
GROUP = 4  # tiles whose symbols are compressed together


def cut(size: int) -> list[slice]:
    """The tiles of a tensor of so many values."""
    return [slice(start, min(start + TILE, size)) for start in range(0, max(1, size), TILE)]


def groups(count: int) -> Iterator[range]:
    """The numbers of `count` tiles, those together that are compressed together."""
    for first in range(0, count, GROUP):
        yield range(first, min(first + GROUP, count))


def every(step: int, tile: slice) -> slice:
    """Those values of a tile that a sample of every `step`-th value of the tensor holds."""
    return slice(-tile.start % step, None, step)
