"""The roles of tensors of which only the names are known: `optim.state.<key>.exp_avg`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_lc.capture.torch.optimizers import MOMENTS
from keras_lc.core import TensorSpec
from keras_lc.core.spec import Role


def specs_of(arrays: Mapping[str, np.ndarray]) -> list[TensorSpec]:
    """The roles of tensors, by their names; `@` and what is behind it says which part of one.

    A moment is known by its name and by a weight of its shape, whose key it has in its own. What
    is no moment, and no weight that has any, is exact.

    Example:
        >>> import numpy as np
        >>> from keras_lc.capture.torch.shards import specs_of
        >>> part = np.zeros((2, 3))
        >>> for spec in specs_of({"model.w@0,0": part, "optim.state.w.exp_avg@0,0": part}):
        ...     print(spec.role, spec.of)
        weight None
        first_moment model.w@0,0
    """
    found: dict[str, tuple[Role, str]] = {}
    endings: dict[str, str] = {}
    for name in arrays:
        key, _, offset = name.partition("@")
        if key.rpartition(".")[2] not in MOMENTS:
            for ending in _endings(key):
                endings.setdefault(f"{ending}@{offset}", name)
    for name in arrays:
        key, _, offset = name.partition("@")
        owner, _, moment = key.rpartition(".")
        if moment in MOMENTS:
            near = (endings.get(f"{ending}@{offset}") for ending in _endings(owner))
            weight = next(filter(None, near), None)
            if weight is not None and arrays[weight].shape == arrays[name].shape:
                found[name] = (MOMENTS[moment], weight)
    weights = {weight for _, weight in found.values()}
    return [
        TensorSpec(name, *found[name])
        if name in found
        else TensorSpec(name, "weight" if name in weights else "exact")
        for name in arrays
    ]


def _endings(key: str) -> list[str]:
    """`a.b.c`, `b.c`, `c`."""
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]
