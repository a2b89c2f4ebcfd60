"""A script of three stages on handwritten digits, that trains what is new and nothing twice.

    python examples/stages.py        # trains
    python examples/stages.py        # takes all of it from the store

Kill it whenever you like, change it, add a stage: what is trained already is loaded. Everything is
written to examples/stages/; `keras-lc ls examples/stages/run` shows the stages.
"""

import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

from keras_lc.stages import Run

HERE = Path(__file__).parent / "stages"


def build_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def main():
    begin = time.perf_counter()
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    train, test = (images[:1200], labels[:1200]), (images[1500:], labels[1500:])
    options = {"validation_data": (images[1200:1500], labels[1200:1500]), "verbose": 0}
    best = {"watch": "val_accuracy", "load_best": True}

    run = Run(HERE / "run", build_model, description="digits, 8 x 8 pixels")
    with run.stage("adam", description="Adam for 12 + 8 epochs") as stage:
        stage.compile(
            optimizer=keras.optimizers.Adam(5e-4),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        stage.fit(*train, epochs=12, **best, **options)
        stage.fit(*train, epochs=8, **best, **options)
        stage.plot_history(HERE / "adam.png")

    rates = run.cached("adam").find_lr(*train, optimizer="sgd", batch_size=16, epochs=2)
    rates.plot(HERE / "rates.png")
    print(f"SGD goes on at a rate of {rates.suggestion}")

    with run.stage("sgd", description="SGD from there") as stage:
        stage.compile(optimizer=keras.optimizers.SGD(rates.suggestion, momentum=0.9))
        stage.fit(*train, epochs=10, warmup=1, **best, **options)

    with run.stage("longer", parent="adam", description="instead, more of Adam") as stage:
        stage.fit(*train, epochs=10, patience=4, **best, **options)

    for name in ("adam", "sgd", "longer"):
        print(f"{name}: accuracy {run.cached(name).evaluate(*test)['accuracy']:.4f}")
    print(run.tree())
    print(f"{time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    main()
