"""What a run holds: its stages, each below the one that it was trained from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from keras_lc.errors import CheckpointError, DamagedError, FormatError
from keras_lc.figures import Column, Figures, Note, Table, words
from keras_lc.references import opened
from keras_lc.store import stages
from keras_lc.store.index import Contents
from keras_lc.store.stages import Book, Fit, Stage


@dataclass(frozen=True)
class Row:
    """A stage, or a file that cannot be read, of which only `id` and `damaged` are known.

    Attributes:
        parent: stage that it was trained from; None for the model as it was built.
        which: state of the parent that it began with.
        depth: how many stages are above it.
        state: `"complete"`, `"unfinished"`, `"stale"` (its parent has been trained anew since) or
            `"damaged"`.
        fits: calls of `fit`.
        epochs: that are trained, as far as fits are complete.
        seconds: that the last processes of these fits took.
        watch, value: the metric that the last fit was watched by, and its best value.
        cached: operations whose results are stored.
        nbytes: of the checkpoints that are its own, those of which no other stage has a part.
        damaged: why it cannot be gone on from.
    """

    id: str
    state: str
    description: str = ""
    parent: str | None = None
    which: str | None = None
    depth: int = 0
    fits: int = 0
    epochs: int = 0
    seconds: float = 0.0
    watch: str | None = None
    value: float | None = None
    cached: tuple[str, ...] = ()
    nbytes: int = 0
    damaged: str | None = None


@dataclass(frozen=True)
class Tree(Figures):
    """What `keras-lc ls` shows of a run.

    Attributes:
        directory: path or URL.
        description: of the run.
        nbytes: of all checkpoints, the one of the model as it was built included.
        newer: whether all that is damaged is of a newer format, and may be intact.
        stages: parents before their children, then files that cannot be read.
    """

    verb = "ls"
    directory: str
    description: str
    nbytes: int
    newer: bool
    stages: tuple[Row, ...]

    @property
    def fault(self) -> type[CheckpointError] | None:
        if all(row.damaged is None for row in self.stages):
            return None
        return FormatError if self.newer else DamagedError

    def parts(self) -> Iterator[str | Table]:
        if self.description:
            yield Note(self.description)
        rows = [
            vars(row)
            | {
                "stage": branch + row.id,
                "which": None if row.which == stages.END else row.which,
                "cached": ",".join(row.cached),
            }
            for row, branch in zip(self.stages, _branches(self.stages), strict=True)
        ]
        every = [
            Column("stage", "stage"),
            Column("parent", "parent"),
            Column("which", "from"),
            Column("state", "state"),
            Column("fits", "fits", right=True),
            Column("epochs", "epochs", right=True),
            Column("watch", "watch"),
            Column("value", "best", words.number, right=True),
            Column("cached", "cached"),
            Column("nbytes", "size", words.size, right=True),
            Column("description", "description"),
            Column("damaged", "damaged"),
        ]
        seen = {key for row in rows for key, value in row.items() if value}
        kept = [c for c in every if c.key in seen or c.key not in ("which", "cached", "damaged")]
        bad = frozenset(
            i for i, row in enumerate(rows) if row["damaged"] or row["state"] == "stale"
        )
        yield Table(kept, rows, bad)
        yield Note(f"{words.count(len(self.stages), 'stage')}, {words.size(self.nbytes)}")


def tree(directory: str | os.PathLike[str]) -> Tree:
    """The stages of a run; only their files and headers of checkpoints are read.

    Args:
        directory: a path or URL.

    Raises:
        NotFoundError: there is no such directory.
    """
    place, contents = opened(directory)
    book, faults = stages.inspect(place)
    rows = list(_below(contents, book))
    rows += [Row(file, "damaged", damaged=str(error)) for file, error in faults.items()]
    newer = bool(faults) and all(isinstance(error, FormatError) for error in faults.values())
    every = [*contents.stored, *contents.shortcuts, *contents.doubles]
    return Tree(
        str(place),
        book.run.description,
        sum(stored.nbytes for stored in every),
        newer and not any(row.damaged for row in rows if row.state != "damaged"),
        tuple(rows),
    )


def _below(
    contents: Contents, book: Book, above: str | None = None, depth: int = 0
) -> Iterator[Row]:
    for stage in book.stages.values():
        parent = stage.parent.stage if stage.parent else None
        orphan = depth == 0 and parent is not None and parent not in book.stages
        if parent != above and not orphan:
            continue
        yield _row(contents, book, stage, depth)
        yield from _below(contents, book, stage.id, depth + 1)


def _row(contents: Contents, book: Book, stage: Stage, depth: int) -> Row:
    fits = [fit for fit in stage.fits if fit.complete]
    prefixes = tuple(f"{fit.prefix}{mark}" for fit in stage.fits for mark in "-.")
    own = [s for s in [*contents.stored, *contents.shortcuts] if s.name.startswith(prefixes)]
    gone = [state.name for state in stage.states() if state.digest not in contents.by_digest]
    state = "complete" if stage.complete else "unfinished"
    if book.is_stale(stage):
        state = "stale"
    return Row(
        id=stage.id,
        state="damaged" if gone else state,
        description=stage.description,
        parent=stage.parent.stage if stage.parent else None,
        which=stage.parent.which if stage.parent else None,
        depth=depth,
        fits=len(stage.fits),
        epochs=sum(len(fit.epoch) for fit in fits),
        seconds=round(sum(fit.seconds or 0.0 for fit in fits), 3),
        watch=fits[-1].watch if fits else None,
        value=_best(fits[-1]) if fits else None,
        cached=tuple(stage.cached),
        nbytes=sum(stored.nbytes for stored in own),
        damaged=f"{', '.join(gone)} is missing" if gone else None,
    )


def _best(fit: Fit) -> float | None:
    values = fit.logs.get(fit.watch or "", [])
    return values[fit.best] if fit.best < len(values) else None


def _branches(rows: Sequence[Row]) -> Iterator[str]:
    """Of a tree; without blanks, which separate columns."""
    for i, row in enumerate(rows, 1):
        below = takewhile(lambda other: other.depth >= row.depth, rows[i:])  # noqa: B023
        corner = "├" if any(other.depth == row.depth for other in below) else "└"
        yield corner + "─" * (2 * row.depth - 1) if row.depth else ""
