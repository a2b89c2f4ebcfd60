"""What layers keep beside their weights is shown, stored anew and written elsewhere, too."""

import keras
import numpy as np
import pytest
from models import equal, state

from keras_lc import restore_latest
from keras_lc.capture.kept import rnn_states
from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import Checkpointer
from tests.cli.commands import keras_lc

VOCABULARY, STATES = "assets/0/vocabulary.txt", "states/0"


def keeping(adapted=False):
    """A model with a vocabulary, and with a state from batch to batch."""
    lookup = keras.layers.StringLookup()
    if adapted:
        lookup.adapt(np.array([["one"], ["two"], ["two"]]))
    words = keras.Input((1,), batch_size=2, dtype="string")
    numbers = keras.Input((3, 2), batch_size=2)
    recurrent = keras.layers.SimpleRNN(2, stateful=True)
    model = keras.Model(
        [words, numbers], [keras.layers.Dense(1)(lookup(words)), recurrent(numbers)]
    )
    model.compile("adam", "mse")
    return model, lookup


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A base and a delta, the model, and its layer with a vocabulary."""
    directory = tmp_path_factory.mktemp("kept") / "training"
    model, lookup = keeping(adapted=True)
    (state,) = rnn_states(model)
    state.assign([[1, 2], [3, 4]])
    capture, checkpointer = KerasCapture(model), Checkpointer(directory, "balanced")
    checkpointer.save(capture.described(capture.snapshot()), "cp-1", epoch=1)
    checkpointer.wait()
    model.layers[-1].set_weights([array + 1 for array in model.layers[-1].get_weights()])
    checkpointer.save(capture.snapshot(), "cp-2", epoch=2)
    checkpointer.close()
    return directory, model, lookup


def test_it_is_shown(kept):
    directory, *_ = kept
    rows = keras_lc("info", directory / "cp-2", "--tensors", "--json").json["tensors"]
    assert {VOCABULARY, STATES} < {row["name"] for row in rows}
    assert keras_lc("diff", directory / "cp-1", directory / "cp-2", "--json").json["tensors"]
    keras_lc("verify", directory)


def test_it_is_stored_anew(kept, tmp_path):
    directory, _, lookup = kept
    keras_lc("convert", directory, "--to", tmp_path / "again", "--codec", "lossless")
    restored = restore_latest(directory).model
    for own in (None, keeping()[0]):
        other = restore_latest(tmp_path / "again", own).model
        assert equal(state(other), state(restored))
        (found,) = (layer for layer in other.layers if layer.name.startswith("string_lookup"))
        assert found.get_vocabulary() == lookup.get_vocabulary()
        (one,) = (np.array(keras.ops.convert_to_numpy(s)) for s in rnn_states(other))
        assert one.tolist() == [[1, 2], [3, 4]]


def test_it_is_written_elsewhere(kept, tmp_path):
    directory, _, lookup = kept
    keras_lc("export", directory / "cp-2", tmp_path / "two.npz")
    with np.load(tmp_path / "two.npz") as arrays:
        (words,) = (arrays[name] for name in arrays if name.endswith("vocabulary.txt"))
        assert words.tobytes().decode().split() == lookup.get_vocabulary()
    keras_lc("export", directory / "cp-2", tmp_path / "two.safetensors")
    keras_lc("export", directory / "cp-2", tmp_path / "two.keras")
    again = keras.saving.load_model(tmp_path / "two.keras")
    assert any(
        layer.get_vocabulary() == lookup.get_vocabulary()
        for layer in again.layers
        if isinstance(layer, keras.layers.StringLookup)
    )


def test_files_of_layers_are_not_lost_by_an_import(kept, tmp_path):
    _, model, _ = kept
    model.save(tmp_path / "one.keras")
    ran = keras_lc("import", tmp_path / "one.keras", "--to", tmp_path / "chain", code=1)
    assert "vocabulary.txt" in ran.err
    model.save_weights(tmp_path / "one.weights.h5")
    keras_lc("import", tmp_path / "one.weights.h5", "--to", tmp_path / "chain")
