"""What a run, its stages and the operations on them do."""

import json

import keras
import numpy as np
import pytest
from models import X, Y, equal, state

from keras_lc import list_checkpoints, restore
from keras_lc.errors import ChangedError, CheckpointError, NotFoundError, OptionError
from keras_lc.stages import Run
from tests.stages.small import (
    LOSS,
    adam,
    build,
    child,
    fit,
    one_stage,
    opened,
    trained,
    weights,
)

pytestmark = pytest.mark.backend


@pytest.fixture
def run(tmp_path):
    return opened(tmp_path)


def rate_of(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def script(run, fits):
    with run.stage("adam") as stage:
        stage.compile(**adam())
        return [fit(stage).history["loss"] for _ in range(fits)]


def test_fits_are_cached_by_their_place_and_further_ones_go_on(tmp_path):
    count, losses = trained(lambda: script(opened(tmp_path), 2))
    assert count == 4
    assert losses[0] != losses[1]
    count, more = trained(lambda: script(opened(tmp_path), 3))
    assert count == 2
    assert more[:2] == losses
    run = opened(tmp_path)
    with pytest.raises(ChangedError, match="has 3 fits, and its block made 2"):
        script(run, 2)
    assert trained(lambda: script(opened(tmp_path, on_change="rerun"), 2))[0] == 0
    assert run.tree().stages[0].fits == 2


def test_a_block_may_look_at_a_stage_without_training(tmp_path):
    script(opened(tmp_path), 1)
    run = opened(tmp_path)
    with run.stage("adam") as stage:
        figure = stage.plot_history(tmp_path / "history.png")
    assert len(figure.axes) == 2
    for picture in ((tmp_path / "history.png").read_bytes(), figure._repr_png_()):
        assert picture.startswith(b"\x89PNG")
    assert trained(lambda: child(run))[0] == 2  # it goes on there


def test_compile_comes_first_and_once(run):
    with run.stage("adam") as stage:
        with pytest.raises(OptionError, match="has no parent, so it has to `compile` first"):
            fit(stage)
        with pytest.raises(OptionError, match="no parent to take the optimizer from"):
            stage.compile(loss="mse")
        with pytest.raises(OptionError, match="no argument optimiser"):
            stage.compile(optimiser="adam")
        stage.compile(**adam())
        with pytest.raises(OptionError, match="compile comes first and once"):
            stage.compile(**adam())
        with pytest.raises(OptionError, match="begins by itself"):
            fit(stage, initial_epoch=1)
        with pytest.raises(OptionError, match="epochs=0"):
            fit(stage, epochs=0)
        with pytest.raises(OptionError, match="the block of stage 'adam' has not ended"):
            child(run)
        with pytest.raises(OptionError, match="the block of stage 'adam' has not ended"):
            run.delete()
    with pytest.raises(OptionError, match="in its `with` block"):
        fit(stage)


def test_what_is_not_compiled_anew_carries_over_with_its_state(run):
    one_stage(run)
    slots = [
        np.array(v) for v in map(keras.ops.convert_to_numpy, run.load("adam").optimizer.variables)
    ]
    child(run, compiled={"metrics": []}, epochs=1)
    assert int(run.model.optimizer.iterations) == 6
    assert run.load("child").optimizer is run.model.optimizer
    child(run, "fresh", compiled={"optimizer": keras.optimizers.Adam(0.01)}, epochs=1)
    assert int(run.model.optimizer.iterations) == 2
    run.load("adam")
    again = [keras.ops.convert_to_numpy(v) for v in run.model.optimizer.variables]
    assert equal(slots, again)


def test_the_optimizer_that_is_given_is_never_trained(run):
    given = adam()
    one_stage(run, compiled=given)
    assert not given["optimizer"].built
    one_stage(run, "other", compiled=given)
    assert equal(weights(run, "other"), weights(run, "adam"))


def test_best_and_last_are_kept_and_the_schedule_stays_if_it_should(run):
    def worse(epoch, rate):
        return 0.01 if epoch < 1 else 5.0  # the first epoch is the best

    options = {"epochs": 3, "callbacks": [keras.callbacks.LearningRateScheduler(worse)]}
    one_stage(run, load_best=True, **options)
    one_stage(run, "plain", **options)
    best, last, end = (weights(run, "adam", which) for which in ("best", "last", "end"))
    assert int(run.load("adam", "best").optimizer.iterations) == 2
    assert int(run.load("adam", "last").optimizer.iterations) == 6
    count = len(run.model.weights)
    assert equal(end[:count], best[:count])
    assert not equal(best[:count], last[:count])
    assert int(run.load("adam").optimizer.iterations) == 6
    assert rate_of(run.model) == 5.0
    assert equal(weights(run, "plain"), last)
    assert equal(weights(run, "plain", "best"), best)
    assert equal(weights(run, "plain", "best", schedule=False), end)
    assert equal(weights(opened(run.tree().directory), "plain", "best", schedule=False), end)
    with pytest.raises(OptionError, match="which='worst'"):
        run.load("adam", "worst")


def test_a_stage_follows_what_was_loaded_and_not_only_ends(run):
    one_stage(
        run, epochs=3, callbacks=[keras.callbacks.LearningRateScheduler(lambda e, r: 5.0 * e)]
    )
    run.load("adam", which="best")
    with run.stage("from-best") as stage:
        fit(stage, epochs=1)
    row = run.tree().stages[1]
    assert (row.parent, row.which) == ("adam", "best")
    run.load("adam")
    with (
        pytest.raises(ChangedError, match="from the best of 'adam', and is to follow 'adam'"),
        run.stage("from-best") as stage,
    ):
        fit(stage, epochs=1)
    fresh = opened(run.tree().directory)
    with fresh.stage("from-best") as stage:  # nothing was loaded, so it follows what it did
        assert trained(lambda: fit(stage, epochs=1))[0] == 0


def test_without_a_parent_a_stage_follows_the_last_one(run):
    one_stage(run, 1)
    for number in (2, 3):
        with run.stage(number) as stage:
            fit(stage, epochs=1)
    rows = {row.id: row.parent for row in run.tree().stages}
    assert rows == {"1": None, "2": "1", "3": "2"}
    with run.stage(1) as stage:  # a cell of a notebook, run once more
        stage.compile(**adam())
        assert trained(lambda: fit(stage))[0] == 0
    with pytest.raises(OptionError, match="stage '1' cannot follow '3'"):
        run.stage("1", parent=3)
    with pytest.raises(NotFoundError, match="no stage 'nope'"):
        child(run, parent="nope")


def test_a_block_that_fails_leaves_the_run_at_what_its_stage_has_come_to(tmp_path):
    run = opened(tmp_path)
    one_stage(run)
    expected = run.cached("adam").evaluate(X, Y)
    with pytest.raises(ChangedError, match=r"learning_rate was 0\.01 and is 0\.02"):
        one_stage(run, compiled=adam(0.02) | {"metrics": []})
    with run.stage("next") as stage:
        fit(stage, epochs=1)
    assert run.cached("adam").evaluate(X, Y) == expected  # with the metrics that it has
    with pytest.raises(ZeroDivisionError), run.stage("nothing", parent="adam"):
        1 / 0  # noqa: B018
    with run.stage("third") as stage:
        fit(stage, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        child(run, "stopped", "adam", callbacks=[Interrupt()])
    assert equal(state(run.model), weights(opened(tmp_path), "adam"))
    with pytest.raises(CheckpointError, match="'stopped' has not come to its end"), run.stage("on"):
        pass
    rows = {row.id: row.parent for row in run.tree().stages}
    assert rows == {"adam": None, "next": "adam", "third": "next", "stopped": "adam"}
    shown = [line.split()[0] for line in str(run.tree()).splitlines()]
    assert [name for name in shown if name.strip("├└─") in rows] == [
        "adam", "├─next", "└───third", "└─stopped",
    ]  # fmt: skip
    assert trained(lambda: child(opened(tmp_path), "next", epochs=1))[0] == 0


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["", "a/b", ".x", "a{b}", True, 1.5, None])
def test_an_id_that_is_no_name_is_refused(run, name):
    with pytest.raises(OptionError, match="is no id of a stage"):
        run.stage(name)


def test_descriptions_are_stored_and_may_change(tmp_path):
    run = opened(tmp_path, description="the digits")
    one_stage(run, stage={"description": "Adam for 2 epochs"})
    run = opened(tmp_path)
    assert run.tree().description == "the digits"
    assert run.tree().stages[0].description == "Adam for 2 epochs"
    one_stage(run, stage={"description": "another"})
    assert opened(tmp_path, description="numbers").tree().description == "numbers"
    assert run.tree().stages[0].description == "another"


def test_find_lr_is_cached_and_leaves_the_model_as_it_is(tmp_path):
    run = opened(tmp_path)
    one_stage(run)
    before = state(run.model)
    found = run.cached("adam").find_lr(X, Y, optimizer="sgd", batch_size=3, max_rate=100.0)
    assert equal(state(run.model), before)
    assert found.rates[0] == 1e-6
    assert len(found.losses) == len(found.rates) <= 20
    assert (
        opened(tmp_path).cached("adam").find_lr(X, Y, optimizer="sgd", batch_size=3, max_rate=100.0)
        == found
    )
    assert found.plot(tmp_path / "rates.svg").axes
    assert (tmp_path / "rates.svg").exists()
    with pytest.raises(ChangedError, match="optimizer"):
        run.cached("adam").find_lr(X, Y, batch_size=3, max_rate=100.0)
    own = run.cached("adam").find_lr(X, Y, name="own", batch_size=20)
    assert len(own.rates) == 3
    with pytest.raises(OptionError, match="positive rates"):
        run.cached("adam").find_lr(X, Y, min_rate=0)


def test_results_are_deleted_one_by_one_or_all(run):
    one_stage(run)
    run.cached("adam").evaluate(X, Y)
    run.cached("adam").evaluate(X[:9], Y[:9], name="few")
    run.cached("adam").find_lr(X, Y, batch_size=30)
    run.cached("adam").delete("evaluate")
    assert run.tree().stages[0].cached == ("evaluate few", "find_lr")
    with pytest.raises(OptionError, match="has no result 'evaluate'"):
        run.cached("adam").delete("evaluate")
    run.cached("adam").evaluate(X[:5], Y[:5])
    run.cached("adam").delete()
    assert run.tree().stages[0].cached == ()


def test_results_go_when_the_end_is_another_one(run):
    one_stage(run)
    before = run.cached("adam").evaluate(X, Y)
    with run.stage("adam", parent=None) as stage:
        stage.compile(**adam())
        fit(stage)
        fit(stage)
    assert run.tree().stages[0].cached == ()
    assert run.cached("adam").evaluate(X, Y) != before


def test_a_run_is_deleted_with_all_that_is_its_own(tmp_path, run):
    one_stage(run)
    child(run)
    (tmp_path / "notes.txt").write_text("mine")
    run.delete("child")
    assert not list(tmp_path.glob("child*"))
    with pytest.raises(NotFoundError, match="no stage 'child'"):
        run.delete("child")
    run.delete()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert trained(lambda: one_stage(run))[0] == 2


def test_patience_stops_and_warmup_raises_the_rate(run):
    rates = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(rate_of(self.model))

    one_stage(run, epochs=3, warmup=2, callbacks=[Note()])
    assert np.allclose(rates, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    history = one_stage(run, "patient", rate=20.0, epochs=30, patience=1)
    assert len(history.epoch) < 30
    assert trained(lambda: one_stage(run, "patient", rate=20.0, epochs=30, patience=1))[0] == 0
    scheduled = adam(keras.optimizers.schedules.CosineDecay(0.01, 10))
    with pytest.raises(OptionError, match="follows a schedule"):
        one_stage(run, "scheduled", compiled=scheduled, warmup=1)


def test_a_schedule_goes_on_and_is_found_again(tmp_path):
    run = opened(tmp_path)
    scheduled = adam(keras.optimizers.schedules.CosineDecay(0.01, 10))
    one_stage(run, compiled=scheduled)
    child(run)
    expected = weights(run, "child")
    fresh = opened(tmp_path)
    assert equal(weights(fresh, "child"), expected)
    assert rate_of(fresh.model) == rate_of(run.model) < 0.002
    assert len(fresh.cached("child").find_lr(X, Y, batch_size=20).rates) == 3


def test_what_keras_puts_into_the_model_after_training_is_its_end(run):
    """Averaged weights, and those that an EarlyStopping restores."""
    optimizer = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)
    one_stage(run, compiled=adam() | {"optimizer": optimizer})
    count = len(run.model.weights)
    assert not equal(weights(run, "adam")[:count], weights(run, "adam", "last")[:count])
    stop = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    rise = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 if epoch < 1 else 5.0)
    one_stage(run, "stopped", epochs=3, callbacks=[stop, rise])
    assert equal(weights(run, "stopped")[:count], weights(run, "stopped", "best")[:count])


