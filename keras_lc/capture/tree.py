"""State dictionaries of any depth as JSON and named arrays, and back.

What JSON does not know is an object with the key `$`, which tells the kind, and its content `of`.
Arrays are named by their place in the tree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_lc.errors import DamagedError, OptionError

_KIND, _CONTENT = "$", "of"


def flatten(value: Any, name: str, arrays: dict[str, Any], is_tensor: Callable[[Any], bool]) -> Any:
    """The JSON of a tree; what is an array or a tensor goes into `arrays`.

    Args:
        value: numbers, text, None, arrays and tensors, and mappings, lists, tuples and sets of
            them.
        name: of the tree; begins the names of its arrays.
        arrays: gets these by their names.
        is_tensor: whether a value is a tensor of the framework.

    Raises:
        OptionError: a value is of another kind; its place is named.
    """

    def within(key: Any, item: Any) -> Any:
        return flatten(item, f"{name}/{escaped(str(key))}", arrays, is_tensor)

    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return flatten(value.item(), name, arrays, is_tensor)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _tagged("float", str(float(value)))
    if isinstance(value, list):
        return [within(i, item) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return _tagged("tuple", [within(i, item) for i, item in enumerate(value)])
    if isinstance(value, set | frozenset):
        return _tagged("set", [within(i, item) for i, item in enumerate(sorted(value, key=repr))])
    if isinstance(value, Mapping):
        pairs = {key: within(key, item) for key, item in value.items()}
        if isinstance(value, Counter):
            return _tagged("counter", [[key, item] for key, item in pairs.items()])
        if all(isinstance(key, str) and key != _KIND for key in pairs):
            return pairs
        if all(isinstance(key, int | str) for key in pairs):
            return _tagged("mapping", [[key, item] for key, item in pairs.items()])
    plain = isinstance(value, np.ndarray) and not value.dtype.hasobject
    if (plain or is_tensor(value)) and name not in arrays:
        arrays[name] = value
        return _tagged("array" if plain else "tensor", None)
    raise OptionError(
        f"{name!r} is a {type(value).__name__}, which cannot be stored without pickling it; "
        "expected numbers, text, None, tensors, and lists and mappings of them."
    )


def unflatten(value: Any, name: str, array: Callable[[str, str], Any]) -> Any:
    """The tree of a JSON.

    Args:
        value: what `flatten` gave.
        name: as there.
        array: what gives an array by its kind, `"array"` or `"tensor"`, and its name.

    Raises:
        DamagedError: it is no such JSON, or an array is missing.
    """

    def within(key: Any, item: Any) -> Any:
        return unflatten(item, f"{name}/{escaped(str(key))}", array)

    if isinstance(value, list):
        return [within(i, item) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: within(key, item) for key, item in value.items()}
    try:
        kind, content = value[_KIND], value[_CONTENT]
        if kind == "float":
            return float(content)
        if kind in ("tuple", "set"):
            items = [within(i, item) for i, item in enumerate(content)]
            return tuple(items) if kind == "tuple" else set(items)
        if kind in ("mapping", "counter"):
            pairs = {key: within(key, item) for key, item in content}
            return pairs if kind == "mapping" else Counter(pairs)
        if kind in ("array", "tensor"):
            return array(kind, name)
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"{name!r} of the notes cannot be read: {error!r}") from error
    raise DamagedError(f"{name!r} of the notes is of an unknown kind, {kind!r}.")


def escaped(key: str) -> str:
    """A key as one part of a name: what would end the part is written as in a URL."""
    return key.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")


def _tagged(kind: str, content: Any) -> dict[str, Any]:
    return {_KIND: kind, _CONTENT: content}
