"""The history of a run, drawn."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from keras_lc import monitors
from keras_lc.errors import OptionError, StoreError
from keras_lc.report.history import History, history
from keras_lc.store.locate import directory_at, split

Panel = Callable[[Any], None]  # draws into axes of matplotlib
FORMATS = (".png", ".svg", ".pdf")
_ROWS = 40  # tensors of a heat map; of more, the largest movements
_MOVED = "movement since the last checkpoint, / weights"
_ERROR = "bound of the error of any value, / weights"
_LABELS = 16  # characters of a label


def plot(
    directory: str | os.PathLike[str], target: str | os.PathLike[str], overwrite: bool = False
) -> History:
    """Draw sizes, metrics, and the movement and error of the weights over time.

    Args:
        directory: a path or URL.
        target: the picture to write, `.png`, `.svg` or `.pdf`.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        NotFoundError: there is no such directory, or it holds no checkpoint.
        OptionError: the suffix is none of these, or matplotlib is missing.
        StoreError: there is such a file, or it cannot be written.
    """
    text = picture_file(target)
    place, name = free(text, overwrite)
    figure_class = matplotlib_figure()
    drawn = history(directory)
    every = panels(drawn)
    figure = figure_class(figsize=(8, 2.7 * len(every)), layout="constrained")
    axes = figure.subplots(len(every), 1, squeeze=False)[:, 0]
    for draw, ax in zip(every.values(), axes, strict=True):
        draw(ax)
    picture = io.BytesIO()
    figure.savefig(picture, format=text.rpartition(".")[2], dpi=130)
    with place.write_once(name) as file:
        file.write(picture.getvalue())
    return replace(drawn, target=text)


def picture_file(target: str | os.PathLike[str]) -> str:
    """The name of a picture that can be written.

    Raises:
        OptionError: its suffix is none of `FORMATS`.
    """
    text = os.fspath(target)
    if not text.endswith(FORMATS):
        raise OptionError(f"{text!r}: expected a file name that ends in {', '.join(FORMATS)}.")
    return text


def free(target: str, overwrite: bool) -> tuple[Any, str]:
    """Directory and name of a file that may be written.

    Raises:
        StoreError: it is there already, and may not be replaced.
    """
    parent, name = split(target)
    place = directory_at(parent)
    if not overwrite and name in place.list():
        raise StoreError(
            f"{target!r} is there already; pass overwrite=True (--force) to replace it."
        )
    return place, name


def pictures(drawn: History) -> dict[str, str]:
    """Each panel by its name, as SVG to stand within HTML."""
    figure_class = matplotlib_figure()
    found = {}
    for name, draw in panels(drawn).items():
        figure = figure_class(figsize=(5, 3), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
        found[name] = text.getvalue()[text.getvalue().index("<svg") :]
    return found


def panels(drawn: History) -> dict[str, Panel]:
    """What there is to draw, by its name."""
    found: dict[str, Panel] = {
        "size": lambda axes: _sizes(axes, drawn),
        "total": lambda axes: _total(axes, drawn),
    }
    names = list(dict.fromkeys(name for point in drawn.checkpoints for name in point.logs))
    for title, rising in (("falling", False), ("rising", True)):
        metrics = [name for name in names if monitors.rises(name) == rising]
        if metrics:
            found[title] = partial(_metrics, drawn=drawn, metrics=metrics)
    movement = _matrix(drawn, [point.movement for point in drawn.checkpoints])
    if np.nanmax(movement, initial=0) > 0:
        found["movement"] = lambda axes: _heat(axes, drawn, movement, movement, _MOVED)
    bound = _matrix(drawn, [point.bound for point in drawn.checkpoints])
    if np.nanmax(bound, initial=0) > 0:
        found["error"] = lambda axes: _heat(axes, drawn, bound, movement, _ERROR)
    return found


def matplotlib_figure() -> Any:
    """The class of figures, which belong to no window.

    Raises:
        OptionError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("drawing needs matplotlib: pip install 'keras-lc[plot]'") from error
    return Figure


