"""The best checkpoint is kept for later, the newest ones to go on from: two callbacks in one `fit`.

    python examples/keep_best.py

Each writes a chain of its own. What `save_best_only` has kept is exact, and is restored as
`best:val_accuracy`.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

from keras_lc import LCModelCheckpoint, list_checkpoints, restore

HERE = Path(__file__).with_suffix("")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    best = LCModelCheckpoint(
        HERE / "best" / "cp-{epoch:04d}",
        monitor="val_accuracy",
        save_best_only=True,
        codec="lossless",
    )
    newest = LCModelCheckpoint(HERE / "newest" / "cp-{epoch:04d}", max_to_keep=3)
    model.fit(x, y, epochs=12, validation_split=0.3, verbose=0, callbacks=[best, newest])

    for directory in ("best", "newest"):
        print(f"{directory}:")
        for one in list_checkpoints(HERE / directory):
            name, accuracy = Path(one.path).name, one.logs["val_accuracy"]
            print(f"  {name}: {one.kind:5} {one.nbytes:7,} bytes, accuracy {accuracy:.4f}")
    restored = restore(HERE / "best" / "best:val_accuracy", model)
    result = model.evaluate(x[-540:], y[-540:], verbose=0, return_dict=True)
    print(f"restored epoch {restored.epoch}: accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
