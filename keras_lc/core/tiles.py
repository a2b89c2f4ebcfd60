"""Tensors in tiles: pieces that fit into a processor's cache, and that threads may share out.

Every step of a codec is done on one tile before the next one is begun, so that what it needs
meanwhile is bounded by a constant. Tiles are pieces of the flat tensor; a tensor of no values
has one.
"""

from __future__ import annotations

TILE = 1 << 19  # values; a multiple of the blocks of `codecs.blocks`
ALL = slice(None)  # of a tile


def cut(size: int) -> list[slice]:
    """The tiles of a tensor of so many values."""
    return [slice(start, min(start + TILE, size)) for start in range(0, max(1, size), TILE)]


def every(step: int, tile: slice) -> slice:
    """Those values of a tile that a sample of every `step`-th value of the tensor holds."""
    return slice(-tile.start % step, None, step)
