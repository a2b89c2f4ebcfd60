"""What a model is compiled with: given in a block, or told by the file of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_lc.capture.configuration import portable
from keras_lc.errors import MismatchError
from keras_lc.stages.fingerprint import told

ARGUMENTS = (
    "optimizer", "loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly",
    "steps_per_execution", "jit_compile", "auto_scale_loss",
)  # fmt: skip
TRAINABLE = "trainable"


class Part:
    """One argument of `compile`.

    Args:
        value: as it was given; None for one that only a file tells of.
        document: what the file tells of it; None to make that of the value.
    """

    def __init__(self, value: Any = None, document: Mapping[str, Any] | None = None):
        self._value = value
        self._live = document is None
        self.document = dict(document) if document else {"told": told(value)} | _config(value)

    @property
    def told(self) -> Any:
        """For the fingerprint."""
        return self.document["told"]

    def make(self, name: str, stage: str) -> Any:
        """The argument; an optimizer or a metric anew each time, without the state of the last.

        Raises:
            MismatchError: a file tells of what cannot be made of it.
        """
        if self._live:
            return _anew(self._value)
        try:
            return keras.saving.deserialize_keras_object(self.document["config"], safe_mode=True)
        except Exception as error:  # configurations call the constructors of any class
            raise MismatchError(
                f"the {name} of stage {stage!r} cannot be made of what is stored of it "
                f"({type(error).__name__}: {error}). Run the block of the stage in this process, "
                "or register what it uses with `keras.saving.register_keras_serializable`."
            ) from error


class Settings:
    """All arguments of `compile` of a stage, those of its parent among them.

    Args:
        stage: that `compile` was called in last.
        parts: by the names of the arguments.
        trainable: of each layer, whether it is.
    """

    def __init__(self, stage: str, parts: Mapping[str, Part], trainable: list[bool]):
        self.stage = stage
        self.parts = dict(parts)
        self.trainable = trainable

    @property
    def told(self) -> dict[str, Any]:
        """For the fingerprint."""
        parts = {name: part.told for name, part in sorted(self.parts.items())}
        return {**parts, TRAINABLE: self.trainable}

    def shares_optimizer(self, other: Settings | None) -> bool:
        """Whether the optimizer goes on with the state that it had there."""
        return other is not None and self.parts["optimizer"] is other.parts["optimizer"]

    def compile(self, model: Any, **others: Any) -> None:
        """Compile a model, with a new optimizer; `others` replace arguments."""
        set_flags(model, self.trainable)
        made = {n: p.make(n, self.stage) for n, p in self.parts.items() if n not in others}
        model.compile(**made | others)


def given(
    stage: str, arguments: Mapping[str, Any], above: Settings | None, trainable: list[bool]
) -> Settings:
    """The settings of a stage whose `compile` was called."""
    parts = {} if above is None else dict(above.parts)
    parts |= {name: Part(_resolved(name, value)) for name, value in arguments.items()}
    return Settings(stage, parts, trainable)


def stored(stage: str, document: Mapping[str, Any], above: Settings | None) -> Settings:
    """The settings that the file of a stage tells of."""
    parts = {} if above is None else dict(above.parts)
    parts |= {name: Part(document=part) for name, part in document.items() if name != TRAINABLE}
    return Settings(stage, parts, list(document[TRAINABLE]))


def flags(model: Any) -> list[bool]:
    """Of each layer, whether it is trainable."""
    return [bool(layer.trainable) for layer in model._flatten_layers()]


def set_flags(model: Any, trainable: list[bool]) -> None:
    """Freeze and unfreeze layers, those that hold others before these."""
    for layer, flag in zip(model._flatten_layers(), trainable, strict=True):
        if bool(layer.trainable) != flag:
            layer.trainable = flag


def _resolved(name: str, value: Any) -> Any:
    """An optimizer given by its name, or as it is."""
    return keras.optimizers.get(value) if name == "optimizer" else value


def _config(value: Any) -> dict[str, Any]:
    """How Keras makes it anew; nothing where it could do so only from code."""
    try:
        config = portable(keras.saving.serialize_keras_object(value))
    except Exception:  # a get_config of someone's own may raise anything
        return {}
    return {} if "__lambda__" in repr(config) else {"config": config}


def _anew(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _anew(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_anew(item) for item in value]
    if isinstance(value, keras.optimizers.Optimizer | keras.metrics.Metric):
        return type(value).from_config(value.get_config())
    return value
