"""A state that came from a plain file of Keras, of which only the places in that file are known."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from keras_lc.capture.configuration import build
from keras_lc.capture.optimizers import build_optimizer, optimizers_of
from keras_lc.errors import MismatchError


def load(model: Any, about: Mapping[str, Any], write: Callable[[BinaryIO], None]) -> None:
    """Let Keras load what `write` writes as a weights file.

    Raises:
        MismatchError: the state did not come from a file of Keras, or Keras refuses it.
    """
    source = about.get("source")
    if source not in (".h5", ".keras"):
        raise MismatchError(
            f"it was imported from a {source} file, which does not say where its tensors belong in "
            "a Keras model; export it as .safetensors."
        )
    if not model.built:
        build(model, about)
    for optimizer in optimizers_of(model):
        if not optimizer.built:
            build_optimizer(optimizer, model.trainable_variables)
    with tempfile.TemporaryDirectory(prefix="keras_lc-") as scratch:
        path = Path(scratch) / "state.weights.h5"
        with open(path, "wb+") as file:
            write(file)
        try:
            model.load_weights(path)
        except (ValueError, KeyError) as error:
            raise MismatchError(f"Keras does not take it: {error}") from error
