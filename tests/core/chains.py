"""States that move as training moves them, both ends of a chain, and forged blobs."""

import json
import struct
import zlib
from functools import cache
from math import prod

import ml_dtypes
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from keras_lc import workers as threads
from keras_lc.core import LC, Balanced, DeltaDecoder, DeltaEncoder, TensorSpec
from keras_lc.core import blob as blobs
from keras_lc.core.streams import SymbolWriter

SPECS = [
    TensorSpec("w/kernel"),
    TensorSpec("w/bias"),
    TensorSpec("m/kernel", "first_moment", of="w/kernel"),
    TensorSpec("m/bias", "first_moment", of="w/bias"),
    TensorSpec("v/kernel", "second_moment", of="w/kernel"),
    TensorSpec("v/bias", "second_moment", of="w/bias"),
    TensorSpec("table", "exact"),
]
CODECS = {
    "lossless": "lossless",
    "balanced": "balanced",
    "balanced fine": Balanced(tolerance=0.1, largest_share=0.002),
    "lc": "lc",
    "lc one table": LC(3, "model"),
    "int8": "int8",
    "smallest": "smallest",
    "fast": "fast",
    **{f"lc {bits} bits": LC(bits) for bits in (1, 8)},  # the others are those of one codec
    "weights lossless": {"w/*": "lossless", "*": "balanced"},
    "first moment lossless": {"m/*": "lossless", "*": "balanced"},
    "second moment lossless": {"v/*": "lossless", "*": "balanced"},
    "lc and balanced": {"w/kernel": LC(3), "w/*": "balanced", "*": "lc"},
}
ROOMY = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
FLOATS = [
    np.float16,
    np.float32,
    np.float64,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]


def examples(count):
    return settings(deadline=None, max_examples=count, derandomize=True, database=None)


@cache
def training(deltas, seed=0, rate=1e-3):
    """A base and the states after it, of a small model under Adam."""
    rng = np.random.default_rng(seed)
    w = {"kernel": rng.normal(size=(23, 17)) * 0.2, "bias": np.zeros(17)}
    goal = {name: array + rng.normal(size=array.shape) for name, array in w.items()}
    m = {name: np.zeros_like(array) for name, array in w.items()}
    v = {name: np.zeros_like(array) for name, array in w.items()}
    states = []
    for step in range(deltas + 1):
        for name in w:
            gradient = w[name] - goal[name] + 0.3 * rng.normal(size=w[name].shape)
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.99 * v[name] + 0.01 * gradient**2
            w[name] = w[name] - rate * m[name] / (np.sqrt(v[name]) + 1e-7)
        state = {
            f"{part}/{name}": array.astype(np.float32)
            for part, arrays in {"w": w, "m": m, "v": v}.items()
            for name, array in arrays.items()
        }
        state |= {
            "empty": np.zeros((0, 3), np.float32),
            "flag": np.array(step % 3 == 0),
            "iterations": np.array(step, np.int64),
            "scale": np.array(1 + 1e-4 * step, np.float16),
            "seed": rng.integers(0, 2**32, 2, np.uint32),
            "table": rng.normal(size=5),
        }
        states.append(state)
    return states


SIDES = {"dense": (64, 48), "conv": (3, 3, 16, 32), "bias": (48,)}
SHAPES = tuple(SIDES.items())


def roles(names, moments="mv"):
    """Specs of weights `w/name` and of their moments `m/name` and `v/name`."""
    kinds = {"m": "first_moment", "v": "second_moment"}
    return [TensorSpec(f"{m}/{name}", kinds[m], f"w/{name}") for m in moments for name in names]


