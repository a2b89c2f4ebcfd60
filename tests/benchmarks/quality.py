"""Size of checkpoints against the quality of the training that follows.

    python tests/benchmarks/quality.py --training transformer --codec balanced lc --seeds 3

The ten-restore protocol: a run with 100 evenly spaced checkpoints; at every tenth the live
state is thrown away and replaced by the decoded one, and training goes on with the same data
order. What counts is the final evaluation loss against the uninterrupted run, two-sided, and
beside it the spread between seeds. The last checkpoint is evaluated too: users keep that one.

Trainings (real data, no network): `transformer`, a byte-level one of 3.3 M parameters with
AdamW on the sources of Python's standard library; `convolutional`, SGD with momentum on
scikit-learn's digits; `mlp`, the quickstart's model with Adam.

Peers in the same run: `lc` and `LC(bits=3)`, LC-Checkpoint with a table of buckets a tensor,
`LC(2, 'model')` with one for all; `excp` and `excp-cap`, the rule of ExCP with its default
threshold and with the largest one (`excp.py`), of which only the entropy is counted.

Prints a Markdown table; `--figure FILE.png` draws ratio against loss.
"""

import argparse
import os
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from excp import ExCP

from keras_lc.capture.keras import KerasCapture
from keras_lc.core import LC, Balanced, DeltaEncoder, Int8, Lossless  # noqa: F401 (for --codec)
from keras_lc.core.blob import unpack

CODECS = ["balanced", "smallest", "fast", "lc", "LC(2, 'model')", "LC(bits=3)", "excp", "excp-cap"]
CODECS += ["int8", "lossless"]
CHECKPOINTS, RESTORES, KEYFRAME = 100, 10, 64
ROLES = {"weight": "w", "buckets": "w", "first": "m", "second": "v", "axes": "v"}
layers = keras.layers
logits_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Transformer:
    """Byte-level, four blocks of width 256, context 64, batches of 8."""

    steps = 800

    def __init__(self):
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = np.frombuffer(b"\n".join(path.read_bytes() for path in sources), np.uint8)
        self._cut = int(0.95 * len(text))
        self._text = text
        starts = np.linspace(self._cut, len(text) - 66, 512).astype(int)
        self._held_out = self._windows(starts)

    def _windows(self, starts):
        windows = self._text[starts[:, None] + np.arange(65)].astype("int32")
        return windows[:, :-1], windows[:, 1:]

    def build(self):
        width, heads = 256, 4
        entry = keras.Input((64,), dtype="int32")
        positions = layers.Embedding(64, width)(np.arange(64)[None])
        x = layers.Embedding(256, width)(entry) + positions
        for _ in range(4):
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            attention = layers.MultiHeadAttention(heads, width // heads, use_bias=False)
            x = x + attention(y, y, use_causal_mask=True)
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            y = layers.Dense(4 * width, activation="gelu", use_bias=False)(y)
            x = x + layers.Dense(width, use_bias=False)(y)
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        model = keras.Model(entry, layers.Dense(256, use_bias=False)(x))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, self.steps - 40, warmup_target=1e-3, warmup_steps=40
        )
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, beta_2=0.95)
        model.compile(optimizer, logits_loss, jit_compile=True)
        return model

    def batch(self, rng):
        return self._windows(rng.integers(0, self._cut - 66, 8))

    def evaluate(self, model):
        return model.evaluate(*self._held_out, batch_size=64, verbose=0)


class Digits:
    """scikit-learn's digits; 1,400 to train on and 397 to evaluate."""

    steps = 400

    def __init__(self):
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        nearest = 8 * np.arange(28) // 28
        x = (x.reshape(-1, 8, 8) / 16).astype("float32")[order][:, nearest][:, :, nearest]
        self._train, self._held_out = (x[:1400], y[order][:1400]), (x[1400:], y[order][1400:])

    def batch(self, rng):
        chosen = rng.integers(0, 1400, 32)
        return tuple(part[chosen] for part in self._train)

    def evaluate(self, model):
        return model.evaluate(*self._held_out, batch_size=397, verbose=0)


class Convolutional(Digits):
    """Two convolutions with BatchNormalization; SGD with momentum, cosine decay."""

    def build(self):
        model = keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(16, 3, strides=2, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(32, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
        rate = keras.optimizers.schedules.CosineDecay(0.03, self.steps)
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), logits_loss, jit_compile=False)
        return model


class MLP(Digits):
    """The quickstart's model; Adam."""

    def build(self):
        model = keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(10),
            ]
        )
        model.compile("adam", logits_loss, jit_compile=False)
        return model


TRAININGS = {"transformer": Transformer, "convolutional": Convolutional, "mlp": MLP}


@dataclass
class Outcome:
    """One run: losses, and bytes by role."""

    loss: float
    last: float = 0.0
    weights: int = 0
    state: int = 0  # bytes of the whole state, uncompressed
    deltas: tuple = ()
    roles: dict | None = None
    bases: int = 0

    @property
    def ratio(self):
        return self.state / mean(self.deltas)

    @property
    def weight_ratio(self):
        """Of the weights alone; nan where they cannot be told from the rest."""
        own = self.roles.get("w", 0)
        return 4 * self.weights * len(self.deltas) / own if own else float("nan")

    @property
    def directory(self):
        return (
            self.state
            * (len(self.deltas) + self.bases)
            / (sum(self.deltas) + self.bases * self.state)
        )

    @property
    def bits(self):
        """Bits a weight, by role."""
        return {
            role: 8 * size / len(self.deltas) / self.weights for role, size in self.roles.items()
        }


