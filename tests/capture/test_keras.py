import keras
import numpy as np
import pytest
from models import dense, equal, fit, state

from keras_lc import CheckpointError
from keras_lc.capture.configuration import rebuild
from keras_lc.capture.keras import KerasCapture


def taken(model, **options):
    capture = KerasCapture(model, **options)
    snapshot = capture.described(capture.snapshot())
    return {name: array.copy() for name, array in snapshot.arrays.items()}, snapshot


def roles(snapshot):
    return {spec.name: (spec.role, spec.of) for spec in snapshot.specs}


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(),
    "adamw": lambda: keras.optimizers.AdamW(),
    "amsgrad": lambda: keras.optimizers.Adam(amsgrad=True),
    "nadam": lambda: keras.optimizers.Nadam(),
    "adamax": lambda: keras.optimizers.Adamax(),
    "adagrad": lambda: keras.optimizers.Adagrad(),
    "adadelta": lambda: keras.optimizers.Adadelta(),
    "adafactor": lambda: keras.optimizers.Adafactor(),
    "ftrl": lambda: keras.optimizers.Ftrl(),
    "lion": lambda: keras.optimizers.Lion(),
    "rmsprop": lambda: keras.optimizers.RMSprop(momentum=0.9, centered=True),
    "sgd": lambda: keras.optimizers.SGD(),
    "momentum": lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
    "ema": lambda: keras.optimizers.Adam(use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.9)
    ),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_comes_back_bit_for_bit(name):
    model = dense(OPTIMIZERS[name]())
    fit(model, epochs=1)
    arrays, snapshot = taken(model)
    other = dense(OPTIMIZERS[name]())
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_layout_is_what_keras_itself_writes(name, tmp_path):
    import h5py

    model = dense(OPTIMIZERS[name]())
    fit(model, epochs=1)
    _, snapshot = taken(model)
    model.save_weights(tmp_path / "plain.weights.h5")
    places = {}
    with h5py.File(tmp_path / "plain.weights.h5") as file:
        file.visititems(
            lambda place, item: (
                places.update({place: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    layout = {
        place: snapshot.arrays[content] if isinstance(content, str) else content
        for place, content in snapshot.layout.items()
    }
    assert layout.keys() == places.keys()
    for place, value in places.items():
        np.testing.assert_array_equal(layout[place], value)


def test_moments_know_their_weight():
    model = dense()
    fit(model, epochs=1)
    _, snapshot = taken(model)
    found = roles(snapshot)
    assert found["weights/0"] == ("weight", None)
    assert found["optimizer/0"] == ("exact", None)  # iteration
    assert found["optimizer/2"] == ("first_moment", "weights/0")
    assert found["optimizer/3"] == ("second_moment", "weights/0")
    for spec in snapshot.specs:
        if spec.of is not None:
            assert snapshot.arrays[spec.name].shape == snapshot.arrays[spec.of].shape


def test_statistics_of_layers_are_exact():
    model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
    model.compile("adam", "mse")
    _, snapshot = taken(model)
    assert [role for role, _ in list(roles(snapshot).values())[:4]] == [
        "weight", "weight", "exact", "exact",
    ]  # fmt: skip


def test_frozen_layers_keep_their_names():
    model = dense()
    before, _ = taken(model)
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    after, _ = taken(model)
    weights = [name for name in before if name.startswith("weights/")]
    assert weights == [name for name in after if name.startswith("weights/")]


def test_subclassed_layers_of_one_name():
    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(4, name="same")
            self.two = keras.layers.Dense(4, name="same")

        def call(self, x):
            return self.two(self.one(x))

    def build():
        model = keras.Sequential([keras.Input((4,)), Twice()])
        model.compile("adam", "mse")
        return model

    model, other = build(), build()
    arrays, snapshot = taken(model)
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))


def test_a_shared_layer_is_taken_once():
    entry = keras.Input((4,))
    shared = keras.layers.Dense(4)
    model = keras.Model(entry, shared(shared(entry)))
    arrays, _ = taken(model)
    assert sorted(arrays) == ["weights/0", "weights/1"]


def test_mixed_precision_and_small_dtypes():
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, dtype="bfloat16"), keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    arrays, snapshot = taken(model)
    assert arrays["weights/0"].dtype.name == "bfloat16"
    other = keras.models.clone_model(model)
    other.compile("adam", "mse")
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))


