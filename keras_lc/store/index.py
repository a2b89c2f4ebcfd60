"""What checkpoints a directory holds.

The files are the truth. `checkpoint.json` only saves opening each of them: an entry counts
as long as its file has the identity that it names (size, time, ...), and a missing, stale or
damaged index is made anew from the files.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any, BinaryIO

from keras_lc.errors import CheckpointError, DamagedError, FormatError, StoreError, TemplateError
from keras_lc.store import record
from keras_lc.store.directory import Directory

INDEX = "checkpoint.json"
BASE = ".weights.h5"
DELTA = ".lcd"
PACK = ".lcp"  # deltas one after another
SHORTCUT = ".lcs"  # a delta that leads from a base straight to a later checkpoint
_GAP = 1 << 20  # saves that files which cannot be read may hold
_NONSENSE = (ValueError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Stored:
    """One checkpoint as its record describes it."""

    file: str
    nbytes: int  # of the record
    identity: str  # of the file; empty when not known
    digest: str
    header: dict[str, Any]
    offset: int = 0  # of the record in its file, which is 0 but in packs

    @property
    def packed(self) -> bool:
        """Whether it shares its file with others."""
        return self.file.endswith(PACK)

    @property
    def where(self) -> str:
        """Its file, and which one it is if there are others in it."""
        return f"{self.file} ({self.name})" if self.packed else self.file

    @cached_property
    def name(self) -> str:
        """File name without suffix; in a pack, the name that it was saved under."""
        if self.packed:
            return str(self.header["name"])
        return self.file.removesuffix(BASE).removesuffix(DELTA).removesuffix(SHORTCUT)

    @property
    def retired(self) -> bool:
        """A file that lost its name to a newer one and stays because others build on it."""
        return self.name.endswith(f"~{self.digest[:8]}")

    @property
    def parent(self) -> str | None:
        """Digest of the checkpoint that a delta builds on; None for a base."""
        parent = self.header.get("parent")
        return parent if isinstance(parent, str) else None

    @property
    def leads_to(self) -> str:
        """Digest by which others know the state that this record ends in: its own, but for a
        shortcut."""
        return str(self.header["of"]) if self.file.endswith(SHORTCUT) else self.digest

    @property
    def serial(self) -> int:
        """Number of the save in its directory, counted up; clocks may go back, this does not."""
        serial = self.header.get("serial")
        return serial if isinstance(serial, int) else 0


@dataclass
class Contents:
    """The checkpoints of a directory, oldest first, and the files that cannot be read."""

    stored: list[Stored] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)  # file to reason
    unread: set[str] = field(default_factory=set)  # files that the storage did not hand out
    newer: set[str] = field(default_factory=set)  # files of a newer format
    doubles: list[Stored] = field(default_factory=list)  # of a pack, there as files as well
    shortcuts: list[Stored] = field(default_factory=list)

    @property
    def listed(self) -> list[Stored]:
        """Those that can be named; of two of one name, the newer."""
        newest = self._newest
        return [stored for stored in self.stored if newest.get(stored.name) is stored]

    @property
    def outdated(self) -> list[Stored]:
        """Those whose name a newer one has, and which still go by it."""
        newest = self._newest
        return [s for s in self.stored if not s.retired and newest[s.name] is not s]

    @property
    def _newest(self) -> dict[str, Stored]:
        return {stored.name: stored for stored in self.stored if not stored.retired}

    @cached_property
    def by_digest(self) -> dict[str, Stored]:
        """The checkpoints by their digests, as children name their parents."""
        return {stored.digest: stored for stored in self.stored}

    @cached_property
    def shortcut_to(self) -> dict[str, Stored]:
        """The shortcuts that can be taken, by the digests that they lead to."""
        return {s.leads_to: s for s in self.shortcuts if self._leads(s)}

    def _leads(self, shortcut: Stored) -> bool:
        """Whether its base is there, and is that of its end as far as this can be told."""
        base, end = (self.by_digest.get(str(d)) for d in (shortcut.parent, shortcut.leads_to))
        if base is None or base.parent is not None or end is base:
            return False
        root = end
        for _ in self.stored:
            if root is None or root.parent is None:
                break
            root = self.by_digest.get(root.parent)
        return end is None or (end.serial == shortcut.serial and root in (base, None))

    @property
    def known(self) -> dict[str, list[Stored]]:
        """Files to what they hold; a pack of which not all is listed is left out and read again,
        so that nothing of it is forgotten."""
        partial = {*self.damaged, *(stored.file for stored in self.doubles)}
        files: dict[str, list[Stored]] = {}
        for stored in [*self.stored, *self.shortcuts]:
            if stored.file not in partial:
                files.setdefault(stored.file, []).append(stored)
        return files

    @property
    def faults(self) -> list[str]:
        """A sentence for each file that cannot be read."""
        return [f"{file}: {reason}" for file, reason in self.damaged.items()]

    @property
    def withheld(self) -> set[str]:
        """Files that cannot be read, and that others may build on or that may build on others. A
        base builds on none, and where nothing lacks its parent, none builds on it."""
        every = [*self.stored, *self.shortcuts]
        known = {None, *self.by_digest, *self.shortcut_to}
        complete = all(stored.parent in known for stored in every)
        return {file for file in self.unread if not (complete and file.endswith(BASE))}

    @property
    def next_serial(self) -> int:
        """One that comes after all, those of files that cannot be read now as well."""
        last = max((stored.serial for stored in self.stored), default=0)
        return last + (_GAP if self.unread else 1)


def scan(directory: Directory, before: Contents | None = None) -> Contents:
    """Read the headers of a directory, as far as they are not known.

    Args:
        directory: what to look at.
        before: what it held when it was scanned last; None for what the index tells.

    Raises:
        StoreError: the directory cannot be read.
    """
    known = _read_index(directory) if before is None else before.known
    contents = Contents()
    seen: set[str] = set()
    files = directory.list()
    for file in sorted(files, key=lambda file: (file.endswith(PACK), file)):
        if file.startswith(".") or not file.endswith((BASE, DELTA, PACK, SHORTCUT)):
            continue
        try:
            found, faults = _describe(directory, file, files[file], known.get(file, []))
        except FileNotFoundError:  # deleted meanwhile
            continue
        except (CheckpointError, OSError) as error:
            found, faults = [], [error]
            if isinstance(error, OSError) and not isinstance(error, IsADirectoryError):
                contents.unread.add(file)
        if faults:
            contents.damaged[file] = " ".join(map(str, faults))
            if any(isinstance(fault, FormatError) for fault in faults):
                contents.newer.add(file)
        if file.endswith(SHORTCUT):
            contents.shortcuts += found
            continue
        for stored in found:
            double = stored.packed and stored.digest in seen
            (contents.doubles if double else contents.stored).append(stored)
            seen.add(stored.digest)
    for records in (contents.stored, contents.shortcuts):
        records.sort(key=lambda stored: (stored.serial, stored.file))
    return contents


def _describe(
    directory: Directory, file: str, identity: str, known: list[Stored]
) -> tuple[list[Stored], list[Exception]]:
    """The checkpoints of a file, and what of a pack cannot be read."""
    if known and identity and all(stored.identity == identity for stored in known):
        return known, []
    if file.endswith(PACK):
        return _read_pack(directory, file, identity)
    stored = _read_single(directory, file, identity)
    if stored is None and (file.endswith((DELTA, SHORTCUT)) or known):
        raise DamagedError("the file does not begin like a checkpoint.")
    return [stored] if stored else [], []


def _read_single(directory: Directory, file: str, identity: str) -> Stored | None:
    """None if it is a file of someone else, such as a plain one of Keras."""
    with directory.open(file) as opened:
        frame = record.read_frame(opened)
    if frame is None:
        return None
    _check_header(frame.header)
    if file.endswith(SHORTCUT) and not all(
        isinstance(frame.header.get(key), str) for key in ("of", "parent")
    ):
        raise DamagedError("the header does not say from where to where it leads.")
    return Stored(file, frame.end, identity, frame.digest, frame.header)


def _read_pack(
    directory: Directory, file: str, identity: str
) -> tuple[list[Stored], list[Exception]]:
    found: list[Stored] = []
    faults: list[Exception] = []
    with directory.open(file) as opened:
        for offset, frame in record.frames(opened):
            try:
                if isinstance(frame, CheckpointError):
                    raise frame
                _check_header(frame.header)
                check_name(frame.header.get("name"))
            except CheckpointError as error:
                faults.append(type(error)(f"at byte {offset}: {error}"))
            else:
                found.append(Stored(file, frame.end, identity, frame.digest, frame.header, offset))
    if not found and not faults:
        faults.append(DamagedError("the file is empty."))
    return found, faults


def find(file: BinaryIO, stored: Stored) -> record.Frame:
    """Go to the record of a checkpoint.

    Raises:
        DamagedError, FormatError: it is not there any more.
    """
    file.seek(stored.offset)
    frame = record.read_frame(file)
    if frame is None or frame.digest != stored.digest:
        raise DamagedError("the file has been altered or replaced.")
    file.seek(stored.offset)
    return frame


def check_name(name: Any) -> None:
    """Refuse what is no name for a checkpoint.

    Raises:
        TemplateError: it is no file name, or begins with a dot.
    """
    text = isinstance(name, str) and name and "\0" not in name
    if not text or name.startswith(".") or name != os.path.basename(name):
        raise TemplateError(
            f"{name!r} is no name for a checkpoint: expected a file name that does not begin "
            "with a dot."
        )


def read_header(directory: Directory, file: str) -> Stored:
    """One checkpoint, read from its file; the identity of the file is left open.

    Raises:
        DamagedError: it is none.
        StoreError: it cannot be read.
    """
    try:
        stored = _read_single(directory, file, "")
    except OSError as error:
        raise StoreError(f"cannot read {directory.child(file)!r} back: {error}") from error
    if stored is None:
        raise DamagedError(f"{directory.child(file)!r} is a file of another program.")
    return stored


def _check_header(header: Any) -> None:
    if not isinstance(header, dict):
        raise DamagedError("the header is not an object.")
    wanted = {"serial": int, "epoch": int, "batch": int, "step": int, "logs": dict, "saved_at": str}
    for key, kind in wanted.items():
        if not isinstance(header.get(key), kind):
            raise DamagedError(f"the header holds {header.get(key)!r} as {key!r}.")
    try:
        datetime.fromisoformat(header["saved_at"])
        for value in header["logs"].values():
            float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"the header cannot be used: {error}") from error


def _read_index(directory: Directory) -> dict[str, list[Stored]]:
    try:
        with directory.open(INDEX) as file:
            document = json.loads(file.read())
        rows = document["checkpoints"]
        if document["sha256"] != _digest(_text(rows)):
            return {}
        known: dict[str, list[Stored]] = {}
        for stored in map(_row, rows):
            known.setdefault(stored.file, []).append(stored)
    except (CheckpointError, OSError, LookupError, *_NONSENSE):
        return {}
    return known


def _row(row: Any) -> Stored:
    stored = Stored(**row)
    _check_header(stored.header)
    bytes.fromhex(stored.digest)
    if stored.packed:
        check_name(stored.header.get("name"))
    if stored.file.endswith(SHORTCUT):
        bytes.fromhex(stored.header["of"] + stored.header["parent"])
    if not all(0 <= operator.index(n) < 1 << 63 for n in (stored.offset, stored.nbytes)):
        raise ValueError("no file has such a place or length.")
    return stored


def write_index(directory: Directory, contents: Contents) -> None:
    """Write the index; failing to costs nothing but time, so that it is no error."""
    with suppress(StoreError, RecursionError):  # a header may be as deep as can just be read
        keys = [field.name for field in fields(Stored)]
        every = (stored for found in contents.known.values() for stored in found)
        rows = _text([{key: getattr(stored, key) for key in keys} for stored in every])
        with directory.write_once(INDEX) as file:
            file.write(f'{{"sha256": "{_digest(rows)}",\n"checkpoints": {rows}}}\n'.encode())


def _text(rows: list[Any]) -> str:
    return json.dumps(rows, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
