"""Delta checkpoints for Keras 3: one whole base, then small compressed differences.

A save goes down, a restore comes back up, and nothing goes anywhere else:

    fit()          callback.py      Keras' events; schedule.py says when a save is due,
      |            torch/           or a loop of PyTorch instead,
      |            resume.py        where to go on; preempt.py hears signals
      |            saver.py         the checkpoints of one run, from the first to the last
      |            capture/         the training state, copied to named numpy arrays
      |            checkpointer.py  base or delta? encode, commit, tidy up (background.py);
      |            shortcuts.py     now and then, a delta past many others
      |            core/            arrays to bytes: codecs/ are the methods, one a file
      v            store/           bytes to durable files: record, base, index, chain, pack
    training/      cp-0001.weights.h5, cp-0002.lcd, ..., checkpoint.json
      ^            store/, core/, capture/ again, upwards: listing.py tells what there is,
      |            loader.py decodes it, restoring.py puts it into a model
    restore_latest("training", model)

Beside it `keras-lc` looks in: cli/ asks report/ (or prune, rewrite, estimate), which read by way of
listing.py (headers) and loader.py (contents) and give figures/, to be shown as text, JSON or HTML.

Names load when first used: importing the package imports neither Keras nor a backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lc.callback import LCModelCheckpoint
    from keras_lc.errors import CheckpointError
    from keras_lc.exports import export
    from keras_lc.listing import CheckpointInfo, list_checkpoints
    from keras_lc.loader import latest_checkpoint
    from keras_lc.report.history import history
    from keras_lc.report.integrity import Report, verify
    from keras_lc.report.plot import plot
    from keras_lc.report.shown import show
    from keras_lc.restoring import Restored, restore, restore_latest
    from keras_lc.skip import skip_batches
    from keras_lc.store.pack import pack, unpack

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "CheckpointInfo",
    "LCModelCheckpoint",
    "Report",
    "Restored",
    "export",
    "history",
    "latest_checkpoint",
    "list_checkpoints",
    "pack",
    "plot",
    "restore",
    "restore_latest",
    "show",
    "skip_batches",
    "unpack",
    "verify",
]

_HOMES = {
    "CheckpointError": "errors",
    "CheckpointInfo": "listing",
    "LCModelCheckpoint": "callback",
    "Report": "report.integrity",
    "Restored": "restoring",
    "export": "exports",
    "history": "report.history",
    "latest_checkpoint": "loader",
    "list_checkpoints": "listing",
    "pack": "store.pack",
    "plot": "report.plot",
    "restore": "restoring",
    "restore_latest": "restoring",
    "show": "report.shown",
    "skip_batches": "skip",
    "unpack": "store.pack",
    "verify": "report.integrity",
}


def __getattr__(name: str) -> Any:
    if name in ("core", "stages", "torch"):
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