def test_buffers_are_kept():
    model = dense()
    capture = KerasCapture(model)
    first = capture.snapshot().arrays
    before = {name: array.copy() for name, array in first.items()}
    fit(model, epochs=1)
    second = capture.snapshot().arrays
    assert all(first[name] is second[name] for name in first)
    assert not np.array_equal(before["weights/0"], second["weights/0"])


def test_an_optimizer_that_is_not_built_yet_is_built():
    model = dense()
    fit(model, epochs=1)
    arrays, snapshot = taken(model)
    other = dense()
    assert not other.optimizer.built
    KerasCapture(other).restore(arrays, snapshot.about)
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations) == 6


def test_a_model_that_is_not_built_yet_is_built():
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    arrays, snapshot = taken(model)
    other = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    other.compile("adam", "mse")
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))


def test_rebuilding_gives_the_compiled_model():
    model = dense(keras.optimizers.AdamW(0.0123))
    fit(model, epochs=1)
    arrays, snapshot = taken(model)
    other = rebuild(snapshot.about, "'here'")
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))
    assert type(other.optimizer).__name__ == "AdamW"
    one, two = (m.evaluate(np.ones((4, 8)), np.ones(4), verbose=0) for m in (model, other))
    assert one == two


MISFITS = {
    "another width": (lambda: dense(units=17), ["weights/0", "(8, 17)", "(8, 16)"]),
    "another optimizer": (lambda: dense("sgd"), ["Adam", "SGD"]),
    "no optimizer": (
        lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]),
        ["not compiled", "Adam"],
    ),
    "a layer more": (
        lambda: _compiled(keras.Sequential([dense(), keras.layers.Dense(1)])),
        ["weights/4", "in the model, not in the checkpoint"],
    ),
    "a layer less": (
        lambda: _compiled(keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])),
        ["weights/2", "in the checkpoint, not in the model"],
    ),
    "another dtype": (
        lambda: _compiled(
            keras.Sequential(
                [
                    keras.Input((8,)),
                    keras.layers.Dense(16, dtype="float16"),
                    keras.layers.Dropout(0.2),
                    keras.layers.Dense(2),
                ]
            )
        ),
        ["weights/0", "float16", "float32"],
    ),
}


def _compiled(model):
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_is_named_and_changes_nothing(name):
    build, words = MISFITS[name]
    model = dense()
    fit(model, epochs=1)
    arrays, snapshot = taken(model)
    other = build()
    before = state(other)
    with pytest.raises(CheckpointError) as caught:
        KerasCapture(other).restore(arrays, snapshot.about)
    for word in words:
        assert word in str(caught.value)
    assert equal(before, state(other)[: len(before)])


def test_weights_only_leaves_the_optimizer_alone():
    model = dense()
    fit(model, epochs=1)
    arrays, snapshot = taken(model, weights_only=True)
    assert {name.split("/")[0] for name in arrays} == {"weights", "seeds"}
    other = dense()
    fit(other, epochs=2)
    step = int(other.optimizer.iterations)
    KerasCapture(other).restore(arrays, snapshot.about)
    assert int(other.optimizer.iterations) == step
    assert equal(other.get_weights(), model.get_weights())


def test_a_model_without_configuration_says_so():
    class Plain(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, x):
            return self.layer(x)

        def get_config(self):
            raise NotImplementedError("no configuration")

    model = Plain(keras.layers.Dense(2))
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    arrays, snapshot = taken(model)
    with pytest.raises(CheckpointError, match="pass it to restore"):
        rebuild(snapshot.about, "'training/cp-0001'")
    other = Plain(keras.layers.Dense(2))
    other.compile("adam", "mse")
    other(np.ones((1, 3)))
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model))
