"""Side by side with `keras.callbacks.ModelCheckpoint`: the same events, arguments and logs give
the same checkpoints, under the same names and of the same states, with the same words."""

from __future__ import annotations

import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from models import dense, fit

from keras_lc import CheckpointError, LCModelCheckpoint, list_checkpoints
from keras_lc.listing import strip_suffix
from keras_lc.loader import load_named

NAN = float("nan")
FALLING, TURNING = [0.9, 0.8, 0.7, 0.6], [0.9, 0.5, 0.7, 0.4]
Event = tuple[str, int, dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Its one weight counts the batches; trained once, so that its metrics are built."""
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile("sgd", "mse", metrics=["accuracy"])
    model.fit(np.zeros((2, 1)), np.zeros((2, 1)), verbose=0)
    return model


def training(values: list[Any], batches: int = 4, steps: int = 1) -> Iterator[Event]:
    """The events of a training whose logs are these values, one an epoch; `steps` batches at a
    time."""
    for epoch, value in enumerate(values):
        yield "epoch_begin", epoch, {}
        for batch in range(steps - 1, batches, steps):
            part = value if np.ndim(value) else value + 0.01 * (batch % 3)
            yield "train_batch_end", batch, {"loss": part, "accuracy": -part}
        logs = {"loss": value, "accuracy": -value, "val_loss": value, "val_accuracy": -value}
        yield "epoch_end", epoch, logs


@dataclass
class Outcome:
    """What a callback did: the checkpoints and the batch that each is of, and its words."""

    saved: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    error: BaseException | None = None


def run(make: Any, events: Iterable[Event], model: keras.Model, directory: Path) -> Outcome:
    """Make a callback and lead it through the events."""
    outcome, batches, out = Outcome(), 0.0, io.StringIO()
    directory.mkdir()
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(out):
        warnings.simplefilter("always")
        try:
            callback = make(directory)
            callback.set_params({"epochs": 4})
            callback.set_model(model)
            callback.on_train_begin()
            for event, number, logs in events:
                batches += event == "train_batch_end"
                model.weights[0].assign([[batches]])
                getattr(callback, f"on_{event}")(number, logs)
            callback.on_train_end()
        except Exception as error:
            outcome.error = error
    outcome.warned = [_plain(str(one.message), directory) for one in caught if _counts(one)]
    outcome.said = [_plain(line, directory) for line in out.getvalue().splitlines() if line]
    outcome.saved = dict(_saved(directory))
    return outcome


def _counts(warning: warnings.WarningMessage) -> bool:
    """Not what Keras and numpy say of themselves."""
    return issubclass(warning.category, UserWarning) and "HDF5 file" not in str(warning.message)


def _plain(text: str, directory: Path) -> str:
    """Without suffixes, the directory, our class's name, and the figures that Keras lacks."""
    text = text.replace(str(directory), "").replace("LCModel", "Model")
    text = re.sub(r" \([^()]* s\)$", "", text)
    return re.sub(r"(\.weights\.h5|\.keras)\b", "", text)


def _saved(directory: Path) -> Iterator[tuple[str, float]]:
    ours = list_checkpoints(directory)
    for checkpoint in ours:
        arrays = load_named(checkpoint.path).decoder.reconstruction
        yield Path(checkpoint.path).name, float(arrays["weights/0"].item())
    for path in [] if ours else directory.iterdir():
        file: Any = path
        if path.suffix == ".keras":
            file = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
        with h5py.File(file, "r") as h5:
            yield strip_suffix(path.name), float(h5["layers/dense/vars/0"][0, 0])


def both(
    tmp_path: Path,
    model: keras.Model,
    template: str,
    events: list[Event],
    mended: bool = False,
    suffix: str = ".weights.h5",
    background: bool = True,
    **options: Any,
) -> tuple[Outcome, Outcome]:
    """Keras' and ours. Keras' is `mended` where it would crash, since it learns what an
    improvement is only at the end of an epoch."""

    def plain(directory: Path) -> Any:
        ending = ".weights.h5" if options.get("save_weights_only") else ".keras"
        callback = keras.callbacks.ModelCheckpoint(directory / (template + ending), **options)
        if mended:
            callback.set_model(model)
            callback._set_monitor_op()
        return callback

    def ours(directory: Path) -> Any:
        path = directory / (template + suffix)
        return LCModelCheckpoint(path, codec="lossless", background=background, **options)

    theirs = run(plain, events, model, tmp_path / "plain")
    return theirs, run(ours, events, model, tmp_path / "ours")


def assert_same(theirs: Outcome, ours: Outcome, background: bool = True) -> None:
    assert ours.saved == theirs.saved
    if background:  # that a save has finished is said when it has
        for outcome in (theirs, ours):
            outcome.said.sort(key=lambda line: "finished" in line)
    assert ours.said == theirs.said
    assert ours.warned == theirs.warned
    assert isinstance(ours.error, type(theirs.error))
    if theirs.error is not None:
        told = theirs.error.args[0].partition(': "')[0]  # up to the path
        assert told in str(ours.error).replace("LCModel", "Model")


def grid(*axes: Iterable[Any]) -> list[Any]:
    """All combinations; two of three take part in the slow run only."""
    every = itertools.product(*axes)
    return [pytest.param(*c, marks=pytest.mark.slow if i % 3 else ()) for i, c in enumerate(every)]


BEST = [
    {"monitor": monitor, "mode": mode, "initial_value_threshold": threshold, "verbose": 1}
    for monitor, mode, threshold in itertools.product(
        ["val_loss", "accuracy", "missing"], ["auto", "min", "max", "odd"], [None, 0.6]
    )
]
VALUES = {
    "falling": FALLING,
    "turning": TURNING,
    "nan": [0.9, NAN, 0.7, 0.8],
    "array": [np.array([0.9, 0.8]), 0.7, np.array([0.6, 0.5])],
}


@pytest.mark.parametrize(("options", "values"), grid(BEST, VALUES))
def test_what_is_best_is_decided_as_keras_does(
    tmp_path: Path, model: keras.Model, options: dict[str, Any], values: str
) -> None:
    events = list(training(VALUES[values], batches=1))
    options = options | {"save_best_only": True, "background": False}
    theirs, ours = both(tmp_path, model, "x{epoch}", events, **options)
    assert_same(theirs, ours, background=False)


@pytest.mark.parametrize(
    ("save_freq", "steps", "best", "monitor"),
    grid([1, 3, 5, "epoch"], [1, 2, 4], [False, True], ["loss", "val_loss"]),
)
def test_batches_are_counted_as_keras_does(
    tmp_path: Path, model: keras.Model, save_freq: Any, steps: int, best: bool, monitor: str
) -> None:
    template = "{epoch}" if save_freq == "epoch" else "{epoch:02d}-{batch:03d}"
    events = list(training(TURNING[:3], steps=steps))
    options = {"save_freq": save_freq, "save_best_only": best, "monitor": monitor, "verbose": 1}
    theirs, ours = both(tmp_path, model, template, events, mended=best, **options)
    assert_same(theirs, ours)
    assert theirs.error is None


TEMPLATES = ["x", "{epoch:04d}", "{epoch}-{val_loss:.2f}", "{loss:.3f}", "{batch}", "{nothing}"]
SUFFIXES = ["", ".weights.h5", ".keras", ".h5"]


@pytest.mark.parametrize(
    ("template", "suffix", "weights_only", "verbose"),
    grid(TEMPLATES, SUFFIXES, [False, True], [0, 1]),
)
def test_names_are_filled_in_as_keras_does(
    tmp_path: Path,
    model: keras.Model,
    template: str,
    suffix: str,
    weights_only: bool,
    verbose: int,
) -> None:
    events = list(training(TURNING[:3], batches=1))
    options = {"save_weights_only": weights_only, "verbose": verbose, "suffix": suffix}
    theirs, ours = both(tmp_path, model, template, events, **options)
    assert_same(theirs, ours)


@pytest.mark.parametrize("save_freq", [1.5, "batch", None])
def test_what_keras_refuses_as_a_frequency_is_refused(save_freq: Any) -> None:
    for make in (keras.callbacks.ModelCheckpoint, LCModelCheckpoint):
        with pytest.raises(ValueError, match="Unrecognized save_freq"):
            make("x.keras", save_freq=save_freq)


def test_the_count_goes_on_in_the_next_fit(tmp_path: Path, model: keras.Model) -> None:
    once = list(training(TURNING[:1]))
    theirs, ours = both(tmp_path, model, "x{epoch}-{batch}", once + once, save_freq=3)
    assert_same(theirs, ours)
    assert theirs.saved == {"x1-3": 3.0, "x1-2": 6.0}


def test_a_loop_of_ones_own_may_leave_out_the_beginning(tmp_path: Path, model: keras.Model) -> None:
    for name, make in {"plain": keras.callbacks.ModelCheckpoint, "ours": LCModelCheckpoint}.items():
        callback = make(tmp_path / name / "x{epoch}.keras")
        callback.set_model(model)
        callback.on_epoch_end(0, {})
        callback.on_epoch_end(1, {})
        callback.on_train_end()
    assert [Path(one.path).name for one in list_checkpoints(tmp_path / "ours")] == ["x1", "x2"]


def test_in_a_fit_they_say_the_same_and_ours_how_much_it_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    falling = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_loss=1.0 / (epoch + 1))
    )
    ours = LCModelCheckpoint(tmp_path / "x{epoch}", "val_loss", 1, True)
    plain = keras.callbacks.ModelCheckpoint(tmp_path / "x{epoch}.keras", "val_loss", 1, True)
    fit(dense(units=128), [falling, plain, ours])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    theirs = [line.replace(".keras", "") for line in lines if ".keras" in line]
    lines = [line for line in lines if ".keras" not in line]
    assert len(theirs) == 6
    figures = re.compile(r" \([\d.]+ k?B(?:, ([\d.]+)x smaller)?, \d+\.\d\d s\)$")
    assert sorted(figures.sub("", line) for line in lines) == sorted(theirs)
    ratios = [found[1] for line in lines if (found := figures.search(line))]
    assert ratios.pop(0) is None  # a base is no smaller
    state = 4 * 3 * 1410  # bytes: weights and two moments of each, beside some counters
    for ratio, info in zip(ratios, list_checkpoints(tmp_path)[1:], strict=True):
        assert float(ratio) == pytest.approx(state / info.nbytes, abs=0.1)


