"""Signals to a flag, and back: how a scheduler asks a training to stop."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from keras_lc.errors import OptionError

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again later
_DEFAULTS = (None, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)


class Preemption:
    """Takes note of signals between `listen` and `close`.

    A handler that was there before is called as well, and put back in the end. What a signal
    does of itself, such as ending the process, it does not do meanwhile; but a second SIGINT
    interrupts as ever.

    Args:
        signals: names or numbers.

    Raises:
        OptionError: this platform has no such signal, or it cannot be caught.
    """

    def __init__(self, signals: Iterable[str | int] | str | int):
        wanted = [signals] if isinstance(signals, str | int) else signals
        self._signals = [_signal(name) for name in wanted]
        self._before: dict[signal.Signals, Any] = {}
        self._alive: Callable[[FrameType | None], bool] = lambda frame: True
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        """Whether there are signals to listen to."""
        return bool(self._signals)

    def listen(self, alive: Callable[[FrameType | None], bool]) -> None:
        """Catch the signals from now on.

        Args:
            alive: whether a frame, that which a signal meets, is part of the training; where it
                is not, the training has been left by an exception, and the signal does
                what it did before.
        """
        self.close()
        self.received = None
        self._alive = alive
        if self._signals and threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "signals reach the main thread alone, and this training runs in another: "
                "it will not notice them.",
                stacklevel=2,
            )
            return
        for number in self._signals:
            self._before[number] = signal.signal(number, self._handle)

    def close(self) -> None:
        """Put the handlers of before back."""
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if before is None else before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._alive(frame):
            self.close()
            signal.raise_signal(number)
            return
        again, self.received = self.received, signal.Signals(number)
        before = self._before.get(self.received)
        if before not in _DEFAULTS or (again and before is signal.default_int_handler):
            before(number, frame)


def _signal(name: str | int) -> signal.Signals:
    try:
        found = signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
        signal.getsignal(found)
        if found.name in ("SIGKILL", "SIGSTOP"):
            raise ValueError("it cannot be caught")
    except (KeyError, ValueError) as error:
        raise OptionError(
            f"signals: {name!r} is no signal that can be caught here ({error}); expected names "
            "such as 'SIGUSR1' or 'SIGTERM'."
        ) from error
    return found
