"""The way down: a snapshot is encoded against the chain so far and committed as a delta, or
as a base where a chain begins.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from numbers import Integral
from typing import Any

import numpy as np

from keras_lc.background import Background
from keras_lc.capture import Snapshot, Source
from keras_lc.core import DeltaEncoder, Rules, TensorSpec
from keras_lc.core.pages import give_back
from keras_lc.core.presets import CodecLike
from keras_lc.errors import CheckpointError, DamagedError, OptionError, StoreError
from keras_lc.listing import CheckpointInfo, describe, strip_suffix
from keras_lc.loader import Loaded, load
from keras_lc.shortcuts import Shortcuts
from keras_lc.store import base, chain, index, pack, record
from keras_lc.store.index import Contents, Stored
from keras_lc.store.locate import directory_at, split
from keras_lc.store.lock import Writer

_PAYS = 0.95  # a delta larger than this share of its base is followed by a new base
_LONG = 1.0  # seconds of a save, beside which having memory made anew for the next is little


class Checkpointer:
    """Saves snapshots of one training run into one directory.

    Other processes may not save into it from the first save until `close`.

    Args:
        directory: path or URL; made when the first checkpoint is saved.
        codec: how deltas are coded, as for `core.DeltaEncoder`.
        keyframe_every: checkpoints from one base to the next, the base counted.
        max_to_keep: keep this many newest checkpoints and what they build on; None keeps all.
        background: encode and write beside the training.
        on_saved: called with a `CheckpointInfo` after each durable save, in the thread that
            writes.
        on_error: `"raise"` a failed save at the next one, or `"warn"` and go on.
        owns: whether a name is of this run; checkpoints of other names in the directory are
            neither built on nor counted by `max_to_keep`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        codec: CodecLike = "balanced",
        keyframe_every: int = 64,
        max_to_keep: int | None = None,
        background: bool = True,
        on_saved: Callable[[CheckpointInfo], Any] | None = None,
        on_error: str = "raise",
        owns: Callable[[str], bool] = lambda name: True,
    ):
        Rules(codec)
        for option, value in {"keyframe_every": keyframe_every, "max_to_keep": max_to_keep}.items():
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise OptionError(f"{option}={value!r}: expected a whole number from 1 up.")
        if on_error not in ("raise", "warn"):
            raise OptionError(f"on_error={on_error!r}: expected 'raise' or 'warn'.")
        self.directory = directory_at(directory)
        self._codec = codec
        self._keyframe_every = keyframe_every
        self._max_to_keep = max_to_keep
        self._on_saved = on_saved
        self._on_error = on_error
        self._owns = owns
        self._writer = Writer(self.directory)
        self._background = Background(background)
        self._encoder: DeltaEncoder | None = None
        self._chain: list[Stored] = []  # what the encoder stands on, base first
        self._shortcuts = Shortcuts()
        self._seen: Contents | None = None  # what the directory held when it was scanned last
        self._base_next = False
        self._swept = False  # of what killed processes left behind
        self._warned = False  # of files that cannot be read

    def wait(self) -> None:
        """Return when every save asked for is durable; a failure of the last is raised here."""
        with self._failures():
            self._background.wait()

    def close(self) -> None:
        """Wait, and let other processes write into the directory; saving may go on later."""
        try:
            self.wait()
            encoder, shortcuts = self._encoder, self._shortcuts
            if encoder is not None and shortcuts.due and shortcuts.cheap(self._chain):
                # there, since memory that one thread has had is of little use to another
                self._background.submit(lambda: self._end(encoder))
                self.wait()
        finally:
            self._writer.release()
            give_back()

    def _end(self, encoder: DeltaEncoder) -> None:
        """Whoever restores the last checkpoint of a large base is to have a short way; without it
        the way is only longer."""
        with suppress(CheckpointError), self._writer.writing():
            self._check_chain(self._scan())
            self._shorten(encoder, fewest=2)
            self._tidy()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What becomes of a save that fails: an error, or a warning, as the user chose."""
        try:
            yield
        except CheckpointError as error:
            if self._on_error == "raise":
                raise
            warnings.warn(f"a checkpoint was not saved: {error}", stacklevel=4)

    def base_due(self, name: str, snapshot: Snapshot) -> bool:
        """Whether this save begins a chain, so that the snapshot must be described."""
        return (
            self._encoder is None
            or self._base_next
            or self._encoder.sequence + 1 >= self._keyframe_every
            or any(stored.name == name for stored in self._chain)
            or self._chain_is_gone()
            or not self._encoder.fits(snapshot.arrays)
        )

    def _chain_is_gone(self) -> bool:
        """Whether its ends are not there; a delta may have moved into a pack."""
        base, last = self._chain[0], self._chain[-1]
        gone = self.directory.gone
        return gone(base.file) or (gone(last.file) and gone(base.name + index.PACK))

    def save(
        self,
        snapshot: Snapshot,
        name: str,
        epoch: int,
        batch: int = 0,
        logs: Mapping[str, Any] | None = None,
        codec: CodecLike | None = None,
    ) -> None:
        """Make a checkpoint called `name`; it is durable after `wait`.

        The arrays of the snapshot must stand until then, so call `wait` before they are
        overwritten. A snapshot that is described (has a layout) becomes a base.
        """
        header = _header(snapshot, name, epoch, batch, logs or {})
        self.wait()
        with self._failures():
            self._background.submit(lambda: self._commit(snapshot, header, codec))

    def resume(self, loaded: Loaded, specs: list[TensorSpec]) -> None:
        """Go on with the chain of a checkpoint that has been loaded; its decoder is taken over."""
        self.wait()
        contents = index.scan(self.directory)
        self._encoder = DeltaEncoder.resume(loaded.decoder, self._codec, specs)
        self._chain = chain.ancestry(contents, loaded.stored)

    def adopt(self, source: Source) -> None:
        """Go on with the chain of the checkpoint that a model has just been restored from:
        the one of the same step and the same weights."""
        contents = index.scan(self.directory)
        same_step = [
            stored
            for stored in reversed(contents.listed)
            if stored.header.get("step") == source.step and self._owns(stored.name)
        ]
        if same_step:
            self.wait()
            snapshot = source.snapshot()
            self._background.submit(lambda: self._adopt(snapshot, contents, same_step))

    def _adopt(self, snapshot: Snapshot, contents: Contents, candidates: list[Stored]) -> None:
        for stored in candidates:
            try:
                decoder = load(self.directory, contents, stored).decoder
                encoder = DeltaEncoder.resume(decoder, self._codec, snapshot.specs)
            except (CheckpointError, OSError):
                continue
            if encoder.fits(snapshot.arrays) and _same_weights(snapshot, encoder.reconstruction):
                self._encoder, self._chain = encoder, chain.ancestry(contents, stored)
                return

    def _commit(self, snapshot: Snapshot, header: dict[str, Any], codec: CodecLike | None) -> None:
        snapshot.ready()
        self.directory.make()
        begin = time.perf_counter()
        with self._writer.writing():
            stored = self._write(snapshot, header, codec)
            contents = self._tidy()
        if time.perf_counter() - begin > _LONG:
            give_back()
        if codec is None:  # else there may be no other save
            snapshot.buffers.touch()
        if self._on_saved is not None:
            self._on_saved(describe(self.directory, contents, stored))

    def _write(self, snapshot: Snapshot, header: dict[str, Any], codec: CodecLike | None) -> Stored:
        if not self._swept:
            self.directory.remove_leftovers()
            self._swept = True
        contents = self._scan()
        if snapshot.layout is None and (hidden := {s.file for s in self._chain} & contents.unread):
            raise StoreError(
                f"{', '.join(sorted(hidden))} of {str(self.directory)!r} cannot be read, so that "
                f"no delta is built on it now: {' '.join(contents.faults)}"
            )
        encoder, self._encoder = self._encoder, None  # until this save is durable
        header |= _stamp(contents.next_serial)
        if encoder is None or snapshot.layout is not None:
            encoder = None  # its state goes before the next one comes
            give_back()
            stored = self._write_base(contents, snapshot, header)
            encoder = DeltaEncoder(snapshot.arrays, self._codec, snapshot.specs)
            self._chain = [stored]
            self._shortcuts.begin()
        else:
            self._check_chain(contents)
            header["codec"] = str(Rules(self._codec if codec is None else codec))
            own = header["codec"] == str(Rules(self._codec))
            if not own:  # it may take the tensors out of the chain's own codec
                self._shorten(encoder, fewest=2)
            steps = max(0, snapshot.step - self._chain[-1].header["step"])
            buffers = snapshot.buffers
            delta = encoder.pieces(snapshot.arrays, codec, steps or None, buffers.names)
            header["error"] = float(f"{encoder.error():.3g}")
            stored = self._write_delta(contents, header, delta)
            del delta  # before the next one comes
            buffers.give(encoder.kept)
            self._base_next = stored.nbytes > _PAYS * self._chain[0].nbytes
            self._chain.append(stored)
            self._shortcuts.due = own
            self._shorten(encoder)
        self._encoder = encoder
        return stored

    def _write_base(self, contents: Contents, snapshot: Snapshot, header: dict[str, Any]) -> Stored:
        file = header["name"] + index.BASE
        self._displace(contents, file)
        header["kind"] = "base"
        layout = snapshot.layout or {}
        about = snapshot.about | {"roles": _roles(snapshot.specs)}
        base.write(self.directory, file, header, snapshot.arrays, layout, about)
        self._base_next = False
        return index.read_header(self.directory, file)

    def _write_delta(
        self, contents: Contents, header: dict[str, Any], delta: list[bytes]
    ) -> Stored:
        file = header["name"] + index.DELTA
        self._displace(contents, file)
        header |= {"kind": "delta", "parent": self._chain[-1].leads_to}
        with self.directory.write_once(file) as opened:
            record.write(opened, header, delta)
        return index.read_header(self.directory, file)

    def _shorten(self, encoder: DeltaEncoder, fewest: int | None = None) -> None:
        self._chain = self._shortcuts.write(self.directory, self._chain, encoder, fewest)

    def _check_chain(self, contents: Contents) -> None:
        there = {s.digest for s in [*contents.stored, *contents.shortcuts]}
        lost = [stored.file for stored in self._chain if stored.digest not in there]
        if lost:
            raise DamagedError(
                f"{', '.join(lost[:3])} of {str(self.directory)!r} is gone or has been altered "
                "during training, so that no delta can build on it; the next checkpoint is whole."
            )

    def _displace(self, contents: Contents, file: str) -> None:
        """Keep what a file holds that is about to be written anew, if others build on it."""
        if file in contents.unread:
            raise StoreError(
                f"{self.directory.child(file)!r} is there and cannot be read, and is not replaced "
                f"unread: {contents.damaged[file]} Save under another name, or move it away."
            )
        for stored in contents.stored:
            if stored.file == file:
                self._retire(contents, stored)

    def _retire(self, contents: Contents, stored: Stored) -> None:
        if chain.has_children(contents, stored):
            pack.keep_as(self.directory, stored, _retired(stored))

    def _tidy(self) -> Contents:
        """After a save: older namesakes and what `max_to_keep` leaves go, the index follows."""
        contents = self._scan()
        if not contents.withheld:
            contents = self._prune(contents)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                f"{', '.join(sorted(contents.withheld))} of {str(self.directory)!r} cannot be "
                "read, and may build on any other file: nothing is deleted until it can be read "
                f"or is moved away. {' '.join(contents.faults)}",
                stacklevel=2,
            )
        index.write_index(self.directory, contents)
        return contents

    def _prune(self, contents: Contents) -> Contents:
        if outdated := contents.outdated:
            for stored in outdated:
                self._retire(contents, stored)
            pack.remove(self.directory, contents, reversed(outdated))
            contents = self._scan()
        keep = contents.listed
        if self._max_to_keep is not None:
            own = [stored for stored in keep if self._owns(stored.name)]
            keep = [stored for stored in keep if not self._owns(stored.name)] + own[
                -self._max_to_keep :
            ]
        if drop := chain.disposable(contents, keep):
            pack.remove(self.directory, contents, drop)
            contents = self._scan()
        return contents

    def _scan(self) -> Contents:
        """What the directory holds now; only files that have changed are read."""
        self._seen = index.scan(self.directory, self._seen)
        return self._seen


def save_alone(
    path: str | os.PathLike[str],
    snapshot: Snapshot,
    epoch: int,
    batch: int = 0,
    logs: Mapping[str, Any] | None = None,
) -> None:
    """Write a snapshot that is described as one base, in the place of one that is there.

    Raises:
        StoreError: it cannot be written.
    """
    parent, last = split(os.fspath(path))
    directory, name = directory_at(parent), strip_suffix(last)
    header = _header(snapshot, name, epoch, batch, logs or {}) | _stamp(0) | {"kind": "base"}
    snapshot.ready()
    directory.make()
    layout = snapshot.layout or {}
    base.write(directory, name + index.BASE, header, snapshot.arrays, layout, snapshot.about)


def _header(
    snapshot: Snapshot, name: str, epoch: int, batch: int, logs: Mapping[str, Any]
) -> dict[str, Any]:
    index.check_name(name)
    return {
        "name": name,
        "epoch": epoch,
        "batch": batch,
        "step": snapshot.step,
        "logs": _plain_logs(logs),
    }


def _stamp(serial: int) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"serial": serial, "saved_at": now}


def _retired(stored: Stored) -> str:
    suffix = index.BASE if stored.file.endswith(index.BASE) else index.DELTA
    return f"{stored.name}~{stored.digest[:8]}{suffix}"


def _roles(specs: list[TensorSpec]) -> dict[str, list[str | None]]:
    """What a series needs to be encoded anew, of all that is not exact."""
    return {spec.name: [spec.role, spec.of] for spec in specs if spec.role != "exact"}


def _same_weights(snapshot: Snapshot, arrays: Mapping[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(snapshot.arrays[spec.name], arrays[spec.name])
        for spec in snapshot.specs
        if spec.role == "weight"
    )


def _plain_logs(logs: Mapping[str, Any]) -> dict[str, float | str]:
    """Scalars only; strict JSON has no NaN, so those that are not finite become text."""
    plain: dict[str, float | str] = {}
    for name, value in logs.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        plain[str(name)] = number if math.isfinite(number) else str(number)
    return plain
