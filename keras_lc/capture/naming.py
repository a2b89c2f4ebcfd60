"""Tensors of a checkpoint by what users call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_GROUPS = ("", "weights/", "buffers/")
_TRANSPOSED = ".T"


@dataclass(frozen=True)
class Place:
    """A tensor of a checkpoint, and whether it is wanted transposed."""

    name: str
    transposed: bool = False

    def seen(self, stored: np.ndarray) -> np.ndarray:
        """The array as it is wanted."""
        return stored.T if self.transposed else stored


def find(wanted: str, arrays: Mapping[str, Any], labels: Mapping[str, str]) -> Place | None:
    """The tensor of a name, None if there is none.

    Args:
        wanted: its name, the same without `weights/`, or its label, such as the path of a
            variable of Keras; `.T` behind it transposes.
        arrays: what there is, by name.
        labels: name to label.

    Example:
        >>> from keras_lc.capture.naming import find
        >>> find("dense/kernel.T", ["weights/0"], {"weights/0": "dense/kernel"})
        Place(name='weights/0', transposed=True)
    """
    named = {label: name for name, label in labels.items()}
    for suffix in ("", _TRANSPOSED):
        if wanted.endswith(suffix):
            bare = wanted.removesuffix(suffix)
            for name in (named.get(bare), *(group + bare for group in _GROUPS)):
                if name is not None and name in arrays:
                    return Place(name, bool(suffix))
    return None