def _epochs(drawn: History) -> tuple[list[float], str]:
    """Where checkpoints stand, and by what."""
    epochs = [point.epoch for point in drawn.checkpoints]
    if all(one < other for one, other in pairwise(epochs)):
        return [float(epoch) for epoch in epochs], "epoch"
    steps = [point.step for point in drawn.checkpoints]
    if all(one < other for one, other in pairwise(steps)):
        return [float(step) for step in steps], "step"
    return [float(i) for i in range(1, len(epochs) + 1)], "checkpoint"


def frame(axes: Any, title: str, x: str, y: str = "") -> None:
    """Title and labels of axes, all in one look."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    if axes.get_xscale() == "linear":
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no epoch 2.5
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _sizes(axes: Any, drawn: History) -> None:
    places, what = _epochs(drawn)
    axes.plot(
        places, [point.nbytes for point in drawn.checkpoints], "o-", ms=2.5, lw=1, label="stored"
    )
    full = [point.full or np.nan for point in drawn.checkpoints]
    axes.plot(places, full, "--", color="0.5", lw=1, label="whole")
    axes.set_yscale("log")
    frame(axes, "size of each checkpoint", what, "bytes")
    axes.legend(fontsize=8, frameon=False)


def _total(axes: Any, drawn: History) -> None:
    places, what = _epochs(drawn)
    stored = np.array(list(accumulate(point.nbytes for point in drawn.checkpoints))) / 1e6
    full = np.array(list(accumulate(point.full or 0 for point in drawn.checkpoints))) / 1e6
    axes.fill_between(places, full, color="0.9")
    axes.plot(places, full, "--", color="0.5", lw=1, label="whole ones")
    axes.fill_between(places, stored, color="C0", alpha=0.4)
    axes.plot(places, stored, color="C0", lw=1.2, label="stored")
    axes.set_ylim(bottom=0)
    frame(axes, f"in total: {full[-1] / stored[-1]:.1f} times smaller", what, "MB")
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _metrics(axes: Any, drawn: History, metrics: Sequence[str]) -> None:
    places, what = _epochs(drawn)
    for name in metrics:
        values = [point.logs.get(name, np.nan) for point in drawn.checkpoints]
        axes.plot(places, values, ".-", ms=3, lw=1, label=name)
    frame(axes, ", ".join(metrics[:3]), what)
    axes.legend(fontsize=8, frameon=False)


def _matrix(drawn: History, rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Tensors by checkpoints, NaN for what is not known."""
    empty = [None] * len(drawn.tensors)
    return np.array([row or empty for row in rows], np.float64).T.reshape(len(empty), len(rows))


def _heat(axes: Any, drawn: History, values: np.ndarray, by: np.ndarray, title: str) -> None:
    from matplotlib.colors import LogNorm

    most = np.max(np.where(np.isfinite(by), by, 0), axis=1)
    chosen = np.sort(np.argsort(-most, kind="stable")[:_ROWS])
    shown = np.where(values[chosen] > 0, values[chosen], np.nan)
    known = shown[np.isfinite(shown)]
    places, what = _epochs(drawn)
    half = (places[-1] - places[0]) / max(1, len(places) - 1) / 2 or 0.5
    picture = axes.imshow(
        shown,
        aspect="auto",
        interpolation="nearest",
        norm=LogNorm(max(known.min(), known.max() / 1e4), known.max() * 1.0001),
        extent=(places[0] - half, places[-1] + half, len(chosen) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(chosen)), [_short(drawn.tensors[i]) for i in chosen])
    frame(axes, title, what)
    axes.tick_params(axis="y", labelsize=8 if len(chosen) <= 12 else 5)
    axes.figure.colorbar(picture, ax=axes).ax.tick_params(which="both", labelsize=8)


def _short(label: str) -> str:
    """The last two parts of a variable's path."""
    text = "/".join(label.split("/")[-2:])
    return text if len(text) <= _LABELS else "…" + text[1 - _LABELS :]
