"""What has changed since a call was made, and what becomes of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_lc.errors import OptionError

ERROR, RERUN = "error", "rerun"
_MISSING = "nothing"
_LARGE = 1e38


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """What has changed, each as one clause.

    Example:
        >>> from keras_lc.stages.changes import differences
        >>> list(differences({"fit": {"epochs": 20}}, {"fit": {"epochs": 30}}))
        ['fit.epochs was 20 and is 30']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if {"sha256"} <= before.keys() & now.keys():
            yield from _array_differences(before, now, where)
            return
        for key in dict.fromkeys([*before, *now]):
            inner = f"{where}.{key}" if where else str(key)
            yield from differences(before.get(key, _MISSING), now.get(key, _MISSING), inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{where}[{i}]")
    elif before != now and not (before != before and now != now):  # NaN
        yield f"{where} was {_short(before)} and is {_short(now)}"


def clauses(changes: list[str]) -> str:
    """What has changed, for a message."""
    more = f"; and {len(changes) - 4} more" if len(changes) > 4 else ""
    return "; ".join(changes[:4]) + more


def check_on_change(value: str | None, default: str = ERROR) -> str:
    """What becomes of a call that was made otherwise.

    Raises:
        OptionError: it is neither of the two.
    """
    if value not in (None, ERROR, RERUN):
        raise OptionError(f"on_change={value!r}: expected {ERROR!r} or {RERUN!r}.")
    return value or default


def _array_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str
) -> Iterator[str]:
    for key in ("shape", "dtype", "columns"):
        if before.get(key) != now.get(key):
            yield f"{where} had {key} {_short(before.get(key))} and has {_short(now.get(key))}"
            return
    if before["sha256"] != now["sha256"]:
        yield f"the values in {where} are others"


def _short(value: Any) -> str:
    text = value if value is _MISSING else repr(value)
    if isinstance(value, float) and abs(value) < _LARGE and float(np.float32(value)) == value:
        text = str(np.float32(value))  # as Keras holds a rate of 0.001
    return text if len(text) <= 80 else f"{text[:77]}..."
