"""What checkpoints a directory holds.

The files are the truth. `checkpoint.json` only saves opening each of them: an entry counts
as long as its file has the identity that it names (size, time, ...), and a missing, stale or
damaged index is made anew from the files.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from keras_lc.errors import CheckpointError, DamagedError, StoreError
from keras_lc.store import record
from keras_lc.store.directory import Directory

INDEX = "checkpoint.json"
BASE = ".weights.h5"
DELTA = ".lcd"


@dataclass(frozen=True)
class Stored:
    """One checkpoint as its file describes it."""

    file: str
    nbytes: int
    identity: str  # of the file; empty when not known
    digest: str
    header: dict[str, Any]

    @property
    def name(self) -> str:
        """File name without suffix."""
        return self.file.removesuffix(BASE).removesuffix(DELTA)

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
    def serial(self) -> int:
        """Number of the save in its directory, counted up; clocks may go back, this does not."""
        serial = self.header.get("serial")
        return serial if isinstance(serial, int) else 0


@dataclass
class Contents:
    """The checkpoints of a directory, oldest first, and the files that cannot be read."""

    stored: list[Stored] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)  # file to reason

    @property
    def listed(self) -> list[Stored]:
        """Those that can be named; of two of one name, the newer."""
        by_name = {stored.name: stored for stored in self.stored if not stored.retired}
        return [stored for stored in self.stored if by_name.get(stored.name) is stored]

    @cached_property
    def by_digest(self) -> dict[str, Stored]:
        """The checkpoints by their digests, as children name their parents."""
        return {stored.digest: stored for stored in self.stored}

    @property
    def next_serial(self) -> int:
        return max((stored.serial for stored in self.stored), default=0) + 1


def scan(directory: Directory) -> Contents:
    """Read the headers of a directory, as far as the index does not have them.

    Raises:
        StoreError: the directory cannot be read.
    """
    known = _read_index(directory)
    contents = Contents()
    for file, identity in sorted(directory.list().items()):
        if file.startswith(".") or not file.endswith((BASE, DELTA)):
            continue
        try:
            stored = _describe(directory, file, identity, known.get(file))
        except FileNotFoundError:  # deleted meanwhile
            continue
        except (CheckpointError, OSError) as error:
            contents.damaged[file] = str(error)
        else:
            if stored is not None:
                contents.stored.append(stored)
    contents.stored.sort(key=lambda stored: (stored.serial, stored.file))
    return contents


def _describe(
    directory: Directory, file: str, identity: str, known: Stored | None = None
) -> Stored | None:
    if known and identity and known.identity == identity:
        return known
    with directory.open(file) as opened:
        frame = record.read_frame(opened)
    if frame is None:
        if file.endswith(BASE) and known is None:
            return None  # a plain Keras file of someone else
        raise DamagedError("the file does not begin like a checkpoint.")
    _check_header(frame.header)
    return Stored(file, frame.end, identity, frame.digest, frame.header)


def read_header(directory: Directory, file: str) -> Stored:
    """One checkpoint, read from its file; the identity of the file is left open.

    Raises:
        DamagedError: it is none.
        StoreError: it cannot be read.
    """
    try:
        stored = _describe(directory, file, "")
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


def _read_index(directory: Directory) -> dict[str, Stored]:
    try:
        with directory.open(INDEX) as file:
            document = json.loads(file.read())
        rows = document["checkpoints"]
        if document["sha256"] != _digest(rows):
            return {}
        known = {row["file"]: Stored(**row) for row in rows}
        for stored in known.values():
            _check_header(stored.header)
            bytes.fromhex(stored.digest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DamagedError):
        return {}
    return known


def write_index(directory: Directory, contents: Contents) -> None:
    """Write the index; failing to costs nothing but time, so that it is no error."""
    rows = [
        {
            "file": stored.file,
            "nbytes": stored.nbytes,
            "identity": stored.identity,
            "digest": stored.digest,
            "header": stored.header,
        }
        for stored in contents.stored
    ]
    text = json.dumps({"sha256": _digest(rows), "checkpoints": rows}, indent=1)
    with suppress(StoreError), directory.write_once(INDEX) as file:
        file.write(text.encode())


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
