"""A stored state put back into torch objects, all of it or, where it does not fit, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from keras_lc.capture import RUN, randomness, text
from keras_lc.capture.naming import Place, find
from keras_lc.capture.torch import NOTES, RANDOM, Training, optimizers
from keras_lc.capture.torch.model import ModelState, state_of
from keras_lc.capture.torch.tensors import assign, dtype_name, tensor_of
from keras_lc.capture.tree import unflatten
from keras_lc.core import several
from keras_lc.errors import DamagedError, MismatchError

_MODEL = ("weights/", "buffers/")


@dataclass(frozen=True)
class Source:
    """A state as it was stored.

    Args:
        arrays: every tensor by name; each may be computed when asked for.
        like: arrays of the same shapes and dtypes that are there already.
        about: what `TorchCapture.described`, or the capture of another framework, told of it.
        names: key of the model to what the checkpoint calls the tensor, as for `find`, where
            that is something else.
    """

    arrays: Mapping[str, np.ndarray]
    like: Mapping[str, np.ndarray]
    about: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """What was stored besides tensors."""
        empty: dict[str, Any] = {"optimizers": {}, "stateful": {}, "modules": {}, "extra": None}
        if self.about.get("framework") != "torch" or NOTES not in self.arrays:
            return empty
        notes = text.unpacked(self.arrays[NOTES])
        if not isinstance(notes, dict) or notes.keys() != empty.keys():
            raise DamagedError("the notes on the run are none of a torch training.")
        return notes

    def find(self, ours: str, key: str) -> Place | None:
        """Where a tensor of the model is, None if it is not here."""
        if key in self.names:
            return find(self.names[key], self.like, self.about.get("labels", {}))
        tied = self.about.get("tied", {})
        return next((Place(name) for name in (ours, tied.get(ours)) if name in self.like), None)

    def leaf(self, kind: str, name: str) -> Any:
        """A tensor, or an array, of its own memory."""
        return _own(kind, self.arrays[name])

    def leaves(self, prefix: str) -> optimizers.Array:
        """The same for names that begin so, which are made together, by several threads."""
        names = [name for name in self.like if name.startswith(prefix)]
        made = dict(zip(names, several(self.arrays, names), strict=True))
        return lambda kind, name: _own(kind, made.pop(name))


def _own(kind: str, array: np.ndarray) -> Any:
    return tensor_of(array) if kind == "tensor" else np.array(array)


@dataclass(frozen=True)
class _Part:
    """Something to put back, and what keeps it from that."""

    put: Callable[[], None] = lambda: None
    fault: str | None = None  # or an empty text


def restore(
    training: Training, source: Source, strict: bool, random: bool
) -> tuple[Any, list[str]]:
    """Put a state back.

    What is not given, such as the optimizer of a model that is only looked at, is left out.

    Args:
        training: the objects; unchanged unless all of it fits, or not `strict`.
        source: the state.
        strict: whether what does not fit is an error; else it is left as it is.
        random: put random states back as well.

    Returns:
        What the user had added, and what did not fit.

    Raises:
        MismatchError: a tensor is missing, surplus, or of another shape or dtype, or another
            object does not fit; it is named.
    """
    model, notes = state_of(training.model), source.notes()
    fitting, faults = _tensors(model, source)
    parts = [
        *_modules(model, notes["modules"], source),
        *_optimizers(training.optimizers, notes["optimizers"], model, source),
        *_stateful(training, notes["stateful"], source),
    ]
    faults += [part.fault for part in parts if part.fault]
    if strict and faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise MismatchError(
            f"the checkpoint is of another training: {'; '.join(faults[:5])}{more}. Build what was "
            "saved, or pass strict=False to leave out what does not fit. Nothing is changed."
        )
    stored = several(source.arrays, [place.name for _, place in fitting])
    for (tensor, place), array in zip(fitting, stored, strict=True):
        assign(tensor, place.seen(array))
    for part in parts:
        if not part.fault:
            part.put()
    if random:
        names = [name for name in source.arrays if name.startswith(RANDOM)]
        randomness.restore({name.removeprefix(RANDOM): source.arrays[name] for name in names})
    return unflatten(notes["extra"], f"{RUN}extra", source.leaf), faults


def _tensors(
    model: ModelState, source: Source
) -> tuple[list[tuple[torch.Tensor, Place]], list[str]]:
    """The tensors of the model, each with what goes into it, and what does not fit."""
    fitting, faults, used = [], [], set()
    for name, tensor in model.tensors.items():
        place = source.find(name, model.keys[name])
        shape, dtype = tuple(tensor.shape), dtype_name(tensor)
        if place is None:
            faults.append(f"{name} (shape {shape}) is in the model, not in the checkpoint")
            continue
        used.add(place.name)
        stored = place.seen(source.like[place.name])
        called = name if place.name == name else f"{name} ({place.name} in the checkpoint)"
        if stored.shape != shape:
            found = stored.shape
            faults.append(f"{called} has shape {shape} in the model and {found} in the checkpoint")
        elif stored.dtype.name != dtype:
            faults.append(f"{called} is {dtype} in the model and {stored.dtype} in the checkpoint")
        else:
            fitting.append((tensor, place))
    for name in source.like:
        if name.startswith(_MODEL) and name not in used:
            tied = f", where it is tied to {model.tied[name]}" if name in model.tied else ""
            shape = tuple(source.like[name].shape)
            faults.append(f"{name} (shape {shape}) is in the checkpoint, not in the model{tied}")
    return fitting, faults


def _modules(model: ModelState, stored: Mapping[str, Any], source: Source) -> Iterator[_Part]:
    yield from _apart(stored, model.extra)
    for key in model.extra.keys() & stored.keys():
        yield _Part(
            partial(_put_extra, model.holders[key], f"{RUN}modules/{key}", stored[key], source)
        )


def _put_extra(module: torch.nn.Module, name: str, stored: Any, source: Source) -> None:
    module.set_extra_state(unflatten(stored, name, source.leaf))


def _optimizers(
    given: Mapping[str, Any], stored: Mapping[str, Any], model: ModelState, source: Source
) -> Iterator[_Part]:
    if not given:
        return
    yield from _apart(stored, given, "optimizer/")
    for title in given.keys() & stored.keys():
        of = (title, given[title], model, stored[title])
        yield _Part(partial(_put_optimizer, *of, source), "; ".join(optimizers.faults(*of)))


def _put_optimizer(
    title: str, optimizer: Any, model: ModelState, stored: Any, source: Source
) -> None:
    optimizers.load(title, optimizer, model, stored, source.leaves(f"optimizer/{title}/"))


def _stateful(training: Training, stored: Mapping[str, Any], source: Source) -> Iterator[_Part]:
    given = training.stateful
    kinds = {name.split("/")[0] for name in given}
    stored = {name: held for name, held in stored.items() if name.split("/")[0] in kinds}
    yield from _apart(stored, given)
    for name in given.keys() & stored.keys():
        one, held, fault = given[name], stored[name], None
        if (ours := type(one).__name__) != held["class"]:
            fault = f"{name} is of the class {ours} here and {held['class']} in the checkpoint"
        elif bool(held["state"]) != bool(one.state_dict()):  # a GradScaler that is not enabled
            fault = f"{name} has a state {'in the checkpoint' if held['state'] else 'here'} alone"
        yield _Part(partial(_put_state, one, f"{RUN}{name}/state", held["state"], source), fault)


def _put_state(one: Any, name: str, stored: Any, source: Source) -> None:
    one.load_state_dict(unflatten(stored, name, source.leaf))


def _apart(stored: Iterable[str], given: Iterable[str], what: str = "") -> Iterator[_Part]:
    for name in sorted(set(given) - set(stored)):
        yield _Part(fault=f"{what}{name} is given, and not in the checkpoint")
    for name in sorted(set(stored) - set(given)):
        yield _Part(fault=f"{what}{name} is in the checkpoint, and not given")
