"""Saved on one backend, restored on another: real processes, every pair and direction."""

import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from tests.capture.crossing import CROSSING

BACKENDS = ["tensorflow", "torch", "jax"]
TESTS = Path(__file__).parent


def start(backend, *arguments):
    path = os.pathsep.join(map(str, [TESTS.parent, TESTS]))
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, TESTS / "capture" / "crossing.py", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(processes):
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    for errors, code in ended:
        assert code == 0, errors


@pytest.fixture(scope="module")
def crossings(tmp_path_factory):
    place = tmp_path_factory.mktemp("crossings")
    for backend in BACKENDS:
        (place / backend / "restored").mkdir(parents=True)
    finish([start(backend, "save", place / backend) for backend in BACKENDS])
    finish(
        [
            start(target, "restore", place / target / "restored", *others(place, target))
            for target in BACKENDS
        ]
    )
    return place


def others(place, target):
    return [place / backend for backend in BACKENDS if backend != target]


def arrays(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.mark.parametrize("way", ["own", "rebuilt"])
@pytest.mark.parametrize("kind", CROSSING)
@pytest.mark.parametrize(("source", "target"), list(permutations(BACKENDS, 2)))
def test_every_bit_crosses(crossings, source, target, kind, way):
    expected = arrays(crossings / source / f"{kind}.npz")
    found = arrays(crossings / target / "restored" / f"{source}-{kind}-{way}.npz")
    assert len(found) == len(expected) > 4
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
