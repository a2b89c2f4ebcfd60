"""What saving costs the training: time that it blocks, batches slowed down, memory.

    python tests/benchmarks/blocking.py

One model of dense layers with Adam (158 MB of weights and moments). Three tables, each with both
sides in one run, in turn, medians:

- blocked: how long a save holds up the training thread, beside `ModelCheckpoint` and beside a
  plain copy of the same bytes from one warm buffer to another;
- slowed: batches of about 100 ms on the same processors as all of the encoding: how much longer
  those beside a save take together than as many of the others around them (median), in shares of
  50 batches, which is what a save at every 50 costs;
- memory: the highest resident memory over many saves above that of the running training, each
  codec in a process of its own; of the first and of the last quarter of the saves, so that a leak
  shows. One save in 20 is the last of a `fit`, and so lossless.

The load average is printed with each table: on a machine that is shared, look at it first.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_lc import LCModelCheckpoint

SIDE = 1024
CODECS = ["balanced", "fast", "lossless"]
EVERY = 50  # batches from one save to the next


def build(layers):
    dense = [keras.layers.Dense(SIDE) for _ in range(layers)]
    model = keras.Sequential([keras.Input((SIDE,)), *dense])
    model.compile(keras.optimizers.Adam(1e-4), "mse")
    return model


def batches(size, count):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size * count, SIDE), np.float32)
    return x, np.roll(x, 1, axis=1)


class Clock(keras.callbacks.Callback):
    """When each batch ended."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def clock(model, data, size, callbacks=(), epoch=0):
    """When each batch of an epoch ended."""
    found = Clock()
    model.fit(
        *data, batch_size=size, shuffle=False, verbose=0, callbacks=[found, *callbacks],
        initial_epoch=epoch, epochs=epoch + 1,
    )  # fmt: skip
    return found.ends


def train(model, data, size, callbacks=(), epoch=0):
    """Seconds a batch, without what comes before the first and after the last."""
    ends = clock(model, data, size, callbacks, epoch)
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1)


def load():
    return f"load average of the last minute: {os.getloadavg()[0]:.1f}"


def clocked(work, *arguments):
    """Milliseconds by the clock, and of this thread on a processor."""
    begin, used = time.perf_counter(), time.thread_time()
    work(*arguments)
    return 1e3 * (time.perf_counter() - begin), 1e3 * (time.thread_time() - used)


def state_of(model):
    """The arrays of weights and optimizer."""
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def row(*cells):
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def head(*cells):
    row(*cells)
    row(*("---" for _ in cells))


def blocked(layers, codecs, rounds):
    """What a save takes of the training thread, with no other in flight."""
    model, data = build(layers), batches(16, 4)
    train(model, data, 16)
    arrays = state_of(model)
    others = [array.copy() for array in arrays]

    def copy():
        for array, other in zip(arrays, others, strict=True):
            np.copyto(other, array)

    size = sum(array.nbytes for array in arrays)
    print(f"\n## Blocked, ms: {size / 1e6:.0f} MB, {rounds} rounds\n")
    head(
        "codec", "of the training thread", "plain copy", "LCModelCheckpoint",
        "ModelCheckpoint .weights.h5", ".keras", "of the copy", "times less than .weights.h5",
        "than .keras",
    )  # fmt: skip
    for codec in codecs:
        with tempfile.TemporaryDirectory() as scratch:
            ours = LCModelCheckpoint(f"{scratch}/cp-{{epoch:04d}}", codec=codec)
            weights = keras.callbacks.ModelCheckpoint(
                f"{scratch}/plain.weights.h5", save_weights_only=True
            )
            whole = keras.callbacks.ModelCheckpoint(f"{scratch}/plain.keras")
            spent = {copy: [], ours: [], weights: [], whole: []}
            for callback in (ours, weights, whole):
                callback.set_params({})
                callback.set_model(model)
                callback.on_train_begin()
            for epoch in range(rounds + 1):  # the first is a base, and warms the buffers
                train(model, data, 16)
                ours.wait()
                spent[copy].append(clocked(copy))
                spent[ours].append(clocked(ours.on_epoch_end, epoch, {}))
                ours.wait()
                spent[weights].append(clocked(weights.on_epoch_end, epoch, {}))
                spent[whole].append(clocked(whole.on_epoch_end, epoch, {}))
            ours.on_train_end()
        for kind, what in enumerate(["time", "processor time"]):
            a, b, c, d = (median(one[kind] for one in each[1:]) for each in spent.values())
            row(
                codec, what, f"{a:.1f}", f"{b:.1f}", f"{c:.0f}", f"{d:.0f}", f"{b / a:.2f}",
                f"{c / b:.0f}", f"{d / b:.0f}",
            )  # fmt: skip
    print(f"\n{load()}")


