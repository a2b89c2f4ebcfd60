"""One writer a directory; readers need no lock.

A writer puts a file of its own beside the checkpoints, whose name no other has, and then looks
for those of others. So of two that come at once at least one sees the other; both may step
back, and try again. A stale lock is deleted by whoever finds it, which can hit no other.

Stale is the lock of

- a process of this host that is gone;
- an earlier attempt of the same SLURM job (a lower SLURM_RESTART_COUNT), on whatever host;
- a process of another host that has not renewed it for three minutes. A live process does so
  every 30 seconds, however long its epochs are, by the clock of the storage alone.

A lock of another host is watched until it is either renewed or stale. That takes three minutes
at the most, in the thread that writes, and only where a process was killed less than three
minutes ago on another host. Remote directories are locked as far as their listings are
up to date.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from weakref import WeakSet

from keras_lc.errors import LockedError, StoreError
from keras_lc.store import process
from keras_lc.store.directory import Directory

PREFIX = ".keras_lc.writer-"
_BEAT = 30.0  # s from one renewal to the next
_SILENT = 180.0  # s without a renewal, after which another host is taken for dead
_TRIES = 5  # to get past others that come at the same time
_PAUSE = 0.2  # s at the most, from one try to the next
_MOST = 1 << 16  # bytes of a lock that are read


@dataclass(frozen=True)
class Owner:
    """Whose a lock is."""

    host: str
    process: int
    started: str | None
    since: str
    job: str
    attempt: int


@dataclass(frozen=True)
class _Rival:
    """The lock of a live process."""

    file: str
    owner: Owner
    renewed: float


class Writer:
    """What writes into a directory: several may be of one process, but not of two.

    Args:
        directory: it must exist when it is written into.

    Example:
        >>> import tempfile
        >>> from keras_lc.store.locate import directory_at
        >>> from keras_lc.store.lock import Writer
        >>> with tempfile.TemporaryDirectory() as path:
        ...     writer = Writer(directory_at(path))
        ...     with writer.writing():
        ...         pass  # make changes
        ...     writer.release()
    """

    def __init__(self, directory: Directory):
        self._directory = directory

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make changes, while no other process and no other thread does.

        The lock of the process stays until `release`, or until the interpreter ends.

        Raises:
            LockedError: another live process writes into the directory.
            StoreError: the lock cannot be written.
        """
        with _registry:
            claim = _claims.setdefault(self._directory.key, _Claim(self._directory))
            claim.writers.add(self)
        with claim.guard:
            claim.hold()
            yield

    def release(self) -> None:
        """Let other processes write, unless another writer of this one still does."""
        with _registry:
            claim = _claims.get(self._directory.key)
            if claim is None:
                return
            claim.writers.discard(self)
            if claim.writers:
                return
            del _claims[self._directory.key]
        claim.drop()


class _Claim:
    """The lock of this process on one directory."""

    def __init__(self, directory: Directory):
        self.guard = threading.RLock()  # one thread writes at a time
        self.writers = WeakSet[Writer]()  # one that was forgotten holds nothing
        self._directory = directory
        self._file: str | None = None
        self._dropped = threading.Event()
        self._heart: threading.Thread | None = None

    def hold(self) -> None:
        """Take the lock, or renew it."""
        if self._file is not None:
            try:
                self._directory.touch(self._file)
                return
            except FileNotFoundError:  # deleted with the directory, or by a host that saw no beat
                self._file = None
        self._file = self._take()
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="keras_lc lock", daemon=True)
            self._heart.start()

    def drop(self) -> None:
        """Give the lock back; where that fails, this process ends sooner or later."""
        self._dropped.set()
        if self._heart is not None:
            self._heart.join()
        if self._file is not None:
            with suppress(OSError):
                self._directory.remove(self._file)

    def _beat(self) -> None:
        while not self._dropped.wait(_BEAT):
            if self._file is not None:
                with suppress(OSError):
                    self._directory.touch(self._file)

    def _take(self) -> str:
        end = time.monotonic() + _SILENT + _BEAT
        first: dict[str, float] = {}  # when the locks of other hosts were last renewed
        tries = 0
        while True:
            file = f"{PREFIX}{os.getpid()}@{process.HOST}-{secrets.token_hex(4)}"
            rival = self._try(file)
            if rival is None:
                return file
            tries += _is_here(rival.owner)
            renewed = first.setdefault(rival.file, rival.renewed) != rival.renewed
            if tries == _TRIES or renewed or time.monotonic() > end:
                raise self._locked(rival)
            time.sleep(random.uniform(0, _PAUSE))

    def _try(self, file: str) -> _Rival | None:
        """Write a lock; take it back if there is another."""
        with self._directory.write_once(file) as opened:
            opened.write(json.dumps(asdict(_myself())).encode())
        try:
            rival = self._rival(file)
        except BaseException as error:
            self._directory.remove(file)
            if isinstance(error, FileNotFoundError):
                raise StoreError(f"{str(self._directory)!r} was deleted just now.") from error
            raise
        if rival is not None:
            self._directory.remove(file)
        return rival

    def _rival(self, own: str) -> _Rival | None:
        now = self._directory.modified(own)  # by the clock of the storage
        for file in self._directory.list():
            if file == own or not file.startswith(PREFIX):
                continue
            try:
                owner, renewed = self._read(file), self._directory.modified(file)
            except FileNotFoundError:
                continue
            if not _is_mine(owner) and not _is_stale(owner, now - renewed):
                return _Rival(file, owner, renewed)
            with suppress(StoreError):
                self._directory.remove(file)
        return None

    def _read(self, file: str) -> Owner:
        try:
            with self._directory.open(file) as opened:
                told = json.loads(opened.read(_MOST))
            host, since, job = (str(told[key]) for key in ("host", "since", "job"))
            number, attempt = (int(told[key]) for key in ("process", "attempt"))
            return Owner(host, number, told["started"], since, job, attempt)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return Owner("an unknown host", 0, None, "an unknown time", "", 0)

    def _locked(self, rival: _Rival) -> LockedError:
        owner = rival.owner
        return LockedError(
            f"process {owner.process} on {owner.host} saves checkpoints into "
            f"{str(self._directory)!r} since {owner.since}; only one process at a time may. "
            "Choose another directory, or end that process; if you know that it has ended, delete "
            f"{self._directory.child(rival.file)!r}."
        )


def _myself() -> Owner:
    since = datetime.now(UTC).isoformat(" ", "seconds")
    job = os.environ.get("SLURM_JOB_ID", "")
    attempt = os.environ.get("SLURM_RESTART_COUNT", "")
    number = int(attempt) if attempt.isdecimal() else 0
    return Owner(process.HOST, os.getpid(), process.started(os.getpid()), since, job, number)


def _is_mine(owner: Owner) -> bool:
    me = _myself()
    return (owner.host, owner.process, owner.started) == (me.host, me.process, me.started)


def _is_here(owner: Owner) -> bool:
    """Whether this host can tell if the owner lives."""
    return owner.host == process.HOST and os.name != "nt"


def _is_stale(owner: Owner, silence: float) -> bool:
    me = _myself()
    if me.job and owner.job == me.job and owner.attempt < me.attempt:
        return True
    if _is_here(owner):
        return process.is_dead(owner.process, owner.started)
    return silence > _SILENT


_registry = threading.Lock()
_claims: dict[str, _Claim] = {}


def _forget() -> None:
    """In a forked child: the locks are its parent's."""
    global _registry
    _registry = threading.Lock()
    _claims.clear()


def _drop_all() -> None:
    for claim in _claims.values():
        claim.drop()


atexit.register(_drop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
