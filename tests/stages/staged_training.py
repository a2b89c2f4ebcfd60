"""A script of three stages; for a parent that kills it. Each life is a process of its own, which
takes options of `live`."""

import json
import os
import random
import signal

import keras
import numpy as np
from forks import serve
from models import X, Y, state

from keras_lc.stages import Run
from tests.stages.small import LOSS, VALIDATION, Epochs


class Kill(keras.callbacks.Callback):
    """Sends this process SIGKILL when an epoch of a certain fit begins."""

    at = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.at == epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def build():
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )


def script(directory, until=3, kill=None):
    """As a user writes it: a seed, stages, and numbers that are drawn in between."""
    keras.utils.set_random_seed(1)
    run = Run(directory, build, verbose=0)
    drawn = []

    def fit(stage, number, epochs, **options):
        drawn.append([np.random.random(), random.random()])
        callbacks = [Epochs(), keras.callbacks.ReduceLROnPlateau("loss", patience=1), Kill()]
        if kill and kill[:2] == [stage.id, number]:
            callbacks[-1].at = kill[2]  # no argument, so that it is the same call
        options = {"batch_size": 10, "verbose": 0, "validation_data": VALIDATION} | options
        return stage.fit(X, Y, epochs=epochs, callbacks=callbacks, **options).history

    told = []
    with run.stage("adam") as stage:
        stage.compile(optimizer=keras.optimizers.Adam(0.05), loss=LOSS, metrics=["accuracy"])
        told.append(fit(stage, 1, 6, watch="val_accuracy", load_best=True))
        told.append(fit(stage, 2, 2))
    if until > 1:
        with run.stage("sgd") as stage:
            stage.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
            told.append(fit(stage, 1, 3, warmup=1))
    if until > 2:
        with run.stage("more", parent="adam") as stage:
            told.append(fit(stage, 1, 3, watch="val_loss", load_best=True))
        told.append(run.cached("more").evaluate(X, Y))
    return run, {"told": told, "drawn": drawn}


def live(finished, **options):
    """One life; what came out of it is told, and the states of its stages put into a file."""
    run, found = script(**options)
    found["trained"] = Epochs.trained
    if finished is not None:
        arrays = [array for name in ("adam", "sgd", "more") for array in state(run.load(name))]
        np.savez(finished, *arrays)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(live)
