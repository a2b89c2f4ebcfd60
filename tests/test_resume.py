"""A run that is stopped, however and wherever, ends as one that was not."""

import functools
import json
import os
import signal
from datetime import timedelta

import keras
import numpy as np
import pytest
from keras.src.trainers.epoch_iterator import EpochIterator
from models import X, Y, equal, fit, state
from resumed_training import DATA, Kill, fresh, train

from keras_lc import CheckpointError, LCModelCheckpoint, list_checkpoints, restore_latest
from keras_lc.capture import randomness, run
from keras_lc.capture.data import Skipping, doubts

TENSORFLOW = keras.backend.backend() == "tensorflow"
pytestmark = pytest.mark.filterwarnings("ignore:.shuffle=True. was passed")


@functools.cache
def whole(data="arrays", epochs=4, at_once=1):
    """What a run gives that is never stopped, and knows nothing of checkpoints."""
    return train(None, data, epochs, at_once=at_once)


def same(found, expected):
    """All but the exit code."""
    assert equal(found["state"], expected["state"])
    assert found["history"] == expected["history"]
    assert found["epochs"] == expected["epochs"]
    assert found["plateau"] == expected["plateau"]
    assert found["random"] == expected["random"]
    assert found["initial_epoch"] is None


def interrupted(directory, at, data="arrays", **options):
    with pytest.raises(KeyboardInterrupt):
        train(directory, data, kill=at, sent=None, **options)


def places(directory):
    return [(c.epoch, c.batch) for c in list_checkpoints(directory)]


