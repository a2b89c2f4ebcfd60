"""The rest of an epoch's data, for training loops that find their place themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from keras_lc.errors import MismatchError, OptionError


def skip_batches(dataset: Any, n: int) -> Any:
    """A data set without its first batches, to finish an epoch with.

    `LCModelCheckpoint(resume=True)` needs no help; this is for loops around `restore_latest`,
    whose `Restored.batch` is the number to skip.

    Args:
        dataset: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or any other
            iterable of batches; an iterator is advanced.
        n: number of batches.

    Returns:
        A `tf.data.Dataset` of one, else a generator; both can be given to `fit` for one epoch.

    Raises:
        OptionError: there are no batches to skip in it, as in an array, or `n` is not a whole
            number from 0 up.
        MismatchError: when the first batch is asked for: there are fewer than `n`.

    Example:
        >>> import keras_lc
        >>> list(keras_lc.skip_batches(["first", "second", "third"], 2))
        ['third']
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise OptionError(f"n={n!r}: expected a number of batches from 0 up.")
    if type(dataset).__module__.startswith("tensorflow.") and hasattr(dataset, "skip"):
        return dataset.skip(n)
    if hasattr(dataset, "shape") or isinstance(dataset, str | bytes | dict):
        raise OptionError(
            f"{type(dataset).__name__} is no series of batches; expected a data set, or give "
            "arrays to `fit` with `LCModelCheckpoint(resume=True)`, which skips what is done."
        )
    if not hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__"):
        raise OptionError(f"{type(dataset).__name__} cannot be iterated, so nothing is skipped.")
    return _rest(dataset, n)


def _rest(dataset: Any, n: int) -> Iterator[Any]:
    batches = iter(dataset) if hasattr(dataset, "__iter__") else _indexed(dataset)
    skipped = sum(1 for _ in islice(batches, n))
    if skipped < n:
        raise MismatchError(
            f"the data has {skipped} batches, and {n} of them were done when the checkpoint was "
            "made; give it the data, and the batch size, of the run before."
        )
    yield from batches


def _indexed(dataset: Any) -> Iterator[Any]:
    """A `PyDataset` in the order of its indices."""
    i = 0
    sized = hasattr(dataset, "__len__")
    length = len(dataset) if sized else getattr(dataset, "num_batches", None)
    while length is None or i < length:
        yield dataset[i]
        i += 1
