"""The optimizers of a Keras model, and the part that each of their variables plays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import keras

from keras_lc.core.spec import Role

# Lists of slot variables, in the order of the trainable variables, of Keras' own optimizers and
# what is derived from them. What is not here is stored bit for bit: Ftrl makes the weights anew
# from its state, Adamax keeps a maximum that is no square, RMSprop's momentum is one of updates,
# Adadelta scales its updates by those that it has made, ScheduleFreeAdamW's "momentums" are
# weights of another kind, and Adafactor's rows and columns are few.
_MOMENTS: dict[str, dict[str, Role]] = {
    "Adadelta": {"_accumulated_grads": "second_moment"},
    "Adafactor": {"_v": "second_moment"},
    "Adagrad": {"_accumulators": "second_moment"},
    "Adam": {"_momentums": "first_moment", "_velocities": "second_moment"},
    "Adamax": {"_m": "first_moment"},
    "Lamb": {"_momentums": "first_moment", "_velocities": "second_moment"},
    "Lion": {"_momentums": "first_moment"},
    "Muon": {"momentums": "first_moment", "adam_velocities": "second_moment"},
    "Nadam": {"_momentums": "first_moment", "_velocities": "second_moment"},
    "RMSprop": {"_velocities": "second_moment"},
    "SGD": {"momentums": "first_moment"},
    "ScheduleFreeAdamW": {"_velocities": "second_moment"},
}


def optimizers_of(model: Any) -> list[Any]:
    """The optimizer that the model is compiled with, then those that its own train step, or a
    model within it, keeps as attributes; each once, in an order that does not change."""
    found = {id(optimizer): optimizer for optimizer in _attributes(model)}
    for optimizer in list(found.values()):
        for within in parts(optimizer):
            found.pop(id(within), None)
    return list(found.values())


def _attributes(model: Any) -> Iterator[Any]:
    if getattr(model, "optimizer", None) is not None:
        yield model.optimizer
    for layer in model._flatten_layers():
        for _, value in sorted(vars(layer).items()):
            several = value.values() if isinstance(value, dict) else value
            for one in several if isinstance(value, (dict, list, tuple)) else [value]:
                if isinstance(one, keras.optimizers.Optimizer):
                    yield one


def parts(optimizer: Any) -> list[Any]:
    """The optimizers that one hands its variables on to."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return list(optimizer.optimizers)
    return []


def build_optimizer(optimizer: Any, variables: list[Any]) -> None:
    """Make its variables, on TensorFlow where those that it trains are spread to."""
    strategy = getattr(optimizer, "_distribution_strategy", None)
    with strategy.scope() if strategy else nullcontext():
        optimizer.build(variables)


def title(optimizer: Any) -> str:
    """Its class, and in brackets those of its parts."""
    within = ", ".join(title(part) for part in parts(optimizer))
    return type(optimizer).__name__ + (f"({within})" if within else "")


def moments(optimizer: Any) -> dict[int, tuple[Role, int]]:
    """Slot variable to its role and its weight, both variables by identity."""
    roles: dict[str, Role] = {"_model_variables_moving_average": "weight"}
    for kind in type(optimizer).__mro__:
        if kind.__name__ in _MOMENTS and kind.__module__.startswith("keras."):
            roles |= _MOMENTS[kind.__name__]
            break
    if getattr(optimizer, "centered", False):
        del roles["_velocities"]  # less the square of the mean gradient it must not be negative
    slots: dict[int, tuple[Role, int]] = {}
    for attribute, role in roles.items():
        variables, owners = getattr(optimizer, attribute, []), optimizer._trainable_variables
        for variable, owner in zip(variables, owners, strict=False):
            slots[id(variable)] = (role, id(owner))
    for part in parts(optimizer):
        slots |= moments(part)
    return slots
