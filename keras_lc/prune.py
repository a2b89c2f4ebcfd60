"""Checkpoints deleted by rule, and none that another one needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from keras_lc import monitors
from keras_lc.errors import CheckpointError, DamagedError, FormatError, OptionError, StoreError
from keras_lc.figures import Column, Figures, Table, words
from keras_lc.progress import shown
from keras_lc.references import opened
from keras_lc.store import chain, index, pack, record, stages
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored
from keras_lc.store.lock import Writer


@dataclass(frozen=True)
class Fate:
    """What becomes of a checkpoint: `"kept"`, `"needed"` by one that is kept, or `"deleted"`."""

    id: str
    fate: str
    nbytes: int


@dataclass(frozen=True)
class Pruned(Figures):
    """What `keras-lc prune` shows.

    Attributes:
        directory: path or URL.
        dry_run: whether nothing was done.
        freed: bytes of what is deleted.
        left: bytes of the checkpoints that stay.
        checkpoints: oldest first.
    """

    verb = "prune"
    directory: str
    dry_run: bool
    freed: int
    left: int
    checkpoints: tuple[Fate, ...]

    def parts(self) -> Iterator[str | Table]:
        columns = [
            Column("fate", "fate"),
            Column("nbytes", "size", words.size, right=True),
            Column("id", "id"),
        ]
        yield Table(columns, [vars(fate) for fate in self.checkpoints])
        done = "would be freed" if self.dry_run else "freed"
        yield f"{words.size(self.freed)} {done}, {words.size(self.left)} left"


def prune(
    directory: str | os.PathLike[str],
    keep_last: int | None = None,
    keep_best: int | None = None,
    keep_every: int | None = None,
    monitor: str | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Delete the checkpoints that no rule keeps and that none of those kept builds on.

    Args:
        directory: a path or URL, into which no other process saves at the time.
        keep_last: so many newest ones. Those that lack what they build on do not count.
        keep_best: so many best ones.
        keep_every: those at the end of each so many epochs.
        monitor: the metric that tells the best, as for `catalog`.
        dry_run: only say what would be deleted.

    Raises:
        OptionError: no rule is given, or it keeps nothing, or there is a run of stages.
        NotFoundError: there is no such directory.
        LockedError: another process saves into it.
        DamagedError, FormatError, StoreError: a file cannot be read, so that it may build on any
            other, or one that is to be kept is damaged; nothing is deleted.
    """
    rules = {"keep_last": keep_last, "keep_best": keep_best, "keep_every": keep_every}
    for option, number in rules.items():
        if number is not None and number < 1:
            raise OptionError(f"{option}={number}: expected a whole number from 1 up.")
    if all(number is None for number in rules.values()):
        raise OptionError("say what to keep: the last ones, the best ones, or one every N epochs.")
    place, contents = opened(directory)
    if stages.is_run(place):
        raise OptionError(
            f"{str(place)!r} is a run of stages, which need its checkpoints; delete stages "
            "instead, with `keras_lc.stages.Run(...).delete(id)`."
        )
    if dry_run:
        return _plan(place, contents, rules, monitor, dry_run)[0]
    writer = Writer(place)
    try:
        with writer.writing():
            contents = index.scan(place)
            pruned, drop = _plan(place, contents, rules, monitor, dry_run)
            if drop:
                gone = {id(stored) for stored in drop}
                _check(place, [stored for stored in contents.stored if id(stored) not in gone])
                pack.remove(place, contents, drop)
                index.write_index(place, index.scan(place))
            return pruned
    finally:
        writer.release()


def _plan(
    directory: Directory,
    contents: Contents,
    rules: dict[str, int | None],
    monitor: str | None,
    dry_run: bool,
) -> tuple[Pruned, list[Stored]]:
    """What is told, and what goes."""
    _refuse_unknown(directory, contents)
    keep = _chosen(contents, rules, monitor)
    if contents.stored and not keep:
        raise OptionError(f"these rules keep nothing of {str(directory)!r}; nothing is deleted.")
    drop = chain.disposable(contents, keep)
    kept, gone = {id(stored) for stored in keep}, {id(stored) for stored in drop}
    fates = tuple(
        Fate(
            stored.name,
            "kept" if id(stored) in kept else "deleted" if id(stored) in gone else "needed",
            stored.nbytes,
        )
        for stored in contents.stored
    )
    freed = sum(stored.nbytes for stored in drop)
    every = sum(stored.nbytes for stored in [*contents.stored, *contents.shortcuts])
    return Pruned(str(directory), dry_run, freed, every - freed, fates), drop


def _chosen(contents: Contents, rules: dict[str, int | None], monitor: str | None) -> list[Stored]:
    broken = chain.broken(contents)
    sound = [stored for stored in contents.listed if stored.digest not in broken]
    keep: list[Stored] = []
    if last := rules["keep_last"]:
        keep += sound[-last:]
    if best := rules["keep_best"]:
        name = monitors.choose(sound, monitor)
        if name is None:
            raise OptionError("no checkpoint has a metric, so that none is the best.")
        keep += monitors.ranked(sound, name)[:best]
    if every := rules["keep_every"]:
        ends = (stored for stored in sound if stored.header["batch"] == 0)
        keep += [stored for stored in ends if stored.header["epoch"] % every == 0]
    return keep


def _refuse_unknown(directory: Directory, contents: Contents) -> None:
    """What cannot be read may build on any other."""
    for file, reason in contents.damaged.items():
        kinds: dict[bool, type[CheckpointError]] = {True: StoreError, False: DamagedError}
        kind = FormatError if file in contents.newer else kinds[file in contents.unread]
        raise kind(
            f"{directory.child(file)!r} cannot be read, and may build on any other: {reason} "
            "Nothing is deleted; move it away first."
        )


def _check(directory: Directory, stay: list[Stored]) -> None:
    """What stays must be as it was written, before anything goes."""
    for stored in shown(stay, len(stay), "checking what is kept"):
        try:
            with directory.open(stored.file) as file:
                record.verify(file, index.find(file, stored))
        except (CheckpointError, OSError) as error:
            raise DamagedError(
                f"{directory.child(stored.where)!r} is to be kept and is damaged: {error} Nothing "
                "is deleted; move it away first."
            ) from error
