import inspect
import os
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from models import X, Y, dense, equal, fit, state

import keras_lc
from keras_lc import (
    CheckpointError,
    LCModelCheckpoint,
    latest_checkpoint,
    list_checkpoints,
    restore,
    restore_latest,
)
from tests.store.test_lock import holder

pytestmark = pytest.mark.backend


def names(directory):
    return [os.path.basename(c.path) for c in list_checkpoints(directory)]


def kinds(directory):
    return [c.kind for c in list_checkpoints(directory)]


class States(keras.callbacks.Callback):
    """What the live model was at the end of each epoch, or of each batch."""

    def __init__(self, batches=False):
        super().__init__()
        self.seen = []
        if batches:
            self.on_train_batch_end = lambda batch, logs=None: self.seen.append(state(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(state(self.model))


def test_the_first_eight_arguments_are_those_of_model_checkpoint():
    plain = list(inspect.signature(keras.callbacks.ModelCheckpoint.__init__).parameters.values())
    ours = list(inspect.signature(LCModelCheckpoint.__init__).parameters.values())
    assert [(p.name, p.default) for p in plain] == [(p.name, p.default) for p in ours[: len(plain)]]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(plain) :])


def test_one_base_and_then_deltas(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch:04d}")])
    assert kinds(tmp_path) == ["base", "delta", "delta"]
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint.json", "cp-0001.weights.h5", "cp-0002.lcd", "cp-0003.lcd",
    ]  # fmt: skip


@pytest.mark.parametrize("background", [True, False])
def test_lossless_brings_every_epoch_back_bit_for_bit(tmp_path, background):
    states = States()
    callback = LCModelCheckpoint(
        tmp_path / "cp-{epoch}", codec="lossless", background=background, keyframe_every=2
    )
    fit(dense(), [states, callback])
    assert kinds(tmp_path) == ["base", "delta", "base"]
    for epoch, expected in enumerate(states.seen, 1):
        model = dense()
        restored = restore(tmp_path / f"cp-{epoch}", model)
        assert equal(state(model), expected)
        assert (restored.epoch, restored.batch, restored.step) == (epoch, 0, 6 * epoch)
        assert restored.model is model


def test_the_last_epoch_is_bit_for_bit_whatever_the_codec(tmp_path):
    model = dense()
    fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    other = dense()
    restore_latest(tmp_path, other)
    assert equal(state(other), state(model))
    fit(model, [LCModelCheckpoint(tmp_path / "other/cp-{epoch}", final_codec="balanced")])
    restore_latest(tmp_path / "other", other)
    assert not equal(state(other), state(model))


@pytest.mark.parametrize("codec", ["lossless", "fast"])
def test_another_fit_goes_on_from_the_last_checkpoint(tmp_path, codec):
    states, model = States(), dense()
    callback = LCModelCheckpoint(tmp_path / "cp-{epoch}", codec=codec)
    for begin in (0, 2, 4):
        fit(model, [states, callback], begin + 2, initial_epoch=begin)
    assert kinds(tmp_path) == ["base", *["delta"] * 5]
    for epoch, expected in enumerate(states.seen, 1):
        if codec == "lossless" or epoch % 2 == 0:
            other = dense()
            restore(tmp_path / f"cp-{epoch}", other)
            assert equal(state(other), expected)


def test_an_early_stop_is_a_last_epoch(tmp_path):
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=1)
    model = dense()
    fit(model, [stop, LCModelCheckpoint(tmp_path / "cp-{epoch}")], epochs=50)
    other = dense()
    assert restore_latest(tmp_path, other).epoch < 50
    assert equal(state(other), state(model))


