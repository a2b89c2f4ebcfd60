"""What has changed from one checkpoint to another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from keras_lc.errors import MismatchError
from keras_lc.figures import Column, Figures, Note, Table, words
from keras_lc.loader import load
from keras_lc.progress import shown
from keras_lc.references import find
from keras_lc.report.contents import labels_of
from keras_lc.store import plain


@dataclass(frozen=True)
class Moved:
    """How far a tensor has moved.

    Attributes:
        movement: root mean square of the differences, as a share of that of the values before;
            None of what is no number.
        largest: the largest difference; None of what is no number.
        changed: share of the values that differ in any bit.
        nbytes: size of the tensor.
    """

    name: str
    label: str
    movement: float | None
    largest: float | None
    changed: float
    nbytes: int


@dataclass(frozen=True)
class Difference(Figures):
    """What `keras-lc diff` shows.

    Attributes:
        before, after: the two checkpoints, or files.
        nbytes: what the second one takes on the disk, and the first.
        tensors: of both, in the order of their names.
        only_before, only_after: names of tensors that only one of them has, or that differ in
            shape.
    """

    verb = "diff"
    before: str
    after: str
    nbytes: tuple[int, int]
    tensors: tuple[Moved, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def parts(self) -> Iterator[str | Table]:
        columns = [
            Column("name", "tensor"),
            Column("movement", "moved by", words.share, right=True),
            Column("largest", "at most", words.number, right=True),
            Column("changed", "changed", words.share, right=True),
            Column("nbytes", "size", words.size, right=True),
            Column("label", "variable"),
        ]
        yield Table(columns, [asdict(tensor) for tensor in self.tensors])
        for names, where in ((self.only_before, self.before), (self.only_after, self.after)):
            if names:
                yield Note(f"only in {where}: {', '.join(names)}")
        before, after = map(words.size, self.nbytes)
        yield Note(f"{self.before} ({before} stored) to {self.after} ({after})")


@dataclass(frozen=True)
class _Side:
    path: str
    nbytes: int
    arrays: Mapping[str, np.ndarray]
    labels: Mapping[str, str]
    places: Mapping[str, str]


def difference(before: str | os.PathLike[str], after: str | os.PathLike[str]) -> Difference:
    """Compare two checkpoints tensor by tensor; both are decoded.

    Args:
        before, after: as for `references.find`, or a plain file of Keras or of safetensors: what
            was saved against what is restored.

    Raises:
        NotFoundError, OptionError, DamagedError, FormatError: as for `references.find`.
        MismatchError: they have no tensor in common.
    """
    one, other = _side(os.fspath(before)), _side(os.fspath(after))
    pairs = _pairs(one, other)
    if not pairs:
        raise MismatchError(f"{one.path!r} and {other.path!r} have no tensor in common.")
    tensors = tuple(
        _moved(name, other.labels.get(theirs, theirs), one.arrays[name], other.arrays[theirs])
        for name, theirs in shown(sorted(pairs.items()), len(pairs), "comparing")
    )
    return Difference(
        before=one.path,
        after=other.path,
        nbytes=(one.nbytes, other.nbytes),
        tensors=tensors,
        only_before=tuple(sorted(set(one.arrays) - set(pairs))),
        only_after=tuple(sorted(set(other.arrays) - set(pairs.values()))),
    )


def _side(reference: str) -> _Side:
    if plain.is_plain(reference):
        size = os.path.getsize(reference)
        return _Side(reference, size, plain.read(reference).arrays, {}, {})
    found = find(reference)
    loaded = load(found.directory, found.contents, found.stored)
    arrays = loaded.decoder.reconstruction
    return _Side(found.path, found.stored.nbytes, arrays, labels_of(loaded), loaded.base.places)


def _pairs(one: _Side, other: _Side) -> dict[str, str]:
    """Names of the same tensor on either side; those of a plain file are places in a base."""
    places = {place: name for name, place in other.places.items()}
    pairs = {}
    for name in one.arrays:
        theirs = name if name in other.arrays else one.places.get(name, places.get(name, ""))
        if theirs in other.arrays and one.arrays[name].shape == other.arrays[theirs].shape:
            pairs[name] = theirs
    return pairs


def _moved(name: str, label: str, before: np.ndarray, after: np.ndarray) -> Moved:
    movement = largest = None
    if before.dtype.kind not in "SU" and before.size:
        wide = np.complex128 if before.dtype.kind == "c" else np.float64
        one, other = before.astype(wide), after.astype(wide)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            way = other - one
            largest = float(np.max(np.abs(way)))
            size, length = (float(np.sqrt(np.mean(np.square(np.abs(x))))) for x in (one, way))
            movement = length / size if size else (0.0 if length == 0 else None)
    same = before.dtype == after.dtype
    changed = float(np.mean(_bits(before) != _bits(after))) if same and before.size else 0.0
    if not same and before.size:
        changed = float(np.mean(before != after))
    return Moved(name, label, movement, largest, changed, after.nbytes)


def _bits(array: np.ndarray) -> np.ndarray:
    """The bytes of each value, as one that can be compared."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"V{flat.dtype.itemsize}")