def test_frozen_layers_are_frozen_again(tmp_path):
    run = opened(tmp_path)
    one_stage(run)
    with run.stage("head") as stage:
        stage.model.layers[0].trainable = False
        stage.compile(optimizer=keras.optimizers.Adam(0.01))
        fit(stage, epochs=1)
    head = run.load("head")
    assert len(head.trainable_variables) == 2
    assert equal(state(head)[:2], weights(run, "adam")[:2])
    assert len(run.model.trainable_variables) == 4
    fresh = opened(tmp_path)
    assert len(fresh.load("head").trainable_variables) == 2
    with fresh.stage("more") as stage:
        fit(stage, epochs=1)
    assert equal(weights(fresh, "more")[:2], weights(run, "head")[:2])


def test_a_fork_is_a_delta_on_the_end_of_its_parent(run, tmp_path):
    one_stage(run)
    child(run)
    child(run, "same", compiled={"optimizer": keras.optimizers.Adam(0.001)})
    child(run, "other", compiled={"optimizer": keras.optimizers.SGD(0.001)})
    kinds = {}
    for info in list_checkpoints(tmp_path):
        name = info.path.rpartition("/")[2].partition("-")[0]
        kinds.setdefault(name, set()).add(info.kind)
    assert kinds["child"] == kinds["same"] == {"delta"}
    assert "base" in kinds["other"]  # another optimizer, other tensors
    path = (
        tmp_path
        / json.loads((tmp_path / "child.stage.json").read_text())["fits"][0]["states"]["end"][
            "name"
        ]
    )
    assert equal(state(restore(path, run.load("adam")).model), weights(run, "child"))