def test_balanced_is_near_and_small(tmp_path):
    states = States()
    model = dense(units=4096)
    fit(model, [states, LCModelCheckpoint(tmp_path / "cp-{epoch}", final_codec="balanced")], 4)
    base, *deltas = list_checkpoints(tmp_path)
    assert all(delta.nbytes < base.nbytes / 15 for delta in deltas)
    other = dense(units=4096)
    for delta, live in zip(deltas, states.seen[1:], strict=True):
        restore(delta.path, other)
        near, far = state(other)[0] - live[0], states.seen[0][0] - live[0]
        assert np.abs(near).max() < 0.05
        assert np.square(near).sum() < np.square(far).sum()


def test_the_base_loads_in_plain_keras(tmp_path):
    states = States()
    fit(dense(), [states, LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    model = dense()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "cp-1.weights.h5")
    fresh, live = state(model), states.seen[0]
    seeds = slice(len(model.weights), len(model.variables))  # Keras leaves them out
    del fresh[seeds], live[seeds]
    assert equal(fresh, live)


def test_restoring_without_a_model_rebuilds_it_compiled(tmp_path):
    model = dense(keras.optimizers.AdamW(0.0123))
    fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    restored = restore_latest(tmp_path)
    assert equal(state(restored.model), state(model))
    assert restored.model.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


def test_going_on_after_a_restore_goes_on_with_the_chain(tmp_path):
    template = tmp_path / "cp-{epoch:02d}"
    fit(dense(), [LCModelCheckpoint(template)], epochs=2)
    for until in (4, 6):
        model = dense()
        restored = restore_latest(tmp_path, model)
        fit(model, [LCModelCheckpoint(template)], epochs=until, initial_epoch=restored.epoch)
    checkpoints = list_checkpoints(tmp_path)
    assert kinds(tmp_path) == ["base"] + 5 * ["delta"]
    assert [c.parent for c in checkpoints[1:]] == [c.path for c in checkpoints[:-1]]
    assert restore_latest(tmp_path).step == 36


def test_interrupted_and_resumed_is_bit_identical_to_never_interrupted(tmp_path):
    def saves():
        return LCModelCheckpoint(tmp_path / "cp-{epoch}", codec="lossless", resume=True)

    keras.utils.set_random_seed(1)
    whole = dense()
    fit(whole, epochs=4)
    keras.utils.set_random_seed(1)
    fit(dense(), [saves()], epochs=2)
    restored = restore_latest(tmp_path)
    if keras.backend.backend() != "torch":  # whose dropout draws from a state of the process
        fit(restored.model, epochs=4, initial_epoch=restored.epoch)
        assert equal(state(restored.model), state(whole))
    keras.utils.set_random_seed(99)
    other = dense()
    assert fit(other, [saves()], epochs=4).epoch == [0, 1, 2, 3]
    assert equal(state(other), state(whole))


def test_an_untrained_model_begins_a_chain_of_its_own(tmp_path):
    template = tmp_path / "cp-{epoch}"
    fit(dense(), [LCModelCheckpoint(template)], epochs=4)
    before = {c.path: c for c in list_checkpoints(tmp_path)}
    fit(dense(), [LCModelCheckpoint(template)], epochs=2)
    assert kinds(tmp_path) == ["delta", "delta", "base", "delta"]  # cp-3, cp-4, cp-1, cp-2
    assert latest_checkpoint(tmp_path) == str(tmp_path / "cp-2")
    for name in ("cp-3", "cp-4"):  # of the first run, whose base has lost its name
        restored = restore(tmp_path / name)
        assert restored.step == before[str(tmp_path / name)].step


def test_another_prefix_has_a_chain_of_its_own(tmp_path):
    first = LCModelCheckpoint(tmp_path / "cp-{epoch}")
    second = LCModelCheckpoint(tmp_path / "best-{epoch}", "loss", save_best_only=True)
    fit(dense(), [first, second])
    parents = {c.path: c.parent for c in list_checkpoints(tmp_path)}
    assert all("cp-" in p for c, p in parents.items() if p and "cp-" in c)
    assert all("best-" in p for c, p in parents.items() if p and "best-" in c)
    assert kinds(tmp_path).count("base") == 2


def test_several_fits_are_one_chain(tmp_path):
    callback, model = LCModelCheckpoint(tmp_path / "cp-{epoch}"), dense()
    fit(model, [callback], epochs=2)
    fit(model, [callback], epochs=4, initial_epoch=2)
    assert kinds(tmp_path) == ["base", "delta", "delta", "delta"]
    assert restore_latest(tmp_path).step == 24


def test_saving_every_few_batches(tmp_path):
    states = States(batches=True)
    callback = LCModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=4, codec="lossless")
    fit(dense(), [states, callback], epochs=2)
    assert names(tmp_path) == ["1-4", "2-2", "2-6"]
    found = [(c.epoch, c.batch, c.step) for c in list_checkpoints(tmp_path)]
    assert found == [(0, 4, 4), (1, 2, 8), (1, 6, 12)]
    live = [s for s in states.seen if len(s)]
    model = dense()
    restore(tmp_path / "1-4", model)
    assert equal(state(model), live[3])


