"""A training that an error stops: the save in flight ends well, or its failure is told."""

import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from models import dense, fit

from keras_lc import CheckpointError, LCModelCheckpoint, list_checkpoints, verify

ROOT = Path(__file__).parent.parent


class Stop(keras.callbacks.Callback):
    """Stops training by an error at the end of an epoch."""

    def __init__(self, after=2):
        super().__init__()
        self.after = after

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.after:
            raise KeyboardInterrupt


def test_the_save_in_flight_is_made_to_its_end(tmp_path):
    go = threading.Event()

    def linger(info):
        assert info.epoch == 1 or go.wait(30)

    callback = LCModelCheckpoint(tmp_path / "cp-{epoch}", on_saved=linger)
    with pytest.raises(KeyboardInterrupt):
        fit(dense(), [callback, Stop()])
    go.set()
    callback.wait()
    assert len(list_checkpoints(tmp_path)) == 2
    assert verify(tmp_path).ok


def test_its_failure_is_raised_by_the_next_training_before_it_saves(tmp_path):
    (tmp_path / "training").write_text("no directory")
    callback, model = LCModelCheckpoint(tmp_path / "training" / "cp-{epoch}"), dense()
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, [callback, stop])
    (tmp_path / "training").unlink()
    with pytest.raises(CheckpointError, match="in the way"):
        fit(model, [callback])
    fit(model, [callback])
    assert len(list_checkpoints(tmp_path / "training")) == 3


SCRIPT = """
import sys
from models import dense, fit
from test_stopped import Stop
from keras_lc import LCModelCheckpoint
fit(dense(), [LCModelCheckpoint(sys.argv[1] + "/cp-{epoch}"), Stop(int(sys.argv[2]))])
"""


def started(directory, epochs):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, directory, str(epochs)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_end_of_the_process_waits_for_it_and_tells_its_failure(tmp_path):
    run = started(str(tmp_path / "training"), 2)
    assert "KeyboardInterrupt" in run.stderr
    assert "not saved" not in run.stderr
    assert len(list_checkpoints(tmp_path / "training")) == 2
    (tmp_path / "file").write_text("no directory")
    run = started(str(tmp_path / "file"), 1)
    assert run.stderr.count("a checkpoint was not saved: checkpoints are to go into") == 1
    assert run.returncode != 0


def test_on_saved_is_called_once_the_checkpoint_is_there(tmp_path):
    seen = []

    def note(info):
        seen.append((info, list_checkpoints(tmp_path)[-1]))

    fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}", on_saved=note)])
    assert [Path(info.path).name for info, _ in seen] == ["cp-1", "cp-2", "cp-3"]
    assert all(info == last for info, last in seen)


def test_an_error_of_on_saved_is_raised_and_the_checkpoint_stands(tmp_path):
    def refuse(info):
        raise RuntimeError("the tracker is away")

    with pytest.raises(RuntimeError, match="the tracker is away"):
        fit(dense(), [LCModelCheckpoint(tmp_path / "cp-{epoch}", on_saved=refuse)])
    assert [one.kind for one in list_checkpoints(tmp_path)] == ["base"]
