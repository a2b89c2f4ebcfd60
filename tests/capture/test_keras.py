import keras
import numpy as np
import pytest
from models import dense, equal, fit, state

from keras_lc import CheckpointError
from keras_lc.capture.configuration import rebuild
from keras_lc.capture.keras import KerasCapture
from tests.capture.kinds import KINDS, OPTIMIZERS, everything, plain, train

pytestmark = pytest.mark.backend


def taken(model, **options):
    capture = KerasCapture(model, **options)
    snapshot = capture.described(capture.snapshot())
    return {name: array.copy() for name, array in snapshot.arrays.items()}, snapshot


def roles(snapshot):
    return {spec.name: (spec.role, spec.of) for spec in snapshot.specs}


FIRST, SECOND = "first_moment", "second_moment"
ROLES = {  # of the slots of the first weight, in their order
    "adam": [FIRST, SECOND],
    "adamw": [FIRST, SECOND],
    "amsgrad": [FIRST, SECOND, "exact"],
    "nadam": [FIRST, SECOND],
    "adamax": [FIRST, "exact"],
    "adagrad": [SECOND],
    "adadelta": [SECOND, "exact"],
    "adafactor": [SECOND],  # its rows and columns do not tell whose they are
    "ftrl": ["exact", "exact"],
    "lamb": [FIRST, SECOND],
    "lion": [FIRST],
    "muon": [FIRST],
    "rmsprop": [SECOND],
    "centered": ["exact", "exact", "exact"],
    "sgd": [],
    "momentum": [FIRST],
    "ema": ["weight", FIRST, SECOND],
    "accumulating": ["exact", FIRST, SECOND],
    "schedule": [FIRST, SECOND],
    "loss scaling": ["weight", FIRST, SECOND],
    "several": [FIRST, SECOND],
    "custom": ["exact"],
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_roles_of_every_optimizer(name):
    model = plain(OPTIMIZERS[name]())
    model.optimizer.build(model.trainable_variables)
    snapshot = KerasCapture(model).snapshot()
    labels = [v.path for v in model.optimizer.variables]
    slots = [
        spec
        for spec in snapshot.specs
        if spec.name.startswith("optimizer/")
        and model.weights[0].path.replace("/", "_") in labels[int(spec.name[10:])]
    ]
    assert [spec.role for spec in slots] == ROLES[name]
    for spec in slots:
        assert spec.of == ("weights/0" if spec.role in (FIRST, SECOND) else None)
        if spec.of:
            assert snapshot.arrays[spec.name].shape == snapshot.arrays["weights/0"].shape


def test_muon_has_second_moments_of_vectors_alone():
    model = plain(keras.optimizers.Muon())
    found = {of: role for role, of in roles(KerasCapture(model).snapshot()).values() if of}
    assert found == {
        "weights/0": FIRST,
        "weights/1": SECOND,
        "weights/2": FIRST,
        "weights/3": SECOND,
    }


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


def test_a_shared_layer_is_taken_once():
    entry = keras.Input((4,))
    shared = keras.layers.Dense(4)
    model = keras.Model(entry, shared(shared(entry)))
    arrays, _ = taken(model)
    assert sorted(arrays) == ["weights/0", "weights/1"]


def test_buffers_are_kept():
    model = dense()
    capture = KerasCapture(model)
    first = capture.snapshot().arrays
    before = {name: array.copy() for name, array in first.items()}
    fit(model, epochs=1)
    second = capture.snapshot().arrays
    assert all(first[name] is second[name] for name in first)
    assert not np.array_equal(before["weights/0"], second["weights/0"])


def test_what_is_given_away_is_not_overwritten():
    model = dense()
    capture = KerasCapture(model)
    first = capture.snapshot()
    first.buffers.give(first.buffers.names)
    before = {name: array.copy() for name, array in first.arrays.items()}
    fit(model, epochs=1)
    second = capture.snapshot().arrays
    for name, array in first.arrays.items():
        assert np.array_equal(array, before[name])
        assert not np.shares_memory(array, second[name])


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
    "an optimizer inside another": (
        lambda: dense(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())),
        ["the optimizer Adam, ", "LossScaleOptimizer(Adam)"],
    ),
    "lora": (lambda: _changed(lambda layer: layer.enable_lora(2)), ["weights/2", "lora_kernel_a"]),
    "a frozen layer": (
        lambda: _changed(lambda layer: setattr(layer, "trainable", False)),
        ["weights/0", "kernel", "trained by the optimizer of the checkpoint alone", "before `comp"],
    ),
    "other names": (lambda: _compiled(Renamed()), ["weights/1", "shift", "bias"]),
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


class Renamed(keras.Sequential):
    """The shapes of `dense()`, of which one is something else."""

    def __init__(self):
        super().__init__([keras.Input((8,)), Shifted(16), keras.layers.Dropout(0.2)])
        self.add(keras.layers.Dense(2))


class Shifted(keras.layers.Dense):
    def add_weight(self, *arguments, name=None, **options):
        return super().add_weight(*arguments, name=name.replace("bias", "shift"), **options)


def _changed(change):
    model = dense()
    change(model.layers[0])
    return _compiled(model)


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


@pytest.mark.parametrize(("ours", "theirs"), [("lora", "adam"), ("frozen", "adam")])
def test_the_other_way_round_is_a_misfit_as_well(ours, theirs):
    arrays, snapshot = taken(KINDS[ours]())
    with pytest.raises(CheckpointError, match=r"lora_kernel_a|of the model alone"):
        KerasCapture(KINDS[theirs]()).restore(arrays, snapshot.about)


@pytest.mark.parametrize("name", ["adam", "loss scaling", "pair"])
def test_a_trained_model_takes_the_state_as_well(name):
    model, other = train(KINDS[name](), 2), train(KINDS[name](), 3, seed=1)
    arrays, snapshot = taken(model)
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(everything(other), everything(model))


def test_a_model_that_is_not_compiled_takes_weights_and_seeds():
    model = dense()
    fit(model, epochs=1)
    arrays, snapshot = taken(model)
    other = keras.Sequential.from_config(model.get_config())
    KerasCapture(other).restore(arrays, snapshot.about)
    assert equal(state(other), state(model)[: len(model.variables)])
    assert getattr(other, "optimizer", None) is None


def test_a_seed_that_this_backend_cannot_hold_is_refused():
    model = KINDS["seeded"]()
    arrays, snapshot = taken(model)
    before = everything(model)
    arrays["seeds/0"] = np.array([2**64 - 1, 0], "uint64")
    with pytest.raises(CheckpointError, match=r"seeds/0.*uint64"):
        KerasCapture(model).restore(arrays, snapshot.about)
    assert equal(everything(model), before)
    arrays["seeds/0"] = np.array([7, 2**31 - 1], "int64")
    KerasCapture(model).restore(arrays, snapshot.about)
    assert list(taken(model)[0]["seeds/0"]) == [7, 2**31 - 1]


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