def test_epochs_do_not_ask_for_batch_events(tmp_path):
    plain = keras.callbacks.Callback.on_train_batch_end
    assert LCModelCheckpoint.on_train_batch_end is plain


@pytest.mark.parametrize("mode", ["min", "max"])
def test_best_only(tmp_path, mode):
    values = iter([3.0, 1.0, 2.0, 4.0])
    log = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(quality=next(values))
    )
    callback = LCModelCheckpoint(tmp_path / "cp-{epoch}", "quality", 0, True, mode=mode)
    fit(dense(), [log, callback], epochs=4)
    assert names(tmp_path) == {"min": ["cp-1", "cp-2"], "max": ["cp-1", "cp-4"]}[mode]


def test_best_only_after_a_first_nan(tmp_path):
    values = iter([float("nan"), 2.0, 3.0])
    log = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_loss=next(values))
    )
    fit(dense(), [log, LCModelCheckpoint(tmp_path / "cp-{epoch}", save_best_only=True)])
    assert names(tmp_path) == ["cp-1", "cp-2"]
    assert np.isnan(list_checkpoints(tmp_path)[0].logs["val_loss"])


def test_best_only_with_batches(tmp_path):
    callback = LCModelCheckpoint(
        tmp_path / "{epoch}-{batch}", "loss", save_best_only=True, save_freq=2
    )
    fit(dense(), [callback], epochs=1)
    assert names(tmp_path)[0] == "1-2"


def test_best_only_starts_from_a_threshold(tmp_path):
    callback = LCModelCheckpoint(
        tmp_path / "cp", "loss", save_best_only=True, initial_value_threshold=-1.0
    )
    fit(dense(), [callback])
    assert names(tmp_path) == []


def test_a_missing_monitor_warns_and_saves(tmp_path):
    with pytest.warns(UserWarning, match="Can save best model only with nothing available"):
        fit(dense(), [LCModelCheckpoint(tmp_path / "cp", "nothing", 0, True, mode="min")], 1)
    assert names(tmp_path) == ["cp"]


def test_a_constant_name_always_holds_the_newest(tmp_path):
    model = dense()
    fit(model, [LCModelCheckpoint(tmp_path / "best.weights.h5", codec="lossless")])
    assert names(tmp_path) == ["best"]
    assert len(os.listdir(tmp_path)) == 2  # and the index
    assert equal(state(restore(tmp_path / "best").model), state(model))


def test_weights_only(tmp_path):
    model = dense()
    fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}", save_weights_only=True)])
    other = dense()
    restored = restore_latest(tmp_path, other)
    assert equal(other.get_weights(), model.get_weights())
    assert not other.optimizer.built
    assert restored.step == 18


