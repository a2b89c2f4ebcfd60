"""Figures for a notebook."""

from __future__ import annotations

import os

from keras_lc.figures import Figures
from keras_lc.report.catalog import catalog
from keras_lc.report.detail import detail
from keras_lc.report.tree import tree
from keras_lc.store import stages
from keras_lc.store.locate import directory_at


def show(reference: str | os.PathLike[str], monitor: str | None = None) -> Figures:
    """The checkpoints of a directory, the stages of a run, or one checkpoint: a table in a
    notebook, columns in `print`.

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
        return listed(reference, monitor)
    return detail(reference)


def listed(
    directory: str | os.PathLike[str], monitor: str | None = None, checkpoints: bool = False
) -> Figures:
    """The stages of a run, or the checkpoints of any other directory.

    Args:
        directory: a path or URL.
        monitor: as for `show`; with one, a run is listed by its checkpoints, too.
        checkpoints: list them, whatever it is.
    """
    if monitor is None and not checkpoints and stages.is_run(directory_at(directory)):
        return tree(directory)
    return catalog(directory, monitor)
