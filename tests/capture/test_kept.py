"""What layers keep beside variables goes into a checkpoint and comes back."""

import h5py
import keras
import numpy as np
import pytest
from models import equal, state

from keras_lc import (
    CheckpointError,
    LCModelCheckpoint,
    export,
    list_checkpoints,
    restore_latest,
)
from keras_lc.capture.kept import _load_assets, rnn_states
from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import Checkpointer
from keras_lc.saver import Saver
from keras_lc.template import Template

pytestmark = pytest.mark.backend
layers = keras.layers
TENSORFLOW = keras.backend.backend() == "tensorflow"
NUMBERS = np.array([[1.0, 20.0], [3.0, 50.0], [4.0, 30.0], [8.0, 0.0]], "float32")
WORDS = np.array([["one two"], ["two three"], ["two"], ["one"]])


@keras.saving.register_keras_serializable("tests")
class Table(layers.Layer):
    """A layer of a user's own, which keeps an array and a file."""

    table, text = np.zeros(2, "float64"), ""

    def adapt(self, data):
        self.table, self.text = data.mean(0).astype("float64"), "known"

    def call(self, x):
        return x

    def save_own_variables(self, store):
        store["table"] = self.table
        store["half"] = keras.ops.convert_to_tensor(self.table / 2, dtype="float32")
        store["rows"] = len(self.table)

    def load_own_variables(self, store):
        self.table = np.array(store["table"])
        assert np.array_equal(store["half"], (self.table / 2).astype("float32"))
        assert store["rows"][()] == len(self.table)

    def save_assets(self, directory):
        with open(f"{directory}/text.txt", "w") as file:
            file.write(self.text)

    def load_assets(self, directory):
        with open(f"{directory}/text.txt") as file:
            self.text = file.read()


def looking_up(**options):
    return lambda: layers.StringLookup(max_tokens=9, pad_to_max_tokens=True, **options)


LAYERS = {
    "Normalization": (NUMBERS, layers.Normalization),
    "Discretization": (NUMBERS, lambda: layers.Discretization(num_bins=3)),
    "IntegerLookup": (NUMBERS.astype("int64"), layers.IntegerLookup),
    "StringLookup": (WORDS, layers.StringLookup),
    "multi_hot": (WORDS, looking_up(output_mode="multi_hot")),
    "tf_idf": (WORDS, looking_up(output_mode="tf_idf")),
    "TextVectorization": (WORDS, lambda: layers.TextVectorization(output_sequence_length=3)),
    "a layer of a user's own": (NUMBERS, Table),
}


def model_of(name, adapted=False):
    data, make = LAYERS[name]
    layer = make()
    if adapted:
        layer.adapt(data)
    kind = "string" if data.dtype.kind == "U" else data.dtype.name
    entry = keras.Input(data.shape[1:], dtype=kind)
    model = keras.Model(entry, layers.Dense(1)(layer(entry)))
    model.compile("adam", "mse")
    return model


def made_of_data(model, name):
    """What the layer makes of the data that it was adapted to."""
    made = model.layers[1](LAYERS[name][0])
    return np.array(keras.ops.convert_to_numpy(made))


def save(model, directory):
    """A base, then a delta."""
    capture, checkpointer = KerasCapture(model), Checkpointer(directory, "lossless")
    checkpointer.save(capture.described(capture.snapshot()), "cp-1", epoch=1)
    checkpointer.wait()
    model.layers[-1].kernel.assign(model.layers[-1].kernel + 1)
    checkpointer.save(capture.snapshot(), "cp-2", epoch=2)
    checkpointer.close()


@pytest.fixture(params=LAYERS, scope="module")
def saved(request, tmp_path_factory):
    """Which layer, a directory with two checkpoints of a model that has it, and the model."""
    directory = tmp_path_factory.mktemp("kept")
    model = model_of(request.param, adapted=True)
    save(model, directory)
    return request.param, directory, model


@pytest.mark.parametrize("own", [True, False])
def test_it_comes_back(saved, own):
    name, directory, model = saved
    restored = restore_latest(directory, model_of(name) if own else None).model
    assert np.array_equal(made_of_data(restored, name), made_of_data(model, name))
    assert equal(state(restored), state(model))
    if name.startswith("a layer"):
        assert restored.layers[1].text == "known"
        assert np.array_equal(restored.layers[1].table, NUMBERS.mean(0))


def test_keras_reads_what_it_stores_itself(saved):
    name, directory, model = saved
    export(directory / "cp-2", directory / "plain.weights.h5")
    other = model_of(name)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(directory / "plain.weights.h5")
    assert equal(other.get_weights(), model.get_weights())
    model.save_weights(directory / "keras.weights.h5")
    assert places(directory / "plain.weights.h5") == places(directory / "keras.weights.h5")