def test_codecs_by_pattern(tmp_path):
    states = States()
    codec = {"optimizer/*": "lossless", "*": "balanced"}
    fit(dense(), [states, LCModelCheckpoint(tmp_path / "cp-{epoch}", codec=codec)])
    model = dense()
    restore(tmp_path / "cp-2", model)
    weights = len(model.weights)
    assert equal(state(model)[weights:], states.seen[1][weights:])
    assert not equal(state(model)[:weights], states.seen[1][:weights])


def test_the_directory_may_depend_on_the_epoch(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "{epoch}" / "cp")])
    for epoch in (1, 2, 3):
        assert restore_latest(tmp_path / str(epoch)).epoch == epoch


def test_a_directory_behind_a_url(tmp_path):
    url = f"memory:/{tmp_path}/training"
    model = dense()
    fit(model, [LCModelCheckpoint(url + "/cp-{epoch:04d}")], epochs=2)
    assert latest_checkpoint(url) == f"{url}/cp-0002"
    other = dense()
    assert restore_latest(url, other).epoch == 2
    assert equal(state(other), state(model))
    fit(other, [LCModelCheckpoint(url + "/cp-{epoch:04d}")], epochs=3, initial_epoch=2)
    assert kinds(url) == ["base", "delta", "delta"]
    assert restore(f"{url}/cp-0002").epoch == 2


def test_saving_happens_beside_the_training(tmp_path):
    threads = []
    callback = LCModelCheckpoint(
        tmp_path / "cp-{epoch}", on_saved=lambda info: threads.append(threading.current_thread())
    )
    fit(dense(), [callback])
    assert len(threads) == 3
    assert threading.main_thread() not in threads


def test_batch_norm_frozen_layers_and_a_subclass(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Model(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.one = keras.layers.Dense(8, trainable=False)
            self.norm = keras.layers.BatchNormalization()
            self.two = keras.layers.Dense(2)

        def call(self, x, training=False):
            return self.two(self.norm(self.one(x), training=training))

    model = Model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    restored = restore_latest(tmp_path)
    assert equal(state(restored.model), state(model))


WRONG = {
    "save_freq": {"save_freq": "often"},
    "codec": {"codec": "tiny"},
    "final_codec": {"final_codec": "tiny"},
    "keyframe_every": {"keyframe_every": 0},
    "max_to_keep": {"max_to_keep": True},
    "monitor": {"monitor": None, "save_best_only": True},
    "on_error": {"on_error": "ignore"},
    "on_saved": {"on_saved": "log"},
    "signals": {"signals": ["SIGKILL"]},
}


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_refused_at_once(option):
    with pytest.raises(CheckpointError, match=option.removeprefix("final_")):
        LCModelCheckpoint("cp", **WRONG[option])


@pytest.mark.parametrize("path", ["", "training/", ".", "training/.cp-{epoch}", "cp\0", "cp-{"])
def test_a_path_that_cannot_be_is_refused_at_once(path):
    with pytest.raises(CheckpointError, match=r"filepath|no name for a checkpoint"):
        LCModelCheckpoint(path)


def test_numbers_of_numpy_and_paths_of_bytes_are_taken(tmp_path):
    options = {"save_freq": np.int64(4), "keyframe_every": np.int64(2), "max_to_keep": np.int32(2)}
    callback = LCModelCheckpoint(os.fsencode(tmp_path) + b"/{batch}", signals=None, **options)
    fit(dense(), [callback], epochs=1)
    assert names(tmp_path) == ["4", "6"]


def test_two_callbacks_of_one_name_are_refused_at_once(tmp_path):
    model = dense()
    pair = [LCModelCheckpoint(tmp_path / "cp-{epoch}") for _ in range(2)]
    with pytest.raises(CheckpointError, match="two callbacks save to"):
        fit(model, pair)
    assert int(model.optimizer.iterations) == 0
    assert names(tmp_path) == []


def test_what_is_no_model_is_refused(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp")], epochs=1)
    for wrong in ("model", keras.layers.Dense(2)):
        with pytest.raises(CheckpointError, match=r"expected a keras\.Model, not (str|Dense)"):
            restore_latest(tmp_path, wrong)
    with pytest.raises(CheckpointError, match=r"expected a keras\.Model, not None"):
        LCModelCheckpoint(tmp_path / "cp").on_epoch_end(0, {})


def test_the_directory_may_depend_on_the_batch(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "{batch}" / "cp", save_freq=3)], epochs=1)
    for batch in (3, 6):
        assert restore_latest(tmp_path / str(batch)).step == batch


def test_an_unknown_key_of_the_template_stops_the_training_and_harms_nothing(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")], epochs=1)
    with pytest.raises(CheckpointError, match="val_loss"):
        fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}-{val_loss}")])
    assert restore_latest(tmp_path).epoch == 1


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "training").write_text("not a directory")
    with pytest.raises(CheckpointError, match="in the way"):
        fit(dense(), [LCModelCheckpoint(tmp_path / "training" / "cp")])
    with pytest.raises(CheckpointError, match="is a file"):
        restore_latest(tmp_path / "training")
    assert (tmp_path / "training").read_text() == "not a directory"


