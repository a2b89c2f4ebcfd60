"""Whether the tensors of a checkpoint go into the variables of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from keras_lc.capture.variables import Tensor
from keras_lc.errors import MismatchError


def refuse(faults: Iterable[str], advice: str) -> None:
    """Raise a `MismatchError` that tells these faults, if there are any."""
    found = list(faults)
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise MismatchError(
            f"the checkpoint is of another model: {'; '.join(found[:5])}{more}. {advice} The "
            "model is unchanged."
        )


def faults(
    names: list[str],
    tensors: Mapping[str, Tensor],
    arrays: Mapping[str, np.ndarray],
    like: Mapping[str, np.ndarray],
    labels: Mapping[str, str],
) -> Iterator[str]:
    """What keeps these tensors of a checkpoint from going into a model."""
    for name in names:
        theirs = labels.get(name, "?")
        if name not in tensors:
            yield (
                f"{name} ({theirs}, shape {tuple(like[name].shape)}) is in the checkpoint, not "
                "in the model"
            )
            continue
        label, variable = tensors[name].label, tensors[name].variable
        shape, dtype = tuple(variable.shape), variable.dtype
        if name not in like:
            yield f"{name} ({label}, shape {shape}) is in the model, not in the checkpoint"
        elif like[name].shape != shape:
            yield (
                f"{name} ({label}) has shape {shape} in the model and {like[name].shape} in the "
                f"checkpoint{'' if theirs in (label, '?') else f', where it is {theirs}'}"
            )
        elif like[name].dtype.name != dtype and not _holds(dtype, arrays[name]):
            stored = like[name].dtype
            yield f"{name} ({label}) is {dtype} in the model and {stored} in the checkpoint"
        elif name.startswith("weights/") and _called(label) != _called(theirs):
            yield f"{name} is {label} in the model and {theirs} in the checkpoint"


def _called(label: str) -> str:
    """What a layer calls a variable: names of layers, and numbers, differ between processes."""
    return label.rsplit("/", 1)[-1].rstrip("_0123456789")


def _holds(dtype: str, array: np.ndarray) -> bool:
    """Whether an integer type holds these integers; those of iterations and seeds differ between
    backends."""
    if array.dtype.kind not in "iu" or not dtype.startswith(("int", "uint")):
        return False
    limits = np.iinfo(dtype)
    return not array.size or bool(limits.min <= array.min() and array.max() <= limits.max)


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as a variable of this dtype takes it."""
    return array if array.dtype.name == dtype else array.astype(dtype)
