"""How long the newest of a chain of checkpoints takes to restore, beside Keras' own load_weights.

    python tests/benchmarks/restore.py --chain 1 8 64

A model of dense layers with Adam (151 MB of weights and moments) is trained on noise, a
checkpoint a step; the whole chain is of one base. It is measured at each length that is asked for.
Both sides restore into the same built model, from the page cache, several times in turn, medians.
`ModelCheckpoint`'s file holds the same state.
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


def callback(directory, codec, most):
    template = directory / "cp-{epoch:04d}"
    return LCModelCheckpoint(template, codec=codec, final_codec=codec, keyframe_every=most + 1)


def train(model, save, begin, end):
    """An epoch, which is one step, for each checkpoint."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, SIDE)).astype("float32")
    y = np.roll(x, 1, axis=1)
    model.fit(x, y, initial_epoch=begin, epochs=end, batch_size=16, verbose=0, callbacks=[save])


def timed(work, *arguments):
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def measure(chains, codec, layers, rounds):
    """For each length the times of both sides, the size of the state and of the directory."""
    with tempfile.TemporaryDirectory() as scratch:
        directory, whole = Path(scratch) / "training", Path(scratch) / "whole.weights.h5"
        model = build(layers)
        save = callback(directory, codec, max(chains))
        for begin, end in zip([0, *chains], chains, strict=False):
            train(model, save, begin, end)
            assert len(list_checkpoints(directory)) == end
            model.save_weights(whole)
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(timed(model.load_weights, whole))
                ours.append(timed(restore_latest, directory, model))
            size = sum(path.stat().st_size for path in directory.iterdir())
            yield end, median(ours), median(theirs), whole.stat().st_size, size


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chain", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--codec", nargs="+", default=["balanced", "fast", "lossless"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| codec | chain | state, MB | directory, MB | Keras, s | keras_lc, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for codec in options.codec:
        for row in measure(sorted(options.chain), codec, options.layers, options.rounds):
            steps, ours, theirs, state, size = row
            print(
                f"| {codec} | {steps} | {state / 1e6:.0f} | {size / 1e6:.0f} | {theirs:.3f} "
                f"| {ours:.3f} | {ours / theirs:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
