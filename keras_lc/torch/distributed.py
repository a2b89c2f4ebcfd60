"""Checkpoints of models that are spread over processes, through `torch.distributed.checkpoint`.

    writer = LCStorageWriter("training")
    dcp.save(state, storage_writer=writer, checkpoint_id="cp-000120")
    dcp.load(state, storage_reader=LCStorageReader("training/cp-000120"))

Each rank has a chain of its own, in `training/<rank>-of-<ranks>`, so that another number of ranks
begins with new bases. What of a checkpoint lies where is in `training/cp-000120.json`, which is
written last: without it the checkpoint is none.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from keras_lc import workers
from keras_lc.capture import Snapshot
from keras_lc.capture.torch.shards import specs_of
from keras_lc.capture.torch.tensors import TensorBuffers, tensor_of
from keras_lc.capture.tree import flatten, unflatten
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import several
from keras_lc.core.presets import CodecLike
from keras_lc.errors import DamagedError, NotFoundError, OptionError
from keras_lc.listing import open_directory, strip_suffix
from keras_lc.loader import Loaded, load_named
from keras_lc.store.locate import directory_at, split

_FORMAT = 1
_SUFFIX = ".json"


class LCStorageWriter(StorageWriter):  # type: ignore[misc]
    """Where `dcp.save` writes: a base, then compressed deltas, by each rank on its own.

    Keep one for the whole run; a new one begins with a base.

    Args:
        directory: path or URL that all ranks see.
        codec: how deltas are stored, as for `keras_lc.torch.Checkpointer`.
        keyframe_every: checkpoints from one base to the next.

    Raises:
        OptionError: an argument is not understood.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        codec: CodecLike = "balanced",
        keyframe_every: int = 64,
    ):
        super().__init__()
        self._directory = directory_at(directory)
        self._options: dict[str, Any] = {"codec": codec, "keyframe_every": keyframe_every}
        self._buffers = TensorBuffers()
        self._checkpointer: Checkpointer | None = None
        self._part = ""
        self._name = self._next = ""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self._next = split(os.fspath(checkpoint_id or ""))[1]

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._name, self._next = self._next, ""  # it is told before each save, or forgotten
        if not self._name:
            raise OptionError("pass a checkpoint_id such as 'cp-000120' to dcp.save.")
        several = distributed.is_available() and distributed.is_initialized()
        rank = kwargs.get("rank", distributed.get_rank() if several else 0)
        ranks = distributed.get_world_size() if several else 1
        part = f"{rank:05d}-of-{ranks:05d}"
        if part != self._part:
            place = self._directory.child(part)
            self._checkpointer = Checkpointer(place, background=False, **self._options)
            self._part = part

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors: dict[str, torch.Tensor] = {}
        notes: dict[dcp.MetadataIndex, Any] = {}
        for item in plan.items:
            name = _name_of(item.index)
            if item.type == WriteItemType.BYTE_IO:
                value = planner.lookup_object(item.index)  # not pickled, as `resolve_data` would
                notes[item.index] = flatten(value, name, tensors, torch.is_tensor)
            else:
                tensors[name] = planner.resolve_data(item).detach()
        self._save(tensors)
        results = []
        for item in plan.items:
            name = _name_of(item.index)
            kept = {"part": self._part, "name": name}
            if item.index in notes:
                kept["notes"] = notes[item.index]
            nbytes = tensors[name].nbytes if name in tensors else 0
            results.append(WriteResult(item.index, nbytes, kept))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _save(self, tensors: Mapping[str, torch.Tensor]) -> None:
        assert self._checkpointer is not None
        arrays, ready = self._buffers.copy(tensors)
        digits = re.findall(r"\d+", self._name)
        step = int(digits[-1]) if digits else 0
        specs = specs_of(arrays)
        snapshot = Snapshot(arrays, specs, step, ready=ready, buffers=self._buffers)
        if self._checkpointer.base_due(self._name, snapshot):
            snapshot = replace(snapshot, layout={}, about={"framework": "torch.distributed"})
        self._checkpointer.save(snapshot, self._name, epoch=0)

    def finish(self, metadata: dcp.Metadata, results: list[list[WriteResult]]) -> None:
        found = {result.index: result.storage_data for each in results for result in each}
        tensors: dict[str, Any] = {}
        objects: dict[str, Any] = {}
        for key, stored in metadata.state_dict_metadata.items():
            if isinstance(stored, dcp.BytesStorageMetadata):
                objects[key] = found[dcp.MetadataIndex(key)]
                continue
            chunks = []
            for chunk in stored.chunks:
                kept = found[dcp.MetadataIndex(key, chunk.offsets)]
                chunks.append([list(chunk.offsets), list(chunk.sizes), kept["part"], kept["name"]])
            dtype = str(stored.properties.dtype).removeprefix("torch.")
            tensors[key] = {"dtype": dtype, "size": list(stored.size), "chunks": chunks}
        parts = {kept["part"] for kept in found.values()}
        document = {
            "format": _FORMAT,
            "parts": {part: self._digest(part) for part in sorted(parts)},
            "tensors": tensors,
            "objects": objects,
            "planner": flatten(metadata.planner_data, "planner", {}, lambda value: False),
        }
        with self._directory.write_once(self._name + _SUFFIX) as file:
            file.write(json.dumps(document).encode())

    def _digest(self, part: str) -> str:
        """What the checkpoint of a rank leads to: another of its name would not be taken."""
        contents = open_directory(directory_at(self._directory.child(part)))
        return next(s.leads_to for s in contents.stored[::-1] if s.name == self._name)


