"""What holds a model's state, read into numpy arrays: variables of Keras, and buffers of torch
modules, which Keras does not count among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_lc.core import TensorSpec, pages


@dataclass(frozen=True)
class TorchBuffer:
    """A buffer of a wrapped torch module, with what a `keras.Variable` is asked for."""

    path: str
    value: Any  # torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        return str(keras.backend.standardize_dtype(self.value.dtype))

    def assign(self, array: np.ndarray) -> None:
        self.value.copy_(keras.ops.convert_to_tensor(np.array(array), dtype=self.dtype))


@dataclass(frozen=True)
class Kept:
    """An array that a layer keeps, with the label of a variable."""

    path: str
    value: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """A part of a model's state: its name and role, and what holds it."""

    spec: TensorSpec
    variable: Any  # keras.Variable, TorchBuffer or Kept

    @property
    def label(self) -> str:
        return str(self.variable.path)

    @property
    def holder(self) -> Any:
        """The object by which it is known: some are looked up anew each time."""
        looked_up = isinstance(self.variable, TorchBuffer | Kept)
        return self.variable.value if looked_up else self.variable


def torch_modules(model: Any) -> Iterator[Any]:
    """The layers of a model that wrap a torch module."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.TorchModuleWrapper):
            yield layer


def torch_state(layer: Any) -> dict[str, Any]:
    """What Keras stores of a wrapped torch module: its parameters and buffers by their names."""
    held = layer.module.state_dict(keep_vars=True)
    buffers = {
        id(tensor): TorchBuffer(f"{layer.path}/{key}", tensor) for key, tensor in held.items()
    }
    known = buffers | {id(variable.value): variable for variable in layer.weights}
    return {key: known[id(tensor)] for key, tensor in held.items()}


def torch_buffers(model: Any) -> list[TorchBuffer]:
    """The buffers of all wrapped torch modules, each once."""
    buffers = {
        id(held.value): held
        for layer in torch_modules(model)
        for held in torch_state(layer).values()
        if isinstance(held, TorchBuffer)
    }
    return list(buffers.values())


def copied(value: Any) -> np.ndarray:
    """A copy of what a variable, a buffer or an array holds."""
    return pages.copied(view(value))


def view(value: Any) -> np.ndarray:
    """What a variable, a buffer or an array holds, as numpy sees it: without a copy where the
    backend allows that."""
    if isinstance(value, Kept):
        return value.value
    if not isinstance(value, (keras.Variable, TorchBuffer)):
        return np.asarray(keras.ops.convert_to_numpy(value))
    try:
        return _VIEWS[keras.backend.backend()](value.value)
    except (AttributeError, TypeError, ValueError, BufferError, RuntimeError):  # bool, on a GPU
        return np.asarray(keras.ops.convert_to_numpy(value.value))


def _torch_view(tensor: Any) -> np.ndarray:
    from keras_lc.capture.torch.tensors import array_of

    return array_of(tensor)


_VIEWS: dict[str, Any] = {
    "tensorflow": lambda variable: np.from_dlpack(variable.value()),
    "torch": _torch_view,
    "jax": np.asarray,
}
