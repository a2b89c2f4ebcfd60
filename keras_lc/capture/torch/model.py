"""The state of a torch module: parameters, buffers, and what modules add of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from keras_lc.capture.torch.tensors import identity
from keras_lc.capture.tree import escaped
from keras_lc.errors import OptionError

Model: TypeAlias = nn.Module | Mapping[str, nn.Module]
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)  # hold a model as `module`
_COMPILED = "_orig_mod"  # where that which `torch.compile` returns holds it
_EXTRA = "_extra_state"  # ends the key of what `get_extra_state` gave


@dataclass(frozen=True)
class ModelState:
    """What a module holds.

    Attributes:
        tensors: each once, by the first of its names: `weights/<key>` for a parameter,
            `buffers/<key>` for a buffer, the keys being those of `state_dict` without the
            prefixes of wrappers.
        keys: every name to its key.
        tied: every further name of a tensor, to the one that it is kept by.
        extra: key to what a module's `get_extra_state` gave.
        holders: key to the module that takes it back.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    holders: dict[str, nn.Module] = field(default_factory=dict)
    _names: dict[Any, str] = field(default_factory=dict)

    def name_of(self, parameter: torch.Tensor) -> str | None:
        """The name of a parameter, None if it is not of the model."""
        return self._names.get(identity(parameter))

    def add(self, name: str, key: str, tensor: torch.Tensor) -> None:
        """One more tensor, or one more name of a tensor."""
        first = self._names.setdefault(identity(tensor), name)
        self.keys[name] = key
        if first == name:
            self.tensors[name] = tensor
        else:
            self.tied[name] = first


def state_of(model: Model) -> ModelState:
    """The state of a module, or of several by their names; nothing is copied.

    Raises:
        OptionError: a tensor has no values yet; it is named.
    """
    module = nn.ModuleDict(dict(model)) if isinstance(model, Mapping) else model
    if not isinstance(module, nn.Module):
        raise OptionError(f"model={model!r}: expected a torch.nn.Module, or a mapping to such.")
    modules = dict(module.named_modules(remove_duplicate=False))
    state = ModelState()
    for raw, value in module.state_dict(keep_vars=True).items():
        path, _, last = raw.rpartition(".")
        key = _plain(raw, modules)
        if last == _EXTRA:
            state.extra[key], state.holders[key] = value, modules[path]
            continue
        name = f"{'weights' if isinstance(value, nn.Parameter) else 'buffers'}/{escaped(key)}"
        if not isinstance(value, torch.Tensor) or value.is_meta or nn.parameter.is_lazy(value):
            raise OptionError(
                f"{name!r} is {type(value).__name__} without values; give it some, or run the "
                "model on one batch, before it is saved or restored."
            )
        state.add(name, key, value)
    return state


def _plain(key: str, modules: Mapping[str, nn.Module]) -> str:
    """A key of `state_dict` without the parts that wrappers add."""
    parts, path = [], ""
    for part in key.split("."):
        if part != _COMPILED and not isinstance(modules.get(path), _PARALLEL):
            parts.append(part)
        path = f"{path}.{part}" if path else part
    return ".".join(parts)
