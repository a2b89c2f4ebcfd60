"""What is known of each tensor: its name, its part in training, its shape and type."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np

from keras_lc.core.floats import is_float
from keras_lc.core.tiles import cut
from keras_lc.errors import MismatchError, OptionError

Role = Literal["weight", "first_moment", "second_moment", "exact"]


@dataclass(frozen=True)
class TensorSpec:
    """The part that one tensor plays in training.

    Args:
        name: key of the tensor in the state.
        role: `"weight"`, `"first_moment"` (running mean of gradients),
            `"second_moment"` (running mean of their squares) or `"exact"` (always
            stored bit for bit).
        of: for a moment, the name of the weight that it belongs to.

    Raises:
        OptionError: the role is none of the four.

    Example:
        >>> from keras_lc.core import TensorSpec
        >>> TensorSpec("optimizer/2", "first_moment", of="weights/0").of
        'weights/0'
    """

    name: str
    role: Role = "weight"
    of: str | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise OptionError(
                f"TensorSpec {self.name!r}: role {self.role!r} is not known; "
                f"use one of {', '.join(get_args(Role))}."
            )


class TensorTable:
    """Names, dtypes and shapes of a state, in the order in which all blobs list them.

    The order is that of the sorted names, so that it does not depend on how a mapping
    was built. Everything that a blob may claim is checked against this table.
    """

    def __init__(self, state: Mapping[str, np.ndarray]):
        self.names = sorted(state)
        arrays = [np.asarray(state[name]) for name in self.names]
        for name, array in zip(self.names, arrays, strict=True):
            if array.dtype.hasobject:
                raise OptionError(
                    f"tensor {name!r} holds Python objects; only arrays of a fixed-size dtype "
                    "can be stored."
                )
        self.dtypes = [array.dtype for array in arrays]
        self.shapes = [array.shape for array in arrays]
        self.sizes = [prod(shape) for shape in self.shapes]
        self.tiles = [cut(size) for size in self.sizes]
        self.index = {name: i for i, name in enumerate(self.names)}
        rows = [
            [name, dtype.name, dtype.str, list(shape)]
            for name, dtype, shape in zip(self.names, self.dtypes, self.shapes, strict=True)
        ]
        self.fingerprint = zlib.crc32(json.dumps(rows, separators=(",", ":")).encode())

    def check(self, state: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The arrays of `state` in table order; an error names the first that does not fit."""
        missing = sorted(set(self.names) - set(state))
        surplus = sorted(set(state) - set(self.names))
        if missing or surplus:
            raise MismatchError(
                "the state holds other tensors than its base: "
                f"missing {missing[:5]}, not in the base {surplus[:5]}. "
                "Start a new base when tensors come or go."
            )
        arrays = [np.asarray(state[name]) for name in self.names]
        for name, array, dtype, shape in zip(
            self.names, arrays, self.dtypes, self.shapes, strict=True
        ):
            if array.dtype != dtype or array.shape != shape:
                raise MismatchError(
                    f"tensor {name!r} is {array.dtype}{list(array.shape)}, its base is "
                    f"{dtype}{list(shape)}. Start a new base when tensors change."
                )
        return arrays

    def resolve(self, specs: Iterable[TensorSpec] | None) -> list[TensorSpec]:
        """One spec a tensor, in table order; without specs, floats are weights."""
        given: dict[str, TensorSpec] = {}
        for spec in specs or ():
            if spec.name not in self.index:
                raise MismatchError(f"a TensorSpec names {spec.name!r}, which the base lacks.")
            if spec.of is not None and spec.of not in self.index:
                raise MismatchError(
                    f"the TensorSpec of {spec.name!r} names {spec.of!r}, which the base lacks."
                )
            given[spec.name] = spec
        resolved = []
        for name, dtype in zip(self.names, self.dtypes, strict=True):
            spec = given.get(name, TensorSpec(name))
            resolved.append(spec if is_float(dtype) else TensorSpec(name, "exact"))
        return resolved
