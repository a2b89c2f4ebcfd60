"""A small training run without Keras, a disk that fails on demand, and forged files."""

from __future__ import annotations

import builtins
import errno
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import h5py
import numpy as np

from keras_lc import checkpointer as checkpointers
from keras_lc.capture import Snapshot
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import TensorSpec
from keras_lc.errors import StoreError
from keras_lc.listing import open_directory
from keras_lc.loader import load
from keras_lc.store import files, lock, record
from keras_lc.store.locate import directory_at
from keras_lc.store.pack import pack

State = dict[str, np.ndarray]

SPECS = [
    TensorSpec("weights/0"),
    TensorSpec("weights/1"),
    TensorSpec("weights/2", "exact"),
    TensorSpec("seeds/0", "exact"),
    TensorSpec("optimizer/0", "exact"),
    TensorSpec("optimizer/1", "first_moment", of="weights/0"),
    TensorSpec("optimizer/2", "second_moment", of="weights/0"),
]
LAYOUT: dict[str, str | np.ndarray] = {
    "layers/dense/vars/0": "weights/0",
    "layers/dense/vars/1": "weights/1",
    "optimizer/vars/0": "optimizer/0",
    "optimizer/vars/1": "optimizer/1",
    "optimizer/vars/2": "optimizer/2",
    "metrics/vars/0": np.float32(0.5).reshape(()),
}


def walk(count: int, seed: int = 0, rows: int = 3) -> list[State]:
    """The states of a run that takes `count` random steps."""
    rng = np.random.default_rng(seed)
    state: State = {
        "weights/0": rng.normal(size=(rows, 4)).astype(np.float32),
        "weights/1": rng.normal(size=4).astype(np.float32),
        "weights/2": rng.normal(size=(20, 20)).astype(np.float32),  # frozen
        "seeds/0": np.array([seed, 0], np.uint32),
        "optimizer/0": np.array(0, np.int64),
        "optimizer/1": np.zeros((rows, 4), np.float32),
        "optimizer/2": np.full((rows, 4), 1e-6, np.float32),
    }
    states = []
    for step in range(count):
        gradient = rng.normal(size=(rows, 4)).astype(np.float32)
        moment = (0.9 * state["optimizer/1"] + 0.1 * gradient).astype(np.float32)
        square = (0.99 * state["optimizer/2"] + 0.01 * gradient**2).astype(np.float32)
        state = state | {
            "weights/0": state["weights/0"] - np.float32(0.01) * moment / np.sqrt(square),
            "weights/1": (state["weights/1"] + 0.01 * rng.normal(size=4)).astype(np.float32),
            "seeds/0": np.array([seed, step], np.uint32),
            "optimizer/0": np.array(step + 1, np.int64),
            "optimizer/1": moment,
            "optimizer/2": square,
        }
        states.append(state)
    return states


def snapshot(state: Mapping[str, np.ndarray], step: int | None = None) -> Snapshot:
    return Snapshot(state, SPECS, int(state["optimizer/0"]) if step is None else step)


def save(
    checkpointer: Checkpointer,
    state: Mapping[str, np.ndarray],
    name: str,
    epoch: int = 1,
    **options: Any,
) -> None:
    """One save as a callback makes it, durable on return."""
    try:
        checkpointer.wait()
        taken = snapshot(state)
        if checkpointer.base_due(name, taken):
            taken = replace(taken, layout=LAYOUT, about={"framework": "toy"})
        checkpointer.save(taken, name, epoch, **options)
    finally:
        checkpointer.close()


def run(
    directory: Path | str, states: Sequence[State], prefix: str = "cp-", **options: Any
) -> Checkpointer:
    """A run that saves each state as cp-0001, cp-0002, ... bit for bit."""
    checkpointer = toy_checkpointer(directory, **options)
    for i, state in enumerate(states, start=1):
        save(checkpointer, state, f"{prefix}{i:04d}", i)
    return checkpointer


class Hasty(Checkpointer):
    """Writes a shortcut after every so many deltas."""

    def __init__(self, *arguments: Any, short: int, **options: Any):
        super().__init__(*arguments, **options)
        self._short = short

    def _write(self, *arguments: Any) -> Any:
        with mock.patch.object(checkpointers, "_SHORT", self._short):
            return super()._write(*arguments)


def toy_checkpointer(directory: Path | str, **options: Any) -> Checkpointer:
    kind = Hasty if "short" in options else Checkpointer
    return kind(directory, **{"codec": "lossless", "background": False, **options})


def load_all(directory: Path | str) -> dict[str, State]:
    """Every checkpoint that can be named, decoded."""
    place = directory_at(directory)
    contents = open_directory(place)
    assert not contents.damaged
    return {
        stored.name: dict(load(place, contents, stored).decoder.reconstruction)
        for stored in contents.listed
    }


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Equal in names, shapes, dtypes and every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def kinds(directory: Path | str) -> dict[str, str]:
    """Name to "base" or "delta"."""
    contents = open_directory(directory_at(directory))
    return {s.name: "base" if s.parent is None else "delta" for s in contents.listed}


