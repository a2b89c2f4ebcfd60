"""A snapshot every 10 batches: a film of the first epochs, where a model learns most.

    python examples/every_n_batches.py

`codec="smallest"` makes the deltas small, `{batch}` in the name tells them apart. A snapshot is a
checkpoint as any other: the last lines go back into the middle of an epoch and train on from there.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

from keras_lc import LCModelCheckpoint, list_checkpoints, restore, skip_batches

HERE = Path(__file__).with_suffix("")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    save = LCModelCheckpoint(
        HERE / "cp-{epoch:04d}-{batch:04d}", save_freq=10, codec="smallest", keyframe_every=100
    )
    model.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=[save])
    for one in list_checkpoints(HERE):
        name, accuracy = Path(one.path).name, one.logs["accuracy"]
        print(f"{name}: {one.kind:5} {one.nbytes:8,} bytes, accuracy so far {accuracy:.3f}")

    restored = restore(HERE / "cp-0002-0033", model)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]
    for inputs, labels in skip_batches(batches, restored.batch):
        model.train_on_batch(inputs, labels)
    print(f"went on from batch {restored.batch} of epoch {restored.epoch + 1} to its end")


if __name__ == "__main__":
    main()
