"""Each trap that a cache of trainings has: what is there must be what was asked for."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress

import keras
import numpy as np
import pytest
from models import X, Y, equal, state

from keras_lc.errors import ChangedError, CheckpointError, OptionError
from tests.disk import disk
from tests.stages.small import (
    LOSS,
    adam,
    build,
    child,
    one_stage,
    opened,
    trained,
    weights,
)

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "run"
    one_stage(opened(made))
    return made


@pytest.fixture
def directory(_made, tmp_path):
    """A run with a stage, and nothing else."""
    return shutil.copytree(_made, tmp_path / "run")


def rows():
    while True:
        yield X, Y


CHANGES = {
    "epochs was 2 and is 3": {"epochs": 3},
    "batch_size was 30 and is 20": {"batch_size": 20},
    "watch was 'val_loss' and is 'val_accuracy'": {"watch": "val_accuracy"},
    "load_best was False and is True": {"load_best": True},
    "patience was None and is 2": {"patience": 2},
    "warmup was 0 and is 1": {"warmup": 1},
    "class_weight was nothing and is": {"class_weight": {0: 1.0, 1: 2.0}},
    "learning_rate was": {"rate": 0.02},
    "compile.optimizer.class was 'keras.": {"compiled": adam() | {"optimizer": "sgd"}},
    "compile.loss was {'class'": {"compiled": adam() | {"loss": "mse"}},
    "compile.metrics was ['accuracy'] and is []": {"compiled": adam() | {"metrics": []}},
    "the values in data.x are others": {"x": X + np.float32(1e-3)},
    "the values in data.y are others": {"y": 1 - Y},
    "data.x had shape [60, 8] and has [40, 8]": {"x": X[:40], "y": Y[:40]},
    "data.x had dtype 'float32' and has 'float64'": {"x": X.astype("float64")},
    "the values in data.validation_data[1] are others": {"validation_data": (X[:20], Y[20:40])},
    "data.sample_weight was nothing": {"sample_weight": np.ones(60, "float32")},
    "callbacks was": {"callbacks": [keras.callbacks.TerminateOnNaN()]},
}


@pytest.mark.parametrize("clause", CHANGES)
def test_what_was_called_otherwise_is_an_error_and_no_old_result(directory, clause):
    work = lambda: one_stage(opened(directory), **CHANGES[clause])  # noqa: E731
    with pytest.raises(ChangedError) as error:
        work()
    assert clause in str(error.value)
    assert "fit 1 of stage 'adam'" in str(error.value)
    assert "on_change='rerun'" in str(error.value)


def test_what_was_called_otherwise_is_trained_anew_if_that_is_asked_for(directory):
    before = weights(opened(directory), "adam")
    run = opened(directory, on_change="rerun")
    assert trained(lambda: one_stage(run, rate=0.02))[0] == 2
    assert not equal(weights(run, "adam"), before)
    assert trained(lambda: one_stage(opened(directory), rate=0.02))[0] == 0


def test_the_same_call_is_taken_from_the_store(directory):
    run = opened(directory)
    count, history = trained(lambda: one_stage(run))
    assert count == 0
    assert history.epoch == [0, 1]
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_another_model_is_an_error_and_no_old_result(directory):
    with pytest.raises(ChangedError, match=r"units was 6 and is 7"):
        opened(directory, lambda: build(7))
    run = opened(directory, lambda: build(7), on_change="rerun")
    assert trained(lambda: one_stage(run))[0] == 2
    assert weights(run, "adam")[0].shape == (8, 7)


def test_a_model_that_is_built_twice_in_a_process_is_the_same(directory):
    for _ in range(3):  # names of layers count up
        opened(directory)


def test_another_loss_function_under_the_old_name_is_an_error(tmp_path):
    def make(power):
        def loss(true, predicted):
            return keras.ops.mean(keras.ops.abs(predicted - 1.0) ** power, -1)

        return adam() | {"loss": loss, "metrics": []}

    one_stage(opened(tmp_path), compiled=make(2.0))
    assert trained(lambda: one_stage(opened(tmp_path), compiled=make(2.0)))[0] == 0
    with pytest.raises(ChangedError, match=r"loss\.enclosed.power was 2\.0 and is 4\.0"):
        one_stage(opened(tmp_path), compiled=make(4.0))


def test_a_data_set_is_told_by_the_id_that_it_is_given(tmp_path):
    options = {"y": None, "batch_size": None, "steps_per_epoch": 1, "shuffle": False}
    run = opened(tmp_path)
    one_stage(run, x=rows(), data_id="one", **options)
    assert trained(lambda: one_stage(run, x=rows(), data_id="one", **options))[0] == 0
    with pytest.raises(ChangedError, match="data_id was 'one' and is 'two'"):
        one_stage(run, x=rows(), data_id="two", **options)


def test_a_cached_evaluation_on_other_data_is_an_error(directory):
    run = opened(directory)
    found = run.cached("adam").evaluate(X, Y)
    assert opened(directory).cached("adam").evaluate(X, Y) == found
    with pytest.raises(ChangedError, match=r"the values in data\.y are others"):
        run.cached("adam").evaluate(X, 1 - Y)
    other = run.cached("adam", on_change="rerun").evaluate(X, 1 - Y)
    assert other != found
    assert opened(directory).cached("adam").evaluate(X, 1 - Y) == other


def test_a_fit_that_was_stopped_is_not_taken_for_complete(tmp_path):
    class Stop(keras.callbacks.Callback):
        at = 3

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.at:
                raise KeyboardInterrupt

    options = {"epochs": 6, "callbacks": [Stop()], "load_best": True, "watch": "val_accuracy"}
    with pytest.raises(KeyboardInterrupt):
        one_stage(opened(tmp_path), **options)
    with pytest.raises(CheckpointError, match="stage 'adam' has not come to its end: fit 1"):
        opened(tmp_path).load("adam")
    with pytest.raises(CheckpointError, match="has not come to its end"):
        opened(tmp_path).cached("adam").evaluate(X, Y)
    with pytest.raises(ChangedError, match="epochs was 6 and is 7"):
        one_stage(opened(tmp_path), **options | {"epochs": 7})
    Stop.at = None
    count, history = trained(lambda: one_stage(opened(tmp_path), **options))
    assert count == 3
    assert history.epoch == [0, 1, 2, 3, 4, 5]
    assert len(history.history["val_accuracy"]) == 6
    assert trained(lambda: one_stage(opened(tmp_path), **options))[0] == 0


def test_wherever_it_is_cut_off_a_history_never_comes_without_its_weights(tmp_path):
    """The disk is gone from some request on, another one each time."""
    options = {"epochs": 3, "load_best": True, "watch": "val_accuracy"}
    keras.utils.set_random_seed(3)
    reference = opened(tmp_path / "reference")
    expected = one_stage(reference, **options)
    with disk() as counted:
        keras.utils.set_random_seed(3)
        one_stage(opened(tmp_path / "counted"), **options)
    end, best, last = [weights(reference, "adam", which) for which in ("end", "best", "last")]
    asked = counted.asked
    for moment in [*range(5, asked, asked // 6), *range(asked - 7, asked, 3)]:
        keras.utils.set_random_seed(3)
        with disk(moment), suppress(CheckpointError):
            one_stage(opened(tmp_path / str(moment)), **options)
        keras.utils.set_random_seed(3)
        run = opened(tmp_path / str(moment))
        assert one_stage(run, **options).history == expected.history
        assert equal(weights(run, "adam"), end)
        assert equal(weights(run, "adam", "best"), best)
        assert equal(weights(run, "adam", "last"), last)


def test_children_of_a_parent_that_is_trained_anew_are_stale_and_no_old_result(directory):
    run = opened(directory)
    child(run)
    child(run, "grandchild", "child")
    one_stage(opened(directory, on_change="rerun"), epochs=1)
    run = opened(directory)
    states = {row.id: row.state for row in run.tree().stages}
    assert states == {"adam": "complete", "child": "stale", "grandchild": "stale"}
    with pytest.raises(ChangedError, match="was trained from 'adam', which has been trained"):
        child(run)
    with pytest.warns(UserWarning, match="stage 'child' is stale"):
        run.load("child")
    assert trained(lambda: child(run, stage={"on_change": "rerun"}))[0] == 2
    states = {row.id: row.state for row in run.tree().stages}
    assert states == {"adam": "complete", "child": "complete", "grandchild": "stale"}


def test_a_parent_with_children_is_not_deleted_but_with_them(directory):
    run = opened(directory)
    child(run)
    child(run, "grandchild", "child")
    with pytest.raises(OptionError, match="'grandchild', 'child' were trained from stage 'adam'"):
        run.delete("adam")
    assert len(run.tree().stages) == 3
    run.delete("child", cascade=True)
    assert [row.id for row in run.tree().stages] == ["adam"]
    assert {path.name.split("-")[0] for path in directory.glob("*.[lw]*")} == {"adam", "start"}


def test_another_parent_is_an_error_and_no_old_result(directory):
    run = opened(directory)
    one_stage(run, "other")
    child(run)
    with pytest.raises(ChangedError, match="trained from 'adam', and is to follow 'other'"):
        child(run, parent="other")


def test_a_fresh_process_loads_a_stage_whose_block_it_never_ran(directory):
    run = opened(directory)
    child(run, compiled={"optimizer": keras.optimizers.SGD(0.01, momentum=0.9)})
    expected = weights(run, "child")
    np.savez(directory / "expected.npz", *expected)
    code = f"""
