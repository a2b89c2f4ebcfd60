"""The way up: a checkpoint is found, and its chain read, checked and decoded."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice

import numpy as np

from keras_lc import references
from keras_lc.core import DeltaDecoder
from keras_lc.errors import (
    CheckpointError,
    DamagedError,
    FormatError,
    NotFoundError,
)
from keras_lc.listing import CheckpointInfo, describe, open_directory, strip_suffix
from keras_lc.progress import shown
from keras_lc.store import base, chain, index
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored
from keras_lc.store.locate import directory_at, split
from keras_lc.store.record import Checked

_AHEAD = 2  # records that are in memory before they are decoded


@dataclass(frozen=True)
class Decoded:
    """The state of a checkpoint, and its base."""

    decoder: DeltaDecoder
    base: base.Base


@dataclass(frozen=True)
class Loaded(Decoded):
    """A checkpoint that was found and decoded."""

    info: CheckpointInfo
    stored: Stored


def load(directory: Directory, contents: Contents, target: Stored, whole: bool = False) -> Loaded:
    """Decode one checkpoint; what is read of its chain is checked before it is interpreted.

    Args:
        directory: where it is.
        contents: all that is there.
        target: which one.
        whole: also read what of the base the checkpoint does not build on.

    Raises:
        DamagedError: a file of the chain is missing, altered or truncated; it is named.
    """
    route = chain.ancestry(contents, target)
    try:
        decoded = _follow(directory, route, whole)
    except (DamagedError, FormatError):
        other = chain.ancestry(contents, target, shortcuts=False)
        if other == route:
            raise
        decoded = _follow(directory, other, whole)
    info = describe(directory, contents, target)
    return Loaded(decoded.decoder, decoded.base, info, target)


def _follow(directory: Directory, route: list[Stored], whole: bool) -> Decoded:
    """Decode a base and what leads on from it; the next deltas are read meanwhile."""
    deltas, decoded = route[1:], None
    with ThreadPoolExecutor(_AHEAD, "keras_lc-read") as readers:

        def fetch(stored: Stored) -> Future[memoryview]:
            return readers.submit(copy_context().run, payload, directory, stored)

        blobs, later = deque(map(fetch, deltas[:_AHEAD])), iter(deltas[_AHEAD:])
        for stored in shown(route, len(route), f"restoring {route[-1].name}"):
            with _blaming(directory, stored):
                if decoded is None:
                    decoded = _base(directory, stored, blobs[0] if blobs and not whole else None)
                    continue
                decoded.decoder.decode(blobs.popleft().result(), checked=True)
            blobs.extend(map(fetch, islice(later, 1)))
    assert decoded is not None
    return decoded


@contextmanager
def _blaming(directory: Directory, stored: Stored) -> Iterator[None]:
    """Errors name the file that is at fault."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{directory.child(stored.where)!r}: {error}") from error
    except CheckpointError as error:
        raise DamagedError(f"{directory.child(stored.where)!r} is damaged: {error}") from error


def decode(directory: Directory, stored: Stored, before: Decoded | None) -> Decoded:
    """Read one checkpoint, check it, and decode it over what it builds on.

    Args:
        directory: where it is.
        stored: a base, or a delta.
        before: the checkpoint that a delta builds on, decoded; it becomes this one.

    Raises:
        DamagedError, FormatError: it cannot be read, or is not what the listing said.
    """
    if before is None:
        return _base(directory, stored)
    before.decoder.decode(payload(directory, stored))
    return before


def _base(directory: Directory, stored: Stored, delta: Future[memoryview] | None = None) -> Decoded:
    """A base, or what a delta on it builds on."""

    def needed(tensors: Mapping[str, np.ndarray]) -> Container[str]:
        assert delta is not None
        try:
            return DeltaDecoder(tensors, absent=tensors).needed(delta.result())
        except CheckpointError:
            return tensors  # it is told when that delta is decoded

    with _opened(directory, stored) as source:
        content = base.read(source, needed if delta else None)
    return Decoded(DeltaDecoder(content.arrays, copy=False, absent=content.absent), content)