@pytest.mark.parametrize(
    ("data", "stops"),
    [
        ("arrays", [(2, 3), (2, 6)]),  # again in the first epoch that was gone on with
        ("tf.data", [(0, 3), (2, 5)]),
        ("PyDataset", [(2, 5)]),
    ],
)
def test_within_an_epoch(tmp_path, data, stops):
    for stop in stops:
        interrupted(tmp_path, stop, data, save_freq=2)
        assert places(tmp_path)[-1] == (stop[0], (stop[1] - 1) // 2 * 2)
    same(train(tmp_path, data, save_freq=2), whole(data))


def test_between_epochs(tmp_path):
    for epoch in (1, 3):
        interrupted(tmp_path, (epoch, 2))
        assert places(tmp_path)[-1] == (epoch, 0)
    same(train(tmp_path), whole())
    assert [c.kind for c in list_checkpoints(tmp_path)] == ["base", "delta", "delta", "delta"]


def test_more_epochs_than_before(tmp_path):
    train(tmp_path, epochs=2)
    same(train(tmp_path), whole())


def test_a_finished_run_stays_as_it_is(tmp_path):
    first = train(tmp_path)
    same(first, whole())
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = train(tmp_path)
    assert equal(again["state"], first["state"])
    assert again["history"] == first["history"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.skipif(not TENSORFLOW, reason="steps at once are tested with tensorflow")
def test_steps_at_once(tmp_path):
    interrupted(tmp_path, (1, 6), save_freq=3, at_once=2)
    assert places(tmp_path)[-1] == (1, 2)
    same(train(tmp_path, save_freq=3, at_once=2), whole(at_once=2))


def test_steps_at_once_that_do_not_meet_the_place(tmp_path):
    interrupted(tmp_path, (1, 4), save_freq=3)
    with pytest.warns(UserWarning, match="batches 3 to 3 of the epoch are left out"):
        train(tmp_path, save_freq=3, at_once=2, epochs=2)


@pytest.mark.parametrize("sent", ["SIGUSR1", "SIGTERM"])
def test_a_signal_costs_nothing(tmp_path, sent):
    before = signal.getsignal(signal.Signals[sent])
    options = {"codec": "balanced", "signals": ("SIGUSR1", "SIGTERM")}
    found = train(tmp_path, kill=(2, 4), sent=sent, **options)
    assert found["exit"] == 75
    assert signal.getsignal(signal.Signals[sent]) == before
    assert places(tmp_path)[-1] == (2, 4)
    assert os.path.basename(list_checkpoints(tmp_path)[-1].path) == "cp-03-b0004"
    same(train(tmp_path, **options), whole())


def test_a_signal_at_the_first_batch_that_is_skipped(tmp_path):
    train(tmp_path, kill=(2, 4), sent="SIGUSR1", signals=["SIGUSR1"])
    saved = places(tmp_path)
    assert train(tmp_path, kill=(2, 1), sent="SIGUSR1", signals=["SIGUSR1"])["exit"] == 75
    assert places(tmp_path) == saved
    same(train(tmp_path), whole())


def test_a_signal_between_epochs(tmp_path):
    def send(epoch, logs):
        if epoch == 1:
            signal.raise_signal(signal.SIGUSR1)

    saves = LCModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=100, signals=["SIGUSR1"])
    model = fresh()
    fit(model, [keras.callbacks.LambdaCallback(on_epoch_end=send), saves], epochs=4)
    assert saves.exit_code == 75
    assert places(tmp_path) == [(2, 0)]
    left = state(model)
    restore_latest(tmp_path, fresh())
    assert equal(state(model), left)


def test_without_a_signal_there_is_nothing_to_requeue(tmp_path):
    saves = LCModelCheckpoint(tmp_path / "cp", signals=["SIGUSR1"])
    fit(fresh(), [saves], epochs=1)
    assert saves.exit_code == 0
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_training_left_by_an_error_leaves_signals_and_model_alone(tmp_path):
    seen = []

    def before(number, frame):
        seen.append(number)

    def fail(batch, logs):
        raise KeyError("training")

    was = signal.signal(signal.SIGUSR1, before)
    try:
        saves = LCModelCheckpoint(tmp_path / "cp-{epoch}", resume=True, signals=["SIGUSR1"])
        broken = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
        with pytest.raises(KeyError):
            fit(fresh(), [saves, broken])
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is before
    finally:
        signal.signal(signal.SIGUSR1, was)


def test_nothing_sticks_to_the_model(tmp_path):
    interrupted(tmp_path, (1, 5), save_freq=2)
    model = fresh()
    skipped = []

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            skipped.append(type(self.model.train_function))
            raise KeyboardInterrupt

    def callback():
        return LCModelCheckpoint(tmp_path / "cp-{epoch:02d}-{batch:02d}", save_freq=2, resume=True)

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=10, epochs=2, verbose=0, callbacks=[callback(), Break()])
    assert skipped == [Skipping]
    model.fit(X, Y, batch_size=10, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 10 + 6
    assert not isinstance(model.train_function, Skipping)
    history = model.fit(X, Y, batch_size=10, epochs=2, verbose=0, callbacks=[callback()])
    assert history.epoch == [0, 1]  # the model has gone further than the checkpoint


def test_a_script_of_two_fits(tmp_path):
    def script(stop=None):
        model = fresh()
        saves = LCModelCheckpoint(tmp_path / "cp-{epoch}", codec="lossless", resume=True)
        seen = []

        def begin(epoch, logs):
            seen.append(epoch)
            if stop == len(seen):
                saves.wait()
                raise KeyboardInterrupt

        watch = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
        fit(model, [saves, watch], epochs=2)
        fit(model, [saves, watch], epochs=3)
        return seen, state(model)

    with pytest.raises(KeyboardInterrupt):
        script(stop=5)
    seen, found = script()
    assert seen == [2]
    model = fresh()
    fit(model, epochs=2)
    fit(model, epochs=3)
    assert equal(found, state(model))


def test_an_early_stop_is_the_end(tmp_path):
    def training(directory):
        model = fresh()
        stop = keras.callbacks.EarlyStopping("loss", mode="max", restore_best_weights=True)
        saves = LCModelCheckpoint(directory / "cp-{epoch}", resume=True)
        history = fit(model, [saves, stop], epochs=50)
        return state(model), history.history

    first = training(tmp_path)
    assert len(list_checkpoints(tmp_path)) < 50
    again = training(tmp_path)
    assert equal(again[0], first[0])
    assert again[1] == first[1]


@pytest.mark.parametrize("save_freq", ["epoch", 4, timedelta(hours=1)])
def test_the_last_checkpoint_is_of_the_last_state(tmp_path, save_freq):
    template = tmp_path / ("{epoch}-{batch}" if save_freq == 4 else "cp-{epoch}")
    model = fresh()
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=2)
    fit(model, [LCModelCheckpoint(template, save_freq=save_freq), stop], epochs=50)
    left, step = state(model), int(model.optimizer.iterations)
    assert restore_latest(tmp_path, fresh()).step == step
    assert equal(state(model), left)


