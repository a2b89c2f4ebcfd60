"""Torch tensors to numpy arrays and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from keras_lc.capture.buffers import Buffers
from keras_lc.errors import OptionError

_OTHERS = ("bfloat", "float8")  # begin the names of dtypes that are ml_dtypes' in numpy


class TensorBuffers(Buffers):
    """Memory for copies of tensors. That for those of a CUDA device is pinned, and always kept."""

    def __init__(self) -> None:
        super().__init__()
        self._pinned: dict[str, torch.Tensor] = {}

    def copy(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, np.ndarray], Callable[[], None]]:
        """Copies of tensors, which the next call overwrites, and a function that waits until
        they are complete: what is on a CUDA device is copied by the device, between what the
        current streams are doing and what they will be asked to do next.

        Raises:
            OptionError: a tensor is of a kind that no array can hold; it is named.
        """
        there = {name: tensor for name, tensor in tensors.items() if tensor.is_cuda}
        self._pinned = {name: self._pin(name, tensor) for name, tensor in there.items()}
        events = []
        for device in {tensor.device for tensor in there.values()}:
            events.append(torch.cuda.Event())
            events[-1].record(torch.cuda.current_stream(device))
        arrays = {name: array_of(tensor) for name, tensor in self._pinned.items()}
        views = {name: _seen(name, tensors[name]) for name in tensors if name not in there}
        arrays |= self.fill(views.items())

        def complete() -> None:
            for event in events:
                event.synchronize()

        return arrays, complete

    def _pin(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        host = self._pinned.get(name)
        if host is None or host.shape != tensor.shape or host.dtype != tensor.dtype:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor.detach(), non_blocking=True)


def _seen(name: str, tensor: torch.Tensor) -> np.ndarray:
    try:
        return array_of(tensor if tensor.device.type == "cpu" else tensor.cpu())
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise OptionError(
            f"{name!r}, a {type(tensor).__name__} of {tensor.dtype} on {tensor.device}, cannot be "
            f"stored ({error}); expected a plain tensor that holds its values. Sharded ones are "
            "saved through keras_lc.torch.distributed."
        ) from error


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor in the memory of the host as numpy sees it, without a copy where that is
    possible."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if not name.startswith(_OTHERS):
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(_BYTES[tensor.itemsize]).numpy().view(getattr(ml_dtypes, name))


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A tensor with a copy of an array."""
    array = np.array(array, order="C")
    if not array.dtype.name.startswith(_OTHERS):
        return torch.from_numpy(array)
    whole = torch.from_numpy(array.view(f"i{array.itemsize}"))
    return whole.view(getattr(torch, array.dtype.name))


def assign(tensor: torch.Tensor, array: np.ndarray) -> None:
    """Put the values of an array of its shape and dtype into a tensor."""
    with torch.no_grad():
        if tensor.device.type == "cpu" and not tensor.is_conj() and not tensor.is_neg():
            np.copyto(array_of(tensor), array)
        else:
            tensor.copy_(tensor_of(array))


def dtype_name(tensor: torch.Tensor) -> str:
    """Numpy's name of a tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def identity(tensor: Any) -> Any:
    """The same for tensors that are the same values in the same memory."""
    if tensor.layout != torch.strided or not tensor.data_ptr():  # empty, or of a kind of its own
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


_BYTES = {1: torch.int8, 2: torch.int16}
