import json
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from models import dense, equal, fit, state

from keras_lc import LCModelCheckpoint, export, list_checkpoints
from keras_lc.errors import CheckpointError, MismatchError, NotFoundError, OptionError, StoreError
from keras_lc.loader import load_named
from keras_lc.store import safetensors
from keras_lc.store.base import parse_dtype
from tests.toy import file_names, run, walk

SUFFIXES = [".weights.h5", ".keras", ".safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three checkpoints, and the states that they were made of."""
    directory = tmp_path_factory.mktemp("training")
    model, states = dense(), {}
    fit(
        model,
        [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: states.update({epoch + 1: state(model)})
            ),
            LCModelCheckpoint(directory / "cp-{epoch}", codec="lossless"),
        ],
    )
    return directory, states


def plain(model_state):
    """What Keras' own files hold: all but the seeds."""
    return [*model_state[:4], *model_state[5:]]


def read_safetensors(path):
    """Checked as the format's own reader checks it: no holes, nothing beyond."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    assert (8 + size) % 8 == 0
    metadata, end, arrays = header.pop("__metadata__"), 0, {}
    names = {code: name for name, code in safetensors._DTYPES.items()}
    for name, row in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = row["data_offsets"]
        assert begin == end
        end, dtype = stop, parse_dtype(names[row["dtype"]])
        assert begin % dtype.itemsize == 0
        arrays[name] = np.frombuffer(body[begin:end], dtype).reshape(row["shape"])
    assert end == len(body)
    return arrays, metadata


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_weights_file_is_loaded_by_keras(trained, tmp_path, number):
    directory, states = trained
    export(directory / f"cp-{number}", tmp_path / "plain.weights.h5")
    model = dense()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "plain.weights.h5")
    assert equal(plain(state(model)), plain(states[number]))
    with h5py.File(tmp_path / "plain.weights.h5") as h5:
        assert h5.userblock_size == 0
        assert "keras_lc" not in h5


def test_a_keras_file_is_the_whole_model(trained, tmp_path):
    directory, states = trained
    export(directory / "cp-3", tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert equal(plain(state(model)), plain(states[3]))


def test_a_safetensors_file_has_the_paths_of_the_variables(trained, tmp_path):
    directory, states = trained
    export(directory / "cp-3", tmp_path / "state.safetensors")
    arrays, metadata = read_safetensors(tmp_path / "state.safetensors")
    info = list_checkpoints(directory)[-1]
    assert metadata == {"epoch": "3", "batch": "0", "step": str(info.step)}
    labels = load_named(directory / "cp-3").base.about["labels"]
    assert arrays.keys() == set(labels.values())
    expected = {label: np.asarray(arrays[label]) for label in labels.values()}
    kernel = expected[labels["weights/0"]]
    assert kernel.tobytes() == states[3][0].tobytes()
    assert len(arrays) == len(states[3])


def test_tensors_that_share_a_path_keep_their_own_names(tmp_path):
    run(tmp_path / "training", states := walk(2))  # of a toy, whose tensors have no paths
    export(tmp_path / "training" / "cp-0002", tmp_path / "state.safetensors")
    arrays, _ = read_safetensors(tmp_path / "state.safetensors")
    assert arrays.keys() == states[1].keys()
    assert all(arrays[name].tobytes() == states[1][name].tobytes() for name in arrays)


@pytest.mark.parametrize("dtype", sorted(safetensors._DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (2, 3)])
def test_arrays_of_every_dtype_come_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(parse_dtype(dtype))
    with open(tmp_path / "file", "wb") as file:
        safetensors.write(file, {"a": array, "wide": np.arange(2.0), "b": array.T}, {})
    found, _ = read_safetensors(tmp_path / "file")
    assert found["a"].dtype == array.dtype
    assert found["a"].shape == shape
    assert found["a"].tobytes() == array.tobytes()
    assert found["b"].tobytes() == array.T.tobytes()


def test_a_dtype_that_safetensors_lacks_is_named(tmp_path):
    with pytest.raises(MismatchError, match="'w' is of complex64"), open(tmp_path / "f", "wb") as f:
        safetensors.write(f, {"w": np.zeros(2, np.complex64)}, {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_there_is_replaced_only_when_told(trained, tmp_path, suffix):
    directory, _ = trained
    target = tmp_path / f"mine{suffix}"
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="overwrite=True"):
        export(directory / "cp-1", target)
    assert target.read_bytes() == b"precious"
    with pytest.raises(CheckpointError):
        export(directory / "cp-9", target, overwrite=True)
    assert target.read_bytes() == b"precious"
    export(directory / "cp-1", target, overwrite=True)
    assert target.stat().st_size > 1000
    assert file_names(tmp_path) == {target.name}


def test_an_export_that_fails_leaves_nothing(tmp_path):
    run(tmp_path / "training", walk(2))  # no model can be made of a toy's configuration
    with pytest.raises(MismatchError, match="cp-0002"):
        export(tmp_path / "training" / "cp-0002", tmp_path / "model.keras")
    assert file_names(tmp_path) == {"training"}


def test_what_is_asked_for_wrongly_is_told(trained, tmp_path):
    directory, _ = trained
    with pytest.raises(OptionError, match=r"\.safetensors"):
        export(directory / "cp-1", tmp_path / "model.onnx")
    with pytest.raises(NotFoundError, match="cp-4"):
        export(directory / "cp-4", tmp_path / "a.keras")
    with pytest.raises(StoreError, match="missing"):
        export(directory / "cp-1", tmp_path / "missing" / "a.weights.h5")


def test_what_keras_computes_of_the_weights_is_not_exported_stale(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.layers[0].enable_lora(2)
    model.compile("sgd", "mse")
    x, y = np.ones((4, 4), "float32"), np.ones((4, 3), "float32")
    save = LCModelCheckpoint(tmp_path / "cp-{epoch}", codec="lossless")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[save])
    export(tmp_path / "cp-1", tmp_path / "base.weights.h5")
    with pytest.raises(MismatchError, match="save_weights"):
        export(tmp_path / "cp-2", tmp_path / "delta.weights.h5")
    assert not (tmp_path / "delta.weights.h5").exists()


def test_only_a_keras_file_needs_keras(tmp_path):
    run(tmp_path / "training", walk(2))
    code = (
        "import sys, keras_lc\n"
        "for suffix in ('.weights.h5', '.safetensors'):\n"
        "    keras_lc.export('training/cp-0002', 'plain' + suffix)\n"
        "assert not {'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules)"
    )
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, check=True)
