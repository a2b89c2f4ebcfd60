"""How fast the core encodes and decodes, beside a copy in memory.

    python tests/benchmarks/speed.py --values 100_000_000

A state of weights and Adam's moments in float32 (matrices of 2048 x 2048), moved between deltas
by gradients whose singular values fall slowly, and noise, as training moves it. Each codec's
third delta is timed on one processor and on all, several times in turn, medians; decoding
includes making all arrays.
Figures are of the uncompressed state, in MB/s. `scratch` is the peak of memory above what is
there before and after, by `tracemalloc`, in shares of the state.
"""

import argparse
import os
import time
import tracemalloc
from statistics import median

import numpy as np

from keras_lc import workers
from keras_lc.core import DeltaDecoder, DeltaEncoder, TensorSpec

SIDE, RANK, NOISE = 2048, 64, 0.5
CODECS = ["fast", "balanced", "smallest", "lossless", "int8", "lc"]


def training(values, deltas, rng):
    """States as training with Adam leaves them, eight steps apart."""
    count = max(1, values // (3 * SIDE * SIDE))
    fall = np.arange(1, RANK + 1, dtype=np.float32) ** np.float32(-0.7)

    def noise():
        return rng.standard_normal((SIDE, SIDE), np.float32)

    def directions():
        return [rng.standard_normal((RANK, SIDE), np.float32) for _ in range(count)]

    left, right = directions(), directions()

    def gradient(i):
        sizes = fall * rng.standard_normal(RANK, np.float32)
        return (left[i] * sizes[:, None]).T @ right[i] + np.float32(NOISE) * noise()

    state, specs = {}, []
    for i in range(count):
        state |= {f"w{i}": 0.02 * noise(), f"m{i}": 0.1 * gradient(i)}
        state[f"v{i}"] = np.square(gradient(i)) + np.float32(0.1)
        specs += [TensorSpec(f"w{i}"), TensorSpec(f"m{i}", "first_moment", f"w{i}")]
        specs.append(TensorSpec(f"v{i}", "second_moment", f"w{i}"))
    states = [state]
    for _ in range(deltas):
        state = dict(state)
        for i in range(count):
            g = gradient(i)
            state[f"m{i}"] = np.float32(0.43) * state[f"m{i}"] + np.float32(0.2) * g
            state[f"v{i}"] = np.float32(0.99) * state[f"v{i}"] + np.float32(0.01) * g * g
            state[f"w{i}"] = state[f"w{i}"] - np.float32(8e-4) * state[f"m{i}"] / np.sqrt(
                state[f"v{i}"]
            )
        states.append(state)
    return states, specs


def timed(work, *arguments):
    begin = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - begin, result


def copy(state):
    return {name: array.copy() for name, array in state.items()}


def decode(decoder, blob):
    return dict(decoder.decode(blob))


def chains(states, specs, codec):
    """Both ends of a chain that has made all deltas but the last."""
    encoder, decoder = DeltaEncoder(states[0], codec, specs), DeltaDecoder(states[0])
    for state in states[1:-1]:
        decoder.decode(encoder.encode(state))
    return encoder, decoder


def measure(states, specs, codec, rounds):
    last, spent = states[-1], {"copy": [], "encode": [], "decode": []}
    for _ in range(rounds):
        encoder, decoder = chains(states, specs, codec)
        spent["copy"].append(timed(copy, last)[0])
        seconds, blob = timed(encoder.encode, last)
        spent["encode"].append(seconds)
        seconds, _ = timed(decode, decoder, blob)
        spent["decode"].append(seconds)
    return {name: median(seconds) for name, seconds in spent.items()}, len(blob)


def scratch(states, specs, codec):
    """Peak of the memory of an encode above the larger of before and after, in bytes."""
    encoder, _ = chains(states, specs, codec)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    blob = encoder.encode(states[-1])
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - max(before, after - len(blob))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--values", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", nargs="+", default=CODECS)
    options = parser.parse_args()
    states, specs = training(options.values, 3, np.random.default_rng(0))
    size = sum(array.nbytes for array in states[0].values())
    everyone = os.sched_getaffinity(0)
    print(f"{size / 4e6:.0f} M values of float32\n")
    print("| codec | processors | copy, MB/s | encode | decode | times smaller | scratch |")
    print("|---|---|---|---|---|---|---|")
    for codec in options.codec:
        spare = scratch(states, specs, codec) / size
        for processors in ({min(everyone)}, everyone):
            os.sched_setaffinity(0, processors)
            workers.THREADS = len(processors)
            spent, nbytes = measure(states, specs, codec, options.rounds)
            rates = (size / seconds / 1e6 for seconds in spent.values())
            print(
                f"| {codec} | {len(processors)} | {' | '.join(f'{rate:.0f}' for rate in rates)} "
                f"| {size / nbytes:.1f} | {spare:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
