"""A training that a job script starts, and starts again until it is done.

    python train.py DIRECTORY [--epochs 128] [--rate 0.001] [--pause 0]

It goes on from the newest checkpoint in DIRECTORY. Exit codes: 0 when all epochs are done, 75 when
SIGUSR1 or SIGTERM asked it to stop before; then the batch under way was the last, and is saved.
The digits are those of MNIST if KERAS_LC_MNIST names an `mnist.npz`, else scikit-learn's.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_lc import LCModelCheckpoint, list_checkpoints


def digits():
    """Images and labels."""
    if "KERAS_LC_MNIST" in os.environ:
        with np.load(os.environ["KERAS_LC_MNIST"]) as file:
            return file["x_train"] / np.float32(255), file["y_train"]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8).astype("float32") / 16, labels


def build(shape, rate):
    """The compiled model."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--epochs", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--pause", type=float, default=0.0, help="s after each batch, to watch it")
    told = parser.parse_args()

    keras.utils.set_random_seed(0)  # the same batches after a restart
    x, y = digits()
    model = build(x.shape[1:], told.rate)
    saves = LCModelCheckpoint(
        f"{told.directory}/cp-{{epoch:04d}}",
        codec="lossless",  # ends bit for bit as if never stopped; without it, deltas are smaller
        resume=True,
        signals=("SIGUSR1", "SIGTERM"),
    )
    pause = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: time.sleep(told.pause)
    )
    newest = next(reversed(list_checkpoints(told.directory)), None)
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    print(f"attempt {attempt} begins at step {newest.step if newest else 0}", flush=True)
    model.fit(x, y, epochs=told.epochs, verbose=0, callbacks=[saves, pause])
    word = "stopped" if saves.exit_code else "done"
    print(f"attempt {attempt} {word} at step {int(model.optimizer.iterations)}", flush=True)
    sys.exit(saves.exit_code)


if __name__ == "__main__":
    main()
