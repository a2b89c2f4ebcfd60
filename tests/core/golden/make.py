"""Write the golden deltas anew: `python tests/core/golden/make.py`.

Only when the version of the blobs changes, or before the first release: a delta that was
written once must be read for good. For each dtype there is a base, three deltas by each
preset (of some also one for all three),
what `compress` makes of the last state, and in `digests.json` the SHA-256 of what they decode to.
"""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_lc.core import PRESETS, DeltaEncoder, TensorSpec, compress, decompress, streams
from keras_lc.core.live import every_of
from keras_lc.core.tiles import TILE

HERE = Path(__file__).parent
DIGESTS = HERE / "digests.json"
DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
DELTAS = 3
_I = np.arange(1 << 16)
# symbols that are packed by fours
SMALL = np.where(_I % 61, _I * 40_503 % 65_536 % 3 - 1, _I % 11 - 5).astype(np.int16)
WHOLE = ["balanced"]  # presets of which there is one delta for all as well
LARGE = {"table": (TILE + 300,), "wide": (725, 724)}  # of several tiles; most stays zero
SHAPES = {"kernel": (16, 20), "conv": (2, 2, 5, 20), "bias": (20,)} | LARGE
SPECS = [
    TensorSpec(f"{part}/{name}", role, f"w/{name}")
    for part, role in [("m", "first_moment"), ("v", "second_moment")]
    for name in SHAPES
]


def states(dtype):
    """A base and the states after it, under Adam in the arithmetic of the dtype."""
    rng = np.random.default_rng(0)
    one = np.dtype(dtype).type

    def gradient(shape):
        rows, columns = int(np.prod(shape[:-1])), shape[-1]
        flat = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, columns))
        return (flat + 0.1 * rng.normal(size=(rows, columns))).reshape(shape).astype(dtype)

    def alive(array):
        """Large arrays are sparse, so that the files stay small; samples see some of a table."""
        if array.size <= TILE:
            return array
        some = np.zeros_like(array)
        few = (
            (slice(None, None, 40),) * 2
            if array.ndim > 1
            else slice(None, None, 155 * every_of(array.size))
        )
        some[few] = array[few]
        return some

    w = {
        name: alive((0.1 * rng.normal(size=shape)).astype(dtype)) for name, shape in SHAPES.items()
    }
    m = {name: np.zeros(shape, dtype) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape, dtype) for name, shape in SHAPES.items()}
    for step in range(4 + DELTAS):
        for name, shape in SHAPES.items():
            g = gradient(shape)
            if name in LARGE:
                g = alive(np.sign(g))
            m[name] = m[name] + (g - m[name]) * one(0.1)
            v[name] = v[name] + (g * g - v[name]) * one(0.01)
            w[name] = w[name] - (m[name] * one(1e-3)) / (np.sqrt(v[name]) + one(1e-7))
        if step >= 3:
            found = {
                f"{part}/{name}": array.copy()
                for part, arrays in {"w": w, "m": m, "v": v}.items()
                for name, array in arrays.items()
            }
            others = {
                "steps": np.array(step),
                "seeds": rng.integers(0, 2**63, 9),
                "name": np.array("a"),
            }
            yield found | others


def digest(state):
    """SHA-256 of names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(state):
        array = state[name]
        found.update(f"{name} {array.dtype.name} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()


def stored(array):
    """An array as `np.savez` keeps it."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def restored(array, name, dtype):
    """The reverse of `stored`, for the tensors of the base."""
    return array.view(dtype) if name[:2] in ("w/", "m/", "v/") else array


def main():
    digests = {}
    for named, dtype in DTYPES.items():
        base, *later = states(dtype)
        arrays = {f"base {name}": stored(array) for name, array in base.items()}
        for preset in PRESETS:
            encoder = DeltaEncoder(base, preset, SPECS)
            for number, state in enumerate(later, start=1):
                blob = encoder.encode(state)
                arrays[f"{preset} {number}"] = np.frombuffer(blob, np.uint8)
                digests[f"{named} {preset} {number}"] = digest(encoder.reconstruction)
            if preset in WHOLE:
                arrays[f"{preset} whole"] = np.frombuffer(b"".join(encoder.whole()), np.uint8)
        data = compress(later[-1], "balanced")
        arrays["compressed"] = np.frombuffer(data, np.uint8)
        digests[f"{named} compressed"] = digest(decompress(data))
        np.savez_compressed(HERE / f"{named}.npz", **arrays)
    np.savez_compressed(
        HERE / "chunk.npz", chunk=np.frombuffer(streams.compress([SMALL]), np.uint8)
    )
    DIGESTS.write_text(json.dumps(digests, indent=0) + "\n")


if __name__ == "__main__":
    main()
