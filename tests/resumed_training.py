"""A training that resumes by itself; for a parent that kills it, or a test that does not.

The environment of the script is that of a user: a seed, a model, data, `fit`. Each life is a
process of its own, which takes options of `live`.
"""

import functools
import json
import os
import random
import signal

import keras
import numpy as np
from forks import serve
from models import X, Y, state

from keras_lc import LCModelCheckpoint

BATCHES = 6


class Batches(keras.utils.PyDataset):
    """Its own order, shuffled anew after each epoch."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(5)
        self.order = self.rng.permutation(len(X))

    def __len__(self):
        return BATCHES

    def __getitem__(self, i):
        rows = self.order[10 * i : 10 * i + 10]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(X))


def generated():
    """Batches without end."""
    rng = np.random.default_rng(6)
    while True:
        rows = rng.integers(0, len(X), 10)
        yield X[rows], Y[rows]


def tf_data():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(60, seed=4).batch(10).prefetch(1)


def torch_loader():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    generator = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(data, batch_size=10, shuffle=True, generator=generator)


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 10},
    "arrays, batches shuffled": lambda: {"x": X, "y": Y, "batch_size": 10, "shuffle": "batch"},
    "arrays, some steps": lambda: {"x": X, "y": Y, "batch_size": 10, "steps_per_epoch": 6},
    "tf.data": lambda: {"x": tf_data()},
    "tf.data, some steps": lambda: {"x": tf_data().repeat(), "steps_per_epoch": 6},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": generated(), "steps_per_epoch": 6},
    "DataLoader": lambda: {"x": torch_loader()},
}


@functools.cache
def compiled(at_once):
    """A model with dropout, statistics, and metrics with a state, and what it began with; made
    once in a process, since compiling takes longest."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=at_once,
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    begin = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    if keras.backend.backend() != "tensorflow" and __name__ != "__main__":
        model.fit(X[:10], Y[:10], verbose=0)  # the first fit draws a batch to build metrics
    return model, variables, begin


def fresh(at_once=1):
    """The model as a script makes it that begins with a seed."""
    model, variables, begin = compiled(at_once)
    keras.utils.set_random_seed(1)
    for variable, value in zip(variables, begin, strict=True):
        variable.assign(value)
    return model


class Kill(keras.callbacks.Callback):
    """Sends this process a signal, or None raises an error, after so many batches of an epoch."""

    def __init__(self, saves, when, sent):
        super().__init__()
        self.saves = saves
        self.when = when
        self.sent = sent
        self.epoch = 0
        self.on_train_batch_end = self._batch

    def send(self):
        self.saves.wait()
        if self.sent is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self.sent)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.when == [epoch, 0]:
            self.send()

    def _batch(self, batch, logs=None):
        if self.when == [self.epoch, batch + 1]:
            self.send()


class Noise(keras.callbacks.Callback):
    """Draws from the random states of the process as training goes on, as a layer may."""

    def on_train_batch_end(self, batch, logs=None):
        for _ in range(1 + int(self.model.optimizer.iterations) % 3):
            np.random.standard_normal()
            random.random()


def train(directory, data="arrays", epochs=4, kill=None, sent="SIGKILL", at_once=1, **options):
    """Train to the end or to the kill; what came out of it."""
    model = fresh(at_once)
    callbacks = [
        Noise(),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.05, cooldown=1),
    ]
    saves = None
    if directory is not None:
        saves = LCModelCheckpoint(
            f"{directory}/cp-{{epoch:02d}}-{{batch:02d}}"
            if isinstance(options.get("save_freq"), int)
            else f"{directory}/cp-{{epoch:02d}}",
            **{"codec": "lossless", "resume": True} | options,
        )
        callbacks.insert(2, saves)
        if kill is not None:
            callbacks.append(Kill(saves, list(kill), sent and signal.Signals[sent]))
    history = model.fit(
        **DATA[data](),
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
        validation_data=(X[:20], Y[:20]),
    )
    stop = callbacks[-2 if kill is not None and saves else -1]
    return {
        "state": state(model),
        "history": history.history,
        "epochs": history.epoch,
        "plateau": [stop.wait, stop.best, stop.cooldown_counter],
        "random": [
            float(np.random.random()),
            random.random(),
            keras.random.uniform((1,)).__array__().tolist(),
        ],
        "exit": saves.exit_code if saves else 0,
        "initial_epoch": model._initial_epoch,
    }


def live(finished, **options):
    """One life of a training; what came out of it is told, and its state put into a file."""
    found = train(**options)
    arrays = found.pop("state")
    if finished is not None:
        np.savez(finished, *arrays)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(live)
