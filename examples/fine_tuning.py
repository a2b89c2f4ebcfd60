"""Fine-tuning with frozen layers: a delta costs what has changed, and they have not.

    python examples/fine_tuning.py

A model learns the digits from 0 to 4. Its body, out of the best checkpoint, gets a new head and
learns those from 5 to 9: once as a whole, once frozen, each checkpoint stored bit for bit.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

from keras_lc import LCModelCheckpoint, list_checkpoints, restore

HERE = Path(__file__).with_suffix("")


def with_head(body):
    """A compiled model of a body and a new head for five classes."""
    model = keras.Sequential([keras.Input((64,)), body, keras.layers.Dense(5, name="head")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def train(model, name, digits):
    images, labels = load_digits(return_X_y=True)
    wanted = [label in digits for label in labels]
    x, y = images[wanted] / 16, labels[wanted] - digits[0]
    save = LCModelCheckpoint(HERE / name / "cp-{epoch:04d}", codec="lossless")
    model.fit(x, y, epochs=5, validation_split=0.2, verbose=0, callbacks=[save])
    return model


def pretrained_body():
    """What the first training has learned."""
    return restore(HERE / "first" / "best").model.get_layer("body")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    dense = [keras.layers.Dense(256, activation="relu") for _ in range(2)]
    train(with_head(keras.Sequential(dense, name="body")), "first", range(5))

    train(with_head(pretrained_body()), "whole", range(5, 10))
    body = pretrained_body()
    body.trainable = False
    train(with_head(body), "frozen", range(5, 10))

    for name in ("whole", "frozen"):
        base, *_, last = list_checkpoints(HERE / name)
        print(
            f"{name:6}: base {base.nbytes:9,} bytes, last delta {last.nbytes:9,} bytes, "
            f"validation accuracy {last.logs['val_accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
