"""Stages: a training script that never trains twice.

Run the script again, and what is trained already is loaded, what is new is trained:

    run.py          Run: a directory, a function that builds the model, the stages
      |             stage.py: a `with` block, its compile and its fits; cached.py, lr_finder.py:
      |             operations on its end
      |             fingerprint.py, settings.py   what a call was made with
      |             changes.py                    whether it still is
      |             session.py                    what the model holds, and where the run stands
      v             training.py                   one fit of Keras', saved as LCModelCheckpoint does
    states.py       which checkpoints stay, each as one delta against what it was trained from
    runs/digits/    run.json, adam.stage.json, adam-1-5f0c2a11.end.lcd, ...

The names load when they are first used; to import this package imports no Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lc.stages.lr_finder import LearningRates
    from keras_lc.stages.run import Run

__all__ = ["LearningRates", "Run"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from keras_lc.stages.run import Run

        return Run
    if name == "LearningRates":
        from keras_lc.stages.lr_finder import LearningRates

        return LearningRates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