def file_names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def temporaries(directory: Path) -> set[str]:
    """Files that are neither a checkpoint nor the index."""
    return {
        name
        for name in file_names(directory)
        if name.startswith(".")
        or not name.endswith((".weights.h5", ".lcd", ".lcp", ".lcs", "checkpoint.json"))
    }


def halves(directory: Path) -> set[str]:
    """Files that were not written to their end."""
    return {name for name in temporaries(directory) if not name.startswith(lock.PREFIX)}


class Disk:
    """Counts what is asked of it; from request number `fail_at` on it does `act`.

    With `once` it does so for that request alone.
    """

    def __init__(self, fail_at: int, act: Callable[[], None], once: bool):
        self.fail_at = fail_at
        self.act = act
        self.once = once
        self.asked = 0

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.fail_at or (0 < self.fail_at < self.asked and not self.once)

    def ask(self) -> None:
        if self.due():
            self.act()

    def copy(self, source: Path, target: Path) -> None:
        data = Path(source).read_bytes()
        if self.due():
            Path(target).write_bytes(data[: len(data) // 2])
            self.act()
        shutil.copyfile(source, target)


class DiskFile:
    """A file on a `Disk`; a write that fails has written half."""

    def __init__(self, disk: Disk, file: Any):
        self._disk = disk
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> DiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        if self._disk.due():
            view = memoryview(data).cast("B")
            self._file.write(view[: len(view) // 2])
            self._file.flush()
            self._disk.act()
        return self._file.write(data)

    def flush(self) -> None:
        self._disk.ask()
        self._file.flush()


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def disk(
    fail_at: int = 0, act: Callable[[], None] = no_space, once: bool = False
) -> Iterator[Disk]:
    """Puts everything that the store writes onto a `Disk`; without `fail_at` it only counts."""
    toy = Disk(fail_at, act, once)

    def opened(path: Any, mode: str = "r") -> DiskFile:
        toy.ask()
        return DiskFile(toy, builtins.open(path, mode))

    def asking(function: Callable[..., Any]) -> Callable[..., Any]:
        def ask_first(*arguments: Any, **options: Any) -> Any:
            toy.ask()
            return function(*arguments, **options)

        return ask_first

    remove = files.remove

    def removed(path: Path) -> None:
        try:
            toy.ask()
        except OSError as error:
            raise StoreError(f"cannot delete {path}") from error
        remove(path)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(files, "remove", removed))
        stack.enter_context(mock.patch.object(files, "open", opened, create=True))
        stack.enter_context(mock.patch.object(shutil, "copy2", toy.copy))
        stack.enter_context(mock.patch.object(os, "fsync", asking(lambda handle: None)))
        for name in ("replace", "link", "utime"):
            stack.enter_context(mock.patch.object(os, name, asking(getattr(os, name))))
        yield toy


@dataclass(frozen=True)
class Scene:
    """A directory with a history, and the save in it that is to be disturbed.

    Args:
        options: of the checkpointers.
        before: checkpoints of an earlier run, by another checkpointer.
        history: names saved before the disturbed save.
        name: the disturbed save.
        codec: of the disturbed save.
    """

    name: str
    history: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    packed: bool = False  # all that was saved before is joined into packs
    coarse: bool = False  # disturb only some of the requests that write the HDF5 part
    codec: str | None = None

    def moments(self, requests: int) -> list[int]:
        """The requests to disturb."""
        ends = [*range(1, 5), *range(requests - 9, requests + 1)]
        return sorted(
            {*ends, *range(1, requests + 1, 6)} if self.coarse else range(1, requests + 1)
        )

    @property
    def states(self) -> list[State]:
        return walk(len(self.before) + len(self.history) + 2, seed=len(self.history))

    def prepare(self, directory: Path) -> Checkpointer:
        states = iter(self.states)
        if self.before:
            earlier = toy_checkpointer(directory, **dict(self.options))
            for name in self.before:
                save(earlier, next(states), name)
        checkpointer = toy_checkpointer(directory, **dict(self.options))
        for name in self.history:
            save(checkpointer, next(states), name)
        if self.packed:
            pack(directory)
        return checkpointer

    def save(self, checkpointer: Checkpointer) -> None:
        """The save that is disturbed."""
        save(checkpointer, self.disturbed, self.name, codec=self.codec)

    @property
    def disturbed(self) -> State:
        return self.states[-2]

    @property
    def following(self) -> State:
        return self.states[-1]

    @property
    def max_to_keep(self) -> int | None:
        return dict(self.options).get("max_to_keep")


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"cp-{i:04d}" for i in range(1, count + 1))


_HASTY: tuple[tuple[str, Any], ...] = (("short", 3),)
_PRUNED = (*_HASTY, ("max_to_keep", 1))

SCENES = {
    "first base": Scene("cp-0001"),
    "delta": Scene("cp-0003", ("cp-0001", "cp-0002")),
    "second base": Scene(
        "cp-0003", ("cp-0001", "cp-0002"), options=(("keyframe_every", 2),), coarse=True
    ),
    "base over an old base": Scene(
        "cp-0001", before=("cp-0001", "cp-0002", "cp-0003"), coarse=True
    ),
    "delta over an old delta": Scene(
        "cp-0002", ("cp-0001",), before=("cp-0001", "cp-0002", "cp-0003")
    ),
    "base over an old delta": Scene(
        "cp-0002", before=("cp-0001", "cp-0002", "cp-0003"), coarse=True
    ),
    "delta over an old base": Scene("cp-0001", ("cp-0000",), before=("cp-0001", "cp-0002")),
    "constant name": Scene("best", ("best", "best"), coarse=True),
    "chain dropped": Scene(
        "cp-0004",
        ("cp-0001", "cp-0002", "cp-0003"),
        options=(("keyframe_every", 2), ("max_to_keep", 1)),
    ),
    "delta onto a pack": Scene("cp-0004", ("cp-0001", "cp-0002", "cp-0003"), packed=True),
    "base over a delta of a pack": Scene(
        "cp-0003", before=("cp-0001", "cp-0002", "cp-0003", "cp-0004"), packed=True, coarse=True
    ),
    "delta over a delta of a pack": Scene(
        "cp-0002", ("cp-0000",), before=("cp-0001", "cp-0002", "cp-0003"), packed=True
    ),
    "chain dropped with its pack": Scene(
        "cp-0004",
        ("cp-0001", "cp-0002", "cp-0003"),
        options=(("keyframe_every", 3), ("max_to_keep", 1)),
        packed=True,
        coarse=True,
    ),
    "shortcut": Scene("cp-0004", _names(3), options=_HASTY),
    "shortcut after a shortcut": Scene("cp-0006", _names(5), options=_HASTY),
    "shortcut before a save of another codec": Scene(
        "cp-0005", _names(4), options=(("short", 9), ("codec", "balanced")), codec="lossless"
    ),
    "shortcut past what is pruned": Scene("cp-0004", _names(3), options=_PRUNED),
    "shortcut past a shortcut that is pruned": Scene("cp-0006", _names(5), options=_PRUNED),
    "shortcut past what is pruned from a pack": Scene(
        "cp-0004", _names(3), options=_PRUNED, packed=True
    ),
    "chain dropped with its shortcut": Scene(
        "cp-0006", _names(5), options=(*_PRUNED, ("keyframe_every", 5)), coarse=True
    ),
    "base over the base of a shortcut": Scene(
        "cp-0001", before=_names(5), options=_HASTY, coarse=True
    ),
    "delta over the end of a shortcut": Scene(
        "cp-0004", ("cp-0000",), before=_names(5), options=_HASTY
    ),
}


def kill_each(scene: str, directories: Iterable[str]) -> None:
    """In a directory called n, a process that dies at the n-th request of the disturbed save."""
    for directory in directories:
        child = os.fork()
        if not child:
            with disk():
                checkpointer = SCENES[scene].prepare(Path(directory))
            with disk(int(Path(directory).name), lambda: os._exit(9)):
                SCENES[scene].save(checkpointer)
            os._exit(0)
        os.waitpid(child, 0)


def forge(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Alter the HDF5 part of a base, and seal it again with a valid digest."""
    data = path.read_bytes()
    with open(path, "rb") as file:
        frame = record.read_frame(file)
    assert frame is not None
    path.write_bytes(data[: frame.size])
    with h5py.File(path, "r+") as h5:
        change(h5)
    with open(path, "r+b") as file:
        record.seal(file, frame.header, frame.start)


def payload_of(file: BinaryIO, frame: record.Frame) -> bytes:
    """The payload of the record that begins here, its digests compared."""
    source = record.Checked(file, frame)
    source.fetch()
    return bytes(source.data[source.start :])


def sealed(body: bytes) -> bytes:
    """A record of these bytes, at most one block, with its digests."""
    block = hashlib.sha256(body).digest()
    return body + block + hashlib.sha256(block).digest()


HEADER: dict[str, Any] = {
    "name": "x",
    "serial": 9,
    "kind": "delta",
    "epoch": 1,
    "batch": 0,
    "step": 1,
    "logs": {},
    "saved_at": "2025-01-01T00:00:00+00:00",
}


def memory_growth(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory rises at the most while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from now
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {field}")


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collects the texts of the warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]


if __name__ == "__main__":
    kill_each(sys.argv[1], sys.argv[2:])
