"""What a call was made with, as JSON that can be compared: arguments, functions, objects, data.

Two calls of equal fingerprints are taken for the same. Of data it has shape, dtype and a digest of
the content, of large arrays a digest of a sample; a data set that hands out batches tells its type
and its shapes alone, which is why it may be given an id.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType
from typing import Any

import keras
import numpy as np

_SAMPLE = 1 << 24  # bytes of an array up to which all of it is read
_ROWS = 16  # that are read of a larger one at least
_NUMBERED = re.compile(r"_\d+$")
_DATA = ("sample_weight", "validation_data")  # options that are data
_DEEP = 12  # objects within objects, after which one may well hold itself


def told(value: Any) -> Any:
    """A value as JSON; equal for what acts the same, in every process.

    Example:
        >>> import numpy as np
        >>> from keras_lc.stages.fingerprint import told
        >>> told({"epochs": 20, "shuffle": True, "class_weight": {0: 1.0}})
        {'epochs': 20, 'shuffle': True, 'class_weight': {'0': 1.0}}
        >>> told(np.zeros((2, 3)))["shape"]
        [2, 3]
    """
    return _told(value, 0)


def _told(value: Any, depth: int) -> Any:
    def inner(part: Any) -> Any:
        return _told(part, depth + 1)

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) and value.ndim == 0:
        return value.item()
    if depth > _DEEP:
        return _title(type(value))
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, partial):
        return {"partial": inner(value.func), "with": inner([value.args, value.keywords])}
    if inspect.isroutine(value):
        return _function(value, inner)
    if inspect.isclass(value):
        return _title(value)
    if (array := _array(value)) is not None:
        return array
    title = {"class": _title(type(value))}
    if hasattr(value, "get_config"):
        return title | inner(_named_alike(value.get_config()))
    if hasattr(value, "__iter__") or hasattr(value, "__getitem__"):
        return title | _data_set(value)
    return title | {name: inner(item) for name, item in _arguments_of(value)}


def call_told(
    x: Any, y: Any, options: Mapping[str, Any], data_id: str | None, **arguments: Any
) -> dict[str, Any]:
    """The data and the arguments of a call of Keras' `fit` or `evaluate`.

    Args:
        x, y: its data.
        options: what else Keras is given; `verbose` does not count.
        data_id: name of the data, given by the user.
        arguments: what is not for Keras.
    """
    data = {"x": x, "y": y} | {name: options[name] for name in _DATA if name in options}
    data |= {} if data_id is None else {"data_id": data_id}
    others = {n: value for n, value in options.items() if n not in (*_DATA, "verbose")}
    return {"data": told(data), "arguments": told(arguments | others)}


def model_told(model: Any) -> dict[str, Any]:
    """What a model was built like: its configuration, or where it has none, its weights."""
    weights = [[str(v.dtype), list(v.shape)] for v in model.weights]
    try:
        config = model.get_config()
        names = [layer.name for layer in model._flatten_layers()]
        renamed = {name: f"layer {i}" for i, name in enumerate(names)}
        return {"weights": weights, "config": told(_renamed(config, renamed))}
    except Exception:  # a model's own get_config may raise anything
        return {"weights": weights, "class": _title(type(model))}


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    """A configuration without the names of layers, which differ within a process."""
    if isinstance(config, Mapping):
        return {key: _renamed(item, names) for key, item in config.items()}
    if isinstance(config, list | tuple):
        return [_renamed(item, names) for item in config]
    return names.get(config, config) if isinstance(config, str) else config


def _named_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the names that Keras gives to the first object of a kind."""
    name = config.get("name")
    named = {"name": _NUMBERED.sub("", name)} if isinstance(name, str) else {}
    return {**config, **named}


def _title(kind: type) -> str:
    """Keras' own classes lie elsewhere on another backend."""
    package = "keras" if kind.__module__.startswith("keras.") else kind.__module__
    return f"{package}.{kind.__qualname__}".removeprefix("__main__.")


def _function(function: Any, inner: Callable[[Any], Any]) -> dict[str, Any]:
    """By its code and what it has enclosed, since a name may come to mean another function."""
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    found: dict[str, Any] = {"function": name.removeprefix("__main__.")}
    if code is not None:
        digest = hashlib.sha256()
        for part in _code(code):
            digest.update(part.encode() + b"\0")
        found["code"] = digest.hexdigest()[:16]
        cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
        if function.__defaults__:
            found["defaults"] = inner(function.__defaults__)
        if enclosed := {name: inner(_content(cell)) for name, cell in cells}:
            found["enclosed"] = enclosed
    return found


def _content(cell: Any) -> Any:
    """What a function has enclosed; of a model its class, for its weights come and go."""
    try:
        value = cell.cell_contents
    except ValueError:  # not yet
        return None
    return type(value) if isinstance(value, keras.Model) else value


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(constant, key=repr))
        else:
            yield repr(constant)


def _array(value: Any) -> dict[str, Any] | None:
    """Of an array, a tensor, or a table."""
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    elif hasattr(value, "detach"):  # of torch, beside another backend
        value = value.detach().cpu().numpy()
    elif not (hasattr(value, "__array__") and hasattr(value, "shape")):
        return None
    array = np.asarray(value)
    found = {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": _digest(array)}
    if hasattr(value, "columns"):
        found["columns"] = [str(column) for column in value.columns]
    return found


def _digest(array: np.ndarray) -> str:
    rows = array if array.ndim else array[None]
    if rows.nbytes > _SAMPLE:
        count = max(_ROWS, _SAMPLE * len(rows) // rows.nbytes)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))]
    if rows.dtype.hasobject:
        return hashlib.sha256(repr(rows.tolist()).encode()).hexdigest()
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _data_set(value: Any) -> dict[str, Any]:
    """What can be told of a data set without drawing from it."""
    found: dict[str, Any] = {"length": None}
    with suppress(TypeError, NotImplementedError):
        found["length"] = len(value)
    if hasattr(value, "element_spec"):
        found["element_spec"] = repr(value.element_spec)
    if isinstance(size := getattr(value, "batch_size", None), int):
        found["batch_size"] = size
    return found


def _arguments_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The arguments that an object such as a callback was made with, as far as it keeps them."""
    with suppress(TypeError, ValueError):
        for name in inspect.signature(type(value)).parameters:
            if hasattr(value, name):
                yield name, getattr(value, name)
