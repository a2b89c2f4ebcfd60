"""The state of torch optimizers, by the names of the parameters that they train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from keras_lc.capture.torch.model import ModelState
from keras_lc.capture.tree import flatten, unflatten
from keras_lc.core import TensorSpec
from keras_lc.core.spec import Role
from keras_lc.errors import OptionError

MOMENTS: dict[str, Role] = {
    "exp_avg": "first_moment",
    "exp_avg_sq": "second_moment",
    "momentum_buffer": "first_moment",
}
# Classes of torch that have others, or mean something else by these names. What is not known is
# stored bit for bit.
_MOMENTS_OF: dict[str, dict[str, Role]] = {
    "Adadelta": {"square_avg": "second_moment"},
    "Adafactor": {"variance": "second_moment"},
    "Adagrad": {"sum": "second_moment"},
    "RMSprop": {"square_avg": "second_moment"},  # its momentum is one of updates
}
Array = Callable[[str, str], Any]


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer holds, nothing copied.

    Attributes:
        notes: JSON: its class, its groups, and what of its state is no tensor.
        tensors: `optimizer/<title>/<key of the parameter>/<key of the state>` to tensor.
        specs: their roles.
    """

    notes: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    specs: list[TensorSpec]


def state_of(title: str, optimizer: Optimizer, model: ModelState) -> OptimizerState:
    """The state of an optimizer of this title.

    Raises:
        OptionError: it trains a parameter that is not of the model, or holds what cannot be stored.
    """
    held, groups = optimizer.state_dict(), _groups(title, optimizer, model)
    names = _numbers(held, groups)
    parameters = {
        name: parameter
        for group, named in zip(optimizer.param_groups, groups, strict=True)
        for parameter, name in zip(group["params"], named, strict=True)
    }
    tensors: dict[str, torch.Tensor] = {}
    specs: list[TensorSpec] = []
    notes: dict[str, Any] = {"class": type(optimizer).__name__, "groups": [], "state": {}}
    moments = _moments(optimizer)
    for number, state in held["state"].items():
        owner = names.get(number, str(number))
        prefix = _prefix(title, owner)
        found: dict[str, Any] = {}
        notes["state"][owner] = flatten(state, prefix, found, torch.is_tensor)
        shape = parameters[owner].shape if owner in parameters else None
        for name, tensor in found.items():
            role = moments.get(name.removeprefix(f"{prefix}/"), "exact")
            role = role if tensor.shape == shape else "exact"
            specs.append(TensorSpec(name, role, None if role == "exact" else owner))
        tensors |= found
    for i, (group, named) in enumerate(zip(held["param_groups"], groups, strict=True)):
        found = {}
        options = flatten({**group, "params": named}, _group(title, i), found, torch.is_tensor)
        notes["groups"].append(options)
        specs += [TensorSpec(name, "exact") for name in found]
        tensors |= found
    return OptimizerState(notes, tensors, specs)


def faults(
    title: str, optimizer: Optimizer, model: ModelState, notes: Mapping[str, Any]
) -> Iterator[str]:
    """What keeps a stored state from going into an optimizer."""
    groups, stored = _groups(title, optimizer, model), [g["params"] for g in notes["groups"]]
    title, kind = f"optimizer/{title}", type(optimizer).__name__
    if kind != notes["class"]:
        yield f"{title} is of the class {kind} here and {notes['class']} in the checkpoint"
    if len(groups) != len(stored):
        yield f"{title} has {len(groups)} groups here and {len(stored)} in the checkpoint"
        return
    for i, (ours, theirs) in enumerate(zip(groups, stored, strict=True)):
        if ours != theirs:
            apart = sorted(set(ours) ^ set(theirs)) or ["the same in another order"]
            yield f"group {i} of {title} trains other parameters: {', '.join(apart[:5])}"


