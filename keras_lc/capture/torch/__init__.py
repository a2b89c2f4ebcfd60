"""The training state of torch objects: a model, its optimizers, schedulers and scaler, random
states, and whatever the user adds.

Tensors are named by the keys of `state_dict`: `weights/<key>`, `buffers/<key>` and
`optimizer/<title>/<key>/<state>`. All that is no tensor is one JSON, `run/notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from keras_lc.capture import RUN, Snapshot, randomness, text
from keras_lc.capture.torch import model as models
from keras_lc.capture.torch import optimizers
from keras_lc.capture.torch.model import Model
from keras_lc.capture.torch.tensors import TensorBuffers
from keras_lc.capture.tree import flatten
from keras_lc.core import TensorSpec
from keras_lc.core.spec import Role

NOTES = f"{RUN}notes"
RANDOM = f"{RUN}random/now/"
Lossy = Iterable[Role] | Callable[[TensorSpec], bool]
Several = Any  # one object, a list of them, or a mapping from titles to them


@dataclass(frozen=True)
class Training:
    """The objects whose state is saved together.

    Args:
        model: a module, or several by name.
        optimizers, schedulers: by title; see `several`.
        scaler: a `GradScaler`, or anything with `state_dict` and `load_state_dict`.
    """

    model: Model
    optimizers: Mapping[str, Any] = field(default_factory=dict)
    schedulers: Mapping[str, Any] = field(default_factory=dict)
    scaler: Any = None

    @property
    def stateful(self) -> dict[str, Any]:
        """Those that hold numbers rather than tensors, by name."""
        found = {f"scheduler/{title}": one for title, one in self.schedulers.items()}
        return found if self.scaler is None else found | {"scaler": self.scaler}


def several(objects: Several) -> dict[str, Any]:
    """One object, none, or a list or mapping of them, by title: the number where it has none."""
    if objects is None:
        return {}
    if isinstance(objects, Mapping):
        return {str(title): one for title, one in objects.items()}
    listed = objects if isinstance(objects, list | tuple) else [objects]
    return {str(i): one for i, one in enumerate(listed)}


class TorchCapture:
    """Copies the state of a training into buffers that it keeps.

    Args:
        lossy: which tensors a codec may store with an error: roles, or a function of a
            `TensorSpec`. The others are stored bit for bit.
    """

    def __init__(self, lossy: Lossy):
        self._lossy = lossy if callable(lossy) else _of_role(set(lossy))
        self._buffers = TensorBuffers()

    def snapshot(self, training: Training, step: int, extra: Any) -> Snapshot:
        """Copy the state. The arrays are the capture's own buffers, which the next snapshot
        overwrites."""
        state = _State(training, extra)
        arrays, ready = self._buffers.copy(state.tensors)
        arrays |= state.arrays
        specs = self._filtered(state.specs)
        return Snapshot(arrays, specs, step, ready=ready, buffers=self._buffers)

    def described(self, training: Training, snapshot: Snapshot) -> Snapshot:
        """The snapshot just taken, with what a base needs besides."""
        model = models.state_of(training.model)
        about = {
            "framework": "torch",
            "torch": torch.__version__,
            "tied": model.tied,
            "labels": model.keys,
        }
        return replace(snapshot, layout={name: name for name in snapshot.arrays}, about=about)

    def specs(self, training: Training, extra: Any) -> list[TensorSpec]:
        """The role of each tensor that a snapshot would have now."""
        return self._filtered(_State(training, extra).specs)

    def _filtered(self, specs: Iterable[TensorSpec]) -> list[TensorSpec]:
        return [spec if self._lossy(spec) else TensorSpec(spec.name, "exact") for spec in specs]


def _of_role(roles: set[Role]) -> Callable[[TensorSpec], bool]:
    return lambda spec: spec.role in roles


class _State:
    """All there is to save, not copied yet."""

    def __init__(self, training: Training, extra: Any):
        model = models.state_of(training.model)
        self.tensors: dict[str, torch.Tensor] = dict(model.tensors)
        self.arrays: dict[str, np.ndarray] = {}
        self.specs = [
            TensorSpec(name, "weight" if name.startswith("weights/") else "exact")
            for name in model.tensors
        ]
        notes: dict[str, Any] = {"optimizers": {}, "stateful": {}, "modules": {}}
        for title, optimizer in training.optimizers.items():
            state = optimizers.state_of(title, optimizer, model)
            notes["optimizers"][title] = state.notes
            self.tensors |= state.tensors
            self.specs += state.specs
        for name, one in training.stateful.items():
            held = {"class": type(one).__name__, "state": one.state_dict()}
            notes["stateful"][name] = self._flat(held, f"{RUN}{name}")
        for key, value in model.extra.items():
            notes["modules"][key] = self._flat(value, f"{RUN}modules/{key}")
        notes["extra"] = self._flat(extra, f"{RUN}extra")
        for kind, array in randomness.states().items():
            self._add(f"{RANDOM}{kind}", array)
        self._add(NOTES, text.packed(notes, least=1 << 12))

    def _flat(self, value: Any, name: str) -> Any:
        found: dict[str, Any] = {}
        notes = flatten(value, name, found, torch.is_tensor)
        for key, leaf in found.items():
            self._add(key, leaf)
        return notes

    def _add(self, name: str, leaf: Any) -> None:
        (self.tensors if torch.is_tensor(leaf) else self.arrays)[name] = leaf
        self.specs.append(TensorSpec(name, "exact"))
