"""The training state of a framework to named arrays and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from keras_lc.capture.buffers import Buffers
from keras_lc.core import TensorSpec

RUN = "run/"  # begins the names of tensors that are no part of the model or its optimizer


@dataclass(frozen=True)
class Snapshot:
    """A training state at one instant, copied out of the framework.

    Args:
        arrays: every tensor by name.
        specs: the role of each tensor.
        step: the optimizer's iteration.
        layout: where a base stores them for its framework to find (HDF5 path to a tensor's
            name or to an array); None until the snapshot is described.
        about: JSON on the state, stored in a base: configuration, labels of the tensors.
        ready: returns when the arrays hold what they should, where a device still copies.
        buffers: what the next snapshot overwrites.
    """

    arrays: Mapping[str, np.ndarray]
    specs: list[TensorSpec]
    step: int
    layout: dict[str, str | np.ndarray] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    ready: Callable[[], None] = lambda: None
    buffers: Buffers = field(default_factory=Buffers)


class Source(Protocol):
    """What gives snapshots: the capture of one framework."""

    @property
    def step(self) -> int:
        """The optimizer's iteration now."""
        ...

    def snapshot(self) -> Snapshot:
        """Copy the state into buffers that the next snapshot overwrites."""
        ...

    def described(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot just taken, with layout and configuration."""
        ...
