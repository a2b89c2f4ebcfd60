import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch_sharded

import keras_lc
from keras_lc.capture.torch.shards import specs_of


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
