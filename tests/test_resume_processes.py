"""Whatever the backend, the data and the moment of its death, a training that is started again ends
bit for bit as one that lived."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import resumed_training
from forks import Forks
from models import equal
from resumed_training import DATA

SCRIPT = Path(resumed_training.__file__)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
KILLS = {
    "between epochs": ([[2, 0]], {}, "SIGKILL"),
    "within an epoch": ([[2, 5]], {"save_freq": 2}, "SIGKILL"),
    "within an epoch, two steps at once": ([[2, 6]], {"save_freq": 3, "at_once": 2}, "SIGKILL"),
    "again in the same epoch": ([[2, 3], [2, 1], [2, 6]], {"save_freq": 2}, "SIGKILL"),
    "a signal": ([[2, 3]], {"signals": ["SIGUSR1"], "codec": "balanced"}, "SIGUSR1"),
}


class Lives(Forks):
    """Trainings of one backend, each a process of its own."""

    def __init__(self, backend, directory):
        super().__init__(SCRIPT, backend)
        self.backend = backend
        self.directory = directory
        self.told = {}

    def uncut(self, **options):
        """What a training gives that is never stopped, and knows nothing of checkpoints."""
        key = json.dumps(options)
        if key not in self.told:
            finished = self.directory / f"{len(self.told)}.npz"
            status, told = self.live(directory=None, finished=str(finished), **options)
            assert status == 0
            self.told[key] = told, finished
        return self.told[key]


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """The lives of a backend; one at a time has a server."""
    under_way = []

    def of(backend):
        if under_way and under_way[0].backend != backend:
            under_way.pop().end()
        if not under_way:
            under_way.append(Lives(backend, tmp_path_factory.mktemp(backend)))
        return under_way[0]

    yield of
    for one in under_way:
        one.end()


def killed_and_finished(lives, directory, data, stops, options, sent):
    expected, uncut = lives.uncut(data=data, at_once=options.get("at_once", 1))
    options = {"directory": str(directory / "training"), "data": data} | options
    for stop in stops:
        status, _ = lives.live(finished=None, kill=stop, sent=sent, **options)
        assert status == {"SIGKILL": -signal.SIGKILL}.get(sent, 0)
    status, told = lives.live(finished=str(directory / "end.npz"), **options)
    assert status == 0
    assert told == expected
    with np.load(directory / "end.npz") as ours, np.load(uncut) as theirs:
        assert equal(list(ours.values()), list(theirs.values()))


def test_a_process_that_is_killed(tmp_path, lives):
    backend = keras.backend.backend()
    killed_and_finished(lives(backend), tmp_path, "arrays", *KILLS["within an epoch"])


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_processes_of_every_backend(tmp_path, lives, backend, data, kills):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"there is no {backend}")
    if data == "DataLoader" and backend != "torch":
        pytest.skip("of torch")
    if "at_once" in KILLS[kills][1] and backend == "torch":
        pytest.skip("Keras takes one step at a time there")
    killed_and_finished(lives(backend), tmp_path, data, *KILLS[kills])
    print(f"{backend}, {data}, {kills}: bit-identical")
