"""What layers keep beside their variables: tables, vocabularies, states that Keras does not count.

Keras lets a layer say what it stores (`save_own_variables`, `save_assets`) and how it takes that
back. Layers that have words of their own there are asked, and told, as Keras does it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import keras
import numpy as np

from keras_lc.capture.variables import Kept
from keras_lc.errors import CheckpointError, DamagedError, MismatchError

# Of these Keras stores the variables, or values that follow from them (LoRA, quantised weights).
_PLAIN = {
    "keras.src.layers.convolutional.base_conv",
    "keras.src.layers.core.dense",
    "keras.src.layers.core.einsum_dense",
    "keras.src.layers.core.embedding",
    "keras.src.layers.layer",
    "keras.src.utils.torch_utils",
}
_BOUNDS, _IDF, _WORDS = "bin_boundaries", "idf_weights", "vocabulary.txt"


@dataclass(frozen=True)
class Keeper:
    """A layer that is asked what it keeps.

    Args:
        layer: that one.
        store: what Keras puts into a weights file: variables or arrays by its keys.
        assets: what Keras puts elsewhere: the bytes of files by their names, or arrays.
    """

    layer: Any
    store: dict[str, Any]
    assets: dict[str, np.ndarray]


def rnn_states(model: Any) -> list[Any]:
    """The variables in which stateful recurrent layers go on from batch to batch."""
    return [
        state
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN) and layer.stateful and layer.states is not None
        for state in keras.tree.flatten(layer.states)
    ]


def assets_of(model: Any) -> list[dict[str, np.ndarray]]:
    """What each keeper has in files. To know it, it is written and read, which takes time."""
    return [_assets(layer) for layer in _keeping(model)]


def keepers(model: Any, assets: list[dict[str, np.ndarray]]) -> list[Keeper]:
    """What layers keep now; the assets as they were."""
    found = []
    for layer, files in zip(_keeping(model), assets, strict=True):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        held = {key: _variable_or_array(value) for key, value in store.items()}
        found.append(Keeper(layer, held, files))
    return found


def _variable_or_array(value: Any) -> Any:
    if isinstance(value, keras.Variable):
        return value
    return np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)


def kept(keepers: list[Keeper], known: Container[int]) -> Iterator[tuple[str, Kept]]:
    """The arrays that layers keep, by the names of their tensors.

    Args:
        keepers: those layers.
        known: identities of the variables that are captured as such.
    """
    for i, keeper in enumerate(keepers):
        path = keeper.layer.path
        for key, value in keeper.store.items():
            if id(value) not in known:
                yield f"kept/{i}/{key}", Kept(f"{path}/{key}", value)
        for key, array in keeper.assets.items():
            yield f"assets/{i}/{key}", Kept(f"{path}/{key}", array)


def told(keepers: list[Keeper], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """JSON on what layers keep: their classes, and the tensor under each key."""
    return [
        {
            "class": type(keeper.layer).__name__,
            "store": {key: names[id(value)] for key, value in keeper.store.items()},
            "assets": {key: f"assets/{i}/{key}" for key in keeper.assets},
        }
        for i, keeper in enumerate(keepers)
    ]


def check(model: Any, stored: list[dict[str, Any]]) -> None:
    """Whether the layers that keep something are those of which it is stored.

    Raises:
        MismatchError: they are others.
    """
    theirs = [one["class"] for one in stored]
    ours = [type(layer).__name__ for layer in _keeping(model)]
    if ours != theirs:
        raise MismatchError(
            f"the checkpoint holds tables of the layers {', '.join(theirs) or 'none'}, the model "
            f"has {', '.join(ours) or 'none'}; build the model that was saved. The model is "
            "unchanged."
        )


def put_back(model: Any, stored: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
    """Have layers take what is stored of them, as Keras does; their variables are assigned later,
    whatever they make of them.

    Raises:
        MismatchError: a layer refuses.
    """
    for layer, one in zip(_keeping(model), stored, strict=True):
        try:
            store = {key: arrays[name] for key, name in one["store"].items()}
            assets = {key: arrays[name] for key, name in one["assets"].items()}
            if _IDF in store and _WORDS in assets:
                # Keras pads them, and then refuses more than there are words
                words = assets[_WORDS].tobytes().count(b"\n") + 1
                store[_IDF] = store[_IDF][:words]
            layer.load_own_variables(store)
            _load_assets(layer, assets)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a layer makes of it
            raise MismatchError(
                f"the layer {layer.path!r} does not take what is stored of it "
                f"({type(error).__name__}: {error}); build the model that was saved."
            ) from error


def _keeping(model: Any) -> list[Any]:
    """The layers that have words of their own, in an order that does not change."""
    return [layer for layer in model._flatten_layers() if _keeps(layer)]


def _keeps(layer: Any) -> bool:
    methods = (type(layer).save_own_variables, type(layer).load_own_variables)
    return hasattr(layer, "save_assets") or any(one.__module__ not in _PLAIN for one in methods)


def _assets(layer: Any) -> dict[str, np.ndarray]:
    if isinstance(layer, keras.layers.Discretization):  # Keras has them in a configuration alone
        bounds = layer.bin_boundaries
        return {} if bounds is None else {_BOUNDS: np.array(bounds, np.float64)}
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory(prefix="keras_lc-") as directory:
        layer.save_assets(directory)
        return {
            path.relative_to(directory).as_posix(): np.fromfile(path, np.uint8)
            for path in sorted(Path(directory).rglob("*"))
            if path.is_file()
        }


def _load_assets(layer: Any, assets: Mapping[str, np.ndarray]) -> None:
    if _BOUNDS in assets and isinstance(layer, keras.layers.Discretization):
        layer.bin_boundaries = assets[_BOUNDS].tolist()
    elif assets:
        with tempfile.TemporaryDirectory(prefix="keras_lc-") as directory:
            for name, array in assets.items():
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                    raise DamagedError(f"{name!r} is no name of a file that a layer keeps.")
                target = Path(directory, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(array.tobytes())
            layer.load_assets(directory)
