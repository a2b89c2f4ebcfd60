"""Values as people read them."""

from __future__ import annotations

from datetime import datetime


def size(nbytes: float) -> str:
    """Bytes in the unit that fits.

    Example:
        >>> from keras_lc.figures.words import size
        >>> size(999), size(16_163), size(2.1e9)
        ('999 B', '16.2 kB', '2.1 GB')
    """
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 999.95:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1000:.1f} TB"


def ratio(value: float) -> str:
    """How many times smaller."""
    return f"{value:.1f}x"


def number(value: float) -> str:
    """Four digits that count."""
    return f"{value:.4g}"


def share(value: float) -> str:
    """Of a whole, in percent; what is little is not rounded to nothing."""
    return f"{100 * value:.3g} %"


def moment(when: datetime) -> str:
    """Local date and time, without the year."""
    return when.astimezone().strftime("%m-%d %H:%M")


def count(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> from keras_lc.figures.words import count
        >>> count(1, "file"), count(1200, "file")
        ('1 file', '1,200 files')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
