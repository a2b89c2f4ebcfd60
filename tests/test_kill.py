import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from models import dense, equal, fit, state

from keras_lc import pack, restore_latest, verify
from keras_lc.listing import open_directory
from keras_lc.loader import load
from keras_lc.store import files
from keras_lc.store.locate import directory_at
from tests.core.golden.make import digest
from tests.forked_training import KEEP

EPOCHS = 60
KILLS = 100
ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("killed_training.py")
FORKED = Path(__file__).with_name("forked_training.py")


def start(directory, finished):
    command = [sys.executable, str(SCRIPT), str(directory), str(EPOCHS), str(finished)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_training_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    rng = random.Random(2)
    training, finished = tmp_path / "training", tmp_path / "finished.npz"
    begins = [0]
    for _ in range(2):
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


class Lives:
    """One training in many lives, and what it said of its states."""

    def __init__(self, server, directory):
        self.server = server
        self.directory = directory
        self.taken = {}  # epoch to digest
        self.durable = set()
        self.met = {
            "saves": 0,
            "untold saves": 0,
            "half-written files": 0,
            "shortcuts": 0,
            "packs": 0,
        }

    def begin(self, epochs):
        self.server.stdin.write(f"{self.directory} {epochs}\n")
        self.server.stdin.flush()
        while True:
            word, *rest = self.server.stdout.readline().split()
            if word == "process":
                return int(rest[0])
            self.hear(word, *rest)  # the child may speak first

    def listen(self, until, count=1):
        """Take note of what is said, up to the word that is waited for."""
        while count:
            word, *rest = self.server.stdout.readline().split()
            self.hear(word, *rest)
            if word == "ended":
                return int(rest[0])
            count -= word == until
        return None

    def hear(self, word, number, told=None):
        if word == "taken":  # an epoch that is trained again after a restore is the same
            assert self.taken.setdefault(int(number), told) == told
        elif word == "saved":
            self.durable.add(int(number))
            self.met["saves"] += 1
        elif word == "from":
            assert int(number) >= max(self.durable, default=0)

    def check(self):
        """None is wrong, and none lost but to pruning."""
        place = directory_at(self.directory)
        contents = open_directory(place)
        assert verify(self.directory).ok or not place.exists()
        epochs = [stored.header["epoch"] for stored in contents.listed]
        for stored, epoch in zip(contents.listed, epochs, strict=True):
            found = load(place, contents, stored).decoder.reconstruction
            assert digest(found) == self.taken[epoch]
        # one more may have been saved, and have pruned, without having been told
        assert set(sorted(self.durable)[1 - KEEP :]) <= set(epochs)
        self.met["untold saves"] += len(set(epochs) - self.durable)
        self.durable |= set(epochs)
        self.met["shortcuts"] += bool(contents.shortcuts)
        self.met["half-written files"] += any(self.directory.glob(f"{files._TEMPORARY}*@*"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_of_a_hundred_kills_none_costs_a_checkpoint(tmp_path):
    seed = 7
    rng = random.Random(seed)
    directory = tmp_path / "training"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, str(FORKED)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    ) as server:
        lives = Lives(server, directory)
        for _ in range(KILLS):
            child = lives.begin(epochs=1000)
            # every second time while a checkpoint is being written
            word, longest = rng.choice([("taken", 0.04), ("saved", 0.3)])
            lives.listen(word, rng.randrange(8))
            time.sleep(rng.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            assert lives.listen("ended") == signal.SIGKILL
            lives.check()
            if rng.random() < 0.2:
                lives.met["packs"] += len(pack(directory))
                lives.check()
        lives.begin(epochs=3)
        assert lives.listen("ended") == 0
        lives.check()
        server.stdin.close()
    print(f"seed {seed}: {KILLS} kills, {max(lives.taken)} epochs, {lives.met}")
    assert not list(directory.glob(".*"))
    assert lives.met["shortcuts"] > KILLS // 4
    assert lives.met["packs"]
