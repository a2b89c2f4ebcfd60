"""What the verbs that write have done, or with `dry_run` would do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keras_lc.figures import Figures, words
from keras_lc.references import find
from keras_lc.store.locate import directory_at, split
from keras_lc.store.pack import pack, unpack


@dataclass(frozen=True)
class Exported(Figures):
    """What `keras-lc export` shows: the checkpoint, and the file with its size."""

    verb = "export"
    checkpoint: str
    target: str
    nbytes: int

    def parts(self) -> Iterator[str]:
        yield f"{self.target}: {words.size(self.nbytes)}, from {self.checkpoint}"


@dataclass(frozen=True)
class Repacked(Figures):
    """What `keras-lc pack` and `unpack` show: the files that were written."""

    verb: str  # type: ignore[misc]
    directory: str
    dry_run: bool
    written: tuple[str, ...]

    def parts(self) -> Iterator[str]:
        done = "would write" if self.dry_run else "wrote"
        yield f"{self.directory}: {done} {words.count(len(self.written), 'file')}"
        for file in self.written:
            yield f"  {file}"


def exported(reference: str, target: str, overwrite: bool = False) -> Exported:
    """Export a checkpoint, as `keras_lc.export` does."""
    from keras_lc.exports import export  # brings numpy and HDF5

    found = find(reference)
    export(found.path, target, overwrite)
    parent, name = split(target)
    with directory_at(parent).open(name) as file:
        nbytes = file.seek(0, os.SEEK_END)
    return Exported(found.path, target, nbytes)


def repacked(directory: str, apart: bool = False, dry_run: bool = False) -> Repacked:
    """Pack a directory, or take its packs apart."""
    change: Callable[[str, bool], list[str]] = unpack if apart else pack
    written = change(directory, dry_run)
    return Repacked("unpack" if apart else "pack", directory, dry_run, tuple(written))