def load(
    title: str, optimizer: Optimizer, model: ModelState, notes: Mapping[str, Any], array: Array
) -> None:
    """Put a stored state back.

    Args:
        title: of the optimizer, as it was saved.
        optimizer: it has no `faults`.
        model: whose parameters it trains.
        notes: what was stored of it besides tensors.
        array: gives a tensor of its own by kind and name.
    """
    held, groups = optimizer.state_dict(), _groups(title, optimizer, model)
    numbers = {name: number for number, name in _numbers(held, groups).items()}
    parameters = {
        numbers[name]: parameter
        for group, named in zip(optimizer.param_groups, groups, strict=True)
        for parameter, name in zip(group["params"], named, strict=True)
    }
    stored = state_dict(title, numbers, notes, array)
    states = stored["state"]
    optimizer.load_state_dict(stored)
    for number, parameter in parameters.items():
        loaded = optimizer.state.get(parameter)
        if loaded:
            loaded.update(_as_it_was(states.get(number, {}), loaded, parameter))


def state_dict(
    title: str, numbers: Mapping[str, int], notes: Mapping[str, Any], array: Array
) -> dict[str, Any]:
    """A stored state as `load_state_dict` takes it.

    Args:
        title: of the optimizer, as it was saved.
        numbers: name of a parameter to its number.
        notes: what was stored besides tensors.
        array: gives a tensor of its own by kind and name.
    """
    states = {
        numbers.get(owner, owner): unflatten(state, _prefix(title, owner), array)
        for owner, state in notes["state"].items()
    }
    groups = [
        unflatten(group, _group(title, i), array)
        | {"params": [numbers[name] for name in group["params"]]}
        for i, group in enumerate(notes["groups"])
    ]
    return {"state": states, "param_groups": groups}


def _as_it_was(value: Any, loaded: Any, parameter: torch.Tensor) -> Any:
    """A state where torch has put it, but in its own dtype, for which torch takes that of the
    parameter, and in the parameter's order in memory."""
    if isinstance(value, dict):
        return {
            key: _as_it_was(value[key], loaded[key], parameter) for key in value if key in loaded
        }
    if isinstance(value, list | tuple):
        pairs = zip(value, loaded, strict=True)
        return type(value)(_as_it_was(one, put, parameter) for one, put in pairs)
    if not isinstance(value, torch.Tensor) or not isinstance(loaded, torch.Tensor):
        return loaded
    if value.shape == parameter.shape and value.stride() != parameter.stride():
        value = torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)
    elif value.dtype == loaded.dtype:
        return loaded
    return value.to(loaded.device)


def _groups(title: str, optimizer: Optimizer, model: ModelState) -> list[list[str]]:
    """The names of the parameters of each group."""
    groups = []
    for i, group in enumerate(optimizer.param_groups):
        names = [model.name_of(parameter) for parameter in group["params"]]
        for parameter, name in zip(group["params"], names, strict=True):
            if name is None:
                raise OptionError(
                    f"group {i} of optimizer/{title} trains a parameter of shape "
                    f"{tuple(parameter.shape)} that is not of the model; pass all modules that it "
                    "trains, as model={'net': net, 'loss': loss}."
                )
        groups.append([str(name) for name in names])
    return groups


def _numbers(held: Mapping[str, Any], groups: list[list[str]]) -> dict[int, str]:
    """Number of a parameter in `state_dict` to its name."""
    return {
        number: name
        for group, names in zip(held["param_groups"], groups, strict=True)
        for number, name in zip(group["params"], names, strict=True)
    }


def _moments(optimizer: Optimizer) -> Mapping[str, Role]:
    if any(group.get("centered") for group in optimizer.param_groups):
        return {}  # less the square of the mean gradient it must not be negative
    for kind in type(optimizer).__mro__:
        if kind.__module__.startswith("torch.optim") and kind.__name__ in _MOMENTS_OF:
            return _MOMENTS_OF[kind.__name__]
    return MOMENTS


def _prefix(title: str, owner: str) -> str:
    return f"optimizer/{title}/{owner.removeprefix('weights/')}"


def _group(title: str, number: int) -> str:
    return f"optimizer/{title}/groups/{number}"
