"""Every example runs as it stands, from any directory, and shows what it says."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_lc import list_checkpoints

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_first_what_it_shows_and_is_listed(name):
    words = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    sentence, command, _ = words.split("\n\n", 2)
    assert sentence.endswith(".")
    assert command.startswith(f"    python examples/{name}.py")
    assert f"[`{name}.py`]({name}.py)" in (EXAMPLES / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, tmp_path):
    shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    SHOWN[name](printed_by(tmp_path / name), tmp_path / name)


def printed_by(example):
    directory = example.parent
    run = subprocess.run(
        [sys.executable, f"{example}.py"],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": "/usr/bin:/bin", "HOME": str(directory)},
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def quickstart(printed, directory):
    assert "SIGKILL in the middle of epoch 6" in printed
    assert re.search(r"restored .*cp-0005", printed)
    assert re.findall(r"^cp-000\d +(base|delta) ", printed, re.M) == ["base"] + 7 * ["delta"]
    assert (directory / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def keep_best(printed, directory):
    best, newest = printed.split("newest:\n")
    values = re.findall(r"accuracy ([\d.]+)$", best, re.M)
    assert values == sorted(set(values))
    assert re.search(rf"^restored epoch \d+: accuracy {values[-1]}$", newest, re.M)
    assert newest.count(" delta ") == 3


def every_n_batches(printed, directory):
    first_epoch = re.findall(r"^cp-0001-(\d+): (\w+)", printed, re.M)
    assert first_epoch == [("0010", "base"), *((f"00{n}", "delta") for n in (20, 30, 40, 50))]
    assert printed.endswith("went on from batch 33 of epoch 2 to its end\n")


def fine_tuning(printed, directory):
    deltas = re.findall(r"last delta +([\d,]+) bytes", printed)
    whole, frozen = (int(size.replace(",", "")) for size in deltas)
    assert frozen < whole / 20


def exporting(printed, directory):
    assert printed.endswith("the loaded model tells the same\n")
    for suffix in ("keras", "weights.h5", "safetensors", "npz"):
        assert (directory / f"digits.{suffix}").stat().st_size > 100_000


def on_saved_tensorboard(printed, directory):
    (events,) = directory.rglob("*.tfevents.*")
    assert events.read_bytes().count(b"checkpoint/bytes") == 5
    assert printed.count("bytes\n") == 5


def on_saved_mlflow(printed, directory):
    checkpoints = list_checkpoints(directory / "training")
    assert len(checkpoints) == 5
    if "not installed" in printed:
        assert all(f"'checkpoint_bytes': {one.nbytes}" in printed for one in checkpoints)
        pytest.skip("MLflow is not installed: the example has printed what it would log")
    logged = [path for path in directory.parent.rglob("*.lcd") if path.parent.name == "checkpoints"]
    assert len(logged) == 4


def stages(printed, directory):
    assert printed.count(" trains, ") == 4
    assert "is cached" not in printed
    again = printed_by(directory)
    assert " trains, " not in again
    assert again.count(" is cached") == 4 + 4  # fits; rates and evaluations
    results = r"^.*: accuracy .*|^SGD goes on .*|^[├└─]*(?:adam|sgd|longer) .*"
    assert re.findall(results, printed, re.M) == re.findall(results, again, re.M)
    for name in ("adam", "rates"):
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def torch_training(printed, directory):
    assert "killed, started again:\ntrains from step " in printed
    assert "trains from step 0\n" in printed.partition("never killed:")[2]
    assert "the same, bit for bit" in printed
    assert printed.count(" delta ") == 11


def torch_fsdp(printed, directory):
    assert "2 ranks train from epoch 0\n" in printed
    assert "3 ranks train from epoch " in printed.partition("both are killed\n")[2]
    assert "epoch 6: loss " in printed
    assert printed.count("-of-00003: base ") == 3


SHOWN = {
    function.__name__: function
    for function in (
        quickstart, keep_best, every_n_batches, fine_tuning, exporting, on_saved_tensorboard,
        on_saved_mlflow, stages, torch_training, torch_fsdp,
    )
}  # fmt: skip
