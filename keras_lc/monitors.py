"""Which of the stored metrics is looked at, and what its best value is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from keras_lc.errors import OptionError
from keras_lc.store.index import Stored

# how names of metrics end that should rise
_RISES = ("acc", "accuracy", "auc", "precision", "recall", "f1", "fbeta", "iou", "r2", "score")


def choose(stored: Iterable[Stored], wanted: str | None = None) -> str | None:
    """The metric to look at: the one that is wanted, else `val_loss`, `loss`, or the first.

    Raises:
        OptionError: no checkpoint has the one that is wanted.
    """
    names = list(dict.fromkeys(name for one in stored for name in one.header["logs"]))
    if wanted is None:
        return next((name for name in ("val_loss", "loss", *names) if name in names), None)
    if wanted not in names:
        raise OptionError(
            f"no checkpoint has a metric {wanted!r}; there are {', '.join(names) or 'none'}."
        )
    return wanted


def rises(monitor: str) -> bool:
    """Whether more is better, told by the name as Keras does for `mode="auto"`."""
    return monitor.endswith(_RISES)


def value(stored: Stored, monitor: str | None) -> float | None:
    """The metric of a checkpoint; None if it has none."""
    found = stored.header["logs"].get(monitor)
    return None if found is None else float(found)


def ranked(stored: Iterable[Stored], monitor: str) -> list[Stored]:
    """Those that have a number, the best first; of equals the oldest."""
    sign = -1.0 if rises(monitor) else 1.0
    known = [(value(one, monitor), one) for one in stored]
    numbers = [(number, one) for number, one in known if number is not None]
    ranked = sorted(
        ((sign * number, one) for number, one in numbers if not math.isnan(number)),
        key=lambda pair: pair[0],
    )
    return [one for _, one in ranked]
