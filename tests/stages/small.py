"""A small run: two classes, a model with dropout, and what a script does with them."""

import keras
import numpy as np
from models import X, Y, state

from keras_lc.stages import Run

VALIDATION = (X[:20], Y[:20])
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Epochs(keras.callbacks.Callback):
    """Counts the epochs that are really trained."""

    trained = 0

    def on_epoch_end(self, epoch, logs=None):
        Epochs.trained += 1


def build(units=6):
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )


def opened(directory, build_model=build, **options):
    """A run as another process would open it."""
    return Run(directory, build_model, **{"verbose": 0} | options)


def adam(rate=0.01):
    return {
        "optimizer": keras.optimizers.Adam(rate),
        "loss": LOSS,
        "metrics": ["accuracy"],
        "run_eagerly": True,
    }


def fit(stage, x=X, y=Y, epochs=2, callbacks=(), **options):
    """A fit of two batches an epoch."""
    options = {"batch_size": 30, "verbose": 0, "validation_data": VALIDATION} | options
    return stage.fit(x, y, epochs=epochs, callbacks=[Epochs(), *callbacks], **options)


def trained(work):
    """How many epochs are trained, and what comes of it."""
    before = Epochs.trained
    result = work()
    return Epochs.trained - before, result


def one_stage(run, name="adam", rate=0.01, compiled=None, **options):
    """Its only fit."""
    with run.stage(name, **{"parent": None} | options.pop("stage", {})) as stage:
        stage.compile(**compiled or adam(rate))
        return fit(stage, **options)


def child(run, name="child", parent="adam", compiled=None, **options):
    with run.stage(name, parent=parent, **options.pop("stage", {})) as stage:
        if compiled:
            stage.compile(**compiled)
        return fit(stage, **options)


def weights(run, *which, **options):
    """All variables of a state that is stored."""
    return [np.array(array) for array in state(run.load(*which, **options))]
