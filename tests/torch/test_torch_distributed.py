import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_sharded
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch_training import same, worked

import keras_lc
from keras_lc import workers
from keras_lc.capture.torch.shards import specs_of
from keras_lc.torch.distributed import LCStorageReader, LCStorageWriter


def ranks(count, *arguments):
    """What each of so many processes prints."""
    meeting = Path(arguments[1]) / f"meeting-{count}-{arguments[0]}"
    paths = {"PYTHONPATH": str(Path(keras_lc.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    told = paths | {"MEETING": f"file://{meeting}", "WORLD_SIZE": str(count)}
    command = [sys.executable, torch_sharded.__file__, *map(str, arguments)]
    started = [
        subprocess.Popen(
            command, env=told | {"RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip
    ends = [process.communicate(timeout=300) for process in started]
    for process, (_, error) in zip(started, ends, strict=True):
        assert process.returncode == 0, error
    return [out.split() for out, _ in ends]


@pytest.mark.slow
def test_saved_on_two_ranks_and_loaded_on_one_two_and_three(tmp_path):
    saved, other = ranks(2, "save", tmp_path, "-")
    assert saved == other
    for part in ("00000-of-00002", "00001-of-00002"):
        kinds = [checkpoint.kind for checkpoint in keras_lc.list_checkpoints(tmp_path / part)]
        assert kinds == ["base", "delta", "delta"]
        assert keras_lc.verify(tmp_path / part).ok
    assert json.loads((tmp_path / "cp-3.json").read_text())["format"] == 1
    for count, number in [(1, 3), (2, 2), (3, 3)]:
        assert ranks(count, "load", tmp_path, f"cp-{number}") == [[saved[number - 1]]] * count


def saved(directory, name="cp-1", value=1.0, writer=None):
    state = {"a": {"w": torch.full((3, 2), value)}, "rates": (0.5, value), "none": None}
    dcp.save(state, storage_writer=writer or LCStorageWriter(directory), checkpoint_id=name)
    return state


def loaded(path):
    state = {"a": {"w": torch.zeros(3, 2)}, "rates": (), "none": 1}
    dcp.load(state, storage_reader=LCStorageReader(path))
    return state


@pytest.fixture
def alone():
    """One process, which `torch.distributed.checkpoint` warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.distributed.*")
        yield


@pytest.mark.usefixtures("alone")
def test_one_process_saves_and_loads_without_a_pickle(tmp_path):
    writer = LCStorageWriter(tmp_path, codec="lossless")
    states = {n: saved(tmp_path, f"cp-{n}", float(n), writer) for n in (1, 2)}
    for number, state in states.items():
        assert same(loaded(tmp_path / f"cp-{number}"), state)
        document = json.loads((tmp_path / f"cp-{number}.json").read_text())
        assert document["objects"]["rates"]["notes"] == {"$": "tuple", "of": [0.5, float(number)]}
    kinds = [one.kind for one in keras_lc.list_checkpoints(tmp_path / "00000-of-00001")]
    assert kinds == ["base", "delta"]


@pytest.mark.usefixtures("alone")
def test_a_rank_reads_with_so_many_threads_as_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "THREADS", 4)
    state = {name: torch.ones(3) for name in "abc"}
    dcp.save(state, storage_writer=LCStorageWriter(tmp_path), checkpoint_id="cp-1")

    def read(threads):
        dcp.load(state, storage_reader=LCStorageReader(tmp_path / "cp-1", threads))

    assert worked(lambda: read(None))
    assert worked(lambda: read(1)) == set()


@pytest.mark.usefixtures("alone")
def test_what_is_not_as_it_was_saved_is_told(tmp_path):
    with pytest.raises(CheckpointException, match="there is no checkpoint"):
        loaded(tmp_path / "cp-1")
    saved(tmp_path)
    before = (tmp_path / "cp-1.json").read_bytes()
    saved(tmp_path, value=2.0)
    (tmp_path / "cp-1.json").write_bytes(before)
    with pytest.raises(CheckpointException, match="it has been written anew since"):
        loaded(tmp_path / "cp-1")
    (tmp_path / "cp-1.json").write_text("{}")
    with pytest.raises(CheckpointException, match="cannot be read"):
        loaded(tmp_path / "cp-1")
    writer = LCStorageWriter(tmp_path)
    saved(tmp_path, "cp-2", writer=writer)
    with pytest.raises(CheckpointException, match="pass a checkpoint_id"):
        saved(tmp_path, None, writer=writer)


def test_moments_are_known_by_their_names():
    part, other = np.zeros((2, 3), "f4"), np.zeros(3, "f4")
    arrays = {
        "model.layers.0.weight@2,0": part,
        "model.layers.1.weight@2,0": part,
        "model.norm.running_mean": other,
        "optim.state.layers.1.weight.exp_avg@2,0": part,
        "optim.state.layers.1.weight.exp_avg_sq@2,0": part,
        "optim.state.layers.1.weight.step": np.zeros(()),
        "optim.state.layers.7.weight.exp_avg@0,0": part,
    }
    specs = {spec.name: (spec.role, spec.of) for spec in specs_of(arrays)}
    weight = "model.layers.1.weight@2,0"
    assert specs[weight] == ("weight", None)
    assert specs["optim.state.layers.1.weight.exp_avg@2,0"] == ("first_moment", weight)
    assert specs["optim.state.layers.1.weight.exp_avg_sq@2,0"] == ("second_moment", weight)
    exact = {name for name, spec in specs.items() if spec == ("exact", None)}
    assert len(exact) == 4