class Coder:
    """A chain of deltas in one codec, and how many bytes each takes."""

    def __init__(self, codec, snapshot, every):
        self._every = every
        peer = isinstance(codec, str) and codec.startswith("excp")
        arrays, specs = snapshot.arrays, snapshot.specs
        if peer:
            self._chain = ExCP(arrays, specs, cap_only=codec == "excp-cap")
        else:
            self._chain = DeltaEncoder(arrays, codec, specs)
        self._encode = self._peer if peer else self._blob

    def encode(self, arrays):
        """Bytes of one delta: in all, and by role."""
        return self._encode(arrays)

    def state(self):
        return dict(self._chain.reconstruction)

    def _blob(self, arrays):
        blob, roles = self._chain.encode(arrays, steps=self._every), {}
        for pool, data in unpack(blob, len(arrays))[1].items():
            name = ROLES.get(pool.rstrip("0123456789+"), "rest")
            roles[name] = roles.get(name, 0) + len(data)
        return len(blob), roles

    def _peer(self, arrays):
        names = {"weight": "w", "first_moment": "m", "second_moment": "v"}
        bits = self._chain.encode(arrays)
        roles = {names.get(role, "rest"): count / 8 for role, count in bits.items()}
        return sum(roles.values()), roles


def run(training, seed, codec):
    """A run of the protocol; without codec it is the uninterrupted one."""
    keras.utils.set_random_seed(seed)
    model = training.build()
    model.optimizer.build(model.trainable_variables)
    capture, rng = KerasCapture(model), np.random.default_rng(seed)
    about = capture.described(capture.snapshot()).about
    every, coder, deltas, roles, bases = training.steps // CHECKPOINTS, None, [], {}, 0
    for step in range(1, training.steps + 1):
        model.train_on_batch(*training.batch(rng))
        if codec is None or step % every:
            continue
        number = step // every
        snapshot = capture.snapshot()
        if number % KEYFRAME == 1:
            coder = Coder(codec, snapshot, every)
            bases += 1
        else:
            size, parts = coder.encode(snapshot.arrays)
            deltas.append(size)
            for role, nbytes in parts.items():
                roles[role] = roles.get(role, 0) + nbytes
        if number % (CHECKPOINTS // RESTORES) == 0 and number < CHECKPOINTS:
            capture.restore(coder.state(), about)
    loss = training.evaluate(model)
    if codec is None:
        return Outcome(loss)
    capture.restore(coder.state(), about)
    arrays = snapshot.arrays
    weights = sum(arrays[spec.name].size for spec in snapshot.specs if spec.role == "weight")
    state = sum(array.nbytes for array in arrays.values())
    return Outcome(loss, training.evaluate(model), weights, state, tuple(deltas), roles, bases)


def percent(values):
    return " ".join(f"{100 * value:+.2f}" for value in values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--training", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--codec", nargs="+", default=CODECS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    points, spreads = [], {}
    for name in options.training:
        training, seeds = TRAININGS[name](), range(options.seeds)
        plain = [run(training, seed, None).loss for seed in seeds]
        spread = 100 * stdev(plain) / mean(plain) if len(plain) > 1 else 0.0
        spreads[name] = spread
        print(f"\n### {name}\n\nUninterrupted: {plain}, spread between seeds {spread:.2f} %\n")
        print(
            "| codec | ratio a delta | weights alone | directory | bits a weight: w / m / v ",
            end="",
        )
        print("| final loss, % | last checkpoint, % | s |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for text in options.codec:
            begin = time.time()
            codec = eval(text) if "(" in text else text  # as typed on the command line
            outcomes = [run(training, seed, codec) for seed in seeds]
            change = [o.loss / p - 1 for o, p in zip(outcomes, plain, strict=True)]
            last = [o.last / o.loss - 1 for o in outcomes]
            ratio = mean(o.ratio for o in outcomes)
            points.append((name, text, ratio, 100 * mean(abs(c) for c in change)))
            bits = [mean(o.bits.get(role, 0) for o in outcomes) for role in "wmv"]
            print(
                f"| `{text}` | {ratio:.1f} | {mean(o.weight_ratio for o in outcomes):.1f} "
                f"| {mean(o.directory for o in outcomes):.1f} "
                f"| {' / '.join(f'{b:.2f}' for b in bits)} "
                f"| {percent(change)} | {percent(last)} | {time.time() - begin:.0f} |",
                flush=True,
            )
    if options.figure:
        draw(points, spreads, options.figure)


def draw(points, spreads, path):
    """Ratio against the size of the departure, one panel a training; the band is the spread
    between seeds."""
    from matplotlib import pyplot as plt

    codecs = list(dict.fromkeys(text for _, text, *_ in points))
    markers = dict(zip(codecs, "os^vDPX*<>hp", strict=False))
    figure, axes = plt.subplots(
        1, len(spreads), figsize=(4.5 * len(spreads) + 2, 4), layout="constrained", squeeze=False
    )
    for panel, (name, spread) in zip(axes[0], spreads.items(), strict=True):
        panel.axhspan(0, spread, color="0.92", zorder=0)
        for _, text, ratio, change in (point for point in points if point[0] == name):
            panel.plot(ratio, change, markers.get(text, "."), color=f"C{codecs.index(text)}")
        panel.set(xscale="log", xlabel="times smaller, weights and optimizer", title=name)
        panel.set_ylim(bottom=0)
        panel.margins(x=0.1)
    axes[0][0].set_ylabel("final loss departs by, % (mean of seeds)")
    handles = [
        plt.Line2D([], [], color=f"C{i}", marker=markers.get(text, "."), linestyle="", label=text)
        for i, text in enumerate(codecs)
    ]
    figure.legend(handles=handles, loc="outside right")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