def slowed(layers, codecs, rounds, milliseconds):
    """What saves cost the batches beside them; nothing but deltas."""
    model, size = build(layers), 64
    train(model, batches(size, 4), size)
    for _ in range(3):
        seconds = train(model, batches(size, 10), size)
        size = max(1, round(size * milliseconds / 1e3 / seconds))
    data, before = batches(size, 2 * EVERY), EVERY // 2
    print(f"\n## Slowed: one save to {EVERY} batches of {size}, {rounds} saves\n")
    head("codec", "a batch, ms", "saved after, s", "slower, %", "each save, %")
    saved = []

    def note(info):
        saved.append(time.perf_counter())

    for codec in codecs:
        with tempfile.TemporaryDirectory() as scratch:
            save = LCModelCheckpoint(
                f"{scratch}/cp-{{epoch:04d}}-{{batch:04d}}", save_freq=2 * EVERY, codec=codec,
                final_codec=codec, on_saved=note,
            )  # fmt: skip
            first = [part[: size * (2 * EVERY - before)] for part in data]
            train(model, first, size, [save])  # a base, and all but `before` batches to a save
            found = []
            for epoch in range(1, rounds + 1):
                saved.clear()
                ends = np.array(clock(model, data, size, [save], epoch))
                spent = np.diff(ends)
                beside = (ends[1:] > ends[before - 1]) & (ends[:-1] < saved[0])
                usual = np.median(spent[~beside])
                slower = (spent[beside] - usual).sum() / (EVERY * usual)
                found.append((1e3 * usual, saved[0] - ends[before - 1], 100 * slower))
        usual, needed, slower = (median(column) for column in zip(*found, strict=True))
        row(
            codec, f"{usual:.1f}", f"{needed:.2f}", f"{slower:+.1f}",
            " ".join(f"{each:+.1f}" for *_, each in found),
        )  # fmt: skip
    print(f"\n{load()}")


def resident(field):
    """Bytes of this process: VmRSS, or VmHWM, the highest since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


def memory_of(layers, codec, saves):
    """A row of the table: resident memory above that of the running training."""
    model, size = build(layers), 16
    data = batches(size, 20)
    for _ in range(3):
        train(model, data, size)
    state = sum(array.nbytes for array in state_of(model))
    before, peaks, after = resident("VmRSS"), [], []

    def note(info):
        peaks.append((resident("VmHWM") - before) / state)
        after.append((resident("VmRSS") - before) / state)
        Path("/proc/self/clear_refs").write_text("5")

    with tempfile.TemporaryDirectory() as scratch:
        save = LCModelCheckpoint(
            f"{scratch}/cp-{{epoch:04d}}-{{batch:04d}}", save_freq=1, codec=codec,
            keyframe_every=50, max_to_keep=3, on_saved=note,
        )  # fmt: skip
        Path("/proc/self/clear_refs").write_text("5")
        for epoch in count():
            if len(peaks) >= saves:
                break
            train(model, data, size, [save], epoch)
    quarter = len(peaks) // 4
    parts = (max(peaks[:quarter]), max(peaks[-quarter:]), median(after[:quarter]),
             median(after[-quarter:]))  # fmt: skip
    row(codec, f"{state / 1e6:.0f}", len(peaks), *(f"{part:.2f}" for part in parts))


def memory(layers, codecs, saves):
    print("\n## Memory above the running training, in states\n")
    head("codec", "state, MB", "saves", "peak, first quarter", "peak, last quarter",
         "after a save, first quarter", "after a save, last quarter")  # fmt: skip
    for codec in codecs:
        command = [sys.executable, __file__, "--memory-of", codec, "--saves", str(saves)]
        subprocess.run([*command, "--layers", str(layers)], check=True)
    print(f"\n{load()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codec", nargs="+", default=CODECS)
    parser.add_argument("--table", nargs="+", default=["blocked", "slowed", "memory"])
    parser.add_argument("--layers", type=int, default=12, help="of 1024 x 1024")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--milliseconds", type=float, default=100, help="of a batch of `slowed`")
    parser.add_argument("--saves", type=int, default=200, help="of `memory`")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.layers, options.memory_of, options.saves)
        return
    print(f"{len(os.sched_getaffinity(0))} processors, backend {keras.backend.backend()}; {load()}")
    if "blocked" in options.table:
        blocked(options.layers, options.codec, options.rounds)
    if "slowed" in options.table:
        slowed(options.layers, options.codec, options.rounds, options.milliseconds)
    if "memory" in options.table:
        memory(options.layers, options.codec, options.saves)


if __name__ == "__main__":
    main()
