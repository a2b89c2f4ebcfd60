"""Real processes: a script of stages that is killed, and run in parts, ends as one that was not."""

import importlib.util
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from forks import Forks
from models import equal

from keras_lc import verify

SCRIPT = Path(__file__).with_name("staged_training.py")
EPOCHS = 6 + 2 + 3 + 3
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def check(tmp_path, backend, kills, halves=()):
    lives = Forks(SCRIPT, backend)

    def live(directory, finished=None, **options):
        options |= {"directory": str(directory), "finished": finished and str(finished)}
        return lives.live(**options)

    whole, other = tmp_path / "whole.npz", tmp_path / "other.npz"
    status, expected = live(tmp_path / "whole", whole)
    assert status == 0
    assert expected["trained"] == EPOCHS
    counted = 0
    for until in halves:
        status, told = live(tmp_path / "other", until=until)
        assert status == 0
        counted += told["trained"]
    for kill in kills:
        status, _ = live(tmp_path / "other", kill=kill)
        assert status == -signal.SIGKILL
    status, told = live(tmp_path / "other", other)
    assert status == 0
    assert told["told"] == expected["told"]
    assert told["drawn"] == expected["drawn"]
    trained = counted + told["trained"]
    if kills:  # the epoch before the one that is killed may not have been saved yet
        assert 0 < trained <= EPOCHS - max(0, kills[-1][2] - 1)
    else:
        assert trained == EPOCHS
    with np.load(whole) as ours, np.load(other) as theirs:
        assert equal(list(ours.values()), list(theirs.values()))
    status, again = live(tmp_path / "other")
    assert again["trained"] == 0
    assert again["told"] == expected["told"]
    assert verify(tmp_path / "other").ok
    lives.end()
    print(f"{backend}: {told['trained']} of {EPOCHS} epochs after {kills or halves}, bit-identical")


def test_a_run_killed_in_epoch_4_of_6_is_not_taken_for_complete_with_3(tmp_path):
    check(tmp_path, keras.backend.backend(), [["adam", 1, 3]])


LONG = {
    "two halves": ([], [1, 2]),
    "killed in the first epoch": ([["adam", 1, 0]], []),
    "killed again and again": (
        [["adam", 1, 2], ["adam", 1, 5], ["adam", 2, 1], ["more", 1, 2]],
        [],
    ),
    "halves and a kill": ([["more", 1, 1]], [1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", LONG)
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_scripts_of_every_backend(tmp_path, backend, way):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"there is no {backend}")
    check(tmp_path, backend, *LONG[way])
