"""The recipes run as they stand, from any directory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_lc import list_checkpoints

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["on_saved_tensorboard", "on_saved_mlflow"])
def test_a_recipe_for_on_saved(tmp_path, name):
    if name == "on_saved_tensorboard":
        pytest.importorskip("tensorflow")
    example = shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    run = subprocess.run(
        [sys.executable, example],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    checkpoints = list_checkpoints(tmp_path / name / "training")
    assert len(checkpoints) == 5
    written = [path.read_bytes() for path in tmp_path.rglob("*.tfevents.*")]
    if name == "on_saved_tensorboard":
        assert written[0].count(b"checkpoint/bytes") == 5
        assert run.stdout.count("bytes\n") == 5
    elif "not installed" in run.stdout:
        assert all(f"'checkpoint_bytes': {one.nbytes}" in run.stdout for one in checkpoints)
    else:
        copies = [path for path in tmp_path.rglob("*.lcd") if path.parent.name == "checkpoints"]
        assert len(copies) == 4


@pytest.mark.slow
def test_a_killed_training_of_pytorch_ends_as_one_that_never_was(tmp_path):
    run = subprocess.run(
        [sys.executable, shutil.copy(EXAMPLES / "torch_training.py", tmp_path)],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "killed, started again:\ntrains from step " in run.stdout
    assert "trains from step 0\n" in run.stdout.partition("never killed:")[2]
    assert "the same, bit for bit" in run.stdout
    assert run.stdout.count(" delta ") == 11


@pytest.mark.slow
def test_a_sharded_training_goes_on_with_another_number_of_ranks(tmp_path):
    run = subprocess.run(
        [sys.executable, shutil.copy(EXAMPLES / "torch_fsdp.py", tmp_path)],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "2 ranks train from epoch 0\n" in run.stdout
    assert "3 ranks train from epoch " in run.stdout.partition("both are killed\n")[2]
    assert "epoch 6: loss " in run.stdout
    assert run.stdout.count("-of-00003: base ") == 3
