"""A checkpoint as users name it: by its path, or by what it is in its directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from keras_lc import monitors
from keras_lc.errors import DamagedError, FormatError, NotFoundError, OptionError
from keras_lc.listing import open_directory, strip_suffix
from keras_lc.store import chain
from keras_lc.store.directory import Directory
from keras_lc.store.index import PACK, Contents, Stored
from keras_lc.store.locate import directory_at, split

_NEAR = 3  # names that are listed where one is not known


@dataclass(frozen=True)
class Found:
    """A checkpoint and where it is."""

    directory: Directory
    contents: Contents
    stored: Stored

    @property
    def path(self) -> str:
        """As `restore` takes it."""
        return self.directory.child(self.stored.name)


def find(reference: str | os.PathLike[str]) -> Found:
    """The checkpoint that a reference means; only headers are read.

    Args:
        reference: a directory, path or URL, followed by a checkpoint's name or a unique start of
            it, `latest`, `best`, `best:val_accuracy`, `epoch:7` or `step:1200`.

    Raises:
        NotFoundError: there is none; near ones are listed.
        OptionError: it may be several ones, or names a directory alone.
        DamagedError, FormatError: the file of that name cannot be read.

    Example:
        >>> from keras_lc.references import find
        >>> try:
        ...     find("no/such/directory/latest")
        ... except FileNotFoundError as error:
        ...     print(error)
        there is no directory 'no/such/directory'.
    """
    text = os.fspath(reference).rstrip("/")
    parent, last = split(text)
    directory = directory_at(parent)
    contents = open_directory(directory)
    name = strip_suffix(last)
    for stored in reversed(contents.stored):
        if stored.name == name:
            return Found(directory, contents, stored)
    _check_damaged(directory, contents, name)
    if directory_at(text).exists():
        raise OptionError(
            f"{text!r} is a directory; name a checkpoint in it, such as "
            f"{directory_at(text).child('latest')!r}."
        )
    if not contents.stored:
        there = f"{str(directory)!r} holds no checkpoint." if directory.exists() else ""
        raise NotFoundError(there or f"there is no directory {str(directory)!r}.")
    stored = by_word(directory, contents, last) or _beginning(directory, contents, last)
    return Found(directory, contents, stored)


def by_word(directory: Directory, contents: Contents, last: str) -> Stored | None:
    """The checkpoint that `latest`, `best`, `best:accuracy`, `epoch:7` or `step:1200` means.

    Args:
        directory: where it is.
        contents: all that is there, at least one checkpoint.
        last: the word; None is given back for any other.

    Raises:
        NotFoundError, OptionError, DamagedError: as for `find`.
    """
    word, _, wanted = last.partition(":")
    if last == "latest":
        return _newest(directory, contents)
    if word == "best":
        return _best(directory, contents, wanted or None)
    if word in ("epoch", "step") and wanted:
        return _numbered(directory, contents, word, wanted)
    return None


def opened(directory: str | os.PathLike[str]) -> tuple[Directory, Contents]:
    """A directory that must be there, and its checkpoints.

    Raises:
        NotFoundError: there is none.
    """
    place = directory_at(directory)
    contents = open_directory(place)
    if not contents.stored and not contents.damaged and not place.exists():
        raise NotFoundError(f"there is no directory {str(place)!r}.")
    return place, contents


def _check_damaged(directory: Directory, contents: Contents, name: str) -> None:
    for file, reason in contents.damaged.items():
        if strip_suffix(file) == name and not file.endswith(PACK):
            kind = FormatError if file in contents.newer else DamagedError
            raise kind(f"{directory.child(file)!r} cannot be read: {reason}")


def _restorable(directory: Directory, contents: Contents) -> list[Stored]:
    broken = chain.broken(contents)
    found = [stored for stored in contents.listed if stored.digest not in broken]
    if not found:
        raise DamagedError(f"no checkpoint of {str(directory)!r} has all that it builds on.")
    return found


def _newest(directory: Directory, contents: Contents) -> Stored:
    return _restorable(directory, contents)[-1]


def _best(directory: Directory, contents: Contents, wanted: str | None) -> Stored:
    candidates = _restorable(directory, contents)
    monitor = monitors.choose(candidates, wanted)
    ranked = monitors.ranked(candidates, monitor) if monitor else []
    if not ranked:
        raise NotFoundError(
            f"no checkpoint of {str(directory)!r} has a metric, so that none is the best."
        )
    return ranked[0]


def _numbered(directory: Directory, contents: Contents, word: str, wanted: str) -> Stored:
    """By epoch or step; of an epoch its end, if that was saved."""
    try:
        number = int(wanted)
    except ValueError as error:
        raise OptionError(
            f"'{word}:{wanted}': expected a whole number, as in '{word}:7'."
        ) from error
    same = [stored for stored in contents.listed if stored.header[word] == number]
    at_end = [stored for stored in same if stored.header["batch"] == 0]
    if same:
        return (at_end if word == "epoch" and at_end else same)[-1]

    def far(stored: Stored) -> int:
        return abs(int(stored.header[word]) - number)

    near = sorted(contents.listed, key=far)[:_NEAR]
    raise _missing(directory, f"of {word} {number}", near, lambda s: f" ({word} {s.header[word]})")


def _beginning(directory: Directory, contents: Contents, start: str) -> Stored:
    named = {stored.name: stored for stored in contents.listed}
    matches = [name for name in named if name.startswith(start)]
    if len(matches) == 1:
        return named[matches[0]]
    if matches:
        more = ", ..." if len(matches) > _NEAR else ""
        raise OptionError(
            f"{start!r} is the start of {len(matches)} checkpoints of {str(directory)!r}: "
            f"{', '.join(matches[:_NEAR])}{more}; write more of it."
        )
    near = get_close_matches(start, named, n=_NEAR, cutoff=0.3) or list(named)[-_NEAR:]
    raise _missing(directory, repr(start), [named[name] for name in near])


def _missing(
    directory: Directory,
    what: str,
    near: list[Stored],
    told: Callable[[Stored], str] = lambda stored: "",
) -> NotFoundError:
    names = ", ".join(stored.name + told(stored) for stored in near)
    return NotFoundError(f"there is no checkpoint {what} in {str(directory)!r}; near: {names}.")
