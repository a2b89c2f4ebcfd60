"""Keras' lines about saving, and what is told besides."""

from __future__ import annotations


def saving(epoch: int, path: str) -> str:
    """The line before a save; `epoch` counts from 0, as in Keras' callbacks."""
    return f"\nEpoch {epoch + 1}: saving model to {path}"


def improved(epoch: int, monitor: str, best: float | None, value: float, path: str) -> str:
    """The line before a save of what is the best so far."""
    change = f"{monitor} improved from {_number(best)} to {value:.5f}"
    return f"\nEpoch {epoch + 1}: {change}, saving model to {path}"


def not_improved(epoch: int, monitor: str, best: float | None) -> str:
    """The line where no save is made."""
    return f"\nEpoch {epoch + 1}: {monitor} did not improve from {_number(best)}"


def finished(epoch: int, path: str, nbytes: int, state: int, seconds: float) -> str:
    """The line after a save.

    Args:
        epoch: counts from 0.
        path: of the checkpoint.
        nbytes: what it takes on the disk.
        state: bytes of the full state.
        seconds: from the copy of the state until the checkpoint was durable.

    Example:
        >>> from keras_lc.words import finished
        >>> print(finished(6, "training/cp-0007", 17_443, 1_243_384, 0.041))
        <BLANKLINE>
        Epoch 7: finished saving model to training/cp-0007 (17.4 kB, 71.3x smaller, 0.04 s)
    """
    ratio = f", {state / nbytes:.1f}x smaller" if nbytes < state else ""  # a base is not
    told = f"{_size(nbytes)}{ratio}, {seconds:.2f} s"
    return f"\nEpoch {epoch + 1}: finished saving model to {path} ({told})"


def _number(best: float | None) -> str:
    return "None" if best is None else f"{best:.5f}"


def _size(nbytes: float) -> str:
    if nbytes < 1000:
        return f"{nbytes} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 1000:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1000:.1f} TB"
