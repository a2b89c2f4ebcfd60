"""Figures for a notebook."""

from __future__ import annotations

import os

from keras_lc.figures import Figures
from keras_lc.report.catalog import catalog
from keras_lc.report.detail import detail
from keras_lc.store.locate import directory_at


def show(reference: str | os.PathLike[str], monitor: str | None = None) -> Figures:
    """The checkpoints of a directory, or one of them: a table in a notebook, columns in `print`.

    Args:
        reference: a directory, or a checkpoint such as `"training/latest"`.
        monitor: of a directory, the metric to show; None for `val_loss`, `loss`, or the first.

    Raises:
        NotFoundError: there is none; near ones are listed.

    Example:
        >>> import keras_lc, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     keras_lc.show(directory).document()["checkpoints"]
        []
    """
    if directory_at(reference).exists():
        return catalog(reference, monitor)
    return detail(reference)
