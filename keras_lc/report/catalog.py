"""What a directory holds: a row a checkpoint, damaged files among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from keras_lc import monitors
from keras_lc.errors import CheckpointError, DamagedError, FormatError
from keras_lc.figures import Column, Figures, Note, Table, words
from keras_lc.references import opened
from keras_lc.store import chain
from keras_lc.store.index import Contents, Stored


@dataclass(frozen=True)
class Row:
    """A checkpoint, or a file that cannot be read, of which only `id` and `damaged` are known.

    Attributes:
        id: name of the checkpoint, or of the file.
        kind: `"base"`, `"delta"` or `"damaged"`.
        parent: name of the checkpoint that it builds on.
        nbytes: size on the disk.
        ratio: how many times smaller than its base.
        value: of the monitored metric.
        latest, best: whether it is that one, of those that lack nothing they build on.
        damaged: why it cannot be restored, as far as headers tell.
    """

    id: str
    kind: str
    epoch: int | None = None
    batch: int | None = None
    step: int | None = None
    parent: str | None = None
    nbytes: int | None = None
    ratio: float | None = None
    value: float | None = None
    saved_at: datetime | None = None
    codec: str | None = None
    latest: bool = False
    best: bool = False
    damaged: str | None = None


@dataclass(frozen=True)
class Catalog(Figures):
    """What `keras-lc ls` shows.

    Attributes:
        directory: path or URL.
        monitor: the metric in `value`; None where none is stored.
        nbytes: of all files of the checkpoints.
        full: what whole checkpoints would take.
        checkpoints: oldest first, then files that cannot be read.
    """

    verb = "ls"
    directory: str
    monitor: str | None
    nbytes: int
    full: int
    checkpoints: tuple[Row, ...]
    newer: bool

    @property
    def fault(self) -> type[CheckpointError] | None:
        damaged = [row for row in self.checkpoints if row.damaged]
        if not damaged:
            return None
        return FormatError if self.newer else DamagedError

    def parts(self) -> Iterator[str | Table]:
        rows = [asdict(row) | {"mark": _mark(row)} for row in self.checkpoints]
        every = [
            Column("mark", ""),
            Column("id", "id"),
            Column("epoch", "epoch", right=True),
            Column("batch", "batch", right=True),
            Column("step", "step", "{:,}".format, right=True),
            Column("kind", "kind"),
            Column("parent", "parent"),
            Column("nbytes", "size", words.size, right=True),
            Column("ratio", "ratio", words.ratio, right=True),
            Column("value", self.monitor or "value", words.number, right=True),
            Column("saved_at", "saved", words.moment),
            Column("damaged", "damaged"),
        ]
        seen = {key for row in rows for key, value in row.items() if value}
        optional = {"batch": "batch" in seen, "damaged": "damaged" in seen}
        optional |= {"value": self.monitor is not None}
        bad = frozenset(i for i, row in enumerate(rows) if row["damaged"])
        yield Table([column for column in every if optional.get(column.key, True)], rows, bad)
        count = sum(row.kind != "damaged" for row in self.checkpoints)
        ratio = f", {words.ratio(self.full / self.nbytes)} smaller" if self.nbytes else ""
        yield Note(
            f"{words.count(count, 'checkpoint')}, {words.size(self.nbytes)}; whole ones would "
            f"take {words.size(self.full)}{ratio}"
        )


def catalog(directory: str | os.PathLike[str], monitor: str | None = None) -> Catalog:
    """The checkpoints of a directory, with damaged files; only headers are read.

    Args:
        directory: a path or URL.
        monitor: the metric to show and to rank by; None for `val_loss`, `loss`, or the first.

    Raises:
        NotFoundError: there is no such directory.
        OptionError: no checkpoint has that metric.
    """
    place, contents = opened(directory)
    monitor = monitors.choose(contents.listed, monitor)
    broken = chain.broken(contents)
    sound = [stored for stored in contents.listed if stored.digest not in broken]
    ranked = monitors.ranked(sound, monitor) if monitor else []
    sizes = full_sizes(contents)
    rows = []
    for stored in contents.listed:
        header, full = stored.header, sizes.get(stored.digest)
        rows.append(
            Row(
                id=stored.name,
                kind="base" if stored.parent is None else "delta",
                epoch=header["epoch"],
                batch=header["batch"],
                step=header["step"],
                parent=_parent(contents, stored),
                nbytes=stored.nbytes,
                ratio=full / stored.nbytes if full else None,
                value=monitors.value(stored, monitor),
                saved_at=datetime.fromisoformat(header["saved_at"]),
                codec=header.get("codec"),
                latest=stored in sound[-1:],
                best=stored in ranked[:1],
                damaged=broken.get(stored.digest),
            )
        )
    rows += [Row(file, "damaged", damaged=reason) for file, reason in contents.damaged.items()]
    every = [*contents.stored, *contents.shortcuts, *contents.doubles]
    return Catalog(
        directory=str(place),
        monitor=monitor,
        nbytes=sum(stored.nbytes for stored in every),
        full=sum(sizes.get(stored.digest, 0) for stored in contents.listed),
        checkpoints=tuple(rows),
        newer=bool(contents.damaged) and contents.newer == contents.damaged.keys() and not broken,
    )


def full_sizes(contents: Contents) -> dict[str, int]:
    """Digest to the size of a whole checkpoint of its chain, as far as its base is there."""
    sizes: dict[str, int] = {}
    for stored in contents.stored:
        parent = stored.parent
        if parent in contents.shortcut_to and parent not in contents.by_digest:
            parent = contents.shortcut_to[parent].parent
        full = stored.nbytes if parent is None else sizes.get(parent)
        if full is not None:
            sizes[stored.digest] = full
    return sizes


def _parent(contents: Contents, stored: Stored) -> str | None:
    parent = contents.by_digest.get(str(stored.parent))
    if parent is None and stored.parent in contents.shortcut_to:
        parent = contents.by_digest.get(str(contents.shortcut_to[stored.parent].parent))
    return parent.name if parent else stored.parent and f"?{stored.parent[:8]}"


def _mark(row: Row) -> str | None:
    marks = [name for name in ("latest", "best") if getattr(row, name)]
    return ",".join(marks) or None
