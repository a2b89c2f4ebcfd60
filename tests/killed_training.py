"""A training that goes on from its newest checkpoint; for a parent that kills it."""

import sys

import keras
import numpy as np
from models import dense, fit, state

from keras_lc import LCModelCheckpoint, restore_latest


def main(directory, epochs, finished):
    keras.utils.set_random_seed(1)
    model = dense()
    restored = restore_latest(directory, model)
    begin = restored.epoch if restored else 0
    print(f"from {begin}", flush=True)
    callback = LCModelCheckpoint(f"{directory}/cp-{{epoch:04d}}", codec="lossless")
    fit(model, [callback], epochs=int(epochs), initial_epoch=begin)
    np.savez(finished, *state(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
