"""In one `fit` with `keras.callbacks.ModelCheckpoint`, whatever the data and the options: the
same checkpoints, and each restores to the same weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from models import X, Y, dense, equal, fit

from keras_lc import LCModelCheckpoint, list_checkpoints, restore


class Data(keras.utils.PyDataset):
    """Six batches."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return X[10 * i : 10 * i + 10], Y[10 * i : 10 * i + 10]


def generated() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        for i in range(6):
            yield Data()[i]


def tensors() -> dict[str, Any]:
    tf = pytest.importorskip("tensorflow")
    return {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(10), "shuffle": False}


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 10, "shuffle": False},
    "validation": lambda: {"x": X, "y": Y, "batch_size": 10, "validation_data": (X, Y)},
    "generator": lambda: {"x": generated(), "steps_per_epoch": 6, "shuffle": False},
    "PyDataset": lambda: {"x": Data()},
    "tf.data": tensors,
}


def assert_same(directory: Path, count: int, ends: int = 0) -> None:
    """What both have saved into `directory`, ours under `ours`; Keras saves no last states."""
    ours, plain, model = list_checkpoints(directory / "ours"), dense(), dense()
    assert len(ours) == count + ends
    names = {re.sub(r"\.weights\.h5$", "", path.name) for path in directory.glob("*.weights.h5")}
    ours = [one for one in ours if Path(one.path).name in names]
    assert len(ours) == len(names) == count
    plain.optimizer.build(plain.trainable_variables)
    for one in ours:
        restore(one.path, model)
        plain.load_weights(directory / (Path(one.path).name + ".weights.h5"))
        assert equal(model.get_weights(), plain.get_weights())
        assert one.step == plain.optimizer.iterations


def callbacks(directory: Path, template: str, **options: Any) -> list[Any]:
    return [
        LCModelCheckpoint(directory / "ours" / template, codec="lossless", **options),
        keras.callbacks.ModelCheckpoint(
            directory / f"{template}.weights.h5", save_weights_only=True, **options
        ),
    ]


@pytest.mark.parametrize("data", DATA)
def test_whatever_the_data(tmp_path: Path, data: str) -> None:
    template = "{epoch}-{val_loss:.4f}" if data == "validation" else "{epoch}-{loss:.4f}"
    both = callbacks(tmp_path, template)
    dense().fit(**DATA[data](), epochs=2, verbose=0, callbacks=both)
    assert_same(tmp_path, 2)


def test_several_steps_an_execution(tmp_path: Path) -> None:
    model = dense()
    model.compile(model.optimizer, model.loss, steps_per_execution=4)
    both = callbacks(tmp_path, "{epoch}-{batch}", save_freq=3)
    fit(model, both, epochs=3)
    assert_same(tmp_path, len(list(tmp_path.glob("*.weights.h5"))))
    assert len(list_checkpoints(tmp_path / "ours")) >= 3


def test_several_fits_count_on(tmp_path: Path) -> None:
    model, both = dense(), callbacks(tmp_path, "{epoch}-{batch}", save_freq=4)
    fit(model, both, epochs=1)
    fit(model, both, epochs=3, initial_epoch=1)
    assert_same(tmp_path, 4, ends=2)


def test_all_and_the_best_in_one_directory(tmp_path: Path) -> None:
    options = {"monitor": "accuracy", "save_best_only": True}
    both = [*callbacks(tmp_path, "cp-{epoch}"), *callbacks(tmp_path, "best-{epoch}", **options)]
    fit(dense(), both, epochs=4)
    assert_same(tmp_path, len(list(tmp_path.glob("*.weights.h5"))))
