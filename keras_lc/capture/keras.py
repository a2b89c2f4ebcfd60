"""A Keras model's training state: weights, seeds and optimizer.

Tensors are named by group and ordinal (`weights/3`, `seeds/0`, `optimizer/5`), since a
variable's path changes between processes and may not even be unique. Paths are kept as
labels for messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_lc.capture import Snapshot
from keras_lc.core import TensorSpec
from keras_lc.core.spec import Role
from keras_lc.errors import MismatchError

# Lists of slot variables, in the order of the trainable variables, and what they hold.
_SLOTS: list[tuple[type, dict[str, Role]]] = [
    (keras.optimizers.Adam, {"_momentums": "first_moment", "_velocities": "second_moment"}),
    (keras.optimizers.Nadam, {"_momentums": "first_moment", "_velocities": "second_moment"}),
    (keras.optimizers.RMSprop, {"_velocities": "second_moment"}),
    (keras.optimizers.SGD, {"momentums": "first_moment"}),
    (keras.optimizers.Lion, {"_momentums": "first_moment"}),
]


@dataclass(frozen=True)
class _Tensor:
    spec: TensorSpec
    variable: Any  # keras.Variable

    @property
    def label(self) -> str:
        return str(self.variable.path)


class KerasCapture:
    """Copies the training state of a model into buffers that it keeps, and puts it back.

    Args:
        model: a `keras.Model`; built when a snapshot is taken.
        weights_only: leave the optimizer out.
    """

    def __init__(self, model: Any, weights_only: bool = False):
        self.model = model
        self.weights_only = weights_only
        self._buffers: dict[str, np.ndarray] = {}

    @property
    def step(self) -> int:
        """Iterations that the optimizer has made."""
        optimizer = self._optimizer()
        return 0 if optimizer is None else int(optimizer.iterations)

    def snapshot(self) -> Snapshot:
        """Copy the state. The arrays are the capture's own buffers, which the next snapshot
        overwrites."""
        tensors = list(self._tensors())
        arrays = {}
        for tensor in tensors:
            arrays[tensor.spec.name] = self._buffers[tensor.spec.name] = _copy(
                tensor.variable, self._buffers.get(tensor.spec.name)
            )
        return Snapshot(arrays, [tensor.spec for tensor in tensors], self.step)

    def described(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot just taken, with what a base needs besides: how Keras lays the arrays
        out in a file, and how the model is built."""
        tensors = list(self._tensors())
        return replace(snapshot, layout=self._layout(tensors), about=self._about(tensors))

    def restore(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Put a state back; the model is untouched unless all of it fits.

        Raises:
            MismatchError: a tensor is missing, surplus, or of another shape or type, or the
                optimizer is of another class; the message names it.
        """
        if not self.model.built:
            self._build(about)
        has_optimizer = any(name.startswith("optimizer/") for name in arrays)
        self.weights_only = not has_optimizer
        if has_optimizer:
            self._check_optimizer(about.get("optimizer"))
        tensors = {tensor.spec.name: tensor for tensor in self._tensors()}
        arrays = dict(arrays)  # each is computed when asked for
        self._check(tensors, arrays, about.get("labels", {}))
        for name, tensor in tensors.items():
            tensor.variable.assign(arrays[name])

    def _optimizer(self) -> Any | None:
        return getattr(self.model, "optimizer", None)

    def _tensors(self) -> Iterator[_Tensor]:
        weights = {id(v): i for i, v in enumerate(self.model.weights)}
        trainable = {id(v) for v in self.model.trainable_variables}
        for i, variable in enumerate(self.model.weights):
            # statistics of layers (BatchNormalization) are few, and must not change sign
            role: Role = "weight" if id(variable) in trainable else "exact"
            yield _Tensor(TensorSpec(f"weights/{i}", role), variable)
        seeds = [v for v in self.model.variables if id(v) not in weights]
        for i, variable in enumerate(seeds):
            yield _Tensor(TensorSpec(f"seeds/{i}", "exact"), variable)
        optimizer = self._optimizer()
        if self.weights_only or optimizer is None:
            return
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        slots = _slots(optimizer)
        for i, variable in enumerate(optimizer.variables):
            role, of = slots.get(id(variable), ("exact", None))
            owner = f"weights/{weights[of]}" if of in weights else None
            yield _Tensor(TensorSpec(f"optimizer/{i}", role, owner), variable)

    def _layout(self, tensors: list[_Tensor]) -> dict[str, str | np.ndarray]:
        names = {id(tensor.variable): tensor.spec.name for tensor in tensors}
        layout: dict[str, str | np.ndarray] = {}
        visited = set()
        optimizer, place = self._optimizer(), "optimizer"
        # Keras' optimizers hand out copies of their variables; theirs is the plain order.
        while optimizer is not None:
            visited.add(id(optimizer))
            if not self.weights_only:
                for i, variable in enumerate(optimizer.variables):
                    layout[f"{place}/vars/{i}"] = names.get(id(variable)) or _copy(variable)
            optimizer, place = (
                getattr(optimizer, "inner_optimizer", None),
                f"{place}/inner_optimizer",
            )
        store = _MemoryStore()
        saving_lib._save_state(
            self.model,
            weights_store=store,
            assets_store=None,
            inner_path="",
            visited_saveables=visited,
        )
        for path, entries in store.contents.items():
            for key, content in entries.items():
                place = "/".join(part for part in (path, "vars", key) if part)
                layout[place] = names.get(id(content)) or _copy(content)
        return layout

    def _about(self, tensors: list[_Tensor]) -> dict[str, Any]:
        about: dict[str, Any] = {
            "framework": "keras",
            "keras": keras.__version__,
            "labels": {tensor.spec.name: tensor.label for tensor in tensors},
        }
        if not self.weights_only and self._optimizer() is not None:
            about["optimizer"] = type(self._optimizer()).__name__
        try:
            with ObjectSharingScope():
                about["model"] = json.loads(
                    json.dumps(keras.saving.serialize_keras_object(self.model))
                )
        except Exception as error:  # a model's own get_config may raise anything
            about["unserializable"] = f"{type(error).__name__}: {error}"
        return about

    def _build(self, about: Mapping[str, Any]) -> None:
        config = (about.get("model") or {}).get("build_config")
        try:
            self.model.build_from_config(config or {})
        except Exception as error:  # whatever a layer's build raises
            raise MismatchError(
                "the model is not built yet, and the checkpoint does not say how to build it "
                f"({type(error).__name__}: {error}); call it on one batch, or `build()` it, "
                "before restoring."
            ) from error
        if not self.model.built:
            raise MismatchError(
                "the model is not built yet, and the checkpoint does not know its input shape; "
                "call it on one batch, or `build()` it, before restoring."
            )

    def _check_optimizer(self, stored: str | None) -> None:
        optimizer = self._optimizer()
        if optimizer is None:
            raise MismatchError(
                f"the checkpoint holds the state of its optimizer ({stored}), but the model is "
                "not compiled; call `model.compile(...)` before restoring, or restore without a "
                "model to get the compiled model that was saved."
            )
        found = type(optimizer).__name__
        if stored is not None and stored != found:
            raise MismatchError(
                f"the checkpoint was saved with the optimizer {stored}, the model is compiled "
                f"with {found}; compile it with {stored}."
            )

    def _check(
        self,
        tensors: Mapping[str, _Tensor],
        arrays: Mapping[str, np.ndarray],
        labels: Mapping[str, str],
    ) -> None:
        faults = [
            f"{name} ({labels.get(name, '?')}, shape {tuple(arrays[name].shape)}) is in the "
            "checkpoint, not in the model"
            for name in arrays
            if name not in tensors
        ]
        for name, tensor in tensors.items():
            shape, dtype = tuple(tensor.variable.shape), tensor.variable.dtype
            if name not in arrays:
                faults.append(
                    f"{name} ({tensor.label}, shape {shape}) is in the model, not in the checkpoint"
                )
            elif arrays[name].shape != shape:
                faults.append(
                    f"{name} ({tensor.label}) has shape {shape} in the model and "
                    f"{arrays[name].shape} in the checkpoint"
                )
            elif not _assignable(arrays[name].dtype, dtype):
                faults.append(
                    f"{name} ({tensor.label}) is {dtype} in the model and "
                    f"{arrays[name].dtype} in the checkpoint"
                )
        if faults:
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise MismatchError(
                f"the checkpoint is of another model: {'; '.join(faults[:5])}{more}. Build the "
                "model that was saved, or restore without a model to have it rebuilt. The model "
                "is unchanged."
            )


def rebuild(about: Mapping[str, Any], where: str) -> Any:
    """The compiled model that a checkpoint's configuration describes.

    Raises:
        MismatchError: there is no configuration, or it cannot be followed here.
    """
    config = about.get("model")
    if config is None:
        reason = about.get("unserializable", "none was stored")
        raise MismatchError(
            f"{where} holds no configuration to rebuild the model from ({reason}); build the "
            "model in your script and pass it to restore."
        )
    try:
        with ObjectSharingScope():
            return keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # configurations call the constructors of any layer
        raise MismatchError(
            f"the model of {where} cannot be rebuilt from its configuration "
            f"({type(error).__name__}: {error}); register its custom classes with "
            "`keras.saving.register_keras_serializable`, or build the model in your script and "
            "pass it to restore."
        ) from error


class _MemoryStore(saving_lib.NpzIOStore):  # type: ignore[misc]
    """Collects what Keras would write, without writing it."""

    def __init__(self) -> None:
        self.mode = "w"
        self.contents: dict[str, dict[str, Any]] = {}

    def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
        return self.contents.setdefault(path, {})


def _slots(optimizer: Any) -> dict[int, tuple[Role, int]]:
    """Slot variable to its role and its weight, both variables by identity."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    slots: dict[int, tuple[Role, int]] = {}
    for kind, lists in _SLOTS:
        if isinstance(optimizer, kind):
            for attribute, role in lists.items():
                variables = getattr(optimizer, attribute, None) or []
                owners = getattr(optimizer, "_trainable_variables", [])
                for variable, owner in zip(variables, owners, strict=False):
                    slots[id(variable)] = (role, id(owner))
    return slots


def _copy(value: Any, buffer: np.ndarray | None = None) -> np.ndarray:
    """A copy of a variable's value, into `buffer` where it fits."""
    view = _view(value)
    if buffer is None or buffer.shape != view.shape or buffer.dtype != view.dtype:
        buffer = np.empty(view.shape, view.dtype)
    np.copyto(buffer, view)
    return buffer


def _view(value: Any) -> np.ndarray:
    """The value as numpy sees it, without a copy where the backend allows that."""
    if keras.backend.backend() == "tensorflow" and isinstance(value, keras.Variable):
        try:
            return np.from_dlpack(value.value.value())
        except (AttributeError, TypeError, ValueError, BufferError, RuntimeError):
            pass  # bool, bfloat16, string, or on a GPU
    return np.asarray(keras.ops.convert_to_numpy(value))


def _assignable(stored: np.dtype[Any], wanted: str) -> bool:
    """Equal, or integers that differ between backends (iteration counts and seeds)."""
    if stored.name == wanted:
        return True
    return stored.kind in "iu" and wanted.startswith(("int", "uint"))