def test_a_failed_save_may_be_a_warning(tmp_path):
    (tmp_path / "training").write_text("not a directory")
    callback = LCModelCheckpoint(tmp_path / "training" / "cp", on_error="warn")
    with pytest.warns(UserWarning, match="in the way"):
        fit(dense(), [callback], epochs=2)


def test_a_directory_deleted_during_training_begins_anew(tmp_path):
    callback = LCModelCheckpoint(tmp_path / "training" / "cp-{epoch}")

    def delete(epoch, logs):
        if epoch == 1:
            callback.wait()
            shutil.rmtree(tmp_path / "training")

    model = dense()
    fit(model, [callback, keras.callbacks.LambdaCallback(on_epoch_end=delete)], epochs=4)
    assert kinds(tmp_path / "training") == ["base", "delta"]
    other = dense()
    assert restore_latest(tmp_path / "training", other).epoch == 4
    assert equal(state(other), state(model))


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_directory_that_another_process_saves_into(tmp_path, on_error):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")], epochs=1)
    callback = LCModelCheckpoint(tmp_path / "cp-{epoch}", on_error=on_error)
    refused = {
        "raise": pytest.raises(CheckpointError, match="one process at a time"),
        "warn": pytest.warns(UserWarning, match="one process at a time"),
    }
    with holder(tmp_path), refused[on_error]:
        fit(dense(), [callback], epochs=3, initial_epoch=1)
    assert names(tmp_path) == ["cp-1"]


def test_nothing_yet(tmp_path):
    assert restore_latest(tmp_path) is None
    assert restore_latest(tmp_path / "missing", dense()) is None
    assert latest_checkpoint(tmp_path) is None


def test_another_model_is_an_error_that_names_file_and_tensor(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    other = dense(units=5)
    before = state(other)
    with pytest.raises(CheckpointError, match=r"cp-3.*weights/0.*\(8, 5\)"):
        restore_latest(tmp_path, other)
    assert equal(state(other)[: len(before)], before)  # now with a built optimizer


def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(tmp_path):
    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")])
    path = tmp_path / "cp-3.lcd"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"cp-3\.lcd"):
        assert restore_latest(tmp_path).epoch == 2
    with pytest.raises(CheckpointError, match=r"cp-3\.lcd"):
        restore(tmp_path / "cp-3")


def test_importing_brings_no_framework():
    code = (
        "import sys, keras_lc; keras_lc.core.DeltaEncoder; keras_lc.list_checkpoints('.');"
        "print([m for m in ('keras', 'tensorflow', 'torch', 'jax') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_every_public_name_is_there():
    for name in keras_lc.__all__:
        assert getattr(keras_lc, name).__doc__
    with pytest.raises(AttributeError):
        keras_lc.nothing  # noqa: B018
