"""One side of checkpoints that cross from one backend to another: saves them, or restores them.

crossing.py save DIRECTORY
crossing.py restore RESULTS DIRECTORY...
"""

import sys

import keras
import numpy as np

from keras_lc import restore_latest
from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import Checkpointer
from tests.capture.kinds import KINDS, everything, train

CROSSING = [
    "accumulating", "bfloat16", "embedding", "lora", "loss scaling", "mixed_float16", "nested",
    "pair", "seeded", "several",
]  # fmt: skip


def save(directory):
    for kind in CROSSING:
        model = train(KINDS[kind](), 1)
        capture, checkpointer = KerasCapture(model), Checkpointer(f"{directory}/{kind}", "lossless")
        checkpointer.save(capture.described(capture.snapshot()), "cp-1", epoch=1)
        checkpointer.wait()
        train(model, 1, seed=1)
        checkpointer.save(capture.snapshot(), "cp-2", epoch=2)
        checkpointer.close()
        np.savez(f"{directory}/{kind}.npz", *map(as_bits, everything(model)))


def restore(results, *directories):
    for directory in directories:
        name = directory.rstrip("/").rsplit("/", 1)[-1]
        for kind in CROSSING:
            own, rebuilt = KINDS[kind](), restore_latest(f"{directory}/{kind}").model
            restore_latest(f"{directory}/{kind}", own)
            for way, model in {"own": own, "rebuilt": rebuilt}.items():
                np.savez(f"{results}/{name}-{kind}-{way}.npz", *map(as_bits, everything(model)))
            assert finite(train(own, 1)), f"{kind} of {name} does not train on"


def as_bits(array):
    """What numpy alone can store: whole numbers as they are, other types as their bits."""
    return array.astype("int64") if array.dtype.kind in "iu" else array.view(f"u{array.itemsize}")


def finite(model):
    return all(np.isfinite(array.astype("float64")).all() for array in everything(model))


if __name__ == "__main__":
    keras.utils.set_random_seed(1)
    {"save": save, "restore": restore}[sys.argv[1]](*sys.argv[2:])
