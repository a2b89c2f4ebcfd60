"""What each way to save a Keras model holds: the table of the chapter, found out by doing it.

    python tutorial/formats.py

A small model is trained for four epochs on digits and saved in each format. What is read back, in
a session of its own, is compared with what was saved, bit for bit. Orbax needs
`pip install orbax-checkpoint`; without it, its row is left out.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from lesson import digits

from keras_lc import LCModelCheckpoint, list_checkpoints, restore_latest

HEAD = ("format", "architecture", "weights", "optimizer", "random states", "epoch", "bytes")


@dataclass(frozen=True)
class Format:
    """A way to save, and the way back.

    Attributes:
        save: called with the model and a path; None where a callback has saved.
        load: called with the path and a new model; gives a model, or what it has become.
        rebuilds: whether `load` needs no model.
    """

    name: str
    file: str
    save: Callable[[Any, Path], Any] | None
    load: Callable[[Path, Any], Any]
    rebuilds: bool = False


def into(load: Callable[[Path, Any], Any]) -> Callable[[Path, Any], Any]:
    """A load that gives back the model into which it has loaded."""
    return lambda path, model: (load(path, model), model)[1]


def tensorflow_restore(path, model):
    tf.train.Checkpoint(model=model).restore(f"{path / 'cp'}-1").assert_consumed()


FORMATS = [
    Format(
        "`.keras`", "model.keras", lambda model, path: model.save(path),
        lambda path, model: keras.saving.load_model(path), rebuilds=True,
    ),
    Format(
        "`.weights.h5`", "model.weights.h5", lambda model, path: model.save_weights(path),
        into(lambda path, model: model.load_weights(path)),
    ),
    Format(
        "SavedModel", "exported", lambda model, path: model.export(path, verbose=False),
        lambda path, model: tf.saved_model.load(path), rebuilds=True,
    ),
    Format(
        "TensorFlow checkpoint", "checkpoint",
        lambda model, path: tf.train.Checkpoint(model=model).save(path / "cp"),
        into(tensorflow_restore),
    ),
    Format(
        "Orbax, `load_model`", "orbax", None,
        lambda path, model: keras.saving.load_model(path), rebuilds=True,
    ),
    Format(
        "Orbax, `load_weights`", "orbax", None,
        into(lambda path, model: model.load_weights(path)),
    ),
    Format(
        "`keras_lc`", "training", None,
        lambda path, model: restore_latest(path, model).model, rebuilds=True,
    ),
]  # fmt: skip


def build():
    """The compiled model, its optimizer built: else Keras has nowhere to put what it reads."""
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((28, 28)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    return model


def state(model):
    """Weights, optimizer and seeds, each a list of arrays."""
    weights = {id(variable) for variable in model.weights}
    seeds = [variable for variable in model.variables if id(variable) not in weights]
    parts = (model.weights, model.optimizer.variables, seeds)
    return [[variable.numpy() for variable in part] for part in parts]


def rows() -> Iterator[tuple[str, ...]]:
    """A row of the table for each format."""
    (x, y), _ = digits()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        model = build()
        callbacks = [LCModelCheckpoint(directory / "training" / "cp-{epoch:04d}")]
        formats = FORMATS
        if find_spec("orbax"):
            callbacks.append(keras.callbacks.OrbaxCheckpoint(str(directory / "orbax")))
        else:
            formats = [one for one in FORMATS if one.file != "orbax"]
        model.fit(x, y, epochs=4, verbose=0, callbacks=callbacks)
        saved, told = state(model), model.predict(x, verbose=0)
        for one in formats:
            path = directory / one.file
            if one.save is not None:
                one.save(model, path)
            keras.backend.clear_session()  # as a new process: names begin from the start
            back = one.load(path, None if one.rebuilds else build())
            architecture = "yes" if one.rebuilds else "no"
            if isinstance(back, keras.Model):
                parts = [same(*pair) for pair in zip(saved, state(back), strict=True)]
            else:
                architecture = "its function"
                parts = [word(np.allclose(back.serve(x), told, atol=1e-5)), "no", "no"]
            epoch = "yes" if one.file == "training" else "no"
            yield one.name, architecture, *parts, epoch, size(path)


def same(saved, loaded) -> str:
    return word(
        len(saved) == len(loaded)
        and all(np.array_equal(one, other) for one, other in zip(saved, loaded, strict=True))
    )


def word(right) -> str:
    return "yes" if right else "no"


def size(path: Path) -> str:
    """Bytes of one checkpoint; where later ones are smaller, of the first and of the third."""
    chain = list_checkpoints(path) if path.is_dir() else []
    if chain:
        return f"{chain[0].nbytes:,}, then {chain[2].nbytes:,}"
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()):,}"


def main():
    for row in (HEAD, ["---"] * len(HEAD), *rows()):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
