"""Which files of a directory are damaged."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from keras_lc.errors import CheckpointError, DamagedError, FormatError
from keras_lc.figures import Figures, words
from keras_lc.progress import shown
from keras_lc.references import opened
from keras_lc.store import chain, index, record, stages
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored

if TYPE_CHECKING:
    from keras_lc.loader import Decoded

Item = TypeVar("Item")


@dataclass(frozen=True)
class Report(Figures):
    """What `verify` found; as text, a line for each file that is damaged.

    Attributes:
        directory: path or URL.
        checked: how many checkpoints were looked at, damaged ones counted.
        damaged: file to the reason why it, or what it builds on, is not intact.
        newer: whether all of these are of a newer format, and may be intact.

    Example:
        >>> from keras_lc import Report
        >>> print(Report("training", 3, {"cp-0003.lcd": "the file is truncated."}))
        training: 3 checkpoints checked, 1 file damaged
          cp-0003.lcd: the file is truncated.
    """

    verb = "verify"
    directory: str
    checked: int
    damaged: dict[str, str]
    newer: bool = False

    @property
    def ok(self) -> bool:
        """Whether every checkpoint can be restored."""
        return not self.damaged

    @property
    def fault(self) -> type[CheckpointError] | None:
        if self.ok:
            return None
        return FormatError if self.newer else DamagedError

    def parts(self) -> Iterator[str]:
        count = len(self.damaged)
        found = f"{words.count(count, 'file')} damaged" if count else "all intact"
        yield f"{self.directory}: {words.count(self.checked, 'checkpoint')} checked, {found}"
        for file, reason in self.damaged.items():
            yield f"  {file}: {reason}"


def verify(directory: str | os.PathLike[str], decode: bool = True) -> Report:
    """Read every checkpoint of a directory, compare its digest, and decode it.

    Each delta is decoded once. What the stages of a run need must be there. Files of
    other programs are left alone.

    Args:
        directory: a path or URL.
        decode: False to compare the digests alone: the files are as they were written.

    Raises:
        NotFoundError: there is no such directory.
        StoreError: it is a file or cannot be read.

    Example:
        >>> import keras_lc, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     keras_lc.verify(directory).ok
        True
    """
    place, contents = opened(directory)
    damaged = dict(contents.damaged)
    for stored, reason in (_faults if decode else _altered)(place, contents):
        if stored.packed:
            reason = f"{damaged.get(stored.file, '')} {stored.name}: {reason}".strip()
        damaged[stored.file] = reason
    checked = len(contents.stored) + len(contents.damaged)
    told = dict(_stages(place, contents))
    newer = {file for file, fault in told.items() if isinstance(fault, FormatError)}
    damaged |= {file: str(fault) for file, fault in told.items()}
    only_newer = bool(damaged) and damaged.keys() <= contents.newer | newer
    return Report(str(place), checked, damaged, only_newer)


def _stages(directory: Directory, contents: Contents) -> Iterator[tuple[str, CheckpointError]]:
    """Files of a run that cannot be read, or that name checkpoints which are not there."""
    book, faults = stages.inspect(directory)
    yield from faults.items()
    for file, names in stages.lost(book, contents.by_digest).items():
        yield file, DamagedError(f"it needs {', '.join(names)}, which is missing or another one.")


def _altered(directory: Directory, contents: Contents) -> Iterator[tuple[Stored, str]]:
    """Those that do not match their digests, or lack what they build on."""
    broken = chain.broken(contents)
    every = [*contents.stored, *contents.doubles, *contents.shortcuts]
    for stored in shown(every, len(every), "reading"):
        try:
            _compare(directory, stored)
        except CheckpointError as error:
            yield stored, str(error)
        else:
            if stored.digest in broken:
                yield stored, broken[stored.digest]


def _faults(directory: Directory, contents: Contents) -> list[tuple[Stored, str]]:
    from keras_lc.loader import decode  # brings numpy and HDF5

    faults: list[tuple[Stored, str]] = []
    children = chain.children(contents)
    for shortcut in contents.shortcuts:
        children.setdefault(str(shortcut.parent), []).append(shortcut)
    seen: set[int] = set()
    ends = {digest for s in contents.shortcuts for digest in (s.digest, s.leads_to)}
    states: dict[str, str] = {}  # what records lead to that should lead to the same
    # What is yet to be decoded, what it builds on, and whether others are to build on that too.
    todo: list[tuple[Stored, Decoded | None, bool]] = [
        (stored, None, False)
        for stored in [*contents.by_digest.values(), *contents.shortcuts]
        if stored.parent not in contents.by_digest
        and not {stored.parent, stored.digest} & contents.shortcut_to.keys()
    ]
    count = len(contents.by_digest) + len(contents.shortcuts)
    for stored, before, shared in shown(_emptied(todo), count, "verifying"):
        seen.add(id(stored))
        after = None
        try:
            if stored.parent is not None and before is None:
                _compare(directory, stored)
                raise DamagedError("what it builds on is damaged or missing.")
            if before is not None and shared:
                before = replace(before, decoder=copy.deepcopy(before.decoder))
            after = decode(directory, stored, before)
            if stored.digest in ends:
                states[stored.digest] = _fingerprint(after)
        except CheckpointError as error:
            faults.append((stored, str(error)))
        target = contents.by_digest.get(stored.leads_to)
        only = stored is target or (
            stored is contents.shortcut_to.get(stored.leads_to)
            and (target is None or target.parent not in contents.by_digest)
        )
        below = children.get(stored.leads_to, []) if only else []
        todo += [(child, after, number > 0) for number, child in enumerate(below)]
    for stored in [*contents.stored, *contents.doubles]:
        if id(stored) not in seen:  # a second copy, or one that a shortcut leads to
            try:
                _compare(directory, stored)
            except CheckpointError as error:
                faults.append((stored, str(error)))
    for shortcut in contents.shortcuts:
        one, other = states.get(shortcut.digest), states.get(shortcut.leads_to)
        if one and other and one != other:
            faults.append((shortcut, "it leads to another state than what it passes."))
    return faults


def _emptied(todo: list[Item]) -> Iterator[Item]:
    """The last item, until there is none."""
    while todo:
        yield todo.pop()


def _fingerprint(decoded: Decoded) -> str:
    """The same for the same state."""
    import numpy as np

    digest = hashlib.sha256()
    for array in decoded.decoder.reconstruction.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _compare(directory: Directory, stored: Stored) -> None:
    """Compare the digest of a checkpoint that is not decoded."""
    try:
        with directory.open(stored.file) as file:
            record.verify(file, index.find(file, stored))
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error}") from error
