"""A checkpoint becomes a file for people who have no keras_lc: `.keras`, and others.

    python examples/exporting.py

The `.keras` file is loaded with Keras alone, and tells the same as the model that was trained.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_lc import LCModelCheckpoint, export

HERE = Path(__file__).with_suffix("")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    save = LCModelCheckpoint(HERE / "training" / "cp-{epoch:04d}")
    model.fit(x, y, epochs=3, verbose=0, callbacks=[save])

    for name in ("digits.keras", "digits.weights.h5", "digits.safetensors", "digits.npz"):
        export(HERE / "training" / "latest", HERE / name)
        print(f"{name}: {(HERE / name).stat().st_size:,} bytes")

    loaded = keras.saving.load_model(HERE / "digits.keras")
    same = np.allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    print("the loaded model tells the same" if same else "THE LOADED MODEL TELLS SOMETHING ELSE")


if __name__ == "__main__":
    main()
