"""Draws the picture of the chapter: what is stored, how it is made, and how it is read back.

python tutorial/how_it_works.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PICTURE = Path(__file__).with_suffix(".svg")
plt.rcParams["svg.hashsalt"] = "keras_lc"  # the same file each time
LIGHT, DARK, DELTA, GREY = "#cfe0f1", "#1f5f99", "#e08a00", "#5a5960"


def box(axes, x, y, width, height, text, color, words="black", size=19):
    """A box by its middle, with words in it."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=color, edgecolor="none",
    )  # fmt: skip
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", color=words, fontsize=size, linespacing=1.3)


def arrow(axes, start, end, color=GREY, bend=0.0):
    style = {"arrowstyle": "-|>", "mutation_scale": 20, "linewidth": 2.2, "color": color}
    shape = FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style)
    axes.add_patch(shape)


def label(axes, x, y, text, **options):
    axes.text(x, y, text, **{"fontsize": 19, "color": GREY, "va": "center", **options})


def saving(axes):
    """The training above; what is made of its states below."""
    label(axes, 0.1, 8.55, "training", color=DARK, weight="bold", fontsize=22)
    label(axes, 0.1, 4.05, "disk", color=DARK, weight="bold", fontsize=22)
    for epoch, x in enumerate((2.9, 6.1, 9.3, 12.5), start=1):
        box(axes, x, 8.55, 2.2, 0.95, f"epoch {epoch}", LIGHT)
        arrow(axes, (x + 1.15, 8.55), (x + 2.0, 8.55))
        arrow(axes, (x, 8.0), (x, 7.15))
        arrow(axes, (x, 6.15), (x, 5.0 if epoch == 1 else 4.65))
    label(axes, 14.6, 8.55, "...")
    box(
        axes,
        7.7,
        6.65,
        12.2,
        0.95,
        "copied, then encoded and written beside the training",
        "#eeedf2",
    )


def stored(axes):
    """One whole base, then small deltas, each on the one before."""
    box(axes, 2.9, 4.05, 2.6, 1.9, "base\nplain Keras file\n1,244 kB", DARK, "white", 18)
    for x, text in ((6.1, "delta\n21 kB"), (9.3, "delta\n13 kB"), (12.5, "delta\n12 kB")):
        box(axes, x, 4.05, 1.7, 1.1, text, DELTA, "white", 18)
    for start, end in ((5.2, 4.25), (8.4, 7.0), (11.6, 10.2)):
        arrow(axes, (start, 4.05), (end, 4.05), DELTA)
    label(axes, 14.6, 4.05, "...")


def restoring(axes):
    label(axes, 0.1, 1.3, "restore", color=DARK, weight="bold", fontsize=22)
    arrow(axes, (2.9, 3.1), (2.9, 1.85))
    arrow(axes, (6.1, 3.45), (6.1, 1.85))
    arrow(axes, (9.3, 3.45), (9.3, 1.85))
    box(axes, 6.1, 1.3, 8.6, 0.95, "base + delta + delta  =  the state of epoch 3", LIGHT)


def main(target=PICTURE):
    figure, axes = plt.subplots(figsize=(15, 9.2), layout="constrained")
    axes.set(xlim=(0, 15), ylim=(0.5, 9.3))
    axes.axis("off")
    for draw in (saving, stored, restoring):
        draw(axes)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
