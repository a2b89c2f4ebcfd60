"""What the notebooks share: digits to learn from, and a check for the exercises."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Images = tuple[np.ndarray, np.ndarray]


def digits() -> tuple[Images, Images]:
    """Training and validation images, 28 x 28 from 0 to 1, with their labels.

    They are those of MNIST if `KERAS_LC_MNIST` names its `mnist.npz`, or if
    `keras.datasets.mnist` has loaded it before; else the 1,797 that come with scikit-learn,
    enlarged. Nothing is downloaded.
    """
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    file = Path(os.environ.get("KERAS_LC_MNIST") or cache / "datasets" / "mnist.npz")
    if file.exists() or "KERAS_LC_MNIST" in os.environ:
        with np.load(file) as mnist:
            images, labels, held_out, their_labels = (
                mnist[name] for name in ("x_train", "y_train", "x_test", "y_test")
            )
        return (_scaled(images, 255), labels), (_scaled(held_out, 255), their_labels)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    nearest = [8 * i // 28 for i in range(28)]
    images = _scaled(images, 16).reshape(-1, 8, 8)[:, nearest][:, :, nearest]
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def _scaled(images: np.ndarray, most: int) -> np.ndarray:
    return images.astype("float32") / most


def check(right: Callable[[], object], hint: str) -> None:
    """Say whether an exercise is done: `right` tells, and may use names that it is to define."""
    try:
        done = right()
    except NameError as error:
        print(f"Not yet: {error}.")
        return
    print("Right." if done else f"Not yet: {hint}.")