def places(file):
    found = []
    with h5py.File(file) as opened:
        opened.visititems(lambda place, item: found.append(place) if hasattr(item, "dtype") else 0)
    return [place for place in found if not place.startswith("optimizer")]


def test_a_vocabulary_that_has_grown_begins_a_chain(tmp_path):
    model = model_of("StringLookup", adapted=True)
    saver = Saver(Template(tmp_path / "cp-{epoch}"), None, False, "lossless", "lossless")
    for epoch, words in enumerate([WORDS, np.array(["one", "two", "five", "six", "seven"])]):
        model.layers[1].adapt(words)
        saver.begin(model, 2)
        saver.save(f"{tmp_path}/cp-{epoch}", epoch, None, {}, False, {}, None)
    saver.close()
    assert [one.kind for one in list_checkpoints(tmp_path)] == ["base", "base"]
    vocabulary = restore_latest(tmp_path).model.layers[1].get_vocabulary()
    assert vocabulary == model.layers[1].get_vocabulary()


def test_a_model_with_other_tables_is_refused(tmp_path):
    save(model_of("StringLookup", adapted=True), tmp_path)
    entry = keras.Input((1,))
    other = keras.Model(entry, layers.Dense(1)(layers.Identity()(entry)))
    before = state(other)
    with pytest.raises(CheckpointError, match="StringLookup, the model has none"):
        restore_latest(tmp_path, other)
    assert equal(state(other), before)


def test_a_layer_that_does_not_take_it_is_named(tmp_path):
    model = model_of("a layer of a user's own", adapted=True)
    save(model, tmp_path)
    other = model_of("a layer of a user's own")
    other.layers[1].load_assets = lambda directory: 1 / 0
    with pytest.raises(CheckpointError, match=r"layer 'table.*ZeroDivisionError"):
        restore_latest(tmp_path, other)


@pytest.mark.parametrize("name", ["../text.txt", "/text.txt", "a/../../text.txt", "C:text.txt"])
def test_a_file_is_written_nowhere_else(name):
    with pytest.raises(CheckpointError, match="is no name of a file"):
        _load_assets(Table(), {name: np.zeros(3, "uint8")})


def recurrent(batch=2, stateful=True):
    model = keras.Sequential(
        [
            keras.Input((3, 2), batch_size=batch),
            layers.LSTM(2, stateful=stateful, return_sequences=True),
            layers.Bidirectional(layers.GRU(2, stateful=stateful), merge_mode="sum"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    return model


SEQUENCES = np.random.default_rng(0).normal(size=(8, 3, 2)).astype("float32")


@pytest.fixture(scope="module")
def recurrent_saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recurrent")
    keras.utils.set_random_seed(0)
    model = recurrent()
    model(SEQUENCES[:2])
    save(model, directory)
    return directory, model


@pytest.mark.parametrize("own", [True, False])
def test_recurrent_layers_go_on_from_their_states(recurrent_saved, own):
    directory, model = recurrent_saved
    other = restore_latest(directory, recurrent() if own else None).model
    states = [array.copy() for array in map(keras.ops.convert_to_numpy, rnn_states(model))]
    assert len(states) == 4
    assert all(array.any() for array in states)
    assert equal(states, [np.array(keras.ops.convert_to_numpy(s)) for s in rnn_states(other)])
    ours, theirs = (np.array(keras.ops.convert_to_numpy(m(SEQUENCES[2:4]))) for m in (model, other))
    assert np.array_equal(ours, theirs)
    for variable, array in zip(rnn_states(model), states, strict=True):
        variable.assign(array)


def test_states_of_another_batch_size_are_told(recurrent_saved):
    directory, model = recurrent_saved
    with pytest.warns(UserWarning, match=r"states of recurrent layers are not put back.*\(1, 2\)"):
        other = restore_latest(directory, recurrent(batch=1)).model
    assert equal(other.get_weights(), model.get_weights())
    restore_latest(directory, recurrent(stateful=False))  # there is nothing to tell


@pytest.mark.skipif(not TENSORFLOW, reason="Keras trains with states on TensorFlow alone")
def test_a_run_with_states_goes_on_as_if_it_had_never_stopped(tmp_path):
    def training(directory, epochs):
        keras.utils.set_random_seed(0)
        model = recurrent()
        saves = [LCModelCheckpoint(directory / "cp-{epoch}", codec="lossless", resume=True)]
        data = SEQUENCES, SEQUENCES[:, 0, :1]
        model.fit(*data, batch_size=2, epochs=epochs, verbose=0, callbacks=saves, shuffle=False)
        return [*state(model), *map(np.array, rnn_states(model))]

    training(tmp_path / "cut", 1)
    assert equal(training(tmp_path / "cut", 2), training(tmp_path / "whole", 2))
