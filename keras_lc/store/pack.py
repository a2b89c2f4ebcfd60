"""Deltas joined into one file, where the number of files is limited, and taken apart again.

A pack is records one after another. It is written once and whole; only then the files of its
deltas go. What a kill between the two leaves twice is known by its digest and counted once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from keras_lc.errors import CheckpointError, DamagedError, NotFoundError
from keras_lc.store import index, record
from keras_lc.store.directory import Directory
from keras_lc.store.index import DELTA, PACK, SHORTCUT, Contents, Stored
from keras_lc.store.locate import directory_at
from keras_lc.store.lock import Writer


def pack(directory: str | os.PathLike[str], dry_run: bool = False) -> list[str]:
    """Join the deltas of each base into one file beside it, `<name of the base>.lcp`.

    The directory is read, continued and pruned as before. Later deltas are files of their own
    until the directory is packed again. A delta that is damaged stays as it is.

    Args:
        directory: a path or URL, into which no other process saves at the time.
        dry_run: only say which packs would be written.

    Returns:
        The packs that were written.

    Raises:
        NotFoundError: there is no such directory.
        LockedError: another process saves into it.
        DamagedError: a pack that is there already cannot be read whole; all stays as it is.
        StoreError: a pack cannot be written.

    Example:
        >>> import keras_lc, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     keras_lc.pack(directory)  # there is nothing to join
        []
    """
    return _changed(directory, _pack, dry_run)


def unpack(directory: str | os.PathLike[str], dry_run: bool = False) -> list[str]:
    """Give each delta of the packs a file of its own again.

    Args:
        directory: as for `pack`.
        dry_run: only say which files would be written.

    Returns:
        The files that were written.

    Raises:
        NotFoundError, LockedError, StoreError: as for `pack`.
        DamagedError: a pack cannot be read whole; all stays as it is.

    Example:
        >>> import keras_lc, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     keras_lc.unpack(directory)  # there is no pack
        []
    """
    return _changed(directory, _unpack, dry_run)


def _changed(
    directory: str | os.PathLike[str], change: Callable[[Directory, bool], list[str]], dry: bool
) -> list[str]:
    """What a change has written, while no one else saves."""
    place = directory_at(directory)
    if not place.exists():
        raise NotFoundError(f"there is no directory {str(place)!r}.")
    if dry:
        return [place.child(file) for file in change(place, True)]
    writer = Writer(place)
    try:
        with writer.writing():
            written = change(place, False)
    finally:
        writer.release()
    return [place.child(file) for file in written]


def _pack(directory: Directory, dry: bool) -> list[str]:
    contents = index.scan(directory)
    families: dict[str, list[Stored]] = {}
    packs: dict[str, str | None] = {}  # digest to the pack of its base
    for stored in contents.stored:  # parents before children
        if stored.parent is None:
            packs[stored.digest] = stored.name + PACK
            continue
        # its own parent may be gone, where a shortcut leads to it
        direct = contents.shortcut_to.get(stored.parent)
        file = packs.get(stored.parent) or (packs.get(str(direct.parent)) if direct else None)
        packs[stored.digest] = file
        # One that was renamed would get its old name back.
        own_name = stored.name == stored.header.get("name")
        if file and own_name and stored.file.endswith(DELTA) and _is_intact(directory, stored):
            families.setdefault(file, []).append(stored)
    _refuse_damaged(directory, contents, families)
    for file, deltas in families.items():
        if dry:
            break
        present = [stored for stored in contents.stored if stored.file == file]
        _write(directory, file, [*present, *deltas])
        for stored in deltas:
            directory.remove(stored.file)
    if families and not dry:
        index.write_index(directory, index.scan(directory))
    return list(families)


def _unpack(directory: Directory, dry: bool) -> list[str]:
    contents = index.scan(directory)
    every = [stored for stored in contents.stored if stored.packed]
    packs = {stored.file for stored in [*every, *contents.doubles]}
    packs |= {file for file in contents.damaged if file.endswith(PACK)}
    _refuse_damaged(directory, contents, packs)
    for stored in every:
        if not _is_intact(directory, stored):
            raise DamagedError(f"{stored.where} of {str(directory)!r} is damaged; nothing is done.")
    taken = {stored.file for stored in contents.stored}
    targets = {}
    for stored in every:
        file = stored.name + DELTA
        if file in taken:  # by a newer one
            file = f"{stored.name}~{stored.digest[:8]}{DELTA}"
        targets[file] = stored
    if not dry:
        for file, stored in targets.items():
            _write(directory, file, [stored])
        for file in packs:
            directory.remove(file)
        if packs:
            index.write_index(directory, index.scan(directory))
    return list(targets)


def _refuse_damaged(directory: Directory, contents: Contents, files: Iterable[str]) -> None:
    for file in files:
        if file in contents.damaged:
            raise DamagedError(
                f"{directory.child(file)!r} is damaged: {contents.damaged[file]} Move it out of "
                "the directory, then try again."
            )


def remove(directory: Directory, contents: Contents, drop: Iterable[Stored]) -> None:
    """Delete checkpoints; a pack is written anew without them.

    Args:
        directory: where they are.
        contents: all that is there.
        drop: what is to go, children before their parents.
    """
    drop = list(drop)
    doomed = {stored.digest for stored in drop}
    # of what is to go, the rest may build on these until it is gone
    last = [s for s in drop if s.parent is None or s.file.endswith(SHORTCUT)]
    for stored in drop:
        if stored not in last and not stored.packed:
            directory.remove(stored.file)
    copies = [s for s in [*contents.stored, *contents.doubles] if s.packed and s.digest in doomed]
    for file in {stored.file for stored in copies} - contents.damaged.keys():
        rest = [s for s in contents.stored if s.file == file and s.digest not in doomed]
        if rest:
            _write(directory, file, rest)
        else:
            directory.remove(file)
    for stored in last:
        directory.remove(stored.file)


def keep_as(directory: Directory, stored: Stored, file: str) -> None:
    """Give a checkpoint a file of another name, so that its own may go to another."""
    if stored.packed:
        _write(directory, file, [stored])
    else:
        directory.keep_as(stored.file, file)


def _is_intact(directory: Directory, stored: Stored) -> bool:
    try:
        with directory.open(stored.file) as file:
            record.verify(file, index.find(file, stored))
    except (CheckpointError, OSError):
        return False
    return True


def _write(directory: Directory, file: str, records: Iterable[Stored]) -> None:
    with directory.write_once(file) as target:
        for stored in records:
            with directory.open(stored.file) as source:
                target.write(source.read(index.find(source, stored).end))
