"""What each codec would save on files, without writing any."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_lc import series
from keras_lc.core import PRESETS, DeltaEncoder
from keras_lc.errors import MismatchError, OptionError
from keras_lc.figures import Column, Figures, Note, Table, words
from keras_lc.progress import shown


@dataclass(frozen=True)
class Choice:
    """A codec on these files.

    Attributes:
        codec: its name.
        nbytes: of all checkpoints, the first one whole.
        ratio: how many times smaller than the files.
        delta: bytes of a delta, on average.
        error: of the weights (root mean square), as a share of theirs, the largest that a
            checkpoint has; 0 is bit for bit.
        seconds: to encode a delta, on average.
    """

    codec: str
    nbytes: int
    ratio: float
    delta: int
    error: float
    seconds: float


@dataclass(frozen=True)
class Estimate(Figures):
    """What `keras-lc estimate` shows: how many files there are, their bytes, and the codecs."""

    verb = "estimate"
    files: int
    before: int
    codecs: tuple[Choice, ...]

    def parts(self) -> Iterator[str | Table]:
        columns = [
            Column("codec", "codec"),
            Column("nbytes", "total", words.size, right=True),
            Column("ratio", "ratio", words.ratio, right=True),
            Column("delta", "a delta", words.size, right=True),
            Column("error", "error", words.share, right=True),
            Column("seconds", "seconds", "{:.2f}".format, right=True),
        ]
        yield Table(columns, [vars(choice) for choice in self.codecs])
        yield Note(f"{words.count(self.files, 'file')}, {words.size(self.before)}")


def estimate(files: Sequence[str | os.PathLike[str]]) -> Estimate:
    """Encode a series of plain files with each preset, in memory.

    Args:
        files: at least two, as for `rewrite.import_files`.

    Raises:
        OptionError: there are less than two, or a suffix is not known.
        NotFoundError, DamagedError: one is missing or cannot be read.
        MismatchError: they do not hold the same tensors.
    """
    paths = series.ordered([os.fspath(file) for file in files])
    if len(paths) < 2:
        raise OptionError("a difference needs two files or more.")
    first = series.frame_of(paths[0], 0).snapshot
    encoders = {codec: DeltaEncoder(first.arrays, codec, first.specs) for codec in PRESETS}
    weights = [spec.name for spec in first.specs if spec.role == "weight"]
    sizes, errors, seconds = (dict.fromkeys(PRESETS, 0.0) for _ in range(3))
    for path in shown(paths[1:], len(paths) - 1, "encoding"):
        arrays = series.frame_of(path, 0).snapshot.arrays
        for codec, encoder in encoders.items():
            begin = time.perf_counter()
            try:
                sizes[codec] += len(encoder.encode(arrays))
            except MismatchError as error:
                raise MismatchError(
                    f"{path!r} does not go on from {paths[0]!r}: {error}"
                ) from error
            seconds[codec] += time.perf_counter() - begin
            found = {name: encoder.reconstruction[name] for name in weights}
            errors[codec] = max(errors[codec], series.distance(arrays, found))
    whole, before = os.path.getsize(paths[0]), sum(map(os.path.getsize, paths))
    count = len(paths) - 1
    return Estimate(
        len(paths),
        before,
        tuple(
            Choice(
                codec,
                nbytes=int(whole + sizes[codec]),
                ratio=before / (whole + sizes[codec]),
                delta=int(sizes[codec] / count),
                error=errors[codec],
                seconds=seconds[codec] / count,
            )
            for codec in PRESETS
        ),
    )
