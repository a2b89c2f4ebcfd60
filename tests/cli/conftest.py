import shutil

import pytest

from tests.toy import run, save, toy_checkpointer, walk

STATES = walk(7)
LOSSES = [0.9, 0.7, 0.5, 0.3, 0.4, 0.6]


def make(directory, **options):
    """Six checkpoints of two chains; the fourth is the best."""
    checkpointer = toy_checkpointer(directory, keyframe_every=4, **options)
    for i, (state, loss) in enumerate(zip(STATES, LOSSES, strict=False), start=1):
        logs = {"loss": 2 * loss, "val_loss": loss, "val_accuracy": 1 - loss if i != 5 else 1.0}
        save(checkpointer, state, f"cp-{i:04d}", i, logs=logs)


@pytest.fixture(scope="session")
def _made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made") / "training"
    make(directory)
    return directory


@pytest.fixture
def training(_made, tmp_path):
    """A copy of the directory that may be changed."""
    return shutil.copytree(_made, tmp_path / "training")


@pytest.fixture
def bare(tmp_path):
    """Checkpoints without metrics."""
    run(tmp_path / "bare", STATES[:2])
    return tmp_path / "bare"
