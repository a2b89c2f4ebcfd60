"""Pictures of stages: the metrics of their fits, and the loss over the learning rate."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

from keras_lc import monitors
from keras_lc.errors import OptionError
from keras_lc.report.plot import frame, matplotlib_figure, picture_file
from keras_lc.store.stages import Fit


def history(title: str, fits: Sequence[Fit], file: str | os.PathLike[str] | None = None) -> Any:
    """The metrics of fits, one after another; a dot marks the best epoch of each."""
    if not fits:
        raise OptionError(f"stage {title!r} has nothing to draw yet.")
    names = list(dict.fromkeys(name for fit in fits for name in fit.logs))
    panels = [[n for n in names if monitors.rises(n) == rising] for rising in (False, True)]
    panels = [panel for panel in panels if panel]
    figure = _figure(figsize=(5 * len(panels), 3), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        colours = {name: f"C{i}" for i, name in enumerate(panel)}
        begin = 0
        for i, fit in enumerate(fits):
            if i:
                axes.axvline(begin + 0.5, color="0.7", lw=0.8)
            for name in panel:
                values = fit.logs.get(name, [])
                places = range(begin + 1, begin + 1 + len(values))
                label = name if i == 0 else None
                axes.plot(places, values, color=colours[name], lw=1.2, label=label)
                if name == fit.watch and fit.best < len(values):
                    axes.plot(begin + 1 + fit.best, values[fit.best], "o", color=colours[name])
            begin += len(fit.epoch)
        frame(axes, f"{title}: {', '.join(panel[:2])}", "epoch")
        axes.legend(fontsize=8, frameon=False)
    return _written(figure, file)


def rates(
    tried: Sequence[float],
    losses: Sequence[float],
    smooth: Any,
    suggestion: float | None,
    file: str | os.PathLike[str] | None = None,
) -> Any:
    """The loss over the learning rate."""
    figure = _figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(tried, losses, color="C0", alpha=0.3, lw=1)
    axes.plot(tried, smooth, color="C0", lw=1.4)
    if suggestion is not None:
        axes.axvline(suggestion, color="0.4", ls="--", lw=1, label=f"suggestion: {suggestion:g}")
        axes.legend(fontsize=8, frameon=False)
    axes.set_xscale("log")
    frame(axes, "loss over the learning rate", "learning rate", "loss")
    return _written(figure, file)


def _figure(**options: Any) -> Any:
    """A figure that a notebook shows, whether it has asked for pyplot or not."""

    class Picture(matplotlib_figure()):  # type: ignore[misc]
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Picture(**options)


def _written(figure: Any, file: str | os.PathLike[str] | None) -> Any:
    if file is not None:
        figure.savefig(picture_file(file), dpi=130)
    return figure
