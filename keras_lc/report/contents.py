"""The tensors of a checkpoint, and how its record stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_lc.core import blob
from keras_lc.core.codecs import lattice
from keras_lc.dtypes import dtype_name
from keras_lc.errors import CheckpointError, DamagedError
from keras_lc.loader import Decoded, Loaded, load
from keras_lc.references import Found
from keras_lc.report.detail import Tensor
from keras_lc.store import index, record
from keras_lc.store.directory import Directory
from keras_lc.store.index import Stored

_EXACT = ("difference", "plain", "update")
_BARE = 3  # parameters of a lattice without outer products


def tensors_of(found: Found) -> tuple[Tensor, ...]:
    """Every tensor, in the order of their names.

    Raises:
        DamagedError: the checkpoint, or one that it builds on, is damaged.
    """
    loaded = load(found.directory, found.contents, found.stored)
    labels = labels_of(loaded)
    entries = _entries(found.directory, found.stored, loaded)
    tensors = []
    for name in sorted(loaded.base.arrays):
        array = loaded.base.arrays[name]
        entry = entries.get(name)
        tensors.append(
            Tensor(
                name=name,
                label=labels[name],
                dtype=dtype_name(array.dtype).lstrip("<|>"),
                shape=array.shape,
                nbytes=array.nbytes,
                kind=entry.kind if entry else None,
                bound=_bound(entry) if entry else 0.0,
            )
        )
    return tuple(tensors)


def labels_of(loaded: Loaded) -> dict[str, str]:
    """Tensor to the path of its variable, or to its own name."""
    labels: Mapping[str, Any] = loaded.base.about.get("labels", {})
    return {name: str(labels.get(name, name)) for name in loaded.base.arrays}


def bounds(directory: Directory, stored: Stored, decoded: Decoded) -> dict[str, float | None]:
    """How far a value of each tensor may be from what was saved; None where it is not known."""
    if stored.parent is None:
        return dict.fromkeys(decoded.base.arrays, 0.0)
    entries = _entries(directory, stored, decoded)
    return {name: _bound(entry) for name, entry in entries.items()}


def _entries(directory: Directory, stored: Stored, decoded: Decoded) -> dict[str, blob.Entry]:
    """How the record itself stores each tensor; nothing of a base."""
    if stored.parent is None:
        return {}
    try:
        with directory.open(stored.file) as file:
            frame = index.find(file, stored)
            source = record.Checked(file, frame)
            source.fetch()
        table, _ = blob.unpack(source.data[source.start :], len(decoded.base.arrays))
    except (CheckpointError, OSError) as error:
        raise DamagedError(f"{stored.where} cannot be read: {error}") from error
    chain = decoded.decoder.chain
    order = [i for level in chain.levels() for i in level]
    return {chain.table.names[i]: entry for i, entry in zip(order, table.entries, strict=True)}


def _bound(entry: blob.Entry) -> float | None:
    """How far the values that a lattice stands for may be from it: half a step, or of outer
    products, of which only values that are far off are corrected, some steps."""
    if entry.kind in _EXACT:
        return 0.0
    if entry.kind != "lattice":
        return None
    steps = 0.5 if len(entry.params) == _BARE else lattice.FAR
    return float(steps * 2.0 ** int(entry.params[0]))
