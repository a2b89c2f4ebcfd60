"""A series of states from elsewhere as one chain: plain checkpoint files, or another chain."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from keras_lc.capture import Snapshot
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import TensorSpec
from keras_lc.core.presets import CodecLike
from keras_lc.errors import CheckpointError, DamagedError, MismatchError, OptionError, StoreError
from keras_lc.listing import open_directory, strip_suffix
from keras_lc.progress import shown
from keras_lc.references import opened
from keras_lc.store import base, plain
from keras_lc.store.index import Stored
from keras_lc.store.locate import directory_at
from keras_lc.walk import walk

_ITERATIONS = re.compile(r"optimizer(?:/\w+)*/vars/0|optim(?:.*/)?state/0/step")
_SLOTS = re.compile(r"(optimizer(?:/\w+)*)/vars/(\d+)")
_TORCH_STATISTICS = ("running_mean", "running_var")
_STATISTICS = re.compile(r"(?:.*/)?(?:batch_|sync_batch_)?normalization(?:_\d+)?/vars")
_KERAS = (".h5", ".keras")  # files whose arrays Keras finds by their places
_OTHERS = (".safetensors", ".pt", ".pth")
_WITH_BOTH = ("adam", "adamw", "lamb", "nadam")  # optimizers that keep pairs of moments


@dataclass(frozen=True)
class Frame:
    """One state of a series; where its snapshot is described it becomes a base, `if_due` only where
    a chain must begin."""

    name: str
    epoch: int
    batch: int
    logs: Mapping[str, Any]
    snapshot: Snapshot
    if_due: bool = False


def ordered(files: Sequence[str]) -> list[str]:
    """Files in the order of the numbers in their names.

    Example:
        >>> from keras_lc.series import ordered
        >>> ordered(["cp-10.keras", "cp-9.keras"])
        ['cp-9.keras', 'cp-10.keras']
    """
    return sorted(files, key=lambda file: [(int(n or 0), t) for n, t in _pieces(Path(file).name)])


def frame_of(path: str, epoch: int) -> Frame:
    """A plain checkpoint file as a state; its tensors are named by their places in the file.

    Raises:
        NotFoundError, OptionError, DamagedError: as for `plain.read`.
        MismatchError: as there, or layers have put files into it, such as vocabularies.
    """
    content = plain.read(path)
    if content.assets:
        raise MismatchError(
            f"{path!r} holds files of layers ({', '.join(content.assets)}), which only a callback "
            "can take; import files of the weights alone (.weights.h5)."
        )
    about: dict[str, Any] = {"framework": "file", "source": Path(path).suffix}
    if content.model is not None:
        about["model"] = content.model
    if content.left_out:
        warnings.warn(f"not stored, since not numbers: {', '.join(content.left_out)}", stacklevel=2)
    layout: dict[str, str | np.ndarray] = {}
    if path.endswith(_KERAS):
        layout |= {place: place for place in content.arrays}
    snapshot = Snapshot(content.arrays, roles(content), _step(content.arrays), layout, about)
    return Frame(_name(path), epoch, 0, {}, snapshot, if_due=True)


def file_frames(files: Sequence[str]) -> Iterator[Frame]:
    """Plain files as states, one at a time."""
    for path, epoch in zip(files, _epochs(files), strict=True):
        yield frame_of(path, epoch)


def roles(content: plain.Plain) -> list[TensorSpec]:
    """The parts that the tensors of a file play, as far as it is certain; the rest is exact.

    Moments are told by the name of the optimizer, and by their signs. Which weight they belong to
    the file does not say, so that none is coded with the help of them.
    """
    arrays = content.arrays
    specs = {name: TensorSpec(name, "exact") for name in arrays}
    for name, array in arrays.items():
        layer = not name.startswith(("optim", "seed")) and not _is_statistic(name, arrays)
        if array.ndim and layer:
            specs[name] = TensorSpec(name)
        elif name.endswith("/momentum_buffer"):  # of PyTorch
            specs[name] = TensorSpec(name, "first_moment", of=name)
    for one, other in [*_keras_slots(content), *_torch_slots(content)]:
        if specs[one].role == "exact" and _are_moments(arrays[one], arrays[other]):
            specs[one] = TensorSpec(one, "first_moment", of=one)
            specs[other] = TensorSpec(other, "second_moment", of=one)
    return list(specs.values())


def _keras_slots(content: plain.Plain) -> Iterator[tuple[str, str]]:
    """Neighbours among the variables of an optimizer that keeps pairs of moments."""
    slots: dict[str, list[str]] = {}
    for name in content.arrays:
        if match := _SLOTS.fullmatch(name):
            slots.setdefault(match[1], []).append(name)
    for owner, names in slots.items():
        called = re.sub(r"_\d+$", "", content.names.get(f"{owner}/vars", ""))
        if called in _WITH_BOTH:
            yield from pairwise(sorted(names, key=lambda name: int(name.rpartition("/")[2])))


def _torch_slots(content: plain.Plain) -> Iterator[tuple[str, str]]:
    """What the optimizers of PyTorch call running means, of gradients and of their squares."""
    for name in content.arrays:
        if (
            name.startswith("optim")
            and name.endswith("/exp_avg")
            and f"{name}_sq" in content.arrays
        ):
            yield name, f"{name}_sq"


def write(frames: Iterator[Frame], count: int, directory: str, codec: CodecLike) -> None:
    """Store states as one chain in a directory that holds none yet.

    Args:
        frames: the states.
        count: how many there are.
        directory: path or URL.
        codec: as for `core.DeltaEncoder`.

    Raises:
        StoreError: the directory holds checkpoints, or cannot be written.
        OptionError: the codec is not known.
    """
    contents = open_directory(directory_at(directory))
    if contents.stored or contents.damaged:
        raise StoreError(f"{directory!r} holds checkpoints already; name another directory.")
    checkpointer = Checkpointer(directory, codec, background=False)
    try:
        for frame in shown(frames, count, "writing"):
            taken = frame.snapshot
            if frame.if_due and not checkpointer.base_due(frame.name, taken):
                taken = replace(taken, layout=None)
            checkpointer.save(taken, frame.name, frame.epoch, frame.batch, frame.logs)
    finally:
        checkpointer.close()


def check(frames: Iterator[Frame], directory: str) -> Iterator[tuple[Stored, float]]:
    """Decode a chain and compare it with the states that it was made of: each checkpoint with the
    error of its weights (root mean square, as a share of theirs).

    Raises:
        DamagedError: one cannot be read, or a tensor that is always exact is not.
    """
    place, contents = opened(directory)
    for (stored, decoded), frame in zip(
        walk(place, contents, contents.listed, "reading back"), frames, strict=True
    ):
        if isinstance(decoded, CheckpointError):
            raise DamagedError(f"{stored.file} was not written as it should: {decoded}")
        lossless = stored.parent is None or stored.header.get("codec") == "lossless"
        saved, found = frame.snapshot.arrays, decoded.decoder.reconstruction
        for spec in frame.snapshot.specs:
            exact = lossless or spec.role == "exact"
            if exact and saved[spec.name].tobytes() != found[spec.name].tobytes():
                raise DamagedError(f"{spec.name!r} of {stored.file} is not what it was made of.")
        weights = [spec.name for spec in frame.snapshot.specs if spec.role == "weight"]
        yield stored, 0.0 if lossless else distance(saved, {w: found[w] for w in weights})


def distance(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Root mean square of the differences of all tensors of `after`, as a share of the values
    before."""
    way = size = 0.0
    for name, array in after.items():
        values = before[name].astype(np.float64)
        way += float(np.sum(np.square(array - values)))
        size += float(np.sum(np.square(values)))
    return (way / size) ** 0.5 if size else 0.0