def test_ours_is_silent_where_keras_is(
    tmp_path: Path, model: keras.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.disable_interactive_logging()
    try:
        ours = LCModelCheckpoint(tmp_path / "x{epoch}", verbose=1)
        fit(dense(), [ours], epochs=2)
    finally:
        keras.utils.enable_interactive_logging()
    assert capsys.readouterr().out == ""


# Where Keras is wrong, and what happens here instead.


def test_the_best_of_batches_is_a_crash_in_keras(tmp_path: Path, model: keras.Model) -> None:
    options = {"save_best_only": True, "monitor": "loss", "save_freq": 2}
    theirs, ours = both(tmp_path, model, "x{batch}", list(training(FALLING)), **options)
    assert isinstance(theirs.error, TypeError)
    assert ours.error is None
    assert len(ours.saved) == 2


def test_a_first_nan_ends_all_saving_in_keras(tmp_path: Path, model: keras.Model) -> None:
    events = list(training([NAN, 0.7, 0.8, 0.6], batches=1))
    theirs, ours = both(tmp_path, model, "x{epoch}", events, save_best_only=True)
    assert theirs.saved == {"x1": 1.0}
    assert ours.saved == {"x1": 1.0, "x2": 2.0, "x4": 4.0}


def test_a_monitor_that_is_not_used_is_an_error_in_keras(
    tmp_path: Path, model: keras.Model
) -> None:
    events = list(training(FALLING, batches=1))
    theirs, ours = both(tmp_path, model, "x{epoch}", events, monitor="unknown")
    assert isinstance(theirs.error, ValueError)
    assert ours.error is None
    assert len(ours.saved) == 4


@pytest.mark.parametrize("save_freq", [0, -1, True])
def test_no_number_of_batches_saves_each_one_in_keras(
    tmp_path: Path, model: keras.Model, save_freq: int
) -> None:
    events = list(training(FALLING[:1]))
    theirs, ours = both(tmp_path, model, "{batch}", events, save_freq=save_freq)
    assert len(theirs.saved) == 4
    assert isinstance(ours.error, CheckpointError)