class LCStorageReader(StorageReader):  # type: ignore[misc]
    """Where `dcp.load` reads a checkpoint of an `LCStorageWriter`, with any number of ranks.

    Args:
        path: of the checkpoint, such as `"training/cp-000120"`.
        threads: that decode on each rank, as for `keras_lc.torch.load`.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None):
        super().__init__()
        self._threads = threads
        self.reset(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id is not None:
            parent, last = split(os.fspath(checkpoint_id))
            self._directory, self._name = directory_at(parent), strip_suffix(last)
        self._document: dict[str, Any] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        path = self._directory.child(self._name + _SUFFIX)
        try:
            with self._directory.open(self._name + _SUFFIX) as file:
                self._document = json.loads(file.read())
            return _metadata_of(self._document)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no checkpoint {path!r}.") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"{path!r} cannot be read: {error!r}") from error

    def set_up_storage_reader(
        self, metadata: dcp.Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        if not self._document:  # the coordinator alone has read it
            self.read_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        with workers.using(self._threads):
            for part, wanted in self._by_part(plan).items():
                self._read(part, wanted, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, part: str, wanted: list[tuple[ReadItem, str]], planner: LoadPlanner) -> None:
        arrays = self._load(part).decoder.reconstruction
        tensors = [pair for pair in wanted if pair[0].type != LoadItemType.BYTE_IO]
        made = several(arrays, [name for _, name in tensors])
        for (item, _), array in zip(tensors, made, strict=True):
            _put(item, planner, array)
        for item, name in wanted:
            if item.type == LoadItemType.BYTE_IO:
                notes = self._document["objects"][item.storage_index.fqn]["notes"]
                planner.load_bytes(item, _pickled(notes, name, arrays))

    def _by_part(self, plan: LoadPlan) -> dict[str, list[tuple[ReadItem, str]]]:
        """What is to be read, by the rank that has written it: each is decoded once."""
        found: dict[str, list[tuple[ReadItem, str]]] = {}
        for item in plan.items:
            key, offset = item.storage_index.fqn, item.storage_index.offset
            if item.type == LoadItemType.BYTE_IO:
                kept = self._document["objects"][key]
                part, name = kept["part"], kept["name"]
            else:
                chunks = self._document["tensors"][key]["chunks"]
                part, name = next(
                    chunk[2:] for chunk in chunks if offset is None or chunk[0] == list(offset)
                )
            found.setdefault(part, []).append((item, name))
        return found

    def _load(self, part: str) -> Loaded:
        place = directory_at(self._directory.child(part))
        loaded = load_named(place.child(self._name))
        if loaded.stored.leads_to != self._document["parts"][part]:
            raise DamagedError(
                f"{loaded.info.path!r} is not what {self._name + _SUFFIX!r} was made with; it has "
                "been written anew since."
            )
        return loaded


def _name_of(index: dcp.MetadataIndex) -> str:
    """The name of a chunk among the tensors of its rank."""
    offset = "" if index.offset is None else "@" + ",".join(map(str, index.offset))
    return f"{index.fqn}{offset}"


def _metadata_of(document: Mapping[str, Any]) -> dcp.Metadata:
    entries: dict[str, Any] = {key: dcp.BytesStorageMetadata() for key in document["objects"]}
    for key, stored in document["tensors"].items():
        properties = dcp.TensorProperties(dtype=getattr(torch, stored["dtype"]))
        chunks = [
            dcp.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
            for offsets, sizes, _, _ in stored["chunks"]
        ]
        size = torch.Size(stored["size"])
        entries[key] = dcp.TensorStorageMetadata(properties, size, chunks)
    planner = unflatten(document["planner"], "planner", lambda kind, name: None)
    return dcp.Metadata(entries, planner_data=planner, storage_data={})


def _pickled(notes: Any, name: str, arrays: Mapping[str, np.ndarray]) -> io.BytesIO:
    """An object as the planner takes it: pickled in memory, never in a file."""
    value = unflatten(notes, name, lambda kind, place: tensor_of(arrays[place]))
    memory = io.BytesIO()
    torch.save(value, memory)
    memory.seek(0)
    return memory


def _put(item: ReadItem, planner: LoadPlanner, array: np.ndarray) -> None:
    begins, lengths = item.storage_offsets, item.lengths
    part = array[tuple(slice(b, b + n) for b, n in zip(begins, lengths, strict=True))]
    target = planner.resolve_tensor(item).detach()
    target.copy_(tensor_of(part))
    planner.commit_tensor(item, target)