@cache
def matrices(deltas, dtype=np.float32, optimizer="adam", seed=0, sides=SHAPES):
    """A base and the states after it, of larger matrices whose gradients have few large
    singular values, under Adam or under SGD with momentum (and no second moments)."""
    rng = np.random.default_rng(seed)
    shapes = dict(sides)

    def smooth(shape):
        rows, columns = prod(shape[:-1]), shape[-1]
        left, right = rng.normal(size=(rows, 3)), rng.normal(size=(3, columns))
        return (left @ right + 0.2 * rng.normal(size=(rows, columns))).reshape(shape)

    w = {name: 0.1 * rng.normal(size=shape) for name, shape in shapes.items()}
    goal = {name: array + smooth(array.shape) for name, array in w.items()}
    m = {name: np.zeros_like(array) for name, array in w.items()}
    v = {name: np.zeros_like(array) for name, array in w.items()}
    states = []
    for _ in range(deltas + 1):
        for name in w:
            gradient = w[name] - goal[name] + 0.5 * smooth(w[name].shape)
            v[name] = 0.99 * v[name] + 0.01 * gradient**2
            if optimizer == "adam":
                m[name] = 0.9 * m[name] + 0.1 * gradient
                w[name] = w[name] - 1e-3 * m[name] / (np.sqrt(v[name]) + 1e-7)
            else:
                m[name] = 0.9 * m[name] - 1e-3 * gradient
                w[name] = w[name] + m[name]
        parts = {"w": w, "m": m} | ({"v": v} if optimizer == "adam" else {})
        states.append(
            {
                f"{part}/{name}": array.astype(dtype)
                for part, arrays in parts.items()
                for name, array in arrays.items()
            }
        )
    return states


def name_of(dtype):
    return dtype if isinstance(dtype, str) else str(np.dtype(dtype))


def of_the_form(decoded, base):
    """Whether arrays have the shapes and dtypes of others."""
    return all(
        decoded[name].shape == array.shape and decoded[name].dtype == array.dtype
        for name, array in base.items()
    )


def bits(array):
    return np.asarray(array).tobytes()


class Ends:
    """An encoder and the decoder that must follow it bit for bit."""

    def __init__(self, base, codec="balanced", specs=None):
        self.encoder = DeltaEncoder(base, codec, specs)
        self.decoder = DeltaDecoder(base)

    def send(self, state, codec=None, steps=None):
        """Encode and decode one state; what the decoder has is given back, as copies."""
        blob = self.encoder.encode(state, codec, steps)
        decoded = self.decoder.decode(blob)
        self.size = len(blob)
        self.blob = blob
        self.check(state, decoded)
        return {name: array.copy() for name, array in decoded.items()}

    def entries(self):
        """How each tensor is stored in the last blob, by its name."""
        chain = self.decoder.chain
        order = [i for level in chain.levels() for i in level]
        found = blobs.unpack(self.blob, len(order))[0].entries
        return {chain.table.names[i]: entry for i, entry in zip(order, found, strict=True)}

    def check(self, state, decoded):
        assert set(decoded) == set(self.encoder.reconstruction) == set(state)
        for name, array in self.encoder.reconstruction.items():
            assert decoded[name].dtype == array.dtype == state[name].dtype, name
            assert decoded[name].shape == array.shape == state[name].shape, name
            assert bits(decoded[name]) == bits(array), name


def raw(dtype, size):
    """Arrays of any bit pattern."""
    nbytes = np.dtype(dtype).itemsize * size
    return st.binary(min_size=nbytes, max_size=nbytes).map(
        lambda data: np.frombuffer(bytearray(data), dtype)
    )


def rough(dtype, size, low=-30, high=12):
    """Finite arrays of a random magnitude, from a seed."""
    finite = ml_dtypes.finfo(dtype)

    def build(seed, exponent, share):
        rng = np.random.default_rng(seed)
        with np.errstate(over="ignore"):  # clipped below
            values = np.ldexp(rng.normal(size=size), exponent)
        values[rng.random(size) > share] = 0
        return np.clip(values, float(finite.min), float(finite.max)).astype(dtype)

    return st.builds(
        build, st.integers(0, 2**32), st.integers(low, high), st.sampled_from([1.0, 1.0, 0.5, 0.02])
    )


def finite(array):
    return bool(np.isfinite(np.asarray(array).astype(np.float64)).all())


def pack(*parts):
    """The bytes of a pool of symbols."""
    with threads.start() as workers:
        writer = SymbolWriter(workers)
        for part in parts:
            writer.append(part)
        return b"".join(writer.finish())


def seal(body):
    return body + struct.pack("<I", zlib.crc32(body))


def forge(document, pools=b"", version=blobs.VERSION):
    """A blob with a valid checksum over any document."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = zlib.compress(text)
    return seal(struct.pack("<BI", version, len(head)) + head + pools)
