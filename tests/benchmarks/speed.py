"""How fast the core encodes and decodes, beside a copy in memory.

    python tests/benchmarks/speed.py --values 100_000_000

A state of weights and Adam's moments in float32 (matrices of 2048 x 2048), moved between deltas
by gradients whose singular values fall slowly, and noise, as training moves it. Each codec's
third delta is timed beside a copy; these in turn, several times, medians:

- on one processor, and on all of them by threads;
- on all by a process each, which begin each part together, what they do in the same time added
  up: more than that the machine does not give, whose processors may share a core, its caches and
  its memory.

Decoding goes to arrays that are there, as the copy does, and to new ones: for the first touch of
a page, a virtual machine may take longer than for decoding what is written there.
Figures are of the uncompressed state, in MB/s. `scratch` is the peak of memory above what is
there before and after, by `tracemalloc`, in shares of the state.
"""

import argparse
import multiprocessing
import os
import time
import tracemalloc

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


def copy(state, places):
    for array, place in zip(state.values(), places, strict=True):
        np.copyto(place, array.reshape(-1))


def decode(decoder, blob, places=None):
    return list(decoder.decode(blob).several(decoder.reconstruction, places))


def chains(states, specs, codec, decoders=0):
    """Both ends of a chain that has made all deltas but the last."""
    encoder = DeltaEncoder(states[0], codec, specs)
    others = [DeltaDecoder(states[0]) for _ in range(decoders)]
    for state in states[1:-1]:
        blob = encoder.encode(state)
        for decoder in others:
            decoder.decode(blob)
    return encoder, *others


def once(states, specs, codec, together=lambda: None):
    """Seconds to copy, to encode, to decode to arrays that are there, and to new ones; bytes.

    `together` is called before each of them, and returns when others are there, too."""
    last = states[-1]
    places = [np.ones(array.size, array.dtype) for array in last.values()]
    encoder, decoder, other = chains(states, specs, codec, decoders=2)

    def part(work, *arguments):
        together()
        return timed(work, *arguments)

    copying, _ = part(copy, last, places)
    encoding, blob = part(encoder.encode, last)
    decoding, _ = part(decode, decoder, blob, places)
    to_new, _ = part(decode, other, blob)
    return [copying, encoding, decoding, to_new], len(blob)


def by_threads(processors, *what):
    """The rates of one process, in states a second, and the bytes of the delta."""
    os.sched_setaffinity(0, processors)
    workers.THREADS = len(processors)
    seconds, nbytes = once(*what)
    return [1 / one for one in seconds], nbytes


def by_processes(processors, *what):
    """Those of one process on each processor, added up: a fork, so that nothing is copied."""

    def alone(processor):
        queue.put(by_threads({processor}, *what, barrier.wait))

    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(len(processors)), context.SimpleQueue()
    jobs = [context.Process(target=alone, args=[processor]) for processor in processors]
    for job in jobs:
        job.start()
    rates, sizes = zip(*(queue.get() for _ in jobs), strict=True)
    for job in jobs:
        job.join()
    return np.sum(rates, axis=0), sizes[0]


def scratch(states, specs, codec):
    """Peak of the memory of an encode above the larger of before and after, in bytes."""
    (encoder,) = chains(states, specs, codec)
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
    print("| codec | on | copy, MB/s | encode | decode | to new | times smaller | scratch |")
    print("|---|---|---|---|---|---|---|---|")
    ways = {"1 thread": (by_threads, {min(everyone)})}
    if len(everyone) > 1:
        ways[f"{len(everyone)} threads"] = by_threads, everyone
        ways[f"{len(everyone)} processes"] = by_processes, everyone
    for codec in options.codec:
        what = states, specs, codec
        spare = scratch(*what) / size
        found = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (way, processors) in ways.items():
                rates, nbytes = way(processors, *what)
                found[name].append(rates)
        for name, rates in found.items():
            cells = " | ".join(f"{size / 1e6 * rate:.0f}" for rate in np.median(rates, axis=0))
            print(f"| {codec} | {name} | {cells} | {size / nbytes:.1f} | {spare:.2f} |", flush=True)


if __name__ == "__main__":
    main()
