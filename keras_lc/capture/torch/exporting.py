"""A stored state as PyTorch's own state dictionaries, in a `.pt` file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from keras_lc.capture import RUN
from keras_lc.capture.torch.optimizers import state_dict
from keras_lc.capture.torch.restoring import Source
from keras_lc.capture.torch.tensors import tensor_of
from keras_lc.capture.tree import unflatten


def write(
    file: BinaryIO,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """Write what `torch.load(file, weights_only=True)` takes: plain mappings and tensors.

    Args:
        file: to write into.
        arrays, about: a state of a torch training, as it was stored.
        told: more to put into the mapping.
    """
    source = Source(arrays, arrays, about)
    notes, tied = source.notes(), about["tied"]

    def leaf(kind: str, name: str) -> torch.Tensor:
        return tensor_of(arrays[name])

    def grown(name: str, value: Any) -> Any:
        return unflatten(value, f"{RUN}{name}", leaf)

    held = {name: tensor_of(arrays[name]) for name in about["labels"] if name in arrays}
    model = {key: held[tied.get(name, name)] for name, key in about["labels"].items()}
    modules = {key: grown(f"modules/{key}", value) for key, value in notes["modules"].items()}
    optimizers = {
        title: state_dict(title, _numbers(stored), stored, leaf)
        for title, stored in notes["optimizers"].items()
    }
    stateful = {
        name: grown(f"{name}/state", stored["state"]) for name, stored in notes["stateful"].items()
    }
    schedulers = {
        name.removeprefix("scheduler/"): state
        for name, state in stateful.items()
        if name.startswith("scheduler/")
    }
    content = {
        "model": model | modules,
        "optimizer": _alone(optimizers),
        "scheduler": _alone(schedulers),
        "scaler": stateful.get("scaler"),
        "extra": grown("extra", notes["extra"]),
        **told,
    }
    torch.save(content, file)


def _numbers(stored: Mapping[str, Any]) -> dict[str, int]:
    """The number of each parameter, as torch counts them: over all groups, each once."""
    names = dict.fromkeys(name for group in stored["groups"] for name in group["params"])
    return {name: number for number, name in enumerate(names)}


def _alone(several: dict[str, Any]) -> Any:
    """A state that has no title of its own, or all by their titles."""
    return several["0"] if list(several) == ["0"] else several or None
