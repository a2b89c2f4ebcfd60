"""Stages: a training script that never trains twice.

Run the script again, and what is trained already is loaded, what is new is trained:

    run.py          Run: a directory, a function that builds the model, the stages
      |             stage.py: a `with` block, its compile and its fits; cached.py, lr_finder.py:
      |             operations on its end
      |             fingerprint.py, settings.py   what a call was made with, and whether it still is
      |             session.py                    what the model holds, and where the run stands
      v             training.py                   one fit of Keras', saved as LCModelCheckpoint does
    states.py       which checkpoints stay, each as one delta against what it was trained from
    runs/digits/    run.json, adam.stage.json, adam-1-5f0c2a11.end.lcd, ...

The names load when they are first used; to import this package imports no Keras.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lc.stages.lr_finder import LearningRates
    from keras_lc.stages.run import Run

__all__ = ["LearningRates", "Run"]

_HOMES = {"LearningRates": "lr_finder", "Run": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
