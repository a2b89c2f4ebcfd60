"""The job scripts of the tutorial: jobs that are preempted, warned of their limit, or lose their
node are requeued, go on, and end bit for bit as one that was left alone.

On a SLURM of this machine with `pytest -m slurm`, on a stand-in for it with `pytest -m slow`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cluster as slurm
import numpy as np
import pytest
from standin import StandIn, programs, until

import keras_lc

TUTORIAL = Path(__file__).parent.parent / "tutorial" / "slurm"
SCRIPTS = sorted(TUTORIAL.glob("*.sh"))
BATCHES, EPOCHS, STEPS = 10, 16, 160
HERE = pytest.param(None, id="stand-in", marks=pytest.mark.slow)
REAL = pytest.param("cluster", id="SLURM", marks=pytest.mark.slurm)


@pytest.fixture(scope="module")
def cluster():
    """A SLURM that runs."""
    if lacking := slurm.missing():
        pytest.skip(f"no SLURM here (lacks {', '.join(lacking)}): {slurm.INSTALL}")
    with slurm.Cluster() as started:
        yield started


@pytest.fixture
def scheduler(request, tmp_path):
    if request.param:
        yield request.getfixturevalue(request.param)
    else:
        with StandIn(tmp_path) as started:
            yield started


def blanks(place, pause):
    """What stands for the blanks of a script, and makes it shorter."""
    return {
        "<project>": "test",
        "<partition>": "low",
        "<project-storage>": str(place / "storage"),
        "<venv>": str(place / "venv"),
        "<data>": str(place / "data"),
        "--epochs 128": f"--epochs {EPOCHS} --pause {pause}",
        'train_sharded.py "$checkpoints"':
            f'train_sharded.py "$checkpoints" --steps {STEPS} --every 20 --pause {pause}',
    }  # fmt: skip


def prepared(place, name, monkeypatch, pause):
    """A script whose blanks are filled, on a machine that has what they name."""
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    found = programs(place / "bin", ml="#!/bin/sh\n", python=python)
    monkeypatch.setenv("PATH", str(found), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(keras_lc.__file__).parents[1]))
    for folder in ("storage", "storage/notebooks", "venv/bin", "data", "local"):
        (place / folder).mkdir(exist_ok=True, parents=True)
    monkeypatch.setenv("TMPDIR", str(place / "local"))
    (place / "venv" / "bin" / "activate").touch()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32 * BATCHES, 8, 8), dtype=np.uint8)
    np.savez(place / "data" / "mnist.npz", x_train=images, y_train=images[:, 0, 0] % 10)
    for file in TUTORIAL.glob("*.py"):
        shutil.copy(file, place)
    text = (TUTORIAL / name).read_text()
    for blank, value in blanks(place, pause).items():
        text = text.replace(blank, value)
    script = place / name
    script.write_text(text)
    return script


def attempts(log):
    """The steps at which the attempts of a job began and ended; None for an end of which it told
    nothing."""
    told = log.read_text()
    count = len(re.findall(r"attempt \d begins", told))
    found = []
    for attempt in range(count):
        begin = re.search(rf"attempt {attempt} begins at step (\d+)", told)
        end = re.search(rf"attempt {attempt} (?:stopped|done) at step (\d+)", told)
        found.append((int(begin[1]), int(end[1]) if end else None))
    return found


def last_of(directory):
    """The arrays of the last checkpoint."""
    return dict(keras_lc.restore_latest(directory, as_numpy=True).model)


def assert_same(one, other):
    ours, theirs = last_of(one), last_of(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(ours[name], theirs[name]), name


def left_alone(place, name, monkeypatch, nodes=1):
    """What the script makes when nobody stops it."""
    place.mkdir()
    script = prepared(place, name, monkeypatch, 0)
    with StandIn(place) as standin:
        job = standin.submit(script, place / "log", nodes)
        assert standin.finish(job) == "COMPLETED", (place / "log").read_text()
    return place / "storage"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_of_bash(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--exclude=SC1091", script], check=True)


@pytest.mark.slurm
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_of_slurm(script, tmp_path, monkeypatch, cluster):
    filled = prepared(tmp_path, script.name, monkeypatch, 0)
    assert "to start at" in cluster.submit(filled, tmp_path / "log", test_only=True)


@pytest.mark.parametrize("scheduler", [HERE, REAL], indirect=True)
@pytest.mark.parametrize("stop", ["preempt", "warn", "fail"])
def test_a_job_that_is_stopped_goes_on(stop, scheduler, tmp_path, monkeypatch):
    log, directory = tmp_path / "log", tmp_path / "storage" / "keras-training"
    script = prepared(tmp_path, "single.sh", monkeypatch, scheduler.pause)
    job = scheduler.submit(script, log)
    until(lambda: len(keras_lc.list_checkpoints(directory)) > 1, "two checkpoints")
    getattr(scheduler, stop)(job)
    scheduler.again(job)
    assert scheduler.finish(job) == "COMPLETED", log.read_text()
    (_, stopped), (begun, done) = attempts(log)
    assert 2 * BATCHES <= begun < done == EPOCHS * BATCHES
    if stop == "fail":
        assert stopped is None
        assert begun % BATCHES == 0
    else:
        assert stopped == begun
    assert_same(
        directory, left_alone(tmp_path / "alone", "single.sh", monkeypatch) / directory.name
    )


@pytest.mark.parametrize("scheduler", [HERE, REAL], indirect=True)
def test_ranks_on_two_nodes_stop_at_the_same_step_and_go_on(scheduler, tmp_path, monkeypatch):
    log, directory = tmp_path / "log", tmp_path / "storage" / "sharded"
    script = prepared(tmp_path, "two-nodes.sh", monkeypatch, scheduler.pause)
    job = scheduler.submit(script, log, nodes=2)
    until(lambda: list(directory.glob("cp-*.json")), "a checkpoint")
    scheduler.preempt(job)
    scheduler.again(job)
    assert scheduler.finish(job) == "COMPLETED", log.read_text()
    (_, stopped), (begun, done) = attempts(log)
    assert stopped == begun < done == STEPS
    alone = left_alone(tmp_path / "alone", "two-nodes.sh", monkeypatch, nodes=2) / "sharded"
    for part in ("00000-of-00002", "00001-of-00002"):
        assert_same(directory / part, alone / part)


@pytest.mark.slurm
def test_each_task_of_an_array_has_a_directory_and_is_requeued_alone(
    cluster, tmp_path, monkeypatch
):
    script = prepared(tmp_path, "array.sh", monkeypatch, cluster.pause / 3)
    array = cluster.submit(script, tmp_path / "log-%a")
    rates = tmp_path / "storage" / "rates"
    until(lambda: keras_lc.list_checkpoints(rates / "0.003"), "a checkpoint")
    job = cluster.told(f"{array}_1", "JobId")
    cluster.preempt(job)
    cluster.again(job)
    for task in range(4):
        until(lambda task=task: cluster.told(f"{array}_{task}", "JobState") == "COMPLETED", "tasks")
        assert cluster.told(f"{array}_{task}", "Restarts") == str(int(task == 1))
        assert attempts(tmp_path / f"log-{task}")[-1][1] == EPOCHS * BATCHES
    assert {path.name for path in rates.iterdir()} == {"0.01", "0.003", "0.001", "0.0003"}


@pytest.mark.slurm
def test_a_job_that_its_user_cancels_is_not_requeued(cluster, tmp_path, monkeypatch):
    log, directory = tmp_path / "log", tmp_path / "storage" / "keras-training"
    script = prepared(tmp_path, "single.sh", monkeypatch, cluster.pause)
    job = cluster.submit(script, log)
    until(lambda: keras_lc.list_checkpoints(directory), "a checkpoint")
    cluster.ask("scancel", job)
    assert cluster.finish(job) == "CANCELLED"
    assert cluster.told(job, "Restarts") == "0"
    until(lambda: "attempt 0 stopped" in log.read_text(), "the last checkpoint")