def test_saving_by_time(tmp_path):
    saves = LCModelCheckpoint(tmp_path / "cp-{epoch}", save_freq=timedelta(microseconds=1))
    fit(fresh(), [saves], epochs=1)
    found = [(os.path.basename(c.path), c.epoch, c.batch) for c in list_checkpoints(tmp_path)]
    assert found == [(f"cp-1-b{n:04d}", 0, n) for n in range(2, 7)]


def test_one_callback_leads(tmp_path):
    pair = [LCModelCheckpoint(tmp_path / f"{name}-{{epoch}}", resume=True) for name in "ab"]
    with pytest.raises(CheckpointError, match="two callbacks have resume=True"):
        fit(fresh(), pair)


def test_a_callback_that_only_saves_keeps_its_best_value(tmp_path):
    def pair():
        best = LCModelCheckpoint(tmp_path / "best-{epoch}", "loss", 0, True, mode="max")
        return best, LCModelCheckpoint(tmp_path / "cp-{epoch}", resume=True)

    first = pair()
    fit(fresh(), first, epochs=1)
    second = pair()
    fit(fresh(), second, epochs=1)
    assert second[0].best == first[0].best is not None


def test_a_fit_that_began_later(tmp_path):
    """Data counts epochs from the first one of its fit."""

    def training(directory, stop=None):
        model = fresh()
        callbacks = []
        if directory is not None:
            saves = LCModelCheckpoint(directory / "cp-{epoch}", codec="lossless", resume=True)
            callbacks = [saves]
            if stop is not None:
                callbacks.append(Kill(saves, stop, None))
        options = DATA["tf.data"]()
        model.fit(**options, initial_epoch=2, epochs=5, verbose=0, callbacks=callbacks)
        return state(model)

    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, [4, 2])
    assert places(tmp_path) == [(3, 0), (4, 0)]
    assert equal(training(tmp_path), training(None))


def test_the_best_value_is_known_again(tmp_path):
    def callback():
        return LCModelCheckpoint(tmp_path / "cp-{epoch}", "loss", mode="max", save_best_only=True,
                                 resume=True)  # fmt: skip

    first = callback()
    fit(fresh(), [first], epochs=1)
    second = callback()
    fit(fresh(), [second], epochs=1)
    assert second.best == first.best


def test_what_cannot_be_known_again_is_told(tmp_path):
    interrupted(tmp_path, (1, 5), save_freq=2)
    import tensorflow as tf

    model = fresh()
    tf.random.set_seed(7)
    saves = LCModelCheckpoint(tmp_path / "cp-{epoch:02d}-{batch:02d}", save_freq=2, resume=True)
    with pytest.warns(UserWarning, match="is not that of the run before.*set_random_seed"):
        model.fit(X, Y, batch_size=10, epochs=2, verbose=0, callbacks=[saves])


def test_data_that_has_become_shorter(tmp_path):
    interrupted(tmp_path, (1, 5), save_freq=2)
    model = fresh()
    saves = LCModelCheckpoint(tmp_path / "cp-{epoch:02d}-{batch:02d}", save_freq=2, resume=True)
    with pytest.warns(UserWarning, match="made after 4 batches of its epoch"):
        model.fit(X[:20], Y[:20], batch_size=10, epochs=2, verbose=0, callbacks=[saves])


def test_checkpoints_made_without_resume(tmp_path):
    fit(fresh(), [LCModelCheckpoint(tmp_path / "cp-{epoch}")], epochs=2)
    model = fresh()
    with pytest.warns(UserWarning, match="made without `resume=True`"):
        history = fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}", resume=True)], epochs=3)
    assert history.epoch == [2]
    assert int(model.optimizer.iterations) == 18


