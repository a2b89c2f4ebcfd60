import random
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from models import dense, equal, fit, state

from keras_lc import restore_latest

EPOCHS = 60
SCRIPT = Path(__file__).with_name("killed_training.py")


def start(directory, finished):
    command = [sys.executable, str(SCRIPT), str(directory), str(EPOCHS), str(finished)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_training_killed_again_and_again_ends_as_if_it_never_was(tmp_path, kills):
    rng = random.Random(kills)
    training, finished = tmp_path / "training", tmp_path / "finished.npz"
    begins = [0]
    for _ in range(kills):
        with start(training, finished) as child:
            begins.append(int(child.stdout.readline().split()[1]))
            if begins[-1] == EPOCHS:
                break
            while not any(training.glob("*.weights.h5")):  # however slow the machine is
                time.sleep(0.05)
            time.sleep(rng.uniform(0.4, 1.5))
            child.kill()
        restored = restore_latest(training)
        assert restored is None or restored.epoch >= begins[-1]
    with start(training, finished) as child:
        begins.append(int(child.stdout.readline().split()[1]))
    assert child.returncode == 0
    assert begins == sorted(begins)
    assert max(begins) > 0
    assert not list(training.glob(".*"))
    keras.utils.set_random_seed(1)
    whole = dense()
    fit(whole, epochs=EPOCHS)
    with np.load(finished) as arrays:
        assert equal(state(whole), list(arrays.values()))