def chain_frames(directory: str) -> Iterator[Frame]:
    """The checkpoints of a directory as states; its bases are bases again.

    Raises:
        NotFoundError: there is no such directory.
        DamagedError: one of the checkpoints cannot be decoded.
        MismatchError: a base does not tell what its tensors are.
    """
    place, contents = opened(directory)
    if contents.damaged:
        raise DamagedError(f"{directory!r}: {' '.join(contents.faults)} Move it away first.")
    for stored, decoded in walk(place, contents, contents.listed, "reading"):
        if isinstance(decoded, CheckpointError):
            raise decoded
        header, about = stored.header, decoded.base.about
        known = about.get("roles")
        if known is None:
            raise MismatchError(
                f"{stored.where} builds on a base that does not tell weights from moments, as "
                "those saved by this version do; it cannot be encoded anew."
            )
        arrays = dict(decoded.decoder.reconstruction)
        specs = [TensorSpec(name, *known.get(name, ["exact"])) for name in arrays]
        layout = base.layout(decoded.base) if stored.parent is None else None
        snapshot = Snapshot(arrays, specs, header["step"], layout, about)
        yield Frame(stored.name, header["epoch"], header["batch"], header["logs"], snapshot)


def _is_statistic(name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a layer computes it: the last two of a normalization's variables."""
    if name.endswith(_TORCH_STATISTICS):
        return True
    group, _, number = name.rpartition("/")
    if not _STATISTICS.fullmatch(group):
        return False
    count = sum(other.rpartition("/")[0] == group for other in arrays)
    return int(number) >= count - 2


def _are_moments(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether these look like a running mean, and one of squares."""
    if one.shape != other.shape or one.dtype != other.dtype or one.dtype.kind not in "fV":
        return False
    return bool(one.size and (other >= 0).all() and (one < 0).any())


def _step(arrays: Mapping[str, np.ndarray]) -> int:
    """How often an optimizer has been applied, where it tells."""
    for name, array in arrays.items():
        number = array.shape == () and array.dtype.kind in "iuf"
        if number and _ITERATIONS.fullmatch(name) and 0 <= array < 1 << 53:
            return int(array)
    return 0


def _name(path: str) -> str:
    name = Path(path).name
    return strip_suffix(next((name.removesuffix(s) for s in _OTHERS if name.endswith(s)), name))


def _pieces(name: str) -> list[tuple[str, str]]:
    return re.findall(r"(\d+)|(\D+)", name)


def _epochs(files: Sequence[str]) -> list[int]:
    """The first numbers in the names that count upwards; else 1, 2, ..."""
    numbers = [[int(n) for n, _ in _pieces(Path(file).name) if n] for file in files]
    for column in zip(*numbers, strict=False):
        if all(one < other for one, other in pairwise(column)) and column[-1] < 1 << 31:
            return list(column)
    return list(range(1, len(files) + 1))


def check_names(files: Sequence[str]) -> None:
    """Refuse files that would get the same name.

    Raises:
        OptionError: two do.
    """
    seen: dict[str, str] = {}
    for file in files:
        name = _name(file)
        if name in seen:
            raise OptionError(f"{seen[name]!r} and {file!r} would both become {name!r}.")
        seen[name] = file
