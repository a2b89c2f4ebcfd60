"""The `fit` that is running: its callbacks and its data, found on the stack.

Keras hands a callback neither. Both are only looked at here, and where there is no `fit` of
Keras' own, nothing is found.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import keras
from keras.src.callbacks.callback_list import CallbackList
from keras.src.trainers.epoch_iterator import EpochIterator


@dataclass(frozen=True)
class Running:
    """A `fit` under way.

    Args:
        callbacks: its `CallbackList`.
        data: what it draws batches from.
    """

    callbacks: CallbackList
    data: EpochIterator

    def moves_last(self, callback: Any) -> bool:
        """Whether a callback whose training begins will be called again, when that of all others
        has begun; from then on it is the last of them in everything."""
        every = self.callbacks.callbacks
        if every[-1] is callback and every.count(callback) == 1:
            return False
        if every.count(callback) == 1:
            every.append(callback)  # the list is being gone through
            return True
        every[every.index(callback)] = keras.callbacks.Callback()
        return False


def find(model: Any, frame: FrameType | None = None) -> Running | None:
    """The innermost `fit` of a model that a frame, or the caller, is called from."""
    frame = frame or sys._getframe(1)
    above: FrameType | None = frame
    while above is not None:
        if above.f_code.co_name == "fit":
            names = above.f_locals
            callbacks, data = names.get("callbacks"), names.get("epoch_iterator")
            if (
                names.get("self") is model
                and isinstance(callbacks, CallbackList)
                and isinstance(data, EpochIterator)
            ):
                return Running(callbacks, data)
        above = above.f_back
    return None
