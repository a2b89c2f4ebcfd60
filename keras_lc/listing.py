"""What a directory holds, as its headers tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

from keras_lc.errors import StoreError
from keras_lc.store import index
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored
from keras_lc.store.locate import directory_at

SUFFIXES = (".weights.h5", ".keras", ".h5", ".ckpt", ".lcd")


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint of a directory.

    Attributes:
        path: path without suffix, as `restore` takes it.
        kind: `"base"` or `"delta"`.
        epoch: completed epochs.
        batch: batches done in the unfinished epoch, 0 at the end of one.
        step: iterations of the optimizer.
        logs: the metrics at the time of saving.
        nbytes: size of the file.
        parent: path of the checkpoint that a delta builds on; None for a base.
        saved_at: time of saving, UTC.
    """

    path: str
    kind: str
    epoch: int
    batch: int
    step: int
    logs: dict[str, float]
    nbytes: int
    parent: str | None
    saved_at: datetime


def open_directory(directory: Directory) -> Contents:
    """The checkpoints of a directory; an error if it is a file."""
    if directory.is_file():
        raise StoreError(f"{str(directory)!r} is a file; expected a directory of checkpoints.")
    return index.scan(directory)


def list_checkpoints(directory: str | os.PathLike[str]) -> list[CheckpointInfo]:
    """The checkpoints of a directory, oldest first; only headers are read.

    Args:
        directory: a path or URL, which need not exist.

    Raises:
        StoreError: the directory is a file or cannot be read.

    Example:
        >>> import keras_lc
        >>> keras_lc.list_checkpoints("no/such/directory")
        []
    """
    place = directory_at(directory)
    contents = open_directory(place)
    return [describe(place, contents, stored) for stored in contents.listed]


def describe(directory: Directory, contents: Contents, stored: Stored) -> CheckpointInfo:
    """What is known of a stored checkpoint."""
    header, parent = stored.header, stored.parent
    if parent in contents.shortcut_to and parent not in contents.by_digest:
        parent = contents.shortcut_to[parent].parent  # what was between them has been pruned
    if parent in contents.by_digest:
        parent = contents.by_digest[parent].name
    return CheckpointInfo(
        path=directory.child(stored.name),
        kind="base" if stored.parent is None else "delta",
        epoch=header["epoch"],
        batch=header["batch"],
        step=header["step"],
        logs={name: float(value) for name, value in header["logs"].items()},
        nbytes=stored.nbytes,
        parent=None if parent is None else directory.child(parent),
        saved_at=datetime.fromisoformat(header["saved_at"]),
    )


def strip_suffix(name: str) -> str:
    """A checkpoint's name without the suffix that users may write."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
