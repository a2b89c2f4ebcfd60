"""Small Keras models on data that is made here."""

import keras
import numpy as np

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 8)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64")


def dense(optimizer="adam", units=16, metrics=("accuracy",)):
    """A classifier with dropout, compiled."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=list(metrics))
    return model


def fit(model, callbacks=(), epochs=3, **options):
    """Six batches an epoch, without shuffling and without output."""
    options = {"batch_size": 10, "shuffle": False, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def state(model):
    """Every variable of the training state, copied: weights, then seeds, then optimizer."""
    weights = {id(variable) for variable in model.weights}
    seeds = [variable for variable in model.variables if id(variable) not in weights]
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *seeds, *(optimizer.variables if optimizer else [])]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def equal(one, other):
    """Equal in every bit."""
    return len(one) == len(other) and all(
        a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)
    )
