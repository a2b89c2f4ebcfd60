"""Write the golden directories anew: `PYTHONPATH=. python tests/store/golden/make.py`.

Only when the version of the format changes, or before the first release: a directory that was
written once must be read for good. `digests.json` holds the SHA-256 of every file, and of every
state as the encoder had it when it was saved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_lc.checkpointer import Checkpointer
from keras_lc.listing import open_directory
from keras_lc.store.locate import directory_at
from keras_lc.store.pack import pack
from tests.core.golden.make import digest
from tests.toy import State, save, toy_checkpointer, walk

HERE = Path(__file__).parent
DIGESTS = HERE / "digests.json"
# None is the codec of the run; a shortcut leads to cp-0013
CODECS = ["lossless", "balanced", "fast", "smallest", "lc", "int8", *[None] * 8]


def states(count: int) -> Iterator[State]:
    """A toy training with a tensor of each kind of dtype."""
    rng = np.random.default_rng(0)
    for step, state in enumerate(walk(count, rows=8)):
        yield state | {
            "others/half": rng.normal(size=(4, 5)).astype(ml_dtypes.bfloat16),
            "others/double": rng.normal(size=3),
            "others/text": np.array([f"step {step}", "ä"], "<U8"),
            "others/flag": np.array(step % 2 == 0),
            "others/complex": np.array([1j * step], np.complex64),
            "others/empty": np.zeros((0, 3), np.float32),
        }


def train(
    checkpointer: Checkpointer, run: Iterable[State], codecs: Sequence[str | None], first: int = 1
) -> dict[str, str]:
    """Save a base and deltas: the digests of what they are to be restored to."""
    digests = {}
    for number, (state, codec) in enumerate(zip(run, [None, *codecs], strict=True), start=first):
        name = f"cp-{number:04d}"
        logs = {"loss": 1 / number, "nan": float("nan")}
        save(checkpointer, state, name, number, logs=logs, codec=codec)
        assert checkpointer._encoder is not None
        digests[name] = digest(checkpointer._encoder.reconstruction)
    return digests


def chain(directory: Path) -> dict[str, str]:
    run = states(len(CODECS) + 1)
    return train(toy_checkpointer(directory, codec="balanced"), run, CODECS)


def packed(directory: Path) -> dict[str, str]:
    digests = train(toy_checkpointer(directory), walk(11), [None] * 10)
    pack(directory)
    return digests


def pruned(directory: Path) -> dict[str, str]:
    """What the shortcut passes is gone; two names of what is left have gone to another run."""
    checkpointer = toy_checkpointer(directory, codec="balanced", max_to_keep=2)
    digests = train(checkpointer, walk(11), [None] * 10)
    for stored in open_directory(directory_at(directory)).stored:
        digests[f"{stored.name}~{stored.digest[:8]}"] = digests[stored.name]
    other, (first, second) = toy_checkpointer(directory), walk(2, seed=1)
    return digests | train(other, [first], []) | train(other, [second], [], first=10)


DIRECTORIES = {made.__name__: made for made in (chain, packed, pruned)}


def main() -> None:
    files, found = {}, {}
    for name, make in DIRECTORIES.items():
        directory = HERE / name
        shutil.rmtree(directory, ignore_errors=True)
        digests = make(directory)
        there = {stored.name for stored in open_directory(directory_at(directory)).stored}
        found[name] = {key: value for key, value in digests.items() if key in there}
        for path in sorted(directory.iterdir()):
            files[f"{name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    DIGESTS.write_text(json.dumps({"files": files, "states": found}, indent=0) + "\n")


if __name__ == "__main__":
    main()
