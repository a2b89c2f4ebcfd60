"""A small training run without Keras, what it leaves on disk, and forged files."""

from __future__ import annotations

import hashlib
import io
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import h5py
import numpy as np

from keras_lc import shortcuts
from keras_lc.capture import Snapshot
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import TensorSpec
from keras_lc.listing import open_directory
from keras_lc.loader import load, load_named
from keras_lc.store import chain, index, lock, record
from keras_lc.store.locate import directory_at

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
    """One save as a training of one epoch makes it, durable on return."""
    try:
        put(checkpointer, state, name, epoch, **options)
    finally:
        checkpointer.close()


def put(
    checkpointer: Checkpointer,
    state: Mapping[str, np.ndarray],
    name: str,
    epoch: int = 1,
    **options: Any,
) -> None:
    """One save of a training that goes on."""
    checkpointer.wait()
    taken = snapshot(state)
    if checkpointer.base_due(name, taken):
        taken = replace(taken, layout=LAYOUT, about={"framework": "toy"})
    checkpointer.save(taken, name, epoch, **options)


def copied(directory: Path, target: Path) -> Path:
    """A copy with an index that knows its files, which are others than those copied."""
    shutil.copytree(directory, target)
    index.write_index(directory_at(target), index.scan(directory_at(target)))
    return target


class ToySource:
    """What `adopt` asks: a state that stands at some step."""

    def __init__(self, state: State, step: int | None = None):
        self._snapshot = snapshot(state, step)

    @property
    def step(self) -> int:
        return self._snapshot.step

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def described(self, snapshot: Snapshot) -> Snapshot:
        return snapshot


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
        with mock.patch.object(shortcuts, "_MANY", self._short):
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


def restored(directory: Path, name: str) -> Mapping[str, np.ndarray]:
    return load_named(directory / name).decoder.reconstruction


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


def settled(directory: Path) -> None:
    """Nothing temporary, and no file that nothing needs."""
    assert not temporaries(directory)
    contents = index.scan(directory_at(directory))
    needed = {
        one.digest
        for stored in contents.listed
        for one in [stored, *chain.ancestry(contents, stored)]
    }
    assert {stored.digest for stored in contents.stored} <= needed
    last = {shortcut.parent: shortcut.digest for shortcut in contents.shortcuts}
    assert {shortcut.digest for shortcut in contents.shortcuts} <= needed | set(last.values())
    assert last.keys() <= contents.by_digest.keys()


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


def as_record(header: Mapping[str, Any], payload: bytes) -> bytes:
    """A whole record."""
    file = io.BytesIO()
    record.write(file, dict(header), [payload])
    return file.getvalue()


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