def test_models_that_cannot_be_used_are_refused(tmp_path):
    model = build()
    run = Run(tmp_path, lambda: model, verbose=0)
    one_stage(run)
    with pytest.raises(OptionError, match="the same model twice"):
        run.cached("adam").evaluate(X, Y)
    with pytest.raises(OptionError, match=r"expected a keras\.Model"):
        Run(tmp_path / "none", lambda: None)
    with pytest.raises(OptionError, match="without weights yet"):
        Run(tmp_path / "none", lambda: keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(OptionError, match="without fields"):
        Run(tmp_path / "{epoch}", build)
    with pytest.raises(OptionError, match="on_change='never'"):
        Run(tmp_path, build, on_change="never")


def test_what_is_cached_and_what_is_trained_is_told(tmp_path, capsys):
    for _ in range(2):
        run = opened(tmp_path, verbose=1)
        one_stage(run, epochs=1)
        run.cached("adam").evaluate(X, Y)
    assert capsys.readouterr().out.splitlines() == [
        "adam: fit 1 trains, 1 epoch",
        "adam: evaluate",
        "adam: fit 1 is cached, 1 epoch",
        "adam: evaluate is cached",
    ]


def test_a_signal_ends_the_script_with_75_and_the_fit_goes_on_within_its_epoch(tmp_path):
    import os
    import signal

    class Send(keras.callbacks.Callback):
        on = True

        def __init__(self):
            super().__init__()
            self.on_train_batch_end = self.batch

        def batch(self, batch, logs=None):
            if Send.on and int(self.model.optimizer.iterations) == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    run = opened(tmp_path / "cut", signals=["SIGUSR1"])
    keras.utils.set_random_seed(1)
    with pytest.raises(SystemExit) as ended:
        one_stage(run, callbacks=[Send()])
    assert ended.value.code == 75
    Send.on = False
    run = opened(tmp_path / "cut", signals=["SIGUSR1"])
    one_stage(run, callbacks=[Send()])
    assert int(run.model.optimizer.iterations) == 4


def test_losses_that_are_functions_or_lists_are_fine(run):
    def loss(true, predicted):
        return LOSS(true, predicted)

    one_stage(
        run,
        compiled=adam()
        | {"loss": loss, "metrics": [keras.metrics.SparseCategoricalAccuracy(name="hits")]},
        watch="val_hits",
    )
    assert run.cached("adam").evaluate(X, Y).keys() == {"loss", "hits"}
