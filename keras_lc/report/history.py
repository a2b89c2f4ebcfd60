"""How the weights of a run have moved from checkpoint to checkpoint, and how exact each is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_lc.core.floats import is_float
from keras_lc.errors import CheckpointError, DamagedError, NotFoundError
from keras_lc.figures import Column, Figures, Table, words
from keras_lc.loader import Decoded
from keras_lc.references import opened
from keras_lc.report.catalog import full_sizes
from keras_lc.report.contents import bounds
from keras_lc.walk import walk


@dataclass(frozen=True)
class Point:
    """A checkpoint of a run.

    Attributes:
        full: bytes of a whole checkpoint.
        movement: of each tensor since the checkpoint before (root mean square), as a share of
            its values; None where there is none before, one of them is damaged, or a value is not
            finite.
        bound: how far a value of each tensor may be from what was saved, as a share of the root
            mean square of its values; None where it is not known.
        damaged: why it cannot be decoded.
    """

    id: str
    epoch: int
    step: int
    nbytes: int
    full: int | None
    logs: dict[str, float]
    movement: tuple[float | None, ...]
    bound: tuple[float | None, ...]
    damaged: str | None = None


@dataclass(frozen=True)
class History(Figures):
    """What `keras-lc plot` draws.

    Attributes:
        tensors: labels of the weights, in the order of `movement` and `bound`.
        checkpoints: oldest first.
    """

    verb = "plot"
    directory: str
    tensors: tuple[str, ...]
    checkpoints: tuple[Point, ...]
    target: str | None = None

    @property
    def fault(self) -> type[CheckpointError] | None:
        return DamagedError if any(point.damaged for point in self.checkpoints) else None

    def parts(self) -> Iterator[str | Table]:
        columns = [
            Column("tensor", "tensor"),
            Column("least", "moved, least", words.share, right=True),
            Column("most", "moved, most", words.share, right=True),
        ]
        yield Table(columns, list(self._rows()))
        for point in self.checkpoints:
            if point.damaged:
                yield f"{point.id}: {point.damaged}"
        if self.target:
            yield f"drawn: {self.target}"

    def _rows(self) -> Iterator[dict[str, object]]:
        for i, tensor in enumerate(self.tensors):
            moved = [point.movement[i] for point in self.checkpoints if point.movement]
            known = [share for share in moved if share is not None]
            yield {
                "tensor": tensor,
                "least": min(known, default=None),
                "most": max(known, default=None),
            }


def history(directory: str | os.PathLike[str]) -> History:
    """Decode every checkpoint once, and measure the movement of the weights.

    Args:
        directory: a path or URL.

    Raises:
        NotFoundError: there is no such directory, or it holds no checkpoint.

    Example:
        >>> import keras, keras_lc, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
        >>> model.compile("adam", "mse")
        >>> x, y = np.ones((8, 4)), np.ones((8, 2))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save = keras_lc.LCModelCheckpoint(directory + "/cp-{epoch:04d}")
        ...     _ = model.fit(x, y, epochs=3, verbose=0, callbacks=[save])
        ...     run = keras_lc.history(directory)
        >>> [tensor.split("/", 1)[1] for tensor in run.tensors]
        ['dense/kernel', 'dense/bias']
        >>> [share is not None and share < 0.1 for share in run.checkpoints[2].movement[:1]]
        [True]
    """
    place, contents = opened(directory)
    if not contents.listed:
        raise NotFoundError(f"{str(place)!r} holds no checkpoint.")
    sizes = full_sizes(contents)
    points: list[Point] = []
    labels: dict[str, str] = {}
    before: dict[str, np.ndarray] = {}
    for stored, decoded in walk(place, contents, contents.listed, "measuring"):
        movement: tuple[float | None, ...] = ()
        bound: tuple[float | None, ...] = ()
        if isinstance(decoded, CheckpointError):
            before = {}
        else:
            labels = labels or _weights(decoded)
            now = {name: decoded.decoder.reconstruction[name] for name in labels}
            movement = tuple(_moved(before.get(name), now[name]) for name in labels)
            known = bounds(place, stored, decoded)
            bound = tuple(_share(known.get(name), now[name]) for name in labels)
            before = now
        header = stored.header
        points.append(
            Point(
                id=stored.name,
                epoch=header["epoch"],
                step=header["step"],
                nbytes=stored.nbytes,
                full=sizes.get(stored.digest),
                logs={name: float(value) for name, value in header["logs"].items()},
                movement=movement,
                bound=bound,
                damaged=str(decoded) if isinstance(decoded, CheckpointError) else None,
            )
        )
    return History(str(place), tuple(labels.values()), tuple(points))


def _weights(decoded: Decoded) -> dict[str, str]:
    """The weights that are trained, with their labels; of an old base, all that are floats."""
    about, arrays = decoded.base.about, decoded.base.arrays
    labels, roles = about.get("labels", {}), about.get("roles")
    if roles is None:
        others = ("optimizer", "seeds", "run/")
        names = [n for n, a in arrays.items() if is_float(a.dtype) and not n.startswith(others)]
    else:
        names = [name for name in arrays if roles.get(name, [""])[0] == "weight"]
    return {name: str(labels.get(name, name)) for name in names}


def _moved(before: np.ndarray | None, now: np.ndarray) -> float | None:
    if before is None or before.shape != now.shape:
        return None
    return _share(_size(now.astype(np.float64) - before), now)


def _share(length: float | None, values: np.ndarray) -> float | None:
    size = _size(values.astype(np.float64))
    return None if length is None or not size or not np.isfinite(size) else length / size


def _size(values: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
