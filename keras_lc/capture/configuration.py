"""How a model is built, as JSON, and the model that such JSON describes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_lc.capture.variables import torch_modules
from keras_lc.errors import MismatchError

# Where Keras finds its optimizers on torch; no other backend can import them from there.
_TORCH_OPTIMIZERS = re.compile(r'"keras\.src\.backend\.torch\.optimizers\.\w+"')


def configuration(model: Any) -> dict[str, Any]:
    """The configuration under `model`, or under `unserializable` why there is none."""
    for layer in torch_modules(model):
        return {"unserializable": f"Keras has only a pickle of the torch module of {layer.name!r}"}
    try:
        with ObjectSharingScope():
            config = keras.saving.serialize_keras_object(model)
        policy = keras.dtype_policies.serialize(model.dtype_policy)
        return dict(portable({"model": config, "dtype_policy": policy}))
    except Exception as error:  # a model's own get_config may raise anything
        return {"unserializable": f"{type(error).__name__}: {error}"}


def portable(config: Any) -> Any:
    """What Keras has serialized, as JSON that every backend can make objects of."""
    return json.loads(_TORCH_OPTIMIZERS.sub('"keras.optimizers"', json.dumps(config)))


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
        with ObjectSharingScope(), _policy(about.get("dtype_policy")):
            return keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # configurations call the constructors of any layer
        raise MismatchError(
            f"the model of {where} cannot be rebuilt from its configuration "
            f"({type(error).__name__}: {error}); register its custom classes with "
            "`keras.saving.register_keras_serializable`, or build the model in your script and "
            "pass it to restore."
        ) from error


@contextmanager
def _policy(config: Any) -> Iterator[None]:
    """The dtype policy that a model was made under; by it `compile` scales the loss."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(config) if config else before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build(model: Any, about: Mapping[str, Any]) -> None:
    """Build a model whose layers have no weights yet, as the stored one was built.

    Raises:
        MismatchError: the checkpoint does not say how, or the model cannot follow.
    """
    config = (about.get("model") or {}).get("build_config")
    try:
        model.build_from_config(config or {})
    except Exception as error:  # whatever a layer's build raises
        raise MismatchError(
            "the model is not built yet, and the checkpoint does not say how to build it "
            f"({type(error).__name__}: {error}); call it on one batch, or `build()` it, "
            "before restoring."
        ) from error
    if not model.built:
        raise MismatchError(
            "the model is not built yet, and the checkpoint does not know its input shape; "
            "call it on one batch, or `build()` it, before restoring."
        )