def payload(directory: Directory, stored: Stored) -> memoryview:
    """The payload of a delta, checked.

    Raises:
        DamagedError: it cannot be read, or is not what the listing said.
    """
    with _opened(directory, stored) as source:
        source.fetch()
        return source.data[source.start :]


@contextmanager
def _opened(directory: Directory, stored: Stored) -> Iterator[Checked]:
    try:
        with directory.open(stored.file) as file:
            yield Checked(file, index.find(file, stored))
    except (OSError, MemoryError) as error:
        raise DamagedError(f"it cannot be read: {error}") from error


def load_latest(
    directory: str | os.PathLike[str], owns: Callable[[str], bool] = lambda name: True
) -> Loaded | None:
    """The newest checkpoint that is intact, with a warning for each newer one that is not.

    Args:
        directory: a path or URL.
        owns: which names to look at.

    Raises:
        DamagedError: there are checkpoints, but none is intact.
        StoreError: the directory is a file.
    """
    place = directory_at(directory)
    contents = open_directory(place)
    faults = contents.faults
    for stored in reversed(contents.listed):
        if not owns(stored.name):
            continue
        try:
            loaded = load(place, contents, stored)
        except CheckpointError as error:
            if str(error) not in faults:  # one damaged file breaks all that build on it
                faults.append(str(error))
            continue
        if faults:
            warnings.warn(
                f"{loaded.info.path} is the newest intact checkpoint; damaged: {' '.join(faults)}",
                stacklevel=3,
            )
        return loaded
    if faults:
        raise DamagedError(
            f"no checkpoint of {str(place)!r} is intact. Move the directory away to train "
            f"from the beginning. Damaged: {' '.join(faults)}"
        )
    return None


def load_named(path: str | os.PathLike[str], whole: bool = False) -> Loaded:
    """One checkpoint by its path, with or without suffix, or by a word of `references`.

    A start of a name does not do: it could be that of another checkpoint than the one meant.

    Args:
        path: for example `"training/cp-0007"`, or `"training/best"`.
        whole: also read what of its base it does not build on.

    Raises:
        NotFoundError: there is none of that name; near names are listed.
        OptionError: a number or a metric is not understood.
        DamagedError: it, or a checkpoint that it builds on, is damaged.
    """
    text = os.fspath(path).rstrip("/")
    parent, last = split(text)
    directory, name = directory_at(parent), strip_suffix(last)
    contents = open_directory(directory)
    stored = next((stored for stored in contents.stored[::-1] if stored.name == name), None)
    if stored is None and contents.stored:
        stored = references.by_word(directory, contents, last)
    if stored is not None:
        try:
            return load(directory, contents, stored, whole)
        except DamagedError as error:
            raise DamagedError(f"{error} Restore an older checkpoint.") from error
    for file, reason in contents.damaged.items():
        if strip_suffix(file) == name or file.endswith(index.PACK):
            raise DamagedError(f"{directory.child(file)!r} is damaged: {reason}")
    if directory_at(text).exists():
        raise NotFoundError(
            f"{text!r} is a directory; `restore_latest` takes a directory, `restore` one "
            f"checkpoint such as {directory_at(text).child('cp-0007')!r}."
        )
    names = [stored.name for stored in contents.listed]
    near = get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
    raise NotFoundError(
        f"there is no checkpoint {name!r} in {str(directory)!r}; "
        + (f"it has {len(names)}, among them {', '.join(near)}." if names else "it holds none.")
    )


def latest_checkpoint(directory: str | os.PathLike[str]) -> str | None:
    """Path, without suffix, of the newest checkpoint that is intact; None if there is none.

    Everything that it builds on is read and checked. A warning names damaged ones that are
    newer.

    Args:
        directory: a path or URL, which need not exist.

    Raises:
        DamagedError: there are checkpoints, but none is intact.
        StoreError: the directory is a file or cannot be read.

    Example:
        >>> import keras_lc
        >>> keras_lc.latest_checkpoint("no/such/directory") is None
        True
    """
    loaded = load_latest(directory)
    return None if loaded is None else loaded.info.path