import sys; sys.path[:0] = {[sys.path[0], *sys.path[:3], "tests"]!r}
import numpy as np
from tests.stages.small import opened, weights
run = opened({str(directory)!r})
with np.load({str(directory / "expected.npz")!r}) as expected:
    assert [a.tobytes() for a in weights(run, "child")] == [a.tobytes() for a in expected.values()]
assert type(run.model.optimizer).__name__ == "SGD"
assert run.model.optimizer.momentum == 0.9
assert run.cached("child").evaluate(np.ones((4, 8)), np.ones(4))["accuracy"] >= 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_evaluation_is_of_the_end_of_the_stage_whatever_the_model_holds(directory):
    run = opened(directory)
    model = run.load("adam")
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    before = state(model)
    assert run.cached("adam").evaluate(X, Y) == expected
    assert equal(state(model), before)


def test_random_states_are_stored_so_that_two_halves_make_the_whole(tmp_path):
    def script(run, last):
        """Dropout and shuffling draw from random states, and so does the script itself."""
        drawn = [np.random.random()]
        one_stage(run, epochs=2)
        drawn.append(np.random.random())
        if last:
            child(run, epochs=2)
        drawn.append(float(keras.random.uniform((), seed=None) * 0) + np.random.random())
        return drawn

    keras.utils.set_random_seed(5)
    whole = opened(tmp_path / "whole")
    expected = script(whole, last=True)
    keras.utils.set_random_seed(5)
    script(opened(tmp_path / "halves"), last=False)
    keras.utils.set_random_seed(5)
    halves = opened(tmp_path / "halves")
    assert script(halves, last=True) == expected
    assert equal(weights(halves, "child"), weights(whole, "child"))
    keras.utils.set_random_seed(99)  # what is stored counts
    again = opened(tmp_path / "halves")
    child(again, "other", epochs=2)
    assert equal(weights(again, "other"), weights(whole, "child"))


def test_metrics_that_are_missing_are_told_before_the_second_epoch(tmp_path):
    with pytest.raises(OptionError, match="watch='f1': there is no such metric; there are acc"):
        one_stage(opened(tmp_path), watch="f1", epochs=50)


def test_a_lambda_is_told_by_its_code_and_never_unpickled(tmp_path):
    compiled = adam() | {"loss": lambda true, predicted: LOSS(true, predicted)}
    one_stage(opened(tmp_path), compiled=compiled)
    text = (tmp_path / "adam.stage.json").read_text()
    assert "__lambda__" not in text
    assert "config" not in json.loads(text)["compile"]["loss"]
    with pytest.raises(CheckpointError, match="the loss of stage 'adam' cannot be made"):
        opened(tmp_path).load("adam")
