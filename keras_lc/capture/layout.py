"""Where Keras puts the state of a model in a `.weights.h5` file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib

from keras_lc.capture.optimizers import parts
from keras_lc.capture.variables import TorchBuffer, copied, torch_modules, torch_state

_COPYING = (
    keras.optimizers.Optimizer.save_own_variables,
    keras.layers.TorchModuleWrapper.save_own_variables,
)


def layout(
    model: Any,
    optimizers: Iterable[Any],
    stores: Iterable[tuple[Any, dict[str, Any]]],
    names: Mapping[int, str],
    weights_only: bool,
) -> dict[str, str | np.ndarray]:
    """HDF5 path to the name of a tensor, or to a copy of what Keras stores in place of one.

    Args:
        model: a built model.
        optimizers: those of the model.
        stores: layers with what they have stored already, by key.
        names: names of tensors, by the identity of the variable, torch tensor or array.
        weights_only: leave the optimizers out.
    """
    owners = list(stores)
    owners += [(layer, torch_state(layer)) for layer in torch_modules(model) if _copies(layer)]
    for optimizer in _whole(optimizers):
        if weights_only:
            owners.append((optimizer, {}))
        elif _copies(optimizer):
            owners.append((optimizer, {str(i): v for i, v in enumerate(optimizer.variables)}))
    store = _MemoryStore()
    with _handing_out(owners):
        saving_lib._save_state(
            model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
        )
    places: dict[str, str | np.ndarray] = {}
    for path, entries in store.contents.items():
        for key, content in entries.items():
            place = "/".join(part for part in (path, "vars", key) if part)
            holder = content.value if isinstance(content, TorchBuffer) else content
            places[place] = names.get(id(holder)) or copied(content)
    return places


def _whole(optimizers: Iterable[Any]) -> Iterator[Any]:
    for optimizer in optimizers:
        yield optimizer
        yield from _whole(parts(optimizer))


def _copies(owner: Any) -> bool:
    return type(owner).save_own_variables in _COPYING


@contextmanager
def _handing_out(owners: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[None]:
    """While it lasts, what would store copies of its variables stores the variables, as layers do;
    one copy of the whole state less."""
    changed = []
    try:
        for owner, variables in owners:
            vars(owner)["save_own_variables"] = _storing(variables)
            changed.append(owner)
        yield
    finally:
        for owner in changed:
            del vars(owner)["save_own_variables"]


def _storing(variables: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda store: store.update(variables)


class _MemoryStore(saving_lib.NpzIOStore):  # type: ignore[misc]
    """Collects what Keras would write, without writing it."""

    def __init__(self) -> None:
        self.mode = "w"
        self.contents: dict[str, dict[str, Any]] = {}

    def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
        return self.contents.setdefault(path, {})