def test_other_readers_do_not_mind_the_state_of_the_run(tmp_path):
    model = fresh()
    fit(model, [LCModelCheckpoint(tmp_path / "cp-{epoch}", resume=True)])
    assert equal(state(restore_latest(tmp_path).model), state(model))
    model.load_weights(tmp_path / "cp-1.weights.h5")


def test_options_that_cannot_be_gone_on_with(tmp_path):
    with pytest.raises(CheckpointError, match="save_weights_only"):
        LCModelCheckpoint(tmp_path / "cp", save_weights_only=True, resume=True)
    with pytest.raises(CheckpointError, match="directory"):
        LCModelCheckpoint(tmp_path / "{epoch}" / "cp", resume=True)
    fit(fresh(), [LCModelCheckpoint(tmp_path / "cp", save_weights_only=True)], epochs=1)
    with pytest.raises(CheckpointError, match="no state of the optimizer"):
        fit(fresh(), [LCModelCheckpoint(tmp_path / "cp", resume=True)], epochs=2)


def test_random_states_come_back():
    import random

    import tensorflow as tf

    tf.random.get_global_generator()
    np.random.standard_normal()  # half of a pair
    random.gauss(0, 1)
    states = {name: array.copy() for name, array in randomness.states().items()}
    assert {"python", "numpy", "tensorflow"} <= set(states)

    def draw():
        generator = tf.random.get_global_generator()
        return [
            np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random(),
            generator.normal([2]).numpy().tolist(),
        ]  # fmt: skip

    first = draw()
    assert draw() != first
    randomness.restore(states)
    assert draw() == first


def test_notes_hold_what_is_not_finite():
    notes = {"best": float("nan"), "history": {"loss": [1.5, float("inf"), None]}, "wait": 3}
    told = run._told(notes)
    json.dumps(told, allow_nan=False)
    meant = run._meant(told)
    assert np.isnan(meant["best"])
    assert meant["history"] == notes["history"]
    assert meant["wait"] == 3


def shuffled(seed, seed_of_all=1):
    import tensorflow as tf

    tf.random.set_seed(seed_of_all)
    data = tf.data.Dataset.range(60).shuffle(60, seed=seed).batch(10)
    return EpochIterator(data.map(lambda i: (i, i)).prefetch(1))


def test_a_shuffle_without_a_seed_is_known():
    assert doubts(shuffled(4), 1, 1, True) == []
    assert doubts(shuffled(None), 1, 1, True) == []
    assert "is not that of the run before" in doubts(shuffled(None), 1, 2, True)[0]
    assert "without a seed" in doubts(shuffled(None, None), None, None, True)[0]


def test_arrays_come_in_an_order_of_their_own_without_a_seed():
    ordered, mixed = (EpochIterator(X, Y, batch_size=10, shuffle=s) for s in (False, True))
    assert doubts(ordered, None, None, True) == []
    assert doubts(mixed, None, None, False) == []  # the next epoch has a new order anyway
    assert bool(doubts(mixed, None, None, True)) == TENSORFLOW
    assert doubts(mixed, 3, 3, True) == []


def test_a_model_that_is_built_by_its_first_batch(tmp_path):
    def training(stop=None):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
        saves = LCModelCheckpoint(
            tmp_path / "{epoch}-{batch}", save_freq=2, codec="lossless", resume=True
        )

        def end(batch, logs):
            if stop and int(model.optimizer.iterations) == stop:
                raise KeyboardInterrupt

        watch = keras.callbacks.LambdaCallback(on_train_batch_end=end)
        history = fit(model, [saves, watch], epochs=2)
        return state(model), history.history

    with pytest.raises(KeyboardInterrupt):
        training(stop=9)
    found = training()
    for path in tmp_path.iterdir():
        path.unlink()
    expected = training()
    assert equal(found[0], expected[0])
    assert found[1] == expected[1]
