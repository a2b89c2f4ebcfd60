"""Series of checkpoints stored anew as one chain, and read back before that is believed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_lc import series
from keras_lc.core import Rules
from keras_lc.core.presets import CodecLike
from keras_lc.errors import OptionError
from keras_lc.figures import Column, Figures, Table, words
from keras_lc.references import opened


@dataclass(frozen=True)
class Piece:
    """A checkpoint as it is stored now.

    Attributes:
        before: bytes that it took.
        nbytes: bytes that it takes.
        error: of its weights against the source (root mean square), as a share of theirs; 0 is
            bit for bit.
    """

    id: str
    kind: str
    before: int
    nbytes: int
    ratio: float
    error: float


@dataclass(frozen=True)
class Rewritten(Figures):
    """What `keras-lc import` and `convert` show.

    Attributes:
        directory: what was written.
        codec: of the deltas.
        before, after: bytes of all checkpoints.
        checkpoints: oldest first, each of them read back and compared.
    """

    verb: str  # type: ignore[misc]
    directory: str
    codec: str
    before: int
    after: int
    checkpoints: tuple[Piece, ...]

    def parts(self) -> Iterator[str | Table]:
        columns = [
            Column("id", "id"),
            Column("kind", "kind"),
            Column("before", "before", words.size, right=True),
            Column("nbytes", "now", words.size, right=True),
            Column("ratio", "ratio", words.ratio, right=True),
            Column("error", "error", words.share, right=True),
        ]
        yield Table(columns, [vars(piece) for piece in self.checkpoints])
        count, ratio = words.count(len(self.checkpoints), "checkpoint"), self.before / self.after
        exact = all(piece.error == 0 for piece in self.checkpoints)
        yield (
            f"{self.directory}: {count}, {words.size(self.before)} before, "
            f"{words.size(self.after)} now, {words.ratio(ratio)} smaller; read back, "
            + ("bit for bit the same" if exact else "errors of the weights as above")
        )


def import_files(
    files: Sequence[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    codec: CodecLike = "lossless",
) -> Rewritten:
    """Store plain checkpoint files as one chain, in the order of the numbers in their names.

    Args:
        files: `.weights.h5`, `.h5`, `.keras`, `.safetensors`, `.pt` or `.pth`; they stay as they
            are.
        directory: to write, a path or URL that holds no checkpoints yet.
        codec: as for `LCModelCheckpoint`.

    Raises:
        OptionError: there are no files, two would get one name, or a suffix or codec is not known.
        NotFoundError, DamagedError: a file is missing or cannot be read.
        StoreError: the directory holds checkpoints, or cannot be written.
    """
    paths = series.ordered([os.fspath(file) for file in files])
    if not paths:
        raise OptionError("there are no files to import.")
    series.check_names(paths)
    sizes = [os.path.getsize(path) if os.path.exists(path) else 0 for path in paths]
    target = os.fspath(directory)
    series.write(series.file_frames(paths), len(paths), target, codec)
    return _rewritten("import", target, codec, sizes, series.file_frames(paths))


def convert(
    directory: str | os.PathLike[str], target: str | os.PathLike[str], codec: CodecLike
) -> Rewritten:
    """Store the checkpoints of a directory in another one, with another codec.

    What a lossy codec has left out before does not come back.

    Args:
        directory: a path or URL, which stays as it is.
        target: to write, a path or URL that holds no checkpoints yet.
        codec: as for `LCModelCheckpoint`.

    Raises:
        NotFoundError: there is no such directory, or it holds no checkpoint.
        DamagedError: a checkpoint cannot be decoded.
        OptionError, StoreError: as for `import_files`.
    """
    source, written = os.fspath(directory), os.fspath(target)
    _, contents = opened(source)
    if not contents.listed:
        raise OptionError(f"{source!r} holds no checkpoint to convert.")
    sizes = [stored.nbytes for stored in contents.listed]
    series.write(series.chain_frames(source), len(sizes), written, codec)
    return _rewritten("convert", written, codec, sizes, series.chain_frames(source))


def _rewritten(
    verb: str, directory: str, codec: CodecLike, sizes: list[int], frames: Iterator[series.Frame]
) -> Rewritten:
    pieces = []
    for (stored, error), before in zip(series.check(frames, directory), sizes, strict=True):
        kind = "base" if stored.parent is None else "delta"
        ratio = before / stored.nbytes
        pieces.append(Piece(stored.name, kind, before, stored.nbytes, ratio, error))
    _, contents = opened(directory)
    after = sum(stored.nbytes for stored in [*contents.stored, *contents.shortcuts])
    return Rewritten(verb, directory, str(Rules(codec)), sum(sizes), after, tuple(pieces))
