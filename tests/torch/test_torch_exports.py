import json

import pytest
import torch
from torch import nn
from torch_training import Training, equal, same

import keras_lc
from keras_lc.errors import MismatchError
from keras_lc.torch import Checkpointer, save


def load_file(path):
    """What `safetensors.torch.load_file` gives of tensors of float32 and int64."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert header.pop("__metadata__")["format"] == "pt"
    dtypes = {"F32": torch.float32, "I64": torch.int64}
    return {
        name: torch.frombuffer(
            bytearray(data[8 + size + one["data_offsets"][0] : 8 + size + one["data_offsets"][1]]),
            dtype=dtypes[one["dtype"]],
        ).reshape(one["shape"])
        for name, one in header.items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    training = Training()
    with Checkpointer(directory, codec="lossless") as checkpointer:
        for _ in range(3):
            training.train(1)
            extra = {"order": torch.arange(3), "names": ("a", float("inf"))}
            training.save(checkpointer, logs={"loss": 0.5}, extra=extra)
    return directory, training


def test_a_pt_file_is_taken_by_torch_itself(run, tmp_path):
    directory, training = run
    keras_lc.export(directory / "cp-000003", tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    other = Training()
    for name, one in zip(["model", "optimizer", "scheduler", "scaler"], other.objects, strict=True):
        one.load_state_dict(content[name])
    assert equal(training, other)
    assert same(content["extra"], {"order": torch.arange(3), "names": ("a", float("inf"))})
    assert (content["epoch"], content["step"], content["logs"]) == (0, 3, {"loss": 0.5})


def test_a_safetensors_file_is_the_state_dict_of_the_model(run, tmp_path):
    directory, training = run
    keras_lc.export(directory / "cp-000003", tmp_path / "model.safetensors")
    other = Training()
    other.model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert same(other.model.state_dict(), training.model.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_and_several_optimizers(tmp_path, suffix):
    model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "head": nn.Linear(2, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    sgd = torch.optim.SGD(model.parameters())
    save(tmp_path / "model", model, [sgd, torch.optim.Adam(model.parameters())])
    target = tmp_path / f"model.{suffix}"
    keras_lc.export(tmp_path / "model", target)
    if suffix == "pt":
        content = torch.load(target, weights_only=True)
        assert list(content["optimizer"]) == ["0", "1"]
        assert content["scaler"] is None
    state = content["model"] if suffix == "pt" else load_file(target)
    assert same(dict(sorted(state.items())), dict(sorted(model.state_dict().items())))


def test_a_plain_hdf5_file_and_no_keras_model(run, tmp_path):
    directory, _ = run
    keras_lc.export(directory / "cp-000002", tmp_path / "plain.weights.h5")
    with pytest.raises(MismatchError, match=r"saved by keras_lc\.torch"):
        keras_lc.export(directory / "cp-000002", tmp_path / "model.keras")
