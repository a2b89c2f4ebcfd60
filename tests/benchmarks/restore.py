"""How long the newest of a chain of checkpoints takes to restore, beside Keras' own load_weights.

    python tests/benchmarks/restore.py --chain 1 8 64

A model of dense layers with Adam (158 MB of weights and moments) is trained on noise, a
checkpoint a step; the whole chain is of one base. Both sides restore into the same built model,
from the page cache, several times in turn, medians. `ModelCheckpoint`'s file holds the same state.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_lc import LCModelCheckpoint, list_checkpoints, restore_latest

SIDE = 1024


def build(layers):
    dense = [keras.layers.Dense(SIDE) for _ in range(layers)]
    model = keras.Sequential([keras.Input((SIDE,)), *dense])
    model.compile("adam", "mse")
    return model


def train(model, directory, steps, codec):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * steps, SIDE)).astype("float32")
    save = LCModelCheckpoint(
        directory / "cp-{epoch:04d}-{batch:04d}",
        save_freq=1,
        codec=codec,
        final_codec=codec,
        keyframe_every=steps + 1,
    )
    model.fit(x, np.roll(x, 1, axis=1), batch_size=16, verbose=0, callbacks=[save])


def timed(work, *arguments):
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def measure(steps, codec, layers, rounds):
    with tempfile.TemporaryDirectory() as scratch:
        directory, whole = Path(scratch) / "training", Path(scratch) / "whole.weights.h5"
        model = build(layers)
        train(model, directory, steps, codec)
        model.save_weights(whole)
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(timed(model.load_weights, whole))
            ours.append(timed(restore_latest, directory, model))
        size = sum(path.stat().st_size for path in directory.iterdir())
        assert len(list_checkpoints(directory)) == steps
        return median(ours), median(theirs), whole.stat().st_size, size


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chain", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--codec", nargs="+", default=["balanced", "fast", "lossless"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| codec | chain | state, MB | directory, MB | Keras, s | keras_lc, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for codec in options.codec:
        for steps in options.chain:
            ours, theirs, state, size = measure(steps, codec, options.layers, options.rounds)
            print(
                f"| {codec} | {steps} | {state / 1e6:.0f} | {size / 1e6:.0f} | {theirs:.3f} "
                f"| {ours:.3f} | {ours / theirs:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
